"""The published suite: rollouts, updates and steps against the published loops, growth against the FLOP count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from diffpo.lab.bench import plain
from diffpo.lab.bench.growth import growth_points
from diffpo.lab.bench.measure import Heard, Work, expected_seconds, in_turn, peak_bytes, seconds
from diffpo.lab.bench.steps import joint_step
from diffpo.lab.bench.workloads import PROMPT_LENGTHS, SMALL, batch_of, random_policy, random_requests, score
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.rollout.engine import generate
from diffpo.types import Request
from diffpo.view.progress import Progress, duration

CPU = torch.device("cpu")
QUIET_SECONDS = 10.0
"""Works that end within so many seconds of the last line have none of their own."""


@dataclass(frozen=True)
class Row:
    """One comparison. The ratio is plain over ours, of bytes where there are bytes, else of seconds."""

    name: str
    ours_seconds: float
    plain_seconds: float
    ratio: float
    target: float
    ours_bytes: int | None = None
    plain_bytes: int | None = None


@dataclass(frozen=True)
class Size:
    """What all parts are measured at."""

    repeats: int = 5
    """Times that a work is run, fewer where it is long (`in_turn`)."""
    shape: TransformerConfig = SMALL
    lengths: Sequence[int] = PROMPT_LENGTHS


@dataclass(frozen=True)
class Part:
    """Works that are timed in turn, and the rows they make."""

    name: str
    measure: Callable[[Size, Heard], Iterator[Row]]
    calls: tuple[float, ...]
    """What a run of each work costs, as so many calls of LLaDA's loop: about, to say beforehand how long it takes."""

    def expected(self, call: float, repeats: int) -> float:
        """Seconds, where a call of LLaDA's loop takes `call`."""
        return sum(expected_seconds(call * work, repeats) for work in self.calls)


def published(size: Size, quiet: bool = False, parts: Sequence[Part] | None = None) -> Iterator[list[Row]]:
    """The rows that a CPU can measure, part by part; says first which parts there are and how long they take."""
    parts = parts or PARTS
    with Progress("bench", len(parts), quiet, every=QUIET_SECONDS, unit="part") as progress:
        call = one_call(size)
        due = [part.expected(call, size.repeats) for part in parts]
        progress.note(f"about {duration(sum(due))} on an idle machine, in {len(parts)} parts:")
        for index, part in enumerate(parts):
            progress.note(f"  {index + 1} {part.name}: {duration(due[index])}")
        for part in parts:
            progress.note(f"{part.name} ...")
            rows = list(part.measure(size, lambda name, spent: progress.phase(f"{name}: {spent:.3g} s")))
            progress.advance(ratio=rows[-1].ratio)
            yield rows


def one_call(size: Size) -> float:
    """Seconds of a call of LLaDA's loop, from the second of two short rollouts."""
    policy = random_policy(size.shape)
    requests = random_requests(policy, size.lengths, "steps:2")
    return [seconds(lambda: plain.decode(policy, requests), CPU) for _ in range(2)][-1] / 2


def compare(ours: Work, theirs: Mapping[str, tuple[Work, float]], repeats: int, heard: Heard) -> Iterator[Row]:
    """Median seconds of ours and of others, run in turn: a row for each of these, by its name and with its target."""
    works = {"ours": ours} | {name: work for name, (work, _) in theirs.items()}
    taken = in_turn(works, repeats, CPU, heard)
    for name, (_, target) in theirs.items():
        yield Row(name, taken["ours"], taken[name], taken[name] / taken["ours"], target)


def rollouts(size: Size, heard: Heard) -> Iterator[Row]:
    """Fixed steps: LLaDA's loop, d1's loop, and the bare padded forward pass."""
    policy = random_policy(size.shape)
    requests = random_requests(policy, size.lengths, "steps:32")
    theirs: dict[str, tuple[Work, float]] = {
        "rollouts, 32 calls: LLaDA's loop": (lambda: plain.decode(policy, requests), 12.0),
        "rollouts, 32 calls: d1's loop": (lambda: plain.decode(policy, requests, noise=None), 7.0),
        "rollouts, 32 calls: the padded forward alone": (lambda: plain.forwards(policy, requests, 32), 2.5),
    }
    return compare(lambda: generate(policy, requests), theirs, size.repeats, heard)


def entropy_bound(size: Size, heard: Heard) -> Iterator[Row]:
    """32 requests through 8 slots, rows that end at different times; the plain loop takes 8 at a time.

    The head is sharpened, as training sharpens it: else every call would commit one token and all rows end together.
    """
    policy = random_policy(size.shape, sharpness=150.0)
    requests = random_requests(policy, size.lengths, "entropy_bound:0.1", group=-(-32 // len(size.lengths)))
    mixed = [request for start in range(4) for request in requests[start::4]]  # a batch is of different prompts

    def theirs() -> None:
        for start in range(0, len(mixed), 8):
            plain.decode(policy, mixed[start : start + 8])

    name = "rollouts, entropy bound 0.1, 32 through 8: LLaDA's loop"
    return compare(lambda: generate(policy, mixed, 8), {name: (theirs, 15.0)}, size.repeats, heard)


def surrogate(size: Size, heard: Heard) -> Iterator[Row]:
    """2-MF of a group of 8, forward and backward, against mean field with all logits; seconds and bytes.

    Ours computes blocks a second time rather than keep their activations (optim.gradient_checkpointing).
    """
    policy = random_policy(size.shape)
    policy.denoiser.gradient_checkpointing = True
    requests = random_requests(policy, [sum(size.lengths) // len(size.lengths)], "steps:32", group=8)
    batch = batch_of(requests, generate(policy, requests))
    ids, real = plain.padded(policy, requests)

    def ours() -> None:
        score(policy, batch)
        policy.denoiser.zero_grad()

    def theirs() -> None:
        plain.mean_field_logprobs(policy, ids, real, batch.tokens, 1.0).sum().backward()
        policy.denoiser.zero_grad()

    name = "2-MF log-probs of 8 with backward: plain MF"
    (row,) = compare(ours, {name: (theirs, 1.0)}, 2 * size.repeats, heard)
    yield row
    weights = sum(p.numel() * p.element_size() for p in policy.denoiser.parameters())  # as many bytes of gradients
    held, plainly = (peak_bytes(work, CPU) - weights for work in (ours, theirs))
    name = "the same: peak memory above weights and gradients"
    yield replace(row, name=name, ratio=plainly / held, target=4.0, ours_bytes=held, plain_bytes=plainly)


def whole_step(size: Size, heard: Heard) -> Iterator[Row]:
    """Joint DiFFPO, mu = 4, against d1, at the same number of rollouts and calls: a token a call."""
    policy, copy = random_policy(size.shape), random_policy(size.shape)
    requests = random_requests(policy, size.lengths, "steps:64", group=2)
    ours = joint_step(policy, requests, num_iterations=4, group=2)
    optimizer = torch.optim.AdamW(copy.denoiser.parameters(), lr=1e-6)
    theirs = {"joint step, mu = 4: d1's step": (lambda: plain.train_step(copy, requests, 4, optimizer), 6.0)}
    return compare(ours, theirs, size.repeats, heard)


def growth(size: Size, heard: Heard) -> Iterator[Row]:
    """Seconds of rollouts where one thing is four times as large, against what the FLOP count says."""
    for name, points in growth_points(size.repeats, size.shape, heard).items():
        (flops, small), *_, (more_flops, large) = [(point.flops, point.seconds) for point in points]
        predicted = small * more_flops / flops
        yield Row(f"growth with {name}: the FLOP count", large, predicted, predicted / large, 0.8)


def exact_cache(size: Size, heard: Heard) -> Iterator[Row]:
    """A model shaped as SDAR is, blocks of 4, a token a call: with the exact cache and without.

    It is twice as wide as the others and has a quarter of their vocabulary, so that the head is as small beside the
    blocks (0.17) as SDAR-1.7B's (0.22).
    """
    shape = size.shape
    wide = {"hidden_size": 2 * shape.hidden_size, "mlp_size": 2 * shape.mlp_size, "vocab_size": shape.vocab_size // 4}
    heads = {"num_kv_heads": shape.num_heads // 2, "head_dim": 2 * shape.head_size, "qk_norm": True}
    policy = random_policy(replace(shape, **wide, **heads, block_length=4, blocks_from="row"))
    requests = random_requests(policy, size.lengths, "top_k:1", gen_length=128, block_length=4, cache="exact")
    without = [replace(request, cache="none") for request in requests]
    theirs = {"block-causal rollouts, exact cache: the same without": (lambda: generate(policy, without), 6.0)}
    return compare(lambda: generate(policy, requests), theirs, size.repeats, heard)


def tiny_rollouts() -> tuple[Policy, list[Request]]:
    """The demo's model, random weights, and the requests of one of its steps."""
    policy = random_policy(TransformerConfig(24, 96, 4, 4, 4, 192, max_length=64, learned_positions=True))
    return policy, random_requests(policy, [17] * 48, "top_k:2", gen_length=16, block_length=16, group=8)


def tiny_model(size: Size, heard: Heard) -> Iterator[Row]:
    """Rows through the denoiser inside rollouts, against the bare forward passes of the same rows."""
    policy, requests = tiny_rollouts()
    seen: list[tuple] = []
    with policy.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[:2])):
        generate(policy, requests)

    @torch.no_grad()
    def bare() -> None:
        for ids, packing in seen:
            policy.denoiser(ids, packing)

    theirs = {"tiny model: rows a second in rollouts, of the bare forward's": (bare, 0.8)}
    return compare(lambda: generate(policy, requests), theirs, 2 * size.repeats, heard)


PARTS = (
    Part("rollouts at fixed steps", rollouts, (2, 32, 18, 7)),
    Part("rollouts by the entropy bound", entropy_bound, (2, 140)),
    Part("2-MF log-probs", surrogate, (0.7, 0.9)),
    Part("joint step", whole_step, (9, 82)),
    Part("growth", growth, (6.2, 1.7, 0.5, 0.8, 0.7, 0.5, 2.4, 1.2, 0.6, 1.3, 0.6, 0.3)),
    Part("exact cache", exact_cache, (2.5, 23)),
    Part("tiny model", tiny_model, (1.1, 1.1)),
)
