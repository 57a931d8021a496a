"""What several test folders share: statistics, enumeration, tiny policies and a fake task."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from matplotlib.image import imread
from torch import Tensor

from diffpo.config import BernoulliConfig, ThresholdConfig
from diffpo.functional.random import make_key
from diffpo.models.attention import COPIES, Packing, pack
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.rewards.calls import Rewards
from diffpo.types import Batch, Prompt, Request, Sampler, Verdict

GOLDEN = Path(__file__).parent / "golden"
ALPHABET = "0123456"


def keys(count: int, name: str = "test") -> Tensor:
    """Keys as the library makes them, one a name."""
    return torch.tensor([make_key(0, name, index) for index in range(count)])


def chi_square_z(counts: Tensor, probabilities: Tensor) -> float:
    """How many standard deviations (Wilson and Hilferty) a chi-square statistic lies above what chance gives."""
    expected = probabilities.double() * counts.sum()
    used = expected > 0
    assert not counts[~used].any(), "something impossible was drawn"
    freedom = int(used.sum()) - 1
    statistic = float(((counts[used] - expected[used]) ** 2 / expected[used]).sum())
    spread = 2 / (9 * freedom)
    return ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def canvases(vocab_size: int, length: int) -> Iterator[tuple[int, ...]]:
    """Every sequence of `length` tokens."""
    return itertools.product(range(vocab_size), repeat=length)


def tiny_shape(vocab_size: int, **changes: Any) -> TransformerConfig:
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "mlp_size": 64, "max_length": 64}
    return TransformerConfig(vocab_size=vocab_size, **(shape | changes), rope_theta=100.0)


def tiny_denoiser(shape: TransformerConfig, seed: int = 0, sharpness: float = 12.0) -> Transformer:
    """Fresh weights, large enough that predictions differ from position to position."""
    denoiser = Transformer(shape)
    denoiser.initialize(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                parameter.mul_(sharpness)
    return denoiser.eval()


def tiny_policy(seed: int = 0, padding: int = 3, learned: bool | str = False, **changes: Any) -> Policy:
    """A policy over seven digits, with `padding` vocabulary entries that no token uses.

    `learned` is a sampler head: "prompt", "state", "bernoulli", or True for the first.
    """
    tokenizer = CharTokenizer(ALPHABET)
    denoiser = tiny_denoiser(tiny_shape(tokenizer.vocab_size + padding, **changes), seed)
    policy = Policy(denoiser, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    if learned == "bernoulli":
        policy.add_head(BernoulliConfig(width=8, chance_init=0.3), seed)
        with torch.no_grad():
            for name, parameter in policy.sampler_head.named_parameters():
                size = {"out.weight": 0.5, "out.bias": 0.0, "norm.bias": 0.0}.get(name, 0.4)
                parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    elif learned:
        policy.add_head(ThresholdConfig(level="prompt" if learned is True else learned))
        with torch.no_grad():
            policy.sampler_head.weight.normal_(std=3.0, generator=generator)
    return policy


def pack_in_blocks(ids: Tensor, lengths: Tensor, numbers: Tensor) -> tuple[Tensor, Packing]:
    """`pack` of rows whose tokens see their own block and those before it, by its number, [R, S]."""
    tokens, packing = pack(ids, lengths)
    rows = packing.starts.argsort().tolist()
    labels = COPIES * torch.cat([numbers[row, : int(lengths[row])] for row in rows])
    return tokens, replace(packing, labels=labels, runs=tuple(run._replace(masked=True) for run in packing.runs))


def request(prompt: str = "012", key: int = 0, sampler: str = "top_k:1", gen_length: int = 8, **settings) -> Request:
    """A request with the tests' defaults."""
    ids = CharTokenizer(ALPHABET).encode(prompt)
    settings = {"block_length": gen_length} | settings
    return Request(ids, make_key(key, "request"), gen_length, sampler=Sampler.parse(sampler), **settings)


def prompt_of(batch: Batch, row: int) -> list[int]:
    """Ids of the prompt of a row."""
    return batch.prompts[row, : batch.prompt_lengths[row]].tolist()


@dataclass
class FirstDigitTask:
    """A fake task: the answer is right if it begins with the first digit of the prompt; `fragile` verifiers raise."""

    fragile: bool = False
    name: str = "fake"
    alphabet: str = ALPHABET
    gen_length: int = 6
    rewards: Rewards | None = None
    seen: list[str] = field(default_factory=list)

    def prompts(self, split: str, num: int, start: int = 0) -> list[Prompt]:
        return [Prompt(f"{split}-{index}", f"{index % 7}{'12' * (index % 3)}") for index in range(start, start + num)]

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        if self.fragile:
            raise KeyError("no such column")
        self.seen.append(completion)
        correct = completion[:1] == prompt.text[0]
        return Verdict(correct, float(correct), {"digit": float(correct)})

    def solution(self, prompt: Prompt) -> str:
        return prompt.text[0]

    def open_positions(self, prompt: Prompt) -> Sequence[int]:
        return range(1)


def is_picture(path: Path) -> bool:
    """Whether a PNG of some size holds more than a blank page."""
    pixels = imread(path)
    return min(pixels.shape[:2]) > 200 and float((pixels[..., :3].min(-1) < 0.9).mean()) > 0.001
