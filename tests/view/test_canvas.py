"""A completion shows itself: a line, its text in the colours of the calls, a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import is_picture

from diffpo.types import Completion
from diffpo.view.canvas import ink_on, shade
from diffpo.view.drawing import save_figure


def completion(pieces: Sequence[str], committed_at: Sequence[int], prompt: str = "1+1=", **changes: Any) -> Completion:
    length, nfe = len(committed_at), max(committed_at)
    values: dict[str, Any] = {
        "tokens": torch.zeros(length, dtype=torch.int64),
        "committed_at": torch.tensor(committed_at),
        "behaviour_logprobs": torch.zeros(length),
        "entropies": torch.linspace(0, 3, length),
        "nfe": nfe,
        "nfe_until_eos": nfe,
        "length": length,
        "prompt": prompt,
        "text": "".join(pieces),
        "pieces": tuple(pieces),
    }
    return Completion(**(values | changes))


@pytest.mark.parametrize(
    ("tokens", "calls", "columns"),
    [
        (list("1234") * 4, [1, 2, 3, 4] * 4, 4),
        (list("1234") * 4, [1] * 16, None),
        (["$", "", "\n", " the", "x^$_{", "international"], [1, 6, 2, 5, 4, 3], None),
        (["a"], [1], None),
        (["word", "+"] * 128, list(range(1, 129)) * 2, None),
    ],
    ids=["sudoku", "one call", "odd tokens", "one token", "long"],
)
def test_unmasking_figure_is_drawn(tokens: list[str], calls: list[int], columns: int | None, tmp_path: Path) -> None:
    prompt = "What is $3 + 4$, and\nwhy? " * 8
    save_figure(completion(tokens, calls, prompt).plot(columns), tmp_path / "unmasking.png")
    assert is_picture(tmp_path / "unmasking.png")


def test_a_completion_is_one_line() -> None:
    assert repr(completion("12", [1, 2], gamma=0.25)) == "Completion('12', NFE 2, 1.00 tokens per NFE, gamma 0.25)"
    assert repr(completion("", [1, 1])) == "Completion(2 tokens, NFE 1, 2.00 tokens per NFE)"  # of the engine


def test_a_notebook_shows_each_token_on_the_colour_of_its_call_up_to_eos() -> None:
    html = completion(["<b>", "2", "\n", ""], [2, 1, 2, 3], length=3)._repr_html_()
    assert html
    painted = re.findall(r'<span style="color: (#\w+); [^"]*background-color: (#\w+)">([^<]*)</span>', html)
    early, late = shade(1, 3), shade(2, 3)
    shown = [(late, "&lt;b&gt;"), (early, "2"), (late, "↵"), (early, " 1 "), (late, " 2 "), (shade(3, 3), " 3 ")]
    assert [(paper, text) for _, paper, text in painted] == shown
    assert all(ink == ink_on(paper) for ink, paper, _ in painted)
    assert "NFE 3" in html


def test_a_completion_of_the_engine_has_no_text_to_show() -> None:
    assert completion("", [1])._repr_html_() is None
    with pytest.raises(ValueError, match=r"diffpo\.sample"):
        completion("", [1]).plot()


@pytest.mark.parametrize("wrong", [{"columns": 0}, {"columns": -1}, {"given": [True]}])
def test_a_picture_of_no_columns_or_of_another_canvas_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least 1, and given has a value for each of 2 positions"):
        completion("ab", [1, 2]).plot(**wrong)
