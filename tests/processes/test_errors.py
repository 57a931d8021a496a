"""Errors cross between processes, and it is known which of them all have."""

from __future__ import annotations

import json
import pickle

import pytest
import torch

from diffpo.config.own import USER
from diffpo.processes.errors import in_transit, is_of_another, is_on_all, on_all
from diffpo.rollout.judging import VerifierError


class Own(ValueError):
    """A user's, which others cannot unpickle."""

    def __init__(self, row: int, column: str) -> None:
        super().__init__(f"row {row} has no {column}")


class OfTheirs(Exception):
    """Made in a file that a config names; others cannot make it from its words."""

    __module__ = f"{USER}/home/me/rules.py"

    def __init__(self, *, status: int) -> None:
        super().__init__(f"status {status}")


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (ValueError("no room"), ValueError, "no room"),
        (VerifierError("raised"), VerifierError, "raised"),
        (Own(3, "answer"), ValueError, "row 3 has no answer"),
        (OfTheirs(status=500), RuntimeError, "OfTheirs: status 500"),
        (OSError(28, "No space left on device", "a.json"), OSError, "[Errno 28] No space left on device: 'a.json'"),
        (torch.OutOfMemoryError("CUDA out of memory."), torch.OutOfMemoryError, "CUDA out of memory."),
        (KeyError("x"), RuntimeError, "KeyError: 'x'"),
        (json.JSONDecodeError("no value", "", 0), ValueError, "no value: line 1 column 1 (char 0)"),
    ],
)
def test_an_error_crosses_as_what_it_is_or_in_words(error: Exception, kind: type, said: str) -> None:
    crossed = pickle.loads(pickle.dumps(in_transit(error)))
    assert type(crossed) is kind and str(crossed) == said


def test_what_all_raise_is_known_also_where_it_was_said_anew() -> None:
    anew = MemoryError("out of memory")
    anew.__cause__ = on_all(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_on_all(anew) and not is_on_all(MemoryError("out of memory"))


@pytest.mark.parametrize(
    ("error", "another"),
    [
        (RuntimeError("[/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4544"), True),
        (RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"), True),
        (RuntimeError("NCCL error: ncclRemoteError: ... a remote process exiting prematurely"), True),
        (RuntimeError("[/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 7200000ms for recv"), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_an_error_of_a_process_that_has_gone_is_known(error: Exception, another: bool) -> None:
    assert is_of_another(error) == another
