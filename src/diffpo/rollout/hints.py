"""Hints where no completion of a prompt is right: parts of a solution are given, and the rest is written around them.

A group of wrong completions has no advantages. IGPO (arXiv 2509.10396) answers its prompt again: the solution is cut
into chunks, a random share of them stands on the canvas, where it belongs, and those completions that then are right
take the places of wrong ones, up to half of the group. IGPO also scores the most uncertain of the tokens that were
given; here none is, for no policy wrote them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

from diffpo.types import RolloutGroup

CHUNK = 10
"""Tokens of a chunk: from half of it up to it (IGPO's), or up to a quarter of a short solution."""
LEAST = 1 / 3
"""Of the largest share that is given, the least: IGPO's are 0.2 and 0.6."""
REPLACED = 0.5
"""Share of a group whose places hinted completions may take (IGPO's)."""


def hinted_canvas(solution: Sequence[int], length: int, mask_id: int, most: float, random: Random) -> tuple[int, ...]:
    """A canvas of `length` with chunks of the solution on it, a share of them up to `most`; one at least stays open."""
    ids, longest = solution[:length], max(1, min(CHUNK, len(solution) // 4))
    ends = [0]
    while ends[-1] < len(ids):
        ends.append(min(len(ids), ends[-1] + random.randint(-(-longest // 2), longest)))
    chunks = list(pairwise(ends))
    count = min(max(1, int(random.uniform(LEAST * most, most) * len(chunks))), len(chunks) - 1)
    canvas = [mask_id] * length
    for start, end in random.sample(chunks, max(0, count)):
        canvas[start:end] = ids[start:end]
    return tuple(canvas)


def with_hinted(group: RolloutGroup, hinted: RolloutGroup) -> RolloutGroup:
    """The group with the right ones of its `hinted` completions in the places of its first, up to REPLACED of them."""
    most = int(REPLACED * len(group.rollouts))
    right = [replace(rollout, hinted=True) for rollout in hinted.rollouts if rollout.verdict.correct][:most]
    kept = [*right, *group.rollouts[len(right) :]]
    made = sum(rollout.completion.nfe for rollout in (*group.rollouts, *hinted.rollouts))
    return replace(group, rollouts=kept, unused_calls=made - sum(rollout.completion.nfe for rollout in kept))
