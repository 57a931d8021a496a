"""Commands about a model as such: convert, inspect, export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from tyro.conf import Positional

from diffpo.config.idle import Idle, Knobs
from diffpo.view.terminal import show


@dataclass(frozen=True)
class Convert:
    """Make a masked diffusion LM of a Llama, Qwen2 or Qwen3 checkpoint, for `diffpo sft` to teach."""

    model: Positional[str]
    """A causal checkpoint: a folder, a model on the Hugging Face hub, or a .gguf file (pip install 'diffpo[gguf]')."""
    output: Positional[str]
    """Folder to write, empty or new."""
    revision: str | None = None  # branch, tag or commit of a model on the hub
    shift: bool = True  # position p predicts the token at p + 1, as the parent did; or else the token at p
    block_length: int | None = None
    """Attention is block-causal, in blocks of so many tokens: of 1, with shift, the model is its parent. None: every
    token sees every other."""
    mask_token: str = "<|mask|>"  # the token that stands for a mask, where the tokenizer has none yet
    dtype: Literal["bfloat16", "float32"] | None = None  # of the weights; None: the parent's, bfloat16 for a GGUF

    def run(self) -> None:
        from diffpo.models.convert import convert

        files = convert(
            self.model, self.output, self.shift, self.block_length, self.mask_token, self.dtype, self.revision
        )
        for file in files:
            print(f"{file.stat().st_size:>14,}  {file}")


@dataclass(frozen=True)
class Inspect:
    """Say what a checkpoint is: family, shape, parameters, special ids, files, LoRA targets, memory."""

    model: Positional[str]
    """A checkpoint, adapter or run folder, or a model on the Hugging Face hub."""
    revision: str | None = None  # branch, tag or commit of a model on the hub
    json: bool = False  # print JSON rather than a table

    def run(self) -> None:
        from diffpo.models.inspection import inspect

        description = inspect(self.model, self.revision)
        if self.json:
            print(json.dumps(description, indent=2))
        else:
            _show(description)


@dataclass(frozen=True)
class Export(Knobs):
    """Write a run's policy as a Hugging Face folder that the published modelling code, or PEFT, loads."""

    model: Positional[str]
    """A run, checkpoint or adapter folder."""
    output: str = "runs/export"  # folder to write, empty or new
    base: str | None = None  # base model of an adapter's folder, in place of the one that it names
    merge: bool = False  # fold adapters into the weights: a whole model rather than a PEFT folder
    push_to_hub: str | None = None  # also upload the folder as this hub repository, OWNER/NAME
    public: bool = False  # make a repository that push_to_hub creates public

    def idle(self) -> Idle:
        return {"public": not self.push_to_hub and "without push_to_hub"}

    def run(self) -> None:
        from diffpo.models.export import export, push_to_hub

        files = export(self.model, self.output, self.merge, self.base)
        for file in files:
            print(f"{file.stat().st_size:>14,}  {file}")
        if self.push_to_hub:
            print(f"uploaded to {push_to_hub(self.output, self.push_to_hub, private=not self.public)}")


def _show(description: dict[str, Any]) -> None:
    from diffpo.view.notebook import facts_table

    memory = {dtype: f"{size / 1e9:.3g} GB" for dtype, size in description.get("memory", {}).items()}
    facts = description | ({"memory": memory} if memory else {})
    show(facts_table({name.replace("_", " "): _text(value) for name, value in facts.items()}))


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key} {_text(entry)}" for key, entry in value.items()) or "none here"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
