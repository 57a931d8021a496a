"""Limits of a process, where others hold already and where a system has none."""

from __future__ import annotations

import resource
import sys

import pytest

from diffpo.processes.limits import limit


def test_a_limit_is_lowered_and_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    none = resource.RLIM_INFINITY
    held, made = {1: (none, none), 2: (none, 20), 3: (9, none)}, []
    monkeypatch.setattr(resource, "getrlimit", held.__getitem__)
    monkeypatch.setattr(resource, "setrlimit", lambda *limits: made.append(limits))
    for name in held:
        limit(name, 10)
        limit(name, 30)
    assert made == [(1, (10, 10)), (1, (30, 30)), (2, (10, 10)), (2, (20, 20)), (3, (9, 9)), (3, (9, 9))]


def test_macos_bounds_no_address_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    made = []
    monkeypatch.setattr(resource, "setrlimit", lambda name, _: made.append(name))
    limit(resource.RLIMIT_AS, 2**30)
    limit(resource.RLIMIT_CPU, 5)
    assert made == [resource.RLIMIT_CPU]
