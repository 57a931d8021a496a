"""Surrogates and losses by name: what a spec says, and every mistake in one line before any weight is read."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from functional.test_latents import batch_of
from helpers import keys

from diffpo.cli import main
from diffpo.config import ObjectiveConfig, TaskConfig, TrainConfig
from diffpo.config.objective import LOSSES, SURROGATES
from diffpo.config.own import find_in_file
from diffpo.losses import Loss, load_loss
from diffpo.losses.clipped import Clipped
from diffpo.objective import Objective
from diffpo.surrogates import Surrogate, load_surrogate
from diffpo.surrogates.mean_field import MeanField
from diffpo.training.loop import train

TASK = TaskConfig("tiny_sudoku")


def test_a_spec_is_a_call_without_brackets() -> None:
    assert load_surrogate("mean_field:3") == load_surrogate("mean_field:num_latents=3") == MeanField(3)
    assert load_surrogate("mean_field: 3, tokens ,prompt_mask_prob=0.15") == MeanField(3, "tokens", 0.15)
    assert load_surrogate("mean_field") == MeanField() and load_loss("clipped:inf").epsilon == float("inf")
    assert load_loss("clipped:ratio_level=call") == Clipped(ratio_level="call")
    default = ObjectiveConfig()
    assert Objective.of(default) == Objective(MeanField(2, "surprisal"), Clipped(0.2), default)


def test_whatever_ships_is_there() -> None:
    assert all(isinstance(load_surrogate(name), Surrogate) for name in SURROGATES)
    assert all(isinstance(load_loss(name), Loss) for name in LOSSES)


WRONG = [
    ("surrogate", "mean_fields", "no such name; did you mean 'mean_field'?"),
    ("surrogate", "mean_field:num_latent=3", "mean_field has no knob 'num_latent'; did you mean 'num_latents'?"),
    ("surrogate", "mean_field:two", "num_latents must be int, got two"),
    ("surrogate", "mean_field:1.5", "num_latents must be int, got 1.5"),
    ("surrogate", "mean_field:-1", "num_latents must be >= 0, got -1"),
    ("surrogate", "mean_field:2,num_latents=3", "num_latents is given twice"),
    ("surrogate", "mean_field:2,cut_law=token", "no cut_law 'token'; did you mean 'tokens'?"),
    ("surrogate", "mean_field:1,tokens", "cut_law does nothing without cuts"),
    ("surrogate", "mean_field:2,prompt_mask_prob=1", "prompt_mask_prob must lie in [0, 1), got 1.0"),
    ("surrogate", "mean_field:2,prompt_mask_prob=nan", "prompt_mask_prob must lie in [0, 1), got nan"),
    ("surrogate", "coupled:0", "num_pairs must be >= 1, got 0"),
    ("surrogate", "elbo:1,2", "more values than elbo has knobs; it has num_pairs"),
    ("surrogate", "elbo:num_pairs=1,2", "write elbo, and behind a colon VALUE,KNOB=VALUE"),
    ("surrogate", "none.py:Mine", "none.py: no such file; objective.surrogate takes PATH.py:CLASS"),
    ("loss", "clipped:0", "epsilon must be > 0, got 0.0"),
    ("loss", "clipped:nan", "epsilon must be > 0, got nan"),
    ("loss", "clipped:0.2,sequences", "no ratio_level 'sequences'; did you mean 'sequence'?"),
    ("loss", "wd1:1,2", "more values than wd1 has knobs; it has psi"),
    ("loss", "wd1:0", "psi must be > 0, got 0"),
    ("loss", "gdsd:inf", "psi must be finite, got inf"),
    ("loss", "spg:inf", "beta must be finite, got inf"),
]


@pytest.mark.parametrize(("knob", "spec", "error"), WRONG, ids=[spec for _, spec, _ in WRONG])
def test_a_mistake_is_one_line_before_any_weight_is_read(
    knob: str, spec: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "sudoku_tiny", f"--objective.{knob}", spec, "--dry-run"])
    assert ended.value.code == 2 and error in " ".join(capsys.readouterr().err.split())
    with pytest.raises(ValueError, match=re.escape(error)):
        train(TrainConfig("nowhere", str(tmp_path), task=TASK, objective=ObjectiveConfig(**{knob: spec})))


def test_wd1_has_no_objective_for_the_sampler(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"objective\.loss wd1 .*: set train to model"):
        train(TrainConfig("nowhere", str(tmp_path), task=TASK, objective=ObjectiveConfig(loss="wd1")))


def test_what_a_file_draws_is_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from diffpo import Cost, Surrogate\n"
        "class Mine(Surrogate):\n"
        "    def draw(self, batch, keys, mask_id): return batch.tokens\n"
        "    def cost(self, nfe): return Cost(1, 1)\n"
    )
    objective = Objective.of(ObjectiveConfig(surrogate=f"{file}:Mine"))
    with pytest.raises(ValueError, match=r"mine\.py:Mine: draw returns Latents of \(1, 3\), got tensor"):
        objective.draw(batch_of(["0"], [[1, 2, 3]], [3]), keys(1), 9)


OWN_KNOBS = """
from __future__ import annotations
from dataclasses import dataclass
from typing import Literal, Optional
from diffpo import Loss

@dataclass(frozen=True)
class Mine(Loss):
    share: float = 0.5
    limit: int | None = 4
    bar: Optional[float] = None
    law: Literal["even", "odd", 3] = "even"
    some: tuple[int, ...] = ()
    def gain(self, logprobs, lines): ...
"""


def test_a_knob_of_ones_own_is_what_its_type_says(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OWN_KNOBS)
    loss = vars(load_loss(f"{file}:Mine:0.25,8,bar=1,law=odd"))
    assert (loss["share"], loss["limit"], loss["bar"], loss["law"]) == (0.25, 8, 1.0, "odd")
    assert type(loss["bar"]) is float
    loss = vars(load_loss(f"{file}:Mine:limit=none,law=3"))
    assert loss["limit"] is None and loss["law"] == 3
    for knob, said in {
        "limit=1.5": "limit must be int, got 1.5",
        "law=evn": "no law 'evn'; did you mean 'even'?",
        "some=1": "some: a knob is int, float, bool, str or Literal",
    }.items():
        with pytest.raises(ValueError, match=re.escape(said)):
            load_loss(f"{file}:Mine:{knob}")
    file.write_text(OWN_KNOBS.replace("share: float", "share: Share"))
    with pytest.raises(ValueError, match="a type in Mine is not there when the file runs: name 'Share' is not defined"):
        load_loss(f"{file}:Mine:0.25")


def test_a_file_without_the_class(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("class Mine: ...\nclass Half(__import__('diffpo').Surrogate): ...\n")
    for name, error in (
        ("Mien", "has no class 'Mien'; did you mean 'Mine'?"),
        ("Mine", "Mine is no diffpo.Surrogate: class Mine(Surrogate)"),
        ("Half", "abstract"),
    ):
        with pytest.raises(ValueError, match=re.escape(error)):
            load_surrogate(f"{file}:{name}")


def test_what_a_file_imports_from_beside_it_is_read_again_where_it_has_changed(tmp_path: Path) -> None:
    """In a notebook the judge went on with what it was, and an evaluation gave its verdicts for the new ones."""
    (tmp_path / "judged.py").write_text("from judged_by import share\n\n\ndef judge(): return share()\n")
    (tmp_path / "judged_by.py").write_text("from judged_deep import VALUE\n\n\ndef share(): return VALUE\n")
    deep, found = tmp_path / "judged_deep.py", []
    for seconds, value in enumerate((1, 0, 0)):
        deep.write_text(f"VALUE = {value}\n")
        os.utime(deep, (10**9 + min(seconds, 1),) * 2)
        found.append((find_in_file(tmp_path / "judged.py", "judge", "function", "")(), sys.modules["judged_by"]))
    assert [value for value, _ in found] == [1, 0, 0]
    assert found[0][1] is not found[1][1] and found[1][1] is found[2][1]  # nor is it loaded twice for nothing
