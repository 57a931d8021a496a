"""A task whose verifier hangs once, or raises at a prompt."""

from __future__ import annotations

import time
from pathlib import Path

from diffpo.config import TaskConfig
from diffpo.tasks.tiny_sudoku import TinySudoku
from diffpo.types import Prompt, Verdict


class Troubled(TinySudoku):
    """The first verdict of all hangs where a file `fuse` is; that on prompt `bad` raises."""

    def __init__(
        self, config: TaskConfig, fuse: Path | None = None, bad: str = "", error: type[BaseException] = KeyError
    ) -> None:
        super().__init__(config)
        self.fuse, self.bad, self.error = fuse, bad, error

    def verify(self, prompt: Prompt, completion: str) -> Verdict:
        if prompt.id == self.bad:
            raise self.error("no such column")
        if self.fuse and self.fuse.is_file():
            self.fuse.rename(self.fuse.with_suffix(".blown"))
            time.sleep(3600)
        return super().verify(prompt, completion)
