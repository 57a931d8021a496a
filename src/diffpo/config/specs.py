"""What is chosen by name, with knobs of its own: a call written without brackets, "mean_field:2,cut_law=tokens"."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from diffpo.config.checks import check, suggest


@dataclass(frozen=True)
class Spec:
    """One choice, taken apart: NAME, NAME:VALUE,KNOB=VALUE, or a class of one's own, PATH.py:CLASS, with the same."""

    text: str  # as it was written
    where: str  # the setting that holds it, for messages
    name: str  # what ships under this name, or the class in the file at `path`
    path: str  # file of a class of one's own; "" for what ships
    values: tuple[str, ...]  # of the first knobs, in their order
    named: Mapping[str, str]  # of knobs by name

    def __str__(self) -> str:
        return f"{self.where} {self.text!r}"


def parse_spec(text: str, names: Collection[str], where: str) -> Spec:
    """Take a spec apart; ValueError says what `names` allow. What its knobs are, the class says (`build`)."""
    path, own, rest = text.partition(".py:")
    name, colon, behind = (rest if own else text).partition(":")
    if not own and name not in names:
        raise ValueError(f"{where} {text!r}: no such name{suggest(name, names)}; your own: PATH.py:CLASS")
    form = f"{where} {text!r}: write {'PATH.py:CLASS' if own else name}, and behind a colon VALUE,KNOB=VALUE"
    check(name.isidentifier(), form)
    values, named = list[str](), dict[str, str]()
    for part in behind.split(",") if colon else ():
        knob, equals, value = (half.strip() for half in part.partition("="))
        check(bool(knob and value) if equals else bool(knob) and not named, form)
        check(knob not in named, f"{where} {text!r}: {knob} is given twice")
        if equals:
            named[knob] = value
        else:
            values.append(knob)
    return Spec(text, where, name, f"{path}.py" if own else "", tuple(values), named)
