"""The process that is killed when a request takes too long."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffpo.processes.worker import Worker


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    made = Worker("processes.echo_worker", time_limit=1.0)
    yield made
    made.close()


def test_requests_are_answered_by_one_process(worker: Worker) -> None:
    assert worker.ask({"a": [1, "\u0663"]}) == {"a": [1, "\u0663"]}
    process = worker.process
    assert worker.ask(["print", "noise"]) == ["print", "noise"]
    assert worker.ask(["raise"]) is None
    assert worker.ask("again") == "again"
    assert worker.process is not None and process is not None


@pytest.mark.parametrize("request_", [["die"], ["sleep", 60], ["raise"], ["exit"], ["allocate", 2**33]])
def test_what_fails_is_none_and_the_next_one_is_answered(worker: Worker, request_: list[object]) -> None:
    start = time.perf_counter()
    assert worker.ask(request_) is None
    assert time.perf_counter() - start < 30.0
    assert worker.ask("again") == "again"


def test_an_interrupted_request_leaves_no_answer_behind(worker: Worker) -> None:
    assert worker.ask("first") == "first"
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        worker.ask(["sleep", 1.0])
    assert worker.ask("second") == "second"


def test_threads_take_turns(worker: Worker) -> None:
    found: dict[int, object] = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: worker.ask(n)})) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n for n in range(8)}


@pytest.mark.parametrize("module", ["diffpo.no_such_module", "processes.unlimited_worker"])
def test_a_module_that_does_not_start_is_an_error(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    with pytest.raises(RuntimeError, match=f"run `python -m {module}` to see why"):
        Worker(module, time_limit=1.0).ask(1)
