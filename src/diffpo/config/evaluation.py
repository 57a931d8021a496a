"""How a policy is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffpo.config.checks import bound, bound_temperature, check, check_kinds
from diffpo.config.rollout import parse_sampler


@dataclass(frozen=True)
class EvalConfig:
    """How a policy is measured."""

    samplers: tuple[str, ...] = ("top_k:1", "top_k:2", "top_k:4", "learned")
    """Samplers measured one by one (as rollout.sampler)."""
    gammas: tuple[float, ...] = (0.03, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
    """Fixed thresholds of the accuracy-NFE frontier."""
    gen_lengths: tuple[int, ...] = ()  # canvas lengths measured one by one; none named: rollout.gen_length
    num_prompts: int = 512  # test prompts; fewer if the task has fewer
    num_samples: int = 1  # N: answers a prompt, at a temperature; more than one for pass@k and majority votes
    temperature: float = 0.0  # temperature of the draws; 0 is greedy, as the field measures
    full_canvas: bool = True  # decode the whole canvas, so that NFE is known with and without the early exit at EOS

    def __post_init__(self) -> None:
        check_kinds(self, "eval.")
        for spec in self.samplers:
            parse_sampler(spec, "eval.samplers")
        bound(self, "eval.", "num_prompts num_samples", ">=", 1)
        bound_temperature(self, "eval.", "temperature")
        alike = self.num_samples > 1 and self.temperature == 0
        check(
            not alike,
            f"eval.num_samples = {self.num_samples} at eval.temperature = 0 is one answer {self.num_samples} times: "
            "set a temperature",
        )
        check(all(n >= 1 for n in self.gen_lengths), f"eval.gen_lengths must be >= 1, got {self.gen_lengths}")
        check(all(0 <= g < math.inf for g in self.gammas), f"eval.gammas must be >= 0 and finite, got {self.gammas}")
        some = self.samplers or self.gammas
        check(bool(some), "eval.samplers and eval.gammas are both empty: nothing would be measured")
