"""What to say when a policy's numbers are not finite."""

from __future__ import annotations

from diffpo.models.policy import Policy


def not_finite(policy: Policy) -> FloatingPointError:
    """The error of a policy that computes NaN or infinity: it names the weight at fault, or says that none is."""
    name = policy.base.name if policy.base else "this policy"
    parts = {"": policy.denoiser} | ({"threshold head's ": policy.threshold} if policy.threshold else {})
    for owner, module in parts.items():
        for weight, values in module.named_parameters():
            if not values.isfinite().all():
                return FloatingPointError(
                    f"{name}: the {owner}weight {weight} is not finite: load a checkpoint whose weights are numbers"
                )
    dtype = str(policy.denoiser.compute_dtype or policy.denoiser.head.weight.dtype).removeprefix("torch.")
    return FloatingPointError(
        f"{name}: logits are not finite, yet all weights are: activations overflow in {dtype}; use load.dtype float32"
    )
