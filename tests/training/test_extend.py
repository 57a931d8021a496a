"""docs/extend.md does what it says: its files are written as they stand, trained with, planned and measured."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from functional.test_latents import MASK, batch_of
from helpers import keys

from diffpo.cli import main
from diffpo.config import SftConfig, TaskConfig
from diffpo.models.policy import load_policy
from diffpo.rollout.local import sample
from diffpo.surrogates import load_surrogate
from diffpo.tasks import load_solved_task, load_task
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import fine_tune

PAGE = (Path(__file__).parents[2] / "docs/extend.md").read_text()
FILES = dict(re.findall(r"`(\w+\.py)`[^`]*\n\n```python\n(.*?)^```", PAGE, re.M | re.S))
COMMANDS = [shlex.split(line) for line in re.findall(r"^    diffpo (.*)", PAGE, re.M)]
SMALL = ["--steps", "2", "--prompts-per-step", "6", "--num-generations", "4", "--output", "run"]
SUDOKU = ["--task.easy", "1", "1", "--task.hard", "2", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)
    return tmp_path


def command(word: str, file: str) -> list[str]:
    """The command of the page that begins with `word` and names `file`."""
    (found,) = (typed for typed in COMMANDS if typed[0] == word and any(file in part for part in typed))
    return found


def trained() -> list[dict[str, float]]:
    lines = read_metrics(Path("run/metrics.jsonl"))
    assert len(lines) == 2
    return lines


def test_examples_are_whole_and_short() -> None:
    assert len(FILES) == PAGE.count("```python") == 9
    for name, text in FILES.items():
        assert 15 <= len(text.splitlines()) <= 40, name


@pytest.mark.parametrize("file", ["antithetic.py", "unclipped.py", "rules.py", "curved.py", "sheet.py"])
def test_its_commands_train(file: str, start: str) -> None:
    typed = command("train", file)
    main([*typed, "--model", start, *SMALL, *SUDOKU])
    assert any(line.get("model/grad_norm", 0) > 0 for line in trained())
    flag, value = typed[2].removeprefix("--").replace("-", "_"), typed[3]
    written = json.loads(Path("run/config.json").read_text())
    for part in flag.split("."):
        written = written[part]
    assert value in (written, *(written if isinstance(written, list) else ()))


def test_its_commands_plan_and_analyze(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    *_, spec = command("plan", "antithetic.py")
    main(["plan", "sudoku_tiny_model", "--model", start, *SMALL, *SUDOKU, "--objective.surrogate", spec, "--json"])
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert phases["old log-probs"]["forwards"] == 2 * (6 + 6 * 4 * 4)  # two passes; five cuts, the first one a prompt's
    _, _, name, *specs = command("analyze", "antithetic.py")
    few = ["--analysis.parts", "gradients", "--analysis.num-prompts", "6", "--analysis.num-generations", "4"]
    few += ["--analysis.gradient-batches", "3", "--analysis.clamps", "0", "--task.name", "tiny_sudoku"]
    main(["analyze", start, *few, "--rollout.sampler", "top_k:2", "--json", "found.json", name, *specs])
    found = json.loads(Path("found.json").read_text())["sections"][0]["series"][0]["x"]
    assert found[-3:] == specs


def test_its_cuts_come_in_pairs_and_cost_what_it_says() -> None:
    surrogate = load_surrogate("antithetic.py:Antithetic:num_pairs=2")
    batch = batch_of([str(row // 4) for row in range(32)], [list(range(1, 17))] * 32, [16] * 32)
    drawn = surrogate.draw(batch, keys(32), MASK)
    shown = [16 - int((sequence == MASK).sum()) for sequence in drawn.sequences]
    for row in range(32):
        taus = [tau for tau, owner in zip(shown, drawn.owners.tolist(), strict=True) if owner == row and tau]
        assert sorted(16 - tau for tau in taus) == sorted(taus) and 2 <= len(taus) <= 4  # 8 is its own other
    assert len(drawn) <= surrogate.cost(16).latents(rows=32, prompts=8) == 32 * 4 + 8
    with pytest.raises(ValueError, match=r"objective.surrogate 'antithetic\.py:Antithetic:0': num_pairs must be >= 1"):
        load_surrogate("antithetic.py:Antithetic:0")
    assert torch.equal(drawn.sequences, surrogate.draw(batch, keys(32), MASK).sequences)


def test_its_task_is_learned_from_nothing_and_remembered(capsys: pytest.CaptureFixture[str]) -> None:
    sft, rl = command("sft", "reverse.py"), command("train", "reverse.py")
    small = ["--shape.hidden-size", "32", "--shape.num-layers", "1", "--shape.num-heads", "2", "--num-examples", "200"]
    main([*sft, *small, "--steps", "2"])
    main([*rl, *SMALL[:6]])
    (line, _) = read_metrics(Path("runs/reverse_rl/metrics.jsonl"))
    assert 0 <= line["reward"] < 1
    policy = load_policy("runs/reverse_rl")
    assert policy.task is not None and policy.task.name == f"{Path('reverse.py').resolve()}:Reverse"
    task = load_task(policy.task)
    asked = {split: {prompt.text for prompt in task.prompts(split, 200)} for split in ("train", "test")}
    assert not asked["train"] & asked["test"] and task.prompts("test", 5) == task.prompts("test", 2) + task.prompts(
        "test", 3, start=2
    )
    prompt = task.prompts("test", 1)[0]
    assert task.verify(prompt, load_solved_task(policy.task).solution(prompt)).correct
    assert len(sample(policy, [prompt])) == 1
    Path("reverse.py").write_text(FILES["reverse.py"] + "# changed\n")
    main(["train", "runs/reverse_rl", "--resume", "--steps", "3"])
    said = " ".join(capsys.readouterr().err.split())
    assert "data reverse, generated; its own verdicts" in said and "reverse.py (task.name) has changed" in said


def test_its_rewards_judge_rows(start: str) -> None:
    prompts = load_task(TaskConfig("tiny_sudoku", easy=(1, 1), hard=(2, 2))).prompts("train", 20)
    Path("my.jsonl").write_text("".join(json.dumps({"prompt": prompt.text}) + "\n" for prompt in prompts))
    main([*command("train", "rewards.py"), "--model", start, *SMALL])
    first, second = trained()
    assert first["logged/all_digits"] <= first["rewards/digits/mean"] <= 1
    assert first["rewards/unusual/mean"] is not None and second["rewards/unusual/mean"] is None


def test_its_head_is_linear_until_it_is_not(start: str) -> None:
    typed = [*command("train", "curved.py"), "--model", start, *SMALL, *SUDOKU, "--threshold.delay-steps", "0"]
    main(typed)
    head = load_policy("run").sampler_head
    assert head is not None and type(head).__name__ == "Curved" and head.curvature.abs().max() > 0
    Path("curved.py").rename("moved.py")
    with pytest.raises(ValueError, match=r"curved\.py: no such file; threshold\.network takes PATH\.py:CLASS"):
        load_policy("run")


def test_its_tracker_goes_on_where_a_run_does(start: str) -> None:
    main([*command("train", "sheet.py"), "--model", start, *SMALL, *SUDOKU])
    main(["train", "run", "--resume", "--steps", "3"])
    head, *rows = Path("run/sheet.csv").read_text().splitlines()
    assert head == "step,reward,accuracy,nfe" and [row[:2] for row in rows] == ["0,", "1,", "2,"]


def run_script(name: str, start: str) -> str:
    """What a script of the page says, in three steps from the tests' model."""
    recipe = 'load_config(TrainConfig, "sudoku_tiny_model")'
    assert recipe in FILES[name]
    changed = f"replace({recipe}, model={start!r}, output='run', steps=3, prompts_per_step=6)"
    Path(name).write_text("from dataclasses import replace\n" + FILES[name].replace(recipe, changed))
    done = subprocess.run([sys.executable, name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_collector_hands_on_what_differs(start: str) -> None:
    run_script("spread.py", start)
    assert [line["frac_reward_zero_std"] for line in read_metrics(Path("run/metrics.jsonl"))] == [0, 0, 0]


def test_its_loop_runs(start: str) -> None:
    said = run_script("my_loop.py", start)
    made = load_policy("runs/curriculum").version - load_policy(start).version
    assert len(said.splitlines()) == 3 and made == 3 * 2


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (
            "--task.name reverse.py:Random",
            "task.name 'reverse.py:Random': Random is no diffpo.Task: class Random(Task)",
        ),
        ("--log-with sheet.py:Path", "log_with 'sheet.py:Path': Path is no diffpo.Tracker: class Path(Tracker)"),
        ("--log-with tensorbord", "log_with: unknown tracker 'tensorbord'"),
        ("--task.name absent.py:Task", "absent.py: no such file; task.name takes PATH.py:CLASS"),
    ],
)
def test_what_is_no_such_object_is_one_line(typed: str, said: str, start: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "sudoku_tiny_model", "--model", start, *SMALL, *typed.split()])
    assert stop.value.code == 2 and said in " ".join(capsys.readouterr().err.split())


def test_a_task_without_solutions_cannot_be_pre_trained_on() -> None:
    text = FILES["reverse.py"].replace("PretrainingTask", "Task")
    Path("reverse.py").write_text(text)
    with pytest.raises(ValueError, match=r"Reverse is no diffpo\.PretrainingTask"):
        fine_tune(SftConfig(output="st", task=TaskConfig("reverse.py:Reverse")), quiet=True)
    Path("reverse.py").write_text(text.replace("def verify", "def judge"))
    with pytest.raises(ValueError, match=r"task\.name .*abstract method '?verify"):
        load_task("reverse.py:Reverse")
