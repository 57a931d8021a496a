"""diffpo's models in EleutherAI's evaluation harness: `lm_eval --model diffpo --model_args pretrained=FOLDER`.

Versions of lm_eval that look for entry points find it by themselves; for others `python -m diffpo.harness` is their
command with this model known to it. It is the only place of lm_eval.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from torch import Tensor

from diffpo.functional.random import make_key
from diffpo.models.bounds import evidence_bounds
from diffpo.models.policy import load_policy
from diffpo.rollout.engine import generate
from diffpo.rollout.local import default_length, make_request

log = logging.getLogger("diffpo.harness")


class Chat(str):
    """A conversation as JSON: what the harness takes for a rendered prompt."""


@register_model("diffpo")
class DiffpoLM(LM):
    """Answers as `diffpo.sample` does, greedily unless told otherwise; likelihoods are bounds (`loglikelihood`)."""

    def __init__(
        self,
        pretrained: str,
        adapter: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        sampler: str | None = None,
        gen_length: int | None = None,
        block_length: int | None = None,
        seed: int = 0,
        nelbo_samples: int = 32,
        num_slots: int = 64,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """`sampler`, `gen_length` (over the task's max_gen_toks) and `block_length`: as in `RolloutConfig`.

        `nelbo_samples` masks are drawn of each continuation; `num_slots` rows are decoded at once. The harness' own
        batch sizes say nothing here: no answer depends on one.
        """
        super().__init__()
        # the harness says cuda:0 where nobody says anything
        if not device or (device.startswith("cuda") and not torch.cuda.is_available()):
            device = "auto"
        self.policy = load_policy(pretrained, adapter=adapter, device=device, dtype=dtype)
        self.gen_length, self.seed, self.nelbo_samples = gen_length, seed, nelbo_samples
        said = {"sampler": sampler, "block_length": block_length}
        self.config = replace(self.policy.decoding, **{name: value for name, value in said.items() if value})
        self.num_slots = num_slots

    @property
    def tokenizer_name(self) -> str:
        """What tells chat templates apart in the harness' cache."""
        return self.policy.base.name if self.policy.base else "diffpo"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The model's own is applied where the ids are made."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return Chat(json.dumps(chat_history))

    # --- answers ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of each request up to the first of its stops."""
        made = []
        for at, asked in enumerate(requests):
            context, settings = asked.args
            length = self.gen_length or settings.get("max_gen_toks") or self.config.gen_length
            warm = settings.get("temperature", 0.0) if settings.get("do_sample", True) else 0.0
            config = replace(self.config, gen_length=length, temperature=float(warm))
            prompt = json.loads(context) if isinstance(context, Chat) else context
            key = make_key(self.seed, at)
            config = replace(config, chat_template=isinstance(context, Chat))
            made.append(make_request(self.policy, prompt, config, default_length(self.policy), key, explore=False))
        found = generate(self.policy, made, self.num_slots)
        texts = [self.policy.tokenizer.decode(completion.tokens.tolist()) for completion in found]
        stops = [asked.args[1].get("until") or [] for asked in requests]
        return [
            _cut(text, [until] if isinstance(until, str) else until) for text, until in zip(texts, stops, strict=True)
        ]

    # --- likelihoods -----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """The evidence lower bound of each continuation, in nats, and False: no greedy decoding is asked for.

        It is the mean over `nelbo_samples` masks (`evidence_bounds`); its standard error is logged.
        """
        encode = self.policy.tokenizer.encode
        pairs = [(encode(context), encode(continuation)) for context, continuation in (r.args for r in requests)]
        return [(value, False) for value in self._bounds(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The bound of each text: of pieces as long as the model can hold, each on its own."""
        longest, sums = self.policy.denoiser.config.max_length, list[float]()
        for asked in requests:
            ids = self.policy.tokenizer.encode(asked.args[0])
            pieces = [((), ids[start : start + longest]) for start in range(0, len(ids), longest)]
            sums.append(sum(self._bounds(pieces)))
        return sums

    def _bounds(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        longest, drawn = self.policy.denoiser.config.max_length, list[Tensor]()
        for at, (context, continuation) in enumerate(pairs):
            context = context[max(0, len(context) + len(continuation) - longest) :]
            key = make_key(self.seed, "nelbo", at)
            drawn.append(evidence_bounds(self.policy, context, continuation, self.nelbo_samples, key))
        if drawn and self.nelbo_samples > 1:
            error = sum(float(each.std()) for each in drawn) / len(drawn) / self.nelbo_samples**0.5
            log.warning("%d likelihoods are bounds, their standard error %.3g nats on average", len(drawn), error)
        return [float(each.mean()) for each in drawn]


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()
