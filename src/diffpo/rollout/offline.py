"""Prompts of a file to answers in a file: a line a row, in order; what a run that was stopped has written stands."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from diffpo.config import RolloutConfig
from diffpo.files.folder import append
from diffpo.files.places import digest_of
from diffpo.functional.random import make_key
from diffpo.models.policy import Policy
from diffpo.models.quantization import is_packed
from diffpo.rollout.engine import Engine, Finished
from diffpo.rollout.judging import text_of
from diffpo.rollout.local import check_decoding, default_length, request_for
from diffpo.tasks.conversations import read_example
from diffpo.tasks.data import Row, Source, read_rows
from diffpo.types import Completion, Request
from diffpo.view.progress import Progress, counted

AHEAD = 8
"""Rows beyond the first unwritten one that are decoded, in slots: so many answers at most wait in memory."""


class Written(NamedTuple):
    """What stands in the file."""

    answers: int
    errors: int
    reused: int
    """Lines that were there before."""


def generate_file(
    policy: Policy, prompts: str, output: str | Path, config: RolloutConfig, seed: int = 0, quiet: bool = False
) -> Written:
    """Answer every row of `prompts` (prompt, messages, ... as training reads them) in a line of `output`.

    Row i gets the answer that `sample` gives to prompt i of a list. A row that cannot be answered has an `error` in its
    line. ValueError if the rows cannot be read, if no row could be answered so, or if `output` holds other answers;
    KeyboardInterrupt says what stands.
    """
    rows = read_rows(Source.parse(prompts, "test"), "prompt or messages", "prompts")
    config = config.sized(default_length(policy))
    check_decoding(policy, config, default_length(policy))
    work = _Work(policy, rows, Path(output), config, seed)
    try:
        work.run(quiet)
    except KeyboardInterrupt:
        stand = counted(work.written, "answer stands", "answers stand")
        raise KeyboardInterrupt(f"interrupted: {stand} in {output}, and the same command goes on from them") from None
    return Written(work.written - work.errors, work.errors, work.reused)


class _Work:
    def __init__(self, policy: Policy, rows: Sequence[Row], output: Path, config: RolloutConfig, seed: int) -> None:
        self.policy, self.rows, self.output, self.config, self.seed = policy, rows, output, config, seed
        free = replace(config, num_slots=1)
        head, computes = policy.sampler_head, (policy.denoiser.head.weight.dtype, is_packed(policy.denoiser))
        code = [_code(spec) for spec in (config.sampler, head.config.network if head else "")]
        weights = policy.source.fingerprint() if policy.source else ""
        self.depends = (weights, policy.denoiser.config, computes, code, free, seed)
        self.errors = self.size = 0
        self.reused = self.written = self._check_output()

    def _check_output(self) -> int:
        """Lines that stand, after one that a kill cut short is taken away; ValueError if they answer something else."""
        if not self.output.exists():
            return 0
        data = self.output.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        lines, torn = whole.decode("utf-8", "replace").split("\n")[:-1], data[len(whole) :]
        for at, line in enumerate(lines):
            found = _read(line)
            self._check_line(at, at < len(self.rows) and found.get("key") == self._key(at))
            self.errors += "error" in found
        if torn:  # the prompts themselves, say, may end without an end of line
            begun = f'{{"row": {len(lines) + 1}, '.encode()
            self._check_line(len(lines), len(lines) < len(self.rows) and torn.startswith(begun[: len(torn)]))
            os.truncate(self.output, len(whole))
        self.size = len(whole)
        return len(lines)

    def _check_line(self, at: int, ours: bool) -> None:
        if not ours:
            what = "no answer to this row by these weights and settings"
            raise ValueError(f"{self.output}, line {at + 1}: {what}: choose another output, or remove it")

    def run(self, quiet: bool) -> None:
        engine, found = Engine(self.policy, self.config.num_slots), dict[int, dict[str, Any]]()
        tickets, at = dict[int, int](), self.written
        self.output.parent.mkdir(parents=True, exist_ok=True)
        with Progress("generate", len(self.rows), quiet, done=self.written, unit="row") as progress:
            while self.written < len(self.rows):
                ahead = self.written + AHEAD * self.config.num_slots
                while at < min(len(self.rows), ahead) and len(engine.requests) < 2 * self.config.num_slots:
                    try:
                        tickets[engine.submit(self._request(at))] = at
                    except ValueError as error:
                        found[at] = {"error": str(error)}
                    at += 1
                for event in engine.step():
                    assert isinstance(event, Finished)
                    found[tickets.pop(event.ticket)] = self._answer(event.completion)
                self._write(found, progress)

    def _request(self, at: int) -> Request:
        example = read_example(self.rows[at])
        ids = self.policy.encode(example.prompt, example.prefill, self.config.chat_template)
        length, key = default_length(self.policy), make_key(self.seed, at)
        return request_for(self.policy, ids, self.config, length, key, explore=False)

    def _answer(self, completion: Completion) -> dict[str, Any]:
        return {
            "text": text_of(self.policy, completion),
            "tokens": completion.length,
            "denoiser_calls": completion.nfe,
            "gamma": completion.gamma,
        }

    def _line(self, at: int, found: dict[str, Any]) -> str:
        named = {"id": self.rows[at].values["id"]} if "id" in self.rows[at].values else {}
        line = {"row": at + 1, **named, **found, "key": self._key(at)}
        return json.dumps(line, ensure_ascii=False, default=str) + "\n"  # a .parquet's id may be a date, say

    def _key(self, at: int) -> str:
        """Of all that the answer depends on."""
        told = repr((*self.depends, at, sorted(self.rows[at].values.items())))
        return hashlib.blake2b(told.encode(), digest_size=8).hexdigest()

    def _write(self, found: dict[int, dict[str, Any]], progress: Progress) -> None:
        """Add the lines that follow those that stand."""
        ready = list(takewhile(found.__contains__, range(self.written, len(self.rows))))
        if not ready:
            return
        content = "".join(self._line(at, found[at]) for at in ready).encode()
        if (self.output.stat().st_size if self.output.exists() else 0) != self.size:
            raise ValueError(f"{self.output}: another process writes there: wait for it, or choose another output")
        append(self.output, content)
        self.size += len(content)
        self.written += len(ready)
        for answer in map(found.pop, ready):
            self.errors += "error" in answer
            progress.advance(calls=answer.get("denoiser_calls", 0))


def _code(spec: str) -> str:
    """A digest of the file of PATH.py:NAME, what the user's own rule or head is; "" of what ships."""
    path, own, _ = spec.partition(".py:")
    return digest_of(Path(f"{path}.py")) if own else ""


def _read(line: str) -> dict[str, Any]:
    """A line of answers; empty if it is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
