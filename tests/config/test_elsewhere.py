"""Names that other trainers have for our knobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffpo.config import ObjectiveConfig, RolloutConfig, SftConfig, TrainConfig
from diffpo.config.checks import knobs_of, places, suggest_key
from diffpo.config.elsewhere import ELSEWHERE
from diffpo.objective import Objective

PAGE = Path(__file__).parents[2] / "docs" / "coming_from.md"
OURS_ELSEWHERE = {"epsilon"}
"""A knob of the sampler heads; who says it without a section means the loss's."""


@pytest.mark.parametrize("name", ELSEWHERE)
def test_each_name_leads_to_one_knob_and_stands_on_the_page(name: str) -> None:
    (knob,) = (places(TrainConfig, name)[0] or places(SftConfig, name)[0])[:1]
    assert len(places(TrainConfig, name)[0]) <= 1
    leaves = {known.rpartition(".")[2] for known in (*knobs_of(TrainConfig), *knobs_of(SftConfig))}
    assert name not in leaves - OURS_ELSEWHERE
    (row,) = (line for line in PAGE.read_text().splitlines() if line.startswith("|") and f"`{name}`" in line)
    assert f"`{knob}`" in row.split("|")[2]


def test_a_name_may_lead_to_another_knob_in_another_command() -> None:
    assert suggest_key("max_seq_length", SftConfig) == "; did you mean 'max_length'?"
    assert suggest_key("max_seq_length", TrainConfig) == "; did you mean 'rollout.gen_length'?"


@pytest.mark.parametrize("name", [name for name, knob in ELSEWHERE.items() if " = " in knob])
def test_what_is_to_be_written_there_is_taken(name: str) -> None:
    (knob,), example = places(TrainConfig, name)
    written = example.removeprefix(", such as ")
    if knob == "rollout.sampler":
        RolloutConfig(sampler=written)
    else:
        Objective.of(ObjectiveConfig(**{knob.rpartition(".")[2]: written}, importance_clamp=0.0))
    assert suggest_key(name, TrainConfig) == f"; did you mean '{knob}', such as {written}?"
