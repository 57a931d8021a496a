"""A folder has one owner, who may die; what is written appears whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffpo.files.folder import (
    drafted,
    file_to_write,
    folder_to_fill,
    json_rows,
    new_folder,
    own_draft,
    owned,
    whole_lines,
    write_folder,
    write_text,
)

HOLD = "import sys, time; from diffpo.files.folder import owned\nwith owned(sys.argv[1]): print('mine', flush=True); {}"


def hold(folder: Path, then: str = "time.sleep(60)") -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD.format(then), folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    process = hold(tmp_path / "run")
    try:
        with pytest.raises(
            ValueError, match=rf"run is in use by process {process.pid} on \S+ since 20.*another output"
        ):
            owned(tmp_path / "run").__enter__()
    finally:
        process.kill()
        process.communicate()
    with owned(tmp_path / "run"):  # the dead keep nothing
        pass


def test_a_child_of_a_dead_owner_does_not_keep_the_folder(tmp_path: Path) -> None:
    """A forked child lives on after its parent was killed."""
    process = hold(tmp_path, "import os; os.fork() or print(os.getpid(), flush=True); time.sleep(60)")
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.wait()
    try:
        with owned(tmp_path):
            os.kill(child, 0)  # it is alive
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def test_two_owners_in_one_process(tmp_path: Path) -> None:
    with owned(tmp_path), pytest.raises(ValueError, match=f"in use by process {os.getpid()}"):
        owned(tmp_path).__enter__()
    assert not list(tmp_path.iterdir())


def test_an_owner_that_wrote_nothing_leaves_nothing(tmp_path: Path) -> None:
    with owned(tmp_path / "a/b"):
        assert (tmp_path / "a/b").is_dir()
    assert not list(tmp_path.iterdir())
    with owned(tmp_path / "a/b"):
        (tmp_path / "a/b/file").touch()
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["file"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(ValueError, match="a file stands where a folder is to be"):
            owned(tmp_path / path).__enter__()


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    def full(draft: Path) -> None:
        (draft / "part").touch()
        raise OSError(28, "No space left on device")

    write_folder(tmp_path / "policy", lambda draft: (draft / "old").touch())
    with pytest.raises(OSError, match=r"policy: could not be written \(No space left on device\); so be it"):
        write_folder(tmp_path / "policy", full, "; so be it")
    assert [path.name for path in tmp_path.rglob("*")] == ["policy", "old"]

    write_text(tmp_path / "text", "old")
    own_draft(tmp_path / "text").mkdir()
    with pytest.raises(OSError, match="text: could not be written"):
        write_text(tmp_path / "text", "new")
    assert (tmp_path / "text").read_text() == "old"
    (tmp_path / "nowhere").symlink_to("/dev/null")
    write_text(tmp_path / "nowhere", "no file takes its place")
    assert (tmp_path / "nowhere").is_char_device()


def test_two_that_write_one_file_at_once_each_write_it_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    with drafted(path) as draft:
        draft.write_text("half of one")
        with monkeypatch.context() as another:
            another.setattr("os.getpid", lambda: 1)
            write_text(path, "another")
        assert path.read_text() == "another"
        draft.write_text("the whole one")
    assert path.read_text() == "the whole one" and list(tmp_path.iterdir()) == [path]


def test_a_file_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != tmp_path)
    with pytest.raises(ValueError, match=r"found\.json: .* cannot be written to: name another file"):
        file_to_write(tmp_path / "found.json")
    assert file_to_write("/dev/null") == Path("/dev/null")
    with pytest.raises(ValueError, match="cannot be written to: name another folder"):
        folder_to_fill(tmp_path)
    assert folder_to_fill(tmp_path / "figures").is_dir()


def test_a_full_disk_is_no_reason_not_to_hold_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who holds it is not said then; what cannot be written names itself."""

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with owned(tmp_path), pytest.raises(ValueError, match="in use by another process"):
            owned(tmp_path).__enter__()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("line", "said"), [("nan?", "not JSON"), ("[1]", r"a row is an object with keys, got '\[1\]'"), ("é", "not UTF-8")]
)
def test_a_line_that_is_no_object_is_named(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "rows").write_text(f'{{"step": 0}}\n{line}\n{{"cut', "latin-1")
    with pytest.raises(ValueError, match=f"rows, line 2: {said}"):
        json_rows(tmp_path / "rows")


def test_lines_are_whole(tmp_path: Path) -> None:
    assert whole_lines(tmp_path / "none") == []
    content = "é \u2028 \x85\n\né".encode()
    for size, lines in ((0, []), (1, []), (len(content) - 1, ["é \u2028 \x85", ""])):  # the last within a character
        (tmp_path / "rows").write_bytes(content[:size])
        assert whole_lines(tmp_path / "rows") == lines


def test_an_empty_folder_is_filled_where_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell may stand in it, a link lead to it, a disk be mounted there; a kill may have left a draft in it."""
    (tmp_path / "disk" / ".draft" / "cut short").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    number = (tmp_path / "disk").stat().st_ino
    monkeypatch.chdir(tmp_path / "link")
    with pytest.raises(OSError, match="full"):
        write_folder(new_folder("."), lambda draft: (draft / "none" / "file").touch() or None, " (full)")
    write_folder(new_folder("."), lambda draft: (draft / "file").touch())
    assert [path.name for path in (tmp_path / "link").iterdir()] == ["file"]
    assert (tmp_path / "disk").stat().st_ino == number and (tmp_path / "link").is_symlink()
    with pytest.raises(ValueError, match="no empty folder"):
        new_folder(tmp_path / "link")


def test_a_folder_stays_where_its_draft_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.name.endswith(".draft"):
            raise OSError(5, "Input/output error")
        return replace(path, target)

    write_folder(tmp_path / "policy", lambda draft: (draft / "old").touch())
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="policy: could not be written"):
        write_folder(tmp_path / "policy", lambda draft: (draft / "new").touch())
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["old", "policy"]
