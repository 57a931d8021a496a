"""The command line: help is light, dry runs touch nothing, and a mistake is one line that names input and mend."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from diffpo.cli import COMMANDS, SPINS, main, parse
from diffpo.config import CollectConfig, ModelConfig, SftConfig, TaskConfig, TrainConfig
from diffpo.files.recipe import from_dict, load_config
from diffpo.processes.errors import on_all
from diffpo.training.sft import fine_tune

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
SHAPE = ModelConfig(hidden_size=32, num_layers=1, num_heads=2, mlp_size=32)

Fail = Callable[..., str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test stands in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A policy for Sudoku that has learned next to nothing."""
    output = str(tmp_path_factory.mktemp("models") / "tiny")
    config = SftConfig(output=output, steps=1, batch_size=8, num_examples=16, shape=SHAPE)
    fine_tune(replace(config, task=TaskConfig("tiny_sudoku")), quiet=True)
    return output


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Run a command that must end with status 2 and silence on stdout; returns what it wrote on stderr."""

    def run(*arguments: object) -> str:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert ended.value.code == 2 and said.out == ""
        return said.err

    return run


@pytest.fixture
def line(fail: Fail) -> Fail:
    """As `fail`, where all that is said is one line."""

    def run(*arguments: object) -> str:
        said = fail(*arguments)
        assert said.startswith("diffpo: ") and said.endswith("\n") and said.count("\n") == 1, said
        return said.removeprefix("diffpo: ").strip()

    return run


def words(box: str) -> str:
    """The text in a box drawn around it."""
    return " ".join(box.translate({ord(sign): " " for sign in "│╭╮╰╯─"}).split())


# --- help --------------------------------------------------------------------------------------------------------


def test_help_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and str(command.__doc__) in shown for name, command in COMMANDS.items())
    main([])
    assert capsys.readouterr().out == shown
    main(["--version"])
    assert capsys.readouterr().out.startswith("diffpo 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: diffpo {command}") and "--config." not in shown


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["train", "sudoku_tiny", "--dry-run"], ["nope"]]
)
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from diffpo.cli import main
try:
    main({arguments})
except SystemExit:
    pass
print("heavy:", *({{"torch", "matplotlib", "accelerate"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy:\n")


@pytest.mark.parametrize("given", [None, "7"])
def test_threads_wait_awake_for_less_than_they_would_unless_told(
    given: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", given or "")
    if given is None:
        del os.environ["GOMP_SPINCOUNT"]
    main(["recipes"])
    assert os.environ["GOMP_SPINCOUNT"] == (given or SPINS)


def test_help_answers_at_once() -> None:
    def seconds() -> float:
        """Of the processor: other work beside it makes the command wait, and says nothing of it."""
        before = os.times()
        subprocess.run([sys.executable, "-m", "diffpo", "--help"], capture_output=True, check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


# --- recipes, flags, dry runs ------------------------------------------------------------------------------------


def kind_of(recipe: Path) -> tuple[str, type]:
    return ("sft", SftConfig) if recipe.stem.endswith(("_pretrain", "_sft")) else ("train", TrainConfig)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses_by_path_and_by_name(recipe: Path) -> None:
    command, config = kind_of(recipe)
    expected = load_config(config, recipe)
    assert expected != config()
    assert parse(command, recipe.stem).config == expected
    assert parse(command, str(recipe)).config == expected


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_prints_the_config_and_touches_no_disk(
    recipe: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, config = kind_of(recipe)
    main([command, recipe.stem, "--steps", "3", "--optim.learning-rate", "0.5", "--dry-run"])
    resolved = from_dict(config, json.loads(capsys.readouterr().out))
    assert resolved.steps == 3 and resolved.optim.learning_rate == 0.5
    assert resolved.output == load_config(config, recipe).output
    assert not list(elsewhere.iterdir())


def test_flags_override_the_recipe(elsewhere: Path) -> None:
    recipe = elsewhere / "mine.toml"
    recipe.write_text('steps = 5\nseed = 3\n[objective]\nloss = "clipped:0.5"\nbeta = 0.04\n[rollout]\nnum_slots = 7\n')
    flags = [
        "--seed",
        "4",
        "--objective.loss",
        "clipped:0.1",
        "--eval.gammas",
        "0.5",
        "--objective.importance-clamp",
        "inf",
    ]
    config = parse("train", str(recipe), *flags).config
    assert (config.steps, config.seed, config.objective.loss, config.objective.beta) == (5, 4, "clipped:0.1", 0.04)
    assert config.eval.gammas == (0.5,) and config.objective.importance_clamp == float("inf")
    assert config.rollout == CollectConfig(num_slots=7)


def test_of_a_flag_that_is_given_twice_the_last_counts() -> None:
    published = ["--model", "GSAI-ML/LLaDA-8B-Instruct"]
    assert parse("train", "--model", "runs/sft", *published).config == parse("train", *published).config


def test_a_run_folder_is_evaluated_as_it_was_trained(elsewhere: Path) -> None:
    run = {"task": {"name": "tiny_countdown"}, "rollout": {"block_length": 4, "temperature": 0.7}, "objective": {}}
    (elsewhere / "config.json").write_text(json.dumps(run))
    for command in ("eval", "sample"):
        parsed = parse(command, str(elsewhere))
        assert parsed.task.name == "tiny_countdown" and parsed.rollout.block_length == 4
        assert parse(command, str(elsewhere), "--task.name", "tiny_sudoku").task.name == "tiny_sudoku"
    assert parse("sample", str(elsewhere)).rollout.temperature == 0  # greedy unless asked


def test_a_model_without_a_head_is_decoded_greedily(elsewhere: Path) -> None:
    (elsewhere / "config.json").write_text('{"model_type": "diffpo"}')
    assert parse("sample", str(elsewhere)).rollout.sampler == "top_k:1"
    assert parse("sample", str(elsewhere), "--rollout.sampler", "steps:4").rollout.sampler == "steps:4"
    (elsewhere / "policy").mkdir()
    (elsewhere / "policy/diffpo.json").write_text('{"threshold": {}}')
    assert parse("sample", str(elsewhere)).rollout.sampler == "learned"


# --- mistakes ----------------------------------------------------------------------------------------------------


def test_unknown_command(line: Fail) -> None:
    assert line("trian").startswith("no command 'trian'; did you mean 'train'?")


def test_what_one_process_of_several_fails_at_is_said(line: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert line("train", "sudoku_tini").startswith("rank 3: sudoku_tini: no such recipe")


@pytest.mark.parametrize("command", [["generate", "model", "rows.jsonl", "--output", "answers.jsonl"], ["demo"]])
def test_work_of_one_process_is_not_launched_on_several(
    line: Fail, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "2")
    said = f"diffpo {command[0]} is the work of one process, and 2 were launched: start it without a launcher"
    assert line(*command).startswith(said)


@pytest.mark.parametrize(
    ("error", "rank", "said", "status"),
    [
        (on_all(ValueError("no room")), 0, "diffpo: no room\n", 2),
        (on_all(ValueError("no room")), 3, "", 2),  # the first has said so
        (RuntimeError("[x/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), 0, "launcher's, says why\n", 1),
        (RuntimeError("[x/gloo/transport/tcp/pair.cc:553] Connection closed by peer"), 3, "", 1),
    ],
)
def test_a_cause_is_said_once_in_a_launch(
    error: Exception,
    rank: int,
    said: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def raising(*_: object) -> None:
        raise error

    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr("diffpo.cli.parse", raising)
    with pytest.raises(SystemExit) as end:
        main(["train"])
    shown = capsys.readouterr().err
    assert end.value.code == status and shown.endswith(said) and shown.count("\n") == bool(said)


def test_unknown_recipe(line: Fail) -> None:
    assert line("train", "sudoku_tini").startswith("sudoku_tini: no such recipe; did you mean 'sudoku_tiny'?")
    assert line("sft", "missing/run.toml").startswith("missing/run.toml: no such recipe")
    Path("begun").mkdir()  # by a run that met a full disk
    assert line("train", "begun", "--resume").startswith("begun: no config.json: no run has made a step here; ")


def test_a_recipe_comes_before_the_flags(line: Fail) -> None:
    mend = "write it first, before the flags: diffpo train sudoku_tiny ..."
    assert line("train", "--dry-run", "sudoku_tiny") == f"sudoku_tiny: {mend}"
    assert line("eval", "--seed", "1", "runs/x").startswith("runs/x: write it first")


def test_a_recipe_of_the_other_command(line: Fail, model: str) -> None:
    assert line("train", "sudoku_tiny_pretrain").endswith(
        "sudoku_tiny_pretrain.toml: this is for diffpo sft, not for diffpo train"
    )
    assert line("sft", "llada8b_countdown_diffpo").endswith("this is for diffpo train, not for diffpo sft")
    mend = f"start from that run with model = {model}"
    assert line("train", model) == f"{model}/config.json: this is for diffpo sft, not for diffpo train: {mend}"


def test_a_model_is_no_run_and_no_recipe(line: Fail, model: str) -> None:
    policy = f"{model}/policy"
    expected = f"{policy}/config.json is a model's, not a run's: name its run, or start from it with model = {policy}"
    assert line("train", policy, "--resume") == line("sft", policy) == expected


def test_unknown_flag_suggests_the_nearest(fail: Fail) -> None:
    said = words(fail("train", "--rollout.temprature", "0.5"))
    assert "Unrecognized options: --rollout.temprature" in said
    assert "Perhaps you meant: --rollout.temperature" in said


@pytest.mark.parametrize(
    ("command", "flag", "ours"),
    [
        ("train", "--max_completion_length", "--rollout.gen-length"),
        ("train", "--objective.epsilon=0.2", "--objective.loss, such as clipped:0.2"),
        ("sft", "--max-seq-length=7", "--max-length"),
        ("eval", "--max-new-tokens", "--rollout.gen-length"),
    ],
)
def test_flags_of_other_trainers_are_told_their_own(line: Fail, model: str, command: str, flag: str, ours: str) -> None:
    said = line(command, *([model] if command == "eval" else []), flag, *([] if "=" in flag else ["3"]))
    assert said == f"{flag.partition('=')[0].replace('_', '-')}: no such flag; did you mean {ours}?"


def test_underscores_are_hyphens(fail: Fail) -> None:
    assert "--optim.learning-rate" in words(fail("train", "--learning_rate", "0.5"))
    assert "--stepz" in words(fail("train", "--threshold.epsilon", "0.1", "--stepz", "3"))  # the first is our own


def test_wrong_type_of_a_flag(fail: Fail) -> None:
    said = words(fail("train", "--steps", "many"))
    assert "--steps" in said and "'many'" in said


def test_unknown_sampler(fail: Fail, line: Fail, elsewhere: Path) -> None:
    said = words(fail("train", "--rollout.sampler", "entropy:0.1"))
    assert "rollout.sampler 'entropy:0.1': unknown rule; did you mean 'entropy_bound'?" in said
    (elsewhere / "run.toml").write_text("train = 'model'\n[rollout]\nsampler = 'top_k:none'\n")
    assert line("train", "run.toml") == (
        "run.toml: rollout.sampler 'top_k:none': write top_k:NUMBER, where NUMBER is positions a call, an integer >= 1"
    )


def test_values_that_contradict(line: Fail) -> None:
    assert line("sample", "m", "--num", "0") == "--num must be >= 1, got 0"
    assert "set rollout.sampler to learned" in line("train", "--rollout.sampler", "top_k:1")
    assert line("train", "--steps", "0") == "steps must be >= 1, got 0"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[rollout]\nsamplr = 'learned'", "unknown key 'rollout.samplr'; did you mean 'sampler'?"),
        ("[optim]\nlearning_rate = 'high'", "optim.learning_rate must be float, got 'high'"),
        ("steps = [", "Invalid value (at end of document)"),
    ],
)
def test_mistakes_in_a_toml(line: Fail, elsewhere: Path, text: str, error: str) -> None:
    (elsewhere / "run.toml").write_text(text)
    assert line("train", "run.toml").startswith(f"run.toml: {error}")


def test_unknown_task(line: Fail, model: str) -> None:
    expected = "unknown task 'tiny_sudok'; did you mean 'tiny_sudoku'?"
    for command in (["sft"], ["train", "--model", model], ["eval", model], ["sample", model]):
        assert line(*command, "--task.name", "tiny_sudok").startswith(expected)


def test_folders_without_a_model(line: Fail, elsewhere: Path) -> None:
    (elsewhere / "empty").mkdir()
    for folder in ("missing", "empty"):
        mend = f"{folder}: no checkpoint here (no config.json); `diffpo sft` makes one, and `diffpo convert` of a "
        mend += "causal model"
        for command in (["train", "--model", folder], ["eval", folder], ["sample", folder]):
            assert line(*command) == mend
    assert [path.name for path in elsewhere.iterdir()] == ["empty"]
    Path("run/checkpoints/step_000007").mkdir(parents=True)
    mend = "this holds a run's checkpoints: name one, such as run/checkpoints/step_000007, or its run"
    assert line("eval", "run/checkpoints") == f"run/checkpoints: {mend}"


def test_checkpoints_of_another_model(line: Fail, elsewhere: Path, model: str) -> None:
    other = Path(shutil.copytree(Path(model) / "policy", elsewhere / "other"))
    config = json.loads((other / "config.json").read_text())

    def evaluate(**changes: object) -> str:
        (other / "config.json").write_text(json.dumps(config | changes))
        return line("eval", other)

    expected = f"{other}/config.json: model_type 'bert' is not a family diffpo loads (allowed: diffpo, llada, Dream"
    assert evaluate(model_type="bert").startswith(expected)
    assert evaluate(model_type="llada").startswith(f"{other}: config.json lacks 'n_heads'")
    wider = evaluate(shape=config["shape"] | {"mlp_size": 48})
    assert wider.startswith(f"{other}: the weights do not fit config.json: ") and "expected (48, 32)" in wider
    (other / "config.json").write_text("{")
    assert line("eval", other).startswith(f"{other}/config.json: ")


def test_a_model_of_another_task(line: Fail, model: str) -> None:
    said = line("eval", model, "--task.name", "tiny_countdown", "--eval.num-prompts", "2")
    assert "-test-0: the model's alphabet lacks " in said and "(it has '01234=')" in said


def test_an_output_that_is_taken(line: Fail, elsewhere: Path, model: str) -> None:
    (elsewhere / "run").mkdir()
    (elsewhere / "run/config.json").write_text("{}")
    said = line("train", "--model", model, "--output", "run")
    assert said == "run already holds a run: resume it, or choose another output"
    assert "holds no demo: choose another output" in line("demo", "--output", "run")


def test_a_verifier_that_raises_names_the_row_and_keeps_its_traceback(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffpo.tasks.tiny_sudoku import TinySudoku

    monkeypatch.setattr(TinySudoku, "verify", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match=r"the verifier raised ZeroDivisionError.*'sudoku-test-0'") as caught:
        main(["eval", model, "--eval.num-prompts", "2"])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- what a run reads --------------------------------------------------------------------------------------------


@pytest.fixture
def own(elsewhere: Path) -> Path:
    """A folder with rows, rewards, and rows to fine-tune on."""
    (elsewhere / "my.jsonl").write_text("".join(f'{{"prompt": "What is {n} + 1?", "n": {n}}}\n' for n in range(20)))
    (elsewhere / "rewards.py").write_text("def right(completions, n):\n    return [1.0] * len(completions)\n")
    (elsewhere / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    return elsewhere


OWN = ("llada8b_own", "--task.data", "my.jsonl", "--task.reward")


@pytest.mark.parametrize("command", [("train", "--dry-run"), ("plan",)], ids=lambda command: command[0])
def test_rows_and_rewards_are_opened_beforehand(
    command: tuple[str, ...], own: Path, line: Fail, capsys: pytest.CaptureFixture[str]
) -> None:
    main([command[0], *OWN, "rewards.py:right", *command[1:]])
    assert "data    my: 18 prompts; rewards rewards.py:right" in capsys.readouterr().err
    assert line(command[0], *OWN, "nosuch.py:right", *command[1:]).startswith("nosuch.py: no such file")
    assert "has no function 'rihgt'; did you mean 'right'?" in line(command[0], *OWN, "rewards.py:rihgt", *command[1:])
    (own / "my.jsonl").write_text('{"prompt": "a"}\n{"prmpt": "b"}\n')
    assert line(command[0], *OWN, "rewards.py:right", *command[1:]).startswith("my.jsonl, line 2: ")


def test_rows_to_fine_tune_on_are_opened_beforehand(own: Path, line: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    main(["sft", "llada8b_sft", "--data", "rows.jsonl", "--dry-run"])
    assert "data    rows.jsonl: 1 row\n" in capsys.readouterr().err
    assert "nosuch.jsonl" in line("sft", "llada8b_sft", "--data", "nosuch.jsonl", "--dry-run")


def test_an_adapter_is_opened_beforehand(own: Path, line: Fail, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run as well."""
    (own / "x").mkdir()
    assert "adapter_config.json" in line("train", "sudoku_tiny", "--load.adapter", "x", "--dry-run")
    (own / "x/policy").mkdir()
    (own / "x/policy/adapter_config.json").write_text('{"r": 4, "base_model_name_or_path": "its/base"}')
    main(["train", "sudoku_tiny", "--load.adapter", "x", "--dry-run"])
    assert "adapter x: rank 4, of its/base" in capsys.readouterr().err
