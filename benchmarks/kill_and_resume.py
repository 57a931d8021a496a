"""Kill a training run with SIGKILL at random moments, resume each, and compare with the run that was never killed.

    python benchmarks/kill_and_resume.py --kills 20

Every resumed run must end with the same weights, bit for bit, and the same metrics but for wall-clock times.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZE = (
    "--prompts-per-step 4 --num-generations 4 --steps 20 --save-every 1 --num-threads 1 --optim.micro-batch-tokens 512"
)
SHAPE = "--shape.hidden-size 48 --shape.num-layers 1 --shape.num-heads 2 --shape.mlp-size 64"
TASK = "--task.name tiny_sudoku --task.easy 1 1 --task.hard 2 2"
PRETRAIN = (
    "--steps 120 --schedule-steps 300 --optim.learning-rate 6e-3 --batch-size 64 --num-examples 2000 --num-threads 1"
)


def diffpo(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "diffpo", *arguments]


def result(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    """Final weights and metrics of a run, without its timings."""
    weights = b"".join(path.read_bytes() for path in sorted((folder / "policy").glob("*.safetensors")))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return weights, [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def kill_and_resume(work: Path, kills: int, seed: int = 0, lag: int = 0) -> list[str]:
    """One line a kill: when it struck, from where the run went on, and whether the end is the same."""
    model = str(work / "model")
    pretrain = f"--output {model} {PRETRAIN} {SHAPE} {TASK}".split()
    subprocess.run(diffpo("sft", *pretrain), check=True, capture_output=True)
    command = diffpo("train", *f"--model {model} {SIZE} {TASK} --rollout.lag {lag}".split())
    started = time.perf_counter()
    subprocess.run([*command, "--output", str(work / "straight")], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    expected = result(work / "straight")
    moments, lines = random.Random(seed), []
    for kill in range(kills):
        output = work / f"killed_{kill}"
        process = subprocess.Popen(
            [*command, "--output", str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        moment = moments.uniform(0.3, 1.0) * seconds
        try:
            process.wait(moment)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        newest = max((path.name for path in output.glob("checkpoints/step_*")), default="none")
        done = subprocess.run([*command, "--output", str(output), "--resume"], capture_output=True, text=True)
        same = done.returncode == 0 and result(output) == expected
        lines.append(
            f"killed after {moment:5.2f} of {seconds:.2f} s, newest checkpoint {newest}"
            f": {'identical' if same else 'DIFFERENT ' + done.stderr[-300:]}"
        )
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lag", type=int, default=0, help="rollout.lag")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(Path(folder), options.kills, options.seed, options.lag)
    print("\n".join(outcome))
    print(f"{sum(line.endswith('identical') for line in outcome)} of {len(outcome)} identical")
    sys.exit(not all(line.endswith("identical") for line in outcome))
