"""The character tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffpo.models.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer("banana +=12")


@given(st.text(TOKENIZER.alphabet, max_size=30))
def test_text_survives_encoding(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert len(ids) == len(text) and TOKENIZER.decode(ids) == text


def test_ids_are_distinct_and_within_the_vocabulary() -> None:
    assert TOKENIZER.alphabet == " +12=abn"
    ids = [*TOKENIZER.encode(TOKENIZER.alphabet), TOKENIZER.eos_id, TOKENIZER.mask_id]
    assert ids == list(range(TOKENIZER.vocab_size))


def test_decoding_stops_at_eos_and_shows_masks() -> None:
    ids = [*TOKENIZER.encode("ab"), TOKENIZER.mask_id, TOKENIZER.eos_id, *TOKENIZER.encode("n")]
    assert TOKENIZER.decode(ids) == "ab_"


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"lacks '\?z'.*has ' \+12=abn'"):
        TOKENIZER.encode("1z+?z")


def test_a_tokenizer_survives_its_file(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    assert vars(CharTokenizer.load(tmp_path)) == vars(TOKENIZER)
