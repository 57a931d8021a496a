"""Reference answers as data sets have them, read once and refused at once: what cannot be read would never be met."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from diffpo.grading.answers import final_answer
from diffpo.grading.numbers import read_number, without_unit
from diffpo.grading.spelling import MAX_LENGTH, clean


def read_reference(truth: Any) -> str:
    """A reference for `same_answer`: a number or a text. ValueError says why one cannot be read."""
    if isinstance(truth, bool) or not isinstance(truth, int | float | Decimal | str) or truth in (math.inf, -math.inf):
        raise ValueError(f"a reference must be an answer in text or a number, got {truth!r}")
    text = str(truth).rpartition("####")[2].strip()
    if re.search(r"\\(?:boxed|fbox)|</?answer>|</(?:think|reasoning)>", text):
        text = final_answer(text) or ""
    if text.count("$") == 2 and (stated := re.search(r"\b(?:is|are|equals)[\s:]*\$([^$]+)\$[\s.]*$", text)):
        text = stated[1].strip()  # a sentence that ends in its answer
    text = re.sub(r"^(-?[0-9]+)\.0$", r"\1", text)
    if len(text) > MAX_LENGTH:
        raise ValueError(f"a reference of {len(text)} characters is no final answer: {text[:40]!r}...")
    if re.fullmatch(r"""\[\s*(['"]).*\1\s*,\s*['"].*\]""", text, re.DOTALL):
        raise ValueError(
            f"a reference must be one answer, got a list written out, {text[:40]!r}: 5, 6 is written as such"
        )
    if not re.search(r"[^\W_]|[\\{}<>=]", text) or text.lower() in ("nan", "none", "null"):
        raise ValueError(f"a reference must say something, got {str(truth)[-60:]!r}")
    return text


def read_number_reference(truth: Any) -> str:
    """A reference that is a number, alone or behind ####. ValueError names one that is none."""
    text = read_reference(truth)
    if read_number(without_unit(clean(text))[0]) is None:
        raise ValueError(f"a reference must be a number, alone or behind ####, got {str(truth)[-60:]!r}")
    return text
