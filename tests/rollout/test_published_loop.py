"""Token for token the published LLaDA sampling loop at temperature 0 (tests/golden/llada-tiny/generate.*)."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import GOLDEN
from safetensors.torch import load_file

from diffpo.models.policy import Policy
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.weights import load_denoiser
from diffpo.rollout.engine import generate
from diffpo.types import Request, Sampler

FOLDER = GOLDEN / "llada-tiny"
CASES = json.loads((FOLDER / "generate.json").read_text())


class LladaIds(CharTokenizer):
    """The ids of the golden checkpoint; it has no text."""

    def __init__(self) -> None:
        self.mask_id, self.eos_id, self.vocab_size = 168, 161, 192


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("alone", [True, False])
def test_tokens_are_those_of_the_published_loop(case: str, alone: bool) -> None:
    policy = Policy(load_denoiser(FOLDER), LladaIds())
    golden, settings = load_file(FOLDER / "generate.safetensors"), CASES[case]
    requests = [
        Request(
            tuple(prompt),
            key=0,
            gen_length=settings["gen_length"],
            block_length=settings["block_length"],
            sampler=Sampler("steps", settings["steps"]),
            temperature=0.0,
            early_exit=False,
        )
        for prompt in golden[f"prompt_{case}"].tolist()
    ]
    completions = generate(policy, requests, num_slots=1 if alone else 2)
    start = len(requests[0].prompt_ids)
    assert torch.equal(torch.stack([c.tokens for c in completions]), golden[f"output_{case}"][:, start:])
    assert {completion.nfe for completion in completions} == {settings["steps"]}
