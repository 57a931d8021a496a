"""A policy: denoiser, tokenizer and sampler head, loaded from and saved to one folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.config import EvalConfig, HeadConfig, LoraConfig, ModelConfig, RolloutConfig, TaskConfig
from diffpo.files.record import Record, decoding
from diffpo.functional.prediction import ban
from diffpo.functional.random import make_key
from diffpo.models import lora
from diffpo.models.bernoulli import BernoulliHead
from diffpo.models.experts import apart, together
from diffpo.models.families import FAMILIES, Family
from diffpo.models.fused import head_logits
from diffpo.models.heads import make_head
from diffpo.models.pointwise import is_wanted
from diffpo.models.quantization import is_packed, unpack
from diffpo.models.saving import copy_missing, save_file, save_shards
from diffpo.models.source import Source, find_source, warn_of_whole_weights
from diffpo.models.threshold import ThresholdHead
from diffpo.models.tokenizer import CharTokenizer, Tokenizer, load_tokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.models.weights import Checkpoint, find_dtype, load_denoiser, read_tensors
from diffpo.processes.world import find_device
from diffpo.types import Messages
from diffpo.view.notebook import as_html, facts_table
from diffpo.view.progress import count


@dataclass(eq=False)
class Policy:
    """Everything that answers a prompt: pi_theta and, where the sampler is learned, pi_phi."""

    denoiser: Transformer
    tokenizer: Tokenizer
    sampler_head: ThresholdHead | BernoulliHead | None = None
    version: int = 0
    """Updates that this policy has been through."""
    task: TaskConfig | None = None
    """What it was trained on; None where nothing says."""
    rollout: RolloutConfig | None = None
    """How it was decoded in training, its canvas included; None where nothing says. `decoding` is how it answers."""
    eval: EvalConfig | None = None
    """How its run measures it."""
    source: Source | None = None
    """What it was loaded from; None for fresh weights."""
    adapter: dict[str, Any] | None = None
    """adapter_config.json of the LoRA adapters on the denoiser, if any."""
    banned: Tensor = field(init=False)
    """Ids that are never emitted: the mask and the vocabulary's padding."""

    def __post_init__(self) -> None:
        padding = range(self.tokenizer.vocab_size, self.denoiser.config.vocab_size)
        self.banned = torch.tensor([self.mask_id, *padding], device=self.device)

    @property
    def mask_id(self) -> int:
        return self.tokenizer.mask_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def device(self) -> torch.device:
        return self.denoiser.head.weight.device

    @property
    def base(self) -> Checkpoint | None:
        """The checkpoint that the denoiser was loaded from; None for fresh weights."""
        return self.source.checkpoint if self.source else None

    @property
    def is_tiny(self) -> bool:
        """Whether it is a character-level model, for the tiny tasks."""
        return isinstance(self.tokenizer, CharTokenizer)

    @property
    def decoding(self) -> RolloutConfig:
        """How it answers unless told otherwise: greedily, and else as it was trained."""
        in_blocks = self.denoiser.config.block_length is not None
        return decoding(self.rollout, self.sampler_head is not None, self.is_tiny, in_blocks)

    @property
    def num_parameters(self) -> int:
        """Of the denoiser; weights in 4 bits are two to a byte."""
        return sum((2 if p.dtype == torch.uint8 else 1) * p.numel() for p in self.denoiser.parameters())

    @property
    def facts(self) -> dict[str, str]:
        """What it is, in words."""
        dtype, how = str(self.denoiser.head.weight.dtype).removeprefix("torch."), self.decoding
        facts = {
            "from": self.base.name if self.base else "fresh weights",
            "parameters": f"{count(self.num_parameters)} {dtype} on {self.device}",
            "adapters": f"rank {self.adapter['r']}" if self.adapter else "",
            "sampler head": self.sampler_head.spoken if self.sampler_head else "",
            "updates": f"{self.version}",
            "task": self.task.name if self.task else "",
            "decoding": how.sampler + (f", canvas {how.gen_length}" if how.gen_length else ""),
        }
        return {name: value for name, value in facts.items() if value}

    def __repr__(self) -> str:
        return f"Policy({', '.join(f'{name}: {value}' for name, value in self.facts.items())})"

    def _repr_html_(self) -> str:
        return as_html(facts_table(self.facts))

    @property
    def family(self) -> Family:
        return self.base.family if self.base else FAMILIES["diffpo"]

    def logits(self, hidden: Tensor, floor: float = -torch.inf) -> Tensor:
        """Logits in fp32 of final hidden states [N, D], banned ids at `floor`, shape [N, V]."""
        head = self.denoiser.head.weight
        return ban(head_logits(hidden, head.to(self.denoiser.compute_dtype or head.dtype)), self.banned, floor)

    def encode(self, prompt: str | Messages, prefill: str = "", chat: bool = True) -> tuple[int, ...]:
        """Ids of a prompt: one user message under the chat template where there is one, else the plain text.

        Messages always go through the template. `prefill` is the start of the answer, which the canvas goes on from.
        """
        if isinstance(prompt, str):
            if not chat or not self.tokenizer.chats:
                return self.tokenizer.encode(prompt + prefill)
            prompt = [{"role": "user", "content": prompt}]
        return self.tokenizer.chat(prompt, prefill)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The denoiser's parameters that learn (`requires_grad`), by name: adapters, all, none of a frozen one.

        Weights in 4 bits do not learn, nor what stands between them.
        """
        return {name: parameter for name, parameter in self._own().items() if parameter.requires_grad}

    @property
    def head_state(self) -> dict[str, Tensor]:
        """What the sampler head holds, by name behind "sampler_head."; empty where there is none."""
        state = self.sampler_head.state_dict() if self.sampler_head else {}
        return {f"sampler_head.{name}": tensor for name, tensor in state.items()}

    def _own(self) -> dict[str, nn.Parameter]:
        """The denoiser's parameters that are this policy's own, rather than its base's: they may learn."""
        if self.adapter:
            return lora.adapter_parameters(self.denoiser)
        return {} if is_packed(self.denoiser) else dict(self.denoiser.named_parameters())

    def _fixed(self) -> dict[str, Tensor]:
        """What a checkpoint holds that never learns: the biases of routers' choices."""
        return {name: buffer for name, buffer in self.denoiser.named_buffers() if name.endswith(".expert_bias")}

    def _on_four_bits(self) -> bool:
        """Whether it was trained on 4-bit weights: its own, or those below the folder that it is still a copy of."""
        record = self.source.record if self.source else None
        copied = record and record.version == self.version and record.base
        return is_packed(self.denoiser) or bool(copied and copied.four_bit)

    def add_head(self, config: HeadConfig, seed: int = 0) -> None:
        """Put a fresh sampler head of the kind that `config` is for where the denoiser is."""
        self.sampler_head = make_head(config, self.denoiser.config.hidden_size, seed).to(self.device)

    def add_adapters(self, config: LoraConfig, seed: int = 0) -> None:
        """Put fresh LoRA adapters onto the denoiser, which leaves what it computes as it was."""
        if self.adapter:
            raise ValueError(lora.CARRIES)
        self.take_adapter(lora.add_adapters(self.denoiser, self.family, config, seed))

    def take_adapter(self, settings: dict[str, Any]) -> None:
        """Know of adapters that were put on the denoiser; they stand on the base that was loaded."""
        named = {"base_model_name_or_path": self.base.name, "revision": self.base.commit} if self.base else {}
        self.adapter = settings | named
        dtype = self.denoiser.head.weight.dtype  # adapters are fp32: products are in the dtype of their base
        self.denoiser.compute_dtype = None if dtype == torch.float32 else dtype

    def use_blocks(self, length: int) -> None:
        """Attend in blocks of `length` tokens from now on; ValueError if the family has none."""
        if self.source:
            self.source = self.source.in_blocks(length)
        self.denoiser.config = dataclasses.replace(self.denoiser.config, block_length=length)

    def merge_adapters(self) -> None:
        """Fold the adapters into the weights below."""
        if self.adapter:
            lora.merge_adapters(self.denoiser)
            self.adapter, self.denoiser.compute_dtype = None, None

    def use_master_weights(self) -> None:
        """Keep all weights in fp32, where small steps are not rounded away, and compute in the dtype they had."""
        dtype = self.denoiser.head.weight.dtype
        self.denoiser.float()
        self.denoiser.compute_dtype = None if dtype == torch.float32 else dtype

    def to(self, device: torch.device | str) -> Policy:
        """Move everything to `device`."""
        self.denoiser.to(device)
        if self.sampler_head:
            self.sampler_head.to(device)
        self.banned = self.banned.to(device)
        return self

    def save_pretrained(self, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write what `load_policy` reads: adapters alone if there are any, else a checkpoint in the base's own layout.

        Beside them diffpo.json and the sampler head, KIND.safetensors. Adapters name the base that was loaded. A run
        passes the whole values of `trainable()` as `tensors`: its parameters may hold shares. Where nothing of the
        denoiser learned there are none, and the folder holds the head and names what that stands on.
        Four-bit weights are written with the values they compute with.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head_alone = tensors is not None and not tensors and self.source is not None
        base = None
        if self.source and (head_alone or self.adapter):
            base = self.source.as_base(folder, head_alone, self._on_four_bits())
        tensors = tensors or {name: parameter.detach() for name, parameter in self._own().items()}
        if self.adapter and not head_alone:
            lora.save_adapters(folder, self.family, self.adapter, tensors)
        elif not head_alone:
            config = self.base.config if self.base else {"model_type": "diffpo"}
            if config["model_type"] == "diffpo":
                config = config | {"shape": dataclasses.asdict(self.denoiser.config)}
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            tensors = unpack(self.denoiser) if is_packed(self.denoiser) else tensors
            whole = apart({**tensors, **self._fixed()})
            named = {self.family.original(name): tensor.contiguous() for name, tensor in whole.items()}
            save_shards(named, folder)
            self.tokenizer.save(folder)
            if self.base:
                copy_missing(self.base.folder, folder)
        record = Record(version=self.version, task=self.task, rollout=self.rollout, eval=self.eval, base=base)
        if head := self.sampler_head:
            record = dataclasses.replace(record, **{head.kind: head.config})
            save_file(head.state_dict(), folder / f"{head.kind}.safetensors")
        record.write(folder)

    @torch.no_grad()
    def restore(self, folder: str | Path) -> None:
        """Take over the trained tensors, sampler head and version of a folder that `save_pretrained` wrote."""
        folder = Path(folder)
        parameters = self.trainable()
        saved = self.read_own(folder) if parameters else {}
        if saved.keys() != parameters.keys():
            raise ValueError(f"{folder}: does not hold the tensors that this policy trains")
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
        self.load_record(folder)

    def read_own(self, folder: Path) -> dict[str, Tensor]:
        """The denoiser's tensors that `save_pretrained` wrote to a folder, by our names: adapters, or all."""
        saved: dict[str, Tensor] = {}
        for file in sorted(folder.glob("adapter_model.safetensors" if self.adapter else "model*.safetensors")):
            saved |= read_tensors(file)
        named = {self.family.native(name.removeprefix(lora.PREFIX)): tensor for name, tensor in saved.items()}
        return together({name: tensor for name, tensor in named.items() if name not in self._fixed()})

    @torch.no_grad()
    def load_weights(self, tensors: Mapping[str, Tensor], version: int) -> None:
        """Copy new values in, by the names of `trainable` and `head_state`.

        ValueError names those that are not there or have another shape.
        """
        own = {**self._own(), **self.head_state}
        if strange := [name for name, new in tensors.items() if name not in own or own[name].shape != new.shape]:
            names = ", ".join(strange)
            raise ValueError(f"load_weights: no parameter of this policy has the name and shape of {names}")
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        self.version = version

    def load_record(self, folder: Path) -> None:
        """Read diffpo.json and the sampler head; a checkpoint that others wrote has neither."""
        record = Record.read(folder)
        if record is None:
            return
        self.version, self.sampler_head = record.version, None
        self.task, self.rollout, self.eval = record.task, record.rollout, record.eval
        if record.head:
            self.add_head(record.head)
            assert self.sampler_head
            file = folder / f"{self.sampler_head.kind}.safetensors"
            if not file.is_file():
                raise ValueError(f"{folder}: this policy lacks {file.name}")
            try:
                self.sampler_head.load_state_dict(read_tensors(file))
            except RuntimeError:  # names or shapes are others
                width = self.denoiser.config.hidden_size
                message = f"{file}: no head of this version for a model of width {width}: train the head again"
                raise ValueError(message) from None


def load_policy(
    name: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    four_bit: bool = False,
    compile: bool | None = None,
    base: str | Path | None = None,
    block_length: int | None = None,
) -> Policy:
    """Load a checkpoint, an adapter or a head on its base, or a run's newest policy, from a folder or the hub.

    `dtype` is "bfloat16", "float32", "saved", or "auto": bfloat16 for published models, as saved for diffpo's own.
    `device` "auto" is the GPU if there is one. `adapter` is put onto the checkpoint. `compile` fuses what lies between
    matrix products (None: on a GPU, where it can be). `base` stands in for the base that an adapter's folder names.
    `block_length` says of weights with block-causal attention what their config.json does not (bd3lm). A warning says
    so where a run is not at its end, or an adapter was trained on other weights. ValueError names what is missing or
    does not fit.
    """
    source = find_source(name, revision, adapter, base).in_blocks(block_length)
    if not four_bit:
        warn_of_whole_weights(source)
    return policy_of(source, dtype, device, four_bit, compile)


def policy_of(
    source: Source, dtype: str | torch.dtype, device: str | torch.device, four_bit: bool, compile: bool | None = None
) -> Policy:
    """The policy whose parts `source` names, as `load_policy` loads it."""
    checkpoint = source.checkpoint
    denoiser = load_denoiser(checkpoint, find_dtype(dtype, checkpoint), find_device(device), four_bit)
    if is_wanted(compile, denoiser.head.weight.device):
        denoiser.fuse()
    place, vocab_size, family = checkpoint.folder, denoiser.config.vocab_size, checkpoint.family
    tokenizer = load_tokenizer(place, checkpoint.config, vocab_size, family.own_ids)
    policy = Policy(denoiser, tokenizer, source=source)
    if source.adapter:
        policy.take_adapter(lora.load_adapters(denoiser, family, source.adapter))
    for folder in source.folders:
        policy.load_record(folder)
    return policy


def create_policy(alphabet: str, config: ModelConfig, seed: int = 0) -> Policy:
    """A tiny policy with fresh weights for texts over `alphabet`."""
    tokenizer = CharTokenizer(alphabet)
    denoiser = Transformer(TransformerConfig.tiny(tokenizer.vocab_size, config))
    denoiser.initialize(torch.Generator().manual_seed(make_key(seed, "weights") % 2**63))
    return Policy(denoiser, tokenizer)
