"""Rows of a data set: a local file, or a data set of the Hugging Face hub through `datasets`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class Source(NamedTuple):
    """Where the rows of a split are: a file or folder, or a data set of the hub with its configuration."""

    name: str
    split: str
    config: str | None = None

    @classmethod
    def parse(cls, text: str, split: str) -> Source:
        """A path; or a hub id with an optional configuration and split: openai/gsm8k:main:test."""
        if Path(text).suffix in SUFFIXES or Path(text).exists():
            return cls(text, split)
        name, _, rest = text.partition(":")
        config, _, own_split = rest.partition(":")
        return cls(name, own_split or split, config or None)

    @property
    def is_local(self) -> bool:
        """Whether the rows are on this machine by name."""
        return Path(self.name).suffix in SUFFIXES or Path(self.name).exists()

    def __str__(self) -> str:
        return self.name if self.is_local else ":".join(filter(None, (self.name, self.config, self.split)))


class Row(NamedTuple):
    """A row and where it stands, for the message that says it is wrong."""

    place: str
    values: Mapping[str, Any]


def read_rows(source: Source, columns: str, knob: str) -> list[Row]:
    """All rows. ValueError if there are none to be had: it names the source, the `columns` and the `knob` to set."""
    wanted = f"{knob} takes a .jsonl, .csv or .parquet file or a hub data set with the columns {columns}"
    path = Path(source.name)
    if path.suffix in SUFFIXES and not path.is_file():
        raise ValueError(f"{path}: no such file; {wanted}")
    readers = {".jsonl": _json_lines, ".json": _json_list, ".csv": _csv}
    rows = list(readers[path.suffix](path)) if path.suffix in readers else _hub(source, wanted)
    if not rows:
        raise ValueError(f"{source}: no rows in it; {wanted}")
    return rows


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                place = f"{path}, line {number}"
                try:
                    yield Row(place, _mapping(json.loads(line), place))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{place}: not JSON: {error}") from None


def _json_list(path: Path) -> Iterator[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a data set is a list of rows; a row a line is .jsonl")
    for number, row in enumerate(rows, 1):
        yield Row(f"{path}, row {number}", _mapping(row, f"{path}, row {number}"))


def _csv(path: Path) -> Iterator[Row]:
    """Values stay texts: a puzzle keeps its leading zeros."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield Row(f"{path}, line {reader.line_num}", {str(name): value for name, value in row.items()})


def _mapping(row: object, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row is an object with columns, got {str(row)[:40]!r}")
    return row


def _hub(source: Source, wanted: str) -> list[Row]:
    """A parquet file, a folder or a data set of the hub, as `datasets` reads it."""
    import datasets

    parquet = source.name.endswith(".parquet")
    try:
        if parquet:
            found = datasets.load_dataset("parquet", data_files=source.name, split="train")
        else:
            found = datasets.load_dataset(source.name, source.config, split=source.split)
    except Exception as error:  # offline, misspelled, gated, another split: datasets raises some twenty kinds
        reason = " ".join(str(error).split())[:200]
        download = f"hf download --repo-type dataset {source.name}"
        mend = "" if source.is_local else f"; fetch it where there is a connection (`{download}`), or"
        raise ValueError(f"{source}: no such data set here: {type(error).__name__}: {reason}{mend} {wanted}") from error
    return [Row(f"{source}, row {number}", dict(row)) for number, row in enumerate(found, 1)]  # pyright: ignore[reportCallIssue, reportArgumentType]


def column(row: Row, names: Sequence[str], kind: type | tuple[type, ...] = str) -> Any:
    """The first of the columns `names` that the row has; ValueError names the row and what is missing or wrong."""
    for name in names:
        value = row.values.get(name)
        if value is not None and isinstance(value, kind) and not (isinstance(value, str) and not value.strip()):
            return value
        if value is not None:
            kinds = kind if isinstance(kind, tuple) else (kind,)
            raise ValueError(f"{row.place}: column {name!r} must be {_names(kinds)}, got {str(value)[:60]!r}")
    has = ", ".join(map(str, row.values)) or "none"
    raise ValueError(f"{row.place}: column {' or '.join(map(repr, names))} is missing; the row's columns: {has}")


def _names(kinds: tuple[type, ...]) -> str:
    words = {str: "text", int: "a whole number", list: "a list", float: "a number"}
    return " or ".join(words.get(kind, kind.__name__) for kind in kinds)
