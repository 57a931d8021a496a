"""Rows that ask and answer: the formats of data sets, and what is said of those that fit none."""

from __future__ import annotations

from typing import Any

import pytest

from diffpo.tasks.conversations import read_example
from diffpo.tasks.data import Row

SYSTEM, USER = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
ANSWER, MORE = {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}


def example(**columns: Any) -> Any:
    return read_example(Row("a.jsonl, line 3", columns))


@pytest.mark.parametrize(
    ("columns", "prompt", "completion"),
    [
        ({"prompt": "Why?"}, "Why?", None),
        ({"prompt": "Why?", "completion": "So."}, "Why?", "So."),
        ({"prompt": [USER], "completion": [ANSWER]}, [USER], "So."),
        ({"prompt": [SYSTEM, USER, ANSWER, MORE]}, [SYSTEM, USER, ANSWER, MORE], None),
        ({"messages": [SYSTEM, USER]}, [SYSTEM, USER], None),
        ({"messages": [USER, ANSWER, MORE, ANSWER]}, [USER, ANSWER, MORE], "So."),
        ({"messages": [{**USER, "tool_calls": None, "weight": 1, "name": 5}]}, [USER], None),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}]}, [USER], None),
        ({"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]}, [USER], "So."),
        ({"conversations": [{"from": "human", "value": "Why?"}], "system": "Be brief."}, [SYSTEM, USER], None),
        ({"instruction": "Add.", "input": "1, 2", "output": "3"}, "Add.\n\n1, 2", "3"),
        ({"instruction": "Why?", "input": "", "output": "So."}, "Why?", "So."),
        ({"instruction": "And?", "history": [["Why?", "So."]], "output": "x"}, [USER, ANSWER, MORE], "x"),
        ({"prompt": "What does <|im_end|> do?", "messages": [USER]}, "What does <|im_end|> do?", None),
    ],
)
def test_formats(columns: dict[str, Any], prompt: Any, completion: str | None) -> None:
    assert example(**columns)[:2] == (prompt, completion)


TEMPLATED = "the text is in a chat template already"


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({}, "a row has one of prompt, messages, conversations, instruction; the row's columns: none"),
        ({"prompt": ""}, "column 'prompt' must be text or a list, got ''"),
        ({"prompt": []}, 'column \'prompt\' must be text or a list of {"role": ..., "content": text}, got []'),
        ({"prompt": [SYSTEM]}, "column 'prompt': the turn before the answer must be the user's"),
        ({"prompt": [USER, ANSWER]}, "the turn before the answer must be the user's"),
        ({"messages": [ANSWER]}, "column 'messages': the turn before the answer must be the user's"),
        ({"messages": [{"role": "usr", "content": "a"}]}, "message 1 has the role 'usr'; roles are system, user and"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "message 2 must have a role and content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "message 1 must hold text, got [{'type': 'im",
        ),
        ({"conversations": [{"from": "human"}]}, "message 1 must have a role and content, got {'from': 'human'}"),
        ({"prompt": "a", "completion": [USER]}, "column 'completion' must be text or one message of the assistant"),
        ({"messages": [{"role": ["user"], "content": "a"}]}, "message 1 has the role ['user']; roles are"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "message 1 must hold text, got [{'type': 't"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": None}]}]}, "message 1 must hold text"),
        ({"messages": [{"role": "user", "content": " "}]}, "column 'messages' is empty"),
        ({"conversations": [{"from": "human", "value": "a"}], "system": 5}, "column 'system' must be text, got 5"),
        ({"instruction": "a", "input": 5}, "column 'input' must be text, got 5"),
        ({"instruction": "a", "history": ["b"]}, "column 'history' must hold pairs of a question and an answer: ['b']"),
        ({"instruction": "a", "history": [["b"]]}, "column 'history' must hold pairs"),
        ({"instruction": "a", "history": 5}, "column 'history' must hold pairs"),
        ({"instruction": "a", "output": 5}, "column 'output' must be text, got 5"),
        ({"prompt": '[{"role": "user", "content": "a"}]'}, 'the text is a list of messages written out, \'[{"role"'),
        ({"prompt": "[{'content': 'a', 'role': 'user'}]"}, "a list of messages written out, \"[{'content'"),
        ({"prompt": "a", "completion": '[ {"from": "gpt", "value": "b"}]'}, "a list of messages written out"),
        ({"prompt": "<|im_start|>user\np0<|im_end|>\n<|im_start|>assistant\n"}, TEMPLATED),
        ({"prompt": "Why?<|im_end|>\n<|im_start|>assistant\n"}, TEMPLATED),
        ({"prompt": "\n<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"}, TEMPLATED),
        ({"prompt": "<s>[INST] Why? [/INST]"}, TEMPLATED),
        ({"prompt": [{"role": "user", "content": "<|im_start|>user\nWhy?"}]}, TEMPLATED),
        ({"prompt": "Why?", "completion": "So.<|eot_id|>"}, TEMPLATED),
        ({"prompt": "<role>HUMAN</role>Why?<|role_end|><role>ASSISTANT</role>"}, TEMPLATED),
        ({"prompt": "<|start|>user<|message|>Why?<|end|><|start|>assistant"}, TEMPLATED),
        ({"prompt": "<|turn>user\nWhy?<turn|>\n<|turn>model\n"}, TEMPLATED),
        ({"prompt": "<bos>Why?"}, TEMPLATED),
        ({"messages": '[{"role": "user"}]'}, "column 'messages' is a text, "),
        ({"messages": [USER, ANSWER], "tools": [{"name": "f"}]}, "column 'tools': the model reads text alone"),
        ({"prompt": "Why?", "images": ["a.png"]}, "column 'images': the model reads text alone"),
        (
            {"messages": [USER, {**ANSWER, "tool_calls": [{"function": {}}]}]},
            "message 2 has 'tool_calls', which no model",
        ),
        ({"messages": [USER, {**ANSWER, "reasoning_content": "6 * 7"}]}, "message 2 has 'reasoning_content'"),
    ],
)
def test_a_row_that_fits_no_format_names_itself(columns: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError) as caught:
        example(**columns)
    assert str(caught.value).startswith("a.jsonl, line 3: ") and error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_says_nothing_is_left_out() -> None:
    turns = [{**USER, "name": "a", "images": []}, {**ANSWER, "tool_calls": None, "weight": 1}]
    found = example(messages=turns, tools=[], images=None)
    assert found.prompt == [USER] and found.completion == ANSWER["content"]
