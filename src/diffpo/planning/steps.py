"""Steps as plans see them: how many rows go through the denoiser, what is held at once, what had to be assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import NamedTuple

from diffpo.config import SftConfig, TaskConfig, TrainConfig, canvas_size, parse_sampler
from diffpo.config.checks import check
from diffpo.functional.latents import Unit, cut_by_tokens
from diffpo.objective import Objective
from diffpo.planning import memory, rehearsal
from diffpo.planning.work import Cluster, Phase, Work
from diffpo.surrogates import Cost
from diffpo.tasks import TINY, load_solved_task, load_task
from diffpo.view.progress import counted

PROMPT_LENGTH = 200
"""Tokens of a prompt where nobody says: d1's limit."""
NUM_PROMPTS = 256
"""Prompts of a tiny task that are looked at for the longest."""
CANVAS = 256
"""Tokens of a canvas to fine-tune on where nobody says."""
CHARACTERS = 4
"""Of a token, where no tokenizer is at hand."""


def expected_nfe(sampler: str, gen_length: int, block_length: int) -> tuple[float, bool]:
    """Denoiser calls a completion without early exit, and whether the rule alone says so."""
    rule, value = parse_sampler(sampler)
    if rule == "steps":
        return value, True
    if rule in ("top_k", "margin", "random"):
        whole, rest = divmod(gen_length, block_length)
        return whole * -(-block_length // int(value)) + -(-rest // int(value)), True
    return gen_length / 2, False


class Part(NamedTuple):
    """What goes through the denoiser at once, or in a whole pass."""

    latents: int
    rows: int
    prompts: int
    scored: float
    """Tokens."""


@dataclass(frozen=True)
class Step:
    """What steps of every kind have."""

    config: TrainConfig | SftConfig
    model: memory.Model
    cluster: Cluster
    prompt_length: int
    gen_length: int
    block_length: int

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt_length + self.gen_length

    @property
    def in_blocks(self) -> bool:
        """Attention is block-causal: a call computes a block, and a canvas is scored behind a clean copy of it."""
        return self.model.shape.block_length is not None

    @property
    def clean_length(self) -> int:
        """Tokens of a canvas in blocks that a later block sees."""
        block = self.block_length
        return (-(-self.gen_length // block) - 1) * block

    def tokens(self, part: Part) -> int:
        """Tokens of it: in blocks prompts and clean canvases go through once."""
        if not self.in_blocks:
            return part.latents * self.length
        return part.prompts * self.prompt_length + part.rows * self.clean_length + part.latents * self.gen_length

    def work(self, part: Part) -> Work:
        """Of its latents, each with what it has of the tokens."""
        tokens, keys = self.tokens(part) / part.latents, None
        if self.in_blocks:
            before = part.prompts * self.prompt_length
            branch = self.prompt_length + self.clean_length + part.latents / part.rows * self.gen_length
            keys = (before * self.prompt_length + (self.tokens(part) - before) * branch) / self.tokens(part)
        return Work(self.model, self.cluster, tokens, keys)

    def wanted(self, part: Part) -> float:
        """Tokens of each latent that come out of the last block: in blocks those alone that are scored."""
        return part.scored / part.latents if self.in_blocks else self.gen_length

    def load_of(
        self,
        parts: Sequence[Part],
        temperature: float,
        decoding: memory.Decoding | None = None,
        reference: bool = False,
    ) -> memory.Load:
        """What one GPU works on: of these micro-batches the largest, with as much to score as any has."""
        latents, rows, prompts, _ = max(parts, key=self.tokens)
        scored = max(1, round(max(part.scored for part in parts)))
        lengths, again = (self.prompt_length, self.gen_length), self.config.optim.gradient_checkpointing
        alone, sharded = len(parts) == 1, self.cluster.shards and self.model.learns != "nothing"
        batch = memory.MicroBatch(latents, rows, prompts, scored, *lengths, temperature, again, alone)
        return memory.Load(batch, decoding, reference, self.cluster.num_gpus if sharded else 1, self.cluster.gpu.host)


@dataclass(frozen=True)
class RlStep(Step):
    """A step of reinforcement learning: its counts, as the code makes them."""

    config: TrainConfig
    nfe: float

    @property
    def call_length(self) -> float:
        """Tokens of a row in a denoiser call, on average: all of them, or with a cache all of them now and then."""
        rollout, block = self.config.rollout, self.block_length
        if not self.caches:
            return self.length
        if self.in_blocks:  # the prompt and each finished block are computed once more
            return block + (self.length - block) / self.nfe
        calls = self.nfe * block / self.gen_length  # of a block
        refreshes = -(-calls // rollout.cache_refresh) if rollout.cache_refresh else 1
        between = block if rollout.cache == "dual" else (self.gen_length + block) / 2
        return between + (self.length - between) * min(1.0, refreshes / calls)

    def call_work(self, sharing: int) -> Work:
        """A row in a denoiser call, on average over completions of which `sharing` make their first call as one."""
        first = self.prompt_length + self.block_length if self.in_blocks and self.caches else self.length
        calls = self.nfe - 1 + 1 / sharing
        tokens = self.nfe * self.call_length - (1 - 1 / sharing) * first
        # of blocks with a cache the first sees itself and its prompt, and the last all
        others = (tokens - first / sharing) * (first + self.length) / 2
        return Work(self.model, self.cluster, tokens / calls, (first * first / sharing + others) / tokens)

    @property
    def caches(self) -> bool:
        """Whether keys and values are kept between calls: `auto` does where that is exact."""
        cache = self.config.rollout.cache
        return cache in ("prefix", "dual") or (self.in_blocks and cache != "none")

    @property
    def heading(self) -> str:
        config = self.config
        updates = counted(config.objective.num_iterations, "update")
        return (
            f"a step: {counted(config.prompts_per_step, 'prompt')} x {config.num_generations} completions of "
            f"{self.gen_length} tokens, {self.nfe:g} denoiser calls each, {updates}"
        )

    @property
    def rows(self) -> int:
        """Completions that one GPU updates on, at most."""
        return -(-self.config.prompts_per_step * self.config.num_generations // self.cluster.num_gpus)

    @property
    def rollout_rows(self) -> int:
        """Completions that one GPU decodes: groups are not split."""
        return -(-self.config.prompts_per_step // self.cluster.num_gpus) * self.config.num_generations

    def micro_batches(self) -> list[Part]:
        """Those of a pass; z_0 is a group's, other latents a row's."""
        cost, size = self.cost, self.config.num_generations
        latents = list[tuple[int, int, float]]()  # of each its group, its row, and how many tokens are scored in it
        for row in range(self.rows):
            alone = 1 if self.in_blocks else size  # rows that share the empty canvas
            sharing = 0 if row % alone else min(alone, self.rows - row)  # of them the first owns what they share
            scored = [self.gen_length * cost.shared * sharing] if cost.shared and sharing else []
            scored += [self.gen_length * cost.scored] * round(cost.own)
            latents += [(row // size, row, tokens) for tokens in scored]
        length, prompt, clean = (self.length, 0, 0)
        if self.in_blocks:
            length, prompt, clean = self.gen_length, self.prompt_length, self.clean_length
        count, (groups, owners, _) = len(latents), zip(*latents, strict=True)
        units = [Unit(groups, [prompt] * count), Unit(owners, [clean] * count)]
        parts = list[Part]()
        for part in cut_by_tokens([length] * count, units, self.config.optim.micro_batch_tokens):
            groups, owners, scored = zip(*(latents[at] for at in part), strict=True)
            parts.append(Part(len(part), len({*owners}), len({*groups}), sum(scored)))
        return parts

    @cached_property
    def objective(self) -> Objective:
        return Objective.of(self.config.objective)

    @property
    def cost(self) -> Cost:
        """Of one scoring of a row."""
        return self.objective.surrogate.cost(round(self.nfe))

    def load(self) -> memory.Load:
        """What the largest call and the largest micro-batch hold."""
        rollout = self.config.rollout.decoding
        by_call = self.config.sampler_head == "bernoulli" or self.config.threshold.level == "state"
        decides = rollout.sampler == "learned" and by_call
        if rollout.sampler == "learned" and not by_call:  # a row's threshold stands after its first call
            rollout = replace(rollout, sampler="entropy_bound:0")
        rows, head = min(rollout.num_slots, self.rollout_rows), self.config.head if decides else None
        decoding = memory.Decoding(rows, self.prompt_length, self.gen_length, rollout, head)
        return self.load_of(self.micro_batches(), rollout.temperature, decoding, self.config.objective.beta > 0)

    def rollouts(self) -> Phase:
        """Decoding a GPU's share of the prompts."""
        rows, generations = self.rollout_rows, self.config.num_generations
        # a group shares its first call; candidates dwindle from a block to the last few of it
        forwards = rows * self.nfe - (rows - rows / generations)
        scored = rows * self.nfe * (self.block_length + self.gen_length / self.nfe) / 2
        calls = -(-rows // min(rows, self.config.rollout.num_slots)) * self.nfe
        work = self.call_work(generations)
        flops = work.forward(forwards, scored, self.block_length)
        parts = rehearsal.rollout(self.model, self.load())
        if self.config.rollout.workers:
            parts = {**parts, **dict.fromkeys(("gradients", "optimiser", "reference"), 0.0)}
        return work.phase("rollouts", parts, forwards, flops, calls)

    @property
    def decoders(self) -> Cluster:
        """The GPUs that make rollouts: those of workers, where nothing learns, or the others."""
        workers = self.config.rollout.workers
        return replace(self.cluster, num_gpus=workers, shards=False) if workers else self.cluster

    def phases(self) -> Iterator[Phase]:
        yield replace(self, cluster=self.decoders).rollouts()
        load, model, objective = self.load(), self.model, self.config.objective
        if model.learns == "nothing":
            return
        passes, parts = objective.num_iterations, self.micro_batches()
        together = Part(*(sum(numbers) for numbers in zip(*parts, strict=True)))
        forwards, calls, wanted = passes * together.latents, passes * len(parts), self.wanted(together)
        scored, work = passes * self.rows * self.gen_length * self.cost.scorings, self.work(together)
        flops = work.forward(forwards, scored, wanted)
        if self.objective.scores_ahead:
            yield work.phase("old log-probs", rehearsal.scoring(model, load), forwards, flops, calls)
        if load.reference:
            yield work.phase("reference log-probs", rehearsal.scoring(model, load), forwards, flops, calls)
        update = work.update(forwards, scored, wanted, load)
        yield work.phase("update", rehearsal.backward(model, load), *update, 3 * calls)
        yield work.phase("optimiser", rehearsal.optimiser(model, load), 0, 0, passes)


@dataclass(frozen=True)
class SftStep(Step):
    """A step of fine-tuning: one micro-batch after the other, forwards and backwards."""

    config: SftConfig

    @property
    def heading(self) -> str:
        return f"a step: {counted(self.config.batch_size, 'row')} of {self.prompt_length} + {self.gen_length} tokens"

    @property
    def rows(self) -> int:
        """Rows that one GPU learns from, at most."""
        return -(-self.config.batch_size // self.cluster.num_gpus)

    @property
    def least(self) -> float:
        """Smallest share of masks, from which on all are as likely: in blocks at least one position is masked."""
        return max(self.config.min_time, 1 / self.block_length if self.in_blocks else 0.0)

    def micro_batches(self) -> list[Part]:
        """Times rise along the batch, so that later ones have more masks; these are of the rank with the last rows."""
        length, batch = self.length + (self.gen_length if self.in_blocks else 0), self.config.batch_size
        sizes = [len(part) for part in cut_by_tokens([length] * self.rows, [], self.config.optim.micro_batch_tokens)]
        middles = [batch - self.rows + end - size / 2 for end, size in zip(accumulate(sizes), sizes, strict=True)]
        masked = [self.least + (1 - self.least) * middle / batch for middle in middles]
        return [Part(n, n, n, n * self.gen_length * share) for n, share in zip(sizes, masked, strict=True)]

    def phases(self) -> Iterator[Phase]:
        parts, scored = self.micro_batches(), self.rows * self.gen_length * (1 + self.least) / 2
        load, together = self.load_of(parts, temperature=1.0), Part(self.rows, self.rows, self.rows, scored)
        work = self.work(together)
        update = work.update(self.rows, scored, self.wanted(together), load)
        yield work.phase("update", rehearsal.backward(self.model, load), *update, 3 * len(parts))
        yield work.phase("optimiser", rehearsal.optimiser(self.model, load), 0, 0, 1)


def sft_step(config: SftConfig, model: memory.Model, cluster: Cluster) -> tuple[SftStep, list[str]]:
    """The step, and what of it is assumed."""
    assumed, room = [], min(config.max_length or model.shape.max_length, model.shape.max_length)
    gen_length = config.gen_length
    if not config.data and config.task.name:
        gen_length = load_solved_task(config.task).gen_length
    if gen_length is None:
        gen_length = min(CANVAS, room - 1)
        assumed.append(f"{gen_length} tokens of canvas a row (gen_length)")
    task = TaskConfig() if config.data else config.task
    prompt_length = _prompt_length(cluster, task, gen_length, room, assumed)
    block_length = (config.blocks[-1] if config.blocks else model.shape.block_length) or gen_length
    return SftStep(config, model, cluster, prompt_length, gen_length, block_length), assumed


def rl_step(config: TrainConfig, model: memory.Model, cluster: Cluster) -> tuple[RlStep, list[str]]:
    """The step, and what of it is assumed."""
    assumed, characters = list[str](), 1 if config.task.name in TINY else CHARACTERS
    gen_length = canvas_size(config.rollout.canvas, characters) or config.rollout.gen_length
    if config.rollout.canvas and characters > 1:
        assumed.append(f"{gen_length} tokens of canvas: {characters} characters of rollout.canvas are one")
    if gen_length is None:
        gen_length = load_task(config.task).gen_length
    block_length = min(config.rollout.block_length or model.shape.block_length or gen_length, gen_length)
    nfe, exact = expected_nfe(config.rollout.sampler, gen_length, block_length)
    if cluster.nfe is not None:
        nfe = cluster.nfe
        check(nfe <= gen_length, f"nfe must be at most the canvas of {gen_length} tokens, got {nfe:g}")
    elif not exact:
        assumed.append(f"{nfe:g} denoiser calls a completion, half the canvas: {config.rollout.sampler} decides (nfe)")
    else:
        assumed.append(f"{nfe:g} denoiser calls a completion: no early exit (nfe)")
    prompt_length = _prompt_length(cluster, config.task, gen_length, model.shape.max_length, assumed)
    if workers := config.rollout.workers:
        assumed.append(f"rollouts are those of a worker, of {workers}, on a GPU like the others")
    if config.rollout.hints:
        assumed.append("no prompt is asked again with hints: where all are, rollouts take twice as long")
    if model.learns != "nothing" and not Objective.of(config.objective).learns_from_all:
        assumed.append("every group has a gradient: none is all right or all wrong")
    return RlStep(config, model, cluster, prompt_length, gen_length, block_length, nfe), assumed


def _prompt_length(cluster: Cluster, task: TaskConfig, gen_length: int, room: int, assumed: list[str]) -> int:
    """Tokens of the longest prompt; ValueError if the model has no room for them and the canvas."""
    length = cluster.prompt_length
    if not length and task.name in TINY:  # whose tokens are characters
        length = max(len(prompt.text) for prompt in load_task(task).prompts("train", NUM_PROMPTS))
    length = length or max(1, min(PROMPT_LENGTH, room - gen_length))
    if length + gen_length > room:
        raise ValueError(
            f"prompt_length {length} and {gen_length} tokens of canvas exceed the model's {room}: shorten one of them"
        )
    if not cluster.prompt_length:
        assumed.append(f"{length} tokens a prompt (prompt_length)")
    return length
