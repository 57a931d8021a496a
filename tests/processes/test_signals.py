"""A process that is told to stop says so in one line, whatever it is told by and however early."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from diffpo.processes.signals import ASKED, on_stop

LISTENS = """
import os, signal, sys, time
from pathlib import Path
from diffpo.processes.signals import ASKED, on_stop
stopped = []
with on_stop(lambda number, _: stopped.append(number), *ASKED):
    print("ready", flush=True)
    while not stopped:
        time.sleep(0.01)
    print("saved", flush=True)
Path(sys.argv[1]).write_text(signal.Signals(stopped[0]).name)
"""


def test_handlers_are_those_of_before_in_the_end() -> None:
    before = list(map(signal.getsignal, ASKED))
    heard: list[int] = []
    with on_stop(lambda number, _: heard.append(number), *ASKED):
        for number in ASKED:
            signal.raise_signal(number)
    assert heard == [*ASKED] and list(map(signal.getsignal, ASKED)) == before


def test_what_nohup_ignores_is_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with on_stop(signal.default_int_handler, *ASKED):
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_does_not_keep_work_from_being_saved(tmp_path: Path) -> None:
    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-c", LISTENS, str(tmp_path / "saved")])
    assert os.read(terminal, 5) == b"ready"
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "saved").read_text() == "SIGHUP"


@pytest.mark.parametrize("module", ["tyro", "diffpo.cli.flags"])
def test_ctrl_c_while_the_command_is_imported_is_one_line(module: str, tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from diffpo.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "recipes"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "diffpo: interrupted\n")
