"""docs/extend.md does what it says: its files are written as they stand, trained with, planned and measured."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from functional.test_latents import MASK, batch_of
from helpers import keys

from diffpo.cli import main
from diffpo.surrogates import load_surrogate
from diffpo.training.metrics import read_metrics

PAGE = (Path(__file__).parents[2] / "docs/extend.md").read_text()
FILES = dict(zip(("antithetic.py", "mine.py"), re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S), strict=True))
SMALL = ["--steps", "2", "--prompts-per-step", "6", "--num-generations", "4"]
SMALL += ["--task.easy", "1", "1", "--task.hard", "2", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        assert f"`{name}`" in PAGE
        Path(name).write_text(text)
    return tmp_path


def flags(command: str) -> list[list[str]]:
    """What the page types behind the recipe, or the model, of a command."""
    return [line.split()[1:] for line in re.findall(rf"^    diffpo {command} (.*)", PAGE, re.M)]


def test_the_surrogate_is_whole_in_forty_lines() -> None:
    assert len(FILES["antithetic.py"].splitlines()) <= 40


def test_its_commands_train(start: str) -> None:
    for number, typed in enumerate(flags("train")):
        output = f"run_{number}"
        main(["train", "sudoku_tiny_model", "--model", start, "--output", output, *SMALL, *typed])
        lines = read_metrics(Path(output) / "metrics.jsonl")
        assert len(lines) == 2 and any(line.get("model/grad_norm", 0) > 0 for line in lines)
        section, _, knob = typed[0].removeprefix("--").partition(".")
        assert json.loads((Path(output) / "config.json").read_text())[section][knob] == typed[1]


def test_its_commands_plan_and_analyze(start: str, capsys: pytest.CaptureFixture[str]) -> None:
    ((_, spec),) = flags("plan")
    main(["plan", "sudoku_tiny_model", "--model", start, *SMALL, "--objective.surrogate", spec, "--json"])
    phases = json.loads(capsys.readouterr().out)["phases"]
    assert phases["old log-probs"]["forwards"] == 2 * (6 + 6 * 4 * 4)  # two passes; five cuts, the first one a prompt's
    ((name, *specs),) = flags("analyze")
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
