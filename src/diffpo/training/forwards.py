"""What a run sends through the denoiser, counted in rows: the axis on which objectives are compared at equal cost."""

from __future__ import annotations

from diffpo.config import TrainConfig
from diffpo.objective import Objective
from diffpo.training.state import Experience, TrainState
from diffpo.training.update import latents_of


def count_forwards(state: TrainState, experience: Experience, rollouts: int, config: TrainConfig) -> dict[str, float]:
    """Rows forwarded by this step's `rollouts`, by its scoring and updates, and by the run so far (state.forwards).

    A rollout counts its NFE, though a group's first call is shared, and also where it got no reward and is in no batch.
    Each of the mu updates scores its latents for the old log-probs and for those of the reference, where J has them,
    and for the gradient. A backward pass is none. What rows of a prompt share counts once, however the batch is divided
    for memory's sake.
    """
    updates = 0
    if config.train != "sampler" and len(experience.live):
        num_passes = 1 + (experience.old_logprobs is not None) + (experience.ref_logprobs is not None)
        rows, mask_id = range(len(experience.live)), state.policy.mask_id
        iterations, objective = range(config.objective.num_iterations), Objective.of(config.objective)
        updates = num_passes * sum(len(latents_of(experience, i, rows, objective, mask_id)) for i in iterations)
    state.forwards += rollouts + updates
    return {"forwards": state.forwards, "forwards/rollouts": rollouts, "forwards/updates": updates}
