"""What of a request a policy cannot decode, said before it waits."""

from __future__ import annotations

from numbers import Integral

from diffpo.config import parse_sampler
from diffpo.config.checks import bound, bound_temperature, check, expect
from diffpo.models.policy import Policy
from diffpo.rollout.slots import CACHES
from diffpo.types import Request, Sampler


def check_request(policy: Policy, request: Request) -> None:
    """ValueError if the policy cannot decode the request."""
    expect(Request, request, "a request", "sample takes prompts")
    expect(Sampler, request.sampler, "sampler", "Sampler.parse('top_k:1') gives one")
    _check_numbers(policy, request)
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


def _check_numbers(policy: Policy, request: Request) -> None:
    """What configs are held to: a request that is made in Python has seen none."""
    for name in ("gen_length", "block_length", "refresh_every", "key"):
        value = getattr(request, name)
        check(isinstance(value, Integral), f"{name} must be a whole number, got {value!r:.60}")
    bound(request, "", "gen_length block_length", ">=", 1)
    bound(request, "", "refresh_every", ">=", 0)
    bound_temperature(request, "", "temperature")
    bound_temperature(request, "", "entropy_temperature", greedy=False)
    parse_sampler(str(request.sampler))
    check(-(2**63) <= request.key < 2**63, f"key must be a signed 64-bit integer, got {request.key}: see make_key")
    size = policy.denoiser.config.vocab_size
    given, mask_id = request.canvas_ids, policy.mask_id
    if given:
        sizes = f"{len(given)} ids for a canvas of gen_length = {request.gen_length}"
        fits = len(given) == request.gen_length
        check(fits, f"canvas_ids: {sizes}: the mask's, {mask_id}, where there is something to write")
        check(mask_id in given, f"canvas_ids: none of them is the mask's, {mask_id}: nothing is left to write")
    for name in ("prompt_ids", "canvas_ids", "suffix_ids", "answer_ids"):
        ids = getattr(request, name)
        expect(tuple, ids, name, "ids of the model's vocabulary")
        wrong = [token for token in ids if not isinstance(token, Integral) or not 0 <= int(token) < size]
        check(not wrong, f"{name}: no token {wrong[:1]}: the model's ids are 0 to {size - 1}")
    if answer := request.answer_ids:
        sizes = f"{len(answer)} ids for a canvas of gen_length = {request.gen_length}"
        check(len(answer) == request.gen_length, f"answer_ids: {sizes}")
        check(request.temperature > 0, "answer_ids: at temperature 0 one text alone has a probability: take 1")
        never = set(policy.banned.tolist()) & set(map(int, answer))
        check(not never, f"answer_ids: {sorted(never)} are never written: the mask's, or beyond the tokenizer's")
