"""How noisy the gradient of J is, by surrogate and clamp: spread over batches, and over draws of cuts of one batch.

K disjoint batches of prompts, R draws of cuts or masks each, one gradient g_kr of each, on policy (rho = 1):

    total = 1/R sum_r tr Cov_k(g_kr)      draws = 1/K sum_k tr Cov_r(g_kr)      power = mean of |g_kr|^2

Shown are total / power and draws / power: the shares of a gradient's squared norm that are noise, all of it and that
of the draws alone. E power = |E g|^2 + E total, so what is left of 1 is signal. All three follow from inner products.

Beside them where it points, against the exact trajectory's gradient e_k: batch by batch, where bias and the noise of
cuts both tell, and in the mean over all rollouts, where bias alone does; <E g, E e> is the mean of <g_k, e_l>, k != l.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from diffpo.config import ObjectiveConfig
from diffpo.lab.analysis.sections import Section, Series, surrogate_name
from diffpo.lab.analysis.subject import Subject
from diffpo.lab.study.statistics import student_quantile
from diffpo.losses import load_loss
from diffpo.models.policy import Policy
from diffpo.surrogates import load_surrogate
from diffpo.training.state import Optimizers, TrainState
from diffpo.training.update import policy_backward, prepare
from diffpo.types import Batch

CONFIGURED, COSINE, UNBIASED = "as in training", "cosine to exact", "of the means over all rollouts"
Measured = dict[str, tuple[float, float]]
"""Value and half-width by name."""


def surrogate_variants(
    objective: ObjectiveConfig, latents: Sequence[int], others: Sequence[str]
) -> dict[str, ObjectiveConfig]:
    """`objective` with each surrogate in turn, by name; its own is among them.

    On policy every loss of a ratio has the same gradient; one that takes no weights is measured as it is alone. A
    surrogate that is no likelihood is measured without weights.
    """
    own = replace(objective, beta=0.0)
    plain = own if load_loss(own.loss).takes_importance else replace(own, loss=ObjectiveConfig.loss)
    variants = {}
    for spec in (*(f"mean_field:{m}" for m in (*latents, 0)), *others):
        weighed = plain if load_surrogate(spec).is_likelihood else _clamped(plain, 0.0)
        variants[surrogate_name(spec)] = replace(weighed, surrogate=spec)
    return variants if own in variants.values() else {CONFIGURED: own} | variants


def clamp_variants(objective: ObjectiveConfig, clamps: Sequence[float]) -> dict[str, ObjectiveConfig]:
    """`objective` with each clamp in turn, by name."""
    plain = replace(objective, beta=0.0)
    return {f"{clamp:g}" if clamp else "off": _clamped(plain, clamp) for clamp in sorted(clamps)}


def _clamped(objective: ObjectiveConfig, clamp: float) -> ObjectiveConfig:
    """With another clamp of the weights; at 0 their other knobs are idle."""
    off: dict[str, Any] = {} if clamp else {"importance_level": "token", "self_normalize": False}
    return replace(objective, importance_clamp=clamp, **off)


def gradients(subject: Subject, objectives: Mapping[str, ObjectiveConfig]) -> dict[str, Tensor]:
    """Gradients of J of all batches and draws, [K, R, number of weights], under objectives with one surrogate.

    What the batches share, their old log-probs, is scored once.
    """
    settings = subject.settings
    weighted = max(objectives.values(), key=lambda objective: objective.importance_clamp)
    configs = {
        name: replace(subject.config, objective=replace(objective, num_iterations=settings.gradient_draws))
        for name, objective in {"": weighted, **objectives}.items()
    }
    found: dict[str, list[Tensor]] = {name: [] for name in objectives}
    for index, batch in enumerate(split_batch(subject)):
        state = TrainState(subject.policy, Optimizers(), step=index)
        experience = prepare(state, batch, configs[""], subject.world)
        for name, rows in found.items():
            for draw in range(settings.gradient_draws):
                subject.policy.denoiser.zero_grad(set_to_none=True)
                if len(experience.live):
                    policy_backward(subject.policy, experience, configs[name], draw, subject.world)
                rows.append(_flat_gradient(subject.policy))
    subject.policy.denoiser.zero_grad(set_to_none=True)
    return {name: torch.stack(rows).unflatten(0, (-1, settings.gradient_draws)) for name, rows in found.items()}


def split_batch(subject: Subject) -> list[Batch]:
    """The rollouts as K batches of whole groups; prompts that are left over are left out."""
    count = subject.settings.gradient_batches
    batch_of_row = subject.clusters.to(subject.policy.device) // (len(subject.prompts) // count)
    return [subject.batch.take((batch_of_row == batch).nonzero().squeeze(-1)) for batch in range(count)]


def _flat_gradient(policy: Policy) -> Tensor:
    """Of J, which is maximised; 0 where no row has an advantage."""
    parameters = policy.trainable().values()
    parts = [torch.zeros_like(p) if p.grad is None else -p.grad for p in parameters]
    return torch.cat([part.flatten() for part in parts]).float()


def noise(products: Tensor) -> tuple[float, float]:
    """(total / power, draws / power) from inner products of gradients, [K, R, K, R]; nan where all are 0."""
    batches, draws = products.shape[:2]
    same_draw = products.diagonal(dim1=1, dim2=3)  # [K, K, R]
    own = same_draw.diagonal().sum(-1)  # [R]: sum over batches of squared norms
    total = float(((own - same_draw.sum((0, 1)) / batches) / (batches - 1)).mean())
    same_batch = products.diagonal(dim1=0, dim2=2)  # [R, R, K]
    squares = same_batch.diagonal().sum(-1)  # [K]: sum over draws
    by_draw = float(((squares - same_batch.sum((0, 1)) / draws) / (draws - 1)).mean())
    power = float(own.sum()) / (batches * draws)
    return (total / power, by_draw / power) if power > 0 else (math.nan, math.nan)


def noise_with_intervals(found: Tensor) -> tuple[tuple[float, float], tuple[float, float]]:
    """`noise` of gradients [K, R, N], and half-widths of 95 % intervals: the jackknife over batches."""
    flat = found.flatten(0, 1)
    products = (flat @ flat.T).double().reshape(*found.shape[:2], *found.shape[:2])
    others = [[index for index in range(len(found)) if index != batch] for batch in range(len(found))]
    total, by_draw = _jackknife(torch.tensor([noise(products[kept][:, :, kept]) for kept in others])).tolist()
    return noise(products), (total, by_draw)


def _jackknife(left_out: Tensor) -> Tensor:
    """Half-widths [...] of 95 % intervals of what was computed without one of K batches at a time, [K, ...]."""
    count = len(left_out)
    return student_quantile(count) * (count - 1) / math.sqrt(count) * left_out.std(0)


def directions(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Mean over batches and draws of the cosine to the exact gradient of the same rollouts, and its half-width."""
    cosines = torch.nn.functional.cosine_similarity(found, exact.mean(1, keepdim=True), dim=-1)
    by_batch = cosines[exact.flatten(1).any(-1)].mean(-1).tolist()
    if len(by_batch) < 2:
        return math.nan, math.nan
    return fmean(by_batch), student_quantile(len(by_batch)) * stdev(by_batch) / math.sqrt(len(by_batch))


def direction_of_means(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """Cosine between E g and E e, from products of different batches, which share no noise; and its half-width.

    Bias alone: neither rollouts nor cuts blur it. nan where the batches are too few to tell either mean from 0.
    """
    means = torch.stack([found.mean(1), exact.mean(1)])
    products = torch.einsum("akn,bln->abkl", means, means).double()
    products.diagonal(dim1=2, dim2=3).zero_()
    everything = products.sum((2, 3))
    width = _jackknife(_cosine(everything[..., None] - products.sum(2) - products.sum(3)))
    return float(_cosine(everything)), float(width)


def _cosine(products: Tensor) -> Tensor:
    """From the inner products [2, 2, ...] of two vectors, [...]; nan where a square is not above 0."""
    (own, shared), (_, true) = products
    return shared / torch.where((own > 0) & (true > 0), own * true, math.nan).sqrt()


def gradient_sections(subject: Subject) -> list[Section]:
    """Noise and direction by surrogate and by clamp. A model whose denoiser cannot learn has none."""
    if not subject.policy.trainable():
        return []
    own, settings = replace(subject.config.objective, beta=0.0), subject.settings
    variants = surrogate_variants(own, settings.latents, settings.surrogates)
    takes_weights = load_loss(own.loss).takes_importance and load_surrogate(own.surrogate).is_likelihood
    exact = gradients(subject, {"exact": variants["exact"]})["exact"]
    by_surrogate, by_clamp = {}, {}
    for name, variant in variants.items():
        weighs = takes_weights and variant == own and name != "exact"
        clamped = clamp_variants(own, settings.clamps) if weighs else {}
        found = {"": exact} if name == "exact" else gradients(subject, {"": variant, **clamped})
        by_surrogate[name] = _measure(found[""], exact)
        by_clamp |= {clamp: _measure(found[clamp], exact) for clamp in clamped}
    clamp = f"C = {own.importance_clamp:g}" if own.importance_clamp else "no importance weights"
    sections = _sections("surrogate", f"by surrogate, {clamp}", by_surrogate, subject)
    if by_clamp:
        sections += _sections("clamp", "by clamp C of the importance weights", by_clamp, subject)
    return sections


def _measure(found: Tensor, exact: Tensor) -> Measured:
    (total, by_draw), (total_width, draw_width) = noise_with_intervals(found)
    return {
        "all noise": (total, total_width),
        "cuts or masks alone": (by_draw, draw_width),
        COSINE: directions(found, exact),
        UNBIASED: direction_of_means(found, exact),
    }


def _sections(x: str, title: str, measured: Mapping[str, Measured], subject: Subject) -> list[Section]:
    settings, rows = subject.settings, len(split_batch(subject)[0])

    def series(label: str) -> Series:
        values = [measure[label] for measure in measured.values()]
        return Series(label, list(measured), [value for value, _ in values], [width for _, width in values])

    return [
        Section(
            f"gradient_noise_by_{x}",
            f"Noise of the gradient {title}",
            f"Share of the gradient's squared norm that is noise (trace of its covariance), for batches of {rows} "
            "rollouts: all of it, and that of the draw of cuts or masks alone. What is left of 1 is signal.",
            x,
            "share of squared norm",
            [series("all noise"), series("cuts or masks alone")],
            {"rollouts of a batch": rows, "batches": settings.gradient_batches, "draws": settings.gradient_draws},
        ),
        Section(
            f"gradient_direction_by_{x}",
            f"Direction of the gradient {title}",
            "Cosine between the gradient and that of the exact trajectory on the same rollouts: 1 is no bias and no "
            "noise from cuts or masks. And between the means of both over all rollouts: 1 is no bias.",
            x,
            "cosine",
            [series(COSINE), series(UNBIASED)],
        ),
    ]
