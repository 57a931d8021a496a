"""What a run will need before it runs: memory by part, forward passes, seconds a step.

From a config and the shape of its model alone: no weights are loaded and, for well-known models, nothing is fetched.
docs/plan.md says how far the figures were checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from diffpo.config import SftConfig, TrainConfig
from diffpo.files.recipe import read_json
from diffpo.files.shipped import adapter_config
from diffpo.models.families import FAMILIES, PUBLISHED, Family, with_blocks
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import TransformerConfig
from diffpo.models.weights import Checkpoint, locate, tensor_shapes
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
    value_bytes: int
    """Bytes of a value of the weights as saved."""
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
        """Bytes on disk: a checkpoint, all there are at once while one more is written, the policy, an export.

        What learns is in fp32, in checkpoints with AdamW's two moments of it; a merged export has the dtype of the
        base. Tokenizers, logs and a sampler head are next to nothing.
        """
        policy, model = 4.0 * self.model.learning, self.model
        whole = float((model.in_blocks + model.in_root + model.in_head) * model.base)
        kept = 3 * policy * (self.config.keep_checkpoints + 1)
        return {"checkpoint": 3 * policy, "checkpoints": kept, "policy": policy, "export": whole}


def find_start(config: TrainConfig | SftConfig) -> Start:
    """Shape, family and dtype of config.model: known ones by heart, others from config.json, here or on the hub."""
    name, adapter = config.model, None
    if isinstance(config, SftConfig) and not name:
        alphabet = load_tiny_task(config.task).alphabet
        return Start(TransformerConfig.tiny(CharTokenizer(alphabet).vocab_size, config.shape), FAMILIES["diffpo"], 4)
    if name not in PUBLISHED:
        folder = locate(name, config.load.revision, weights=False)
        folder = folder / "policy" if (folder / "policy").is_dir() else folder
        if found := adapter_config(folder):
            adapter = read_json(found)
            name = adapter.get("base_model_name_or_path") or ""
        elif folder.is_dir():
            name = str(folder)
    if config.load.adapter:
        adapter = read_json(locate(config.load.adapter, weights=False) / "adapter_config.json")
    if name in PUBLISHED:
        values = with_blocks(name, PUBLISHED[name], config.load.block_length)
        family = FAMILIES[values["model_type"]]
        return Start(family.shape(values), family, 2, adapter)
    checkpoint = Checkpoint.open(name, config.load.revision, weights=False)
    if config.load.block_length:
        checkpoint = replace(checkpoint, config=with_blocks(name, checkpoint.config, config.load.block_length))
    local = [file for file in checkpoint.folder.glob("model*.safetensors") if file.is_file()]
    dtypes = [dtype for *_, dtype in tensor_shapes(local[:1])] or [
        str(checkpoint.config.get("torch_dtype", "bfloat16"))
    ]
    return Start(
        checkpoint.empty_denoiser().config, checkpoint.family, 4 if dtypes[0] in ("F32", "float32") else 2, adapter
    )


def make_model(config: TrainConfig | SftConfig, start: Start) -> memory.Model:
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
    frozen = isinstance(config, TrainConfig) and config.train == "sampler"
    learns = "nothing" if frozen else "adapters" if rank else "all"
    return memory.Model(start.shape, base, learns, rank, adapted, config.load.four_bit)


def plan(config: TrainConfig | SftConfig, start: Start, cluster: Cluster) -> Plan:
    """Memory, forward passes, time and disk of a run of `config` on each GPU of `cluster`."""
    model = make_model(config, start)
    step, assumed = (
        rl_step(config, model, cluster) if isinstance(config, TrainConfig) else sft_step(config, model, cluster)
    )
    assumed.append(f"{cluster.mfu:.0%} of the GPU's peak is reached (mfu), and traffic between GPUs costs nothing")
    if config.load.four_bit:
        assumed.append("unpacking 4-bit weights costs no time")
    return Plan(config, cluster, model, step.heading, tuple(step.phases()), tuple(assumed))
