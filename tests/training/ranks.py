"""Training runs on one rank of several: `python ranks.py JOBS.json` in each, or `run_job` in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from diffpo.config import TrainConfig
from diffpo.files.recipe import from_dict
from diffpo.losses import Loss
from diffpo.models import fused
from diffpo.training import collect as collecting
from diffpo.training import loop


@dataclass(frozen=True)
class Job:
    """One run, and what happens to it."""

    config: TrainConfig
    resume: bool = False
    stop_after: int = 0
    """Updates after which one rank gets a SIGTERM; 0 for none."""
    one_row: bool = False
    """All rows but one have no advantage, so that a rank of two has nothing to learn from."""
    step_raises: bool = False
    """What the user has called after each step raises, on the last rank alone."""
    max_logits: int = 2**26
    """Logits that the loss holds at once."""


def run_job(job: Job) -> str:
    """Run it; returns how it ended."""
    last_rank = int(os.environ.get("RANK", 0)) == int(os.environ.get("WORLD_SIZE", 1)) - 1
    collect, update, calls = collecting.collect, loop.update, []

    def collect_alone(*arguments):  # type: ignore[no-untyped-def]
        with pytest.MonkeyPatch.context() as inner:
            for name in ("all_gather_into_tensor", "all_reduce", "reduce_scatter_tensor", "barrier"):
                inner.delattr(dist, name)  # ranks decode at their own pace: a collective would be an error
            return collect(*arguments)

    def interrupted(*arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == job.stop_after and last_rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return update(*arguments)

    def on_step(state, _):  # type: ignore[no-untyped-def]
        if job.step_raises and last_rank:
            raise KeyError("no such metric")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collecting, "collect", collect_alone)
        patch.setattr(loop, "update", interrupted)
        patch.setitem(fused.MAX_LOGITS, "cpu", job.max_logits)
        if job.one_row:
            last = lambda _, rewards, __: torch.eye(rewards.numel())[-1].view_as(rewards)  # noqa: E731
            patch.setattr(Loss, "advantages", last)
        try:
            policy = loop.train(job.config, job.resume, quiet=True, on_step=on_step)
        except (KeyboardInterrupt, ValueError, RuntimeError, KeyError) as end:
            return f"{type(end).__name__}: {end}"
    shares = [p.to_local().numel() / p.numel() for p in policy.denoiser.parameters() if isinstance(p, DTensor)]
    return f"done, with {max(shares):.0%} of a weight" if shares else "done"


def run_on_ranks(jobs: list[Job], folder: Path, num_ranks: int = 2, **environment: str) -> list[list[str]]:
    """Run jobs one after the other on several gloo ranks; how each ended, rank by rank."""
    folder.mkdir(parents=True)
    (folder / "jobs.json").write_text(json.dumps([asdict(job) for job in jobs]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(num_ranks)} | environment
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder / "jobs.json")],
            env=os.environ | shared | {"OMP_NUM_THREADS": "1", "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(num_ranks)
    ]
    try:
        ends = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), "\n".join(error[-3000:] for _, error in ends)
    return [out.splitlines() for out, _ in ends]


if __name__ == "__main__":
    torch.set_num_threads(1)
    for entry in json.loads(Path(sys.argv[1]).read_text()):
        print(run_job(Job(**entry | {"config": from_dict(TrainConfig, entry["config"])})), flush=True)
