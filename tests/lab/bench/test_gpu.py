"""`diffpo bench --suite gpu`: every part at a tiny size on the CPU, parts that fail, and a machine without a card."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpo.cli import main
from diffpo.config import (
    LoadConfig,
    LoraConfig,
    ObjectiveConfig,
    OptimConfig,
    RolloutConfig,
    TrainConfig,
)
from diffpo.lab.bench import card, gpu
from diffpo.lab.bench.card import Figure, Size
from diffpo.models.transformer import TransformerConfig

STEP = TrainConfig(
    model="random",
    train="model",
    prompts_per_step=2,
    num_generations=2,
    lora=LoraConfig(rank=4),
    load=LoadConfig(device="cpu", dtype="bfloat16"),
    rollout=RolloutConfig(sampler="steps:4", gen_length=16, block_length=8, cache="dual", cache_refresh=2),
    objective=ObjectiveConfig(num_iterations=2, beta=0.1),
    optim=OptimConfig(micro_batch_tokens=64, gradient_checkpointing=True),
)
TINY = Size(
    TransformerConfig(
        vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=4, mlp_size=64, max_length=64
    ),
    STEP,
    lengths=(3, 9),
    group=2,
    canvas=16,
    block=8,
    calls=8,
    plain_rows=2,
    matmul=64,
    tests=("tests/functional/test_shapes.py",),
)


def by_name(figures: Iterator[Figure]) -> dict[str, Figure]:
    found = {figure.name: figure for figure in figures}
    assert not any(figure.failed for figure in found.values())
    return found


def test_rollouts_are_timed_against_the_published_loops() -> None:
    found = by_name(card.rollouts(TINY))
    goals = {name: figure.at_least for name, figure in found.items() if figure.at_least}
    assert goals == {
        "exact: times as fast as d1's loop": 3.0,
        "dual cache: times as fast as d1's loop": 8.0,
        "exact: share of that": 0.45,
    }
    spent = {name: found[f"{name}: 4 answers of 16 tokens, 8 calls"].value for name in ("exact", "d1's loop")}
    assert found["exact: times as fast as d1's loop"].value == pytest.approx(spent["d1's loop"] / spent["exact"])
    assert found["exact: tokens a second"].value == pytest.approx(64 / spent["exact"])
    assert found["dual cache: share of that"].value > 0
    assert found["exact: waits of the host in a steady call"].value == 0  # a CPU has no host that waits
    assert found["exact: kernels in a steady call"].value > 50


def test_a_step_is_taken_by_phases() -> None:
    found = by_name(card.step(TINY))
    phases = ("rollouts", "old log-probs", "updates")
    (whole,) = (figure for name, figure in found.items() if name.startswith("the whole step"))
    assert whole.name == "the whole step, 2 prompts x 2, 16 tokens, 4 calls, dual cache, 2 updates"
    assert whole.value == pytest.approx(sum(found[phase].value for phase in phases)) and whole.at_most == 90
    for phase in phases:
        # weights stand in every phase; what the plan says of this tiny model is mostly they
        held, said = (found[f"{phase}: peak memory{end}"].value for end in ("", " that `diffpo plan` says"))
        assert held > 0 and said > 0
    assert 0 < found["of the updates, the optimiser"].value < found["updates"].value
    assert found["updates: share of a matrix product's peak"].at_least == 0.55


def test_rollouts_of_the_step_are_taken_without_a_cache() -> None:
    found = by_name(card.exact_rollouts(TINY))
    assert found["rollouts, 2 prompts x 2, 16 tokens, 4 calls, no cache, 2 updates"].value > 0


def test_log_probs_alone_and_batched_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    found = by_name(card.alone_and_batched(TINY))
    assert found["alone against 2 rows: largest difference of a log-prob"].value < 0.1
    assert 0 <= found["share of answers that are the same, decoded alone"].value <= 1
    one = card._one
    monkeypatch.setattr(card, "_one", lambda *row: one(*row) + 0.5)
    found = by_name(card.alone_and_batched(TINY))
    assert found["alone against 2 rows: mean difference of a log-prob"].value == pytest.approx(0.5, abs=0.05)


def test_waits_of_the_host_are_counted_by_torchs_own_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def work() -> None:
        for _ in range(3):
            card.warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        card.warnings.warn("something else", UserWarning, stacklevel=1)

    assert card.host_waits(work, torch.device("cuda")) == 3 and modes == ["warn", "default"]


def test_a_part_that_fails_or_is_late_leaves_the_next_one() -> None:
    broken = replace(TINY, tests=("no_such_test.py",))
    tests, log_probs = gpu.gpu_suite(broken, 5, ("tests", "log-probs"))
    assert tests[0].failed.startswith("RuntimeError: pytest no_such_test.py") and tests[0].part == "tests"
    assert len(log_probs) == 4 and not any(figure.failed for figure in log_probs)
    started = time.monotonic()
    ((late, _), (never,)) = gpu.gpu_suite(TINY, 1 / 600, ("log-probs", "step"))
    assert late.failed == "stopped after 0 s: the time is over" and time.monotonic() - started < 30
    assert never.failed == "left out: the 0.00166667 minutes are over"


def test_the_tests_are_run() -> None:
    assert by_name(gpu.tests(TINY))["tests passed"].value == 1


@pytest.mark.parametrize(
    ("figure", "reached", "goal"),
    [
        (Figure("a", 3.0, at_least=3.0), True, ">= 3"),
        (Figure("a", 2.9, at_least=3.0), False, ">= 3"),
        (Figure("a", 91.0, "s", at_most=90), False, "<= 90 s"),
        (Figure("a", 91.0, "s"), True, ""),
        (Figure("a", failed="out of memory"), False, ""),
    ],
)
def test_goals(figure: Figure, reached: bool, goal: str) -> None:
    assert (figure.reached, figure.goal) == (reached, goal)


def test_the_command_writes_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gpu.json"
    monkeypatch.setattr(gpu, "full_size", lambda minutes: TINY)

    def suite(size: Size, minutes: float) -> Iterator[list[Figure]]:
        yield [Figure("speed", 2.0, at_least=3.0, part="first")]
        assert [row["name"] for row in json.loads(file.read_text())] == ["speed"]  # a kill here loses nothing of it
        yield [Figure("second", failed="OutOfMemoryError: [too] large", part="second")]

    monkeypatch.setattr(gpu, "gpu_suite", suite)
    with pytest.raises(SystemExit):
        main(["bench", "--suite", "gpu", "--json", str(file)])
    first, second = json.loads(file.read_text())
    assert first["reached"] is False and first["at_least"] == 3 and first["torch"]
    assert second["failed"] == "OutOfMemoryError: [too] large"
    printed = capsys.readouterr()
    assert "OutOfMemoryError: [too] large" in printed.out and ">= 3" in printed.out
    assert "parts that failed or were left out: second" in printed.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_the_suite_says_what_it_would_do(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "--suite", "gpu"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "torch finds none" in line and all(part in line for part in gpu.PARTS)
