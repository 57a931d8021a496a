"""Recipes that ship are listed, printed and copied; defaults follow the model."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from helpers import GOLDEN

from diffpo.cli import main, parse
from diffpo.config import LoraConfig, ModelConfig, OptimConfig, SftConfig, ThresholdConfig, TrainConfig
from diffpo.files.recipe import find_recipe, kind_at, load_config
from diffpo.files.record import Base, Record
from diffpo.files.shipped import check_rate, defaults_for, is_published, list_recipes, maker_of
from diffpo.models.policy import create_policy

ROOT = Path(__file__).parents[2]
LLADA, DREAM = str(GOLDEN / "llada-tiny"), str(GOLDEN / "dream-tiny")
OWN, SFT = (
    load_config(cls, find_recipe(name)) for cls, name in ((TrainConfig, "llada8b_own"), (SftConfig, "llada8b_sft"))
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run that made a tiny model."""
    folder = tmp_path_factory.mktemp("tiny") / "run"
    create_policy("01", ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16)).save_pretrained(
        folder / "policy"
    )
    return str(folder)


def test_all_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes"])
    listed = capsys.readouterr().out
    files = [*(ROOT / "recipes").glob("*.toml"), *(ROOT / "recipes/accelerate").glob("*.yaml")]
    assert len(files) == len(list_recipes()) and all(file.stem in listed for file in files)
    recipes = {recipe.name: recipe for recipe in list_recipes()}
    assert recipes["sudoku_tiny"].needs == "diffpo sft sudoku_tiny_pretrain"
    assert recipes["llada8b_own"].needs == "one GPU of 80 GB, task.data, task.reward"
    assert recipes["sudoku_tiny_pretrain"].command == "sft" and recipes["ddp"].command == "accelerate launch"
    assert all(len(recipe.title) > 10 for recipe in recipes.values())


def test_a_recipe_is_printed_and_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "llada8b_own"])
    assert capsys.readouterr().out == (ROOT / "recipes/llada8b_own.toml").read_text()
    copy = tmp_path / "mine/my.toml"
    main(["recipes", "llada8b_own", "--copy", str(copy)])
    assert load_config(TrainConfig, copy) == OWN and f"diffpo train {copy}" in capsys.readouterr().out
    main(["recipes", "fsdp2", "--copy", str(tmp_path / "fsdp2.yaml")])
    for arguments, error in (
        (["llada8b_own", "--copy", str(copy)], "is there already"),
        (["lada8b_own"], "no such recipe; did you mean 'llada8b_own'?"),
        (["--copy", "x.toml"], "name the recipe to copy"),
    ):
        with pytest.raises(SystemExit):
            main(["recipes", *arguments])
        assert error in capsys.readouterr().err


def test_the_two_families_have_the_same_settings() -> None:
    for cls, name in ((TrainConfig, "own"), (SftConfig, "sft")):
        llada, dream = (load_config(cls, find_recipe(f"{family}_{name}")) for family in ("llada8b", "dream7b"))
        assert replace(dream, model=llada.model, output=llada.output) == llada


def test_what_is_published_is_known_by_its_folder(start: str, tmp_path: Path) -> None:
    adapter = shutil.copytree(GOLDEN / "llada-tiny/lora", tmp_path / "run/policy")
    (adapter / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{LLADA}"}}')
    (head := tmp_path / "head").mkdir()
    Record(threshold=ThresholdConfig(), base=Base(LLADA)).write(head)
    kinds = (LLADA, DREAM, "GSAI-ML/LLaDA-8B-Instruct", "someone/else", str(tmp_path / "run"), str(adapter), str(head))
    for model in kinds:
        assert is_published(model), model
    for model in (start, f"{start}/policy", "runs/sft", "missing", str(tmp_path), "./some/where"):
        assert not is_published(model), model


@pytest.mark.parametrize("model", [LLADA, DREAM, "GSAI-ML/LLaDA-8B-Base"])
def test_a_published_model_never_gets_a_tiny_models_defaults(model: str, start: str) -> None:
    own = ["--task.data", "my.jsonl", "--task.reward", "rewards.py:f"]
    for command in ("train", "plan"):
        config = parse(command, f"--model={model}", *own).config
        assert replace(config, model=OWN.model, output=OWN.output, task=OWN.task) == OWN
        assert config.task.name == "own" and config.lora.rank and config.output == "runs/train"
    config = parse("sft", "--model", model, "--data", "rows.jsonl").config
    assert replace(config, model=SFT.model, output=SFT.output, data="") == SFT
    assert parse("train", "--model", start).config == TrainConfig(model=start)
    assert parse("sft").config == SftConfig()


def test_adapters_are_gone_on_with_rather_than_added_to() -> None:
    assert parse("train", "--model", LLADA, "--load.adapter", f"{LLADA}/lora").config.lora == LoraConfig()
    assert defaults_for(SftConfig, LLADA, "an/adapter").optim == SFT.optim


def test_a_rate_that_nobody_chose_is_refused() -> None:
    adapters = LoraConfig(rank=4)
    for config in (TrainConfig(model=LLADA), SftConfig(model=LLADA), SftConfig(model=LLADA, lora=adapters)):
        with pytest.raises(
            ValueError, match=r"optim\.learning_rate = 0.00\d+ is the default for a tiny model.*recipe such as"
        ):
            check_rate(config)
    check_rate(TrainConfig(model=LLADA, lora=adapters))
    check_rate(TrainConfig(model=LLADA, optim=OptimConfig(1e-6)))
    check_rate(TrainConfig(model="runs/sft"))


def test_the_command_that_makes_a_start_is_named(capsys: pytest.CaptureFixture[str], tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments, maker in (
        (["train", "sudoku_tiny"], "diffpo sft sudoku_tiny_pretrain"),
        (["eval", "runs/sudoku_tiny"], "diffpo train sudoku_tiny"),
        (["eval", "runs/sudoku_tiny", "--task.seed", "3"], "diffpo train sudoku_tiny"),  # which names no task
    ):
        with pytest.raises(SystemExit):
            main(arguments)
        assert f"`{maker}` makes it" in capsys.readouterr().err
    assert maker_of("runs/elsewhere") == "" and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "error"), [(b"", "not JSON: Expecting value"), (b"[]", "not an object")])
def test_a_config_that_is_damaged_is_named(tmp_path: Path, content: bytes, error: str) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content)
    for read in (is_published, kind_at, partial(load_config, TrainConfig)):
        with pytest.raises(ValueError, match=re.escape(f"{file}: {error}")):
            read(str(tmp_path))


def test_rows_in_the_place_of_a_recipe_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(SystemExit):
        main(["sft", str(tmp_path / "rows.csv")])
    assert "a recipe is a .toml file, and rows are named by data or task.data" in capsys.readouterr().err


def test_a_recipe_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    for read in (kind_at, partial(load_config, TrainConfig)):
        with pytest.raises(ValueError, match=r"bytes.toml: not UTF-8, save it as UTF-8: 'utf-8' codec"):
            read(str(tmp_path / "bytes.toml"))
