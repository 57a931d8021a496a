"""The tokenizer of a published checkpoint, read from its files alone: no remote code, no network."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from itertools import groupby, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffpo.files.recipe import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja", "tokenization_*.py"),
)
EOS, MASK = ("eos_token_id", "pad_token_id"), ("mask_token_id",)  # keys of config.json, the first that is there
END_OF_TURN = ("<|eot_id|>", "<|im_end|>")  # of Llama-3's headers (LLaDA) and of ChatML (Dream)
THINK = "<think>"
PRIVATE_USE = range(0xF0000, 0xFFFFE)  # code points that Unicode leaves to the likes of us
TODAY = date(2024, 7, 26)
"""The day that templates are told which ask for today's (Llama's own where there is no clock): a prompt is the same
tomorrow."""
CLOCK = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
"""How a template asks for it."""


class HubTokenizer:
    """A byte-level BPE tokenizer with special tokens and, mostly, a chat template.

    Special tokens come from the chat template alone: text that spells one is encoded letter by letter.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, files: Mapping[str, bytes], eos_id: int, mask_id: int, vocab_size: int
    ) -> None:
        """`files` are what `save` writes; `vocab_size` is the model's, from which ids that no token has are cut off."""
        self.eos_id, self.mask_id = eos_id, mask_id
        self.vocab_size = min(max(tokenizer.get_vocab().values()) + 1, vocab_size)
        self.chats = bool(tokenizer.chat_template)
        self.files = dict(files)
        added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
        self._tokenizer = tokenizer
        known = {index for index, content in added.items() if content in END_OF_TURN}
        closing = self._closing(added) or known if self.chats else set[int]()
        self.end_of_turn = tuple(sorted(closing - {eos_id}))
        own = {index for index, content in added.items() if content == tokenizer.eos_token}
        self.stops = frozenset({eos_id, *own, *known, *closing})
        # Nobody may type these, whatever their flags in the file say.
        reserved = [added[index] for index in {mask_id, *self.stops} if index in added]
        tokenizer.add_tokens(reserved, special_tokens=True)
        self._specials = {t.content: index for index, t in tokenizer.added_tokens_decoder.items() if t.special}
        longest_first = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
        self._marked = tokenizer.backend_tokenizer
        self._marked.no_truncation()  # tokenizer.json may hold what its last user cut or padded to
        self._marked.no_padding()
        if type(self._marked.model).__name__ == "BPE":
            self._marked.model.dropout = None  # of merges, at random: a prompt would have other ids each time
        self._plain = _without_merged(self._marked, self._specials)
        self._plain.encode_special_tokens = True  # as text, that is
        self._before = self._plain.encode("a", add_special_tokens=False).ids

    @classmethod
    def load(cls, folder: Path, config: Mapping[str, Any], vocab_size: int, own_ids: bool = False) -> HubTokenizer:
        """Read `folder`, whose config.json is `config`; `vocab_size` is the model's. ValueError if they do not fit.

        With `own_ids` the mask and padding tokens of the tokenizer count rather than the ids of config.json.
        """
        files = {path.name: path.read_bytes() for pattern in TOKENIZER_FILES for path in folder.glob(pattern)}
        # vocab.json and merges.txt do not say how to cut text into words: Dream does it as Qwen2.
        tokenizer: Any = read_tokenizer(folder, "Qwen2Tokenizer")  # whose ids are typed as all that others have
        known = tokenizer.get_vocab()
        settings = {} if "tokenizer.json" in files else json.loads(files.get("tokenizer_config.json", b"{}"))
        # transformers numbers added tokens on from vocab.json, whatever ids they are listed with.
        for index, token in settings.get("added_tokens_decoder", {}).items():
            if known.get(token["content"]) != int(index):
                raise ValueError(
                    f"{folder / 'tokenizer_config.json'}: {token['content']!r} is to be id {index}, but is id "
                    f"{known.get(token['content'])} beside the other tokenizer files: they are not of one checkpoint"
                )
        if own_ids:
            padding = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            own = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": padding}
            config = {**config, **{key: index for key, index in own.items() if index is not None}}
        eos_id = token_id(folder, config, EOS, vocab_size, tokenizer.eos_token_id)
        mask_id = token_id(folder, config, MASK, vocab_size, tokenizer.mask_token_id)
        if eos_id not in known.values():
            raise ValueError(f"{folder}: EOS is id {eos_id}, which the tokenizer does not know; mend config.json")
        return cls(tokenizer, files, eos_id, mask_id, vocab_size)

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of `text`, none of them special, whatever it spells."""
        _check_whole(text)
        return self._embedded(self._plain.encode(text, add_special_tokens=False).ids)

    def chat(self, messages: Sequence[Mapping[str, str]], prefill: str = "") -> tuple[int, ...]:
        """Ids of the conversation and the assistant's header, then of `prefill`; ValueError if there is no template."""
        if not self.chats:
            raise ValueError(
                "this checkpoint has no chat template: put chat_template.jinja into its folder, or prompt with text"
            )
        messages = [{"role": message["role"], "content": message["content"]} for message in messages]
        values = [value for message in messages for value in message.values()]
        for value in values:
            _check_whole(value)
        typed = sorted({token for value in values for token in self._special.findall(value)})
        # Special tokens that users typed go through the template in disguise, so that those left are the template's.
        unused = (chr(code) for code in PRIVATE_USE if not any(chr(code) in value for value in values))
        disguise = dict(zip(typed, unused, strict=False))
        disguised = [
            {key: self._special.sub(lambda match: disguise[match[0]], value) for key, value in message.items()}
            for message in messages
        ]
        thinks = prefill.lstrip().startswith(THINK)
        rendered = self._render(disguised, answer_follows=True, thinks=thinks)
        if thinks and rendered.rstrip().endswith(THINK):
            rendered = rendered.rstrip().removesuffix(THINK)  # which the prefill says
        return (*self._embedded(self._encode_rendered(rendered, disguise)), *self.encode(prefill))

    def _render(self, messages: Sequence[Mapping[str, str]], answer_follows: bool, thinks: bool = False) -> str:
        """The conversation as the template writes it; ValueError if that does not take it."""
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=answer_follows,
                tokenize=False,
                enable_thinking=thinks,  # where not, Qwen3's template closes the thoughts; others do not look
                chat_template=CLOCK.sub(lambda m: repr(TODAY.strftime(m[2])), self._tokenizer.get_chat_template()),
            )
        except Exception as error:  # a template raises what it likes
            raise ValueError(f"the model's chat template does not take these messages: {error}") from error
        assert isinstance(rendered, str)  # as tokenize=False says
        return rendered

    def _closing(self, added: Mapping[int, str]) -> set[int]:
        """The token, of those `added`, that the template closes an answer with; none where it closes with text."""
        answer = chr(PRIVATE_USE[0])
        talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
        try:
            behind = self._render(talk, answer_follows=False).rpartition(answer)[2].lstrip()
        except ValueError:  # whoever chats hears of it
            return set()
        fitting = [index for index, content in added.items() if behind.startswith(content)]
        return {max(fitting, key=lambda index: len(added[index]))} if fitting else set()

    def _embedded(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The ids; ValueError for one that the model has no embedding of: some tokenizers have more tokens."""
        if max(ids, default=0) >= self.vocab_size:
            token = self._tokenizer.convert_ids_to_tokens(max(ids))
            raise ValueError(
                f"the tokenizer's {token!r} is id {max(ids)}, beyond the model's vocabulary of {self.vocab_size}: they "
                "are not of one checkpoint"
            )
        return tuple(ids)

    def _encode_rendered(self, rendered: str, disguise: Mapping[str, str]) -> tuple[int, ...]:
        if not disguise:
            return tuple(self._marked.encode(rendered, add_special_tokens=False).ids)
        # The tokenizer, too, first splits at special tokens and then encodes what is between them piece by piece.
        ids: list[int] = []
        for odd, piece in enumerate(self._special.split(rendered)):
            if odd % 2:
                ids.append(self._specials[piece])
                continue
            for token, stand_in in disguise.items():
                piece = piece.replace(stand_in, token)
            ids += self.encode(piece)
        return tuple(ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS or end of turn; a mask shows as '_', other special and unknown ids as nothing."""
        texts = []
        answer = takewhile(lambda index: index not in self.stops, ids)
        shown = (index for index in answer if index == self.mask_id or 0 <= index < self.vocab_size)
        for mask, run in groupby(shown, lambda index: index == self.mask_id):
            run = list(run)
            texts.append("_" * len(run) if mask else self._inside(run) if texts else self._text(run))
        return "".join(texts)

    def piece(self, index: int) -> str:
        """Text of one token behind others: some tokenizers leave out the space that a text begins with."""
        return self.decode([self.mask_id, index])[1:]

    def _text(self, ids: Sequence[int]) -> str:
        return self._marked.decode(ids, skip_special_tokens=True)

    def _inside(self, ids: Sequence[int]) -> str:
        """Text of ids that others stand before."""
        return self._text([*self._before, *ids])[len(self._text(self._before)) :]

    def save(self, folder: Path) -> None:
        """Write the files that this was loaded from, byte for byte."""
        for name, data in self.files.items():
            (folder / name).write_bytes(data)


def _without_merged(tokenizer: Tokenizer, specials: Collection[str]) -> Tokenizer:
    """A copy whose merges make none of `specials`: in some vocabularies "</" and "s>" stand beside "</s>"."""
    known, copied = tokenizer.get_vocab(), copy.deepcopy(tokenizer)
    if any(token[:cut] in known and token[cut:] in known for token in specials for cut in range(1, len(token))):
        state = json.loads(tokenizer.to_str())
        if merges := state["model"].get("merges"):
            state["model"]["merges"] = [pair for pair in merges if "".join(pair) not in specials]
            copied = type(tokenizer).from_str(json.dumps(state))
    return copied


def read_tokenizer(folder: Path, otherwise: str) -> PreTrainedTokenizerFast:
    """What transformers makes of a folder's files: tokenizer.json has the last word; where there is none, the class
    `otherwise`. ValueError if it cannot read them.
    """
    import transformers

    kind = "PreTrainedTokenizerFast" if (folder / "tokenizer.json").is_file() else otherwise
    if not any(folder.glob("tokenizer.*")) and not (folder / "vocab.json").is_file():
        raise ValueError(f"{folder}: no tokenizer here (no tokenizer.json): put its files beside the weights")
    try:
        return getattr(transformers, kind).from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust half raises bare Exceptions
        raise ValueError(f"{folder}: cannot read its tokenizer files: {error}") from error


def written_template(folder: Path) -> str:
    """The chat template that stands in a folder's files, as they have it; empty if there is none."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    written = read_json(settings).get("chat_template") if settings.is_file() else None
    return str(written or "").strip()


def token_id(
    folder: Path, config: Mapping[str, Any], keys: Sequence[str], vocab_size: int, fallback: int | None = None
) -> int:
    """The first id that config.json gives under `keys`, else `fallback`; ValueError if there is none or it is no id."""
    path, given = folder / "config.json", [key for key in keys if config.get(key) is not None]
    if not given and (fallback is None or fallback >= vocab_size):
        raise ValueError(f"{path}: no {' or '.join(keys)}; add the id")
    index = config[given[0]] if given else fallback
    if not isinstance(index, int) or not 0 <= index < vocab_size:
        raise ValueError(f"{path}: {given[0]} is {index!r}, not one id below the model's vocabulary of {vocab_size}")
    return index


def _check_whole(text: str) -> None:
    """ValueError names half a character."""
    if half := re.search("[\ud800-\udfff]", text):
        raise ValueError(f"{half[0]!r} is half a character (a lone surrogate): no text holds it")
