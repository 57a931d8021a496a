"""What is measured: models of random weights, requests, a task, batches of finished rollouts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffpo.functional.latents import draw_batch_cuts
from diffpo.functional.random import fold
from diffpo.models.likelihood import surrogate_logprobs
from diffpo.models.policy import Policy
from diffpo.models.tokenizer import IdTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.types import Batch, Completion, Prompt, Request, Rollout, RolloutGroup, Sampler, Verdict

SMALL = TransformerConfig(
    vocab_size=16_384, hidden_size=256, num_layers=4, num_heads=8, num_kv_heads=8, mlp_size=768, max_length=1024
)
"""The shape at which the published code was measured."""
PROMPT_LENGTHS = (20, 46, 71, 97, 123, 149, 59, 200)


def random_policy(
    shape: TransformerConfig,
    sharpness: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Policy:
    """Random weights, made on the device; logits are `sharpness` times as large as fresh ones."""
    with torch.device("meta"):
        denoiser = Transformer(shape).to(dtype)
    denoiser = denoiser.to_empty(device=device).eval()
    denoiser.initialize_buffers(torch.device(device))
    for name, parameter in denoiser.named_parameters():
        torch.nn.init.ones_(parameter) if name.endswith("norm.weight") else torch.nn.init.zeros_(parameter)
    denoiser.initialize(torch.Generator(device).manual_seed(0))
    with torch.no_grad():
        denoiser.head.weight.mul_(sharpness)
    return Policy(denoiser, IdTokenizer(shape.vocab_size, shape.vocab_size - 2, shape.vocab_size - 1))


def random_requests(
    policy: Policy,
    lengths: Sequence[int],
    sampler: str,
    gen_length: int = 64,
    block_length: int = 32,
    group: int = 1,
    **settings,
) -> list[Request]:
    """Requests of random prompts of these lengths, `group` of each, that decode their whole canvas."""
    generator = torch.Generator().manual_seed(1)
    prompts = [
        tuple(torch.randint(policy.tokenizer.vocab_size - 2, (length,), generator=generator).tolist())
        for length in lengths
    ]
    shared = {"block_length": block_length, "early_exit": False} | settings
    return [
        Request(prompt, 1000 * index + member, gen_length, sampler=Sampler.parse(sampler), **shared)
        for index, prompt in enumerate(prompts)
        for member in range(group)
    ]


def batch_of(requests: Sequence[Request], completions: Sequence[Completion]) -> Batch:
    """Completions with alternating advantages; requests of one prompt are a group."""
    groups: dict[tuple[int, ...], list[Completion]] = {}
    for request, completion in zip(requests, completions, strict=True):
        groups.setdefault(request.prompt_ids, []).append(completion)
    verdict = Verdict(True, 1.0)
    made = [
        RolloutGroup(Prompt("", ""), prompt, [Rollout(completion, "", verdict, 1.0) for completion in members])
        for prompt, members in groups.items()
    ]
    return Batch.from_groups(made, torch.tensor([1.0, -1.0]).repeat(len(requests))[: len(requests)])


def some_cuts(batch: Batch) -> Tensor:
    """Those of 2-MF, [B, 2], drawn with a key a row."""
    return draw_batch_cuts(batch, 2, fold(torch.zeros_like(batch.nfe), torch.arange(len(batch)).to(batch.nfe.device)))


def score(policy: Policy, batch: Batch) -> None:
    """2-MF log-probabilities forward and backward."""
    surrogate_logprobs(policy, batch, some_cuts(batch), 1.0).sum().backward()


class IdsTask:
    """A task over token ids: an answer is right if it begins with an even digit."""

    name, rewards = "ids", None

    def __init__(self, requests: Sequence[Request], gen_length: int = 64) -> None:
        self.gen_length = gen_length
        texts = dict.fromkeys(" ".join(map(str, request.prompt_ids)) for request in requests)
        self.made = [Prompt(str(index), text) for index, text in enumerate(texts)]

    def prompts(self, split: str, num: int, start: int = 0) -> list[Prompt]:
        return [self.made[index % len(self.made)] for index in range(start, start + num)]

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        correct = completion[:1] in tuple("02468")
        return Verdict(correct, float(correct))
