"""What a run will need before it runs: memory by part, forward passes, seconds a step.

Pure arithmetic on a config and the shape of its model: nothing is loaded and, for well-known models, nothing fetched.
docs/plan.md says how far the figures were checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from diffpo.config import TrainConfig, parse_sampler
from diffpo.functional.latents import cut_by_tokens
from diffpo.models.families import FAMILIES, PUBLISHED, Family
from diffpo.models.transformer import TransformerConfig
from diffpo.models.weights import Checkpoint, locate, read_json, tensor_shapes
from diffpo.tasks import load_task
from diffpo.training import memory
from diffpo.training.gpus import Gpu

PROMPT_LENGTH = 200
"""Tokens of a prompt where nobody says: d1's limit."""
MFU = 0.35
"""Share of a GPU's peak that a run is assumed to reach (not measured)."""


@dataclass(frozen=True)
class Start:
    """What a run starts from, as far as it is known without its weights."""

    shape: TransformerConfig
    family: Family
    value_bytes: int
    """Bytes of a value of the weights as saved."""
    adapter: dict[str, Any] | None = None
    """adapter_config.json of the adapter that the model carries."""


@dataclass(frozen=True)
class Cluster:
    """What it runs on, and what is assumed of it."""

    gpu: Gpu
    num_gpus: int = 1
    shards: bool = False
    """Whether what learns is sharded over the GPUs (FSDP2) rather than copied to each."""
    mfu: float = MFU
    nfe: float | None = None
    """Denoiser calls a completion; None: what the sampler's rule says, or half the canvas."""
    prompt_length: int | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("num_gpus", self.num_gpus),
            ("nfe", self.nfe),
            ("prompt_length", self.prompt_length),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value:g}")
        if not 0 < self.mfu <= 1:
            raise ValueError(f"mfu must lie in (0, 1], got {self.mfu:g}")


@dataclass(frozen=True)
class Phase:
    """One part of a step, on one GPU but for `forwards`."""

    name: str
    parts: memory.Parts
    """Bytes by part at its peak."""
    forwards: float
    """Rows through the denoiser, all GPUs together; a backward pass is none."""
    tokens: float
    flops: float
    seconds: float

    @property
    def bytes(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    config: TrainConfig
    cluster: Cluster
    model: memory.Model
    nfe: float
    prompt_length: int
    gen_length: int
    phases: tuple[Phase, ...]
    assumed: tuple[str, ...]
    """What was assumed rather than known."""

    @property
    def peak(self) -> Phase:
        """The phase that needs most memory."""
        return max(self.phases, key=lambda phase: phase.bytes)

    @property
    def fits(self) -> bool:
        return self.peak.bytes <= self.cluster.gpu.memory * 2**30

    @property
    def seconds(self) -> float:
        """Seconds a step."""
        return sum(phase.seconds for phase in self.phases)

    @property
    def days(self) -> float:
        return self.seconds * self.config.steps / 86400


def find_start(config: TrainConfig) -> Start:
    """Shape, family and dtype of config.model: known ones by heart, others from config.json, here or on the hub."""
    name, adapter = config.model, None
    if name not in PUBLISHED:
        folder = locate(name, config.load.revision, weights=False)
        folder = folder / "policy" if (folder / "policy").is_dir() else folder
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            adapter = read_json(folder / "adapter_config.json")
            name = adapter.get("base_model_name_or_path") or ""
        elif folder.is_dir():
            name = str(folder)
    if config.load.adapter:
        adapter = read_json(locate(config.load.adapter, weights=False) / "adapter_config.json")
    if name in PUBLISHED:
        values = PUBLISHED[name]
        family = FAMILIES[values["model_type"]]
        return Start(family.shape(values), family, 2, adapter)
    checkpoint = Checkpoint.open(name, config.load.revision, weights=False)
    local = [file for file in checkpoint.folder.glob("model*.safetensors") if file.is_file()]
    dtypes = [dtype for *_, dtype in tensor_shapes(local[:1])] or [
        str(checkpoint.config.get("torch_dtype", "bfloat16"))
    ]
    return Start(
        checkpoint.empty_denoiser().config, checkpoint.family, 4 if dtypes[0] in ("F32", "float32") else 2, adapter
    )


def make_model(config: TrainConfig, start: Start) -> memory.Model:
    """What `diffpo train` makes of a start."""
    automatic = start.value_bytes if start.family is FAMILIES["diffpo"] else 2
    base = {"auto": automatic, "saved": start.value_bytes, "bfloat16": 2, "float32": 4}[config.load.dtype]
    rank, targets = config.lora.rank, config.lora.targets
    if not rank and start.adapter:
        rank, wanted = start.adapter["r"], start.adapter.get("target_modules") or ()
        targets = tuple(wanted) if not isinstance(wanted, str) else ()
    adapted = tuple(
        name
        for name in memory.linears(start.shape)
        if rank
        and (
            not targets
            or any(f".{start.family.original(f'blocks.0.{name}')}".endswith(f".{target}") for target in targets)
        )
    )
    learns = "nothing" if config.train == "sampler" else "adapters" if rank else "all"
    return memory.Model(start.shape, base, learns, rank, adapted, config.load.four_bit)


def expected_nfe(sampler: str, gen_length: int, block_length: int) -> tuple[float, bool]:
    """Denoiser calls a completion without early exit, and whether the rule alone says so."""
    rule, value = parse_sampler(sampler)
    blocks = -(-gen_length // block_length)
    if rule == "steps":
        return value, True
    if rule in ("top_k", "random"):
        return blocks * -(-block_length // int(value)), True
    return gen_length / 2, False


def plan(config: TrainConfig, start: Start, cluster: Cluster) -> Plan:
    """Memory, forward passes and time of a step of `config` on each GPU of `cluster`."""
    model, gen_length, assumed = make_model(config, start), config.rollout.gen_length, []
    if gen_length is None:
        gen_length = load_task(config.task).gen_length
    block_length = min(config.rollout.block_length or gen_length, gen_length)
    nfe, exact = expected_nfe(config.rollout.sampler, gen_length, block_length)
    if cluster.nfe is not None:
        nfe = min(cluster.nfe, gen_length)
    elif not exact:
        assumed.append(f"{nfe:g} denoiser calls a completion, half the canvas: {config.rollout.sampler} decides (nfe)")
    else:
        assumed.append(f"{nfe:g} denoiser calls a completion: no early exit (nfe)")
    prompt_length = cluster.prompt_length or max(1, min(PROMPT_LENGTH, start.shape.max_length - gen_length))
    if prompt_length + gen_length > start.shape.max_length:
        raise ValueError(
            f"prompt_length {prompt_length} and {gen_length} tokens of canvas exceed the model's "
            f"{start.shape.max_length}: shorten one of them"
        )
    if not cluster.prompt_length:
        assumed.append(f"{prompt_length} tokens a prompt (prompt_length)")
    assumed.append(f"{cluster.mfu:.0%} of the GPU's peak is reached (mfu), and traffic between GPUs costs nothing")
    if config.load.four_bit:
        assumed.append("unpacking 4-bit weights costs no time")
    if not config.objective.beta and model.learns != "nothing":
        assumed.append("every group has a gradient: none is all right or all wrong")
    step = _Step(config, model, cluster, prompt_length, gen_length, block_length, nfe)
    return Plan(config, cluster, model, nfe, prompt_length, gen_length, tuple(step.phases()), tuple(assumed))


@dataclass(frozen=True)
class _Step:
    """Counts of a step, as the code makes them."""

    config: TrainConfig
    model: memory.Model
    cluster: Cluster
    prompt_length: int
    gen_length: int
    block_length: int
    nfe: float

    @property
    def length(self) -> int:
        """Tokens of a row."""
        return self.prompt_length + self.gen_length

    @property
    def rows(self) -> int:
        """Completions that one GPU updates on, at most."""
        return -(-self.config.prompts_per_step * self.config.num_generations // self.cluster.num_gpus)

    @property
    def rollout_rows(self) -> int:
        """Completions that one GPU decodes: groups are not split."""
        return -(-self.config.prompts_per_step // self.cluster.num_gpus) * self.config.num_generations

    def micro_batches(self) -> list[list[float]]:
        """Positions scored given each latent, micro-batch by micro-batch; z_0 is a group's, other latents a row's."""
        objective, size = self.config.objective, self.config.num_generations
        own = 2 * objective.num_pairs
        if objective.surrogate == "mean_field":
            own = round(min(objective.num_latents or self.nfe, self.nfe)) - 1
        each = self.gen_length * {"mean_field": 1 / (own + 1), "coupled": 0.5, "elbo": 0.5}[objective.surrogate]
        first = {"mean_field": each, "coupled": self.gen_length, "elbo": 0.0}[objective.surrogate]
        groups, owners, scored = list[int](), list[int](), list[float]()
        for row in range(self.rows):
            shared = 1 if objective.prompt_mask_prob else 0 if row % size else min(size, self.rows - row)
            latents = [*([first * shared] if first and shared else []), *[each] * own]
            scored += latents
            groups += [row // size] * len(latents)
            owners += [row] * len(latents)
        length, max_tokens = self.length, self.config.optim.micro_batch_tokens
        parts = cut_by_tokens([length] * len(scored), max_tokens, groups, owners)
        return [[scored[index] for index in part] for part in parts]

    def scorings(self) -> int:
        """How often each token of a row is scored."""
        objective = self.config.objective
        return {"mean_field": 1, "elbo": objective.num_pairs, "coupled": 1 + objective.num_pairs}[objective.surrogate]

    def load(self) -> memory.Load:
        """What the largest call and the largest micro-batch hold."""
        slots = min(self.config.rollout.num_slots, self.rollout_rows)
        parts = self.micro_batches()
        largest = max(map(len, parts))
        return memory.Load(
            decoded=slots * self.length,
            candidates=slots * self.block_length,
            tokens=largest * self.length,
            canvas=largest * self.gen_length,
            scored=int(max(map(sum, parts))),
            micro_batches=len(parts),
            checkpointing=self.config.optim.gradient_checkpointing,
            reference=self.config.objective.beta > 0,
            shards=self.cluster.num_gpus if self.cluster.shards and self.model.learns != "nothing" else 1,
            host=self.cluster.gpu.host,
            remembered=slots * self.gen_length * self.model.shape.hidden_size if self._decides_by_state() else 0,
            one_temperature=self.config.rollout.temperature == self.config.rollout.entropy_temperature,
        )

    def _decides_by_state(self) -> bool:
        return self.config.rollout.sampler == "learned" and self.config.threshold.level == "state"

    def phases(self) -> Iterator[Phase]:
        load, model, objective = self.load(), self.model, self.config.objective
        rows, generations = self.rollout_rows, self.config.num_generations
        # a group shares its first call; candidates dwindle from a block to the last few of it
        forwards = rows * self.nfe - (rows - rows / generations)
        scored = rows * self.nfe * (self.block_length + self.gen_length / self.nfe) / 2
        calls = -(-rows // min(rows, self.config.rollout.num_slots)) * self.nfe
        flops = self._flops(forwards, scored, self.block_length)
        yield self._phase("rollouts", memory.rollout(model, load), forwards, flops, calls)
        if model.learns == "nothing":
            return
        passes = objective.num_iterations
        scored = passes * self.rows * self.gen_length * self.scorings()
        forwards, calls = passes * sum(map(len, self.micro_batches())), passes * load.micro_batches
        flops = self._flops(forwards, scored, self.gen_length)
        if objective.has_old_policy:
            yield self._phase("old log-probs", memory.scoring(model, load), forwards, flops, calls)
        if load.reference:
            yield self._phase("reference log-probs", memory.scoring(model, load), forwards, flops, calls)
        yield self._phase("update", memory.backward(model, load), *self._update(forwards, scored), 3 * calls)
        yield self._phase("optimiser", memory.optimiser(model, load), 0, 0, passes)

    def _update(self, forwards: float, scored: float) -> tuple[float, float]:
        """Rows forward and floating-point operations of the updates on one GPU."""
        model, learns_all = self.model, self.model.learns == "all"
        head = 2 * model.in_head * scored
        # gradients of activations cost as much as the forward pass, those of weights as much again where they learn;
        # attention has two matrix products forward and four backward
        flops = 2 * self._flops(forwards, scored, self.gen_length) + self._attention(forwards, self.gen_length)
        flops += self._products(forwards, self.gen_length, adapters=True)
        if learns_all:
            flops += self._products(forwards, self.gen_length) + head
            if self.load().chunk(model.shape.vocab_size) < self.load().scored:
                flops += head  # chunks of logits are made again
        else:  # below the first adapters nothing learns
            flops -= 2 * forwards * self.length * model.in_block("attn.q_proj", "attn.k_proj", "attn.v_proj")
        if not self.config.optim.gradient_checkpointing:
            return forwards, flops
        # blocks are computed again, up to the last thing that is wanted of them, which is before down_proj if it learns
        last = self._products(forwards, self.gen_length, "down_proj") if learns_all else 0
        return 2 * forwards, flops + self._flops(forwards, 0, self.gen_length) - last

    def _flops(self, forwards: float, scored: float, wanted: int) -> float:
        """Floating-point operations of rows through the denoiser, of which `wanted` tokens each come out of the last
        block, and of positions through the head."""
        model = self.model
        products = sum(self._products(forwards, wanted, adapters=adapters) for adapters in (False, True))
        return products + self._attention(forwards, wanted) + 2 * model.in_head * scored

    def _attention(self, forwards: float, wanted: int) -> float:
        shape = self.model.shape
        return 4 * shape.query_size * self.length * forwards * ((shape.num_layers - 1) * self.length + wanted)

    def _products(self, forwards: float, wanted: int, *names: str, adapters: bool = False) -> float:
        """Those of the named linears, or of their adapters: the last block makes all keys, else only what is wanted."""
        block = self.model.in_block(*names, adapters=adapters)
        keys = self.model.in_block("attn.k_proj", "attn.v_proj", adapters=adapters) if not names else 0
        whole = (self.model.shape.num_layers - 1) * block + keys
        return 2 * forwards * (whole * self.length + (block - keys) * wanted)

    def _phase(self, name: str, parts: memory.Parts, forwards: float, flops: float, calls: float) -> Phase:
        """A phase on one GPU: its arithmetic takes time, or that each call reads all weights."""
        gpu, num_gpus = self.cluster.gpu, self.cluster.num_gpus
        peak = (gpu.tflops_fp32 if self.model.base == 4 else gpu.tflops) * 1e12 * self.cluster.mfu
        read = parts["weights"] + parts["gathered"]
        if not forwards:
            read = 7 * parts["gradients"]  # AdamW reads four values a parameter and writes three
        seconds = max(flops / peak, calls * read / (gpu.bandwidth * 1e9))
        return Phase(name, parts, forwards * num_gpus, forwards * self.length, flops, seconds)
