"""`diffpo bench`: phases of a recipe's step, suites at tiny sizes, the command."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN

from diffpo.cli import main
from diffpo.config import CollectConfig, LoadConfig, LoraConfig, ObjectiveConfig, RolloutConfig, TrainConfig
from diffpo.lab.bench import growth, suite
from diffpo.lab.bench import measure as measure_
from diffpo.lab.bench.measure import Heard, Tally, row_flops
from diffpo.lab.bench.steps import backward_flops, measure, open_bench
from diffpo.lab.bench.workloads import random_policy, random_requests
from diffpo.models.attention import Run
from diffpo.models.lora import Adapted
from diffpo.models.transformer import TransformerConfig
from diffpo.view.drawing import save_figure

SHAPE = TransformerConfig(
    vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, mlp_size=64, max_length=512
)
CONFIG = TrainConfig(
    prompts_per_step=2,
    num_generations=2,
    load=LoadConfig(device="cpu"),
    rollout=RolloutConfig(sampler="steps:4", gen_length=16, block_length=8),
    objective=ObjectiveConfig(num_iterations=2),
    train="model",
)


def test_a_step_is_counted_phase_by_phase(tmp_path: Path) -> None:
    bench = open_bench(CONFIG, SHAPE)
    before = bench.policy.denoiser.head.weight.detach().clone()
    measured = measure(bench, repeats=1, quiet=True, profiles=tmp_path / "traces")
    rollouts, old, updates = measured.phases
    assert measured.nfe <= 4 and rollouts.sequences == 4 and rollouts.tokens == 64
    assert rollouts.rows == 4 * measured.nfe - 2  # completions of a prompt share their first call
    # in each of mu passes a z_0 for each prompt, and another latent for each row that goes on for more than a call
    assert 2 * 2 < old.rows == updates.rows <= 2 * (2 + 4)
    assert updates.flops > 2.5 * old.flops and all(phase.bytes > 0 and phase.seconds > 0 for phase in measured.phases)
    assert not torch.equal(bench.policy.denoiser.head.weight, before)
    assert {path.name for path in (tmp_path / "traces").iterdir()} == {
        "rollouts.json",
        "old_log-probs.json",
        "updates.json",
    }


def test_operations_of_a_learned_step_are_counted_in_scored_positions() -> None:
    bench = open_bench(CONFIG, SHAPE)
    bench.roll_out()
    bench.score()
    positions = int(bench.state.experience.batch.loss_mask.sum())  # type: ignore[union-attr]
    assert bench.scored() == 2 * positions
    coupled = replace(CONFIG, objective=ObjectiveConfig(surrogate="coupled", importance_clamp=0, num_iterations=2))
    other = open_bench(coupled, SHAPE)
    other.roll_out()
    other.score()
    assert other.scored() == 2 * 2 * positions


def test_adapters_have_no_gradients_of_weights() -> None:
    tally = Tally(random_policy(SHAPE))
    tally.linears, tally.attention, tally.head = 100.0, 10.0, 1.0
    assert backward_flops(tally, adapters=True) == 2 * 101 + 3 * 10
    assert backward_flops(tally, adapters=False) == 3 * 111


def test_cached_tokens_cost_attention_alone() -> None:
    whole, window = Run(1, 20, 20, 8), Run(1, 20, 8, 8)
    linears, attention = row_flops(SHAPE, whole)
    fewer, less = row_flops(SHAPE, window)
    in_block = 2 * 32 * (2 * 32 + 2 * 16) + 2 * 3 * 32 * 64
    assert linears - fewer == 12 * (in_block + 2 * 2 * 32 * 16)  # a block, and the keys and values of the last
    assert attention - less == 4 * 20 * 32 * 12


@pytest.mark.parametrize("lora", [0, 4])
def test_a_joint_step_is_measured(lora: int) -> None:
    config = replace(CONFIG, train="joint", lora=LoraConfig(lora), rollout=replace(CONFIG.rollout, sampler="learned"))
    measured = measure(open_bench(config, SHAPE), repeats=1, quiet=True)
    assert [phase.name for phase in measured.phases] == ["rollouts", "old log-probs", "updates"]


def test_rollouts_merge_adapters_where_the_recipe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    merged, merge = [], Adapted.merge
    monkeypatch.setattr(Adapted, "merge", lambda adapted: merged.append(adapted) or merge(adapted))
    rollout = CollectConfig(sampler="steps:4", gen_length=16, block_length=8, merge_adapters=True)
    open_bench(replace(CONFIG, lora=LoraConfig(4), rollout=rollout), SHAPE).roll_out()
    assert merged


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> suite.Size:
    """The published suite at a size that takes a second."""
    monkeypatch.setattr(growth, "AXES", {"canvas": (32, 64), "vocabulary": (16, 32), "batch": (1, 2), "NFE": (4, 8)})
    shape = TransformerConfig(64, 32, 2, 4, 4, 64, max_length=512)
    policy = random_policy(shape)
    requests = random_requests(policy, [5, 6], "top_k:8", gen_length=16, block_length=16)
    monkeypatch.setattr(suite, "tiny_rollouts", lambda: (policy, requests))
    return suite.Size(1, shape, (3, 9, 5, 1))


def test_the_published_suite_has_its_rows(tiny: suite.Size) -> None:
    rows = [row for part in suite.published(tiny, quiet=True) for row in part]
    assert [row.target for row in rows] == [12, 7, 2.5, 15, 1, 4, 6, 0.8, 0.8, 0.8, 0.8, 6, 0.8]
    for row in rows:
        ours, theirs = (row.ours_bytes, row.plain_bytes) if row.ours_bytes else (row.ours_seconds, row.plain_seconds)
        assert theirs and row.ratio == pytest.approx(theirs / ours)


def test_a_suite_says_what_comes_and_gives_each_part_when_it_is_done(
    tiny: suite.Size, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(suite, "QUIET_SECONDS", 0.0)
    row, done = suite.Row("row", 1.0, 2.0, 2.0, 1.0), []

    def measure(size: suite.Size, heard: Heard) -> Iterator[suite.Row]:
        heard("a long work", 12.0)
        yield row
        done.append(True)

    parts = (suite.Part("first", measure, (1.0,)), suite.Part("second", measure, (1.0,)))
    found = suite.published(tiny, parts=parts)
    assert next(found) == [row] and len(done) == 1
    said = capsys.readouterr().err
    assert re.search(r"about [\d.]+ s on an idle machine, in 2 parts:\n  1 first: .*\n  2 second: ", said)
    assert "a long work: 12 s" in said and "second ..." not in said
    assert list(found) == [[row]] and len(done) == 2


def test_the_published_suite_takes_less_than_twenty_minutes() -> None:
    """On the two cores on which a call of LLaDA's loop takes 1.1 s (34.7 s for 32 of them, in published.json)."""
    assert sum(part.expected(1.1, suite.Size.repeats) for part in suite.PARTS) < 15 * 60


def test_long_works_are_run_fewer_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = itertools.count(), []
    monkeypatch.setattr(measure_, "now", lambda device: 20.0 * next(clock))
    taken = measure_.in_turn({"long": lambda: seen.append("long")}, 5, torch.device("cpu"))
    assert len(seen) == 3 and taken == {"long": 20.0}
    assert measure_.expected_seconds(20.0, 5) == 60.0 and measure_.expected_seconds(1.0, 5) == 6.0
    assert measure_.expected_seconds(300.0, 5) == 300.0


def test_growth_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "AXES", {"canvas": (32, 64), "NFE": (4, 8)})
    points = growth.growth_points(1, replace(SHAPE, num_kv_heads=4))
    assert points["NFE"][1].flops == pytest.approx(2 * points["NFE"][0].flops, rel=0.2)
    assert points["canvas"][1].flops > points["canvas"][0].flops
    save_figure(growth.growth_figure(points), tmp_path / "growth.svg")
    assert "operations are counted" in (tmp_path / "growth.svg").read_text()


def test_growth_can_be_read_off_in_milliseconds(tmp_path: Path) -> None:
    points = [growth.GrowthPoint(8, 0.0351, 1.0), growth.GrowthPoint(16, 0.694, 2.0), growth.GrowthPoint(32, 1.38, 4.0)]
    save_figure(growth.growth_figure({"NFE": points}), tmp_path / "growth.svg")
    drawn = (tmp_path / "growth.svg").read_text()
    assert all(f">{tick}<" in drawn for tick in ("35.1", "694", "1,380"))


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out" / "bench.json"
    small = ["--prompts-per-step", "1", "--num-generations", "2", "--rollout.gen-length", "8", "--train", "model"]
    small += ["--rollout.sampler", "steps:2", "--load.dtype", "float32", "--repeats", "1", "--json", str(file)]
    main(["bench", "--model", str(GOLDEN / "llada-tiny"), "--random-weights", *small])
    rows = json.loads(file.read_text())
    assert [row["name"] for row in rows] == ["rollouts", "old log-probs", "updates"]
    assert all(row["utilisation"] > 0 and row["torch"] for row in rows)
    printed = capsys.readouterr().out
    assert "of peak" in printed and "answers" in printed and "…" not in printed


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--suite", "growth", "--profile", "x"], "profile does nothing in the suite growth"),
        (["--suite", "published", "--figure", "x.png"], "figure does nothing in the suite published"),
        (["--sharpness", "2"], "sharpness does nothing without random_weights"),
        (["--suite", "published", "--minutes", "5"], "minutes does nothing in the suite published"),
        (["--suite", "gpu", "--repeats", "2"], "repeats does nothing in the suite gpu, which measures once"),
        (["--repeats", "0"], "--repeats must be >= 1, got 0"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(
    flags: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", *flags])
    assert wanted in capsys.readouterr().err
