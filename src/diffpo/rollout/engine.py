"""The decoding engine: requests in, at any time; completions out, as rows end.

    engine = Engine(policy, num_slots=64)
    ticket = engine.submit(request)
    for event in engine.run():          # or engine.step(), a denoiser call at a time
        print(event.ticket, event.completion)

A step admits waiting requests to free slots, makes one denoiser call for all rows together, draws tokens at the masked
positions of each row's active block, commits those that the row's sampler chooses, and lets go of rows that have ended.

A row's completion is a function of its request alone: rows never see each other or padding, and every random number is
keyed by (request key, call, position). On a GPU the host runs ahead and never waits within a step (but once with a
cache or a causal context): it reads a call late what the call did, and the call that an ended row makes in vain changes
nothing.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from diffpo.config.checks import expect
from diffpo.functional.unmasking import Rule
from diffpo.models.device import to_device
from diffpo.models.finite import not_finite
from diffpo.models.policy import Policy
from diffpo.rollout.cache import KeyValues
from diffpo.rollout.call import Kind, Mix, choose_thresholds, commit, denoise, mark_finished, open_blocks
from diffpo.rollout.checks import check_request
from diffpo.rollout.layout import Layout, Span, lay_out
from diffpo.rollout.rules import load_rule
from diffpo.rollout.slots import NO_CACHE, Room, Roster, Slots, completions_of
from diffpo.types import Completion, Request, Sampler

MAX_RULES = 256
"""Rules that an engine knows at once, unless its requests have more: clients choose their numbers."""


@dataclass(frozen=True, eq=False)
class Committed:
    """What one denoiser call wrote into one row."""

    ticket: int
    call: int
    """1 for the row's first."""
    positions: Tensor  # [K] on the canvas
    tokens: Tensor  # [K]
    logprobs: Tensor  # [K]
    max_probs: Tensor  # [K] largest probability, at the entropy temperature: how sure the model was
    gamma: float
    """Threshold that a sampler head chose for it; 0 where none did."""
    version: int = 0
    """Of the weights that made the call, which on a GPU is told of a call late."""


@dataclass(frozen=True, eq=False)
class Finished:
    """A row has ended."""

    ticket: int
    completion: Completion


Event = Committed | Finished


@dataclass(frozen=True, eq=False)
class Report:
    """What a call did to the R rows that made it, on its way to the host."""

    step: int
    tickets: Tensor  # [R]
    flags: Tensor  # [2, R] bool: done, broken
    canvases: tuple[Tensor, ...]
    """Committed at, tokens, log-probs, largest probabilities [R, L], thresholds and calls made [R], if asked for."""
    arrival: torch.cuda.Event | None


class _Leaving(NamedTuple):
    """Rows on their way to the host, which are there with what the call of `step` did."""

    step: int
    rows: Roster
    requests: list[Request]
    slots: Slots


class Engine:
    """Decodes at most `num_slots` requests at a time, the earliest first; memory is that of the slots.

    With `stream` it also reports what each call commits (`Committed`). A row that ends is reported after all its calls.
    """

    def __init__(self, policy: Policy, num_slots: int = 512, stream: bool = False) -> None:
        expect(Policy, policy, "policy", "load_policy(...) gives one")
        if num_slots < 1:
            raise ValueError(f"num_slots must be >= 1, got {num_slots}")
        self.policy, self.num_slots, self.stream = policy, num_slots, stream
        self.requests: dict[int, Request] = {}
        """By ticket, of all that waits or is decoded."""
        self.waiting: deque[int] = deque()
        self.steps = 0
        self._tickets = 0
        self._wanted = self._room = Room()  # of all requests so far, of the slots
        self._slots, self._free = Slots.empty(policy, 0, self._room), list[int]()
        self._roster = Roster.of(policy, (), (), (), 0)
        self._numbers: dict[Sampler, int] = {}  # of the rules below
        self._rules: dict[int, Rule] = {}
        self._kinds: Counter[Kind] = Counter()
        self._mix = Mix.of((), {})
        self._at = self._roster.slot  # slots of the rows, on the device
        self._layout: Layout | None = None
        self._caches: KeyValues | None = None
        self._versions = [(0, policy.version)]  # the step from which a version of the weights computes
        self._late: Report | None = None
        self._leaving = deque[_Leaving]()

    @property
    def busy(self) -> bool:
        """Whether a further step would do something."""
        return bool(self.waiting or len(self._roster) or self._leaving)

    def submit(self, request: Request) -> int:
        """Queue a request; its ticket, which counts up from 0.

        ValueError if it asks for a sampler head, and the policy has none or reads it off a prompt that is empty, if
        its rule is not found, or if the model cannot hold it.
        """
        check_request(self.policy, request)
        if request.sampler not in self._numbers:
            self._number(request.sampler)
        ticket, self._tickets = self._tickets, self._tickets + 1
        self.requests[ticket] = request
        self.waiting.append(ticket)
        self._wanted = Room(*map(max, self._wanted, Room.of(self.policy, request)))
        return ticket

    def _number(self, sampler: Sampler) -> None:
        """Give a rule a number; when there are many, those that no request has any more lose theirs."""
        rule = load_rule(sampler)
        if len(self._rules) >= MAX_RULES:
            used = {request.sampler for request in self.requests.values()}
            self._numbers = {sampler: number for sampler, number in self._numbers.items() if sampler in used}
            self._rules = {number: self._rules[number] for number in self._numbers.values()}
        number = 1 + max(self._rules, default=-1)
        self._numbers[sampler], self._rules[number] = number, rule

    def cancel(self, ticket: int) -> None:
        """Forget a request that waits or is decoded: nothing more is reported of it. One that has ended has ended."""
        request = self.requests.pop(ticket, None)
        if request is None:
            return
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            return
        gone = self._roster.ticket == ticket
        self._slots.vacate(int(self._roster.slot[gone]))
        self._let_go(gone, [request])

    def load_weights(self, tensors: Mapping[str, Tensor], version: int) -> None:
        """Take over new values of the policy's parameters, by name, between two steps.

        Rows go on with them; each completion says which version made which call.
        """
        self.policy.load_weights(tensors, version)
        self._versions.append((self.steps, version))
        self._roster.kept.fill_(False)  # what caches hold comes from other weights

    def run(self) -> Iterator[Event]:
        """Step until nothing is left to do; more may be submitted meanwhile."""
        while self.busy:
            yield from self.step()

    @torch.no_grad()
    def step(self) -> list[Event]:
        """One denoiser call for all rows, and what is known by now of this one and of those before.

        FloatingPointError if logits are not finite.
        """
        return self._events(self.call())

    @torch.no_grad()
    def call(self) -> Report | None:
        """The part of a step that no row's values decide: admit what waits, and make one call for all rows, if any."""
        self._admit()
        if not len(self._roster):
            return None
        open_blocks(self._slots)
        layout = self._lay_out()
        hidden = self._denoise(layout)
        choose_thresholds(self.policy, self._slots, layout, hidden)
        commit(self.policy, self._slots, layout, hidden, self._mix)
        mark_finished(self.policy, self._slots)
        report = self._report()
        self.steps += 1
        return report

    # --- rows come -------------------------------------------------------------------------------------------------

    def _kind(self, request: Request) -> Kind:
        number, answered = self._numbers[request.sampler], bool(request.answer_ids)
        return Kind(number, request.temperature, request.entropy_temperature, answered)

    def _admit(self) -> None:
        """Write waiting requests into free slots."""
        count = min(len(self.waiting), self.num_slots - len(self._roster))
        if not count:
            return
        self._make_room(count)
        tickets = [self.waiting.popleft() for _ in range(count)]
        places, self._free = self._free[:count], self._free[count:]
        requests = [self.requests[ticket] for ticket in tickets]
        kinds = [self._kind(request) for request in requests]
        self._slots.admit(self.policy, torch.tensor(places), requests, [kind.rule for kind in kinds])
        new = Roster.of(self.policy, tickets, places, requests, self.steps)
        self._kinds.update(kinds)
        self._seat(self._roster.join(new))

    def _make_room(self, count: int) -> None:
        """Have `count` free slots, each with room for any request so far."""
        slots = self._slots
        rows = len(slots)
        if count > len(self._free):
            rows = min(self.num_slots, max(2 * rows, len(self._roster) + count))
        if rows > len(slots) or self._room != self._wanted:
            self._slots, self._room = slots.widened(self.policy, rows, self._wanted), self._wanted
            self._free += range(len(slots), rows)

    def _seat(self, roster: Roster) -> None:
        """These are the rows of the next call."""
        self._roster, self._layout, self._mix = roster, None, Mix.of(self._kinds, self._rules)
        self._at = to_device(roster.slot, self.policy.device)
        if not bool((roster.cache != NO_CACHE).any()):
            self._caches = None
            roster.kept.fill_(False)
        elif self._caches is None:
            self._caches = KeyValues(self.policy.denoiser.config.num_layers)

    # --- a call ----------------------------------------------------------------------------------------------------

    def _lay_out(self) -> Layout:
        if self._caches:
            return self._caches.lay_out(self.policy, self._roster, self._slots, self._at)
        causal = self.policy.denoiser.config.causal_context
        if self._layout is None or causal:
            block_start = self._slots.block_start[self._at].cpu() if causal else None
            self._layout = lay_out(self._roster, self._slots, Span.whole(self._roster, self.policy, block_start))
        return self._layout

    def _denoise(self, layout: Layout) -> Tensor:
        hidden = denoise(self.policy, self._slots, layout, self._caches.layers if self._caches else None)
        if self._roster.fresh.any():  # rows of a group part ways now
            self._roster.fresh[:] = False
            self._layout = None
        return hidden

    def _report(self) -> Report:
        slots, at = self._slots, self._at
        flags = torch.stack([slots.done, slots.broken])[:, at].to("cpu", non_blocking=True)  # to pinned memory
        columns = (slots.committed_at, slots.canvas, slots.logprobs, slots.max_probs, slots.gamma, slots.nfe)
        canvases = tuple(column[at].to("cpu", non_blocking=True) for column in (columns if self.stream else ()))
        arrival = torch.cuda.Event() if at.is_cuda else None
        if arrival:
            arrival.record()
        return Report(self.steps, self._roster.ticket, flags, canvases, arrival)

    # --- rows go ---------------------------------------------------------------------------------------------------

    def _events(self, report: Report | None) -> list[Event]:
        """What has arrived: on a GPU what the call before did, for which the host need not wait."""
        arrived = report
        if self.policy.device.type == "cuda":
            arrived, self._late = self._late, report
        events = list[Event]()
        if arrived:
            if arrived.arrival:
                arrived.arrival.synchronize()
            done, broken = arrived.flags
            if broken.any():
                raise not_finite(self.policy)
            events += self._commits(arrived)
            self._retire(arrived.tickets[done])
        return [*events, *self._endings(arrived)]

    def _commits(self, report: Report) -> Iterator[Committed]:
        """What the call wrote into each row that is still there: one that has retired made it in vain."""
        if not report.canvases:
            return
        committed_at, *columns, gammas, calls = report.canvases
        version = next(version for step, version in reversed(self._versions) if step <= report.step)
        still = torch.isin(report.tickets, self._roster.ticket)
        for row in still.nonzero().squeeze(-1).tolist():
            call = int(calls[row])
            at = (committed_at[row] == call).nonzero().squeeze(-1)
            wrote = (column[row, at] for column in columns)
            yield Committed(int(report.tickets[row]), call, at, *wrote, gamma=float(gammas[row]), version=version)

    def _retire(self, tickets: Tensor) -> None:
        """Send the rows that are done to the host, and free their slots."""
        gone = torch.isin(self._roster.ticket, tickets)
        if gone.any():
            rows = self._roster.select(gone)
            requests = [self.requests.pop(ticket) for ticket in rows.ticket.tolist()]
            copies = self._slots.read(to_device(rows.slot, self.policy.device))
            self._leaving.append(_Leaving(self.steps, rows, requests, copies))
            self._let_go(gone, requests)

    def _let_go(self, gone: Tensor, requests: Sequence[Request]) -> None:
        self._free = sorted((*self._free, *self._roster.slot[gone].tolist()))
        self._kinds -= Counter(map(self._kind, requests))
        self._seat(self._roster.select(~gone))

    def _endings(self, report: Report | None) -> Iterator[Finished]:
        """The completions of the rows that have reached the host."""
        if self._leaving and self.policy.device.type == "cuda" and not (len(self._roster) or self.waiting):
            torch.cuda.synchronize(self.policy.device)  # nothing goes on meanwhile
            report = None
        while self._leaving and (report is None or report.arrival is None or report.step >= self._leaving[0].step):
            _, rows, requests, slots = self._leaving.popleft()
            versions = map(self._versions_of, rows.since.tolist(), slots.nfe.tolist())
            completions = completions_of(self.policy, requests, slots, list(versions))
            yield from map(Finished, rows.ticket.tolist(), completions)

    def _versions_of(self, since: int, nfe: int) -> tuple[tuple[int, int], ...]:
        """The row's first call with each version of the weights, and the version."""
        known = [(max(1, step - since + 1), version) for step, version in self._versions if step < since + nfe]
        return tuple(dict(known).items())  # of those from before the row came the last


def generate(policy: Policy, requests: Sequence[Request], num_slots: int = 512) -> list[Completion]:
    """Decode every request, at most `num_slots` at a time; completions come in the order of the requests.

    Errors are those of `Engine`.
    """
    engine = Engine(policy, num_slots)
    tickets = [engine.submit(request) for request in requests]
    found = {event.ticket: event.completion for event in engine.run() if isinstance(event, Finished)}
    return [found[ticket] for ticket in tickets]
