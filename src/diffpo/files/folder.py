"""A folder that a command writes to: one owner at a time, files that appear whole, no draft after a failure."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

LOCK, DRAFT = ".lock", ".draft"
_held: set[int] = set()
"""Handles of the locks of this process: a forked child closes them, or it would keep the lock of a dead parent."""


def _let_go() -> None:
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


@contextmanager
def owned(folder: str | Path) -> Iterator[None]:
    """Hold `folder`, made if it is not there, against other processes; the lock ends with this one, however it ends.

    ValueError says who holds it. A folder that was made here and stayed empty is removed again.
    """
    folder = Path(folder)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    _make(folder)
    handle = _lock(folder)
    _held.add(handle)
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        _held.discard(handle)
        os.close(handle)
        with suppress(OSError):  # not empty
            for path in made:
                path.rmdir()


def _lock(folder: Path) -> int:
    """An open handle of the folder's lock file, which says whose it is."""
    path = folder / LOCK
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 1000)
            os.close(handle)
            raise ValueError(
                f"{folder} is in use by {_who(owner)}: wait for it, stop it, or choose another output"
            ) from None
        except OSError as error:
            warnings.warn(
                f"{folder}: this file system keeps no locks ({error.strerror}): see to it yourself that no "
                "other process writes there",
                stacklevel=3,
            )
        with suppress(FileNotFoundError):  # the owner before may have removed it between the two calls
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        os.close(handle)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):  # a full disk: the lock holds all the same, and does not say whose it is
        os.ftruncate(handle, 0)
        os.write(handle, json.dumps(owner).encode())
    return handle


def _who(record: bytes) -> str:
    try:
        owner = json.loads(record)
    except ValueError:  # it has just come and not yet written who it is
        return "another process"
    return f"process {owner['pid']} on {owner['host']} since {owner['since']}"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"{folder}: a file stands where a folder is to be: choose another output") from None


def file_to_write(path: str | Path) -> Path:
    """A file that a command writes when its work is done, asked for before: its folder is made.

    ValueError if a folder stands there, or a file where its folder is to be, or if nothing can be written there.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: a folder stands where a file is to be: name a file in it")
    _make(path.parent)
    place = path if path.exists() and not path.is_file() else path.parent  # where a draft takes a file's place
    if not os.access(place, os.W_OK):
        raise ValueError(f"{path}: {place} cannot be written to: name another file")
    return path


def folder_to_fill(path: str | Path) -> Path:
    """A folder that gets files when a command's work is done, asked for and made before; ValueError if it cannot."""
    path = Path(path)
    _make(path)
    if not os.access(path, os.W_OK):
        raise ValueError(f"{path} cannot be written to: name another folder")
    return path


def write_text(path: Path, text: str) -> None:
    """Write a small file of text, as `write_bytes`."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: a kill or a full disk leaves what was there. A pipe is written to."""
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    with drafted(path) as draft:
        draft.write_bytes(content)


@contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """Where to write what then takes the place of the file `path`; a failure leaves what was there, and no draft.

    OSError names the file and the cause. Of several processes that write one file at once the last one has it, whole.
    """
    draft = own_draft(path)
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise OSError(f"{path}: could not be written ({reason(error)})") from error


def own_draft(path: Path) -> Path:
    """This process's draft of a file: another that writes the same file has its own."""
    return path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")


def append(path: Path, content: bytes) -> None:
    """Add to a file all of `content` or nothing; OSError names it."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, size)
        raise OSError(f"{path}: could not be written ({reason(error)})") from error


def whole_lines(path: Path) -> list[str]:
    """The lines of a file that is written line by line; none if it is not there. A kill may have cut the last short,
    within a character too. ValueError if they are not UTF-8."""
    content = path.read_bytes() if path.is_file() else b""
    try:
        return content[: content.rfind(b"\n") + 1].decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason})") from None


def json_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines, likewise; ValueError names a line that is none."""
    return [json_object(line, f"{path}, line {number}") for number, line in enumerate(whole_lines(path), 1)]


def json_object(line: str, place: str) -> dict[str, Any]:
    """The object of a line; ValueError names its place if it is none."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{place}: a row is an object with keys, got {line.strip()[:40]!r}")
    return found


def new_folder(folder: str | Path) -> Path:
    """A folder to write: ValueError unless it is empty (but for what a kill left of a draft), or not there."""
    folder = Path(folder)
    if folder.exists() and not _is_empty(folder):
        raise ValueError(f"{folder} is there already and no empty folder: choose another output")
    return folder


def write_folder(folder: Path, write: Callable[[Path], None], consolation: str = "") -> None:
    """Fill a folder through a draft beside it, which takes its place; a failure leaves what was there, and no draft.

    An empty folder stays, and the draft's files move into it: it may be a link, a disk, or where a shell stands.
    OSError names the folder and the cause; `consolation` says what still stands.
    """
    stays = _is_empty(folder)
    draft = folder / DRAFT if stays else folder.with_name(f".{folder.name}{DRAFT}")
    before = draft.with_name(f".{folder.name}.old")  # what was there, set aside: to remove it takes a while
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        write(draft)
        if stays:
            for path in draft.iterdir():
                path.replace(folder / path.name)
            draft.rmdir()
        else:
            shutil.rmtree(before, ignore_errors=True)
            if folder.exists():
                folder.replace(before)
            draft.replace(folder)
            shutil.rmtree(before, ignore_errors=True)
    except BaseException as error:
        if before.exists() and not folder.exists():
            before.replace(folder)
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise OSError(f"{folder}: could not be written ({reason(error)}){consolation}") from error
        raise


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and all(path.name == DRAFT for path in folder.iterdir())


def reason(error: OSError) -> str:
    """Why, without the number and the path."""
    return error.strerror or str(error)
