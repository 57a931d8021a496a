"""The analysis as a whole: what it may depend on, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from helpers import FirstDigitTask, tiny_policy
from lab.analysis.subjects import SETTINGS

from diffpo.config import RolloutConfig, TrainConfig
from diffpo.lab.analysis.analyze import analyze, report
from diffpo.lab.analysis.settings import AnalysisConfig
from diffpo.lab.analysis.subject import look_at

CONFIG = TrainConfig(train="model", rollout=RolloutConfig(sampler="learned"))


def numbers(sections: list[dict[str, Any]]) -> dict[tuple[str, ...], float]:
    """Every number in a report by where it stands."""
    found = {}
    for section in sections:
        found |= {(section["name"], name): value for name, value in section["figures"].items()}
        for series in section["series"]:
            for x, y in zip(series["x"], series["y"], strict=True):
                found[section["name"], series["label"], str(x)] = y
    return found


def sections_of(settings: AnalysisConfig, config: TrainConfig = CONFIG) -> list[dict[str, Any]]:
    """Everything, of one policy with a head and another."""
    found = analyze(tiny_policy(learned=True), FirstDigitTask(), config, settings, tiny_policy(seed=1), quiet=True)
    return report("title", "command", found)["sections"]


def test_it_is_a_function_of_its_arguments_and_not_of_micro_batches() -> None:
    once = sections_of(SETTINGS)
    assert once == sections_of(SETTINGS)
    whole, parts = numbers(once), numbers(sections_of(replace(SETTINGS, micro_batch_tokens=200)))
    assert whole.keys() == parts.keys() and len(whole) > 100
    for place, value in whole.items():
        assert parts[place] == (value if value is None else pytest.approx(value, abs=2e-3)), place
    assert whole != numbers(sections_of(SETTINGS, replace(CONFIG, seed=1)))


def test_too_few_prompts_are_refused_where_gradients_are_wanted() -> None:
    few = replace(SETTINGS, num_prompts=2)
    with pytest.raises(ValueError, match=r"2 test prompts are fewer than analysis.gradient_batches = 3"):
        look_at({"model": tiny_policy()}, FirstDigitTask(), CONFIG, few)
    policy = tiny_policy(learned=True)
    subject = look_at(
        {"model": policy}, FirstDigitTask(), CONFIG, AnalysisConfig(("kl",), num_prompts=2, num_generations=4)
    )
    assert len(subject.batch) == 2 * 4 and not math.isnan(float(subject.batch.advantages.sum()))


def test_block_causal_models_have_all_parts_but_the_divergence() -> None:
    """Its surrogates cut each block, which weights and gradients ask them to."""
    policy = tiny_policy(learned=True, block_length=4)
    with pytest.raises(ValueError, match=r"kl cuts the whole canvas.*analysis.parts = weights gradients"):
        analyze(policy, FirstDigitTask(), CONFIG, AnalysisConfig(parts=("kl", "weights", "gradients")), quiet=True)
    parts = ("weights", "gradients", "calibration", "thresholds", "order")
    sections = analyze(policy, FirstDigitTask(), CONFIG, replace(SETTINGS, parts=parts), quiet=True)
    figures = {section.name: section.figures for section in sections}
    assert figures.keys() >= {"weights_by_call", "gradient_direction_by_surrogate", "calibration", "order"}
    assert figures["weights_in_use"]["effective sample size, no clamp"] > 0.9  # one policy, before and after: near 1
