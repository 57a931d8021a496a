"""The command line: every knob of the configs is a flag; heavy imports wait until a command runs."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from diffpo.cli.analyzing import Analyze
from diffpo.cli.answering import Chat, Compare, Eval, Sample
from diffpo.cli.benching import Bench
from diffpo.cli.flags import chain, given, read, typed
from diffpo.cli.grading import Grade
from diffpo.cli.models import Convert, Export, Inspect
from diffpo.cli.planning import Plan, PlanSft
from diffpo.cli.recipes import Recipes
from diffpo.cli.serving import Generate, Serve
from diffpo.cli.studying import Report, Study
from diffpo.cli.training import Demo, Sft, Train, is_main
from diffpo.config import ServeConfig, SftConfig, TaskConfig, TrainConfig, suggest
from diffpo.files.places import find_policy
from diffpo.files.recipe import find_recipe, find_training, kind_at, load_config, read_json
from diffpo.files.record import Record, decoding
from diffpo.files.shipped import defaults_for, is_published
from diffpo.processes.errors import OTHER_ENDED, is_of_another, is_on_all, on_all
from diffpo.processes.signals import ASKED, on_stop

_TRAINING = (Demo, Recipes, Convert, Sft, Plan, Bench, Train)
_ANSWERING = (Eval, Compare, Sample, Chat, Serve, Generate)
_LOOKING_BACK = (Study, Analyze, Report, Grade, Inspect, Export)
COMMANDS: dict[str, type] = {kind.__name__.lower(): kind for kind in (*_TRAINING, *_ANSWERING, *_LOOKING_BACK)}
"""In the order of `diffpo --help`."""
SHARED = ("train", "sft", "eval")
"""Those that several processes of a launch make together."""
SPINS = "5000"
"""How long torch's threads on Linux (libgomp) wait for each other awake; they read it when torch is imported.

In its own 300,000 turns a thread without work keeps a core from the others, wherever another program takes one.
docs/benchmarks.md has the figures.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command; what a user can mend ends it with one line and exit status 2."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] == "--version":
        from diffpo import __version__

        print(f"diffpo {__version__}")
        return
    warnings.showwarning = _warn
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        if arguments[0] not in COMMANDS:
            raise ValueError(f"no command {arguments[0]!r}{suggest(arguments[0], COMMANDS)}")
        with on_stop(signal.default_int_handler, *ASKED):  # a scheduler's wish to stop is as Ctrl-C
            command = parse(*arguments)
            _check_alone(arguments[0])
            command.run()
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        sys.exit(141)
    except OSError as error:
        sys.exit(_fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 2, is_on_all(error)))
    except (ValueError, FloatingPointError, MemoryError) as error:
        sys.exit(_fail(str(error), 2, is_on_all(error)))
    except KeyboardInterrupt as stop:
        sys.exit(_fail(str(stop) or "interrupted", 130))
    except Exception as error:  # Ctrl-C in the middle of an import comes out as another error
        if is_of_another(error):
            sys.exit(_fail(OTHER_ENDED, 1))
        if not any(isinstance(cause, KeyboardInterrupt) for cause in chain(error)):
            raise
        sys.exit(_fail("interrupted", 130))


def _check_alone(command: str) -> None:
    """ValueError where a launcher started several of a command that shares no work: each would do and write all."""
    several = os.environ.get("WORLD_SIZE", "1")
    if command not in SHARED and several != "1" and "LOCAL_RANK" in os.environ:
        said = f"diffpo {command} is the work of one process, and {several} were launched: start it without a launcher"
        raise on_all(ValueError(said))


def _warn(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
    """What diffpo warns of is one line; a library's own warnings keep their place."""
    ours = category is UserWarning and f"{os.sep}diffpo{os.sep}" in filename
    line = f"diffpo: {message}" if ours else warnings.formatwarning(message, category, filename, lineno).rstrip()
    if is_main():
        print(line, file=sys.stderr)


def _fail(message: str, status: int, on_all: bool = False) -> int:
    if is_main():
        print(f"diffpo: {message}", file=sys.stderr)
    elif status == 2 and not on_all:  # what one process alone fails at nobody else would say
        print(f"diffpo: rank {os.environ['RANK']}: {message}", file=sys.stderr)
    return status


def usage() -> str:
    """What `diffpo --help` prints."""
    lines = ["usage: diffpo COMMAND [--help] [flags]", ""]
    lines += [f"  {name:<10}{command.__doc__}" for name, command in COMMANDS.items()]
    return "\n".join(lines)


def parse(command: str, *arguments: str) -> Any:
    """The command object that the arguments describe. The values of a recipe, or of a model's run, are defaults."""
    kind = COMMANDS[command]
    first = arguments[0] if arguments and not arguments[0].startswith("-") else ""
    if kind is Plan and (kind_at(first) == "sft" if first else "data" in typed(arguments)):
        kind = PlanSft
    parsed = read(kind, f"diffpo {command}", arguments, *_defaults(kind, first, arguments))
    named = vars(parsed).get("recipe", vars(parsed).get("model", first))
    if named != first:
        raise ValueError(f"{named}: write it first, before the flags: diffpo {command} {named} ...")
    return parsed


def _defaults(kind: type, first: str, arguments: Sequence[str]) -> tuple[Any, Callable[[Any], Any]]:
    """Values that flags override, and what makes the command's defaults of them."""
    if kind in (Sft, Plan, PlanSft, Bench, Train):
        config = SftConfig if kind in (Sft, PlanSft) else TrainConfig
        return _start(config, first, arguments), lambda config: kind(config=config)
    if kind in (Analyze, Chat, Eval, Sample) and first:
        return _from_policy(kind(model=first), arguments), lambda base: base
    if kind in (Serve, Generate) and first:
        chat = _from_policy(Chat(first), arguments)
        if kind is Serve:  # as it answers in a chat, to as many at once as the server's own default says
            config = ServeConfig()
            rollout = replace(chat.rollout, num_slots=config.rollout.num_slots)
            return replace(config, rollout=rollout, load=chat.load), lambda config: Serve(first, config)
        return chat, lambda chat: Generate(first, tyro.MISSING, tyro.MISSING, chat.rollout, chat.seed, chat.load)
    if kind in (Export, Inspect) and first:
        return kind(model=first), lambda base: base
    return (Demo() if kind is Demo else tyro.MISSING_NONPROP), lambda base: base


def _start(config: Any, first: str, arguments: Sequence[str]) -> Any:
    """The values that flags override: a recipe's, or those of the run in a folder, which `--resume` goes on with."""
    folder = Path(first).parent if Path(first).name == "config.json" else Path(first)
    if not first and "--resume" in arguments:
        folder = Path(given(arguments, "--output") or config().output)
    if (first or "--resume" in arguments) and (folder / "config.json").is_file():
        return replace(load_config(config, folder), output=str(folder))
    if first:
        return load_config(config, find_recipe(first))
    model = given(arguments, "--model") or config().model
    found = defaults_for(config, model, given(arguments, "--load.adapter"))
    if isinstance(found, TrainConfig) and (given(arguments, "--load.block-length") or _has_blocks(model)):
        found = replace(found, rollout=replace(found.rollout, block_length=None))  # the model's own
    return found


def _from_policy(command: Any, arguments: Sequence[str]) -> Any:
    """A model is asked what it was trained on, decoded as it was trained, and measured as its run measures it."""
    place = Path(given(arguments, "--load.adapter") or command.model)
    folder = find_policy(place)[0]
    record, (config, task) = Record.read(folder) or Record(), find_training(place)
    rollout = record.rollout or (config.rollout.decoding if config else None)
    in_blocks = rollout is None and (bool(given(arguments, "--load.block-length")) or _has_blocks(command.model))
    greedy = decoding(rollout, record.head is not None, _is_tiny(folder, task), in_blocks)
    drawn = rollout if rollout and isinstance(command, Analyze) else command.rollout
    known = {
        "rollout": replace(greedy, temperature=drawn.temperature),
        "task": record.task or task,
        "eval": record.eval or (config and config.eval),
        "objective": config and config.objective,
        "load": config and replace(config.load, adapter=None, revision=None, base=None, block_length=None),
    }
    return replace(command, **{name: value for name, value in known.items() if value and name in vars(command)})


def _has_blocks(model: str) -> bool:
    """Whether a model of somebody else's attends block by block, as far as its name or its config.json says."""
    if not is_published(model):
        return False
    path = find_policy(Path(model))[0] / "config.json"
    from diffpo.models.published import has_blocks  # as slow to import as the command itself

    return has_blocks(model, read_json(path) if path.is_file() else {})


def _is_tiny(folder: Path, task: TaskConfig | None) -> bool:
    """Whether a folder holds one of diffpo's own models."""
    file = folder / "config.json"
    return file.is_file() and ('"model_type": "diffpo"' in file.read_text() or task is not None)
