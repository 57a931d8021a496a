"""How likely a text is under a sampler, exactly: decoding that is made to write it (DUEL, arXiv 2603.01367)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from diffpo.config import RolloutConfig
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.rollout.engine import generate
from diffpo.rollout.local import request_for


def log_likelihoods(
    policy: Policy,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    config: RolloutConfig | None = None,
    seed: int = 0,
) -> list[float]:
    """log p(text | prompt) in nats of each pair of ids, at temperature 1, on a canvas as long as the text.

    A rule sees predicted distributions and never a drawn token, so which positions a call commits is a function of what
    stands, and a text comes about in one way: the product over its calls is its probability, in as many denoiser calls
    as it takes to write it. A sampler head is taken without noise; of rules that draw positions (`random`) the order
    is that of `seed`, one for all texts. A config of None: as the policy was trained to answer (`Policy.decoding`).
    ValueError where the model cannot hold a pair, or never writes one of its tokens.
    """
    config = replace(config or policy.decoding, temperature=1.0, canvas="")
    found = [0.0] * len(pairs)
    written = [at for at, (_, text) in enumerate(pairs) if len(text)]
    requests = []
    for at in written:
        prompt, text = map(tuple, pairs[at])
        own = replace(config, gen_length=len(text))
        request = request_for(policy, prompt, own, len(text), make_key(seed), explore=False, early_exit=False)
        requests.append(replace(request, answer_ids=text))
    for at, completion in zip(written, generate(policy, requests, config.num_slots), strict=True):
        found[at] = float(completion.behaviour_logprobs.double().sum())
    return found
