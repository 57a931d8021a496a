"""The published suite: rollouts, updates and steps against the published loops, growth against the FLOP count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from diffpo.bench import plain
from diffpo.bench.growth import growth_points
from diffpo.bench.measure import in_turn, peak_bytes
from diffpo.bench.workloads import (
    PROMPT_LENGTHS,
    SMALL,
    batch_of,
    decode,
    joint_step,
    random_policy,
    random_requests,
    run_step,
    score,
)
from diffpo.models.policy import Policy
from diffpo.models.transformer import TransformerConfig
from diffpo.progress import Progress
from diffpo.types import Request

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Row:
    """One comparison. The ratio is plain over ours, of bytes where there are bytes, else of seconds."""

    name: str
    ours_seconds: float
    plain_seconds: float
    ratio: float
    target: float
    ours_bytes: int | None = None
    plain_bytes: int | None = None


def compare(name: str, target: float, ours: Callable[[], object], theirs: Callable[[], object], repeats: int) -> Row:
    """Median seconds of the two, run in turn."""
    taken = in_turn({"ours": ours, "plain": theirs}, repeats, CPU)
    return Row(name, taken["ours"], taken["plain"], taken["plain"] / taken["ours"], target)


def published(
    repeats: int = 5,
    shape: TransformerConfig = SMALL,
    lengths: Sequence[int] = PROMPT_LENGTHS,
    quiet: bool = False,
    tiny: Callable[[], tuple[Policy, list[Request]]] | None = None,
) -> list[Row]:
    """The rows that a CPU can measure."""
    rows: list[Row] = []
    parts = [rollouts, entropy_bound, surrogate, whole_step, growth]
    with Progress("bench", len(parts) + 1, quiet) as progress:
        for part in parts:
            rows += part(repeats, shape, lengths)
            progress.advance(ratio=rows[-1].ratio)
        rows += tiny_model(repeats, *(tiny or tiny_rollouts)())
        progress.advance(ratio=rows[-1].ratio)
    return rows


def rollouts(repeats: int, shape: TransformerConfig, lengths: Sequence[int]) -> Iterator[Row]:
    """Fixed steps: LLaDA's loop, d1's loop, and the bare padded forward pass."""
    policy = random_policy(shape)
    requests = random_requests(policy, lengths, "steps:32")
    works = {
        "ours": lambda: decode(policy, requests),
        "llada": lambda: plain.decode(policy, requests),
        "d1": lambda: plain.decode(policy, requests, noise=None),
        "forward": lambda: plain.forwards(policy, requests, 32),
    }
    taken = in_turn(works, repeats, CPU)
    names = {
        "llada": ("rollouts, 32 calls: LLaDA's loop", 12.0),
        "d1": ("rollouts, 32 calls: d1's loop", 7.0),
        "forward": ("rollouts, 32 calls: the padded forward alone", 2.5),
    }
    for key, (name, target) in names.items():
        yield Row(name, taken["ours"], taken[key], taken[key] / taken["ours"], target)


def entropy_bound(repeats: int, shape: TransformerConfig, lengths: Sequence[int]) -> Iterator[Row]:
    """64 requests through 16 slots, rows that end at different times; the plain loop takes 16 at a time.

    The head is sharpened, as training sharpens it: else every call would commit one token and all rows end together.
    """
    policy = random_policy(shape, sharpness=150.0)
    requests = random_requests(policy, lengths, "entropy_bound:0.1", group=-(-64 // len(lengths)))
    order = [requests[start::8] for start in range(8)]  # rows of a batch are of different prompts
    mixed = [request for part in order for request in part]

    def theirs() -> None:
        for start in range(0, len(mixed), 16):
            plain.decode(policy, mixed[start : start + 16])

    name = "rollouts, entropy bound 0.1, 64 through 16: LLaDA's loop"
    yield compare(name, 15.0, lambda: decode(policy, mixed, 16), theirs, repeats)


def surrogate(repeats: int, shape: TransformerConfig, lengths: Sequence[int]) -> Iterator[Row]:
    """2-MF of a group of 8, forward and backward, against mean field with all logits; seconds and bytes.

    Ours computes blocks a second time rather than keep their activations (optim.gradient_checkpointing).
    """
    policy = random_policy(shape)
    policy.denoiser.gradient_checkpointing = True
    requests = random_requests(policy, [sum(lengths) // len(lengths)], "steps:32", group=8)
    batch = batch_of(requests, decode(policy, requests))
    ids, real = plain.padded(policy, requests)

    def ours() -> None:
        score(policy, batch)
        policy.denoiser.zero_grad()

    def theirs() -> None:
        plain.mean_field_logprobs(policy, ids, real, batch.tokens, 1.0).sum().backward()
        policy.denoiser.zero_grad()

    row = compare("2-MF log-probs of 8 with backward: plain MF", 1.0, ours, theirs, 2 * repeats)
    yield row
    weights = sum(p.numel() * p.element_size() for p in policy.denoiser.parameters())  # as many bytes of gradients
    held, plainly = (peak_bytes(work, CPU) - weights for work in (ours, theirs))
    name = "the same: peak memory above weights and gradients"
    yield replace(row, name=name, ratio=plainly / held, target=4.0, ours_bytes=held, plain_bytes=plainly)


def whole_step(repeats: int, shape: TransformerConfig, lengths: Sequence[int]) -> Iterator[Row]:
    """Joint DiFFPO, mu = 4, against d1, at the same number of rollouts and calls: a token a call."""
    policy = random_policy(shape)
    group = 2
    requests = random_requests(policy, lengths, "steps:64", group=group)
    state = joint_step(policy, requests, 4, group)
    copy = random_policy(shape)
    optimizer = torch.optim.AdamW(copy.denoiser.parameters(), lr=1e-6)
    yield compare(
        "joint step, mu = 4: d1's step",
        6.0,
        lambda: run_step(state, requests, 4, group),
        lambda: plain.train_step(copy, requests, 4, optimizer),
        repeats,
    )


def growth(repeats: int, shape: TransformerConfig, lengths: Sequence[int]) -> Iterator[Row]:
    """Seconds of rollouts where one thing is four times as large, against what the FLOP count says."""
    for name, points in growth_points(repeats, shape).items():
        (flops, small), *_, (more_flops, large) = [(point.flops, point.seconds) for point in points]
        predicted = small * more_flops / flops
        yield Row(f"growth with {name}: the FLOP count", large, predicted, predicted / large, 0.8)


def tiny_rollouts() -> tuple[Policy, list[Request]]:
    """The demo's model, random weights, and the requests of one of its steps."""
    shape = TransformerConfig(
        24,
        hidden_size=96,
        num_layers=4,
        num_heads=4,
        num_kv_heads=4,
        mlp_size=192,
        max_length=64,
        learned_positions=True,
    )
    policy = random_policy(shape)
    return policy, random_requests(policy, [17] * 48, "top_k:2", gen_length=16, block_length=16, group=8)


def tiny_model(repeats: int, policy: Policy, requests: list[Request]) -> list[Row]:
    """Rows through the denoiser inside rollouts, against the bare forward passes of the same rows."""
    seen: list[tuple] = []
    hook = policy.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[:2]))
    decode(policy, requests, 512)
    hook.remove()

    @torch.no_grad()
    def bare() -> None:
        for ids, packing in seen:
            policy.denoiser(ids, packing)

    name = "tiny model: rows a second in rollouts, of the bare forward's"
    return [compare(name, 0.8, lambda: decode(policy, requests, 512), bare, 2 * repeats)]
