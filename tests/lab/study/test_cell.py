"""One cell: trains, measures at its points, and says the same whether or not it was killed on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from helpers import FirstDigitTask
from lab.study.studies import write_study

from diffpo.config import EvalConfig, ModelConfig, TaskConfig
from diffpo.evaluation.evaluate import Evaluation, evaluate
from diffpo.lab.study import cell as module
from diffpo.lab.study.cell import distinct_prompts, run_cell
from diffpo.lab.study.plan import Cell, Study, load_study
from diffpo.lab.study.summary import figures, track
from diffpo.models.policy import create_policy, load_policy
from diffpo.tasks import load_task
from diffpo.training.metrics import read_metrics


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return load_study(write_study(tmp_path_factory.mktemp("study")))


def make(cell: Cell, folder: Path, model: Path | str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cell.json").write_text(json.dumps(cell.settings() | {"model": str(model), "device": "cpu"}))
    return folder


@pytest.fixture(scope="module")
def base(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(study.base_cells()[0], tmp_path_factory.mktemp("cells") / "base")
    run_cell(folder)
    return folder


@pytest.fixture(scope="module")
def arm(study: Study, base: Path) -> Path:
    folder = make(study.cells(study.arms[0], {})[0], base.parent / "one", base / "run")
    run_cell(folder)
    return folder


def test_the_start_is_trained_and_measured(base: Path) -> None:
    result = json.loads((base / "result.json").read_text())
    assert [point["step"] for point in result["points"]] == [0] and result["points"][0]["forwards"] == 0
    assert (base / "run/policy").is_dir() and not (base / "run/checkpoints").exists()
    assert {"commit", "cpu", "cores", "torch"} <= result["origin"].keys()


def test_an_arm_is_measured_at_its_points_and_its_cost_added_up(study: Study, arm: Path) -> None:
    points = track(arm)
    assert [point["step"] for point in points] == [1, 2]
    steps = read_metrics(arm / "run/metrics.jsonl")
    assert [point["forwards"] for point in points] == [step["forwards"] for step in steps]
    assert points[0]["seconds"] == pytest.approx(steps[0]["time/step_seconds"], abs=1e-3)
    assert all({"accuracy/top_k:8", "nfe/top_k:8"} <= point.keys() for point in points)
    found = figures(arm, study.cells(study.arms[0], {})[0], study)
    assert found["accuracy/own"] == found["accuracy/top_k:8"] == points[-1]["accuracy/top_k:8"]
    assert found["updates"] == 2 * 2 and found["forwards"] == points[-1]["forwards"]
    assert found["nfe/top_k:8"] == 2 and {"accuracy/entropy_bound:3", "accuracy/top_k:8/hard"} <= found.keys()


def test_it_measures_what_evaluate_measures(arm: Path, study: Study) -> None:
    policy, task = load_policy(arm / "run"), load_task(study.train.task)
    wanted = EvalConfig(samplers=("top_k:8",), gammas=(0.5, 3.0), num_prompts=24)
    expected = evaluate(policy, task, wanted, quiet=True)
    measured = Evaluation.load(arm / "points/000002")
    if len({prompt.text for prompt in task.prompts("test", 24)}) == 24:  # else it drew others in their place
        assert measured == expected
    record = json.loads((arm / "points/000002/answers.json").read_text())
    assert record["correct"].keys() == {"top_k:8", "entropy_bound:0.5", "entropy_bound:3"}
    assert record["gen_length"] == 16 and set(record["nfe"]["top_k:8"]) == {2}
    for spec, right in record["correct"].items():
        assert right.count("1") / len(right) == measured.point(spec).accuracy


@pytest.mark.parametrize("when", ["training", "measuring"])
def test_a_cell_that_was_killed_goes_on_to_the_same_result(
    when: str, study: Study, base: Path, arm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(study.cells(study.arms[0], {})[0], tmp_path / "one", base / "run")

    def killed_after(count: int, original: Callable) -> Callable:  # type: ignore[type-arg]
        def call(*arguments, **named):  # type: ignore[no-untyped-def]
            nonlocal count
            count -= 1
            if count < 0:
                raise KeyboardInterrupt
            return original(*arguments, **named)

        return call

    name = {"training": "train", "measuring": "_measure"}[when]
    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed_after(0 if when == "training" else 1, getattr(module, name)))
        with pytest.raises(KeyboardInterrupt):
            run_cell(folder)
    assert not (folder / "result.json").exists()
    run_cell(folder)
    for step in ("000001", "000002"):
        for file in ("evaluation.json", "answers.json"):
            assert (folder / "points" / step / file).read_text() == (arm / "points" / step / file).read_text()


def test_a_cell_ends_with_a_runner_that_was_killed() -> None:
    program = "import time; from diffpo.lab.study.cell import end_with_runner; end_with_runner(); time.sleep(300)"
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    process.communicate(timeout=120)  # closes the pipe, as the runner's death does
    assert process.returncode == -signal.SIGTERM


def test_a_run_that_lost_metrics_is_not_taken_for_a_cheap_one(arm: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(arm, tmp_path / "one"))
    (folder / "result.json").unlink()
    rows = (folder / "run/metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "run/metrics.jsonl").write_text(rows[0])
    shutil.copytree(folder / "run/policy", folder / "run/checkpoints/step_000002/policy")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="has 1 of 2 steps: remove"):
        patch.setattr(module, "train", lambda *_, **__: None)
        run_cell(folder)


def test_a_point_that_was_cut_short_is_measured_again(arm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    shutil.copytree(arm, folder)
    (folder / "points/000002/answers.json").unlink()
    cell = json.loads((folder / "cell.json").read_text())
    module._measure(cell, folder, 2, arm / "run", last=True)
    assert (folder / "points/000002/answers.json").read_text() == (arm / "points/000002/answers.json").read_text()


def test_the_calls_of_an_answer_are_those_that_training_pays_for(tmp_path: Path) -> None:
    """Which decodes no further than the EOS, where a measured point has calls for the whole canvas."""
    task = {"name": "tiny_arithmetic", "easy": [2, 3], "hard": [3, 4]}
    policy = create_policy(load_task(TaskConfig(**task)).alphabet, ModelConfig(32, 1, 2, 32), seed=0)
    with torch.no_grad():  # one that often says nothing but EOS
        policy.denoiser.head.weight.zero_()
        policy.denoiser.head.weight[policy.eos_id] = 3.0
    policy.save_pretrained(tmp_path / "policy")
    wanted = {"track": ["top_k:1"], "samplers": [], "gammas": [], "num_prompts": 16, "skip_prompts": 0}
    cell = wanted | {"device": "cpu", "task": task, "rollout": {}}
    module._measure(cell, tmp_path, 1, tmp_path / "policy", last=True)
    record = json.loads((tmp_path / "points/000001/answers.json").read_text())
    point = Evaluation.load(tmp_path / "points/000001").point("top_k:1")
    assert fmean(record["nfe"]["top_k:1"]) == point.nfe_until_eos < point.nfe


def test_prompts_are_distinct_and_those_of_tuning_are_others() -> None:
    task = FirstDigitTask()  # 21 texts, over and over
    assert [prompt.id for prompt in distinct_prompts(task, 3)] == ["test-0", "test-1", "test-2"]
    everything = distinct_prompts(task, 100)
    assert len({prompt.text for prompt in everything}) == len(everything) == 21
    own, tuning = distinct_prompts(task, 12), distinct_prompts(task, 6, skip=12)
    assert not {prompt.text for prompt in own} & {prompt.text for prompt in tuning} and len(tuning) == 6
    with pytest.raises(ValueError, match=r"fake has 21 distinct test prompts: lower measure\.num_prompts"):
        distinct_prompts(task, 6, skip=21)


def test_a_test_set_that_ends_is_taken_whole() -> None:
    class Short(FirstDigitTask):
        def prompts(self, split: str, num: int, start: int = 0) -> list:  # type: ignore[type-arg]
            return super().prompts(split, max(0, min(num, 5 - start)), start)

    assert len(distinct_prompts(Short(), 12)) == 5
