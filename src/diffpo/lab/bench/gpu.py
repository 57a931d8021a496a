"""The suite of one GPU: its tests, rollouts, a whole step, and log-probs, at LLaDA-8B's shape with random weights.

Each part is a process of its own: one that fails, hangs or runs out of memory leaves the next one a clean card.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection

import torch

from diffpo.config import LoadConfig, ThresholdConfig, TrainConfig
from diffpo.files.places import PACKAGE
from diffpo.files.recipe import find_recipe, load_config
from diffpo.lab.bench import card
from diffpo.lab.bench.card import Figure, Size
from diffpo.models.families import FAMILIES
from diffpo.models.published import PUBLISHED

RECIPE = "llada8b_countdown_diffpo"
WHOLE = 70 * 2**30
"""Bytes of a card that holds all of LLaDA-8B with room to work; on a smaller one it has fewer layers."""
CALLS = 128
"""Of the step, as in d1: two tokens a call."""

Part = Callable[[Size], Iterator[Figure]]


def tests(size: Size) -> Iterator[Figure]:
    """The tests that need a card."""
    root = PACKAGE.parents[1]
    if not (root / "tests").is_dir():
        raise ValueError("the tests are in the repository, and this diffpo is not run from a checkout of it")
    done = subprocess.run([sys.executable, "-m", "pytest", *size.tests], cwd=root, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [""])[-1]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|skipped)", last)}
    if done.returncode:
        raise RuntimeError(f"pytest {' '.join(size.tests)}: {last or done.stderr.strip()[-200:]}")
    yield Figure("tests passed", counts.get("passed", 0), at_least=1)
    yield Figure("tests skipped", counts.get("skipped", 0), at_most=0)


PARTS: dict[str, Part] = {
    "tests": tests,
    "rollouts": card.rollouts,
    "step": card.step,
    "log-probs": card.alone_and_batched,
    "exact rollouts of the step": card.exact_rollouts,
}
"""In the order of what one would miss most, should the time run out."""


def full_size(minutes: float) -> Size:
    """LLaDA-8B on this card, with as many of its layers as fit; ValueError without one says what `minutes` would do."""
    if not torch.cuda.is_available():
        raise ValueError(
            "suite gpu takes a CUDA card, and torch finds none; on one it would measure, in at most "
            f"{minutes:g} minutes at LLaDA-8B's shape: {', '.join(PARTS)}"
        )
    config = load_config(TrainConfig, find_recipe(RECIPE))
    shape = FAMILIES["llada"].shape(PUBLISHED[config.model])
    share = min(1.0, torch.cuda.get_device_properties(0).total_memory / WHOLE)
    layers = max(1, int(share * shape.num_layers))
    rollout = replace(config.rollout, sampler=f"steps:{CALLS}", cache="dual", cache_refresh=8)
    load = LoadConfig(device="cuda", dtype="bfloat16")
    return Size(
        replace(shape, num_layers=layers),
        step=replace(config, train="model", rollout=rollout, threshold=ThresholdConfig(), load=load),
        plain_rows=max(1, int(16 * share)),
        device="cuda",
    )


def gpu_suite(size: Size, minutes: float, names: Sequence[str] = tuple(PARTS)) -> Iterator[list[Figure]]:
    """The figures of each part, once it is done; a part that fails or finds no time left is a figure that says so."""
    end = time.monotonic() + 60 * minutes
    for name in names:
        left = end - time.monotonic()
        if left <= 0:
            yield [Figure(name, part=name, failed=f"left out: the {minutes:g} minutes are over")]
            continue
        figures = _in_a_process(name, size, left)
        figures.append(Figure("seconds of the part", left - (end - time.monotonic()), "s"))
        yield [replace(figure, part=name) for figure in figures]


def _in_a_process(name: str, size: Size, limit: float) -> list[Figure]:
    """What a part yields within `limit` seconds."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_part, args=(name, size, sender))
    process.start()
    sender.close()
    figures, end = [], time.monotonic() + limit
    try:
        while receiver.poll(max(0.0, end - time.monotonic())):
            figures.append(receiver.recv())
        figures.append(Figure(name, failed=f"stopped after {limit:.0f} s: the time is over"))
    except EOFError:  # the part has ended
        process.join()
        if process.exitcode:
            figures.append(Figure(name, failed=f"its process ended with status {process.exitcode}"))
    finally:
        if process.is_alive() and process.pid:
            with suppress(ProcessLookupError):  # it has started nothing yet
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return figures


def _part(name: str, size: Size, sender: Connection) -> None:
    """The process of a part: send its figures as they come, and the error that ended it."""
    os.setsid()  # so that what it starts, pytest say, ends with it
    try:
        for figure in PARTS[name](size):
            sender.send(figure)
    except Exception as error:  # whatever it is, the next part goes on
        sender.send(Figure(name, failed=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"))
    sender.close()
