"""What a run sends through the denoiser, counted in rows: the axis on which objectives are compared at equal cost."""

from __future__ import annotations

from collections.abc import Sequence

from diffpo.config import ObjectiveConfig, TrainConfig
from diffpo.training.state import Experience, TrainState
from diffpo.training.update import latents_of
from diffpo.types import RolloutGroup


def count_forwards(
    state: TrainState, experience: Experience, groups: Sequence[RolloutGroup], config: TrainConfig
) -> dict[str, float]:
    """Rows forwarded by this step's rollouts, by its scoring and updates, and by the run so far (state.forwards).

    A rollout counts its NFE, though a group's first call is shared, and also where it got no reward and is in no batch.
    Each of the mu updates scores its latents for the old log-probs and for those of the reference, where J has them,
    and for the gradient. A backward pass is none. What rows of a prompt share counts once, however the batch is divided
    for memory's sake.
    """
    rollouts, updates = sum(rollout.completion.nfe for group in groups for rollout in group.rollouts), 0
    if config.train != "sampler" and len(experience.live):
        num_passes = 1 + (experience.old_logprobs is not None) + (experience.ref_logprobs is not None)
        rows, mask_id = range(len(experience.live)), state.policy.mask_id
        iterations = range(config.objective.num_iterations)
        updates = num_passes * sum(len(latents_of(experience, i, rows, config.objective, mask_id)) for i in iterations)
    state.forwards += rollouts + updates
    return {"forwards": state.forwards, "forwards/rollouts": rollouts, "forwards/updates": updates}


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
