"""Theorem 3 of DiFFPO and the importance weights, on models small enough to enumerate every rollout.

The denoiser predicts p(x_i | the tokens that stand) of a random joint distribution over all canvases. One token is
committed a call, so that T = L and a rollout's probability is a product of true per-step conditionals b.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from helpers import canvases

from diffpo.functional.objective import importance_weights
from diffpo.functional.surrogate import assign_cuts, latents

VOCAB, MASK = 3, 3
State = tuple[int, ...]
Denoiser = Callable[[State], torch.Tensor]  # state -> probabilities [L, V]
Order = Callable[[State, torch.Tensor], int]  # state, probabilities -> the position to commit


def exact_denoiser(length: int, seed: int) -> Denoiser:
    """Conditionals of a random joint: what pre-training to the end would give."""
    generator = torch.Generator().manual_seed(seed)
    joint = dict(
        zip(canvases(VOCAB, length), torch.rand(VOCAB**length, generator=generator).double() ** 3, strict=True)
    )

    def probabilities(state: State) -> torch.Tensor:
        table = torch.zeros(length, VOCAB, dtype=torch.float64)
        for canvas, weight in joint.items():
            if all(z in (MASK, x) for z, x in zip(state, canvas, strict=True)):
                table[range(length), list(canvas)] += weight
        return table / table.sum(-1, keepdim=True)

    return memoised(probabilities)


def arbitrary_denoiser(length: int, seed: int) -> Denoiser:
    """Conditionals that belong to no joint distribution, as a half-trained network has them."""
    generator = torch.Generator().manual_seed(seed)
    tables = {
        state: torch.randn(length, VOCAB, generator=generator).double().softmax(-1)
        for state in canvases(VOCAB + 1, length)
    }
    return tables.__getitem__


def memoised(function: Denoiser) -> Denoiser:
    known: dict[State, torch.Tensor] = {}

    def call(state: State) -> torch.Tensor:
        if state not in known:
            known[state] = function(state)
        return known[state]

    return call


def left_to_right(state: State, _: torch.Tensor) -> int:
    return state.index(MASK)


def surest_first(state: State, probabilities: torch.Tensor) -> int:
    """The most confident position: a function of the distributions only."""
    return min((i for i, z in enumerate(state) if z == MASK), key=lambda i: -float(probabilities[i].max()))


@dataclass
class Trajectory:
    probability: float
    tokens: State
    committed_at: list[int]
    states: list[State]  # z_0 .. z_{T-1}
    conditionals: list[torch.Tensor]  # b of call 1 .. T at the position it commits, [V]


def trajectories(denoiser: Denoiser, order: Order, length: int) -> list[Trajectory]:
    """Every rollout there can be."""
    open_ones = [Trajectory(1.0, (MASK,) * length, [0] * length, [], [])]
    for call in range(1, length + 1):
        longer = []
        for old in open_ones:
            probabilities = denoiser(old.tokens)
            place = order(old.tokens, probabilities)
            for token in range(VOCAB):
                committed_at = [call if i == place else s for i, s in enumerate(old.committed_at)]
                tokens = tuple(token if i == place else z for i, z in enumerate(old.tokens))
                longer.append(
                    Trajectory(
                        old.probability * float(probabilities[place, token]),
                        tokens,
                        committed_at,
                        [*old.states, old.tokens],
                        [*old.conditionals, probabilities[place]],
                    )
                )
        open_ones = longer
    return open_ones


def surrogates(denoiser: Denoiser, trajectory: Trajectory, cuts: tuple[int, ...]) -> list[torch.Tensor]:
    """Distribution [V] that the m-MF surrogate gives to the token of call 1 .. T, through the library's own latents."""
    tokens, committed_at = torch.tensor([trajectory.tokens]), torch.tensor([trajectory.committed_at])
    assigned = assign_cuts(committed_at, torch.tensor([cuts]))[0]
    found = {}
    for place, call in enumerate(trajectory.committed_at):
        cut = cuts[int(assigned[place])]
        latent = latents(tokens, committed_at, torch.tensor([cut]), MASK)[0]
        found[call] = denoiser(tuple(latent.tolist()))[place]
    return [found[call] for call in sorted(found)]


def all_cuts(length: int, m: int) -> list[tuple[int, ...]]:
    """Every set of cuts that `draw_cuts` may return; they are equally likely."""
    return [(0, *inner) for inner in itertools.combinations(range(1, length), m - 1)]


def expected_divergences(denoiser: Denoiser, order: Order, length: int, m: int) -> torch.Tensor:
    """E[KL(true conditional || m-MF surrogate)] of each call, over rollouts and cuts, [T]."""
    total = torch.zeros(length, dtype=torch.float64)
    choices = all_cuts(length, m)
    for rollout in trajectories(denoiser, order, length):
        for cuts in choices:
            pairs = zip(rollout.conditionals, surrogates(denoiser, rollout, cuts), strict=True)
            divergence = torch.stack([(p * (p / q).log()).sum() for p, q in pairs])
            total += rollout.probability / len(choices) * divergence
    return total


@pytest.mark.parametrize("length", [3, 4])
@pytest.mark.parametrize("order", [left_to_right, surest_first])
def test_more_latents_are_closer_to_the_truth_at_every_call(length: int, order: Order) -> None:
    """Theorem 3: two-times mean field is no worse than mean field, whatever the call; m = T is exact."""
    denoiser = exact_denoiser(length, seed=length)
    by_m = [expected_divergences(denoiser, order, length, m) for m in range(1, length + 1)]
    for coarse, fine in itertools.pairwise(by_m):
        assert (fine <= coarse + 1e-12).all() and fine.sum() < coarse.sum()
    assert by_m[0][0] == 0 and (by_m[0][1:] > 0).all()
    assert not by_m[-1].any()


def test_all_latents_are_exact_for_any_denoiser() -> None:
    assert not expected_divergences(arbitrary_denoiser(4, 0), surest_first, 4, 4).any()


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_importance_weights_have_mean_one_under_the_behaviour_policy(m: int) -> None:
    """E_b[w_t | z_{t-1}, cuts] = sum_o b(o | z_{t-1}) pi^(o | z_sigma) / b(o | z_{t-1}) = 1 at every call t.

    It needs no property of the denoiser: the position and its latent are functions of z_{t-1} and the cuts, not of
    the token drawn. It does need cuts that know nothing of the token, so a NFE that is the same for all rollouts.
    """
    length = 4
    denoiser = arbitrary_denoiser(length, 1)
    rollouts = trajectories(denoiser, surest_first, length)
    for cuts in all_cuts(length, m):
        by_state: dict[tuple[int, State], list[float]] = {}
        for rollout in rollouts:
            tokens = [rollout.tokens[rollout.committed_at.index(call)] for call in range(1, length + 1)]
            old = torch.stack([q[o] for q, o in zip(surrogates(denoiser, rollout, cuts), tokens, strict=True)])
            behaviour = torch.stack([b[o] for b, o in zip(rollout.conditionals, tokens, strict=True)])
            weights = importance_weights(old.log() - behaviour.log(), math.inf)
            for call, weight in enumerate(weights.tolist()):
                by_state.setdefault((call, rollout.states[call]), []).append(rollout.probability * weight)
        reached: dict[tuple[int, State], float] = {}
        for rollout in rollouts:
            for call, state in enumerate(rollout.states):
                reached[call, state] = reached.get((call, state), 0.0) + rollout.probability
        for at, weighted in by_state.items():
            assert math.isclose(sum(weighted), reached[at], rel_tol=1e-9)
