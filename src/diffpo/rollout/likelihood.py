"""How likely a text is under a sampler, exactly: decoding that is made to write it (DUEL, arXiv 2603.01367)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from numbers import Integral
from operator import index

from diffpo.config import RolloutConfig
from diffpo.config.checks import check, expect
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rollout.checks import check_request
from diffpo.rollout.engine import generate
from diffpo.rollout.local import request_for


def log_likelihoods(
    policy: Policy,
    pairs: Iterable[tuple[Iterable[int], Iterable[int]]],
    config: RolloutConfig | None = None,
    seed: int = 0,
) -> list[float]:
    """log p(text | prompt) in nats of each pair of ids, at temperature 1, on a canvas as long as the text.

    A rule sees predicted distributions and never a drawn token, so which positions a call commits is a function of what
    stands, and a text comes about in one way: the product over its calls is its probability, in as many denoiser calls
    as it takes to write it. A sampler head is taken without noise; of rules that draw positions (`random`) the order
    is that of `seed`, one for all texts. A config of None: as the policy was trained to answer (`Policy.decoding`).
    ValueError where a pair is none, the model cannot hold it, or never writes one of its tokens.
    """
    expect(Policy, policy, "policy", "load_policy(...) gives one")
    expect(RolloutConfig, config or policy.decoding, "config", "RolloutConfig(sampler='top_k:1'), say")
    check(isinstance(seed, Integral), f"seed must be a whole number, got {seed!r:.60}")
    config = replace(config or policy.decoding, temperature=1.0, canvas="")
    read = [_ids(pair, number) for number, pair in enumerate(pairs, 1)]
    found = [0.0] * len(read)
    written = [at for at, (_, text) in enumerate(read) if text]
    requests = []
    for at in written:
        prompt, text = read[at]
        own = replace(config, gen_length=len(text))
        try:
            request = request_for(policy, prompt, own, len(text), make_key(seed), explore=False, early_exit=False)
            requests.append(replace(request, answer_ids=text))
            check_request(policy, requests[-1])
        except ValueError as error:
            raise ValueError(f"pair {at + 1}: {error}") from None
    for at, completion in zip(written, generate(policy, requests, config.num_slots), strict=True):
        found[at] = float(completion.behaviour_logprobs.double().sum())
    return found


def _ids(pair: tuple[Iterable[int], Iterable[int]], number: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids of a prompt and a text, of whatever holds whole numbers: lists, arrays, tensors."""
    try:
        prompt, text = pair
        return tuple(map(index, prompt)), tuple(map(index, text))
    except (TypeError, ValueError):
        mend = "policy.encode(prompt) and policy.tokenizer.encode(text) give them"
        raise ValueError(f"pair {number} must be ids of a prompt and of a text, got {pair!r:.60}: {mend}") from None
