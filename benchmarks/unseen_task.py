"""Learned thresholds on a task that reinforcement learning never showed: trained on Sudoku, measured on Latin squares.

    python benchmarks/unseen_task.py --output runs/unseen_task

The denoiser is pre-trained on both, told apart by the last character of the prompt; denoiser and head are then trained
on Sudoku alone. Writes benchmarks/results/unseen_task.json and prints the table of docs/results.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import torch
from samplers import HERE, measure, over_seeds, table

from diffpo import Evaluation, load_task
from diffpo.config import RolloutConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.recipe import find_recipe, from_dict, load_config
from diffpo.lab.study.origin import origin
from diffpo.models.policy import create_policy
from diffpo.tasks.tiny_sudoku import NUM_CELLS
from diffpo.training.loop import train
from diffpo.training.sft import fine_tune

LEVELS = {"easy": (2, 5), "hard": (8, 10)}
"""Blanks, as Sudoku has them."""
NUM_TRAIN_SQUARES = 400
NUM_EXAMPLES = 20_000
NUM_PROMPTS = 512
RULES = {"entropy_bound": (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), "top_k": (1, 2, 4)}
LABEL_NOISE = 0.2
MARK = "0"
"""Last character of a Latin square's prompt, where Sudoku has "="."""
RUN = {"prompts_per_step": 32, "steps": 48, "threshold": {"learning_rate": 0.03}}
"""The joint arm of studies/joint.toml."""


def latin_squares() -> list[str]:
    """The 576 squares of order 4 in a fixed, shuffled order: each row and column holds 1 to 4, boxes need not."""
    rows = ["".join(row) for row in itertools.permutations("1234")]
    squares = [""]
    for _ in range(4):
        squares = [s + row for s in squares for row in rows if all(row[c] not in s[c::4] for c in range(4))]
    return Random(0).sample(squares, len(squares))


def is_right(puzzle: str, answer: str) -> bool:
    """Whether an answer is a Latin square that keeps the clues."""
    units = [answer[4 * i : 4 * i + 4] for i in range(4)] + [answer[i::4] for i in range(4)]
    keeps = all(clue in ("0", digit) for clue, digit in zip(puzzle, answer, strict=False))
    return len(answer) == NUM_CELLS and keeps and all(sorted(unit) == list("1234") for unit in units)


def accuracy(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """The reward function of the task."""
    return [float(is_right(prompt[:NUM_CELLS], text)) for prompt, text in zip(prompts, completions, strict=True)]


def latin_row(squares: list[str], rng: Random) -> dict[str, str]:
    """A puzzle with one of its solutions."""
    level = rng.choice(list(LEVELS))
    square, blanks = rng.choice(squares), rng.sample(range(NUM_CELLS), rng.randint(*LEVELS[level]))
    puzzle = "".join("0" if cell in blanks else digit for cell, digit in enumerate(square))
    return {"prompt": puzzle + MARK, "completion": square, "level": level}


def noisy(row: dict[str, str], rng: Random) -> dict[str, str]:
    """The row with a share of its blanks answered at random."""
    cells = zip(row["prompt"], row["completion"], strict=False)
    digits = [rng.choice("1234") if c == "0" and rng.random() < LABEL_NOISE else d for c, d in cells]
    return row | {"completion": "".join(digits)}


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(folder: Path, seed: int) -> dict[str, Evaluation]:
    """One seed: pre-train on both tasks, train on Sudoku, measure on both."""
    torch.set_num_threads(1)
    rng, squares, sudoku = Random(seed), latin_squares(), load_task("tiny_sudoku")
    solved = [{"prompt": p.text, "completion": sudoku.solution(p)} for p in sudoku.prompts("train", NUM_EXAMPLES // 2)]
    solved += [latin_row(squares[:NUM_TRAIN_SQUARES], rng) for _ in range(NUM_EXAMPLES // 2)]
    write_rows(folder / "solved.jsonl", [noisy(row, rng) for row in rng.sample(solved, len(solved))])
    tested = Random("test")
    write_rows(folder / "latin.jsonl", [latin_row(squares[NUM_TRAIN_SQUARES:], tested) for _ in range(NUM_PROMPTS)])

    pretrain = load_config(SftConfig, find_recipe("sudoku_tiny_pretrain"))
    create_policy(sudoku.alphabet, pretrain.shape, seed).save_pretrained(folder / "fresh")
    data = {"model": str(folder / "fresh"), "data": str(folder / "solved.jsonl"), "gen_length": NUM_CELLS}
    changes = {"steps": 220, "schedule_steps": 600, "label_noise": 0.0}
    start = {"output": str(folder / "start"), "seed": seed, "num_threads": 1}
    fine_tune(from_dict(SftConfig, data | changes | start, base=pretrain), resume=True, quiet=True)
    joint = load_config(TrainConfig, find_recipe("sudoku_tiny"))
    places = {"model": start["output"], "output": str(folder / "joint"), "seed": seed, "num_threads": 1}
    train(from_dict(TrainConfig, RUN | places, base=joint), resume=True, quiet=True)

    latin = str(folder / "latin.jsonl")
    own = TaskConfig(name="own", data=latin, test_data=latin, reward=(f"{Path(__file__)}:accuracy",))
    tasks = {"Sudoku": load_task("tiny_sudoku"), "Latin squares": load_task(own)}
    rollout = RolloutConfig(gen_length=NUM_CELLS)
    return {
        f"{task}, {when}": measure(folder / policy, tasks[task], RULES, NUM_PROMPTS, rollout)
        for when, policy in (("before", "start"), ("after", "joint"))
        for task in tasks
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--output", type=Path, default=Path("runs/unseen_task"))
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.jobs) as pool:
        found = list(pool.map(run, [options.output / f"seed_{seed}" for seed in options.seeds], options.seeds))
    measured = {name: over_seeds([evaluations[name] for evaluations in found]) for name in found[0]}
    record = {"num_prompts": NUM_PROMPTS, "seeds": options.seeds, "origin": origin(), "measured": measured}
    (HERE / "results" / "unseen_task.json").write_text(json.dumps(record, indent=1) + "\n")
    for name, samplers in measured.items():
        print(name, {k: round(100 * samplers[k]["accuracy"]["mean"], 1) for k in ("top_k:1", "top_k:2", "top_k:4")})
    print(table(measured))


if __name__ == "__main__":
    main()
