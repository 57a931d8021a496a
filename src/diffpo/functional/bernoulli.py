"""Which positions a call commits where each has a chance of its own, and the probability of what it committed.

B calls, K positions of a block. Position i is drawn with the chance u_i = sigmoid(f_i), each by itself. A call commits
something: where none is drawn, the likeliest, the leftmost of equals. So the set S that is committed has

    log P(S) = sum_{i in S} log u_i + sum_{i not in S} log(1 - u_i)

of all candidates i, and of S = {the likeliest}, which is what comes of nothing as well, the second sum alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def draw_positions(
    f: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], uniforms: Float[Tensor, "B K"]
) -> Bool[Tensor, "B K"]:
    """The candidates whose uniform number lies below their chance, and the likeliest where there are none.

    At uniform numbers of 1/2 they are those of a chance above it: the set without noise.
    """
    # in fp64: on a CPU the last digit of an fp32 sigmoid depends on where in its tensor a number stands
    drawn = candidates & (uniforms < torch.sigmoid(f.double()))
    return drawn | (_likeliest(f, candidates) & ~drawn.any(-1, keepdim=True))


def positions_logprob(
    f: Float[Tensor, "B K"], candidates: Bool[Tensor, "B K"], committed: Bool[Tensor, "B K"]
) -> Float[Tensor, " B"]:
    """log P(S) of the set that was committed; 0 where there were no candidates."""
    alone = committed & (committed.sum(-1, keepdim=True) == 1)
    certain = alone & _likeliest(f, candidates)  # u + (1 - u) of this position
    terms = torch.where(committed, logsigmoid(f), logsigmoid(-f))
    return terms.masked_fill(certain | ~candidates, 0.0).sum(-1)


def _likeliest(f: Tensor, candidates: Tensor) -> Tensor:
    best = f.masked_fill(~candidates, -torch.inf).argmax(-1, keepdim=True)
    return torch.zeros_like(candidates).scatter(-1, best, True) & candidates
