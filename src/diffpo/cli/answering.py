"""Commands that let a model answer: eval, sample, chat."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

from diffpo.cli.flags import Model
from diffpo.config import EvalConfig, LoadConfig, RolloutConfig, TaskConfig
from diffpo.config.idle import Idle, Knobs
from diffpo.files.places import BEST, find_policy, find_run, list_checkpoints, named, shortest
from diffpo.files.recipe import flatten
from diffpo.files.record import Record
from diffpo.view.terminal import show

if TYPE_CHECKING:
    from diffpo.processes.world import World


UNMERGED = {"rollout.merge_adapters": "outside of training"}


@dataclass(frozen=True)
class Eval(Knobs):
    """Measure accuracy against denoiser calls, for samplers and the frontier of fixed thresholds."""

    model: Model
    task: TaskConfig = field(default_factory=TaskConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    output: str = ""
    """Folder of completions, figures and a picture; an evaluation there goes on where it stopped, results of the
    model's former weights are set aside in it. Empty: eval in the run's folder, by step where the run is not at its
    end; runs/eval/NAME of a model that is no run."""
    seed: int = 0
    load: LoadConfig = field(default_factory=LoadConfig)

    def idle(self) -> Idle:
        return UNMERGED | {
            "rollout.sampler": "in eval, which measures eval.samplers and eval.gammas",
            "rollout.temperature": "in eval, which goes by eval.temperature",
            "rollout.gen_length rollout.canvas": bool(self.eval.gen_lengths) and "beside eval.gen_lengths",
        }

    def run(self) -> None:
        from diffpo.processes.world import World

        world = World.join(self.load.device)
        place, name = self._place()
        with world.owned(place):
            self._measure(world, place, name)

    def _place(self) -> tuple[Path, str]:
        """Where the results go, and what they are called should others take their place; "" for their date."""
        run, policy = find_run(Path(self.model)), find_policy(Path(self.model))[0]
        if run is None or not (run / "metrics.jsonl").is_file():
            return Path(self.output or Path("runs/eval", Path(self.model).name or "model")), ""
        step = policy.parent if policy.name == "policy" else policy
        if step.name == BEST:
            return Path(self.output or run / "eval" / BEST), ""
        if step.parent.name == "checkpoints":
            return Path(self.output or run / "eval" / step.name), step.name if self.output else ""
        newest = list_checkpoints(run / "checkpoints")
        return Path(self.output or run / "eval"), newest[0].name if newest else ""

    def _measure(self, world: World, place: Path, name: str) -> None:
        from diffpo.evaluation.evaluate import evaluate
        from diffpo.evaluation.figures import frontier_figure
        from diffpo.evaluation.log import AnswerLog
        from diffpo.evaluation.tables import evaluation_tables, side_by_side_table
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task
        from diffpo.tasks.chat import check_fit
        from diffpo.training.banner import check_named
        from diffpo.training.resume import digests
        from diffpo.view.drawing import save_figure

        check_named(self.task, self.model)
        task, lengths = load_task(self.task), self.eval.gen_lengths or (self.rollout.gen_length,)
        policy = load_policy(self.model, **vars(dataclasses.replace(self.load, device=str(world.device))))
        check_fit(task, policy.is_tiny)
        head = policy.sampler_head
        files = digests(self) | (digests(dataclasses.replace(Record(), **{head.kind: head.config})) if head else {})
        depends: dict[str, Any] = {"weights": policy.source and policy.source.fingerprint()}
        depends |= {f"{name} (file)": found for name, found in files.items() if name not in ("model", "load.adapter")}
        world.check_alike(self._settings(self.rollout) | depends | {"eval": self.eval})
        evaluations = {}
        for length in lengths:
            output = place / f"L{length}" if len(lengths) > 1 else place
            canvas = "" if self.eval.gen_lengths else self.rollout.canvas  # of the model's run, which gives way
            rollout = dataclasses.replace(self.rollout, gen_length=length, canvas=canvas)
            log = world.on_main(partial(AnswerLog, output, self._settings(rollout) | depends, place, name))
            if world.is_main and log.aside:
                print(f"{output} held results of other weights: they are in {log.aside} now")
            try:
                evaluation = evaluate(policy, task, self.eval, rollout, self.seed, log=log, world=world)
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted: {log.said_of_stop()}") from None
            if world.is_main:
                evaluation.save(output)
                save_figure(frontier_figure({self.model: evaluation}), output / "frontier.png")
                show(*evaluation_tables(evaluation))
                print(log.said_of_effort(evaluation.cost))
                print(f"saved {output}/evaluation.json, evaluation.csv, completions.jsonl, frontier.png")
                evaluations[output.name] = evaluation
        if len(evaluations) > 1:
            show(side_by_side_table(evaluations))

    def _settings(self, rollout: RolloutConfig) -> dict[str, Any]:
        """What an answer depends on."""
        task, decoding, load = map(dataclasses.asdict, (self.task, rollout, self.load))
        named = {"model": self.model, "task": task, "rollout": decoding, "load": load, "seed": self.seed}
        free = ("rollout.num_slots", "rollout.sampler", "rollout.temperature", "load.device")  # of speed, or of eval
        plain = {"temperature": self.eval.temperature, "full_canvas": self.eval.full_canvas}
        return plain | {name: value for name, value in flatten(named).items() if name not in free}


@dataclass(frozen=True)
class Compare:
    """Put saved evaluations side by side: base, d1 and DiFFPO in one table and one picture."""

    evaluations: Positional[tuple[str, ...]]
    """Output folders of `diffpo eval`, as FOLDER or NAME=FOLDER; a folder without a name is called by what tells it
    from the others."""
    output: str = ""
    """PNG of accuracy against NFE; none if empty."""

    def run(self) -> None:
        if not self.evaluations:
            raise ValueError("name what to compare: diffpo compare FOLDER NAME=FOLDER ...")

        from diffpo.evaluation.evaluate import Evaluation
        from diffpo.evaluation.figures import frontier_figure
        from diffpo.evaluation.paired import (
            check_same_prompts,
            differences,
            read_accuracies,
            read_decoding,
            read_judges,
            read_prompts,
        )
        from diffpo.evaluation.tables import difference_table, samples_table, side_by_side_table
        from diffpo.view.drawing import save_figure

        folders = self._folders()
        found = {name: Evaluation.load(folder) for name, folder in folders.items()}
        table = side_by_side_table(found)
        check_same_prompts({name: read_prompts(folder) for name, folder in folders.items()})
        show(table)
        if any(evaluation.num_samples > 1 for evaluation in found.values()):
            show(samples_table(found))
        first, *others = folders
        judge, before = read_judges(folders[first]), read_accuracies(folders[first])
        decoding = read_decoding(folders[first])
        for name in others:
            own = read_judges(folders[name])
            if changed := [key for key in judge if own and own[key] != judge[key]]:
                print(f"{name}: its verdicts are not those of {first}: other settings or code ({', '.join(changed)})")
            asked = read_decoding(folders[name])
            changed = [key for key, value in decoding.items() if asked.get(key, value) != value]
            if changed:
                values = ", ".join(f"{key} {asked[key]!r} for {decoding[key]!r}" for key in changed)
                print(f"{name}: decoded otherwise than {first}: {values}")
        changes = {name: differences(before, read_accuracies(folders[name])) for name in others}
        if any(changes.values()):
            show(difference_table(first, changes))
        for name in others:
            if not changes[name]:
                said = "completions.jsonl has no prompt that both answered by one sampler"
                print(f"{name}: not paired with {first}: {said}")
        if self.output:
            save_figure(frontier_figure(found), self.output)
            print(f"saved {self.output}")

    def _folders(self) -> dict[str, Path]:
        """Name and folder of each evaluation; an evaluation at several lengths is one of each."""
        folders: dict[str, Path] = {}
        entries = list(map(named, self.evaluations))
        unnamed = [path for name, path in entries if not name]
        short = dict(zip(unnamed, shortest(list(map(Path, unnamed))), strict=True))
        for name, path in entries:
            lengths = [part for part in Path(path).glob("L*") if part.name[1:].isdecimal()]
            parts = [Path(path), *sorted(lengths, key=lambda part: int(part.name[1:]))]
            parts = [part for part in parts if (part / "evaluation.json").is_file()]
            if Path(path).is_file():
                raise ValueError(
                    f"{path}: a file, where the folder of an evaluation is wanted: name {Path(path).parent}"
                )
            if not parts:
                lacks = "no evaluation.json in it" if Path(path).is_dir() else "no such folder"
                raise ValueError(f"{path}: {lacks}; {_where_one_is(Path(path))}")
            for part in parts:
                label = name or short[path]
                label += f" {part.name}" if part != Path(path) else ""
                if label in folders:
                    raise ValueError(f"{label}: named twice; give each evaluation a name of its own, NAME=FOLDER")
                folders[label] = part
        return folders


@dataclass(frozen=True)
class Sample(Knobs):
    """Answer a prompt and show the unmasking in colour, call by call."""

    model: Model
    prompt: Annotated[Positional[str], tyro.conf.arg(metavar="[PROMPT]")] = ""
    """What to answer; left out: test prompts of the task."""
    num: int = 1
    """Test prompts to answer when none is given."""
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    task: TaskConfig = field(default_factory=TaskConfig)
    seed: int = 0
    delay: float = 0.3  # seconds each call stays on screen
    load: LoadConfig = field(default_factory=LoadConfig)

    def idle(self) -> Idle:
        return UNMERGED | {"num": bool(self.prompt) and "beside a prompt"}

    def run(self) -> None:
        from diffpo.evaluation.display import show_unmasking
        from diffpo.models.policy import load_policy
        from diffpo.tasks import load_task
        from diffpo.training.banner import check_named
        from diffpo.types import Prompt

        if self.num < 1:
            raise ValueError(f"--num must be >= 1, got {self.num}")
        if not self.prompt:
            check_named(self.task, self.model)
        own_code = bool(self.task.reward) or ".py:" in self.task.name
        # a prompt of the user's own is not judged: rewards that a policy names may have stayed where it was trained
        wanted = self.task != TaskConfig() and not (self.prompt and own_code)
        task = load_task(self.task) if wanted else None
        policy = load_policy(self.model, **vars(self.load))
        prompts = (
            [Prompt("prompt", self.prompt, place=f"{self.prompt!r:.60}")]
            if self.prompt or task is None
            else task.prompts("test", self.num)
        )
        for prompt in prompts:
            show_unmasking(policy, task, prompt, self.rollout, self.seed, self.delay)


@dataclass(frozen=True)
class Chat(Knobs):
    """Talk with a model and watch it unmask its answers. /reset forgets the conversation, /exit or Ctrl-D leaves."""

    model: Positional[str]
    """A run, checkpoint or adapter folder, or a model on the Hugging Face hub; it needs a chat template."""
    system: str = ""  # system message at the head of the conversation
    rollout: RolloutConfig = field(default_factory=lambda: RolloutConfig(temperature=0.0))
    seed: int = 0
    delay: float = 0.0  # seconds each call stays on screen
    load: LoadConfig = field(default_factory=LoadConfig)

    def idle(self) -> Idle:
        return UNMERGED | {"rollout.chat_template": "in a chat, whose messages go through the template"}

    def run(self) -> None:
        from diffpo.evaluation.display import show_turn
        from diffpo.models.policy import load_policy

        policy = load_policy(self.model, **vars(self.load))
        if not policy.tokenizer.chats:
            raise ValueError(
                f"{self.model} has no chat template: diffpo sample {quote(self.model)} PROMPT takes plain text"
            )
        start = [{"role": "system", "content": self.system}] if self.system else []
        messages = list(start)
        while (line := _ask()) != "/exit":
            if line == "/reset":
                messages = list(start)
            elif line:
                asked = [*messages, {"role": "user", "content": line}]
                try:
                    answer = show_turn(policy, asked, self.rollout, self.seed, self.delay)
                except ValueError as error:  # too long, say: whoever sits there goes on from the turn before
                    if not sys.stdin.isatty():
                        raise
                    print(f"diffpo: {error}; or /reset", file=sys.stderr)
                else:
                    messages = [*asked, {"role": "assistant", "content": answer.text}]


def _where_one_is(folder: Path) -> str:
    """Where the evaluation of a folder is that holds none itself, or the command that makes it."""
    if (folder / "eval" / "evaluation.json").is_file():
        return f"{folder}/eval has one"
    if find_run(folder):
        return f"diffpo eval {quote(str(folder))} makes {folder}/eval"
    return f"diffpo eval MODEL --output {quote(str(folder))} makes one"


def _ask() -> str:
    """A line from the user; the end of the input is a wish to leave."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        print(end="\n" if sys.stdin.isatty() else "")  # Ctrl-D leaves the cursor behind the prompt
        return "/exit"
