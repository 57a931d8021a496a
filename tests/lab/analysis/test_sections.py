"""Means with intervals against their formula by hand; what goes to JSON; knobs that are out of range."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch

from diffpo.lab.analysis.sections import Section, Series, means_by, surrogate_name
from diffpo.lab.analysis.settings import AnalysisConfig


def test_means_of_single_values_have_students_interval() -> None:
    values = [1.0, 4.0, 2.0, 7.0]
    means = means_by(torch.tensor(values), torch.zeros(4).long(), torch.arange(4))
    assert means.bins == [0] and means.mean == pytest.approx([fmean(values)])
    assert means.half_width == pytest.approx([3.182446 * stdev(values) / 2])


def test_tokens_of_one_prompt_count_as_one() -> None:
    """Repeating each value in its cluster changes nothing; clusters of different sizes are a ratio of sums."""
    values, bins, clusters = torch.tensor([1.0, 4.0, 2.0]), torch.zeros(3).long(), torch.arange(3)
    once = means_by(values, bins, clusters)
    often = means_by(values.repeat(5), bins.repeat(5), clusters.repeat(5))
    assert often.mean == pytest.approx(once.mean) and often.half_width == pytest.approx(once.half_width)
    values, clusters = torch.tensor([1.0, 3.0, 8.0]), torch.tensor([0, 0, 1])
    means = means_by(values, torch.zeros(3).long(), clusters)
    residuals = [1 + 3 - 2 * 4.0, 8 - 4.0]
    spread = math.sqrt(sum(r**2 for r in residuals)) / 3 * math.sqrt(2 / 1)
    assert means.mean == [4.0] and means.half_width == pytest.approx([12.7062 * spread])


def test_bins_that_few_clusters_reach_are_left_out() -> None:
    values, bins, clusters = torch.arange(5.0), torch.tensor([3, 3, 9, 9, 9]), torch.tensor([0, 1, 0, 0, 0])
    assert means_by(values, bins, clusters).bins == [3]
    assert means_by(values, bins, clusters, least=3).bins == []
    assert means_by(values[:0], bins[:0], clusters[:0]).bins == []


def test_names_of_surrogates() -> None:
    assert [surrogate_name(f"mean_field:{m}") for m in (0, 1, 2, 4)] == ["exact", "mean field", "2-MF", "4-MF"]
    written = ("mean_field:2,cut_law=even", "elbo:2", "my.py:Mine")
    assert tuple(map(surrogate_name, written)) == written


def test_what_is_not_a_number_is_null_in_json() -> None:
    series = Series("a", ["off", "2"], [math.nan, 1.23456789], None)
    plain = Section("n", "t", "e", "x", "y", [series], {"f": math.inf, "g": 3}).plain()
    assert json.loads(json.dumps(plain, allow_nan=False))["series"] == [
        {"label": "a", "x": ["off", "2"], "y": [None, 1.234568], "half_width": None}
    ]
    assert plain["figures"] == {"f": None, "g": 3}


def test_an_estimate_beyond_its_bounds_is_drawn() -> None:
    noise = Series("all noise", ["off", "2"], [1.005, -0.001], [0.1, 0.1])
    section = Section("gradient_noise_by_clamp", "t", "e", "x", "y", [noise])
    assert section.bounds == (-0.001, 1.005)
    low, high = section.plot().axes[0].get_ylim()
    assert low <= -0.001 and high >= 1.005


BAD = {
    "num_prompts": 0,
    "num_generations": 1,
    "latents": (0, 1),
    "surrogates": ("couplet",),
    "clamps": (-1.0,),
    "gammas": (-0.1,),
    "parts": (),
    "num_draws": 0,
    "weight_draws": 0,
    "gradient_batches": 2,
    "gradient_draws": 1,
    "micro_batch_tokens": 0,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_knob_is_one_line_that_names_it(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^analysis\.{name} (must be .*, got|'couplet': no such name.*)") as caught:
        replace(AnalysisConfig(), **{name: BAD[name]})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "value"), [("parts", ("ordr",)), ("parts", "order"), ("num_prompts", 8.5)])
def test_settings_of_another_kind_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"analysis\.{name}"):
        replace(AnalysisConfig(), **{name: value})


def test_every_knob_has_a_bad_value() -> None:
    assert BAD.keys() == vars(AnalysisConfig()).keys()
