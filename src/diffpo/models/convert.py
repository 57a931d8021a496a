"""An autoregressive checkpoint made a masked diffusion LM, before any training: causal mask gone, mask token there.

The folder is that of dLLM's A2D models (github.com/ZHZisZZ/dllm), which load it: the parent's tensors under their
names, `model_type` a2d-*, one token more. Two keys of config.json say how this package asks the model:
`right_shift_logits`, position p predicts the token at p + 1, as the parent did; and `block_size`, attention is
block-causal. With the shift and blocks of 1 the model is its parent.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffpo.config import suggest
from diffpo.config.checks import check
from diffpo.files.folder import new_folder, write_folder
from diffpo.files.recipe import read_json
from diffpo.models.families import FAMILIES
from diffpo.models.gguf_file import read_gguf, unpacked
from diffpo.models.hub_tokenizer import read_tokenizer
from diffpo.models.saving import save_shards
from diffpo.models.tokenizer import load_tokenizer
from diffpo.models.weights import (
    DTYPES,
    Checkpoint,
    Shape,
    check_fit,
    check_plain,
    check_tied,
    is_snapshot,
    locate,
    opened,
    tensor_shapes,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PARENTS = {"llama": "a2d-llama", "qwen2": "a2d-qwen2", "qwen3": "a2d-qwen3"}
"""What a parent of each model_type becomes."""
MASK = "<|mask|>"
VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with a row for each token."""


@dataclass(frozen=True)
class Parent:
    """A causal checkpoint: where it came from, what config.json says, and how its tensors are read."""

    name: str
    revision: str | None
    config: dict[str, Any]
    tokenizer: PreTrainedTokenizerFast
    folder: Path
    gguf: Path | None = None

    @classmethod
    def open(cls, source: str | Path, revision: str | None = None) -> Parent:
        """Find `source`, a folder, a hub id or a .gguf file; ValueError says what it lacks."""
        path = Path(source).expanduser()
        what = f"revision {revision} does nothing for {source}, which is here"
        check(revision is None or not path.exists(), f"{what}, not a model of the hub: leave it out")
        if path.suffix.lower() == ".gguf":
            config, tokenizer = read_gguf(path)
            _become(config, path)
            return cls(str(path.resolve()), None, config, tokenizer, path.parent, path)
        folder = locate(source, revision)
        if not (folder / "config.json").is_file():
            found = sorted(folder.glob("*.gguf"))
            mend = f"name the file: {found[0]}" if found else "name a folder with a config.json, or a .gguf file"
            raise ValueError(f"{source}: no checkpoint here (no config.json): {mend}")
        config = read_json(folder / "config.json")
        _become(config, folder / "config.json")
        tokenizer = read_tokenizer(folder, "AutoTokenizer")
        if is_snapshot(folder):
            return cls(str(source), folder.name, config, tokenizer, folder)
        return cls(str(folder.resolve()), None, config, tokenizer, folder)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor by its name, one at a time; those of a GGUF unpacked, in fp32."""
        if self.gguf:
            yield from unpacked(self.gguf).items()
            return
        files = Checkpoint(self.name, self.folder, self.config).files
        check_plain(self.folder, {name: dtype for _, name, _, dtype in tensor_shapes(files)})
        for file in files:
            with opened(file) as found:
                yield from ((name, found.get_tensor(name)) for name in found.keys())  # noqa: SIM118


def convert(
    source: str | Path,
    output: str | Path,
    shift: bool = True,
    block_length: int | None = None,
    mask_token: str = MASK,
    dtype: str | None = None,
    revision: str | None = None,
) -> list[Path]:
    """Write the masked diffusion LM of the causal checkpoint `source` into the folder `output`; returns its files.

    `dtype` is "bfloat16" or "float32"; None: the parent's own, bfloat16 for a GGUF. ValueError, before anything is
    written, if the parent's architecture has no A2D family, or if `output` is not empty.
    """
    if block_length is not None and block_length < 1:
        raise ValueError(f"block_length must be >= 1, got {block_length}")
    parent, folder = Parent.open(source, revision), new_folder(output)
    kind, tokenizer = PARENTS[parent.config["model_type"]], parent.tokenizer
    rows, mask_id = parent.config["vocab_size"], _add_mask(tokenizer, mask_token)
    vocab_size = max(rows, mask_id + 1)
    dtype = dtype or ("bfloat16" if parent.gguf else None)
    config = {key: value for key, value in parent.config.items() if key != "auto_map"} | {
        "architectures": [f"A2D{kind.removeprefix('a2d-').capitalize()}LMHeadModel"],
        "model_type": kind,
        "vocab_size": vocab_size,
        "mask_token_id": mask_id,
        "converted_from": {"name": parent.name, "revision": parent.revision},
        "right_shift_logits": shift,
    }
    if dtype:
        config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": dtype}
    if block_length:
        config["block_size"] = block_length
    model = Checkpoint(str(folder), folder, config).empty_denoiser()  # ValueError for what it does not have
    config["rope_theta"] = model.config.rope_theta  # transformers before 5 looks here alone, as for how it is scaled
    if model.config.rope_scaling:
        config["rope_scaling"] = dict(model.config.rope_scaling)
    family = FAMILIES[kind]
    wanted = {family.original(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tensors = _grown(parent, wanted, rows, DTYPES[dtype] if dtype else None)

    def write(draft: Path) -> None:
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        _save_tokenizer(tokenizer, draft)
        load_tokenizer(draft, config, vocab_size, family.own_ids)  # ValueError if they do not fit
        save_shards(tensors, draft)
        for pattern in () if parent.gguf else ("generation_config.json", "LICENSE*"):  # beside a file is anyone's
            for file in parent.folder.glob(pattern):
                shutil.copy(file, draft)

    write_folder(folder, write)
    return sorted(folder.iterdir())


def _become(config: Mapping[str, Any], path: Path) -> None:
    """ValueError unless a model of this config has an A2D family."""
    kind = str(config.get("model_type"))
    if kind in FAMILIES:
        raise ValueError(f"{path}: {kind} is a masked diffusion LM already: `diffpo sft` takes it as it is")
    if kind not in PARENTS:
        raise ValueError(f"{path}: model_type {kind!r} is not one that diffpo converts{suggest(kind, PARENTS)}")
    try:
        FAMILIES[PARENTS[kind]].shape(config)
    except KeyError as lost:
        raise ValueError(f"{path}: lacks {lost}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix('config.json ')}") from None


def _add_mask(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    """The id of the tokenizer's mask token; where it has none, `token` becomes it. ValueError if it has another.

    ValueError as well if `token` is a word of the vocabulary: a text with the word in it would hold a mask.
    """
    if tokenizer.mask_token not in (None, token) and token != MASK:
        raise ValueError(f"mask_token {token!r}: the tokenizer has a mask, {tokenizer.mask_token!r}: leave it out")
    if tokenizer.mask_token_id is None:
        if not token or token in tokenizer.get_vocab().keys() - tokenizer.get_added_vocab().keys():
            raise ValueError(f"mask_token {token!r}: texts have it: name a special token, or one that is new")
        tokenizer.add_special_tokens({"mask_token": token})
    return tokenizer.get_vocab()[str(tokenizer.mask_token)]


def _save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write its files so that transformers before 5 reads them too: the class has a new name since."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    settings = read_json(path)
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    kept = {name: value for name, value in settings.items() if name not in ("backend", "is_local", "local_files_only")}
    path.write_text(json.dumps(kept, indent=2) + "\n")


def _grown(parent: Parent, wanted: Mapping[str, Shape], rows: int, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The parent's tensors with rows for new tokens, each the mean of the old; ValueError if they are not `wanted`."""
    found, heads, tied = {}, list[Tensor](), parent.config.get("tie_word_embeddings", False)
    for name, tensor in parent.tensors():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        tensor = tensor.to(dtype or tensor.dtype)
        if tied and name == VOCABULARY[1]:
            heads.append(tensor)
            continue
        more = wanted.get(name, (rows,))[0] - rows
        if name in VOCABULARY and more > 0:
            tensor = torch.cat([tensor, tensor.float().mean(0, keepdim=True).to(tensor.dtype).expand(more, -1)])
        found[name] = tensor.contiguous()
    check_fit(parent.name, (("", name, tuple(tensor.shape)) for name, tensor in found.items()), wanted)
    kind = FAMILIES[PARENTS[parent.config["model_type"]]]
    check_tied(parent.name, kind, found[VOCABULARY[0]][:rows], heads)
    return found
