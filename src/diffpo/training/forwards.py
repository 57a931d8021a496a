"""What a run sends through the denoiser, counted in rows: the axis on which objectives are compared at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig, TrainConfig
from diffpo.functional.coupled import coupled_masks
from diffpo.functional.elbo import elbo_masks
from diffpo.functional.surrogate import assign_cuts
from diffpo.training.state import Experience, TrainState
from diffpo.types import Batch, RolloutGroup


def count_forwards(
    state: TrainState, experience: Experience, groups: Sequence[RolloutGroup], config: TrainConfig
) -> dict[str, float]:
    """Rows forwarded by this step's rollouts, by its scoring and updates, and by the run so far (state.forwards).

    A rollout counts its NFE, though a group's first call is shared, and also where it got no reward and is in no batch.
    Each of the mu updates scores its latents for the old log-probs and for those of the reference, where J has them,
    and for the gradient. A backward pass is none.
    """
    rollouts, updates = sum(rollout.completion.nfe for group in groups for rollout in group.rollouts), 0
    if config.train != "sampler" and len(experience.live):
        num_passes = 1 + (experience.old_logprobs is not None) + (experience.ref_logprobs is not None)
        iterations = range(config.objective.num_iterations)
        updates = num_passes * sum(count_scored(experience, iteration, config.objective) for iteration in iterations)
    state.forwards += rollouts + updates
    return {"forwards": state.forwards, "forwards/rollouts": rollouts, "forwards/updates": updates}


def count_scored(experience: Experience, iteration: int, objective: ObjectiveConfig) -> int:
    """Rows of one scoring of the live rows in one iteration."""
    batch, keys = experience.batch.take(experience.live), experience.mask_keys[iteration]
    if experience.cuts is not None:
        return count_latents(batch, experience.cuts[iteration], own_prompts=objective.prompt_mask_prob > 0)
    width = batch.tokens.shape[1]
    if objective.surrogate == "coupled":
        _, weights = coupled_masks(keys, objective.num_pairs, width)
        return count_latents(batch, torch.zeros_like(batch.nfe)[:, None]) + count_masked(batch, weights)
    return count_masked(batch, elbo_masks(keys, objective.num_pairs, batch.gen_lengths, width)[1])


def expected_latents(objective: ObjectiveConfig, nfe: float, rows: int, prompts: int) -> float:
    """Latents of one scoring of `rows` rows of `nfe` calls, before there are any: as if each scored a token.

    The empty canvas of each of the `prompts` is one latent, unless each row masks its prompt in its own way.
    """
    empty = rows if objective.prompt_mask_prob else prompts
    return {
        "mean_field": empty + rows * (min(objective.num_latents or nfe, nfe) - 1),
        "coupled": empty + rows * 2 * objective.num_pairs,
        "elbo": rows * 2 * objective.num_pairs,
    }[objective.surrogate]


def count_masked(batch: Batch, weights: Tensor) -> int:
    """Randomly masked latents at which any token in the loss is scored, given the weights [B, M, L] of the scores."""
    return int(((weights > 0) & batch.loss_mask[:, None]).any(-1).sum())


def count_latents(batch: Batch, cuts: Tensor, own_prompts: bool = False) -> int:
    """Distinct latents at which any token in the loss of `batch` is scored, given its cuts [B, M].

    The latent of call 0 is the same for all rows of a prompt and counts once, unless each row masks its prompt in its
    own way (`own_prompts`). However the batch is divided for memory's sake, the count is that of the whole.
    """
    assigned = assign_cuts(batch.committed_at, cuts)
    rows, positions = batch.loss_mask.nonzero(as_tuple=True)
    used = torch.zeros(cuts.shape, dtype=torch.bool, device=cuts.device)
    used[rows, assigned[rows, positions]] = True
    first = used[:, 0].nonzero().squeeze(-1).tolist()
    starts = {(batch.prompt_ids[row], int(batch.gen_lengths[row])) for row in first}
    return int(used[:, 1:].sum()) + (len(first) if own_prompts else len(starts))
