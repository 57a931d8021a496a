"""Studies read from TOML: what becomes of arms, seeds and tuning, and every mistake in one line."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from lab.study.studies import NO_PRETRAINING, TINY, write_study

from diffpo.config import SftConfig, parse_sampler
from diffpo.files.recipe import flatten, from_dict
from diffpo.lab.study.plan import BASE, find_study, load_study, nest
from diffpo.lab.study.tables import header

STUDIES = sorted((Path(__file__).parents[3] / "studies").glob("*.toml"))


def test_arms_differ_from_the_recipe_in_what_they_say(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    one, two = study.arms
    assert study.train.steps == 2 and study.train.objective.num_iterations == 2  # the study's, the recipe's
    assert one.config == replace(study.train, objective=replace(study.train.objective, surrogate="mean_field:1"))
    named = load_study(write_study(tmp_path, TINY.replace('name = "two"', "name = 2").replace('"2-MF"', "2"), "named"))
    assert (named.arms[1].name, named.arms[1].label) == ("2", "2")
    assert (one.label, dict(one.changes), dict(one.tune)) == ("MF", {"objective.surrogate": "mean_field:1"}, {})
    assert two.config == study.train and dict(two.tune) == {"optim.learning_rate": (1e-4, 3e-4)}


def test_the_grid(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    one, two = study.arms
    bases = study.base_cells()
    assert [cell.name for cell in bases] == [f"base/seed_{seed}" for seed in (0, 1, 100, 101)]
    assert [bool(cell.samplers) for cell in bases] == [True, True, False, False]  # tuning's starts are not measured
    assert [cell.sft.seed for cell in bases if cell.sft] == [0, 1, 100, 101] and not any(cell.train for cell in bases)
    cells = study.cells(two, {"optim.learning_rate": 3e-4})
    assert [(cell.name, cell.start) for cell in cells] == [("two/seed_0", "base/seed_0"), ("two/seed_1", "base/seed_1")]
    assert [cell.train.seed for cell in cells if cell.train] == [0, 1]
    assert {cell.train.optim.learning_rate for cell in cells if cell.train} == {3e-4}
    assert study.tune_cells(one) == []
    (low, first), (high, _) = study.tune_cells(two)
    assert (low, high) == ({"optim.learning_rate": 1e-4}, {"optim.learning_rate": 3e-4})
    assert [(cell.start, cell.skip_prompts, cell.num_prompts) for cell in first] == [
        ("base/seed_100", 24, 16),
        ("base/seed_101", 24, 16),
    ]


@pytest.mark.parametrize("metric", ["accuracy", "accuracy/top_k:2", "reward/"])
def test_a_metric_that_is_not_measured_is_named_before_anything_runs(metric: str, tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, TINY.replace("accuracy/top_k:8", metric)))
    with pytest.raises(ValueError, match=f"tune.metric '{metric}': '.*' is no sampler that is measured"):
        study.tune_cells(study.arms[1])


@pytest.mark.parametrize(
    ("metric", "samplers", "gammas"),
    [
        ("accuracy/top_k:8", ("top_k:8",), ()),
        ("reward/own", ("top_k:8",), ()),
        ("frontier/4", ("top_k:8",), (0.5, 3.0)),
    ],
)
def test_tuning_measures_what_its_metric_needs(
    metric: str, samplers: tuple[str, ...], gammas: tuple[float, ...], tmp_path: Path
) -> None:
    text = TINY.replace('metric = "accuracy/top_k:8"', f'metric = "{metric}"')
    study = load_study(write_study(tmp_path, text))
    ((_, (cell, _)), _) = study.tune_cells(study.arms[1])
    assert (cell.samplers, cell.gammas, cell.track) == (samplers, gammas, ())


def test_settings_are_plain_and_leave_out_what_the_runner_sets(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path))
    settings = study.cells(study.arms[0], {})[0].settings()
    assert json.loads(json.dumps(settings)) == settings
    assert "output" not in settings["train"] and settings["train"]["objective"]["surrogate"] == "mean_field:1"


def test_an_own_sampler_is_measured_and_tracked(tmp_path: Path) -> None:
    arm = '[[arms]]\nname = "joint"\ntrain = "joint"\nrollout.sampler = "learned"\n[tune]'
    study = load_study(write_study(tmp_path, TINY.replace("[tune]", arm)))
    cell = study.cells(study.arms[2], {})[0]
    assert cell.samplers == ("top_k:8", "learned") == cell.track
    assert study.arms[2].label == "joint"


def test_a_study_without_pretraining_starts_from_the_model_of_its_recipe(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, NO_PRETRAINING.replace("tune = {", "# tune = {")))
    assert [cell.name for cell in study.base_cells()] == ["base/seed_0"]
    assert {cell.start for cell in study.cells(study.arms[0], {})} == {"base/seed_0"}


def test_a_recipe_beside_the_study_comes_first(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("steps = 4\n")
    text = TINY.replace('recipe = "sudoku_tiny"', 'recipe = "mine.toml"').replace("steps = 2\n", "")
    assert load_study(write_study(tmp_path, text)).train.steps == 4


CHILD = """
extends = "tiny"
leave_out = ["one"]
baseline = "two"
title = "Child"
[train]
steps = 4
[tune]
seeds = [7]
"""


def test_a_study_extends_another_setting_by_setting(tmp_path: Path) -> None:
    parent, child = load_study(write_study(tmp_path)), load_study(write_study(tmp_path, CHILD, "child"))
    assert child.config.title == "Child" and child.train == replace(parent.train, steps=4) and child.sft == parent.sft
    assert [arm.name for arm in child.arms] == ["two"] and child.arms[0].tune == parent.arms[1].tune
    assert (
        child.config.tune == replace(parent.config.tune, seeds=(7,)) and child.config.measure == parent.config.measure
    )


def test_a_study_is_read_as_windows_saves_it_and_in_utf_8_alone(tmp_path: Path) -> None:
    write_study(tmp_path, f"\ufeff{TINY}")
    path = write_study(tmp_path, f"\ufeff{CHILD}".replace("\n", "\r\n"), "child")
    assert load_study(path).config.title == "Child"
    path.write_bytes(b"# caf\xe9\n" + CHILD.encode())
    with pytest.raises(ValueError, match=r"child\.toml: not UTF-8, save it as UTF-8: 'utf-8' codec can't decode"):
        load_study(path)


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ('extends = "tiny"', 'extends = "tinny"', "tinny: no such study"),
        ('leave_out = ["one"]', 'leave_out = ["oen"]', "leave_out: no arm 'oen'; did you mean 'one'?"),
        ('extends = "tiny"', 'extends = "armless"', "leave_out: no arm 'one'"),
        ('extends = "tiny"', 'extends = "child"', "extends 'child', which extends another itself: name that one"),
    ],
)
def test_what_cannot_be_extended(tmp_path: Path, old: str, new: str, error: str) -> None:
    write_study(tmp_path)
    write_study(tmp_path, 'recipe = "sudoku_tiny"', "armless")
    with pytest.raises(ValueError, match=re.escape(error)):
        load_study(write_study(tmp_path, CHILD.replace(old, new), "child"))


def test_decoding_can_be_the_same_in_every_arm(tmp_path: Path) -> None:
    text = TINY.replace("num_points = 2\n", "num_points = 2\nrollout.block_length = 16\n")
    text = text.replace('label = "MF"', 'label = "MF"\nrollout.block_length = 1')
    (arm, _) = load_study(write_study(tmp_path, text)).arms
    cell = load_study(write_study(tmp_path, text)).cells(arm, {})[0]
    assert cell.train is not None and (cell.train.rollout.block_length, cell.rollout["block_length"]) == (1, 16)
    with pytest.raises(ValueError, match="block_length must be >= 1, got 0"):
        load_study(write_study(tmp_path, text.replace("block_length = 16", "block_length = 0")))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ("objective.surrogate", "objective.surrogat", "arm 'one': unknown key 'objective.surrogat'; did you mean"),
        ("mean_field:1", "meanfield", "arm 'one': objective.surrogate 'meanfield': no such name; did you mean"),
        ("mean_field:1", "mean_field:-1", "arm 'one': objective.surrogate 'mean_field:-1': num_latents must be >= 0"),
        ("[1e-4, 3e-4]", "[1e-4, -1.0]", "arm 'two': optim.learning_rate must be > 0, got -1.0"),
        ("[1e-4, 3e-4]", "3e-4", "arm 'two': tune: optim.learning_rate takes a list of values, got 0.0003"),
        ('name = "two"', 'name = "one"', "arms: 'one' is named twice"),
        ('name = "two"', 'name = "base"', "arms: 'base' is the start itself"),
        ('name = "two"', 'name = "a/b"', "arms: a name is letters, digits, _, - and dots, got 'a/b'"),
        ("optim.learning_rate", "seed", "arm 'two': seed is the study's to set: leave it out"),
        ('"optim.learning_rate" = [1e-4, 3e-4]', "steps = [2, 3]", "arm 'two': steps must be a multiple of"),
        ('{ "optim.learning_rate" = [1e-4, 3e-4] }', "[1]", "arm 'two': tune takes settings, each with a list"),
        ('label = "2-MF"', "seed = 3", "arm 'two': seed is the study's to set: leave it out"),
        ('label = "2-MF"', 'load.device = "cuda"', "arm 'two': load.device is the study's to set: leave it out"),
        ('label = "2-MF"', 'output = "x"', "arm 'two': output is the study's to set: leave it out"),
        ('baseline = "one"', 'baseline = "oen"', "no arm 'oen'; did you mean 'one'?"),
        ('baseline = "one"', 'pairs = [["two", "oen"]]', "no arm 'oen'; did you mean 'one'?"),
        ('baseline = "one"', 'pairs = [["two", "two"]]', "the first less the second, got ['two', 'two']"),
        ('baseline = "one"', 'pairs = [["two"]]', "pairs: two arms each, the first less the second, got ['two']"),
        ("seeds = [0, 1]", "seeds = [0]", "seeds must be two or more"),
        ("seeds = [0, 1]", "seeds = [0, 0]", "seeds must differ"),
        ("seeds = [0, 1]", "seeds = [0, 100]", "tune.seeds must not be seeds of the study: [100] are both"),
        ("num_points = 2", "num_points = 3", "arm 'one': steps must be a multiple of measure.num_points = 3, got 2"),
        ("num_points = 2", "num_pointz = 2", "unknown key 'measure.num_pointz'"),
        ('samplers = ["top_k:8"]', 'samplers = ["top_j:8"]', "measure.samplers 'top_j:8': unknown rule"),
        ("[sft]\nsteps = 20", "[sft]\nstepz = 20", "unknown key 'sft.stepz'"),
        ("[train]\n", "[train]\nstepz = 20\n", "unknown key 'train.stepz'"),
        ('recipe = "sudoku_tiny"', 'recipe = "sudoku_tinny"', "sudoku_tinny: no such recipe"),
        ('recipe = "sudoku_tiny"', "", "recipe is missing"),
        ("seeds = [0, 1]", "seeds = ", "Invalid value"),
        ("seeds = [100, 101]", "seeds = []", "tune.seeds: name at least one"),
        ("seeds = [100, 101]", "seeds = [100, 100]", "tune.seeds must differ, got [100, 100]"),
        ("[sft]", 'leave_out = ["one"]\n[sft]', "leave_out does nothing without extends"),
        ("num_points = 2", "num_points = 2\nrollout.temperature = 0.5", "measure.rollout.temperature does nothing"),
        ('pretrain = "sudoku_tiny_pretrain"', "", "sft does nothing without pretrain"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(tmp_path: Path, old: str, new: str, error: str) -> None:
    assert old in TINY
    path = write_study(tmp_path, TINY.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        load_study(path)
    assert str(caught.value).startswith(f"{path}: ") and error in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


def test_tables_and_dotted_names_are_one_thing() -> None:
    tables = {"optim": {"learning_rate": 1e-4}, "steps": 3, "rollout": {"sampler": "top_k:2"}}
    assert nest(flatten(tables)) == tables
    assert nest({"optim.learning_rate": 1, "optim": {"warmup_steps": 2}}) == {
        "optim": {"learning_rate": 1, "warmup_steps": 2}
    }
    with pytest.raises(ValueError, match="optim is given as a value and as a table"):
        nest({"optim": 3, "optim.learning_rate": 1})


def test_studies_are_found_by_path_and_by_name(tmp_path: Path) -> None:
    assert find_study(str(write_study(tmp_path))) == tmp_path / "tiny.toml"
    with pytest.raises(ValueError, match="no such study"):
        find_study("nothing")


# --- the studies that ship ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_loads_and_has_the_power_it_needs(path: Path) -> None:
    study = load_study(path.stem)  # by name
    config = study.config
    assert find_study(path.stem) == path
    assert config.title and config.question.endswith("?")
    assert len(config.seeds) >= 5 and config.measure.num_prompts >= 1024
    assert all(arm.label != arm.name or len(arm.name) < 20 for arm in study.arms)
    for spec in (*config.measure.samplers, *config.measure.track):
        assert parse_sampler(spec)
    samplers = {spec for arm in study.arms for cell in study.cells(arm, {}) for spec in cell.samplers}
    places = [f"{spec}{level}" for spec in (*samplers, "own") for level in ("", "/easy", "/hard")]
    known = {f"{kind}/{place}" for kind in ("accuracy", "nfe") for place in places}
    known |= {f"reward/{spec}" for spec in (*samplers, "own")} if study.train.objective.speed_weight else set()
    known |= {f"frontier/{calls:g}" for calls in config.measure.at_nfe}
    known |= {f"equal_forwards/accuracy/{spec}" for spec in config.measure.track}
    gains = [f"{gain}_over_{what}" for gain in ("gain", "calls_saved") for what in ("fixed", "baseline")]
    known |= {f"{gain}{level}" for gain in gains for level in ("", "/easy", "/hard")}
    assert {*config.columns} <= known and (not config.tune.values or config.tune.metric in known)
    assert all(header(metric) for metric in config.columns)
    budgets = {len(study.tune_cells(arm)) for arm in study.arms if arm.tune}
    assert len(budgets) <= 1, "arms are tuned with different budgets"
    assert BASE not in [arm.name for arm in study.arms]


def test_pre_training_starts_from_the_model_of_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "more.toml").write_text('model = "runs/sft"\ntask.name = "tiny_sudoku"\n')
    text = TINY.replace("sudoku_tiny_pretrain", "more.toml").replace("shape = {", "# shape = {")
    (cell, *_) = load_study(write_study(tmp_path, text)).base_cells()
    assert from_dict(SftConfig, cell.settings()["sft"]).model == "runs/sft"
