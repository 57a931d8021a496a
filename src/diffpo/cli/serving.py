"""Commands that answer others: serve."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional

from diffpo.cli.training import FLAT
from diffpo.config import ServeConfig


@dataclass(frozen=True)
class Serve:
    """Serve a model to clients of OpenAI's API, many at once, each answer as if it were alone."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub."""
    config: Annotated[ServeConfig, FLAT] = field(default_factory=ServeConfig)

    def run(self) -> None:
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError:
                raise ValueError(f"diffpo serve needs {package}: pip install 'diffpo[serve]'") from None
        from diffpo.serving.server import serve

        serve(self.model, self.config)
