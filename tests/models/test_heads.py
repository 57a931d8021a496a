"""Sampler heads of a user's own: what they may hold, and what is refused."""

from pathlib import Path

import pytest
import torch

from diffpo.config import BernoulliConfig, ThresholdConfig
from diffpo.models.heads import check_head, make_head
from diffpo.models.threshold import ThresholdHead

SIZE = 12
OWN = """
from torch import nn
from diffpo import BernoulliHead, ThresholdHead

class Deep(ThresholdHead):
    def __init__(self, hidden_size, config):
        super().__init__(hidden_size, config)
        self.net = nn.Sequential(nn.Linear(hidden_size, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 1))
        nn.init.zeros_(self.net[-1].weight)
        nn.init.zeros_(self.net[-1].bias)
    def score(self, x):
        return super().score(x) + self.net(x).squeeze(-1)

class Random(Deep):
    def __init__(self, hidden_size, config):
        super().__init__(hidden_size, config)
        nn.init.ones_(self.net[-1].weight)

class Wide(ThresholdHead):
    def score(self, x):
        return super().score(x)[..., None]

class Bare(ThresholdHead):
    def __init__(self):
        pass

class Narrow(BernoulliHead):
    def forward(self, features):
        return super().forward(features).sum(-1)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN)
    return tmp_path


def deep(seed: int = 0) -> ThresholdHead:
    head = make_head(ThresholdConfig(network="own.py:Deep"), SIZE, seed)
    assert isinstance(head, ThresholdHead)
    return head


@pytest.mark.usefixtures("folder")
def test_what_its_layers_draw_follows_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    first, again, other = (deep(seed).state_dict()["net.0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.usefixtures("folder")
def test_features_are_standardised_above_layers_that_begin_at_random() -> None:
    head = deep()
    check_head(head)
    features = 5 + torch.randn(50, SIZE, generator=torch.Generator().manual_seed(0))
    head.observe(features)
    torch.testing.assert_close(head.mean, features.mean(0))
    with torch.no_grad():
        head.get_parameter("net.3.weight").fill_(1.0)
    head.observe(features)
    assert head.count == 50  # it has learned: they stay as they are
    assert torch.equal(head(features), head(features))  # no dropout


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ThresholdConfig(network="own.py:Random"), "own.py:Random': score is not 0 at first"),
        (ThresholdConfig(network="own.py"), r"threshold.network takes PATH\.py:CLASS, got 'own\.py'"),
        (ThresholdConfig(network="own.py:Wide"), r"own.py:Wide': score maps \(4, 12\) to \(4,\), got \(4, 1\)"),
        (ThresholdConfig(network="own.py:Bare"), r"own.py:Bare': .*__init__\(\) takes 1 positional argument"),
        (BernoulliConfig(network="own.py:Narrow"), r"own.py:Narrow': forward maps .* got \(2,\)"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_head_that_does_not_answer_as_heads_do_is_refused(
    config: ThresholdConfig | BernoulliConfig, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_head(make_head(config, SIZE))


@pytest.mark.parametrize("config", [ThresholdConfig(), BernoulliConfig()])
def test_those_that_ship_are_as_they_should_be(config: ThresholdConfig | BernoulliConfig) -> None:
    check_head(make_head(config, SIZE))
