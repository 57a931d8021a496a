"""From logits to a drawn token, its log-probability, and how sure the model was: one fp32 pass."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def ban(logits: Float[Tensor, "... V"], banned: Int64[Tensor, " K"]) -> Float[Tensor, "... V"]:
    """Logits in fp32 with the banned ids (mask, vocabulary padding) at -inf: what no one may emit, no one scores."""
    return logits.float().index_fill(-1, banned, -torch.inf)


def log_softmax_at(
    logits: Float[Tensor, "N V"], tokens: Int64[Tensor, " N"], temperature: float
) -> Float[Tensor, " N"]:
    """log softmax(logits / temperature) at `tokens`."""
    logits = logits / temperature
    return logits.gather(-1, tokens[:, None]).squeeze(-1) - logits.logsumexp(-1)


def draw(
    logits: Float[Tensor, "N V"], temperature: Float[Tensor, " N"], uniforms: Float[Tensor, " N"]
) -> tuple[Int64[Tensor, " N"], Float[Tensor, " N"]]:
    """Draw one token a row from softmax(logits / temperature) by inverse CDF; argmax where temperature is 0.

    Returns tokens and their log-probabilities under the distribution drawn from (0 where greedy: a point mass).
    """
    greedy = temperature == 0
    logprobs = (logits / torch.where(greedy, 1.0, temperature)[:, None]).log_softmax(-1)
    cdf = logprobs.exp().cumsum(-1)
    total = cdf[:, -1]
    # strictly below the total, so that the draw stops at an id of non-zero probability
    target = torch.minimum(uniforms * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, target[:, None], right=True).squeeze(-1)
    tokens = torch.where(greedy, logits.argmax(-1), drawn)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1).masked_fill(greedy, 0.0)


def certainty(
    logits: Float[Tensor, "N V"], temperature: Float[Tensor, " N"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Entropy (nats) and largest probability of softmax(logits / temperature)."""
    logprobs = (logits / temperature[:, None]).log_softmax(-1)
    probs = logprobs.exp()
    return -(probs * logprobs.clamp_min(-1e4)).sum(-1), probs.amax(-1)
