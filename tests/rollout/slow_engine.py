"""The engine's slow, obvious twin: one request, one row, all logits, Python loops.

Shared with the engine are the denoiser and the keyed random numbers; rules, schedule, draw and exits are written anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from diffpo.functional.random import fold, normal, uniform
from diffpo.models.attention import pack
from diffpo.models.policy import Policy
from diffpo.models.threshold import ThresholdHead
from diffpo.types import Blocks, Completion, Request

LEVELS = ("prompt", "state")
Denoise = Callable[[Policy, list[int]], torch.Tensor]


def decode(policy: Policy, request: Request, denoise: Denoise | None = None) -> Completion:
    """What the engine must return for `request`; `denoise` makes hidden states of a sequence, `run` unless given."""
    denoise = denoise or run
    mask_id, eos_id, size = policy.mask_id, policy.eos_id, request.gen_length
    start = len(request.prompt_ids)
    canvas = list(request.canvas_ids) or [mask_id] * size
    given = [token != mask_id for token in canvas]
    behind = max((place + 1 for place in range(size) if given[place]), default=0)
    committed_at, logprobs, entropies = [0] * size, [0.0] * size, [0.0] * size
    shape = policy.denoiser.config
    blockwise = shape.block_length is not None
    offset = start % request.block_length if blockwise and shape.blocks_from == "row" else 0
    blocks = [(place + offset) // request.block_length for place in range(size)]
    value = request.sampler.value
    nfe, nfe_until_eos, calls_in_block = 0, 0, {}
    decisions = []
    head = policy.sampler_head if request.sampler.rule == "learned" else None
    kind = head.config.level if isinstance(head, ThresholdHead) else head and head.kind

    while mask_id in canvas:
        hidden = denoise(policy, [*request.prompt_ids, *canvas, *request.suffix_ids])
        block = blocks[canvas.index(mask_id)]
        places = [place for place in range(size) if blocks[place] == block]
        if kind == "state" or (kind == "prompt" and nfe == 0):
            sources = [max(start + i - policy.denoiser.config.shift, 0) for i in places if canvas[i] == mask_id]
            features = hidden[sources if kind == "state" else slice(start)].mean(0)
            decisions.append((*choose_gamma(policy, request, features, nfe if kind == "state" else None), features))
            value = head.config.gamma_max / (1 + math.exp(-decisions[-1][0]))
        drawn = draw(policy, request, hidden, [i for i in places if canvas[i] == mask_id], nfe)
        if kind == "bernoulli":
            width, end = min(request.block_length, size), places[-1] + 1
            window = range(max(0, end - width), max(end, width))  # of a block's length, within the canvas
            max_prob = {place: row[3] for place, row in drawn.items()}
            decisions.append(choose_positions(policy, request, max_prob, window, places, nfe))
            chosen = {i for i, bit in zip(window, decisions[-1][0].tolist(), strict=True) if bit}
        else:
            # what is given takes no call; the prompt's part of the first block counts
            length = sum(not given[place] for place in places) + (offset if block == 0 else 0)
            num_blocks = math.ceil(size / request.block_length)
            chosen = choose(request, drawn, nfe, value, length, calls_in_block.get(block, 0), num_blocks)
        calls_in_block[block] = calls_in_block.get(block, 0) + 1

        nfe += 1
        for place in chosen:
            canvas[place], logprobs[place], entropies[place], *_ = drawn[place]
            committed_at[place] = nfe
        ended = eos_id in canvas[behind:] and mask_id not in canvas[: canvas.index(eos_id, behind)]
        if ended and not nfe_until_eos:
            nfe_until_eos = nfe
        if ended and request.early_exit:
            break

    return Completion(
        tokens=torch.tensor([eos_id if token == mask_id else token for token in canvas]),
        committed_at=torch.tensor([0 if given[i] else call or nfe for i, call in enumerate(committed_at)]),
        behaviour_logprobs=torch.tensor(logprobs),
        entropies=torch.tensor(entropies),
        key=request.key,
        nfe=nfe,
        nfe_until_eos=nfe_until_eos or nfe,
        length=canvas.index(eos_id, behind) + 1 if eos_id in canvas[behind:] else size,
        gamma=mean_gamma(policy, decisions) if kind in LEVELS else value if "bound" in request.sampler.rule else None,
        actions=torch.stack([torch.as_tensor(row[0]) for row in decisions]) if decisions else None,
        action_logprobs=torch.tensor([row[1] for row in decisions]) if decisions else None,
        features=torch.stack([row[2] for row in decisions]) if decisions else None,
        blocks=Blocks(request.block_length, offset) if blockwise else None,
    )


def draw(
    policy: Policy, request: Request, hidden: torch.Tensor, candidates: list[int], nfe: int
) -> dict[int, tuple[int, float, float, float, float]]:
    """Token, log-probability, entropy, largest probability and margin at each candidate, after `nfe` calls."""
    drawn, start = {}, len(request.prompt_ids)
    for place in candidates:
        source = max(start + place - policy.denoiser.config.shift, 0)
        logits = policy.denoiser.head(hidden[source]).double()
        for banned in (policy.mask_id, *range(policy.tokenizer.vocab_size, len(logits))):
            logits[banned] = -math.inf
        number = float(uniform(fold(torch.tensor(request.key), 0, nfe, place)))
        drawn[place] = (*draw_token(logits, request.temperature, number), *certainty(logits, request))
    return drawn


def choose(
    request: Request, drawn: dict[int, tuple], nfe: int, value: float, block: int, block_calls: int, num_blocks: int
) -> set[int]:
    """What a rule commits, in a block of so many positions that has seen so many calls."""
    entropy, max_prob, margin = ({place: row[index] for place, row in drawn.items()} for index in (2, 3, 4))
    lottery = {i: float(uniform(fold(torch.tensor(request.key), 1, nfe, i))) for i in drawn}
    match request.sampler.rule:
        case "entropy_bound" | "learned":
            return set(bounded_prefix(entropy, value))
        case "confidence":
            return {*(i for i in max_prob if max_prob[i] >= value), *best(max_prob, 1)}
        case "top_k":
            return set(best(max_prob, int(value)))
        case "margin":
            return set(best(margin, int(value)))
        case "random":
            return set(best(lottery, int(value)))
        case "steps":
            steps = max(1, int(value) // num_blocks)
            base, remainder = divmod(block, steps)
            return set(best(max_prob, max(1, base + (block_calls < remainder))))
        case rule:
            raise AssertionError(rule)


@torch.no_grad()
def run(policy: Policy, sequence: list[int]) -> torch.Tensor:
    """Hidden states of one sequence on its own."""
    ids, packing = pack(torch.tensor([sequence]), torch.tensor([len(sequence)]))
    return policy.denoiser(ids, packing)


def mean_gamma(policy: Policy, decisions: list[tuple]) -> float:
    return sum(policy.sampler_head.config.gamma_max / (1 + math.exp(-row[0])) for row in decisions) / len(decisions)


def choose_gamma(
    policy: Policy, request: Request, features: torch.Tensor, call: int | None = None
) -> tuple[float, float]:
    mean = float(policy.sampler_head(features[None]).detach())
    sigma = policy.sampler_head.config.sigma
    counters = (2,) if call is None else (2, call)
    noise = float(normal(fold(torch.tensor(request.key), *counters))) if request.explore else 0.0
    return mean + sigma * noise, -0.5 * noise**2 - math.log(sigma) - 0.5 * math.log(2 * math.pi)


def choose_positions(
    policy: Policy, request: Request, max_prob: dict[int, float], window: range, places: range, call: int
) -> tuple[torch.Tensor, float, torch.Tensor]:
    """What a Bernoulli head commits of a window, its log-probability summed over all draws that lead there, features.

    A uniform number a candidate; if nothing is drawn, the likeliest.
    """
    features = torch.tensor([max_prob.get(i, -1.0 * (i in places)) for i in window])
    f = dict(zip(window, policy.sampler_head(features[None])[0].tolist(), strict=True))
    chance = {i: 1 / (1 + math.exp(-f[i])) for i in max_prob}
    draws = {i: float(uniform(fold(torch.tensor(request.key), 2, call, i))) for i in max_prob}
    drawn = {i for i in max_prob if (draws[i] < chance[i] if request.explore else f[i] > 0)}
    fallback = set(best(chance, 1))
    committed = drawn or fallback
    odds = math.prod(chance[i] if i in committed else 1 - chance[i] for i in chance)
    if committed == fallback:
        odds += math.prod(1 - u for u in chance.values())
    return torch.tensor([i in committed for i in window]), math.log(odds), features


def draw_token(logits: torch.Tensor, temperature: float, uniform_number: float) -> tuple[int, float]:
    """Token and log-probability: walk along the cumulative distribution."""
    if temperature == 0:
        return int(logits.argmax()), 0.0
    probabilities = (logits / temperature).softmax(-1).tolist()
    total = 0.0
    for token, probability in enumerate(probabilities):
        total += probability
        if uniform_number < total:
            return token, math.log(probability)
    raise AssertionError("the probabilities do not sum to one")


def certainty(logits: torch.Tensor, request: Request) -> tuple[float, float, float]:
    """Entropy, largest probability and margin at the sampler's own temperature."""
    probabilities = (logits / request.entropy_temperature).softmax(-1).tolist()
    first, second = sorted(probabilities, reverse=True)[:2]
    return -sum(p * math.log(p) for p in probabilities if p > 0), first, first - second


def best(score: dict[int, float], count: int) -> list[int]:
    """The `count` positions of highest score, the leftmost of equals."""
    return sorted(score, key=lambda i: (-score[i], i))[:count]


def bounded_prefix(entropy: dict[int, float], gamma: float) -> list[int]:
    """The largest prefix by ascending entropy with sum - max <= gamma, at least one."""
    order = sorted(entropy, key=lambda i: (entropy[i], i))
    size = 1
    while size < len(order) and sum(entropy[i] for i in order[:size]) <= gamma:
        size += 1
    return order[:size]
