"""What a name stands for: a checkpoint, adapters on one, or a sampler head on one. No tensor is read to find it."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from diffpo.files.places import find_policy
from diffpo.files.recipe import read_json
from diffpo.files.record import Base, Record
from diffpo.models.hub_tokenizer import written_template
from diffpo.models.published import with_blocks
from diffpo.models.weights import Checkpoint, locate

COUNTED = (
    *("*.safetensors", "config.json", "adapter_config.json", "diffpo.json", "tokenizer*", "vocab*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template*", "*.jinja"),
)
"""Files that answers depend on."""
WHOLE = 2**28
"""Bytes up to which a file is fingerprinted whole."""
BLOCK = 2**16
"""Bytes of each of the evenly spaced blocks that stand for a larger file."""


@dataclass(frozen=True)
class Source:
    """Where the parts of a policy are."""

    checkpoint: Checkpoint
    """The whole weights."""
    adapter: Path | None
    """The folder of adapters that go onto them."""
    folder: Path
    """The folder that was asked for; its diffpo.json has the last word."""

    @property
    def folders(self) -> tuple[Path, ...]:
        """Every folder that is read, each once, the base first."""
        folders = (self.checkpoint.folder, self.adapter, self.folder)
        return tuple(dict.fromkeys(folder for folder in folders if folder))

    @property
    def record(self) -> Record | None:
        """What is known of the policy; None if nothing is."""
        return next((record for folder in reversed(self.folders) if (record := Record.read(folder))), None)

    @property
    def on_four_bits(self) -> bool:
        """Whether adapters, or a head, were trained on these weights in 4 bits."""
        return bool((record := self.record) and record.base and record.base.four_bit)

    def in_blocks(self, length: int | None = None) -> Source:
        """The same, with attention in blocks of `length`, or as the policy's folder says of its base, if either does.

        ValueError if the family has no blocks.
        """
        named = self.record.base if self.record else None
        length = length or (named.block_length if named else None)
        if not length:
            return self
        checkpoint = replace(self.checkpoint, config=with_blocks(self.checkpoint.name, self.checkpoint.config, length))
        if (own := checkpoint.family.shape(checkpoint.config).block_length) != length:
            kind, sees = checkpoint.config["model_type"], f"in blocks of {own}" if own else "to the whole row"
            raise ValueError(f"a {kind} model attends {sees}, not in blocks of {length}: leave the blocks out")
        return replace(self, checkpoint=checkpoint)

    def fingerprint(self) -> str:
        """A digest of what is read: weights, adapters, head, tokenizer, settings. The same wherever the folders lie."""
        return fingerprint(*self.folders)

    def as_base(self, folder: Path, adapters: bool, four_bit: bool) -> Base:
        """What a policy saved in `folder` stands on: these weights, in 4 bits or whole, and (`adapters` True) the
        adapters on them."""
        here = self.checkpoint.folder
        with_adapter = self.adapter if adapters else None
        return Base(
            name=self.checkpoint.name,
            revision=self.checkpoint.commit,
            adapter=str(with_adapter.resolve()) if with_adapter else None,
            adapter_nearby=os.path.relpath(with_adapter.resolve(), folder.resolve()) if with_adapter else None,
            fingerprint=fingerprint(here, with_adapter),
            nearby=os.path.relpath(here, folder.resolve()) if self.checkpoint.is_local else None,
            block_length=self.checkpoint.config.get("block_size"),
            four_bit=four_bit,
        )


def find_source(
    name: str | Path,
    revision: str | None = None,
    adapter: str | Path | None = None,
    base: str | Path | None = None,
    weights: bool = True,
) -> Source:
    """Find what `name` stands for, with `adapter` on it; `base` in place of the base that its folder names.

    A base that is not the one an adapter was trained on is a warning; ValueError says what is missing.
    """
    folder, note = find_policy(locate(name, revision, weights))
    if note:
        warnings.warn(note, stacklevel=3)
    if revision and Path(name).is_dir():
        raise ValueError(
            f"revision {revision} does nothing for {name}, which is a folder, not a model of the hub: leave it out"
        )
    if (folder / "config.json").is_file():
        if base:
            raise ValueError(f"{name} holds whole weights: load.base names the base of adapters, or of a head alone")
        name = folder if note or folder.name == "policy" else name
        source = Source(Checkpoint.open(name, revision, weights), None, folder)
        return _with_adapter(source, adapter, weights) if adapter else source
    named, is_adapter = base_of(folder), (folder / "adapter_config.json").is_file()
    if not (is_adapter or named):
        return Source(Checkpoint.open(name, revision, weights), None, folder)  # which says what is missing
    if adapter:
        what = "an adapter" if is_adapter else "a sampler head"
        raise ValueError(f"{name} is {what} itself: name a base model to put {adapter} on")
    checkpoint = _open_base(folder, named, base, weights)
    between = named.adapter if named and not is_adapter else None
    below = locate(_found(folder, between, named.adapter_nearby), None, weights) if named and between else None
    if below and not (below / "adapter_config.json").is_file():
        raise ValueError(f"{folder}: the adapters that it stands on, {between}, are not there: put them back")
    source = Source(checkpoint, folder if is_adapter else below, folder)
    _warn_of_another_base(source, named)
    _warn_of_another_template(source)
    return source


def base_of(folder: Path) -> Base | None:
    """What the adapters, or the sampler head, in a folder stand on; None if it does not say, or holds whole weights."""
    record, settings = Record.read(folder), folder / "adapter_config.json"
    if (record and record.base) or not settings.is_file():
        return record.base if record else None
    named = read_json(settings)
    name = named.get("base_model_name_or_path")
    return Base(name, named.get("revision")) if name else None


def _with_adapter(source: Source, adapter: str | Path, weights: bool) -> Source:
    """The source with an adapter's folder, or a run's adapters, on its checkpoint."""
    folder, note = find_policy(locate(adapter, None, weights))
    if note:
        warnings.warn(note, stacklevel=4)
    source = Source(source.checkpoint, folder, folder)
    _warn_of_another_base(source, base_of(folder))
    _warn_of_another_template(source)
    return source


def _open_base(folder: Path, named: Base | None, base: str | Path | None, weights: bool) -> Checkpoint:
    """The checkpoint below an adapter or a head: `base`, the one that its folder names, or the one that moved along."""
    if base:
        return Checkpoint.open(_whole(base), None, weights)
    if not named:
        raise ValueError(
            f"{folder}: adapter_config.json names no base model: pass it as load.base, or load that with this as its "
            "adapter"
        )
    name = _found(folder, named.name, named.nearby)
    if Path(name).is_absolute() and not Path(name).is_dir():
        raise ValueError(f"{folder}: its base model {name} is not there: name its place with load.base")
    try:
        return Checkpoint.open(_whole(name), named.revision, weights)
    except ValueError as error:
        raise ValueError(f"{folder}: its base model: {error}; load.base names another place") from None


def _found(folder: Path, name: str, nearby: str | None) -> str | Path:
    """Where what a folder stands on lies now: at `name`, or where it lay as seen from `folder`, if both have moved."""
    gone = Path(name).is_absolute() and not Path(name).is_dir()
    return moved.resolve() if gone and nearby and (moved := folder / nearby).is_dir() else name


def _whole(name: str | Path) -> str | Path:
    """A run's folder stands for its policy's."""
    found = find_policy(Path(name))[0]
    return found if found != Path(name) else name


def _warn_of_another_base(source: Source, named: Base | None) -> None:
    """Say so where adapters, or a head, were trained on other weights than those they are put on."""
    if not named:
        return
    meant, loaded = named.name, source.checkpoint.name
    if named.fingerprint and any(source.checkpoint.folder.glob("*.safetensors")):  # a plan leaves them on the hub
        same = fingerprint(source.checkpoint.folder, source.adapter if named.adapter else None) == named.fingerprint
        line = f"was trained on {meant}, whose weights are not those of {loaded}, which it is put on"
        if meant == loaded:
            line = f"was trained on {meant}, whose weights have changed since"
    else:
        same = meant == loaded or os.path.abspath(meant) == loaded
        line = f"was trained on {meant}; it is put on {loaded}"
    if not same:
        warnings.warn(f"{source.folder} {line}", stacklevel=4)


def warn_of_whole_weights(source: Source) -> None:
    """Say so where adapters, or a head, that were trained on 4-bit weights are put on whole ones."""
    if source.on_four_bits:
        warnings.warn(
            f"{source.folder} was trained on 4-bit weights, whose answers are others than those of the whole ones that "
            "it is put on: load.four_bit computes as training did",
            stacklevel=3,
        )


def _warn_of_another_template(source: Source) -> None:
    """Say so where adapters came with a chat template that is not their base's, which is the one that counts."""
    brought = written_template(source.adapter) if source.adapter else ""
    if brought and brought != written_template(source.checkpoint.folder):
        warnings.warn(
            f"{source.adapter} has a chat template of its own, which is not used: prompts go through that of "
            f"{source.checkpoint.name}; put it there if the adapters were trained with it",
            stacklevel=4,
        )


def fingerprint(*folders: Path | None) -> str:
    """A digest of the weights, tokenizers and settings in these folders, wherever they lie.

    Files up to WHOLE are read whole. A larger one counts by its size, its first block, which holds the names and shapes
    of the tensors, and evenly spaced blocks that are as much together: a second or two for 16 GB, and weights trained
    further differ in nearly every block.
    """
    digest = hashlib.sha256()
    for folder in filter(None, folders):
        for path in sorted({path for pattern in COUNTED for path in folder.glob(pattern)}):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            digest.update(_sampled(path))
    return digest.hexdigest()


def _sampled(path: Path) -> bytes:
    if path.name in ("adapter_config.json", "diffpo.json"):  # the places of other folders do not count for answers
        places = ("base_model_name_or_path", "revision", "base", "version", "task", "rollout", "eval")
        values = {key: value for key, value in read_json(path).items() if key not in places}
        return json.dumps(values, sort_keys=True).encode()
    size, digest, last = path.stat().st_size, hashlib.sha256(), WHOLE // BLOCK - 1
    with path.open("rb") as file:
        if size <= WHOLE:
            return hashlib.file_digest(file, "sha256").digest()
        for index in range(last + 1):
            file.seek(index * (size - BLOCK) // last)
            digest.update(file.read(BLOCK))
    return digest.digest()
