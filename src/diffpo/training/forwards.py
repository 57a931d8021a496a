"""What a run sends through the denoiser, counted in rows: the axis on which objectives are compared at equal cost."""

from __future__ import annotations

import torch
from torch import Tensor

from diffpo.config import TrainConfig
from diffpo.functional.surrogate import assign_cuts
from diffpo.training.state import Experience, TrainState
from diffpo.types import Batch


def count_forwards(state: TrainState, experience: Experience, config: TrainConfig) -> dict[str, float]:
    """Rows forwarded by this step's rollouts, by its scoring and updates, and by the run so far (state.forwards).

    A rollout counts its NFE, though a group's first call is shared. Each of the mu updates scores its latents for the
    old log-probs, for those of the reference where there is one, and for the gradient; a backward pass counts nothing.
    """
    rollouts, updates = int(experience.batch.nfe.sum()), 0
    if experience.cuts is not None:
        batch, own_prompts = experience.batch.take(experience.live), config.objective.prompt_mask_prob > 0
        num_passes = 2 + (experience.ref_logprobs is not None)
        updates = num_passes * sum(count_latents(batch, cuts, own_prompts) for cuts in experience.cuts)
    state.forwards += rollouts + updates
    return {"forwards": state.forwards, "forwards/rollouts": rollouts, "forwards/updates": updates}


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
