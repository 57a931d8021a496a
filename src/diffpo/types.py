"""The nouns: Prompt, Verdict, Sampler, Request, Completion, Rollout, RolloutGroup and Batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from diffpo.config import parse_sampler

if TYPE_CHECKING:
    from diffpo.view.drawing import Picture

Messages = Sequence[Mapping[str, str]]
"""A conversation: each message has a role and its content."""


@dataclass(frozen=True)
class Prompt:
    """One question of a task. `id`, its own in its split, is stable: it keys the random numbers of its completions."""

    id: str
    text: str
    level: str = ""
    """Difficulty class that evaluation reports on its own, such as "easy"; "" for none."""
    columns: Mapping[str, object] = field(default_factory=dict)
    """What the verifier needs: the answer, the numbers, the grid."""
    prefill: str = ""
    """Start of the completion, put after the assistant header; the completion's text goes on from it."""
    messages: Messages = ()
    """The conversation, where the prompt is one, as it goes through the chat template; `text` is what people read."""
    place: str = ""
    """Where the row stands, such as "my.jsonl, line 7", for messages that say it is wrong; "" for none."""

    @property
    def asked(self) -> str | Messages:
        """What the model is asked: the conversation, or the text."""
        return self.messages or self.text


@dataclass(frozen=True)
class Verdict:
    """What a verifier says of one completion."""

    correct: bool
    reward: float | None
    """None leaves the completion out of training."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Named parts of the reward, logged as `rewards/{name}`."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """What reward functions say of the completion beside that, kept in completions.jsonl."""
    answer: str | None = None
    """The final answer that was judged, "" for none; None where the task does not say."""


class Attempts(NamedTuple):
    """Completions of one prompt that are judged together: the G of a group, or one in an evaluation."""

    prompt: Prompt
    texts: Sequence[str]
    """Text before EOS, without the prompt's prefill."""
    tokens: Sequence[Sequence[int]]
    """Ids up to and including the first EOS."""


@dataclass(frozen=True)
class Judged:
    """What a verifier, or reward functions, make of attempts."""

    verdicts: Sequence[Verdict]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What reward functions logged of the group as a whole."""


@dataclass(frozen=True)
class Sampler:
    """Which masked positions one denoiser call commits: a rule and its number.

    `entropy_bound` gamma in nats, `confidence` probability, `top_k`, `margin` and `random` positions a call, `steps`
    calls a canvas (LLaDA's schedule), `learned` none: the policy's sampler head decides. An own rule is
    "PATH.py:CLASS" (`diffpo.rollout.rules`).
    """

    rule: str
    value: float = 0.0

    @classmethod
    def parse(cls, spec: str) -> Sampler:
        """Read "rule:number", such as "entropy_bound:0.1", or "learned"; ValueError says what is allowed."""
        return cls(*parse_sampler(spec))

    def __str__(self) -> str:
        return self.rule if self.rule == "learned" else f"{self.rule}:{self.value:g}"


class Blocks(NamedTuple):
    """Blocks of a row's canvas: position i lies in block (i + offset) // length.

    Positions of the prompt are negative, and so are numbers of blocks that end before the canvas.
    """

    length: int
    offset: int = 0
    """Tokens of the prompt in the block in which the canvas begins."""


@dataclass(frozen=True)
class Request:
    """One completion to decode. Every setting is the row's own."""

    prompt_ids: tuple[int, ...]
    key: int
    """64-bit key of all the row's random numbers."""
    gen_length: int
    block_length: int
    sampler: Sampler
    temperature: float = 1.0
    entropy_temperature: float = 1.0
    early_exit: bool = True
    """Stop once an EOS and everything before it is committed; False decodes the full canvas."""
    explore: bool = True
    """Draw what a sampler head decides; False takes it without noise."""
    cache: str = "none"
    """Keys and values that are not computed in every call (`diffpo.rollout.cache`): none, exact, prefix or dual."""
    refresh_every: int = 0
    """Calls after which a cache is computed anew, beside the first call of each block; 0: only then."""
    suffix_ids: tuple[int, ...] = ()
    """What stands behind the canvas, which is filled in between: the model sees both sides."""
    canvas_ids: tuple[int, ...] = ()
    """What stands on the canvas from the start, L ids, the mask's where there is something to write; empty: masks.
    An EOS ends nothing before the last that is given."""
    answer_ids: tuple[int, ...] = ()
    """What calls write, L ids, whatever they would draw: the completion's log-probabilities are then those of this
    text, under this sampler (`diffpo.rollout.likelihood`). Empty: what they draw."""

    @property
    def length(self) -> int:
        """Tokens of prompt, canvas and suffix."""
        return len(self.prompt_ids) + self.gen_length + len(self.suffix_ids)


@dataclass(frozen=True, eq=False)
class Completion:
    """What the engine returns for one request. Tensors have shape [L], L = gen_length."""

    tokens: Tensor
    committed_at: Tensor
    """Denoiser call (1..nfe) that committed each position; 0 where it was given (`Request.canvas_ids`)."""
    behaviour_logprobs: Tensor
    """log-probability of each token under the very distribution it was drawn from; 0 at temperature 0."""
    entropies: Tensor
    """Entropy (nats, at the request's entropy_temperature) of each position's distribution when it was committed."""
    nfe: int
    """Denoiser calls made for this row."""
    nfe_until_eos: int
    """Calls until the first EOS and everything before it stood; equals `nfe` with early exit."""
    length: int
    """Tokens up to and including the first EOS."""
    gamma: float | None = None
    """The threshold, where there is one; where each call has its own, their mean."""
    actions: Tensor | None = None
    """The K decisions of a sampler head, one for the prompt or one a call: a of gamma = gamma_max * sigmoid(a), [K], or
    which of the W positions of a block are committed, [K, W] bool."""
    action_logprobs: Tensor | None = None
    """log-probability of each, [K]."""
    features: Tensor | None = None
    """What each was made on: hidden states, pooled over the prompt or over a block's masks before the call, [K, D]; or
    largest probabilities, [K, W] (`diffpo.models.bernoulli`)."""
    blocks: Blocks | None = None
    """Where attention is block-causal: its blocks, for likelihoods."""
    key: int = 0
    """That of its request: of all its random numbers."""
    versions: tuple[tuple[int, int], ...] = ((1, 0),)
    """Versions of the weights that made it, each with its first call: more than one where they changed on the way."""
    prompt: str = ""
    text: str = ""
    pieces: tuple[str, ...] = ()
    """What was asked, what it says, the text of each position: if `diffpo.sample` made it; the engine has ids."""

    @property
    def written(self) -> Tensor:
        """Tokens of the completion that calls committed, [L] bool: all up to its end but those that were given."""
        return (self.committed_at > 0) & (torch.arange(len(self.tokens)) < self.length)

    @property
    def took(self) -> tuple[str, ...]:
        """What it took, in words."""
        gamma = () if self.gamma is None else (f"gamma {self.gamma:.3g}",)
        return f"NFE {self.nfe}", f"{int(self.written.sum()) / self.nfe_until_eos:.2f} tokens per NFE", *gamma

    @property
    def certainties(self) -> list[float]:
        """exp(-entropy) of the distribution that each token was committed from: 1 when the model was sure."""
        return [math.exp(-max(0.0, entropy)) for entropy in self.entropies.tolist()]

    def __repr__(self) -> str:
        said = repr(self.text) if self.pieces else f"{self.length} tokens"
        return f"Completion({', '.join((said, *self.took))})"

    def _repr_html_(self) -> str | None:
        from diffpo.view.canvas import painted
        from diffpo.view.notebook import as_html

        return as_html(painted(self)) if self.pieces else None

    def plot(self, columns: int | None = None, given: Sequence[bool] = ()) -> Picture:
        """The canvas in the colours of the calls, `columns` cells a row, and the order (`canvas.unmasking_figure`)."""
        from diffpo.view.canvas import unmasking_figure

        return unmasking_figure(self, columns, given)


@dataclass(frozen=True, eq=False)
class Rollout:
    """A scored completion."""

    completion: Completion
    text: str
    verdict: Verdict
    reward: float
    """What training maximises: the task's reward with its speed term; NaN where the verdict has none."""
    hinted: bool = False
    """Whether parts of a solution were given (`diffpo.rollout.hints`)."""

    @property
    def rewarded(self) -> bool:
        """Whether there is a reward to learn from."""
        return not math.isnan(self.reward)


@dataclass(frozen=True, eq=False)
class RolloutGroup:
    """The G rollouts of one prompt."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    rollouts: Sequence[Rollout]
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What reward functions logged of the group."""
    unused_calls: int = 0
    """Denoiser calls of completions that were made beside these."""

    def __repr__(self) -> str:
        rewards = ", ".join(f"{rollout.reward:.3g}" for rollout in self.rollouts)
        right = sum(rollout.verdict.correct for rollout in self.rollouts)
        return f"RolloutGroup({self.prompt.id}: {right} of {len(self.rollouts)} right, rewards {rewards})"


@dataclass(frozen=True, eq=False)
class Batch:
    """Rollouts as the update reads them: B rows in group order, all with a reward, canvas length L (the longest)."""

    prompts: Tensor  # [B, P] ids, right-padded
    prompt_lengths: Tensor  # [B]
    tokens: Tensor  # [B, L]
    committed_at: Tensor  # [B, L]
    behaviour_logprobs: Tensor  # [B, L]
    entropies: Tensor  # [B, L] nats, of what each was drawn from
    loss_mask: Tensor  # [B, L] bool: tokens up to and including the first EOS, but those that were given
    gen_lengths: Tensor  # [B]
    nfe: Tensor  # [B]
    keys: Tensor  # [B] of the random numbers that each was drawn with
    advantages: Tensor  # [B]
    features: Tensor | None  # [B, K, D] or [B, K, W]
    actions: Tensor | None  # [B, K] or [B, K, W]
    action_logprobs: Tensor | None  # [B, K]
    blocks: Tensor | None = None  # [B, 2] `Blocks` of each row where attention is block-causal

    @classmethod
    def from_groups(cls, groups: Sequence[RolloutGroup], advantages: Tensor) -> Batch:
        """Stack groups; shorter canvases are padded on the right with positions that no loss sees.

        This is the door to training: a rollout without a reward (NaN) stays outside, and with it its entry of
        `advantages`, which has one for every rollout of the groups. A batch may have no rows.
        """
        rollouts = [(group.prompt_ids, rollout) for group in groups for rollout in group.rollouts]
        kept = [index for index, (_, rollout) in enumerate(rollouts) if rollout.rewarded]
        rows = [rollouts[index][1].completion for index in kept]
        learned = bool(rows) and rows[0].actions is not None

        def pad(tensors: list[Tensor], empty: torch.dtype) -> Tensor:
            tensors = tensors or [torch.empty(0, dtype=empty)]
            if tensors[0].ndim == 2:  # blocks of several lengths
                width = max(tensor.shape[1] for tensor in tensors)
                tensors = [torch.nn.functional.pad(tensor, (0, width - tensor.shape[1])) for tensor in tensors]
            return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True)[: len(rows)]

        def stack(name: str, empty: torch.dtype = torch.float32) -> Tensor:
            return pad([getattr(row, name) for row in rows], empty)

        def column(values: Iterable[int]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.int64)

        prompts = [rollouts[index][0] for index in kept]
        tokens, committed_at = stack("tokens", torch.int64), stack("committed_at", torch.int64)
        lengths = column(row.length for row in rows)
        return cls(
            prompts=pad([column(prompt) for prompt in prompts], torch.int64),
            prompt_lengths=column(map(len, prompts)),
            tokens=tokens,
            committed_at=committed_at,
            behaviour_logprobs=stack("behaviour_logprobs"),
            entropies=stack("entropies"),
            loss_mask=(torch.arange(tokens.shape[1]) < lengths[:, None]) & (committed_at > 0),
            gen_lengths=column(len(row.tokens) for row in rows),
            nfe=column(row.nfe for row in rows),
            keys=column(row.key for row in rows),
            advantages=advantages[column(kept)],
            features=stack("features") if learned else None,
            actions=stack("actions") if learned else None,
            action_logprobs=stack("action_logprobs") if learned else None,
            blocks=torch.tensor([row.blocks for row in rows]) if rows and rows[0].blocks else None,
        )

    @property
    def written(self) -> Tensor:
        """Positions that calls committed, [B, L] bool: the others were given, and no latent masks them."""
        return self.committed_at > 0

    @property
    def decided(self) -> Tensor:
        """Which of the K decisions of a sampler head were made, [B, K] bool: one a prompt, or one a call."""
        assert self.actions is not None
        return torch.arange(self.actions.shape[1], device=self.nfe.device) < self.nfe[:, None]

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Tensor | slice) -> Batch:
        """The batch restricted to `rows`, by their indices or as a slice."""
        return self._each(lambda value: value[rows])

    def to(self, device: torch.device) -> Batch:
        """The batch on a device."""
        return self._each(lambda value: value.to(device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values = vars(self).items()
        return Batch(**{name: None if value is None else change(value) for name, value in values})  # type: ignore[arg-type]
