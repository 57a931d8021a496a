"""Weights that change while requests are decoded: adapters that come and go, and a run that is followed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path

from fastapi.concurrency import run_in_threadpool

from diffpo.config import ServeConfig
from diffpo.files.places import find_policy, list_checkpoints
from diffpo.models.variants import saved_weights, with_adapter
from diffpo.serving.asking import Served
from diffpo.serving.errors import ApiError
from diffpo.serving.schema import LoadAdapter, UnloadAdapter
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


def add_adapters(service: Service, config: ServeConfig) -> None:
    """Those that the command names. ValueError if one is no NAME=PATH, or does not fit."""
    base = service.first
    for entry in config.adapter:
        name, equals, path = entry.partition("=")
        if not (name and equals and path) or name in service.models:
            raise ValueError(f"adapter {entry}: write NAME=PATH, each name once")
        service.models[name] = adapted(base, name, Path(path))


async def load_adapter(service: Service, body: LoadAdapter) -> dict[str, str]:
    """Serve an adapter of a folder below the one that the server allows."""
    root, name = service.config.adapter_root, body.lora_name
    if not root:
        raise ApiError(403, "adapters are not loaded on request here: the server's adapter_root says from where")
    if name in service.models:
        raise ApiError(400, f"lora_name: {name} is served already: unload it first", "lora_name")
    base = service.first
    try:
        folder = Path(root, body.lora_path).resolve()
        if not folder.is_relative_to(Path(root).resolve()):
            raise ValueError("it must lie below the server's adapter_root")
        served = await run_in_threadpool(adapted, base, name, folder)
    except (ValueError, OSError) as error:
        raise ApiError(400, f"lora_path {body.lora_path!r}: {error}", "lora_path") from None
    service.models.setdefault(name, served)
    return {"status": "loaded", "id": name}


async def unload_adapter(service: Service, body: UnloadAdapter) -> dict[str, str]:
    """Take no more requests for an adapter; those that are there are answered."""
    name = body.lora_name
    if not service.config.adapter_root:
        raise ApiError(403, "adapters are not unloaded on request here: the server has no adapter_root")
    served = service.find(name)
    if served is service.first:
        raise ApiError(400, f"lora_name: {name} is the model itself", "lora_name")
    del service.models[name]
    await service.scheduler.between_calls(lambda: service.scheduler.retire(served.policy))
    return {"status": "unloaded", "id": name}


async def follow(service: Service, run: Path) -> None:
    """Take over the newest weights of a run between two calls, as they come; never returns."""
    policy, seen = service.first.policy, ([], False)
    while True:
        there = [path.name for path in list_checkpoints(run / "checkpoints")], (run / "policy").is_dir()
        if there != seen:
            try:
                tensors, version = await run_in_threadpool(lambda: saved_weights(policy, find_policy(run)[0]))
                if version > policy.version:
                    await service.scheduler.between_calls(
                        lambda found=(tensors, version): service.scheduler.engine(policy).load_weights(*found)
                    )
                seen = there
            except OSError as error:  # a checkpoint that has just been dropped, a disk that is away: asked again
                log.warning("%s: %s", run, error)
            except ValueError as error:  # of another model
                seen = there
                log.warning("%s: %s", run, error)
        await asyncio.sleep(EVERY)
