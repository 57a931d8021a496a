"""What a policy's folder says of itself, diffpo.json: how it is decoded, what it was trained on, what it stands on."""

from __future__ import annotations

import dataclasses
import glob
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from diffpo.config import (
    BernoulliConfig,
    EvalConfig,
    HeadConfig,
    RolloutConfig,
    SftConfig,
    TaskConfig,
    ThresholdConfig,
    TrainConfig,
)
from diffpo.files.places import find_policy, matches
from diffpo.files.recipe import find_training, from_dict

C = TypeVar("C", SftConfig, TrainConfig)
D = TypeVar("D", RolloutConfig, EvalConfig)

FILE = "diffpo.json"
TINY = {"sampler": "top_k:1"}
PUBLISHED = {"sampler": "entropy_bound:0.1", "block_length": 32}
"""How a policy that says nothing of itself is decoded: one of diffpo's own, and a published model."""


@dataclass(frozen=True)
class Base:
    """The weights that a folder of adapters, or of a sampler head alone, stands on."""

    name: str  # an absolute folder, or a hub id
    revision: str | None = None  # commit on the hub
    adapter: str | None = None  # frozen adapters in between: an absolute folder, or a hub id
    fingerprint: str | None = None  # of all of these
    nearby: str | None = None  # the base's folder as seen from this one: both may have been moved together
    adapter_nearby: str | None = None  # the same of those adapters
    block_length: int | None = None  # of block-causal attention, whether or not the base's own config.json says it
    four_bit: bool = False  # whether its weights were in 4 bits


@dataclass(frozen=True)
class Record:
    """diffpo.json; of a folder that has none, and so is not diffpo's, nothing is known."""

    version: int = 0  # updates that the policy has been through
    threshold: ThresholdConfig | None = None  # of its sampler head, if it has one of this kind
    bernoulli: BernoulliConfig | None = None  # the same
    task: TaskConfig | None = None  # what it was trained on
    rollout: RolloutConfig | None = None  # how it was decoded in training
    eval: EvalConfig | None = None  # how it was measured
    base: Base | None = None  # None: the folder holds whole weights

    @classmethod
    def read(cls, folder: Path) -> Record | None:
        """The folder's record, or None; ValueError names the file and what is wrong with it."""
        path = folder / FILE
        if not path.is_file():
            return None
        try:
            return from_dict(cls, json.loads(path.read_bytes()))
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path}: not a record of diffpo's: {error}") from None

    @property
    def head(self) -> HeadConfig | None:
        """Settings of the sampler head."""
        return self.threshold or self.bernoulli

    def write(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")


def decoding(rollout: RolloutConfig | None, head: bool, tiny: bool, own_blocks: bool = False) -> RolloutConfig:
    """How a policy answers unless told otherwise: greedily, and else as in training (`rollout`) where that is known.

    Where it is not: by its sampler head, one position a call (`tiny`), or as published models are decoded, in blocks of
    their own if they have such (`own_blocks`).
    """
    known = replace(rollout or RolloutConfig(), temperature=0.0)
    if head and (rollout is None or rollout.sampler == "learned"):
        return replace(known, sampler="learned")
    if known.sampler != "learned":
        return known
    default = TINY if tiny else PUBLISHED | ({"block_length": None} if own_blocks else {})
    return replace(known, **default) if rollout is None else replace(known, sampler=default["sampler"])


def known_task(model: str | Path) -> TaskConfig | None:
    """What the policy of a folder was trained on, if that is known."""
    record = Record.read(find_policy(Path(model))[0])
    return (record and record.task) or find_training(Path(model))[1]


def with_task(config: C) -> C:
    """The config with the task that its model was trained on, where it says nothing of a task."""
    learns_rows = isinstance(config, SftConfig) and config.data
    if not config.model or learns_rows or config.task != TaskConfig():
        return config
    return replace(config, task=known_task(config.model) or config.task)


def anchored(task: TaskConfig) -> TaskConfig:
    """The task with absolute paths in place of files relative to where this process runs."""
    return replace(
        task,
        name=anchored_code(task.name),
        data=anchored_path(task.data),
        test_data=anchored_path(task.test_data),
        reward=tuple(map(anchored_code, task.reward)),
    )


def anchored_rules(config: D) -> D:
    """The same for unmasking rules of the user's own."""
    if isinstance(config, RolloutConfig):
        return replace(config, sampler=anchored_code(config.sampler))
    return replace(config, samplers=tuple(map(anchored_code, config.samplers)))


def anchored_code(spec: str) -> str:
    """The same of one PATH.py:NAME, whatever stands behind it; what has no path ships."""
    path, own, rest = spec.partition(".py:")
    return f"{os.path.abspath(path)}{own}{rest}" if own else spec


def anchored_path(path: str | None) -> str | None:
    """The same of a file, a folder or a pattern of files; what else there is names something of the hub."""
    if path and matches(path) is not None:
        return os.path.normpath(os.path.join(glob.escape(os.getcwd()), path))
    return os.path.abspath(path) if path and Path(path).exists() else path
