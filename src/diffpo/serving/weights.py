"""Weights that change while requests are decoded: adapters that come and go, and a run that is followed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi.concurrency import run_in_threadpool

from diffpo.files.places import find_policy, list_checkpoints
from diffpo.models.variants import saved_weights, with_adapter
from diffpo.serving.asking import Served

if TYPE_CHECKING:
    from diffpo.serving.service import Service

EVERY = 1.0
"""Seconds between two looks at a run that is followed."""

log = logging.getLogger("diffpo.serving")


def adapted(base: Served, name: str, folder: Path) -> Served:
    """The model with an adapter on it; it answers as it was trained, where its folder says how."""
    policy = with_adapter(base.policy, folder)
    own = policy.rollout is not None or (base.rollout.sampler == "learned" and policy.sampler_head is None)
    kept = {"temperature": base.rollout.temperature, "num_slots": base.rollout.num_slots}
    return Served(name, policy, replace(policy.decoding, **kept) if own else base.rollout, base.limit)


async def follow(service: Service, run: Path) -> None:
    """Take over the newest weights of a run between two calls, as they come; never returns."""
    policy, seen, said = service.first.policy, ([], False), ""
    if not run.exists():
        log.warning("%s: nothing there to follow yet", run)
    while True:
        there = [path.name for path in list_checkpoints(run / "checkpoints")], (run / "policy").is_dir()
        if there != seen:
            line = ""
            try:
                tensors, version = await run_in_threadpool(lambda: saved_weights(policy, find_policy(run)[0]))
                if version > policy.version:
                    await service.scheduler.between_calls(
                        lambda found=(tensors, version): service.scheduler.engine(policy).load_weights(*found)
                    )
                elif version < policy.version:
                    fewer = f"{version} updates, fewer than those in use ({policy.version}), which stay"
                    line = f"{run}: its weights have {fewer}"
                seen = there
            except OSError as error:  # a checkpoint that has just been dropped, a disk that is away: asked again
                line = str(error)
            except ValueError as error:  # of another model
                seen, line = there, str(error)
            if line and line != said:
                log.warning("%s", line)
            said = line
        await asyncio.sleep(EVERY)
