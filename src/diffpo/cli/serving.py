"""Commands that answer many: serve, generate."""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass, field
from typing import Annotated

from tyro.conf import Positional

from diffpo.cli.answering import UNMERGED
from diffpo.cli.flags import FLAT, Model
from diffpo.config import LoadConfig, RolloutConfig, ServeConfig
from diffpo.config.idle import Idle, Knobs


@dataclass(frozen=True)
class Serve:
    """Serve a model to clients of OpenAI's API, many at once, each answer as if it were alone."""

    model: Model
    config: Annotated[ServeConfig, FLAT] = field(default_factory=ServeConfig)

    def run(self) -> None:
        for package in ("fastapi", "uvicorn", "prometheus_client"):
            try:
                importlib.import_module(package)
            except ModuleNotFoundError:
                raise ValueError(f"diffpo serve needs {package}: pip install 'diffpo[serve]'") from None
        from diffpo.serving.server import serve

        serve(self.model, self.config)


@dataclass(frozen=True)
class Generate(Knobs):
    """Answer every prompt of a file in a line of another; a run that was stopped goes on where it was."""

    model: Model
    prompts: Positional[str]
    """Rows with a prompt or messages: a .jsonl, .json, .csv, .tsv or .parquet file, or a data set of the hub."""
    output: str
    """File of the answers, JSON lines in the order of the rows; what stands in it is not made again. A row that cannot
    be answered has an `error` in its line, and the exit status is 1."""
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    seed: int = 0
    load: LoadConfig = field(default_factory=LoadConfig)

    def idle(self) -> Idle:
        return UNMERGED

    def run(self) -> None:
        from diffpo.models.policy import load_policy
        from diffpo.rollout.offline import generate_file
        from diffpo.view.progress import counted

        policy = load_policy(self.model, **vars(self.load))
        written = generate_file(policy, self.prompts, self.output, self.rollout, self.seed)
        reused = f", {written.reused} of them there before" if written.reused else ""
        print(f"saved {self.output}: {counted(written.answers, 'answer')}, {counted(written.errors, 'error')}{reused}")
        if written.errors:
            sys.exit(1)
