"""What is wrong with a policy whose numbers are not finite."""

from __future__ import annotations

from diffpo.models.policy import Policy


def bad_weight(policy: Policy) -> str | None:
    """The first weight that holds NaN or infinity, by name."""
    named = list(policy.denoiser.named_parameters())
    if policy.sampler_head:
        named += policy.sampler_head.named_parameters("sampler_head")
    for name, values in named:
        if not values.isfinite().all():
            return name
    return None


def not_finite(policy: Policy) -> FloatingPointError:
    """The error of a policy that computes NaN or infinity: it names the weight at fault, or says that none is."""
    name = policy.base.name if policy.base else "this policy"
    if weight := bad_weight(policy):
        return FloatingPointError(f"{name}: the weight {weight} is not finite: load a checkpoint whose weights are")
    dtype = str(policy.denoiser.compute_dtype or policy.denoiser.head.weight.dtype).removeprefix("torch.")
    return FloatingPointError(
        f"{name}: logits are not finite, though all weights are: activations overflow {dtype}; try load.dtype float32"
    )
