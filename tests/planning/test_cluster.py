"""The simulation of rollout workers: closed forms, a naive twin, and what a command says."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from helpers import is_picture
from planning.test_plan import CONFIG, H100

from diffpo.cli import main
from diffpo.planning.cluster import Split, calls_of, decode_seconds, simulate, split_of, splits_of
from diffpo.planning.plan import find_start, plan


def seconds_by_call(calls: list[int], slots: int, row: float, call: float) -> float:
    """The slow twin of `decode_seconds`: call after call."""
    waiting, rows, seconds = list(calls), list[int](), 0.0
    while waiting or rows:
        while waiting and len(rows) < slots:
            rows.append(waiting.pop(0))
        seconds += max(call, row * len(rows))
        rows = [left - 1 for left in rows if left > 1]
    return seconds


@pytest.mark.parametrize("slots", [1, 3, 8, 100])
def test_decoding_takes_what_its_calls_take(slots: int) -> None:
    random = Random(slots)
    calls = [random.randint(1, 30) for _ in range(20)]
    found = decode_seconds(calls, slots, lambda rows: max(2.0, 0.5 * rows))
    assert found == pytest.approx(seconds_by_call(calls, slots, 0.5, 2.0))
    assert decode_seconds([], slots, float) == 0


@pytest.mark.parametrize(
    ("lag", "rollouts", "update", "step"),
    [(0, 3.0, 1.0, 4.0), (1, 3.0, 1.0, 3.0), (1, 1.0, 3.0, 3.0), (2, 2.0, 2.0, 2.0)],
)
def test_steps_of_equal_shares(lag: int, rollouts: float, update: float, step: float) -> None:
    """Without a lag rollouts and updates take turns; with one a step takes as long as the longer."""
    seconds, idle_workers, idle_trainers = simulate([[rollouts, rollouts]] * 50, 2, update, lag, warm=10)
    assert seconds == pytest.approx(step)
    assert (idle_workers, idle_trainers) == pytest.approx((1 - rollouts / step, 1 - update / step))


def seconds_by_tick(shares: list[list[int]], workers: int, update: int, lag: int) -> float:
    """The slow twin of `simulate`: second after second, every worker and the trainer do what they have to."""
    queues = [list[list[int]]() for _ in range(workers)]  # [step, seconds left, when it was begun]
    left, begun, trained, training, now = [len(share) for share in shares], 0, 0, 0, 0
    while True:
        if training == 0 and trained < len(shares) and begun > trained and left[trained] == 0:
            training = update
        while begun < len(shares) and begun - lag <= trained:
            for seconds in shares[begun]:
                queue = min(queues, key=lambda queue: (len(queue), queue[0][2] if queue else now))
                queue.append([begun, seconds, now])
            begun += 1
            if left[trained] == 0 and training == 0:
                training = update
        now += 1
        for queue in queues:
            if queue:
                queue[0][1] -= 1
                if queue[0][1] == 0:
                    left[queue.pop(0)[0]] -= 1
                    if queue:
                        queue[0][2] = now
        if training:
            training -= 1
            trained += training == 0
        if trained == len(shares):
            return now / trained


@pytest.mark.parametrize("lag", [0, 1, 2, 5])
@pytest.mark.parametrize("workers", [1, 3, 8])
def test_the_simulation_is_its_slow_twin(workers: int, lag: int) -> None:
    random = Random(lag)
    for update in (1, 4, 9):
        shares = [[random.randint(1, 12) for _ in range(min(workers, 5))] for _ in range(40)]
        assert simulate(shares, workers, update, lag)[0] == pytest.approx(seconds_by_tick(shares, workers, update, lag))


def test_workers_without_prompts_of_their_own_take_those_of_later_steps() -> None:
    """Four shares for eight workers: a lag gives the other four something to do."""
    steps = [simulate([[8.0] * 4] * 100, 8, 1.0, lag, warm=20)[0] for lag in (0, 1, 2)]
    assert steps == pytest.approx([9.0, 4.5, 4.0])


def test_a_longer_lag_fills_what_slow_answers_leave_idle() -> None:
    random = Random(0)
    shares = [[random.choice([1.0, 5.0]) for _ in range(4)] for _ in range(400)]
    steps = [simulate(shares, 4, 3.0, lag, warm=20)[0] for lag in (0, 1, 2, 4, 8)]
    assert steps == sorted(steps, reverse=True) and steps[1] > 1.2 * steps[4]
    assert steps[4] >= 3.0


def test_a_split_is_bound_by_who_waits_less() -> None:
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, lag=1))
    start = find_start(config)
    few, many = (split_of(config, start, H100, workers, lambda _: 128) for workers in (1, 16))
    alone = plan(config, start, replace(H100, nfe=128))
    rollouts = alone.phases[0].seconds
    assert few.seconds == pytest.approx(rollouts, rel=0.1) and few.bound == "rollouts"
    assert many.seconds == pytest.approx(alone.seconds - rollouts, rel=1e-6) and many.bound == "updates"
    assert many.seconds < few.seconds < alone.seconds
    waiting = replace(few, idle_workers=0.5, idle_trainers=0.6)
    assert waiting.bound == "slowest answers"


def test_a_sweep_is_never_slower_with_more_gpus() -> None:
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, lag=1, workers=3))
    (asked, *found), assumed = splits_of(config, find_start(config), H100, 32, "")
    assert isinstance(asked, Split) and (asked.workers, asked.trainers) == (3, 1)
    assert [split.total for split in found] == [2, 4, 8, 16, 32]
    seconds = [split.seconds for split in found]
    assert seconds == sorted(seconds, reverse=True) and "vary by 40%" in assumed


def test_calls_are_those_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"step": 0, "nfe": nfe} for nfe in (3, 5)]
    (tmp_path / "rollouts.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in rows).encode()))
    draw, assumed = calls_of(CONFIG, None, str(tmp_path))  # type: ignore[arg-type]
    assert {draw(Random(seed)) for seed in range(20)} == {3, 5} and "mean 4" in assumed
    with pytest.raises(ValueError, match=r"nfe_of = elsewhere: no rollouts there"):
        calls_of(CONFIG, None, "elsewhere")  # type: ignore[arg-type]
    main(["plan", "llada8b_countdown_diffpo", "--rollout.workers", "3", "--json"])
    plan = json.loads(capsys.readouterr().out)
    (split,) = plan["splits"]
    assert plan["seconds_per_step"] == split["seconds"], "the run's step is the one beside its workers"
    assert plan["days"] == pytest.approx(split["seconds"] * 625 / 86400)
    assert split["lag"] == 0 and split["workers"] == 3 and 0 < split["idle_trainers"] < 1
    picture = tmp_path / "sweep.png"
    main(["plan", "llada8b_countdown_diffpo", "--rollout.workers", "3", "--sweep", "4", "--picture", str(picture)])
    shown = capsys.readouterr().out
    assert "rollouts beside updates, rollout.lag = 0, simulated" in shown and " s a step beside 3 workers, " in shown
    assert is_picture(picture)
    with pytest.raises(SystemExit):
        main(["plan", "llada8b_countdown_diffpo", "--nfe-of", str(tmp_path)])
    assert "nfe_of does nothing without rollout.workers or sweep" in capsys.readouterr().err
    for most in ("1", "-3"):
        with pytest.raises(SystemExit):
            main(["plan", "llada8b_countdown_diffpo", "--sweep", most])
        said = capsys.readouterr().err
        assert f"--sweep must be >= 2, a GPU that makes rollouts and one that trains, got {most}" in said
