"""What was typed: flags over the values of a recipe, and knobs that would do nothing refused by name."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar

import tyro
from tyro.conf import Positional

from diffpo.config.checks import knobs_of, places
from diffpo.config.elsewhere import ELSEWHERE
from diffpo.config.idle import IdleKnobs, idle_knobs, over

C = TypeVar("C")
T = TypeVar("T")

MODEL = "A run, checkpoint or adapter folder, or a model on the Hugging Face hub."
Model = Annotated[Positional[str], tyro.conf.arg(help=MODEL)]
RECIPE = (
    "A TOML recipe, a file or the name of one that ships with diffpo (diffpo recipes lists them), or a run's folder; "
    "flags after it override its values."
)
FLAT = tyro.conf.arg(name="")  # --steps rather than --config.steps
Recipe = Annotated[Positional[str], tyro.conf.arg(help=RECIPE, metavar="[RECIPE]")]


def given(arguments: Sequence[str], flag: str) -> str:
    """The value of a flag as it was typed, of one that was typed twice the last; empty if it was not."""
    found = ""
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        name, equals, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            found = value if equals else after
    return found


def typed(arguments: Sequence[str]) -> set[str]:
    """The knobs that flags name: --rollout.num-slots=7 is rollout.num_slots, --load.no-four-bit load.four_bit."""
    names = [argument[2:].partition("=")[0].replace("-", "_") for argument in arguments if argument.startswith("--")]
    paths = [name.rpartition(".") for name in names]
    return {*names, *(f"{section}{dot}{knob.removeprefix('no_')}" for section, dot, knob in paths)}


def read(kind: type[T], prog: str, arguments: Sequence[str], base: C, default: Callable[[C], Any]) -> T:
    """The command that the flags describe over `default(base)`.

    Values of the base that flags make idle give way; a flag that would do nothing itself is IdleKnobs. One that has
    another name here is ValueError.
    """
    said, arguments = typed(arguments), [_hyphens(argument) for argument in arguments]

    def build(base: C) -> T:
        try:
            with redirect_stderr(io.StringIO()):  # tyro frames an error of ours before it exits
                return tyro.cli(kind, prog=prog, args=list(arguments), default=default(base))
        except SystemExit as stop:
            for error in chain(stop):
                if isinstance(error, IdleKnobs):
                    raise error from None
            if not stop.code:  # --help
                raise
        refuse_elsewhere(said, type(base) if is_dataclass(base) else kind)
        return tyro.cli(kind, prog=prog, args=list(arguments), default=default(base))  # with its frame

    command = over(build, base, said)
    idle = idle_knobs(command) | idle_knobs(vars(command).get("config", command))
    if named := {name: why for name, why in idle.items() if name in said}:
        raise IdleKnobs(named)
    return command


def _hyphens(argument: str) -> str:
    """A flag as tyro spells it, which takes underscores as well but suggests nothing for them."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else argument


def refuse_elsewhere(said: Iterable[str], kind: type) -> None:
    """ValueError for the first knob that a flag names as others call it."""
    for name in sorted(set(said).difference(knobs_of(kind))):
        leaf = name.rpartition(".")[2]
        found, example = places(kind, leaf)
        if leaf in ELSEWHERE and found:
            flags = " or ".join(f"--{knob.replace('_', '-')}" for knob in found)
            raise ValueError(f"--{name.replace('_', '-')}: no such flag; did you mean {flags}{example}?")


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came out of, down to the first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
