"""Tokenizers in LLaDA's, Dream's and Qwen3's layout, small enough for the golden checkpoints (192 ids, as theirs).

Ids 0..95 are newline and printable ASCII, 96..159 merges of them, 160..168 the added tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Byte-level BPE writes newline as Ċ and space as Ġ.
CHARACTERS = ["Ċ", "Ġ", *map(chr, range(ord("!"), ord("~") + 1))]
PAIRS = (
    "Ċ Ċ,Ġ t,h e,Ġt he,i n,r e,o n,a n,e r,n d,Ġ a,Ġa nd,a t,i s,i t,o r,e n,Ġ s,Ġ w,Ġ c,Ġ o,Ġ f,Ġ m,Ġ p,Ġ b,Ġ d,Ġ h,"
    "Ġo f,Ġt o,Ġ i,Ġi n,Ġi s,in g,e s,e d,l e,a l,a r,o m,a s,o u,l l,v e,u s,us er,s t,s y,sy st,e m,syst em,is t,"
    "as s,ass ist,an t,assist ant,Ġ =,Ġ +,Ġ -,Ġ *,Ġ /,Ġ (,Ġ ),< |,| >"
)
MERGES = PAIRS.split(",")
VOCABULARY = {token: index for index, token in enumerate([*CHARACTERS, *(merge.replace(" ", "") for merge in MERGES)])}
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

LLADA_ADDED = {
    160: "<|startoftext|>",
    161: "<|endoftext|>",
    162: "[CLS]",
    163: "[gMASK]",
    164: "<|reserved_token_0|>",
    165: "<|start_header_id|>",
    166: "<|end_header_id|>",
    167: "<|eot_id|>",
    168: "<|mdm_mask|>",
}
DREAM_ADDED = {
    160: "<tool_call>",  # these two are not special: a word that the tokenizer keeps whole
    161: "</tool_call>",
    162: "<|fim_pad|>",
    163: "<|endoftext|>",
    164: "<|im_start|>",
    165: "<|im_end|>",
    166: "<|beginoftext|>",
    167: "<|image_pad|>",
    168: "<|mask|>",
}
QWEN_ADDED = {
    160: "<|im_end|>",  # EOS, which ends a turn
    161: "<|endoftext|>",  # padding, which fills canvases
    162: "<|im_start|>",
    163: "<think>",  # these two are not special
    164: "</think>",
    165: "<|fim_prefix|>",
    166: "<|fim_middle|>",
    167: "<|fim_suffix|>",
    168: "<|mask|>",
}
NOT_SPECIAL = ("<tool_call>", "</tool_call>", "<think>", "</think>")

LLADA_TEMPLATE = (  # adds the assistant's header whether asked or not, as the published one does
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
DREAM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe of help.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN_TEMPLATE = (  # thoughts are closed only for who asks for it
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)


def write_llada_tokenizer(folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json (with the chat template), special_tokens_map.json."""
    named = {
        "bos_token": "<|startoftext|>",
        "cls_token": "[CLS]",
        "eos_token": "<|endoftext|>",
        "gmask_token": "[gMASK]",
        "pad_token": "<|endoftext|>",
    }
    others = {"additional_special_tokens": ["<|reserved_token_0|>"], "trust_remote_code": True}
    _write_fast_tokenizer(folder, LLADA_ADDED, LLADA_TEMPLATE, named, others)


def write_qwen_tokenizer(folder: Path) -> None:
    """The same files, in which A2D models name their mask: config.json need not."""
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "mask_token": "<|mask|>"}
    _write_fast_tokenizer(folder, QWEN_ADDED, QWEN_TEMPLATE, named, {})


def _write_fast_tokenizer(
    folder: Path, added: dict[int, str], template: str, named: dict[str, str], others: dict[str, Any]
) -> None:
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": VOCABULARY,
        "merges": MERGES,
    }
    words = [
        {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": index, **_flags(content)} for index, content in added.items()],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": words},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    config = {
        "add_bos_token": False,
        "add_eos_token": False,
        "added_tokens_decoder": {str(index): _flags(content) for index, content in added.items()},
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "fast_tokenizer": True,
        "merges_file": None,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **others,
        **named,
    }
    _write(folder, "tokenizer.json", tokenizer)
    _write(folder, "tokenizer_config.json", config)
    _write(folder, "special_tokens_map.json", named)


def write_dream_tokenizer(folder: Path) -> None:
    """vocab.json, merges.txt, tokenizer_config.json, added_tokens.json, and remote code that nobody is to run."""
    named = {
        "bos_token": "<|beginoftext|>",
        "eos_token": "<|endoftext|>",
        "mask_token": "<|mask|>",
        "pad_token": "<|endoftext|>",
    }
    config = {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(index): _flags(content) for index, content in DREAM_ADDED.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|fim_pad|>"],
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "chat_template": DREAM_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 128,
        "split_special_tokens": False,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
        **named,
    }
    _write(folder, "vocab.json", VOCABULARY)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", encoding="utf-8")
    _write(folder, "tokenizer_config.json", config)
    _write(folder, "special_tokens_map.json", named)
    _write(folder, "added_tokens.json", {content: index for index, content in DREAM_ADDED.items()})
    (folder / "tokenization_dream.py").write_text('raise RuntimeError("remote code ran")\n')


TOKENIZERS = {"llada": write_llada_tokenizer, "dream": write_dream_tokenizer}
TOKENIZERS |= dict.fromkeys(("a2d-qwen3", "bd3lm", "sdar"), write_qwen_tokenizer)
"""By golden checkpoint."""


def _flags(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": content not in NOT_SPECIAL,
    }


def _write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
