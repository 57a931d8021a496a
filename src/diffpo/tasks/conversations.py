"""What a row asks and answers: prompts and completions, conversations, ShareGPT and Alpaca."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from diffpo.tasks.data import Row, column
from diffpo.types import Messages

ROLES = {
    **dict.fromkeys(("system",), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "model"), "assistant"),
}
"""The roles of a conversation, under their names here and in ShareGPT."""
_UNSEEN = ("tools", "images", "image", "videos", "video", "audios", "audio")
"""Columns that a chat template elsewhere shows the model; here nothing does."""
_LOST = ("tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", *_UNSEEN)
"""Keys of a message that say something beside its content."""
_MARK = (
    r"(?:<\|[A-Za-z]\w{0,40}\|>|<\|\w{1,20}>|<\w{1,20}\|>|<(?:start|end)_of_turn>|<[be]os>|<role>[A-Z]{4,9}</role>"
    r"|(?:<s>\s*)?\[INST\]|\[/INST\]|<\uff5c[^\uff5c\n]{1,40}\uff5c>)"
)
_TEMPLATED = re.compile(rf"\A\s*{_MARK}|(?:{_MARK}\s*(?:assistant|model)?|</s>)\s*\Z")
"""A chat template's own marks, at the start or the end of a text."""
_SPELT = re.compile(
    r"""\A\s*\[\s*\{.*?['"](?:role|from)['"]\s*:\s*['"](?:system|user|assistant|human|gpt)['"]""", re.DOTALL
)
"""Messages that were made a text of, by JSON or by Python."""


class Example(NamedTuple):
    """What a row asks, and the answer that it gives, if it gives one."""

    prompt: str | Messages
    completion: str | None
    source: str
    """The column that the prompt is in."""
    prefill: str = ""
    """How the answer starts: given, not learned; `completion` goes on from there."""


def read_example(row: Row, answered: bool = False) -> Example:
    """A row in the first of FORMATS that it has the columns of, `answered` those of an answer too.

    ValueError names the row and what is wrong: no such columns, a turn out of place, a text in a template already.
    """
    for columns, read in FORMATS.items():
        needed = columns if answered else columns[:1]
        if all(row.values.get(name) is not None for name in needed):
            example = read(row)
            break
    else:
        has = ", ".join(map(str, row.values)) or "none"
        wanted = ", ".join(" and ".join(columns if answered else columns[:1]) for columns in FORMATS)
        raise ValueError(f"{row.place}: a row has one of {wanted}; the row's columns: {has}")
    if unseen := next((name for name in _UNSEEN if row.values.get(name)), None):
        raise ValueError(
            f"{row.place}: column {unseen!r}: the model reads text alone and would not see it: leave it out, or give "
            "it another name where a reward reads it"
        )
    if answered and example.completion is None:
        raise ValueError(f"{row.place}: the last message must be the assistant's, which is what is learned")
    texts = [example.prompt] if isinstance(example.prompt, str) else [m["content"] for m in example.prompt]
    for text in [*texts, example.completion or ""]:
        if _SPELT.match(text):
            raise ValueError(f"{row.place}: the text is a list of messages written out, {text!r:.60}: give the list")
        if mark := _TEMPLATED.search(text):
            raise ValueError(
                f"{row.place}: the text is in a chat template already ({mark[0].strip()!r}): give messages, or the "
                "text alone; the model's own template goes around it"
            )
    if not texts[-1].strip():
        raise ValueError(f"{row.place}: column {example.source!r} is empty")
    return example._replace(prefill=_optional(row, "prefill") or "")


def _pair(row: Row) -> Example:
    """Columns prompt and completion, each a text or messages."""
    prompt, completion = column(row, ["prompt"], (str, list)), row.values.get("completion")
    if not isinstance(prompt, str):
        prompt = _to_answer(read_messages(prompt, f"{row.place}: column 'prompt'"), row, "prompt")
    if completion is not None and not isinstance(completion, str):
        turns = read_messages(completion, f"{row.place}: column 'completion'")
        if [turn["role"] for turn in turns] != ["assistant"]:
            raise ValueError(f"{row.place}: column 'completion' must be text or one message of the assistant")
        completion = turns[0]["content"]
    return Example(prompt, completion, "prompt")


def _conversation(name: str) -> Callable[[Row], Example]:
    """A conversation in a column; where the assistant has the last word, that is the completion."""

    def read(row: Row) -> Example:
        turns = read_messages(row.values[name], f"{row.place}: column {name!r}")
        if (system := _optional(row, "system")) and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        answer = turns[-1]["content"] if turns[-1]["role"] == "assistant" else None
        return Example(_to_answer(turns if answer is None else turns[:-1], row, name), answer, name)

    return read


def _alpaca(row: Row) -> Example:
    """Columns instruction, input, output, and system and history where there are any."""
    text, output = column(row, ["instruction"]), _optional(row, "output")
    if (given := _optional(row, "input")) and given.strip():
        text = f"{text}\n\n{given}"
    system, history = _optional(row, "system"), row.values.get("history") or []
    if not system and not history:
        return Example(text, output, "instruction")
    if not isinstance(history, list) or not all(isinstance(said, list) and len(said) == 2 for said in history):
        raise ValueError(f"{row.place}: column 'history' must hold pairs of a question and an answer: {history!r:.60}")
    turns = [{"role": "system", "content": system}] if system else []
    for asked, answered in history:
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    turns = read_messages([*turns, {"role": "user", "content": text}], f"{row.place}: columns system and history")
    return Example(turns, output, "instruction")


def _optional(row: Row, name: str) -> str | None:
    """A column's text, None where the row has none; ValueError for another kind of value."""
    value = row.values.get(name)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{row.place}: column {name!r} must be text, got {value!r:.60}")
    return value


FORMATS: Mapping[tuple[str, ...], Callable[[Row], Example]] = {
    ("prompt", "completion"): _pair,
    ("messages",): _conversation("messages"),
    ("conversations",): _conversation("conversations"),
    ("instruction", "output"): _alpaca,
}
"""Columns by format: the first asks, a second answers."""


def read_messages(value: Any, what: str) -> list[dict[str, str]]:
    """Messages with a role and content, in their order; all other keys are left out. ValueError begins with `what`."""
    if isinstance(value, str):
        raise ValueError(f"{what} is a text, {value!r:.60}: give the list of messages")
    if not isinstance(value, Sequence) or not value:
        raise ValueError(f'{what} must be text or a list of {{"role": ..., "content": text}}, got {value!r:.80}')
    return [_read_message(message, what, number) for number, message in enumerate(value, 1)]


def _read_message(message: Any, what: str, number: int) -> dict[str, str]:
    keys = ("role", "content") if isinstance(message, Mapping) and "content" in message else ("from", "value")
    if not isinstance(message, Mapping) or any(message.get(key) is None for key in keys):
        raise ValueError(f"{what}: message {number} must have a role and content, got {message!r:.80}")
    if lost := next((key for key in _LOST if message.get(key)), None):
        raise ValueError(
            f"{what}: message {number} has {lost!r}, which no model here is shown: put what it says into the content"
        )
    role, content = (message[key] for key in keys)
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"{what}: message {number} has the role {role!r}; roles are system, user and assistant")
    parts = content if isinstance(content, list) and all(isinstance(part, Mapping) for part in content) else []
    if parts and all(part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts):
        content = "".join(part["text"] for part in parts)
    if not isinstance(content, str):
        raise ValueError(f"{what}: message {number} must hold text, got {content!r:.60}")
    return {"role": ROLES[role], "content": content}


def _to_answer(turns: list[dict[str, str]], row: Row, name: str) -> list[dict[str, str]]:
    """Turns that an assistant is to answer."""
    if not turns or turns[-1]["role"] != "user":
        raise ValueError(
            f"{row.place}: column {name!r}: the turn before the answer must be the user's (what an answer begins with "
            "goes into a column 'prefill')"
        )
    return turns
