"""What a process of several fails at: how others are told of it, and whether they are."""

from __future__ import annotations

from typing import TypeVar

from diffpo.config.own import USER

E = TypeVar("E", bound=BaseException)

ON_ALL = "raised on all processes"
"""Note on an error that every process raises at the same place, so that they may still do something together."""
GONE = ("gloo/transport", "ncclremoteerror")
"""By these words a collective says that another process is there no more."""
OTHER_ENDED = "another process of this launch has ended, and so this one does: its line, or the launcher's, says why"


def in_transit(error: Exception) -> Exception:
    """An error as others are given it, since not all can travel: of a kind that they have, or else in words."""
    kind = type(error)
    known = kind.__module__.partition(".")[0] in ("builtins", "diffpo", "torch") and not kind.__module__.startswith(
        USER
    )
    if known and error.args == (str(error),):
        return kind(str(error))
    ends_in_a_line = (ValueError, FloatingPointError, MemoryError, OSError)
    line = next((kind for kind in ends_in_a_line if isinstance(error, kind)), None)
    return line(str(error)) if line else RuntimeError(f"{kind.__name__}: {error}")


def on_all(error: E) -> E:
    """An error that every process is about to raise."""
    error.add_note(ON_ALL)
    return error


def is_on_all(error: BaseException) -> bool:
    """Whether every process raises it, or what it was made of: one alone needs to say so."""
    return any(ON_ALL in getattr(cause, "__notes__", ()) for cause in (error, error.__cause__))


def is_of_another(error: BaseException) -> bool:
    """Whether it is that another process has ended, which said why."""
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in said for word in GONE) and "timed out" not in said
