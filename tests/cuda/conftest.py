"""What the tests on the fake CUDA device share. They skip, in one line, where it cannot be built."""

from __future__ import annotations

from collections.abc import Iterator

import fakecuda
import pytest


@pytest.fixture(scope="session")
def fake() -> None:
    """The device can be built here."""
    try:
        with fakecuda.device():
            pass
    except fakecuda.Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture
def cuda(fake: None) -> Iterator[None]:
    """The device is there throughout the test."""
    with fakecuda.device():
        yield
