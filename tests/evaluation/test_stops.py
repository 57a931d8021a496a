"""An evaluation that is stopped, by Ctrl-C or a full disk, says so in a line and goes on from what is answered."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from diffpo.cli import main
from diffpo.config import ModelConfig
from diffpo.evaluation import evaluate as module
from diffpo.evaluation.evaluate import Evaluation
from diffpo.models.policy import create_policy
from diffpo.rollout.engine import Engine, Event
from diffpo.tasks import load_task

FLAGS = ["--eval.samplers", "top_k:4", "--eval.gammas", "1", "--eval.num-prompts", "10", "--rollout.num-slots", "3"]
FLAGS += ["--task.name", "tiny_sudoku"]


@pytest.fixture
def measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Evaluates a tiny model into a folder of `tmp_path`, four answers at a time."""
    monkeypatch.setattr(module, "SAVE_EVERY", 4)
    alphabet = load_task("tiny_sudoku").alphabet
    create_policy(alphabet, ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16)).save_pretrained(
        tmp_path / "m"
    )
    return lambda folder: main(["eval", str(tmp_path / "m"), *FLAGS, "--output", str(tmp_path / folder)])


def rows(folder: Path) -> list[str]:
    path = folder / "completions.jsonl"
    return sorted(path.read_text().splitlines()) if path.is_file() else []


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_is_answered_and_the_same_command_goes_on(
    kind: signal.Signals,
    measure: Callable[[str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    decode, done = Engine.run, 0

    def interrupted(engine: Engine) -> Iterator[Event]:
        nonlocal done
        for event in decode(engine):
            yield event
            done += 1
            if done == 7:  # three of the second four
                signal.raise_signal(kind)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "run", interrupted)
        with pytest.raises(SystemExit) as ended:
            measure("a")
    last = capsys.readouterr().err.splitlines()[-1]
    path = tmp_path / "a/completions.jsonl"
    assert ended.value.code == 130
    assert last == f"diffpo: interrupted: 7 answers stand in {path}, and the same command goes on from them"
    kept = rows(tmp_path / "a")
    assert len(kept) == 7 and not (tmp_path / "a/evaluation.json").exists()
    measure("a")
    assert "7 of 20 answers reused" in capsys.readouterr().out
    main(["eval", str(tmp_path / "m"), *FLAGS, "--eval.gammas", "--output", str(tmp_path / "a")])
    assert "10 of 10 answers reused" in capsys.readouterr().out, "those that were asked for"
    measure("a")
    measure("b")
    assert set(kept) < set(rows(tmp_path / "a")) and rows(tmp_path / "a") == rows(tmp_path / "b")
    assert Evaluation.load(tmp_path / "a") == Evaluation.load(tmp_path / "b")


@contextmanager
def little_room(size: int) -> Iterator[None]:
    """No file may grow beyond `size` bytes: writes fail half-way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("room", "name"), [(500, "settings.json"), (2000, "completions.jsonl"), (12000, "frontier.png")]
)
def test_a_full_disk_is_one_line_and_no_half_file(
    measure: Callable[[str], None], tmp_path: Path, room: int, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with little_room(room), pytest.raises(SystemExit) as ended:
        measure("a")
    last = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and last.startswith("diffpo: ") and f"{name}: could not be written" in last
    assert not [path for path in (tmp_path / "a").rglob("*") if "draft" in path.name or path.suffix == ".png"]
    kept = rows(tmp_path / "a")
    assert all(json.loads(row) for row in kept) and len(kept) == {500: 0, 2000: 4, 12000: 20}[room]
    if name == "completions.jsonl":
        assert "4 answers stand in" in last and "the same command goes on from them" in last
    measure("a")
    measure("b")
    assert rows(tmp_path / "a") == rows(tmp_path / "b")
