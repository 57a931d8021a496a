"""rollouts.jsonl.gz of a run: what the policy wrote, what it was paid for it, step by step."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from diffpo.files.folder import append, write_bytes
from diffpo.types import Prompt, Rollout, RolloutGroup

SHOWN = 600
"""Characters of a prompt or completion that are shown in the terminal."""


class RolloutLog:
    """A row a completion, of each step the first `limit`. Opening it drops what a resumed run will write again.

    Each step is a gzip member of its own, so that a kill cuts off the last one at most. `kept` counts the steps whose
    rollouts the run has: those done, and the one whose rollouts are in hand.
    """

    def __init__(self, path: Path, kept: int, limit: int) -> None:
        self.path, self.limit, rows = path, limit, []
        if path.is_file():
            rows = [row for row in read_rollouts(path) if row["step"] < kept]
            write_bytes(path, _pack(rows) if rows else b"")
        self.lost = kept - len({row["step"] for row in rows}) if limit else 0
        """Steps whose rollouts the run has and the file has not."""

    def write(self, step: int, groups: Sequence[RolloutGroup]) -> None:
        """Add the rollouts of a step."""
        pairs = ((group.prompt, rollout) for group in groups for rollout in group.rollouts)
        if rows := [_row(step, *pair) for pair in islice(pairs, self.limit)]:
            append(self.path, _pack(rows))


def _pack(rows: Sequence[dict[str, Any]]) -> bytes:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return gzip.compress(lines.encode("utf-8", "replace"), mtime=0)


def _row(step: int, prompt: Prompt, rollout: Rollout) -> dict[str, Any]:
    parts = {name: _finite(value) for name, value in rollout.verdict.parts.items()}
    hinted = {"hinted": True} if rollout.hinted else {}
    return hinted | {
        "step": step,
        "id": prompt.id,
        "level": prompt.level,
        "prompt": prompt.text,
        "completion": prompt.prefill + rollout.text,
        "correct": rollout.verdict.correct,
        "reward": _finite(rollout.reward),
        "parts": parts,
        "nfe": rollout.completion.nfe,
        "num_tokens": rollout.completion.length,
        "gamma": rollout.completion.gamma,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def read_rollouts(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a rollouts.jsonl.gz, as far as a kill has left them whole."""
    content = path.read_bytes()
    while content:
        member = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            text = member.decompress(content)
        except zlib.error:
            return
        if not member.eof:
            return
        yield from map(json.loads, text.decode().split("\n")[:-1])  # a text may hold a line separator of Unicode's
        content = member.unused_data


def extremes(groups: Sequence[RolloutGroup]) -> dict[str, str]:
    """The best and the worst paid completion of a step, as texts to look at."""
    pairs = [(group.prompt, rollout) for group in groups for rollout in group.rollouts]
    pairs = [pair for pair in pairs if math.isfinite(pair[1].reward)]
    if not pairs:
        return {}
    chosen = {name: choose(pairs, key=lambda pair: pair[1].reward) for name, choose in (("best", max), ("worst", min))}
    return {f"rollouts/{name}": _text(*pair) for name, pair in chosen.items()}


def _text(prompt: Prompt, rollout: Rollout) -> str:
    asked, answered = (_short(text) for text in (prompt.text, prompt.prefill + rollout.text))
    return f"reward {rollout.reward:.3g}, {rollout.completion.nfe} calls\n{asked}\n-> {answered}"


def _short(text: str) -> str:
    """The end of a long text: a prompt ends in its question, a completion in its answer."""
    return text if len(text) <= SHOWN else f"... {text[-SHOWN:]}"
