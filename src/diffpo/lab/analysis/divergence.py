"""How far surrogates are from the distributions that drew the tokens: KL(true conditional || surrogate).

Token i of call s was drawn from p = pi(. | c, z_{s-1}); the surrogate scores it under q = pi(. | c, z_sigma), where
sigma < s is its cut. KL(p || q) is summed over the whole vocabulary, not estimated from the token drawn. It is 0 at
sigma = s - 1, and at m = 1 and s = 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import torch
from torch import Tensor

from diffpo.functional.latents import token_worth, with_prompts
from diffpo.functional.random import fold, make_key
from diffpo.functional.surrogate import CutLaw, assign_cuts, cut_weights, draw_cuts, even_cuts, latents
from diffpo.lab.analysis.sections import Section, Series, means_by, surrogate_name
from diffpo.lab.analysis.subject import Subject
from diffpo.models.fused import MAX_LOGITS
from diffpo.models.likelihood import canvas_states
from diffpo.models.policy import Policy
from diffpo.surrogates import load_surrogate
from diffpo.surrogates.mean_field import MeanField
from diffpo.types import Batch

LAWS: tuple[CutLaw, ...] = get_args(CutLaw)


@torch.no_grad()
def divergences(policy: Policy, batch: Batch, temperature: float, max_tokens: int = 32768) -> Tensor:
    """KL (nats) of each token's true conditional from its prediction after every call t before its own, [B, L, T].

    Every latent of a rollout goes through the denoiser, about `max_tokens` tokens at a time. 0 where t >= s_i, and
    outside the loss.
    """
    longest = int(batch.nfe.max())
    of_row = longest * int((batch.prompt_lengths + batch.gen_lengths).max())
    rows = torch.arange(len(batch), device=policy.device).split(max(1, max_tokens // of_row))
    return torch.cat([_divergences(policy, batch.take(part), temperature, longest) for part in rows])


def _divergences(policy: Policy, batch: Batch, temperature: float, longest: int) -> Tensor:
    calls = torch.arange(longest, device=policy.device)
    row, call = (calls < batch.nfe[:, None]).nonzero(as_tuple=True)
    canvas = latents(batch.tokens[row], batch.committed_at[row], call, policy.mask_id)
    lengths = batch.prompt_lengths[row]
    sequences = with_prompts(batch.prompts[row], lengths, canvas)
    hidden, begins = canvas_states(policy, sequences, lengths, batch.gen_lengths[row])
    starts = torch.zeros_like(batch.nfe)[:, None].repeat(1, longest).index_put((row, call), begins)
    table = torch.zeros(*batch.tokens.shape, longest, device=policy.device)
    rows, places = batch.loss_mask.nonzero(as_tuple=True)
    size = max(1, MAX_LOGITS[policy.device.type] // (policy.denoiser.config.vocab_size * longest))
    for part in torch.arange(len(rows), device=policy.device).split(size):
        at, place = rows[part], places[part]
        own = batch.committed_at[at, place][:, None]
        states = hidden[starts[at] + place[:, None]]
        logits = policy.logits(states.flatten(0, 1), floor=-1e30) / temperature
        logprobs = logits.log_softmax(-1).unflatten(0, (-1, longest))
        true = logprobs.take_along_dim((own - 1)[..., None], 1)
        kl = (true.exp() * (true - logprobs)).sum(-1)
        table[at, place] = kl.masked_fill(calls >= own, 0.0)
    return table


def cut_sets(
    batch: Batch, num_latents: int, law: CutLaw, keys: Tensor, num_draws: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cuts [B, M] that a law may draw, and the chance of each in each row [B]; chances add up to 1.

    One cut is enumerated, more are drawn `num_draws` times by `keys` [B].
    """
    nfe = batch.nfe
    if num_latents == 1 or law == "even":
        yield even_cuts(nfe, num_latents), torch.ones(len(nfe), device=nfe.device)
        return
    weights = cut_weights(nfe, batch.committed_at, token_worth(batch, law), law)
    if num_latents > 2:
        for draw in range(num_draws):
            cuts = draw_cuts(nfe, num_latents, fold(keys, draw), weights)
            yield cuts, torch.full_like(nfe, 1 / num_draws, dtype=torch.float32)
        return
    inner = torch.arange(1, max(2, int(nfe.max())), device=nfe.device)
    chances = torch.ones(len(nfe), len(inner), device=nfe.device) if weights is None or not weights.numel() else weights
    # a rollout of one call has no cut to draw: its one set is worth everything
    chances = chances.masked_fill(inner >= nfe[:, None].clamp_min(2), 0.0)
    for tau, chance in zip(inner, (chances / chances.sum(-1, keepdim=True)).T, strict=True):
        yield torch.stack([torch.zeros_like(nfe), nfe.clamp_max(int(tau))], -1), chance


def at_cuts(table: Tensor, batch: Batch, cuts: Tensor) -> Tensor:
    """Divergence of each token from the surrogate with these cuts, [B, L], from `divergences`."""
    assigned = assign_cuts(batch.committed_at, cuts).clamp_min(0)  # positions beyond a canvas have no call
    return table.take_along_dim(cuts.gather(1, assigned)[..., None].clamp_max(table.shape[-1] - 1), -1).squeeze(-1)


def expected_divergence(table: Tensor, batch: Batch, num_latents: int, law: CutLaw, keys: Tensor, draws: int) -> Tensor:
    """The same, expected over the cuts that a law draws."""
    total = torch.zeros(batch.tokens.shape, device=table.device)
    for cuts, chance in cut_sets(batch, num_latents, law, keys, draws):
        total += chance[:, None] * at_cuts(table, batch, cuts)
    return total


def kl_sections(subject: Subject) -> list[Section]:
    """By call for each m, by the place of the cut, and by the law of the cuts."""
    batch, config, settings = subject.batch, subject.config, subject.settings
    table = divergences(subject.policy, batch, config.rollout.temperature, settings.micro_batch_tokens)
    keys = fold(
        torch.tensor(make_key(config.seed, "cuts"), device=table.device), torch.arange(len(batch)).to(table.device)
    )

    def expected(num_latents: int, law: CutLaw = "uniform") -> Tensor:
        return expected_divergence(table, batch, num_latents, law, keys, settings.num_draws)

    by_m = {surrogate_name(f"mean_field:{m}"): expected(m) for m in settings.latents}
    own = load_surrogate(config.objective.surrogate)
    num_latents = max(2, own.num_latents if isinstance(own, MeanField) else 2)
    by_law: dict[str, Tensor] = {law: expected(num_latents, law) for law in LAWS}
    figures: dict[str, float | None] = {name: _mean(kl, batch) for name, kl in by_m.items()}
    if {"mean field", "2-MF"} <= by_m.keys():
        figures |= _compared(by_m["mean field"], by_m["2-MF"], subject)
    return [
        Section(
            "kl_by_call",
            "How far surrogates are from the truth, by call",
            "KL from the distribution that a token was drawn from to the one its surrogate scores it with, exact over "
            "the vocabulary, mean over tokens and cuts: lower is closer. Where predictions are conditionals of one "
            "distribution, more latents are never further.",
            "call that committed the token",
            "KL (nats)",
            [_by_call(name, kl, subject) for name, kl in by_m.items()],
            figures,
        ),
        _by_cut(table, subject),
        Section(
            "kl_by_cut_law",
            f"Laws of the cut, {surrogate_name(f'mean_field:{num_latents}')}",
            "The same KL where the cuts fall uniformly over the calls, towards the middle, by the tokens that each "
            "call committed, their entropies or how unlikely they were, or evenly (cut_law of objective.surrogate "
            "mean_field).",
            "call that committed the token",
            "KL (nats)",
            [_by_call(name, kl, subject) for name, kl in by_law.items()],
            {name: _mean(kl, batch) for name, kl in by_law.items()},
        ),
    ]


def _by_call(label: str, kl: Tensor, subject: Subject) -> Series:
    batch = subject.batch
    mask = batch.loss_mask.cpu()
    clusters = subject.clusters[:, None].expand_as(mask)[mask]
    return Series(label, *means_by(kl.cpu()[mask], batch.committed_at.cpu()[mask], clusters, subject.least))


def _by_cut(table: Tensor, subject: Subject) -> Section:
    """2-MF at every cut tau, beside the mean field of the same tokens."""
    batch, table = subject.batch.to(torch.device("cpu")), table.cpu()
    cuts, calls = torch.arange(1, table.shape[-1]), batch.nfe[:, None, None]
    mask = batch.loss_mask[..., None] & (cuts < calls)
    one = table[..., :1].expand_as(mask)  # what is committed by the cut is predicted from the empty canvas
    two = torch.where(batch.committed_at[..., None] > cuts, table[..., 1:], one)
    tenths, clusters = (10 * cuts // calls).expand_as(mask), subject.clusters[:, None, None].expand_as(mask)
    series = []
    for label, kl in (("2-MF", two), ("mean field, same tokens", one)):
        means = means_by(kl[mask], tenths[mask], clusters[mask], subject.least)
        middles = [(tenth + 0.5) / 10 for tenth in means.bins]
        series.append(Series(label, middles, means.mean, means.half_width))
    lowest = min(zip(series[0].y, series[0].x, strict=True), default=(None, None))
    return Section(
        "kl_by_cut",
        "Where to cut",
        "KL of 2-MF's tokens by the place of its one cut in the rollout, in tenths, beside the mean field's on the "
        "same tokens: a cut at either end changes little.",
        "cut / calls of the rollout",
        "KL (nats)",
        series,
        {"lowest KL": lowest[0], "cut / calls there": lowest[1]},
    )


def _mean(kl: Tensor, batch: Batch) -> float:
    return float(kl[batch.loss_mask].mean())


def _compared(one: Tensor, two: Tensor, subject: Subject) -> dict[str, float | None]:
    """2-MF against the mean field: by how much it is closer, and how often."""
    batch = subject.batch
    totals = [(kl * batch.loss_mask).sum(-1)[batch.nfe > 1] for kl in (one, two)]
    excess = _by_call("", two - one, subject)
    assert excess.half_width is not None
    closer = (totals[1] < totals[0]).float()
    return {
        "2-MF's KL less than mean field's, share": 1 - _mean(two, batch) / max(_mean(one, batch), 1e-12),
        "rollouts in which 2-MF is closer, share": float(closer.mean()) if len(closer) else None,
        "calls at which 2-MF is further, beyond chance": sum(
            y - width > 1e-6
            for y, width in zip(excess.y, excess.half_width, strict=True)
            if y is not None and width is not None
        ),
    }
