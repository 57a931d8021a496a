"""Rows of a data set: local files, or a data set of the Hugging Face hub through `datasets`."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffpo.files.places import matches

READ = ".jsonl, .json, .csv or .tsv (also .gz), or .parquet"
CHAT_COLUMNS = ("prompt", "completion", "messages", "conversations")
"""Columns of a .csv whose cells may hold messages in JSON."""


class Source(NamedTuple):
    """Where the rows of a split are: a file, a pattern, a folder, or a data set of the hub with its configuration."""

    name: str
    split: str
    config: str | None = None

    @classmethod
    def parse(cls, text: str, split: str) -> Source:
        """A path or a pattern, rows/*.jsonl; or a hub id with configuration and split: openai/gsm8k:main:test."""
        if cls(text, split).is_local:
            return cls(text, split)
        name, _, rest = text.partition(":")
        config, _, own_split = rest.partition(":")
        return cls(name, own_split or split, config or None)

    @property
    def is_local(self) -> bool:
        """Whether the name is of something on this machine, be it there or not: the hub has words, and OWNER/NAME."""
        path = Path(self.name)
        if _suffix(path) in READERS or matches(self.name) is not None or path.exists():
            return True
        is_path = bool(path.suffix) if len(path.parts) == 1 else len(path.parts) > 2 or path.parent.is_dir()
        return is_path and ":" not in self.name  # behind which a configuration may be called anything

    def __str__(self) -> str:
        return self.name if self.is_local else ":".join(filter(None, (self.name, self.config, self.split)))


class Row(NamedTuple):
    """A row and where it stands, for the message that says it is wrong. A null is no column."""

    place: str
    values: Mapping[str, Any]


def read_rows(source: Source, columns: str, knob: str) -> list[Row]:
    """All rows. ValueError if there are none to be had: it names the source, the `columns` and the `knob` to set."""
    wanted = f"{knob} takes a {READ} file or a hub data set with the columns {columns}"
    rows = [row for part in _parts(source, wanted) for row in part]
    if not rows:
        raise ValueError(f"{source}: no rows in it; {wanted}")
    return [Row(row.place, {name: value for name, value in row.values.items() if value is not None}) for row in rows]


def _parts(source: Source, wanted: str) -> Iterator[Iterator[Row]]:
    """The rows of each file, those of a pattern in the order of their names."""
    path = Path(source.name)
    if not source.is_local or path.is_dir():
        yield _hub(source, wanted)
        return
    found = matches(source.name)
    found = [source.name] if found is None else found
    if not found or not Path(found[0]).is_file():
        raise ValueError(f"{source.name}: no such file; {wanted}")
    for name in found:
        suffix = _suffix(Path(name))
        if suffix not in READERS or (suffix == ".parquet" and _is_gzip(Path(name))):
            raise ValueError(f"{name}: not a kind of file that is read; {wanted}")
        yield READERS[suffix](Path(name))


def _suffix(path: Path) -> str:
    """The suffix that says how a file is read, .gz aside."""
    return Path(path.stem if _is_gzip(path) else path.name).suffix.lower()


def _is_gzip(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _text(path: Path) -> str:
    """A file's text. ValueError names the line that is no UTF-8."""
    data = path.read_bytes()
    if _is_gzip(path):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: not a whole gzip file: {error}") from None
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(f"{path}: the text is UTF-16: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")  # spreadsheets put a mark before it
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 (Latin-1?), save it as UTF-8: {error}") from None


def _json_lines(path: Path) -> Iterator[Row]:
    text = _text(path)
    if text.lstrip().startswith("["):
        raise ValueError(f"{path}: a list of rows, not a row a line: call it .json")
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            place = f"{path}, line {number}"
            yield Row(place, _mapping(_json(line, place), place))


def _json_list(path: Path) -> Iterator[Row]:
    text = _text(path)
    in_lines = re.match(r"\s*\{.*\}\s*\n\s*\{", text)
    rows = None if in_lines else _json(text, str(path))
    if not isinstance(rows, list):
        raise ValueError(f"{path}: a data set is a list of rows; a row a line is .jsonl")
    for number, row in enumerate(rows, 1):
        yield Row(f"{path}, row {number}", _mapping(row, f"{path}, row {number}"))


def _json(text: str, place: str) -> Any:
    """What a text of JSON holds; ValueError for a key that stands twice, and for half a character."""

    def entries(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"key {twice!r} stands twice")
        return values

    try:
        found = json.loads(text, object_pairs_hook=entries)
    except json.JSONDecodeError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from None
    if "\\ud" in text.lower():
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = error.object[error.start]
            raise ValueError(f"{place}: {half!r} is half a character (a lone surrogate): no text holds it") from None
    return found


def _csv(path: Path) -> Iterator[Row]:
    """Values stay texts: a puzzle keeps its leading zeros. Cells of CHAT_COLUMNS may hold messages.

    In a file whose header has a space behind its commas the one in front of a cell is no part of it.
    """
    csv.field_size_limit(2**31 - 1)
    delimiter = "\t" if _suffix(path) == ".tsv" else ","
    text = _text(path)
    spaced = f"{delimiter} " in text.lstrip().partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced)
    header: list[str] | None = None
    line = 1
    try:
        for cells in reader:
            place, line = f"{path}, line {line}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):  # spreadsheets write rows of commas alone
                continue
            if header is None:
                header = _header(cells, place)
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{place}: {len(cells)} cells for the {len(header)} columns {', '.join(header)}: quote a cell that "
                    f"holds {'a tab' if delimiter == chr(9) else 'a comma'}"
                )
            values = zip(header, cells, strict=True)
            yield Row(place, {name: _cell(name, cell, place) for name, cell in values})
    except csv.Error as error:
        raise ValueError(f"{path}, line {line}: not CSV: {error}") from None


def _header(cells: Sequence[str], place: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{place}: column {twice[0]!r} stands twice")
    if len(names) == 1 and any(sign in names[0] for sign in ";\t"):
        raise ValueError(f"{place}: one column, {names[0]!r}: cells are parted by commas, in a .tsv by tabs")
    return names


def _cell(name: str, cell: str, place: str) -> Any:
    """A cell's text, or the messages that it spells."""
    if name not in CHAT_COLUMNS or not cell.lstrip().startswith(("[{", "[ {", "[\n")):
        return cell
    found = _json(cell, f"{place}: column {name!r} looks like messages, but is") if "{" in cell else cell
    return found if isinstance(found, list) else cell


def _parquet(path: Path) -> Iterator[Row]:
    import datasets

    try:
        found = datasets.Dataset.from_parquet(str(path))
    except Exception as error:  # pyarrow's and datasets' own kinds
        raise ValueError(f"{path}: cannot be read as parquet: {_reason(error)}") from error
    return _enumerated(path, found)


def _hub(source: Source, wanted: str) -> Iterator[Row]:
    """A folder or a data set of the hub, as `datasets` reads it."""
    import datasets

    try:
        found = datasets.load_dataset(source.name, source.config, split=source.split)
        if found.info.builder_name == "csv":  # values stay texts here too: 0012, NA
            texts = datasets.Features(dict.fromkeys(found.column_names, datasets.Value("string")))
            said = {"split": source.split, "features": texts, "keep_default_na": False}
            found = datasets.load_dataset(source.name, source.config, **said)
    except Exception as error:  # offline, misspelled, gated, another split: datasets raises some twenty kinds
        download = f"hf download --repo-type dataset {source.name}"
        mend = "" if source.is_local else f" fetch it where there is a connection (`{download}`), or"
        raise ValueError(f"{source}: no such data set here: {_reason(error)};{mend} {wanted}") from error
    return _enumerated(source, found)


def _reason(error: BaseException) -> str:
    """The kind and text of what an error came from: `datasets` says that one "occurred", and why in its cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _enumerated(source: Path | Source, found: Any) -> Iterator[Row]:
    """The rows of a data set; a number of 32 or 16 bits by its own digits, 5.1 and not 5.099999904632568."""
    kinds = {name: getattr(feature, "dtype", "") for name, feature in found.features.items()}
    short = {name: getattr(np, kind) for name, kind in kinds.items() if kind in ("float32", "float16")}
    for number, row in enumerate(found, 1):
        digits = {name: float(str(kind(row[name]))) for name, kind in short.items() if row[name] is not None}
        yield Row(f"{source}, row {number}", {**row, **digits})


READERS: Mapping[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
"""Files by suffix; all but .parquet may have .gz behind."""


def _mapping(row: object, place: str) -> Mapping[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(f"{place}: a row is an object with columns, got {str(row)[:40]!r}")
    return row


def column(row: Row, names: Sequence[str], kind: type | tuple[type, ...] = str) -> Any:
    """The first of the columns `names` that the row has; ValueError names the row and what is missing or wrong."""
    for name in names:
        value = row.values.get(name)
        if value is not None and isinstance(value, kind) and not (isinstance(value, str) and not value.strip()):
            return value
        if value is not None:
            words = {str: "text", int: "a whole number", list: "a list", float: "a number"}
            wanted = " or ".join(words[each] for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{row.place}: column {name!r} must be {wanted}, got {str(value)[:60]!r}")
    has = ", ".join(map(str, row.values)) or "none"
    raise ValueError(f"{row.place}: column {' or '.join(map(repr, names))} is missing; the row's columns: {has}")
