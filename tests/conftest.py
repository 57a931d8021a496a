"""What every test shares: shapes are checked, one thread, no network, property tests that draw the same examples."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import hypothesis
import pytest
import torch
from jaxtyping import install_import_hook

# Shapes are checked here and only here. Not by jaxtyping's flag, which the processes of pytest-xdist do not see.
SHAPED = ("losses.spg", "losses.wd1", "surrogates.coupled", "surrogates.elbo", "surrogates.gdpo", "surrogates.spg")
install_import_hook(["diffpo.functional", *(f"diffpo.{name}" for name in SHAPED)], "checked.checked")

torch.set_num_threads(1)  # the models are tiny, and threads that wait for each other are the slow part

hypothesis.settings.register_profile("diffpo", deadline=None, derandomize=True)
hypothesis.settings.load_profile("diffpo")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Connections beyond this machine raise: a test that downloads passes today and fails on a train."""
    connect = socket.socket.connect

    def local_connect(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX:
            host = str(address[0]) if isinstance(address, tuple) else str(address)
            if host not in ("localhost", "::1") and not host.startswith("127."):
                raise PermissionError(f"tests stay on this machine, but something connects to {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_connect)
        yield
