"""Going on with a run: longer, from its folder alone, with what may change, and told what did change."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.test_loop import assert_same_run

from diffpo.cli import main
from diffpo.config import EvalConfig, OptimConfig, RolloutConfig, SftConfig, TrainConfig
from diffpo.files.places import latest_checkpoint
from diffpo.files.recipe import find_recipe, load_config, to_json
from diffpo.models.policy import load_policy
from diffpo.training import loop
from diffpo.training.loop import train
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune
from diffpo.training.state import learning_rate_factor

COSINE = OptimConfig(lr_schedule="cosine", warmup_steps=1)


@pytest.fixture
def config(short_run: TrainConfig) -> TrainConfig:
    return short_run


@pytest.mark.parametrize("optim", [OptimConfig(), COSINE], ids=["constant", "cosine of its own length"])
def test_a_longer_run_is_the_run_that_was_longer_from_the_start(
    config: TrainConfig,
    tmp_path: Path,
    optim: OptimConfig,
) -> None:
    config = replace(config, optim=optim, schedule_steps=3 if optim is COSINE else None)
    straight = replace(config, output=str(tmp_path / "straight"))
    train(straight, quiet=True)
    train(replace(config, steps=2), quiet=True)
    train(config, resume=True, quiet=True)
    assert_same_run(config.output, straight.output)


def test_a_cosine_without_a_length_of_its_own_cannot_grow(
    config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(config, optim=COSINE, steps=2)
    train(config)
    assert "rate is 0" not in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"behind its end the denoiser's rate is 0: .* or give schedule_steps = 2 too"):
        train(replace(config, steps=3), resume=True, quiet=True)
    capsys.readouterr()
    train(replace(config, steps=3, schedule_steps=2), resume=True)
    assert "the denoiser's learning rate is 0 from step 2 on (schedule_steps)" in capsys.readouterr().err
    assert steps_of(Path(config.output)) == 3
    assert learning_rate_factor(replace(config, steps=3, schedule_steps=2), 2) == 0


def test_a_warm_up_beyond_the_end_of_a_run_is_said(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(config, steps=1, optim=OptimConfig(warmup_steps=4)))
    assert "the denoiser's learning rate rises to 25% of its peak (optim.warmup_steps = 4)" in capsys.readouterr().err


def test_a_run_does_not_shrink(config: TrainConfig) -> None:
    train(replace(config, steps=2), quiet=True)
    with pytest.raises(ValueError, match="steps = 1, but the run has made 2: ask for more"):
        train(replace(config, steps=1), resume=True, quiet=True)


def test_harmless_settings_may_change(config: TrainConfig) -> None:
    train(replace(config, steps=1), quiet=True)
    others = replace(
        config,
        steps=2,
        save_every=3,
        keep_checkpoints=1,
        eval_every=2,
        num_threads=1,
        eval=EvalConfig(num_prompts=4),
        rollout=replace(config.rollout, num_slots=3),
        optim=replace(config.optim, gradient_checkpointing=True),
    )
    train(others, resume=True, quiet=True)
    assert "eval/accuracy" in read_metrics(Path(config.output) / "metrics.jsonl")[-1]


@pytest.mark.parametrize("name", ["prompts_per_step", "seed", "rollout.temperature"])
def test_others_are_refused_by_name(config: TrainConfig, name: str) -> None:
    train(replace(config, steps=1), quiet=True)
    changes = {"prompts_per_step": 2, "seed": 1, "rollout": RolloutConfig(temperature=0.5)}
    changes = {name.partition(".")[0]: changes[name.partition(".")[0]]}
    with pytest.raises(ValueError, match=f"differs from this config in {name}: "):
        train(replace(config, **changes), resume=True, quiet=True)


# --- the folder alone --------------------------------------------------------------------------------------------


def steps_of(folder: Path) -> int:
    return len(read_metrics(folder / "metrics.jsonl"))


def test_the_folder_is_enough(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(replace(config, steps=1), quiet=True)
    folder = Path(shutil.move(config.output, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path)
    ways = (["moved"], ["--output", "moved"], ["--output=moved"], ["moved/config.json"], [str(folder)])
    for number, way in enumerate(ways, start=2):
        main(["train", *way, "--resume", "--steps", str(number), "--optim.learning-rate", "1e-4"])
        assert steps_of(folder) == number
    assert not (tmp_path / "run").exists() and json.loads((folder / "config.json").read_text())["steps"] == 6


def test_a_run_is_not_started_over_by_its_name(
    config: TrainConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    train(replace(config, steps=1), quiet=True)
    with pytest.raises(SystemExit):
        main(["train", config.output])
    assert "already holds a run: resume it" in capsys.readouterr().err


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("part", ["checkpoints/step_000002", "checkpoints/step_000002/policy", "policy"])
def test_no_run_is_started_within_a_part_of_another(config: TrainConfig, part: str, resume: bool) -> None:
    train(replace(config, steps=2), quiet=True)
    run = Path(config.output)
    with pytest.raises(ValueError, match=f"{part} is a part of the run in {run.resolve()}: resume that"):
        train(replace(config, output=str(run / part)), resume=resume, quiet=True)
    assert latest_checkpoint(run / "checkpoints") == (run / "checkpoints/step_000002", [])


def test_settings_edited_by_hand_are_noticed(config: TrainConfig) -> None:
    train(replace(config, steps=1), quiet=True)
    file = Path(config.output) / "config.json"
    file.write_text(file.read_text().replace('"learning_rate": 0.0001', '"learning_rate": 0.01'))
    with pytest.raises(ValueError, match=r"differs from this config in optim\.learning_rate"):
        train(replace(config, optim=OptimConfig(learning_rate=0.01)), resume=True, quiet=True)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("run.json", '{"id": "0a', r"run\.json: not JSON"),
        ("run.json", "[]", r"run\.json: not an object"),
        ("run.json", '{"inputs": null}', r"run\.json: no id and digests of inputs: remove it"),
        ("run.json", '{"inputs": {"model": "runs/b"}}', r"run\.json: no id and digests of inputs: remove it"),
        ("run.json", '{"id": null}', r"run\.json: no id and digests of inputs: remove it"),
        ("metrics.jsonl", '{"loss": 1}\n', r"metrics\.jsonl, line 1: not a row of metrics, which has a step"),
    ],
)
def test_a_damaged_file_of_a_run_is_named(config: TrainConfig, file: str, content: str, said: str) -> None:
    train(replace(config, steps=1), quiet=True)
    Path(config.output, file).write_text(content)
    with pytest.raises(ValueError, match=said):
        train(config, resume=True, quiet=True)


def test_a_run_without_its_settings_is_still_a_run(config: TrainConfig) -> None:
    train(replace(config, steps=1), quiet=True)
    run = Path(config.output)
    without = Path(config.output + "_bare")
    without.mkdir()
    shutil.copy(run / "config.json", without)
    with pytest.raises(ValueError, match="settings of a run that has no policy yet"):
        load_policy(without)
    (run / "config.json").unlink()
    with pytest.raises(ValueError, match="already holds a run: resume it"):
        train(replace(config, seed=7), quiet=True)
    with pytest.raises(ValueError, match=r"step_000001/config\.json differs from this config in seed"):
        train(replace(config, seed=7), resume=True, quiet=True)
    saved = run / "checkpoints/step_000001/config.json"
    with pytest.raises(ValueError, match=f"has lost its config.json: copy {saved} into it"):
        load_config(TrainConfig, find_recipe(config.output))
    train(config, resume=True, quiet=True)
    assert steps_of(run) == config.steps


def test_steps_without_a_row_of_metrics_are_said(config: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(config, steps=2), quiet=True)
    Path(config.output, "metrics.jsonl").unlink()
    train(replace(config, steps=3), resume=True)
    assert "metrics.jsonl: 2 of the 2 steps made have no row there" in capsys.readouterr().err


def test_a_run_that_is_stopped_at_once_says_what_there_is(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "update", stop)
        with pytest.raises(KeyboardInterrupt, match="stopped at once; there is no checkpoint yet"):
            train(config, quiet=True)
    train(replace(config, steps=1), quiet=True)
    monkeypatch.setattr(loop, "update", stop)
    with pytest.raises(KeyboardInterrupt, match="stopped at once; a resumed run goes on from the last checkpoint"):
        train(config, resume=True, quiet=True)


# --- what changed since ------------------------------------------------------------------------------------------


@pytest.fixture
def sft(start: str, tmp_path: Path) -> SftConfig:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "01=", "completion": "2"}\n')
    rows, output = str(tmp_path / "rows.jsonl"), str(tmp_path / "sft")
    return SftConfig(model=start, data=rows, eval_data=rows, output=output, steps=1, batch_size=2, optim=OptimConfig())


def test_rows_that_changed_are_said(sft: SftConfig, capsys: pytest.CaptureFixture[str]) -> None:
    fine_tune(sft)
    fine_tune(replace(sft, steps=2), resume=True)
    assert "has changed" not in capsys.readouterr().err
    Path(sft.data).write_text('{"prompt": "02=", "completion": "1"}\n')
    fine_tune(replace(sft, steps=3), resume=True)
    assert f"{sft.data} (data) has changed since this run began" in capsys.readouterr().err
    fine_tune(replace(sft, steps=4), resume=True)  # said once: the record is of the run's last start
    assert "has changed" not in capsys.readouterr().err


def test_rows_that_moved_are_the_same_rows(sft: SftConfig, tmp_path: Path) -> None:
    fine_tune(sft, quiet=True)
    moved = shutil.move(sft.data, tmp_path / "elsewhere.jsonl")
    fine_tune(replace(sft, data=str(moved), eval_data="", steps=2), resume=True, quiet=True)
    (tmp_path / "others.jsonl").write_text('{"prompt": "02=", "completion": "1"}\n')
    with pytest.raises(ValueError, match="differs from this config in data: "):
        fine_tune(replace(sft, data=str(tmp_path / "others.jsonl"), steps=3), resume=True, quiet=True)


def test_reward_code_that_changed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from diffpo.training.resume import changed, digests

    (tmp_path / "r.py").write_text("def f(completions): return [0.0]\n")
    task = replace(TrainConfig().task, name="own", data="hub/rows", reward=(f"{tmp_path}/r.py:f=0.5", "number"))
    before = digests(replace(TrainConfig(), task=task, model="none/here"))
    assert before.keys() == {"task.reward"} and before["task.reward"].keys() == {f"{tmp_path}/r.py"}
    (tmp_path / "r.py").write_text("def f(completions): return [1.0]\n")
    now = digests(replace(TrainConfig(), task=task, model="none/here"))
    assert len(changed(before, now)) == 1


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("tools.py", True),
        ("kinds/__init__.py", True),
        ("kinds/deep.py", True),
        ("kinds/beside.py", True),
        ("late.py", True),
        ("other.py", False),
        ("kinds/other.py", False),
    ],
)
def test_code_is_what_it_imports_too(edited: str, counts: bool, tmp_path: Path) -> None:
    """From beside it; a judge may stand in another file, and verdicts of another judge are others."""
    from diffpo.training.resume import digests

    texts = {
        "r.py": "import os, torch\nfrom tools import *\nfrom kinds.deep import x\ndef f(completions): import late\n",
        "kinds/deep.py": "from . import beside\nfrom ..nowhere import y\nimport tools\n",
        "kinds/beside.py": "not Python",
    }
    for name in (*texts, "tools.py", "kinds/__init__.py", "kinds/other.py", "late.py", "other.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(texts.get(name, "pass\n"))
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "r.py").symlink_to(tmp_path / "r.py")
    rewards = (f"{tmp_path}/r.py:f", f"{tmp_path}/links/r.py:f")
    config = TrainConfig(
        model="none/here", task=replace(TrainConfig().task, name="own", data="hub/rows", reward=rewards)
    )
    before = digests(config)["task.reward"]
    (tmp_path / edited).write_text("1\n")
    after = digests(config)["task.reward"]
    assert [before[path] != after[path] for path in before] == [counts] * 2


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("{moved}.py:f=0.5", ""),
        ("{old}.py:g=0.5", "task.reward"),
        ("{old}.py:f=2", "task.reward"),
        ("{moved}.py:f", "task.reward"),
        ("{old}.py:f=0.5 number", "task.reward"),
        ("{other}.py:f=0.5", "task.reward"),
    ],
)
def test_a_file_may_move_but_not_what_is_asked_of_it(spec: str, said: str, tmp_path: Path) -> None:
    from diffpo.training.resume import check_same, digests

    places = {name: str(tmp_path / name) for name in ("old", "moved", "other")}
    for name, place in places.items():
        Path(f"{place}.py").write_text("f = g = len" if name != "other" else "f = g = sum")

    def asked(rewards: str) -> TrainConfig:
        task = replace(TrainConfig().task, name="own", data="hub/rows", reward=tuple(rewards.format(**places).split()))
        return TrainConfig(model="none/here", task=task)

    before, now = asked("{old}.py:f=0.5"), asked(spec)
    (tmp_path / "config.json").write_text(to_json(before))
    with pytest.raises(ValueError, match=f"differs from this config in {said}: ") if said else nullcontext():
        check_same(tmp_path / "config.json", now, digests(before), digests(now))


def test_rows_of_a_pattern_that_changed_are_said(tmp_path: Path) -> None:
    from diffpo.training.resume import changed, digests

    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    config = replace(TrainConfig(), task=replace(TrainConfig().task, name="own", data=f"{tmp_path}/*.jsonl"))
    before = digests(config)
    (tmp_path / "b.jsonl").write_text("{ }\n")
    edited = digests(config)
    (tmp_path / "c.jsonl").write_text("{}\n")
    assert len(changed(before, edited)) == len(changed(edited, digests(config))) == 1


def test_an_estimator_of_ones_own_that_changed_is_said(tmp_path: Path) -> None:
    from diffpo.training.resume import changed, digests

    (tmp_path / "mine.py").write_text("one = 1\n")
    objective = replace(TrainConfig().objective, surrogate=f"{tmp_path}/mine.py:Mine:2", loss=f"{tmp_path}/mine.py:L")
    config = TrainConfig(model="none/here", objective=objective)
    before = digests(config)
    assert before.keys() == {"objective.surrogate", "objective.loss"}
    (tmp_path / "mine.py").write_text("one = 2\n")
    assert len(changed(before, digests(config))) == 2


def test_data_that_changed_in_its_middle_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large the file: of weights alone, in a folder, the ends and the size stand for the rest."""
    from diffpo.training import resume

    monkeypatch.setattr(resume, "WHOLE", 8)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("0123456789" * 3)
    before, folder = resume.digest(rows), resume.digest(tmp_path)
    rows.write_text("0123456789" + "012345678_" + "0123456789")
    assert resume.digest(rows) != before and resume.digest(tmp_path) == folder
    rows.write_text("0123456789" * 2 + "012345678_")
    assert resume.digest(tmp_path) != folder


# --- a full disk -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 KB, where mounting one is allowed."""
    folder = tmp_path / "small"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True)
    if done.returncode:
        pytest.skip("no right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_is_one_line_and_no_draft(
    config: TrainConfig,
    small_disk: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = replace(config, output=str(small_disk / "run"))
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        train(config, quiet=True)
    assert not [path for path in small_disk.rglob("*") if "draft" in path.name]
    found, _ = latest_checkpoint(small_disk / "run/checkpoints")
    assert found is None or load_policy(found)
    with pytest.raises(SystemExit) as ended:
        main(["train", config.output, "--resume"])
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and said[-1].startswith("diffpo: ") and "No space left on device" in said[-1]


def test_a_fine_tuning_and_an_export_meet_a_full_disk(sft: SftConfig, start: str, small_disk: Path) -> None:
    from diffpo.models.export import export

    (small_disk / "ballast").write_bytes(bytes(500_000))
    with pytest.raises(OSError, match=r"could not be written \(No space left on device\)"):
        fine_tune(replace(sft, output=str(small_disk / "sft")), quiet=True)
    with pytest.raises(OSError, match=r"out: could not be written \(No space left on device\)"):
        export(start, small_disk / "out")
    assert not [path for path in small_disk.rglob("*") if path.name == "out" or "draft" in path.name]


def test_others_may_read_what_is_saved(start: str) -> None:
    modes = {path.stat().st_mode & 0o777 for path in (Path(start) / "policy").iterdir() if path.is_file()}
    assert len(modes) == 1


# --- the other ends of a run -------------------------------------------------------------------------------------


def test_out_of_memory_says_what_to_change(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB. More of it")

    monkeypatch.setattr(loop, "update", full)
    with pytest.raises(MemoryError, match=r"CUDA out of memory; change optim\.micro.*, then .*diffpo plan"):
        train(config, quiet=True)


def test_ctrl_c_in_the_middle_of_an_import_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise RuntimeError("Error calling __set_name__") from stop

    monkeypatch.setattr(loop, "train", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["train"])
    assert ended.value.code == 130 and capsys.readouterr().err == "diffpo: interrupted\n"
