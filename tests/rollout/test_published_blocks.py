"""Token for token the published loops of block-causal models at temperature 0 (tests/golden/{bd3lm,sdar}-tiny)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN
from safetensors.torch import load_file

from diffpo.models.policy import load_policy
from diffpo.rollout.engine import generate
from diffpo.types import Request, Sampler

CASES = {name: json.loads((GOLDEN / f"{name}-tiny" / "generate.json").read_text()) for name in ("bd3lm", "sdar")}

RULE = """
import torch
from dataclasses import dataclass
from diffpo import Rule, Seen

@dataclass(frozen=True)
class Sdar(Rule):
    '''SDAR's static schedule at temperature 0, which keeps the likeliest token and calls it certain: all ties.'''
    count: float

    def __call__(self, seen: Seen):
        certain = torch.where(seen.candidates, 1.0, -torch.inf)
        chosen = torch.zeros_like(seen.candidates)
        for row in seen.candidates.any(-1).nonzero().flatten().tolist():
            chosen[row, certain[row].topk(int(self.count)).indices] = True
        return chosen
"""


def sampler_of(name: str, case: dict, rules: Path) -> Sampler:
    if name == "bd3lm":
        return Sampler("steps", case["steps"])
    if case["rule"] == "low_confidence_dynamic":
        return Sampler("confidence", case["confidence_threshold"])
    return Sampler(f"{rules}:Sdar", case["block_length"] / case["denoising_steps"])


@pytest.mark.parametrize("cache", ["none", "exact"])
@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in CASES.items() for case in cases])
def test_tokens_are_those_of_the_published_loop(name: str, case: str, cache: str, tmp_path: Path) -> None:
    folder, settings, rules = GOLDEN / f"{name}-tiny", CASES[name][case], tmp_path / "rules.py"
    rules.write_text(RULE)
    golden = load_file(folder / "generate.safetensors")
    if name == "bd3lm":
        pairs = [
            (golden[f"prompt_{case}_{row}"], golden[f"completion_{case}_{row}"]) for row in range(settings["rows"])
        ]
    else:
        prompt, output = golden[f"prompt_{case}"][0], golden[f"output_{case}"][0]
        pairs = [(prompt, output[len(prompt) :])]  # up to the end of the last block
    requests = [
        Request(
            tuple(prompt.tolist()),
            key=0,
            gen_length=len(expected),
            block_length=settings["block_length"],
            sampler=sampler_of(name, settings, rules),
            temperature=0.0,
            entropy_temperature=1e-5 if name == "sdar" else 1.0,
            early_exit=False,
            cache=cache,
        )
        for prompt, expected in pairs
    ]
    completions = generate(load_policy(folder, "float32", "cpu"), requests)
    for completion, (_, expected) in zip(completions, pairs, strict=True):
        assert torch.equal(completion.tokens, expected)
