"""A policy: denoiser, tokenizer and threshold head, loaded from and saved to one folder."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.config import LoraConfig, ModelConfig, ThresholdConfig
from diffpo.functional.prediction import ban
from diffpo.functional.random import make_key
from diffpo.models import lora
from diffpo.models.families import FAMILIES, Family
from diffpo.models.fused import head_logits
from diffpo.models.quantization import is_packed, unpack
from diffpo.models.saving import save_file, save_shards
from diffpo.models.threshold import ThresholdHead
from diffpo.models.tokenizer import CharTokenizer, Tokenizer, load_tokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.models.weights import DTYPES, Checkpoint, load_denoiser, locate, read_json, read_tensors
from diffpo.recipe import from_dict
from diffpo.types import Messages

COPIED = ("*.py", "generation_config.json", "LICENSE*")
"""Files of the base model that go along: its modelling code, which is not run here, and how it generates."""


@dataclass(eq=False)
class Policy:
    """Everything that answers a prompt: pi_theta and, where the sampler is learned, pi_phi."""

    denoiser: Transformer
    tokenizer: Tokenizer
    threshold: ThresholdHead | None = None
    version: int = 0
    """Updates that this policy has been through."""
    base: Checkpoint | None = None
    """The checkpoint that the denoiser was loaded from; None for fresh weights."""
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
        """The denoiser's parameters that learn, by name: adapters where there are any, else all, or none in 4 bits."""
        if self.adapter:
            return lora.adapter_parameters(self.denoiser)
        return {} if is_packed(self.denoiser) else dict(self.denoiser.named_parameters())

    def add_threshold(self, config: ThresholdConfig) -> None:
        """Put a fresh threshold head where the denoiser is."""
        self.threshold = ThresholdHead(self.denoiser.config.hidden_size, config).to(self.device)

    def add_adapters(self, config: LoraConfig, seed: int = 0) -> None:
        """Put fresh LoRA adapters onto the denoiser, which leaves what it computes as it was."""
        if self.adapter:
            raise ValueError(
                "lora.rank: the model carries adapters already: set lora.rank = 0 to go on training those, or merge "
                "them first (diffpo export --merge)"
            )
        base, revision = (self.base.name, self.base.revision) if self.base else ("", None)
        self.adapter = lora.add_adapters(self.denoiser, self.family, config, base, seed) | {"revision": revision}
        self._compute_in_base_dtype()

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
        if self.threshold:
            self.threshold.to(device)
        self.banned = self.banned.to(device)
        return self

    def save_pretrained(self, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Write what `load_policy` reads: adapters alone if there are any, else a checkpoint in the base's own layout.

        Beside them diffpo.json and, with a head, threshold.safetensors. `tensors` are the whole values of `trainable()`
        where the parameters themselves hold a share. Four-bit weights are written with the values they compute with.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = tensors or {name: parameter.detach() for name, parameter in self.trainable().items()}
        if self.adapter:
            lora.save_adapters(folder, self.family, self.adapter, tensors)
        else:
            config = self.base.config if self.base else {"model_type": "diffpo"}
            if config["model_type"] == "diffpo":
                config = config | {"shape": dataclasses.asdict(self.denoiser.config)}
            (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            tensors = unpack(self.denoiser) if is_packed(self.denoiser) else tensors
            named = {self.family.original(name): tensor.contiguous() for name, tensor in tensors.items()}
            save_shards(named, folder)
            self.tokenizer.save(folder)
            if self.base:
                _copy_missing(self.base.folder, folder)
        head = self.threshold
        record = {"version": self.version, "threshold": dataclasses.asdict(head.config) if head else None}
        (folder / "diffpo.json").write_text(json.dumps(record, indent=2) + "\n")
        if head:
            save_file(head.state_dict(), folder / "threshold.safetensors")

    @torch.no_grad()
    def restore(self, folder: str | Path) -> None:
        """Take over the trained tensors, threshold head and version of a folder that `save_pretrained` wrote."""
        folder = Path(folder)
        parameters = self.trainable()
        saved: dict[str, Tensor] = {}
        files = sorted(folder.glob("adapter_model.safetensors" if self.adapter else "model*.safetensors"))
        for file in files if parameters else ():
            saved |= read_tensors(file)
        saved = {self.family.native(name.removeprefix(lora.PREFIX)): tensor for name, tensor in saved.items()}
        if saved.keys() != parameters.keys():
            raise ValueError(f"{folder}: does not hold the tensors that this policy trains")
        for name, parameter in parameters.items():
            parameter.copy_(saved[name])
        self._load_record(folder)

    def _load_record(self, folder: Path) -> None:
        """Read diffpo.json and the threshold head; a checkpoint that others wrote has neither."""
        if not (folder / "diffpo.json").is_file():
            return
        record = read_json(folder / "diffpo.json")
        self.version, self.threshold = record["version"], None
        if record["threshold"]:
            file = folder / "threshold.safetensors"
            if not file.is_file():
                raise ValueError(f"{folder}: this policy lacks threshold.safetensors")
            self.add_threshold(from_dict(ThresholdConfig, record["threshold"]))
            assert self.threshold
            saved, width = read_tensors(file), self.denoiser.config.hidden_size
            if _shapes(saved) != _shapes(self.threshold.state_dict()):
                raise ValueError(f"{file}: no head of this version for a model of width {width}: train the head again")
            self.threshold.load_state_dict(saved)

    def _compute_in_base_dtype(self) -> None:
        """Adapters are fp32; with a base of fewer bits their products are computed in its dtype."""
        dtype = self.denoiser.head.weight.dtype
        self.denoiser.compute_dtype = None if dtype == torch.float32 else dtype


def load_policy(
    name: str | Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    revision: str | None = None,
    adapter: str | Path | None = None,
    four_bit: bool = False,
    compile: bool = False,
) -> Policy:
    """Load a checkpoint, an adapter on its base, or a run's last policy, from a folder or the Hugging Face hub.

    `dtype` is "bfloat16", "float32", "saved", or "auto": bfloat16 for LLaDA and Dream, as saved for diffpo's own.
    `device` "auto" is the GPU if there is one. `adapter` is put onto the checkpoint. `compile` fuses what lies between
    matrix products. ValueError names what is missing or does not fit.
    """
    folder = locate(name, revision)
    if (folder / "policy").is_dir():
        name = folder = folder / "policy"
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        if adapter:
            raise ValueError(f"{name} is an adapter itself: name a base model to put {adapter} on")
        settings = read_json(folder / "adapter_config.json")
        adapter, name = folder, settings.get("base_model_name_or_path") or ""
        revision = settings.get("revision")  # the base's: the one asked for was the adapter's
        if not name:
            raise ValueError(f"{folder}: adapter_config.json names no base model: load that with this as its adapter")
    checkpoint = Checkpoint.open(name, revision)
    denoiser = load_denoiser(checkpoint, _dtype(dtype, checkpoint), _device(device), four_bit)
    if compile:
        denoiser.fuse()
    policy = Policy(denoiser, load_tokenizer(checkpoint.folder, checkpoint.config, denoiser.config.vocab_size))
    policy.base = checkpoint
    policy._load_record(checkpoint.folder)
    if adapter:
        adapter = locate(adapter)
        adapter = adapter / "policy" if (adapter / "policy").is_dir() else adapter
        policy.adapter = lora.load_adapters(denoiser, checkpoint.family, adapter)
        policy._compute_in_base_dtype()
        policy._load_record(adapter)
    return policy


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _copy_missing(source: Path, folder: Path) -> None:
    for pattern in COPIED:
        for file in source.glob(pattern):
            if not (folder / file.name).exists():
                shutil.copy(file, folder)


def _device(device: str | torch.device) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"load.device {device!r}: {str(error).splitlines()[0]}") from None


def _dtype(dtype: str | torch.dtype, checkpoint: Checkpoint) -> torch.dtype | None:
    """The dtype to load in; None for the checkpoint's own."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        dtype = "saved" if checkpoint.config["model_type"] == "diffpo" else "bfloat16"
    if dtype != "saved" and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: choose among auto, saved, {', '.join(DTYPES)}")
    return DTYPES.get(dtype)


def create_policy(alphabet: str, config: ModelConfig, seed: int = 0) -> Policy:
    """A tiny policy with fresh weights for texts over `alphabet`."""
    tokenizer = CharTokenizer(alphabet)
    shape = TransformerConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        mlp_size=config.mlp_size,
        max_length=256,
        rope_theta=10_000.0,
        learned_positions=True,
    )
    denoiser = Transformer(shape)
    denoiser.initialize(torch.Generator().manual_seed(make_key(seed, "weights") % 2**63))
    return Policy(denoiser, tokenizer)
