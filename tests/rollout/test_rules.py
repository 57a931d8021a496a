"""A user's own unmasking rule: one file, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import request, tiny_policy
from rollout.test_engine import assert_same

from diffpo.config import EvalConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.files.record import anchored_rules
from diffpo.rollout.engine import generate
from diffpo.rollout.rules import load_rule
from diffpo.training.banner import open_inputs
from diffpo.types import Sampler

FILE = """
from __future__ import annotations
from dataclasses import dataclass
import torch
from diffpo import Rule, Seen

@dataclass(frozen=True)
class Surest(Rule):
    count: float
    def __call__(self, seen: Seen) -> torch.Tensor:
        order = seen.max_prob.masked_fill(~seen.candidates, -1).sort(dim=-1, descending=True, stable=True).indices
        rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
        return torch.zeros_like(seen.candidates).scatter(-1, order, rank < self.count)

@dataclass(frozen=True)
class Drawn(Rule):
    looks_at = frozenset(["lottery", "margin"])
    share: float
    def __call__(self, seen: Seen) -> torch.Tensor:
        return (seen.lottery < self.share) & (seen.margin >= 0)

@dataclass(frozen=True)
class Nothing(Rule):
    number: float
    def __call__(self, seen: Seen) -> torch.Tensor:
        return torch.zeros_like(seen.candidates)

@dataclass(frozen=True)
class Scores(Rule):
    number: float
    def __call__(self, seen: Seen) -> torch.Tensor:
        return seen.max_prob

class Plain(Rule): ...

def function(seen): ...
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    (tmp_path / "my_rules.py").write_text(FILE)
    return str(tmp_path / "my_rules.py")


def test_an_own_rule_decodes_as_the_shipped_one_that_it_repeats(rules: str) -> None:
    policy = tiny_policy()
    own, shipped = (
        generate(policy, [request("012", key, spec, 10, block_length=4) for key in range(6)])
        for spec in (f"{rules}:Surest:2", "top_k:2")
    )
    for ours, theirs in zip(own, shipped, strict=True):
        assert_same(ours, theirs, exact=True)


def test_what_an_own_rule_looks_at_is_there_and_does_not_depend_on_the_batch(rules: str) -> None:
    policy = tiny_policy()
    asked = [request("012", key, (f"{rules}:Drawn:0.4", "top_k:1", "margin:2")[key % 3]) for key in range(12)]
    together = generate(policy, asked, num_slots=5)
    for each, completion in zip(asked, together, strict=True):
        assert_same(completion, generate(policy, [each])[0], exact=True)
    drawn = torch.cat([completion.committed_at for completion in together[::3]])
    assert len(drawn.unique()) > 2


def test_a_rule_that_chooses_nothing_commits_the_surest(rules: str) -> None:
    policy = tiny_policy()
    ours, theirs = generate(policy, [request(sampler=f"{rules}:Nothing:0"), request(sampler="top_k:1")])
    assert_same(ours, theirs, exact=True)


@pytest.mark.parametrize("sampler", ["top_k:1e30", "entropy_bound:1e300"])
def test_a_number_beyond_every_canvas_commits_all(sampler: str) -> None:
    assert generate(tiny_policy(), [request(sampler=sampler)])[0].nfe == 1


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ("Absent:1", "has no class 'Absent'.*it has .*Surest"),
        ("function:1", "function is no diffpo.Rule"),
        ("Plain:1", "Plain takes one number"),
    ],
)
def test_what_is_no_rule_is_one_line(rules: str, spec: str, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        load_rule(Sampler.parse(f"{rules}:{spec}"))


def test_an_own_rule_is_found_before_any_weight_is_read(rules: str) -> None:
    config = TrainConfig(train="model", task=TaskConfig("tiny_sudoku"))
    for spec, error in ((f"{rules}:Absent:1", "has no class"), ("absent.py:Rule:1", "no such file")):
        for wrong in (
            replace(config, rollout=RolloutConfig(sampler=spec)),
            replace(config, rollout=RolloutConfig(sampler="top_k:1"), eval=EvalConfig(samplers=(spec,))),
        ):
            with pytest.raises(ValueError, match=error):
                open_inputs(wrong)
    right = replace(config, rollout=RolloutConfig(sampler=f"{rules}:Surest:2"))
    assert open_inputs(right) == [f"rule    {rules}:Surest:2"]


def test_a_policy_remembers_an_own_rule_wherever_it_is_loaded(rules: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(rules).parent)
    assert anchored_rules(RolloutConfig(sampler="my_rules.py:Surest:2")).sampler == f"{rules}:Surest:2"
    assert anchored_rules(EvalConfig(samplers=("top_k:1", "my_rules.py:Surest:2"))).samplers == (
        "top_k:1",
        f"{rules}:Surest:2",
    )


def test_other_mistakes_are_one_line(rules: str) -> None:
    with pytest.raises(ValueError, match=r"a bool tensor of shape \(1, 8\), got torch.float32 \(1, 8\)"):
        generate(tiny_policy(), [request(sampler=f"{rules}:Scores:1")])
    with pytest.raises(ValueError, match=r"write PATH.py:CLASS:NUMBER"):
        Sampler.parse(f"{rules}:Surest")
    with pytest.raises(ValueError, match=r"absent.py: no such file; rollout.sampler takes PATH.py:CLASS:NUMBER"):
        load_rule(Sampler.parse("absent.py:Rule:1"))
    with pytest.raises(ValueError, match=r"unknown rule.*did you mean 'top_k'.*your own: PATH.py:CLASS:NUMBER"):
        Sampler.parse("topk:2")
