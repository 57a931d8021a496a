"""What a GGUF says of its text and its shape: as llama.cpp takes it, or refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from models.test_convert import write_gguf, write_parent
from small_tokenizers import write_llada_tokenizer

from diffpo.models.convert import convert
from diffpo.models.policy import load_policy
from diffpo.models.tokenizer import Tokenizer

pytest.importorskip("gguf")

SPECIAL = ["<unk>", "<s>", "</s>"]
PIECES = ["▁t", "he", "▁the", "in", "▁▁", "lo", "▁1", "12", "</", "s>", *"▁ethlonis12</>."]
"""Of SentencePiece, the likeliest first; behind them every byte."""
VOCABULARY = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *PIECES]


def say(writer: Any, **values: Any) -> None:
    """Say something else of a GGUF's tokenizer; None: nothing."""
    adders = {list: writer.add_array, str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32}
    for key, value in values.items():
        writer.kv_data[0].pop(f"tokenizer.ggml.{key}", None)
        if value is not None:
            adders[type(value)](f"tokenizer.ggml.{key}", value)


def converted(folder: Path, change: Callable[[Any], object], vocab_size: int = 168) -> Tokenizer:
    """The tokenizer of a converted GGUF."""
    parent = write_parent(folder / "parent", "llama", vocab_size=vocab_size)
    write_gguf(parent, folder / "parent", folder / "small.gguf", change)
    convert(folder / "small.gguf", folder / "child")
    return load_policy(folder / "child", "float32", "cpu").tokenizer


def pieces_of(text: str) -> list[str]:
    """As SentencePiece cuts it: the neighbours that make the likeliest piece are joined, until none make one."""
    cut = list(text.replace(" ", "▁"))
    while found := [(PIECES.index(a + b), at) for at, (a, b) in enumerate(pairwise(cut)) if a + b in PIECES]:
        at = min(found)[1]
        cut[at : at + 2] = ["".join(cut[at : at + 2])]
    return [part for one in cut for part in ([one] if one in PIECES else [f"<0x{byte:02X}>" for byte in one.encode()])]


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_cuts_as_the_file_says_and_makes_no_special_token(prefix: bool, tmp_path: Path) -> None:
    """Whether a text begins with a space; and "</s>" is a word like others, though its halves are pieces."""
    scores = [*[0.0] * (len(VOCABULARY) - len(PIECES)), *[-1.0 - at for at in range(len(PIECES))]]
    types = [2, 3, 3, *[6] * 256, *[1] * len(PIECES)]

    def change(writer: Any) -> None:
        say(writer, model="llama", tokens=VOCABULARY, scores=scores, token_type=types, merges=None)
        say(writer, eos_token_id=2, padding_token_id=None, add_space_prefix=prefix)

    tokenizer = converted(tmp_path, change, len(VOCABULARY))
    for text in ("the", "the  hello in", "12 12", "ü\n", "</s> <s>the</s>", "in the  the."):
        ids = tokenizer.encode(text)
        assert [VOCABULARY[index] for index in ids] == pieces_of(" " * prefix + text)
        assert tokenizer.decode(ids) == text


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path) -> None:
    """As in SmolLM2: the spaces before a number are one word, and it has a word for each digit."""

    def change(writer: Any) -> None:
        writer.add_tokenizer_pre("smollm")
        tokens = list(writer.kv_data[0]["tokenizer.ggml.tokens"].value)
        tokens[158:160] = ["ĠĠ", "Ġ1"]  # in the place of other words
        say(writer, tokens=tokens, merges=["Ġ Ġ", "Ġ 1"])

    tokenizer = converted(tmp_path, change)
    assert tokenizer.encode("  12") == (158, *tokenizer.encode("1"), *tokenizer.encode("2"))


def test_a_tokenizer_beside_the_file_is_not_its_own(tmp_path: Path) -> None:
    alone = converted(tmp_path, lambda writer: None)
    write_llada_tokenizer(tmp_path)
    (tmp_path / "small.gguf").rename(tmp_path / "small.GGUF")
    convert(tmp_path / "small.GGUF", tmp_path / "again")
    beside = load_policy(tmp_path / "again", "float32", "cpu").tokenizer
    assert beside.chat([{"role": "user", "content": "is"}]) == alone.chat([{"role": "user", "content": "is"}])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda writer: say(writer, eos_token_id=None), "lacks tokenizer.ggml.eos_token_id: convert the model"),
        (lambda writer: say(writer, merges=None), "lacks tokenizer.ggml.merges"),
        (lambda writer: writer.kv_data[0].pop("llama.context_length"), "lacks llama.context_length"),
        (
            lambda writer: writer.add_tokenizer_pre("deepseek-llm"),
            "tokenizer.ggml.pre = deepseek-llm, which nobody here",
        ),
        (lambda writer: writer.add_rope_dimension_count(4), "positions turn 4 of the 8 dimensions of a head"),
        (lambda writer: writer.add_uint16("split.count", 2), "one of 2 parts: put them together first"),
    ],
)
def test_what_would_be_another_model_in_silence_is_refused(
    change: Callable[[Any], object], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        converted(tmp_path, change)
    assert not (tmp_path / "child").exists()
