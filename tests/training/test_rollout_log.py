"""What the policy wrote is kept: capped, whole after a kill, without a row twice after a resume."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from diffpo.config import TrainConfig
from diffpo.files.folder import own_draft
from diffpo.rollout.log import RolloutLog, _pack, read_rollouts
from diffpo.training import loop
from diffpo.training.loop import train


def rows(config: TrainConfig) -> list[dict]:
    return list(read_rollouts(Path(config.output) / "rollouts.jsonl.gz"))


def test_a_resumed_run_has_each_rollout_once(
    short_run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = replace(short_run, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    original, calls = loop.update, []

    def interrupting(*arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == 3:  # between the two updates of the second step
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments)

    monkeypatch.setattr(loop, "update", interrupting)
    with pytest.raises(KeyboardInterrupt):
        train(short_run, quiet=True)
    assert {row["step"] for row in rows(short_run)} == {0, 1}
    monkeypatch.setattr(loop, "update", original)
    train(short_run, resume=True, quiet=True)
    assert rows(short_run) == rows(straight) and len(rows(straight)) == 4 * 16
    assert {"step", "prompt", "completion", "reward", "correct", "nfe"} <= rows(straight)[0].keys()


def test_the_log_has_a_cap_and_may_be_left_out(short_run: TrainConfig) -> None:
    train(replace(short_run, steps=1, log_rollouts=3), quiet=True)
    assert len(rows(short_run)) == 3
    train(replace(short_run, steps=2, log_rollouts=0), resume=True, quiet=True)
    assert {row["step"] for row in rows(short_run)} == {0}


def test_a_log_that_was_cut_short_is_read_as_far_as_it_goes(
    short_run: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(short_run, steps=2), quiet=True)
    path = Path(short_run.output) / "rollouts.jsonl.gz"
    path.write_bytes(path.read_bytes()[:-9])
    assert {row["step"] for row in rows(short_run)} == {0}
    train(replace(short_run, steps=3), resume=True)
    assert {row["step"] for row in rows(short_run)} == {0, 2}
    assert "rollouts.jsonl.gz: of 1 of 2 steps no rollouts are there, nor will be" in capsys.readouterr().err
    RolloutLog(path, 0, 1)
    assert not rows(short_run)


def test_a_log_that_cannot_be_written_is_named(short_run: TrainConfig) -> None:
    train(replace(short_run, steps=1), quiet=True)
    path = Path(short_run.output) / "rollouts.jsonl.gz"
    content = path.read_bytes()
    own_draft(path).mkdir()
    with pytest.raises(OSError, match=r"rollouts\.jsonl\.gz: could not be written"):
        RolloutLog(path, 0, 1)
    assert path.read_bytes() == content


def test_texts_may_hold_any_line_separator(tmp_path: Path) -> None:
    written = [{"step": 0, "completion": f"a{separator}b"} for separator in "\n\r\x1c\x85\u2028\u2029"]
    (tmp_path / "rollouts.jsonl.gz").write_bytes(_pack(written))
    assert list(read_rollouts(tmp_path / "rollouts.jsonl.gz")) == written


def test_a_log_that_cannot_be_written_is_named_and_stands(tmp_path: Path) -> None:
    log, rows = tmp_path / "rollouts.jsonl.gz", [{"step": 0}, {"step": 1}]
    log.write_bytes(_pack(rows))
    own_draft(log).mkdir()
    with pytest.raises(OSError, match=r"rollouts\.jsonl\.gz: could not be written"):
        RolloutLog(log, 1, 96)
    assert list(read_rollouts(log)) == rows


def test_what_is_to_be_seen_is_shown(short_run: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(short_run, steps=2, show_rollouts=2))
    said = capsys.readouterr().err
    assert said.count("step 0, best: reward") == 1 and "step 0, worst: reward" in said and "step 1, best" not in said
    for word in (
        "model   ",
        "the sampler head",
        "where   cpu, float32",
        "data    tiny_sudoku",
        "steps   2, each of 4 prompts x 4",
    ):
        assert word in said
    assert "train 1/2" in said and "a step, " in said and "left  loss" not in said.splitlines()[-1]
    assert said.splitlines()[-1].startswith("20") and "train 2/2" in said.splitlines()[-1]


def test_a_cpu_that_is_slow_in_bfloat16_says_so(
    short_run: TrainConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short_run = replace(short_run, steps=1, load=replace(short_run.load, dtype="bfloat16"))
    for units, slow in (("avx512_bf16", False), ("avx2", True)):
        known = {"architecture": "x86_64", units: True}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda known=known: known, raising=False)
        train(replace(short_run, output=f"{short_run.output}_{units}"))
        assert ("load.dtype = float32 is some ten times as fast" in capsys.readouterr().err) == slow
