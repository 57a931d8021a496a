"""The published loops and log-probabilities, obvious and slow: yardsticks for speed, and twins for the tests.

Written from the papers: LLaDA's sampler (arXiv 2502.09992), d1's mean-field log-probabilities (arXiv 2504.12216) and
the entropy-bound sampler (arXiv 2505.24857) in LLaDA's loop. Prompts of a batch are padded on the left, every call
makes all logits of all positions, noise is drawn for all of them, and rows are looked at one by one. Two things differ
from the published code: padding is masked, so that answers are right, and banned ids are never emitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffpo.models.policy import Policy
from diffpo.types import Request

PROMPT_MASK_PROB = 0.15
"""Share of the prompts that d1's updates mask."""


def padded(policy: Policy, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left and masked canvases, [B, S], and which tokens are real."""
    width = max(len(request.prompt_ids) for request in requests)
    canvas = max(request.gen_length for request in requests)
    ids = torch.full((len(requests), width + canvas), policy.mask_id)
    real = torch.zeros(ids.shape, dtype=torch.bool)
    for row, request in enumerate(requests):
        start = width - len(request.prompt_ids)
        ids[row, start:width] = torch.tensor(request.prompt_ids, dtype=torch.int64)
        real[row, start:] = True
    return ids.to(policy.device), real.to(policy.device)


def all_logits(policy: Policy, ids: Tensor, real: Tensor) -> Tensor:
    """Logits of every position, [B, S, V]: a padded forward pass over the policy's own weights."""
    denoiser: Any = policy.denoiser
    positions = (real.cumsum(-1) - 1).clamp_min(0)
    angles = denoiser.angles[positions][:, None]
    cos, sin = angles.cos(), angles.sin()
    x = denoiser.embed(ids)
    if denoiser.places is not None:
        x = x + denoiser.places(positions)
    mask = None if bool(real.all()) else real[:, None, None, :]

    def rotate(t: Tensor) -> Tensor:
        first, second = t.float().chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(t.dtype)

    for block in denoiser.blocks:
        attn, h = block.attn, block.attn_norm(x)
        q, k, v = (
            projection(h).unflatten(-1, (-1, attn.head_size)).transpose(1, 2)
            for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
        )
        q, k = rotate(attn.q_norm(q)), rotate(attn.k_norm(k))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
        x = x + attn.o_proj(out.transpose(1, 2).flatten(2))
        h = block.mlp_norm(x)
        x = x + block.down_proj(F.silu(block.gate_proj(h)) * block.up_proj(h))
    logits = denoiser.head(denoiser.norm(x))
    logits[..., policy.banned] = -torch.inf
    return logits


@torch.no_grad()
def decode(
    policy: Policy, requests: Sequence[Request], noise: torch.dtype | None = torch.float64, seed: int = 0
) -> tuple[Tensor, int]:
    """Canvases [B, L] of one padded batch, and its denoiser calls: the slowest row's.

    Requests have one sampler, `steps` or `entropy_bound`, one temperature and one block length. `noise` is the dtype in
    which Gumbel noise is drawn and tokens are scored: float64 for LLaDA, None the model's own, as in d1.
    """
    ids, real = padded(policy, requests)
    sampler, block_length = requests[0].sampler, requests[0].block_length
    size, temperature = requests[0].gen_length, requests[0].temperature
    start = ids.shape[1] - size
    generator = torch.Generator(ids.device).manual_seed(seed)
    num_blocks, calls = size // block_length, 0
    for block in range(num_blocks):
        end = start + (block + 1) * block_length
        masked_at_start = (ids[:, end - block_length : end] == policy.mask_id).sum(-1)
        steps = int(sampler.value) // num_blocks
        call = 0
        while (ids[:, end - block_length : end] == policy.mask_id).any():
            masked = (ids == policy.mask_id) & real
            logits = all_logits(policy, ids, real)
            if policy.denoiser.config.shift:
                logits = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
            drawn = gumbel_argmax(logits, temperature, noise, generator)
            if sampler.rule == "steps":
                probs = F.softmax(logits if noise is None else logits.to(noise), dim=-1)
                confidence = probs.gather(-1, drawn[..., None]).squeeze(-1)
            else:
                logprobs = F.log_softmax(logits, dim=-1)
                confidence = (logprobs.exp() * logprobs.clamp_min(-1e4)).sum(-1)  # minus the entropy
            confidence[:, end:] = -torch.inf
            confidence = confidence.masked_fill(~masked, -torch.inf)
            chosen = torch.zeros_like(masked)
            for row in range(len(ids)):
                left = int(masked[row, start:end].sum())
                if sampler.rule == "steps":
                    base, rest = divmod(int(masked_at_start[row]), steps)
                    count = min(left, base + (call < rest))
                else:
                    entropies = -confidence[row].topk(left).values
                    count = int((entropies.cumsum(0) - entropies <= sampler.value).sum().clamp_min(1)) if left else 0
                chosen[row, confidence[row].topk(count).indices] = True
            ids[chosen] = drawn[chosen]
            call, calls = call + 1, calls + 1
    return ids[:, start:], calls


def gumbel_argmax(logits: Tensor, temperature: float, noise: torch.dtype | None, generator: torch.Generator) -> Tensor:
    """A draw from softmax(logits / temperature) at every position, by Gumbel noise over the whole vocabulary."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits if noise is None else logits.to(noise)
    lottery = torch.rand(logits.shape, dtype=logits.dtype, device=logits.device, generator=generator)
    return (logits.exp() / (-torch.log(lottery)) ** temperature).argmax(-1)


@torch.no_grad()
def forwards(policy: Policy, requests: Sequence[Request], calls: int) -> None:
    """Nothing but the padded forward pass with all logits, `calls` times."""
    ids, real = padded(policy, requests)
    for _ in range(calls):
        all_logits(policy, ids, real)


def mean_field_logprobs(policy: Policy, ids: Tensor, real: Tensor, tokens: Tensor, temperature: float) -> Tensor:
    """d1's log-probabilities of canvases `tokens` [B, L] given prompts alone, from all logits. Differentiable."""
    canvas = tokens.shape[1]
    logits = all_logits(policy, ids, real)
    logits = logits[:, -canvas - policy.denoiser.config.shift :][:, :canvas] / temperature
    return -F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)


def train_step(
    policy: Policy, requests: Sequence[Request], num_iterations: int, optimizer: torch.optim.Optimizer
) -> None:
    """A step of d1: rollouts, old log-probabilities of every iteration, updates, each with its own prompt masks.

    Rewards are whether the first token is even; they cost nothing.
    """
    tokens, _ = decode(policy, requests, noise=None)
    advantages = (tokens[:, 0] % 2).float()
    advantages = advantages - advantages.mean()
    ids, real = padded(policy, requests)
    prompt = real.clone()
    prompt[:, -tokens.shape[1] :] = False
    generator = torch.Generator(ids.device).manual_seed(0)
    masked, old = [], []
    for _ in range(num_iterations):
        lottery = torch.rand(ids.shape, device=ids.device, generator=generator)
        masked.append(ids.masked_fill(prompt & (lottery < PROMPT_MASK_PROB), policy.mask_id))
        with torch.no_grad():
            old.append(mean_field_logprobs(policy, masked[-1], real, tokens, requests[0].temperature))
    for inputs, old_logprobs in zip(masked, old, strict=True):
        logprobs = mean_field_logprobs(policy, inputs, real, tokens, requests[0].temperature)
        ratio = (logprobs - old_logprobs).exp()
        gain = torch.minimum(ratio * advantages[:, None], ratio.clamp(0.5, 1.5) * advantages[:, None])
        optimizer.zero_grad()
        (-gain.mean()).backward()
        optimizer.step()
