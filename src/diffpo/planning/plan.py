"""What a run will need before it runs: memory by part, forward passes, seconds a step.

From a config and the shape of its model alone: no weights are loaded and, for well-known models, nothing is fetched.
docs/plan.md says how far the figures were checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from diffpo.config import SftConfig, TrainConfig
from diffpo.config.checks import check
from diffpo.files.places import find_policy
from diffpo.files.recipe import read_json
from diffpo.models.families import FAMILIES, Family, kind_of
from diffpo.models.lora import CARRIES, is_target
from diffpo.models.published import PUBLISHED, with_blocks
from diffpo.models.quantization import check_quantizable
from diffpo.models.source import base_of, find_source
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import TransformerConfig
from diffpo.models.weights import (
    DTYPES,
    SAVED,
    check_learns,
    check_plain,
    locate,
    parameter_names,
    tensor_shapes,
    widest,
)
from diffpo.planning import memory
from diffpo.planning.steps import rl_step, sft_step
from diffpo.planning.work import Cluster, Phase
from diffpo.tasks import load_tiny_task
from diffpo.view.progress import duration


@dataclass(frozen=True)
class Start:
    """What a run starts from, as far as it is known without its weights."""

    shape: TransformerConfig
    family: Family
    dtype: torch.dtype
    """Dtype of the weights as saved."""
    adapter: dict[str, Any] | None = None
    """adapter_config.json of the adapter that the model carries."""


@dataclass(frozen=True)
class Plan:
    """What a run needs."""

    config: TrainConfig | SftConfig
    cluster: Cluster
    model: memory.Model
    heading: str
    """What a step is."""
    phases: tuple[Phase, ...]
    assumed: tuple[str, ...]
    """What was assumed rather than known."""

    def __repr__(self) -> str:
        peak, gpu = self.peak, self.cluster.gpu
        need = f"{peak.bytes / 2**30:.1f} of {gpu.memory:g} GiB of {gpu.label} ({peak.name})"
        fits = "fits" if self.fits else "does not fit"
        return f"Plan({self.config.model}: {need}, {fits}; {duration(self.seconds)} a step)"

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

    @property
    def disk(self) -> Mapping[str, float]:
        """Bytes on disk: a checkpoint, all there are while one more is written, the policy, the best one, an export.

        What learns is in fp32, in checkpoints with AdamW's two moments of it; a merged export has the dtype of the
        base. Tokenizers, logs and a sampler head are next to nothing.
        """
        policy, whole = 4.0 * self.model.learning, float(self.model.in_all * self.model.base)
        kept = 3 * policy * (self.config.keep_checkpoints + 1)
        config = self.config
        evaluates = config.eval_every if isinstance(config, TrainConfig) else config.eval_data
        best = policy if evaluates else 0.0
        return {"checkpoint": 3 * policy, "checkpoints": kept, "policy": policy, "best": best, "export": whole}


def find_start(config: TrainConfig | SftConfig) -> Start:
    """Shape, family and dtype of config.model: known ones by heart, others from config.json, here or on the hub."""
    load, known, adapter, blocks = config.load, config.model, config.load.adapter, config.load.block_length
    if isinstance(config, SftConfig) and not known:
        alphabet = load_tiny_task(config.task).alphabet
        shape = TransformerConfig.tiny(CharTokenizer(alphabet).vocab_size, config.shape)
        return Start(shape, FAMILIES["diffpo"], torch.float32)
    if known not in PUBLISHED:
        folder = find_policy(locate(known, load.revision, weights=False))[0]
        base = base_of(folder)
        if base and (load.base or base.name) in PUBLISHED:
            known, blocks = load.base or base.name, blocks or base.block_length
            adapter = folder if (folder / "adapter_config.json").is_file() else base.adapter
    if known in PUBLISHED:
        values = with_blocks(known, PUBLISHED[known], blocks)
        family = FAMILIES[kind_of(values)]
        return Start(family.shape(values), family, torch.bfloat16, _settings_of(adapter))
    source = find_source(known, load.revision, adapter, load.base, weights=False).in_blocks(blocks)
    checkpoint = source.checkpoint
    files = [file for file in checkpoint.folder.glob("model*.safetensors") if file.is_file()]
    model, family = checkpoint.empty_denoiser(), checkpoint.family
    said = SAVED.get(str(checkpoint.config.get("dtype") or checkpoint.config.get("torch_dtype")), torch.bfloat16)
    names = parameter_names(family, model)
    found = {name: dtype for _, name, _, dtype in tensor_shapes(files) if name in names}
    check_plain(checkpoint.folder, found)
    dtype = widest(found.values()) if found else said
    return Start(model.config, family, dtype, _settings_of(source.adapter))


def _settings_of(adapter: str | Path | None) -> dict[str, Any] | None:
    """adapter_config.json of a folder of adapters, a run's or one on the hub."""
    return read_json(find_policy(locate(adapter, weights=False))[0] / "adapter_config.json") if adapter else None


def make_model(config: TrainConfig | SftConfig, start: Start) -> memory.Model:
    """What `diffpo train` makes of a start; ValueError for what it would refuse."""
    if config.load.four_bit:
        check_quantizable(start.shape)
    automatic = start.dtype if start.family is FAMILIES["diffpo"] else torch.bfloat16
    dtype = {"auto": automatic, "saved": start.dtype, **DTYPES}[config.load.dtype]
    settings = start.adapter or {}
    if config.lora.rank:
        check(not settings, CARRIES)
        settings = {"r": config.lora.rank, "target_modules": config.lora.targets}
    frozen = isinstance(config, TrainConfig) and config.train == "sampler"
    learns = "nothing" if frozen else "adapters" if settings else "all"
    if learns != "nothing":
        check_learns(dtype)
    model = memory.Model(start.shape, dtype.itemsize, learns, settings.get("r", 0), four_bit=config.load.four_bit)
    wanted = settings | {"target_modules": settings.get("target_modules") or "all-linear"}
    targets = dict.fromkeys(
        name
        for number, block in enumerate(model.linears)
        for name in block
        if is_target(start.family.original(f"blocks.{number}.{name}"), wanted)
    )
    return replace(model, adapted=tuple(targets) if settings else ())


def plan(config: TrainConfig | SftConfig, start: Start, cluster: Cluster) -> Plan:
    """Memory, forward passes, time and disk of a run of `config` on each GPU of `cluster`."""
    model = make_model(config, start)
    rl = isinstance(config, TrainConfig)
    step, assumed = rl_step(config, model, cluster) if rl else sft_step(config, model, cluster)
    assumed.append(f"{cluster.mfu:.0%} of the GPU's peak is reached (mfu), and traffic between GPUs costs nothing")
    if start.shape.experts:
        assumed.append("products of experts reach it too, and each call reads the weights of all")
    if config.load.four_bit:
        assumed.append("unpacking 4-bit weights costs no time")
    return Plan(config, cluster, model, step.heading, tuple(step.phases()), tuple(assumed))
