"""Where things are: what ships, which run a path belongs to, its newest policy, which checkpoints are whole."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
"""The folder of diffpo itself."""
BEST = "best"
"""Folder of a run that holds the policy which evaluated best."""


def shipped_files(pattern: str) -> dict[str, Path]:
    """Files that ship with diffpo, such as "recipes/*.toml", by the stem of their name."""
    homes = (PACKAGE, PACKAGE.parents[1])  # an installed wheel, a checkout
    return {path.stem: path for home in homes for path in home.glob(pattern)}


def find_policy(folder: Path) -> tuple[Path, str]:
    """The folder of the policy that `folder` stands for, and a line to say of it, if any.

    A run stands for its last policy; one that is under way, or was cut short, for its newest good checkpoint.
    """
    policy, checkpoints = folder / "policy", folder / "checkpoints"
    if not checkpoints.is_dir():
        return (policy if policy.is_dir() else folder), ""
    newest, lines = latest_checkpoint(checkpoints)
    if newest is None or _updates(newest / "policy") <= _updates(policy):
        return (policy if policy.is_dir() else folder), ""
    return newest / "policy", "; ".join([*lines, f"{folder} is not at its end: taking its checkpoint {newest.name}"])


def is_path(name: str | Path) -> bool:
    """Whether a name is that of a folder here, be it there or not, rather than of a model on the hub.

    runs/... is where diffpo writes, so a misspelt run is not looked for on the hub.
    """
    folder = Path(name).expanduser()
    said = folder.is_absolute() or str(name).startswith((".", "runs/")) or str(name).count("/") != 1
    return said or folder.is_dir() or folder.parent.is_dir()


def find_run(folder: Path) -> Path | None:
    """The run that `folder` is, or is a policy or a checkpoint of; None if it is none of these."""
    if folder.name in ("policy", BEST):
        folder = folder.parent
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    return folder if (folder / "config.json").is_file() else None


def latest_checkpoint(root: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint whose files are all as they were written, and a line for each newer one passed over."""
    lines = []
    for folder in list_checkpoints(root):
        damage = find_damage(folder)
        if damage is None:
            return folder, lines
        lines.append(f"{folder}: {damage}; passing it over for the one before")
    return None, lines


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError):
        return "manifest.json is missing or unreadable"
    for name, digest in manifest.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if digest_of(path) != digest:
            return f"{name} is damaged (its checksum differs)"
    return None


def list_checkpoints(root: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    return sorted(root.glob("step_*"), key=lambda folder: [*map(int, re.findall(r"\d+", folder.name))], reverse=True)


def shortest(folders: Sequence[Path]) -> list[str]:
    """What tells folders from each other: their ways down from the one that holds them all, whose own is its name."""
    whole = [folder.resolve() for folder in folders]
    common = Path(os.path.commonpath(whole)) if whole else Path()
    return [folder.name if folder == common else folder.relative_to(common).as_posix() for folder in whole]


def named(entry: str) -> tuple[str, str]:
    """NAME=PATH, or a PATH without a name, taken apart: either may hold equals signs of its own, and the path is one
    that is there."""
    parts = entry.split("=")
    splits = [("=".join(parts[:at]), "=".join(parts[at:])) for at in range(len(parts))]
    return next((split for split in splits if Path(split[1]).exists()), splits[-1])


def matches(pattern: str) -> list[str] | None:
    """The files of a pattern, rows/*.jsonl, in the order of their names; None of what is none, or is there itself."""
    if Path(pattern).exists() or not any(sign in pattern for sign in "*?["):
        return None
    return sorted(glob.glob(pattern, recursive=True))


def digest_of(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _updates(policy: Path) -> int:
    """Updates that a saved policy has been through; -1 if there is none."""
    try:
        return int(json.loads((policy / "diffpo.json").read_text())["version"])
    except (OSError, ValueError, KeyError):
        return -1
