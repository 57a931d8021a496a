"""What of a request a policy cannot decode, said before it waits."""

from __future__ import annotations

from diffpo.models.policy import Policy
from diffpo.rollout.slots import CACHES
from diffpo.types import Request


def check_request(policy: Policy, request: Request) -> None:
    """ValueError if the policy cannot decode the request."""
    head, length = policy.sampler_head, request.length
    blockwise = policy.denoiser.config.block_length is not None
    if request.cache not in CACHES:
        raise ValueError(f"cache {request.cache!r}: choose among {', '.join(CACHES)}")
    if request.cache == "exact" and not blockwise:
        raise ValueError("cache 'exact' is for models whose attention is block-causal: this one takes prefix or dual")
    if request.cache in ("prefix", "dual") and blockwise:
        raise ValueError(f"cache {request.cache!r}: where attention is block-causal there is one that is exact: exact")
    if request.suffix_ids and blockwise:
        raise ValueError("suffix: where attention is block-causal no canvas sees what is behind it: leave it out")
    if length > policy.denoiser.config.max_length:
        raise ValueError(
            f"a row of {length} tokens exceeds the model's {policy.denoiser.config.max_length}: shorten the prompt or "
            "gen_length"
        )
    if request.sampler.rule != "learned":
        return
    if head is None:
        raise ValueError(
            "sampler 'learned': this policy has no sampler head; train one (train = joint or sampler) or choose a "
            "fixed rule such as entropy_bound:0.1"
        )
    if not head.by_state and not request.prompt_ids:
        raise ValueError(
            "sampler 'learned' reads the threshold off the prompt, but a prompt is empty: use a fixed rule"
        )
