"""Every data set of reasoning-gym with its own answers: which of them its scorer does not find right, and why.

    python benchmarks/reasoning_gym_answers.py [--items 10] [NAME ...]

An item's answer is given in the form that prompts ask for, and judged as a completion is. Beside it stands what the
scorer says of the bare answer: where that is below 1 too, the cause lies upstream. Every item is made twice, by two
workers and in another order, and must be the same. docs/tasks.md lists what does not score 1.
"""

from __future__ import annotations

import argparse
import sys

from diffpo.processes.worker import Worker
from diffpo.tasks import load_task
from diffpo.tasks.gym import MAKE_LIMIT, TIME_LIMIT, dataset_names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--items", type=int, default=10)
    options = parser.parse_args()
    failed, other = 0, Worker("diffpo.tasks.gym_worker", TIME_LIMIT)
    for name in options.names or dataset_names():
        try:
            task = load_task(f"reasoning_gym:{name}")
            prompts = task.prompts("train", options.items)
        except ValueError as error:
            failed += 1
            print(f"{name}: {error}", flush=True)
            continue
        again = [other.ask(["item", name, prompt.columns["seed"]], MAKE_LIMIT) for prompt in reversed(prompts)][::-1]
        same = sum(
            found is not None and found["question"] == prompt.columns["question"]
            for found, prompt in zip(again, prompts, strict=True)
        )
        ours, theirs, unanswered = [], [], 0
        for prompt in prompts:
            answer = prompt.columns["answer"]
            unanswered += answer is None
            ours.append(task.verify(prompt, f"So.\n</reasoning>\n<answer>\n{answer}\n</answer>").reward or 0.0)
            theirs.append(
                other.ask(["score", name, prompt.columns["seed"], str(answer), TIME_LIMIT], MAKE_LIMIT) or 0.0
            )
        right = sum(score >= 1 for score in ours)
        if right < len(prompts) or same < len(prompts):
            failed += 1
            bare = sum(score >= 1 for score in theirs)
            none = f", {unanswered} have no answer" if unanswered else ""
            print(
                f"{name}: {right} of {len(prompts)} right, {bare} bare, {same} the same when made again{none}",
                flush=True,
            )
    print(f"{len(options.names or dataset_names())} data sets, {failed} listed")
    sys.exit(0)


if __name__ == "__main__":
    main()
