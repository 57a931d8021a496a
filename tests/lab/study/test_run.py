"""The runner: what is done is skipped, what differs is refused, what fails is named and the rest goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from lab.study.studies import NO_PRETRAINING, TINY, write_study

from diffpo.lab.study import run
from diffpo.lab.study.plan import Study, load_study
from diffpo.lab.study.run import Runner
from diffpo.view.progress import Progress

FAKE = """
import json, os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
with (folder.parents[1] / "started.txt").open("a") as file:
    file.write(f"{folder.parent.name}/{folder.name}\\n")
cell = json.loads((folder / "cell.json").read_text())
assert os.environ["OMP_NUM_THREADS"] == "1"
if (folder.parents[1] / "slow").exists():
    time.sleep(60)
if (folder.parents[1] / "broken").exists() and folder.parent.name == "one" and folder.name == "seed_1":
    print("\\n".join(f"line {number}" for number in range(40)))
    sys.exit("it went wrong")
(folder / "result.json").write_text("{}")
"""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return load_study(write_study(tmp_path))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where cells go, each a process that does next to nothing."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(run, "COMMAND", (sys.executable, str(tmp_path / "fake.py")))
    (tmp_path / "cells").mkdir()
    return tmp_path / "cells"


def started(folder: Path) -> list[str]:
    path = folder / "started.txt"
    names = path.read_text().split() if path.is_file() else []
    path.unlink(missing_ok=True)
    return sorted(names)


def run_all(runner: Runner, study: Study) -> None:
    arm = study.arms[0]
    with Progress("test", 6, quiet=True) as progress:
        runner.run(study.base_cells(), progress)
        runner.run(study.cells(arm, {}), progress)


def test_each_cell_runs_once_and_is_then_skipped(study: Study, folder: Path) -> None:
    run_all(Runner(study, folder, jobs=2), study)
    names = [f"base/seed_{seed}" for seed in (0, 1, 100, 101)]
    assert started(folder) == [*names, "one/seed_0", "one/seed_1"]
    record = json.loads((folder / "one/seed_1/cell.json").read_text())
    assert record["model"] == str(folder / "base/seed_1/run") and record["train"]["seed"] == 1
    assert record["device"] == "cpu"
    (folder / "one/seed_0/result.json").unlink()  # as if it had been killed
    run_all(Runner(study, folder, jobs=2), study)
    assert started(folder) == ["one/seed_0"]


def test_time_is_left_for_what_is_missing_alone(study: Study, folder: Path) -> None:
    """Cells that an earlier call had done, wherever they stand, are no part of what is to come."""
    run_all(Runner(study, folder, jobs=1), study)
    (folder / "one/seed_0/result.json").unlink()
    cells, told = study.cells(study.arms[0], {}), list[str]()

    class Told(Progress):
        def found(self) -> None:
            told.append("found")

        def advance(self, **figures: float) -> None:
            told.append("done")

    Runner(study, folder, jobs=1).run(cells, Told("test", len(cells), quiet=True))
    assert told == ["found", "done"]


def test_where_the_models_are_is_the_runners_and_no_other_setting(study: Study, folder: Path) -> None:
    runner = Runner(study, folder, jobs=1, device="cuda:1")
    with Progress("test", 1, quiet=True) as progress:
        runner.run(study.base_cells()[:1], progress)
    assert json.loads((folder / "base/seed_0/cell.json").read_text())["device"] == "cuda:1"
    Runner(study, folder, jobs=1).check(study.base_cells())  # what a GPU has done is done


def test_a_failure_is_named_with_the_end_of_its_log_and_the_rest_goes_on(
    study: Study, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken").touch()
    runner = Runner(study, folder, jobs=1)
    with Progress("test", 6) as progress:
        runner.run(study.base_cells(), progress)
        runner.run(study.cells(study.arms[0], {}), progress)
    assert list(runner.failed) == ["one/seed_1"] and (folder / "one/seed_0/result.json").is_file()
    said = capsys.readouterr().err
    assert "one/seed_1 failed: exit status 1" in said and "it went wrong" in said
    assert "line 39" in said and "line 20" not in said
    with pytest.raises(ValueError, match=r"1 cells failed \(one/seed_1\).*what is done is kept") as caught:
        runner.raise_failures()
    assert "\n" not in str(caught.value)
    (folder / "broken").unlink()
    started(folder)
    again = Runner(study, folder, jobs=1)
    run_all(again, study)
    assert started(folder) == ["one/seed_1"] and not again.failed


def test_arms_of_a_start_that_failed_are_left_out(study: Study, folder: Path) -> None:
    runner = Runner(study, folder, jobs=1)
    runner.failed["base/seed_0"] = "because"
    with Progress("test", 2, quiet=True) as progress:
        runner.run(study.cells(study.arms[0], {}), progress)
    assert started(folder) == ["one/seed_1"]
    assert runner.failed["one/seed_0"] == "its start, base/seed_0, failed"


def test_cells_of_other_settings_are_refused(study: Study, folder: Path, tmp_path: Path) -> None:
    run_all(Runner(study, folder, jobs=2), study)
    changed = TINY.replace("mean_field:1", "mean_field:3").replace("num_prompts = 24", "num_prompts = 25")
    other = load_study(write_study(tmp_path, changed))
    runner = Runner(other, folder, jobs=1)
    with pytest.raises(ValueError) as caught:
        runner.check(other.cells(other.arms[0], {}))
    assert str(caught.value).startswith(f"{folder}/one/seed_0 was made with other settings")
    assert "(train.objective.surrogate, num_prompts)" in str(caught.value)
    Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))


def test_cells_of_another_start_are_refused(folder: Path, tmp_path: Path) -> None:
    def runner(model: str) -> tuple[Runner, Study]:
        study = load_study(write_study(tmp_path, NO_PRETRAINING.replace("[train]\n", f"[train]\nmodel = {model!r}\n")))
        return Runner(study, folder, jobs=1), study

    (tmp_path / "start").mkdir()
    (tmp_path / "start/weights").write_text("old")
    run_all(*runner(str(tmp_path / "start")))
    assert len(started(folder)) == 3
    run_all(*runner(str(tmp_path / "start")))
    again, study = runner(str(tmp_path / "start"))
    again.check(study.cells(study.arms[0], {}))
    (tmp_path / "start/weights").write_text("trained anew")
    for model in (str(tmp_path / "start"), "GSAI-ML/LLaDA-8B-Instruct"):
        other, study = runner(model)
        with pytest.raises(ValueError, match=r"made with other settings \(inputs.train.model\)"):
            other.check(study.cells(study.arms[0], {}))


def test_cells_of_a_start_that_was_made_anew_are_refused(study: Study, folder: Path) -> None:
    """The arms of a start whose folder was removed, as the refusal of its settings says, are of the one before."""
    policy = folder / "base/seed_1/run/policy"
    policy.mkdir(parents=True)
    (policy / "weights").write_text("old")
    run_all(Runner(study, folder, jobs=2), study)
    Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))
    (policy / "weights").write_text("made anew")
    with pytest.raises(ValueError, match=r"one/seed_1 was made with other settings \(start_weights\)"):
        Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))


@pytest.mark.parametrize("place", ["arm", "measure"])
def test_cells_whose_own_code_has_changed_are_refused(place: str, folder: Path, tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    changes = {
        "arm": ('label = "MF"', f'objective.loss = "{code}:Mine"'),
        "measure": ('samplers = ["top_k:8"]', f'samplers = ["top_k:8", "{code}:Rule:0.5"]'),
    }
    text = TINY.replace(*changes[place])
    code.write_text("from diffpo.losses.clipped import Clipped as Mine\n")
    study = load_study(write_study(tmp_path, text))
    run_all(Runner(study, folder, jobs=2), study)
    Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))
    code.write_text("from diffpo.losses.wd1 import Wd1 as Mine\n")
    name = {"arm": "objective.loss", "measure": "eval.samplers"}[place]
    with pytest.raises(ValueError, match=rf"one/seed_0 was made with other settings \(inputs.train.{name}\)"):
        Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))


def test_a_setting_that_is_new_since_then_is_at_its_default(study: Study, folder: Path) -> None:
    run_all(Runner(study, folder, jobs=2), study)
    path = folder / "one/seed_0/cell.json"
    record = json.loads(path.read_text())
    del record["train"]["objective"]["beta"]  # 0
    path.write_text(json.dumps(record))
    Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))
    record["train"]["objective"]["gone"] = 3
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"train\.objective\.gone"):
        Runner(study, folder, jobs=1).check(study.cells(study.arms[0], {}))


def test_the_best_mean_is_chosen_and_the_first_of_equals(
    study: Study, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"two/tune_0": [0.25, 0.5], "two/tune_1": [0.5, 0.25]}

    def fake(place: Path, cell: object, study: Study) -> dict[str, float]:
        trial, _, seed = str(place.relative_to(folder)).rpartition("/seed_")
        return {"accuracy/top_k:8": found[trial][int(seed) - 100]}

    monkeypatch.setattr(run, "figures", fake)
    runner, trials = Runner(study, folder, jobs=1), study.tune_cells(study.arms[1])
    assert runner.choose(trials) == {"optim.learning_rate": 1e-4}  # of equals the first
    found["two/tune_1"] = [0.5, 0.375]
    assert runner.choose(trials) == {"optim.learning_rate": 3e-4}
    assert runner.choose([]) == {}
    monkeypatch.setattr(run, "figures", lambda *_: {"accuracy/top_k:4": 1.0})
    with pytest.raises(ValueError, match=r"tune\.metric 'accuracy/top_k:8' is not measured: one of accuracy/top_k:4"):
        runner.choose(trials)


def begun(study: Study, folder: Path, command: Sequence[str], jobs: int) -> subprocess.Popen[bytes]:
    """A process of its own that runs the study's first cells, `command` each, once one of them has started."""
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from diffpo.view.progress import Progress
        from diffpo.lab.study import run
        from diffpo.lab.study.plan import load_study
        run.COMMAND = {tuple(command)!r}
        study = load_study({str(study.path)!r})
        with Progress("test", 4, quiet=True) as progress:
            run.Runner(study, Path({str(folder)!r}), jobs={jobs}).run(study.base_cells(), progress)
    """)
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (folder / "started.txt").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


def test_an_interrupt_ends_the_cells_as_well(study: Study, folder: Path) -> None:
    (folder / "slow").touch()
    process = begun(study, folder, run.COMMAND, jobs=2)
    os.kill(process.pid, signal.SIGINT)  # the runner alone, not its children
    assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
    assert len(started(folder)) <= 2 and not list(folder.rglob("result.json"))


def test_ctrl_c_in_a_terminal_is_one_wish_to_a_cell(study: Study, folder: Path) -> None:
    """The whole group has the signal, and the runner passes its own on: a cell that hears both stops at once."""
    listening = """
    import json, signal, sys, time
    from pathlib import Path
    folder = Path(sys.argv[1])
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: heard.append(number))
    (folder.parents[1] / "started.txt").touch()
    while not heard:
        time.sleep(0.05)
    time.sleep(1)  # it saves
    (folder / "heard.json").write_text(json.dumps(heard))
    """
    process = begun(study, folder, (sys.executable, "-c", textwrap.dedent(listening)), jobs=1)
    os.killpg(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=20)[1]
    (heard,) = folder.rglob("heard.json")
    assert json.loads(heard.read_text()) == [signal.SIGTERM]
