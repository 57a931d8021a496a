"""The runner: each cell a process of one thread, several at a time; what is done is skipped, what fails is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffpo.config import EvalConfig, RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.folder import owned, write_text
from diffpo.files.recipe import flatten, from_dict, read_json
from diffpo.lab.study.origin import num_cores
from diffpo.lab.study.plan import Cell, Study
from diffpo.lab.study.summary import Trials, figures, summarize
from diffpo.training.resume import digest, digests
from diffpo.view.progress import Progress

COMMAND = (sys.executable, "-m", "diffpo.lab.study.cell")
"""Runs the cell in the folder that follows."""
TAIL = 12
"""Lines of a failed cell's log that are shown."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


def run_study(study: Study, folder: Path, jobs: int = 0, device: str = "cpu") -> dict[str, Any]:
    """Run what is missing below `folder`, with models on `device`, and return the summary.

    ValueError names cells that failed or differ, or who else is at work in the folder.
    """
    with owned(folder):
        return _run_study(study, Runner(study, folder.resolve(), jobs or num_cores(), device=device))


def _run_study(study: Study, runner: Runner) -> dict[str, Any]:
    started = time.perf_counter()
    tuning = {arm.name: study.tune_cells(arm) for arm in study.arms}
    bases = study.base_cells()
    trials = [cell for found in tuning.values() for _, cells in found for cell in cells]
    runner.check(bases)
    total = len(bases) + len(trials) + len(study.arms) * len(study.config.seeds)
    with Progress(study.name, total, unit="cell") as progress:
        runner.run(bases, progress)
        runner.check(trials)
        runner.run(trials, progress)
        lost = {cell.name.partition("/")[0] for cell in trials if cell.name in runner.failed}
        ready = [arm for arm in study.arms if arm.name not in lost]  # without its trials nothing can be chosen
        chosen = {arm.name: runner.choose(tuning[arm.name]) for arm in ready}
        cells = {arm.name: study.cells(arm, chosen[arm.name]) for arm in ready}
        # seed by seed, so that a study that is cut short has whole seeds
        by_seed = [cell for of_seed in zip(*cells.values(), strict=True) for cell in of_seed]
        runner.check(by_seed)
        runner.run(by_seed, progress)
    runner.raise_failures()
    seconds = time.perf_counter() - started
    whole = len(runner.started) == total  # what an earlier call had done, this one did not wait for
    wall = {"wall_seconds": round(seconds, 1) if whole else None, "jobs": runner.jobs}
    return summarize(study, runner.folder, cells, tuning, chosen) | wall


class Runner:
    """Runs cells below a folder and remembers which failed."""

    def __init__(self, study: Study, folder: Path, jobs: int, device: str = "cpu") -> None:
        self.study, self.folder, self.jobs, self.device = study, folder, jobs, device
        self.failed: dict[str, str] = {}
        """Cell to why."""
        self.processes: set[subprocess.Popen] = set()
        self.started: set[str] = set()
        """Cells that this runner ran, rather than found done."""

    def depends(self, cell: Cell) -> dict[str, Any]:
        """What a cell's result depends on beside its settings: digests of the files that these, and how it is measured,
        name; and of the policy that it starts from, where the study makes that itself."""
        study, train = self.study, cell.train or self.study.train
        train = replace(train, eval=EvalConfig(samplers=(*cell.samplers, *cell.track)))
        found = {f"train.{name}": [*files.values()] for name, files in digests(train).items()}
        if study.sft is None:
            return {"inputs": {"train.model": [study.train.model]} | found}
        found.pop("train.model", None)
        found |= {f"sft.{name}": [*files.values()] for name, files in digests(study.sft).items()}
        start = self.folder / cell.start / "run" / "policy"
        return {"inputs": found} | ({"start_weights": digest(start)} if cell.start and start.is_dir() else {})

    def check(self, cells: Sequence[Cell]) -> None:
        """ValueError if a folder holds a cell of other settings."""
        for cell in cells:
            path = self.folder / cell.name / "cell.json"
            if path.is_file():
                before, now = completed(read_json(path)), completed(cell.settings())
                depends = self.depends(cell).items()
                now |= {name: value for name, value in depends if name in before}  # earlier versions wrote none
                old, new = flatten({name: before.get(name) for name in now}), flatten(now)
                if changed := [name for name in old | new if old.get(name) != new.get(name)]:
                    raise ValueError(
                        f"{path.parent} was made with other settings ({', '.join(changed)}): choose another output, "
                        "or remove that folder"
                    )

    def run(self, cells: Sequence[Cell], progress: Progress) -> None:
        """Run the cells that are not done, `jobs` at a time; those whose start failed are left out."""
        # its threads start the cells, which inherit what they block: Ctrl-C in a terminal reaches a cell too, and with
        # the runner's own word would be a second wish, which stops at once
        missing = [cell for cell in cells if not (self.folder / cell.name / "result.json").is_file()]
        for _ in range(len(cells) - len(missing)):
            progress.found()
        with ThreadPoolExecutor(self.jobs, "", signal.pthread_sigmask, (signal.SIG_BLOCK, {signal.SIGINT})) as pool:
            futures = {pool.submit(self._run_cell, cell): cell for cell in missing}
            try:
                for future in as_completed(futures):
                    cell, failure = futures[future], future.result()
                    if failure:
                        self.failed[cell.name] = failure
                        progress.note(f"{cell.name} failed: {failure}")
                    progress.advance(**({"failed": len(self.failed)} if self.failed else {}))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                self._stop()  # each saves a checkpoint and ends
                try:
                    pool.shutdown()
                except KeyboardInterrupt:
                    self._stop()  # at once
                raise

    def _stop(self) -> None:
        for process in list(self.processes):
            process.terminate()

    def _run_cell(self, cell: Cell) -> str:
        """Run one cell to its end; "" or why it failed."""
        folder = self.folder / cell.name
        if cell.start in self.failed:
            return f"its start, {cell.start}, failed"
        self.started.add(cell.name)
        folder.mkdir(parents=True, exist_ok=True)
        model = str(self.folder / cell.start / "run") if cell.start else ""
        if not self.study.sft:
            model = self.study.train.model
        settings = cell.settings() | {"model": model, "device": self.device} | self.depends(cell)
        write_text(folder / "cell.json", json.dumps(settings, indent=2) + "\n")
        # stdin is never written to: it ends with this process, however that ends
        command, env, pipe = [*COMMAND, str(folder)], os.environ | ONE_THREAD, subprocess.PIPE
        with (
            (folder / "log.txt").open("w") as log,
            subprocess.Popen(command, stdin=pipe, stdout=log, stderr=subprocess.STDOUT, env=env) as process,
        ):
            self.processes.add(process)
            try:
                status = process.wait()
            finally:
                self.processes.discard(process)
        if status == 0:
            return ""
        with (folder / "log.txt").open(errors="replace") as log:
            tail = "".join(deque(log, TAIL)).rstrip()
        return f"exit status {status}; the end of {folder / 'log.txt'}:\n{tail}"

    def choose(self, tuning: Trials) -> dict[str, Any]:
        """The values whose metric has the best mean over the tuning seeds; the first of equals. {} if none is tuned."""
        metric = self.study.config.tune.metric

        def mean(trial: tuple[Mapping[str, Any], Sequence[Cell]]) -> float:
            found = [figures(self.folder / cell.name, cell, self.study) for cell in trial[1]]
            if missing := next((figure for figure in found if metric not in figure), None):
                raise ValueError(f"tune.metric {metric!r} is not measured: one of {', '.join(missing)}")
            return sum(figure[metric] for figure in found) / len(found)

        return dict(max(tuning, key=mean)[0]) if tuning else {}

    def raise_failures(self) -> None:
        """ValueError that names the cells that failed."""
        if self.failed:
            names = ", ".join(self.failed)
            raise ValueError(
                f"{len(self.failed)} cells failed ({names}); each has its log.txt in {self.folder}. Mend the cause and "
                "run the study again: what is done is kept"
            )


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with those at their default that did not exist when they were written."""
    kinds = {"sft": SftConfig, "train": TrainConfig, "task": TaskConfig, "rollout": RolloutConfig}
    found = dict(settings)
    for name, kind in kinds.items():
        if found.get(name):
            with suppress(ValueError):  # a setting that is no more: it shows as a difference
                found[name] = asdict(from_dict(kind, found[name]))
    return json.loads(json.dumps(found))
