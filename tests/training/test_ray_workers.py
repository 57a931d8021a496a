"""Rollouts on Ray: the run of one process bit for bit, whatever becomes of the workers; errors as in process."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from training.test_loop import assert_same_run

from diffpo.config import LoraConfig, TrainConfig
from diffpo.training.loop import train

ray = pytest.importorskip("ray", reason="Ray is not installed")
from diffpo.training.ray_workers import RayCollector  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for three workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(num_cpus=3, num_gpus=0, include_dashboard=False, object_store_memory=10**8, log_to_driver=False)
        yield
        ray.shutdown()


def on_workers(config: TrainConfig, workers: int, lag: int = 0, **changes: float) -> TrainConfig:
    output = f"{config.output}_{workers}_{lag}"
    return replace(config, output=output, rollout=replace(config.rollout, workers=workers, lag=lag, **changes))


class Watched(RayCollector):
    """Known while it is open, so that a test can get at its workers."""

    opened: RayCollector | None = None

    def __init__(self, *arguments) -> None:  # type: ignore[no-untyped-def]
        super().__init__(*arguments)
        Watched.opened = self

    def close(self) -> None:
        Watched.opened = None
        super().close()


@contextmanager
def killing(number: int, seed: int) -> Iterator[list[int]]:
    """Within, some worker that is up gets a SIGKILL after each of a random number of its collector's answers."""
    killed: list[int] = []
    draw, original = random.Random(seed), Watched._listen

    def listen(self: Watched) -> None:
        up = [seat for seat in self.seats if seat.opening is None]
        if up and len(killed) < number and draw.random() < 0.3:
            pid = ray.get(draw.choice(up).actor.pid.remote())
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watched, "_listen", listen)
        yield killed


@pytest.mark.slow
@pytest.mark.parametrize(("lag", "workers"), [(0, 2), (2, 3)])
def test_a_run_on_workers_is_the_run_in_one_process(
    short_run: TrainConfig, cluster: None, lag: int, workers: int
) -> None:
    """With one worker killed on the way as well."""
    config = replace(short_run, lora=LoraConfig(rank=2))
    alone = on_workers(config, 0, lag)
    train(alone, quiet=True)
    shared = on_workers(config, workers, lag)
    with killing(1, seed=lag) as killed:
        train(shared, quiet=True, collect=Watched)
    assert len(killed) == 1
    assert_same_run(shared.output, alone.output)
