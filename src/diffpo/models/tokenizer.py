"""Tokenizers: characters for the tiny models, a published checkpoint's own, or bare ids for one that ships none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

from diffpo.files.recipe import read_json
from diffpo.models.hub_tokenizer import EOS, MASK, HubTokenizer, token_id


class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def eos_id(self) -> int: ...

    @property
    def mask_id(self) -> int: ...

    @property
    def vocab_size(self) -> int:
        """Ids from here on are the model's padding of the vocabulary: no text has them, none is emitted."""
        ...

    @property
    def chats(self) -> bool:
        """Whether there is a chat template."""
        ...

    @property
    def end_of_turn(self) -> tuple[int, ...]:
        """Ids that close an assistant's turn, before EOS fills the canvas."""
        ...

    @property
    def stops(self) -> frozenset[int]:
        """Ids at which a text is over: EOS, and all that may close a turn."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text` as it stands: no special token is added, and none can be typed."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], prefill: str = "") -> tuple[int, ...]:
        """Ids of a conversation, the assistant's header and the beginning of its answer. ValueError unless `chats`."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first of `stops`; a mask shows as '_'."""
        ...

    def piece(self, index: int) -> str:
        """Text of one token behind others; none of one of `stops`."""
        ...

    def save(self, folder: Path) -> None:
        """Write what `load_tokenizer` reads."""
        ...


class _Chatless:
    """No chat template, and a token's text is its own wherever it stands."""

    eos_id: int
    mask_id: int
    between = ""
    """What stands between the texts of two tokens."""
    chats = False
    end_of_turn: tuple[int, ...] = ()

    @property
    def stops(self) -> frozenset[int]:
        return frozenset({self.eos_id})

    def _text(self, index: int) -> str:
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS; a mask shows as '_'."""
        answer = takewhile(lambda index: index != self.eos_id, ids)
        return self.between.join("_" if index == self.mask_id else self._text(index) for index in answer)

    def piece(self, index: int) -> str:
        return self.decode([index])

    def chat(self, messages: Sequence[Mapping[str, str]], prefill: str = "") -> tuple[int, ...]:
        raise ValueError("this model has no chat template: prompt with plain text")


class CharTokenizer(_Chatless):
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

    def _text(self, index: int) -> str:
        return self.alphabet[index]

    def save(self, folder: Path) -> None:
        (folder / "alphabet.json").write_text(json.dumps({"alphabet": self.alphabet}) + "\n")


@dataclass(frozen=True)
class IdTokenizer(_Chatless):
    """Texts are ids, a space between them: for a checkpoint without a tokenizer."""

    vocab_size: int
    eos_id: int
    mask_id: int
    between = " "

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids that `text` lists; ValueError if it is anything else."""
        words = text.split()
        if any(re.fullmatch("[0-9]{1,18}", word) is None for word in words):
            raise ValueError(
                "this checkpoint has no tokenizer (tokenizer.json, or vocab.json and merges.txt): put its files into "
                "the folder, or write token ids such as '5 17 42'"
            )
        if beyond := [word for word in words if int(word) >= self.vocab_size]:
            raise ValueError(f"token id {beyond[0]} is beyond the model's vocabulary: ids are below {self.vocab_size}")
        return tuple(map(int, words))

    def _text(self, index: int) -> str:
        return str(index)

    def save(self, folder: Path) -> None:
        """Nothing: config.json has it all."""


def load_tokenizer(folder: Path, config: Mapping[str, Any], vocab_size: int, own_ids: bool = False) -> Tokenizer:
    """The tokenizer whose files are in `folder`; `config` is its config.json, `vocab_size` the model's.

    `own_ids`: its mask and its padding token count rather than the ids in config.json (`Family.own_ids`).
    ValueError names what is missing or does not fit.
    """
    files = {path.name for path in folder.iterdir()}
    if "alphabet.json" in files:
        tokenizer: Tokenizer = CharTokenizer(read_json(folder / "alphabet.json")["alphabet"])
    elif "tokenizer.json" in files or {"vocab.json", "merges.txt"} <= files:
        tokenizer = HubTokenizer.load(folder, config, vocab_size, own_ids)
    else:
        tokenizer = IdTokenizer(vocab_size, *(token_id(folder, config, keys, vocab_size) for keys in (EOS, MASK)))
    if tokenizer.mask_id == tokenizer.eos_id:
        raise ValueError(
            f"{folder / 'config.json'}: mask and EOS are one id, {tokenizer.mask_id}: give mask_token_id and "
            "eos_token_id the ids that the model was trained with"
        )
    return tokenizer
