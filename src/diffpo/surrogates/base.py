"""What every surrogate answers: what it draws, what each token counts, and what it costs.

    log pi^(o_i) = sum_j weight_ji log pi(o_i | c, canvas masked by j)

A surrogate is a frozen dataclass in a file of its own; its fields are its knobs, checked in `__post_init__`. It is
named in `config.objective.SURROGATES`, or by its file, `objective.surrogate = "PATH.py:CLASS"` (docs/extend.md).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from diffpo.functional.latents import Latents
from diffpo.types import Batch


@dataclass(frozen=True)
class Cost:
    """What one scoring of a row takes, as expected before there is any."""

    own: float
    """Latents of the row's own: rows through the denoiser."""
    scored: float
    """Share of the canvas that is scored given each of them."""
    shared: float = 0.0
    """Share of the canvas that is scored given the empty canvas, which the rows of a prompt share; 0: it is not."""

    def latents(self, rows: int, prompts: int) -> float:
        """Latents of `rows` rows of `prompts` prompts."""
        return rows * self.own + (prompts if self.shared else 0)

    @property
    def scorings(self) -> float:
        """How often each token is scored."""
        return self.own * self.scored + self.shared


class Surrogate(ABC):
    """What stands for a token's log-probability."""

    is_likelihood: ClassVar[bool] = True
    """Whether that is a log-probability: the token's given one canvas, which an importance weight can compare."""

    @abstractmethod
    def draw(self, batch: Batch, keys: Tensor, mask_id: int) -> Latents:
        """The latents of B rows and what is scored given each, made by `masked_latents`.

        All randomness comes from `keys` [B], so that what a row draws depends on no other row, and is drawn again
        rather than stored.
        """

    @abstractmethod
    def cost(self, nfe: float) -> Cost:
        """Of rollouts of `nfe` calls."""

    @property
    def num_lines(self) -> int:
        """M: log-probabilities of a token that are kept apart, each in a line of its own, rather than added up."""
        return 1

    @property
    def needs_old(self) -> bool:
        """Whether what tokens count depends on their log-probabilities before the first update."""
        return False

    def counts(self, batch: Batch, keys: Tensor, old_logprobs: Tensor | None) -> Tensor | None:
        """What each token counts in J, beside its share of the completion, [B M, L]; 0 where it is not in J.

        None: every token of the loss counts once. `old_logprobs` [B M, L] are there where `needs_old` asks for them.
        """
        return None
