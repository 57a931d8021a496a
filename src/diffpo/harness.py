"""diffpo's models in EleutherAI's evaluation harness: `lm_eval --model diffpo --model_args pretrained=FOLDER`.

Versions of lm_eval that look for entry points find it by themselves; for others `python -m diffpo.harness` is their
command with this model known to it. It is the only place of lm_eval.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.model import LM  # pyright: ignore[reportMissingImports]
from lm_eval.api.registry import register_model  # pyright: ignore[reportMissingImports]
from torch import Tensor

from diffpo.config.checks import check, suggest
from diffpo.functional.random import make_key
from diffpo.models.bounds import evidence_bounds
from diffpo.models.policy import load_policy
from diffpo.processes.world import World
from diffpo.rollout.checks import check_request
from diffpo.rollout.engine import generate
from diffpo.rollout.judging import text_of
from diffpo.rollout.likelihood import log_likelihoods
from diffpo.rollout.local import default_length, request_for

log = logging.getLogger("diffpo.harness")


LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""What tasks call the length of an answer; the first that is there counts."""
UNDERSTOOD = ("until", "do_sample", "temperature", *LENGTHS)
"""Settings of generation that say something here."""
LIKELIHOODS = ("bound", "exact")


class Chat(str):
    """A conversation, and how its answer begins, as JSON: what the harness takes for a rendered prompt."""

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, str]], prefill: str = "") -> Chat:
        return cls(json.dumps({"messages": messages, "prefill": prefill}))

    def __add__(self, text: str) -> Chat:
        """The answer goes on with `text`: some tasks put a choice behind the prompt."""
        said = json.loads(self)
        return Chat.of(said["messages"], said["prefill"] + text)


@register_model("diffpo")
class DiffpoLM(LM):
    """Answers as `diffpo.sample` does, greedily unless told otherwise; likelihoods are bounds, or the sampler's own.

    Several processes, by `accelerate launch`, have a model each and share the rows of a task.
    """

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
        likelihood: str = "bound",
        nelbo_samples: int = 32,
        num_slots: int = 64,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
    ) -> None:
        """`sampler`, `gen_length` (over the task's max_gen_toks) and `block_length`: as in `RolloutConfig`.

        `likelihood`: the evidence lower "bound" of a continuation, of which `nelbo_samples` masks are drawn, or
        "exact", its probability under the sampler. `num_slots` rows are decoded at once. The harness' own batch sizes
        say nothing here: no answer depends on one.
        """
        super().__init__()
        check(likelihood in LIKELIHOODS, f"likelihood={likelihood}{suggest(likelihood, LIKELIHOODS)}")
        # the harness says cuda:0 where nobody says anything
        if not device or (device.startswith("cuda") and not torch.cuda.is_available()):
            device = "auto"
        self.world = World.join(device)
        self._rank, self._world_size, self._device = self.world.rank, self.world.num_ranks, self.world.device
        self.policy = load_policy(pretrained, adapter=adapter, device=self.world.device, dtype=dtype)
        self.gen_length, self.seed, self.nelbo_samples = gen_length, seed, nelbo_samples
        said = {"sampler": sampler, "block_length": block_length}
        self.config = replace(self.policy.decoding, **{name: value for name, value in said.items() if value})
        self.num_slots, self.likelihood = num_slots, likelihood

    @property
    def tokenizer_name(self) -> str:
        """What tells chat templates apart in the harness' cache."""
        return self.policy.base.name if self.policy.base else "diffpo"

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The model's own is applied where the ids are made."""
        return ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation; without a prompt for the answer its last message is the answer's beginning."""
        if add_generation_prompt:
            return Chat.of(chat_history)
        return Chat.of(chat_history[:-1], chat_history[-1]["content"])

    def _ids(self, context: str) -> tuple[int, ...]:
        """Of a conversation under the model's template, or of a text as it stands."""
        if isinstance(context, Chat):
            said = json.loads(context)
            return self.policy.encode(said["messages"], said["prefill"])
        return self.policy.tokenizer.encode(context)

    # --- processes -------------------------------------------------------------------------------------------------

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The number of each process, in their order."""
        return torch.tensor(self.world.gather([tensor.item()]), device=tensor.device)

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """The object of each process, on `dst` alone."""
        found = self.world.gather([obj])
        return found if self.rank == dst else None

    def barrier(self) -> None:
        """Wait for the others."""
        self.world.gather([])

    # --- answers ---------------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """The text of each request up to the first of its stops."""
        made, default = [], default_length(self.policy)
        given = (asked.args[1] for asked in requests)
        if idle := {
            key for each in given for key, value in each.items() if key not in UNDERSTOOD and value is not None
        }:
            log.warning("%s of the tasks' generation settings do nothing here", ", ".join(sorted(idle)))
        for name, asked in zip(_names(requests), requests, strict=True):
            context, settings = asked.args
            length = next(filter(None, map(settings.get, LENGTHS)), None)
            sampled = settings.get("do_sample")  # without a temperature that is 1, as everywhere
            warm = 0.0 if sampled is False else settings.get("temperature", 1.0 if sampled else 0.0)
            length = self.gen_length or length
            config = replace(self.config, gen_length=length, canvas="") if length else self.config
            config = replace(config, temperature=float(warm or 0.0))
            try:
                key = make_key(self.seed, name)
                made.append(request_for(self.policy, self._ids(context), config, default, key, explore=False))
                check_request(self.policy, made[-1])
            except ValueError as error:
                raise ValueError(f"prompt {context!r:.60}: {error}") from None
        found = generate(self.policy, made, self.num_slots)
        texts = [text_of(self.policy, completion) for completion in found]
        stops = [asked.args[1].get("until") or [] for asked in requests]
        return [
            _cut(text, [until] if isinstance(until, str) else until) for text, until in zip(texts, stops, strict=True)
        ]

    # --- likelihoods -----------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """How likely each continuation is, in nats, and False: no greedy decoding is asked for.

        A bound is the mean over `nelbo_samples` masks (`evidence_bounds`), and its standard error is logged.
        """
        pairs = [self._pair(*asked.args) for asked in requests]
        return [(value, False) for value in self._likelihoods(pairs, _names(requests))]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The same of each text: of pieces as long as the model can hold, each on its own."""
        longest, sums = self.policy.denoiser.config.max_length, list[float]()
        for name, asked in zip(_names(requests), requests, strict=True):
            ids = self.policy.tokenizer.encode(asked.args[0])
            pieces = [((), ids[start : start + longest]) for start in range(0, len(ids), longest)]
            sums.append(sum(self._likelihoods(pieces, [f"{name} {at}" for at in range(len(pieces))])))
        return sums

    def _pair(self, context: str, continuation: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids of both, cut as the harness cuts: spaces at a context's end belong to the word behind them.

        Where a token would reach over the cut each has ids of its own: the continuation's would be lost.
        """
        encode = self.policy.tokenizer.encode
        if isinstance(context, Chat):
            return self._ids(context), encode(continuation)
        continuation = context[len(context.rstrip()) :] + continuation
        before, whole = encode(context.rstrip()), encode(context.rstrip() + continuation)
        is_cut = whole[: len(before)] == before
        return before, whole[len(before) :] if is_cut else encode(continuation)

    def _likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], names: Sequence[str]) -> list[float]:
        longest = self.policy.denoiser.config.max_length
        pairs = [(context[max(0, len(context) + len(text) - longest) :], text) for context, text in pairs]
        if self.likelihood == "exact":
            return log_likelihoods(self.policy, pairs, replace(self.config, num_slots=self.num_slots), self.seed)
        keys = [make_key(self.seed, "nelbo", name) for name in names]
        drawn = [
            evidence_bounds(self.policy, *pair, self.nelbo_samples, key) for pair, key in zip(pairs, keys, strict=True)
        ]
        if drawn and self.nelbo_samples > 1:
            error = sum(float(each.std()) for each in drawn) / len(drawn) / self.nelbo_samples**0.5
            log.warning("%d likelihoods are bounds, their standard error %.3g nats on average", len(drawn), error)
        return [float(each.mean()) for each in drawn]


def _names(requests: Sequence[Any]) -> list[str]:
    """Which request of which row each is, and how often it was asked before: the same in any number of processes."""
    asked, names = Counter[str](), []
    for request in requests:
        name = f"{request.task_name} {request.doc_id} {request.idx}"
        names.append(f"{name} {asked[name]}")
        asked[name] += 1
    return names


def _cut(text: str, stops: Sequence[str]) -> str:
    return text[: min((at for stop in stops if stop and (at := text.find(stop)) >= 0), default=len(text))]


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

    cli_evaluate()
