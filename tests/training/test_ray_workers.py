"""Rollouts on Ray: the run of one process bit for bit, whatever becomes of the workers; errors as in process."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from helpers import request, tiny_policy
from training.ranks import Job, run_on_ranks
from training.test_distributed import assert_same
from training.test_loop import assert_same_run
from training.troubled import Troubled

from diffpo.config import CollectConfig, LoadConfig, LoraConfig, RolloutConfig, TaskConfig, TrainConfig
from diffpo.files.places import latest_checkpoint
from diffpo.files.recipe import to_json
from diffpo.processes.world import World, buckets
from diffpo.rollout.engine import generate
from diffpo.training.loop import train
from diffpo.types import Prompt

ray = pytest.importorskip("ray", reason="Ray is not installed")
from diffpo.training import ray_workers  # noqa: E402
from diffpo.training.ray_workers import RayCollector, Seat, Unit  # noqa: E402
from diffpo.training.remote import dtypes_of, facts_of  # noqa: E402

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """Ray on this machine, with room for three workers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        settings = {"num_cpus": 3, "num_gpus": 0, "include_dashboard": False, "object_store_memory": 10**8}
        ray.init("local", log_to_driver=False, **settings)  # not the cluster of a test that runs beside this one
        yield
        ray.shutdown()


def on_workers(config: TrainConfig, workers: int, lag: int = 0, **changes: float) -> TrainConfig:
    output = f"{config.output}_{workers}_{lag}"
    return replace(config, output=output, rollout=replace(config.rollout, workers=workers, lag=lag, **changes))


@contextmanager
def killing(number: int, seed: int) -> Iterator[list[int]]:
    """Within, some worker that is up gets a SIGKILL after each of a random number of its collector's answers."""
    killed: list[int] = []
    draw, original = random.Random(seed), RayCollector._listen

    def listen(self: RayCollector, seconds: float = 1.0) -> bool:
        alive = [seat.pid for seat in self.seats if seat.pid and seat.pid not in killed]
        if alive and len(killed) < number and draw.random() < 0.3:
            killed.append(draw.choice(alive))
            os.kill(killed[-1], signal.SIGKILL)
        return original(self, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayCollector, "_listen", listen)
        yield killed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a rollout worker was lost")
@pytest.mark.parametrize(("lag", "workers"), [(0, 2), (2, 3)])
def test_a_run_on_workers_is_the_run_in_one_process(
    short_run: TrainConfig, cluster: None, capsys: pytest.CaptureFixture[str], lag: int, workers: int
) -> None:
    """With one worker killed on the way as well."""
    config = replace(short_run, lora=LoraConfig(rank=2))
    alone = on_workers(config, 0, lag)
    train(alone, quiet=True)
    shared = on_workers(config, workers, lag)
    with killing(1, seed=lag) as killed:
        train(shared)
    said = " ".join(capsys.readouterr().err.split())
    assert f"rollouts on {workers} workers" in said and ("by the policy 2 steps before" in said) == (lag == 2)
    assert len(killed) == 1
    assert_same_run(shared.output, alone.output)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a rollout worker was lost")
def test_a_worker_that_hangs_is_replaced(short_run: TrainConfig, easy_task: TaskConfig, cluster: None) -> None:
    """Its prompts are given again, and become what they would have been; time is made to pass once it hangs."""
    config = replace(short_run, task=TaskConfig(), steps=2)
    alone, shared = on_workers(config, 0), on_workers(config, 1, worker_timeout=10_000.0)
    train(alone, quiet=True, task=Troubled(easy_task))
    fuse, original = Path(f"{config.output}.fuse"), RayCollector._listen
    fuse.touch()
    replaced: list[str] = []

    def listen(self: RayCollector, seconds: float = 1.0) -> bool:
        if fuse.with_suffix(".blown").is_file() and not replaced:
            self.seats[0].heard -= 20_000
        return original(self, seconds)

    def noted(self: RayCollector, seat: Seat, why: str) -> None:
        replaced.append(why)
        replace_seat(self, seat, why)

    replace_seat = RayCollector._replace
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RayCollector, "_listen", listen)
        patch.setattr(RayCollector, "_replace", noted)
        train(shared, quiet=True, task=Troubled(easy_task, fuse))
    assert replaced == ["no answer for 10000 s (rollout.worker_timeout)"]
    assert_same_run(shared.output, alone.output)


@pytest.mark.slow
def test_errors_are_those_of_one_process(short_run: TrainConfig, easy_task: TaskConfig, cluster: None) -> None:
    config = replace(short_run, task=TaskConfig(), steps=3)
    task = Troubled(easy_task)
    bad = Troubled(easy_task, bad=task.prompts("train", 1, start=2 * config.prompts_per_step)[0].id)
    said = {}
    for workers in (0, 2):
        with pytest.raises(RuntimeError, match="the verifier raised KeyError") as raised:
            train(on_workers(config, workers), quiet=True, task=bad)
        said[workers] = str(raised.value)
    assert said[0] == said[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray_workers, "code_of", lambda: "diffpo 9")
        with pytest.raises(ValueError, match=r"the worker on .* has diffpo 0.* the run diffpo 9: install the same"):
            train(replace(on_workers(config, 1), output=f"{config.output}_9"), quiet=True, task=task)
    assert not Path(f"{config.output}_9/config.json").is_file()


@pytest.mark.slow
def test_ranks_that_shard_the_weights_share_workers(short_run: TrainConfig, tmp_path: Path) -> None:
    """The first rank drives them, and sends what all hold shares of; it is the run of one process but for rounding."""
    config = replace(short_run, steps=2, num_threads=1, load=LoadConfig(device="cpu"))
    alone, shared = on_workers(config, 0, lag=1), on_workers(config, 1, lag=1)
    train(alone, quiet=True)
    ends = run_on_ranks([Job(shared)], tmp_path / "ranks", ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
    assert ends == [["done, with 50% of a weight"]] * 2
    assert_same(shared.output, alone.output)


def with_mark(mark: str) -> list[str]:
    """Processes whose environment has it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark.encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_text().replace("\0", " ")[:100])
        except OSError:
            pass  # it has ended
    return [command for command in found if command]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_leaves_a_checkpoint_and_no_process(short_run: TrainConfig, tmp_path: Path) -> None:
    """At a terminal every process of the group has the signal; Ray was started for the run alone."""
    config, mark = on_workers(replace(short_run, steps=500, save_every=500), 1, lag=1), f"RUN_MARK={tmp_path}"
    (tmp_path / "config.json").write_text(to_json(config))
    command = [sys.executable, "-m", "diffpo", "train", str(tmp_path), "--output", config.output]
    environment = os.environ | {"RUN_MARK": str(tmp_path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    metrics, started = Path(config.output, "metrics.jsonl"), time.monotonic()
    while not (metrics.is_file() and metrics.read_text()):
        assert process.poll() is None and time.monotonic() - started < 300, process.communicate()
        time.sleep(0.2)
    assert any("ray" in command for command in with_mark(mark))
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "a resumed run goes on from there" in said
    assert latest_checkpoint(Path(config.output) / "checkpoints")[0]
    while (left := with_mark(mark)) and time.monotonic() - started < 330:
        time.sleep(0.2)
    assert not left


# --- without Ray -------------------------------------------------------------------------------------------------


def test_another_base_is_refused() -> None:
    collector = object.__new__(RayCollector)
    collector.config = TrainConfig(model="runs/sft")
    collector.facts = facts_of(tiny_policy())
    seat = Seat(None, "opening")
    there = {"host": "node7", "pid": "123"}
    collector._take(seat, "opening", collector.facts | there)
    assert seat.opening is None and (seat.host, seat.pid) == ("node7", 123)
    with pytest.raises(ValueError, match=r"worker on node7 differs from the run's in base, dtype: see that runs/sft "):
        collector._take(seat, "opening", collector.facts | there | {"base": "another", "dtype": "torch.bfloat16"})


def test_a_worker_casts_what_every_product_casts() -> None:
    """Weights that learn in fp32 and compute in bf16 travel in bf16, and decode the same; what sums them may not."""
    learning, working = tiny_policy(), tiny_policy()
    for policy in (learning, working):
        policy.denoiser.to(torch.bfloat16)
        policy.use_master_weights()
    with torch.no_grad():
        for parameter in learning.trainable().values():
            parameter.mul_(1 + 1e-3)  # now no number of bf16
    found = dtypes_of(learning, TrainConfig())
    assert found == {n: torch.bfloat16 for n, p in learning.trainable().items() if "blocks" in n and p.ndim == 2}
    for name, dtype in found.items():
        working.denoiser.get_submodule(name.removesuffix(".weight")).to(dtype)
    sent = {name: value.to(found.get(name, value.dtype)) for name, value in learning.trainable().items()}
    working.load_weights(sent, 1)
    requests = [request(key=key) for key in range(8)]
    for ours, theirs in zip(generate(learning, requests), generate(working, requests), strict=True):
        assert torch.equal(ours.tokens, theirs.tokens)
        assert torch.equal(ours.behaviour_logprobs, theirs.behaviour_logprobs)
    assert not dtypes_of(learning, TrainConfig(rollout=RolloutConfig(merge_adapters=True)))


def test_without_ray_a_line_says_what_to_install(short_run: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "diffpo.training.ray_workers")
    with pytest.raises(ValueError, match=r"rollout\.workers: .*ray.*: pip install 'diffpo\[ray\]'"):
        train(on_workers(short_run, 1), quiet=True)


@pytest.mark.parametrize("address", ["", "10.0.0.1:6379"])
def test_a_ray_that_does_not_start_is_a_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr(ray, "init", init)
    named = f"rollout.address = {address}" if address else "rollout.workers"
    with pytest.raises(ValueError, match=f"{named}: Ray does not start: The current node timed out .* again"):
        ray_workers._join(CollectConfig(workers=1, address=address), World(), 0.0)


def test_weights_travel_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diffpo.processes.world.BUCKET_BYTES", 4000)
    tensors = dict(tiny_policy().trainable())
    parts = list(buckets(tensors))
    assert len(parts) > 3 and {name: tensor for part in parts for name, tensor in part.items()} == tensors


def test_the_gpus_of_the_run_are_not_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    assert ray_workers._free_gpus(World(device=torch.device("cuda"))) == ["5", "6"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert ray_workers._free_gpus(World(device=torch.device("cuda"))) == ["6"]
    assert ray_workers._free_gpus(World()) == ["4", "5", "6"]


def test_a_worker_whose_store_has_gone_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine dies its worker may still say that: an error of Ray's has no number, one of the disk has."""
    collector, replaced = object.__new__(RayCollector), list[str]()
    collector.config, collector.seats, collector.waiting = TrainConfig(), [Seat(None, None, {"ref": "unit"})], []  # type: ignore[dict-item]
    monkeypatch.setattr(ray_workers.ray, "wait", lambda refs, **_: (refs, []))
    monkeypatch.setattr(collector, "_replace", lambda seat, why: replaced.append(why))

    def listen(cause: Exception) -> None:
        error = ray.exceptions.RayTaskError("roll_out", "", cause)
        monkeypatch.setattr(ray_workers.ray, "get", lambda ref: raised(error))
        assert collector._listen()

    listen(OSError("Broken pipe"))
    listen(ray.exceptions.TaskCancelledError(error_message="by hand"))
    listen(ray.exceptions.ObjectLostError("ab" * 28, None, ""))
    assert replaced[:2] == ["Broken pipe", "by hand"] and len(replaced) == 3
    with pytest.raises(OSError, match="No space left"):
        listen(OSError(28, "No space left on device"))
    with pytest.raises(ValueError, match="must be importable there: System error: No module named 'mine'"):
        listen(ray.exceptions.RaySystemError("No module named 'mine'"))


def test_the_last_of_too_many_lost_workers_says_what_it_was_at() -> None:
    """Else a reward that hangs, or a start that takes longer than the time allowed, would be anything."""
    unit = Unit(3, [Prompt("train-9", "", place="my.jsonl, line 10"), Prompt("train-10", "")], 0, [])
    said = {
        "as it started": Seat(None, object()),
        "on step 3 from my.jsonl, line 10 on": Seat(None, None, {"ref": unit}),
    }  # type: ignore[dict-item]
    for words, seat in said.items():
        collector = object.__new__(RayCollector)
        collector.seats, collector.lost = [seat], ray_workers.MAX_LOSSES
        with pytest.raises(ValueError, match=rf"6 were lost in a row, the last {words}: no answer; Ray's logs"):
            collector._replace(seat, "no answer")


def test_each_worker_that_is_lost_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that hangs costs half an hour, and Ray says nothing of it."""
    collector = object.__new__(RayCollector)
    collector.lost, collector.waiting = 0, []
    monkeypatch.setattr(ray_workers.ray, "kill", lambda actor: None)
    monkeypatch.setattr(collector, "_seat", lambda: Seat(None, object()))
    for count in (1, 2):  # a warning of the same words would not be shown again
        collector.seats = [Seat(None, None, {"ref": Unit(3, [Prompt("train-9", "")], 0, [])})]  # type: ignore[dict-item]
        with pytest.warns(UserWarning, match=rf"lost on step 3 from train-9 on: no answer; .* \({count} of 5 in a row"):
            collector._replace(collector.seats[0], "no answer")


class StatusError(Exception):
    """Made as clients of APIs make theirs: neither pickle nor Ray can make it again."""

    def __init__(self, *, response: int) -> None:
        super().__init__(f"status {response}")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StatusError(response=500), "RuntimeError('StatusError: status 500')"),
        (OSError(28, "No space"), "OSError(28, 'No space')"),
        (KeyError("column"), "KeyError('column')"),
    ],
)
def test_an_error_that_cannot_travel_leaves_a_worker_in_words(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's words for it were those of a lost worker, and the run went on to lose all."""
    worker = object.__new__(ray_workers.Worker)
    worker.version, worker.policy, worker.task, worker.config = 0, None, None, TrainConfig()  # type: ignore[assignment]
    monkeypatch.setattr(ray_workers, "roll_out", lambda *_: raised(error))
    monkeypatch.setattr(worker, "_open", lambda *_: raised(error))
    for call in (lambda: worker.roll_out(Unit(0, [], 0, [])), lambda: worker.open("", {}, None)):
        with pytest.raises(Exception) as caught:
            call()
        assert repr(caught.value) == said and ray.cloudpickle.loads(ray.cloudpickle.dumps(caught.value))


def raised(error: Exception) -> object:
    raise error


def test_a_share_goes_to_the_worker_that_will_be_free_first() -> None:
    """Of those with equally much to do, to the one that began first, not to one that was just given something."""
    given: list[tuple[str, object]] = []

    @dataclass
    class Fake:
        """An actor, and the method of it that is asked for."""

        name: str

        @property
        def roll_out(self) -> Fake:
            return self

        def remote(self, unit: object) -> object:
            given.append((self.name, unit))
            return object()

    collector = object.__new__(RayCollector)
    collector.seats = [Seat(Fake(name), None) for name in ("idle", "late", "early")]
    for seat, heard in zip(collector.seats[1:], (20.0, 10.0), strict=True):
        seat.units, seat.heard = {object(): object()}, heard  # type: ignore[dict-item]
    collector.waiting = [1, 2]  # type: ignore[list-item]
    collector._give()
    assert given == [("idle", 1), ("early", 2)]
