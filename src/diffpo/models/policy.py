"""A policy: denoiser, tokenizer and threshold head, loaded from and saved to one folder."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from diffpo.config import ModelConfig, ThresholdConfig
from diffpo.functional.random import make_key
from diffpo.models.threshold import ThresholdHead
from diffpo.models.tokenizer import CharTokenizer
from diffpo.models.transformer import Transformer, TransformerConfig
from diffpo.models.weights import load_denoiser, read_config, read_tensors
from diffpo.recipe import from_dict


@dataclass(eq=False)
class Policy:
    """Everything that answers a prompt: pi_theta and, where the sampler is learned, pi_phi."""

    denoiser: Transformer
    tokenizer: CharTokenizer
    threshold: ThresholdHead | None = None
    version: int = 0
    """Updates that this policy has been through."""

    @property
    def mask_id(self) -> int:
        return self.tokenizer.mask_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def banned(self) -> Tensor:
        """Ids that are never emitted: the mask and the vocabulary's padding."""
        padding = range(self.tokenizer.vocab_size, self.denoiser.config.vocab_size)
        return torch.tensor([self.mask_id, *padding], device=self.device)

    @property
    def device(self) -> torch.device:
        return self.denoiser.head.weight.device

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json, model.safetensors, alphabet.json and, with a head, threshold.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        head = self.threshold
        config = {
            "model_type": "diffpo",
            "shape": dataclasses.asdict(self.denoiser.config),
            "threshold": dataclasses.asdict(head.config) if head else None,
            "version": self.version,
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        self.tokenizer.save(folder)
        save_file(self.denoiser.state_dict(), folder / "model.safetensors")
        if head:
            save_file(head.state_dict(), folder / "threshold.safetensors")


def load_policy(folder: str | Path) -> Policy:
    """Load a policy folder, or a run's last policy. ValueError names what is missing or does not fit."""
    folder = Path(folder)
    if (folder / "policy").is_dir():
        folder = folder / "policy"
    config = read_config(folder)
    if config["model_type"] != "diffpo":
        raise ValueError(
            f"{folder}: a {config['model_type']} checkpoint: load_denoiser reads its weights, but no tokenizer"
        )
    needed = ("alphabet.json", "threshold.safetensors") if config["threshold"] else ("alphabet.json",)
    if lost := [name for name in needed if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: this policy lacks {' and '.join(lost)}")
    policy = Policy(load_denoiser(folder), CharTokenizer.load(folder), version=config["version"])
    if config["threshold"]:
        policy.threshold = ThresholdHead(
            policy.denoiser.config.hidden_size, from_dict(ThresholdConfig, config["threshold"])
        )
        policy.threshold.load_state_dict(read_tensors(folder / "threshold.safetensors"))
    return policy


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
