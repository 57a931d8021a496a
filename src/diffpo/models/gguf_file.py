"""A GGUF: its config, its tokenizer and its weights, as transformers reads them, and what it says beside.

transformers takes the file's word where it has one, and a default in silence where it has none. What would then be
another model, or another text, is set right here or refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from diffpo.models.rotary import rotation_table

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderField
    from transformers import PreTrainedTokenizerFast

NOT_OURS = ("quantization_config", "_name_or_path", "_model_name_or_path", "transformers_version")
"""What transformers says of a GGUF that is not so of the weights unpacked."""
SCALING = {
    "type": "rope_type",
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""What a GGUF says of stretched positions, which transformers leaves out, and what config.json calls it."""
FREQUENCIES = "rope_freqs.weight"
"""What a GGUF of Llama 3 says it by: numbers that the frequencies are divided by."""
LLAMA_3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What these numbers were made of, beside a factor, in every Llama 3 that has them."""
ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""What `general.architecture` of a parent says."""
NEEDED = (
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    *("attention.head_count", "attention.layer_norm_rms_epsilon"),
)
"""Of a model: what llama.cpp does not load without."""
DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""`tokenizer.ggml.pre` of vocabularies whose digits stand alone, which transformers cuts as GPT-2's."""
GPT_2 = ("gpt-2", "olmo")


def read_gguf(path: Path) -> tuple[dict[str, Any], PreTrainedTokenizerFast]:
    """What config.json would say, and the tokenizer; ValueError for a file that does not say enough, or is none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        from gguf import GGUFReader
    except ImportError:
        raise ValueError(f"{path}: GGUF is read by the package gguf: pip install 'diffpo[gguf]'") from None
    from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

    try:
        reader = GGUFReader(path)
        said = {key: _value(field) for key, field in reader.fields.items()}
    except Exception as error:  # of a reader that takes the file's word for everything
        raise ValueError(f"{path}: not a GGUF, or not all of one: {error}") from error
    _check_said(path, said)
    try:
        with tempfile.TemporaryDirectory() as alone:  # transformers would rather read a tokenizer.json beside the file
            Path(alone, path.name).symlink_to(path.resolve())
            config = AutoConfig.from_pretrained(alone, gguf_file=path.name).to_dict()
            tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=path.name)
    except Exception as error:
        raise ValueError(f"{path}: not a GGUF that transformers reads: {error}") from error
    _split_as_said(path, said, tokenizer)
    config |= _left_out(path, config, reader)
    usual = PreTrainedConfig().to_dict() | {key: config.get(key) for key in NOT_OURS}
    return {key: value for key, value in config.items() if key not in usual or usual[key] != value}, tokenizer


def _value(field: ReaderField) -> Any:
    """None of a list: those of vocabularies are long."""
    return None if field.types[0] == field.types[0].ARRAY else field.contents()


def _check_said(path: Path, said: Mapping[str, Any]) -> None:
    """ValueError for part of a file, for what is left out and has no default, and for heads that are turned in part."""
    if said.get("split.count", 1) > 1:
        count = said["split.count"]
        raise ValueError(f"{path}: one of {count} parts: put them together first, as llama-gguf-split does")
    kind = said.get("general.architecture")
    if kind not in ARCHITECTURES:
        return  # as whoever converts it will say
    pieces = "scores" if said.get("tokenizer.ggml.model") == "llama" else "merges"
    needed = [f"{kind}.{key}" for key in NEEDED]
    needed += [f"tokenizer.ggml.{key}" for key in ("model", "tokens", pieces, "eos_token_id")]
    if missing := [key for key in needed if key not in said]:
        raise ValueError(f"{path}: lacks {', '.join(missing)}: convert the model that it was made of")
    size = said[f"{kind}.embedding_length"] // said[f"{kind}.attention.head_count"]
    size = said.get(f"{kind}.attention.key_length", size)
    if (turned := said.get(f"{kind}.rope.dimension_count", size)) != size:
        what = f"positions turn {turned} of the {size} dimensions of a head"
        raise ValueError(f"{path}: {what}: diffpo's transformer turns all")


def _split_as_said(path: Path, said: Mapping[str, Any], tokenizer: PreTrainedTokenizerFast) -> None:
    """Have text cut into words as the file says, where transformers does not look; ValueError if nobody knows how."""
    from tokenizers import decoders, pre_tokenizers

    backend, kind = tokenizer.backend_tokenizer, said.get("tokenizer.ggml.pre")
    if said.get("tokenizer.ggml.model") == "gpt2":
        words = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind in DIGITS:
            backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
        elif kind not in (None, *GPT_2) and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
            what = "which nobody here knows how to cut text by"
            raise ValueError(f"{path}: tokenizer.ggml.pre = {kind}, {what}: convert the model that it was made of")
    elif said.get("tokenizer.ggml.add_space_prefix") is False:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


def _left_out(path: Path, config: Mapping[str, Any], reader: GGUFReader) -> dict[str, Any]:
    """What a GGUF says and transformers' `config` of it does not: the size of heads, and how positions are stretched.

    ValueError for a stretch that config.json has no words for.
    """
    start = f"{config['model_type']}."
    said = {key.removeprefix(start): field.contents() for key, field in reader.fields.items() if key.startswith(start)}
    head_dim = {"head_dim": said["attention.key_length"]} if "attention.key_length" in said else {}
    scaling = {key.removeprefix("rope.scaling."): value for key, value in said.items() if key.startswith("rope.scal")}
    scaling.pop("finetuned", None)
    if scaling.get("type") == "none":
        scaling = {}
    if strange := [f"{key} = {value}" for key, value in scaling.items() if key not in SCALING]:
        raise ValueError(f"{path}: positions are stretched by {', '.join(strange)}, which diffpo's transformer has not")
    rope = {SCALING[key]: value for key, value in scaling.items()}
    for numbers in (torch.tensor(one.data, dtype=torch.float32) for one in reader.tensors if one.name == FREQUENCIES):
        if (numbers != 1).any():
            rope = {"rope_type": "llama3", "factor": float(numbers.max()), **LLAMA_3}
            theta, size = said.get("rope.freq_base", 10000.0), 2 * len(numbers)
            plain, stretched = (rotation_table(2, size, theta, kind)[0][1] for kind in (None, rope))
            if not torch.allclose(plain / stretched, numbers, rtol=1e-3):
                raise ValueError(f"{path}: {FREQUENCIES} is not that of a Llama 3: convert the model it was made of")
    return head_dim | ({"rope_parameters": {**(config.get("rope_parameters") or {}), **rope}} if rope else {})


def unpacked(path: Path) -> dict[str, Tensor]:
    """Every tensor of a GGUF by the name that transformers has for it; ValueError for one that it has none for."""
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TensorProcessor, get_gguf_hf_weights_map, load_gguf_checkpoint

    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)  # whose names the file's are turned into
    known = {FREQUENCIES, *get_gguf_hf_weights_map(shape, TensorProcessor())}
    if strange := [tensor.name for tensor in GGUFReader(path).tensors if tensor.name not in known]:
        raise ValueError(f"{path}: has tensors that a {config.model_type} does not have here: {', '.join(strange)}")
    return load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=shape)["tensors"]
