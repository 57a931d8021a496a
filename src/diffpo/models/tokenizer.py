"""A character tokenizer: one id a character, then EOS and mask."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path


class CharTokenizer:
    """Ids 0..K-1 are the characters of `alphabet` in sorted order, K is EOS (padding too), K + 1 the mask."""

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(sorted(set(alphabet)))
        self.ids = {character: index for index, character in enumerate(self.alphabet)}
        self.eos_id = len(self.alphabet)
        self.mask_id = self.eos_id + 1
        self.vocab_size = self.eos_id + 2

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text`; ValueError names a character the model does not know."""
        unknown = sorted(set(text) - self.ids.keys())
        if unknown:
            raise ValueError(f"the model's alphabet lacks {''.join(unknown)!r} (it has {self.alphabet!r})")
        return tuple(self.ids[character] for character in text)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS; a mask shows as '_'."""
        characters = []
        for index in ids:
            if index == self.eos_id:
                break
            characters.append("_" if index == self.mask_id else self.alphabet[index])
        return "".join(characters)

    def save(self, folder: Path) -> None:
        (folder / "alphabet.json").write_text(json.dumps({"alphabet": self.alphabet}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> CharTokenizer:
        return cls(json.loads((folder / "alphabet.json").read_text())["alphabet"])
