"""Verdicts on groups of completions, begun as groups are there and given in the order of the prompts."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from diffpo.models.policy import Policy
from diffpo.rewards.calls import MAX_REWARD, Call, TrainerState, number_of, where
from diffpo.rollout.engine import Engine, Finished
from diffpo.tasks.base import Task
from diffpo.types import Attempts, Completion, Judged, Prompt, Request, Verdict

NUM_THREADS = min(32, os.cpu_count() or 1)
"""Groups that a task's verifier judges at once: slow ones wait for processes of their own."""
OnStop = Callable[[list[int], list[Completion], list[str], list[Judged]], object]
"""Takes the places of the groups that were whole on Ctrl-C, and their completions, texts and judgements."""


class Judging:
    """Judges the groups of one task: by its reward functions, a group at a time, or else by its verifier.

    Groups may be added in any order, while others are still decoded; the verdicts are the same. Used as a context, at
    whose end nothing goes on.
    """

    def __init__(self, task: Task, state: TrainerState | None = None) -> None:
        self.task, self.state = task, state or TrainerState()
        self.pool = ThreadPoolExecutor(NUM_THREADS, "judge")
        self.begun: dict[int, Call | Future[Judged]] = {}

    def __enter__(self) -> Judging:
        return self

    def __exit__(self, *error: object) -> None:
        for group in self.begun.values():
            group.cancel()
        self.pool.shutdown(cancel_futures=True)

    def add(self, index: int, attempts: Attempts) -> None:
        """Begin on a group; `index` is its place."""
        if self.task.rewards is not None:
            self.begun[index] = self.task.rewards.begin(attempts, self.state)
        else:
            self.begun[index] = self.pool.submit(_verify, self.task, attempts)

    def finish(self) -> list[Judged]:
        """What is made of each group, by index. The error of the first group that has one is raised."""
        groups = [self.begun[index] for index in sorted(self.begun)]
        for group in groups:
            if isinstance(group, Call):
                group.run_plain()
        return [group.finish() if isinstance(group, Call) else group.result() for group in groups]


def judge(task: Task, groups: Iterable[Attempts], state: TrainerState | None = None) -> list[Judged]:
    """What the task makes of each group."""
    with Judging(task, state) as judging:
        for index, attempts in enumerate(groups):
            judging.add(index, attempts)
        return judging.finish()


def decode_and_judge(
    policy: Policy,
    task: Task,
    prompts: Sequence[Prompt],
    requests: Sequence[Request],
    num_slots: int,
    state: TrainerState | None = None,
    on_stop: OnStop | None = None,
) -> tuple[list[Completion], list[str], list[Judged]]:
    """Completions and texts of all requests, and what is made of each prompt's group; groups are of one size.

    A group is judged from the moment that its last completion is there, while others are decoded. On Ctrl-C what is
    whole goes to `on_stop`, then the KeyboardInterrupt goes on.
    """
    size = len(requests) // max(1, len(prompts))
    found: dict[int, Completion] = {}
    texts: dict[int, str] = {}
    engine = Engine(policy, num_slots)
    for request in requests:  # tickets count up as they do
        engine.submit(request)
    with Judging(task, state) as judging:
        try:
            for event in engine.run():
                assert isinstance(event, Finished)
                at, completion = event.ticket, event.completion
                found[at], texts[at] = completion, text_of(policy, completion)
                group = at // size
                rows = range(group * size, (group + 1) * size)
                if all(row in found for row in rows):
                    ids = [ids_of(found[row]) for row in rows]
                    judging.add(group, Attempts(prompts[group], [texts[row] for row in rows], ids))
        except KeyboardInterrupt:
            if on_stop:
                groups = sorted(judging.begun)
                rows = [row for group in groups for row in range(group * size, (group + 1) * size)]
                on_stop(groups, [found[row] for row in rows], [texts[row] for row in rows], judging.finish())
            raise
        rows = range(len(requests))
        return [found[row] for row in rows], [texts[row] for row in rows], judging.finish()


def judge_one(task: Task, prompt: Prompt, text: str, completion: Completion) -> Verdict:
    """The verdict on one completion, a group by itself."""
    return judge(task, [Attempts(prompt, [text], [ids_of(completion)])])[0].verdicts[0]


def text_of(policy: Policy, completion: Completion) -> str:
    """What it says, up to its end: an EOS before the last token that was given ends nothing and says nothing."""
    given, stops = (completion.committed_at == 0).nonzero(), policy.tokenizer.stops
    behind = int(given.max()) + 1 if len(given) else 0
    ids = enumerate(completion.tokens.tolist())
    return policy.tokenizer.decode(token for at, token in ids if at >= behind or token not in stops)


def ids_of(completion: Completion) -> list[int]:
    """Tokens up to and including the first EOS."""
    return completion.tokens[: completion.length].tolist()


class VerifierError(RuntimeError):
    """What a task's verifier raised, with its row; whoever wrote it wants to see the traceback."""


def _verify(task: Task, attempts: Attempts) -> Judged:
    """The verifier's verdicts; where it raises, or rewards with what is no number, the row is named."""
    verdicts = []
    for generation, text in enumerate(attempts.texts):
        try:
            verdict = task.verify(attempts.prompt, text)
        except (Exception, SystemExit) as error:
            raise VerifierError(
                f"task {task.name!r}: the verifier raised {error!r} on prompt {attempts.prompt.id!r}, "
                f"generation {generation}, completion {text[:200]!r}"
            ) from error
        verdicts.append(
            _checked(verdict, f"task {task.name!r} on {where(attempts.prompt)} gave completion {generation}")
        )
    return Judged(verdicts)


def _checked(verdict: object, said: str) -> Verdict:
    """A verdict of Python's own numbers, whatever it had. ValueError, which begins with `said`, if it has none."""
    if not isinstance(verdict, Verdict):
        raise ValueError(f"{said} {verdict!r:.80}: not a Verdict(correct, reward)")
    if verdict.correct not in (True, False):
        raise ValueError(f"{said} the verdict {verdict.correct!r:.80}: correct is True or False")
    reward = None if verdict.reward is None else number_of(verdict.reward)
    if verdict.reward is not None and not (reward is not None and abs(reward) <= MAX_REWARD):
        raise ValueError(
            f"{said} the reward {verdict.reward!r:.80}: not a finite number (within {MAX_REWARD:g}), nor None, which "
            "leaves it out"
        )
    parts = dict[str, float]()
    for name, value in verdict.parts.items():
        if (part := number_of(value)) is None:
            raise ValueError(f"{said} the part {name!r} {value!r:.80}: not a number")
        parts[name] = part
    return replace(verdict, correct=bool(verdict.correct), reward=reward, parts=parts)
