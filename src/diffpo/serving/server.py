"""Serving until told to stop."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from diffpo.config import ServeConfig
from diffpo.models.policy import load_policy
from diffpo.processes.signals import ASKED, on_stop
from diffpo.serving.app import create_app


def serve(model: str, config: ServeConfig) -> None:
    """Serve a model until SIGINT, SIGTERM or SIGHUP; requests that were accepted are answered first.

    ValueError or OSError if the model, the keys or the address cannot be had.
    """
    with bind(config.host, config.port) as listener:
        policy = load_policy(model, **vars(config.load))
        app = create_app(policy, Path(model).resolve().name, config)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=int(config.timeout) + 1)
        Server(settings, f"serving {model} at http://{shown}:{port}; {policy!r}").run(sockets=[listener])


class Server(uvicorn.Server):
    """Says a line once it listens. Told to stop, it answers what it has accepted and returns: by a second Ctrl-C at
    once."""

    def __init__(self, config: uvicorn.Config, line: str) -> None:
        super().__init__(config)
        self.line = line

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        print(self.line, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # what is cancelled now is meant to be, but uvicorn would print a traceback of each request
            logging.getLogger("uvicorn.error").disabled = True

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        # uvicorn's own would raise the signal again at the end, and make a failure of it
        with on_stop(self.handle_exit, signal.SIGINT, *ASKED):
            yield


def bind(host: str, port: int) -> socket.socket:
    """A socket at this address, which listens once the server does; OSError if it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(f"{host}:{port}: {error.strerror}: choose another port, or host") from None
    return listener
