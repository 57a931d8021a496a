"""The shapes in the signatures of `functional` are checked while tests run, in every process that runs them."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from diffpo.functional.unmasking import confidence


def test_a_wrong_shape_is_an_error() -> None:
    scores, candidates = torch.zeros(2, 3), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(TypeCheckError):
        confidence(scores, candidates, torch.zeros(3))
