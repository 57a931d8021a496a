"""What an evaluation depends on, and what a policy's folder says of itself wherever it lies."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN, tiny_policy
from safetensors.torch import load_file, save_file

from diffpo.cli import main, parse
from diffpo.config import LoraConfig, ModelConfig, RolloutConfig, TaskConfig, ThresholdConfig
from diffpo.evaluation.evaluate import evaluate
from diffpo.files.places import digest_of, matches
from diffpo.files.record import anchored
from diffpo.models.policy import Policy, create_policy, load_policy
from diffpo.rollout.local import sample
from diffpo.tasks import load_task

TRAINED = RolloutConfig(sampler="steps:2", gen_length=8, block_length=4)


def trained(folder: Path) -> Policy:
    policy = tiny_policy()
    policy.task, policy.rollout = TaskConfig(name="tiny_sudoku"), TRAINED
    policy.save_pretrained(folder)
    return policy


def test_sample_and_the_command_line_decode_as_in_training(tmp_path: Path) -> None:
    trained(tmp_path / "a")
    policy = load_policy(tmp_path / "a", device="cpu")
    policy.save_pretrained(tmp_path / "b")  # an export
    for folder in ("a", "b"):
        parsed = parse("eval", str(tmp_path / folder))
        assert replace(parsed.rollout, temperature=0.0) == load_policy(tmp_path / folder, device="cpu").decoding
        assert parsed.task == TaskConfig(name="tiny_sudoku")
    [completion] = sample(policy, ["012"])
    assert (len(completion.tokens), completion.nfe) == (8, 2)


def test_the_length_or_the_canvas_that_is_asked_for_takes_the_place_of_the_one_trained_on(tmp_path: Path) -> None:
    for folder, changes in {"long": {}, "formed": {"gen_length": None, "canvas": "{4}0{3}"}}.items():
        policy = tiny_policy()
        policy.rollout = replace(TRAINED, **changes)
        policy.save_pretrained(tmp_path / folder)
    for command in ("sample", "chat", "eval", "serve"):
        formed = parse(command, str(tmp_path / "long"), "--rollout.canvas", "{2}0{1}")
        long = parse(command, str(tmp_path / "formed"), "--rollout.gen-length", "12")
        asked = [vars(parsed).get("config", parsed).rollout for parsed in (formed, long)]
        assert [(each.canvas, each.gen_length) for each in asked] == [("{2}0{1}", None), ("", 12)]
    with pytest.raises(ValueError, match=r"rollout.gen_length does nothing beside rollout.canvas"):
        parse("sample", str(tmp_path / "long"), "--rollout.gen-length", "12", "--rollout.canvas", "{2}0{1}")


def test_a_head_alone_names_its_base_and_moves_with_it(tmp_path: Path) -> None:
    tiny_policy(learned=True).save_pretrained(tmp_path / "tree/base")
    policy = load_policy(tmp_path / "tree/base", device="cpu")
    policy.denoiser.requires_grad_(False)
    assert policy.trainable() == {}
    policy.save_pretrained(tmp_path / "tree/head", {})
    assert not list((tmp_path / "tree/head").glob("model*"))
    shutil.move(tmp_path / "tree", tmp_path / "moved")
    again = load_policy(tmp_path / "moved/head", device="cpu")
    assert torch.equal(again.denoiser.head.weight, policy.denoiser.head.weight) and again.sampler_head
    shutil.move(tmp_path / "moved/base", tmp_path / "away")
    with pytest.raises(ValueError, match=r"its base model .* is not there: name its place with load\.base"):
        load_policy(tmp_path / "moved/head", device="cpu")
    assert load_policy(tmp_path / "moved/head", device="cpu", base=tmp_path / "away").sampler_head


def test_a_head_on_adapters_moves_with_both(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "llada-tiny", tmp_path / "tree/base")
    shutil.move(tmp_path / "tree/base/lora", tmp_path / "tree/adapter")
    policy = load_policy(tmp_path / "tree/base", device="cpu", adapter=tmp_path / "tree/adapter")
    policy.save_pretrained(tmp_path / "tree/head", {})
    shutil.move(tmp_path / "tree", tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the weights below it are those that it was trained on
        again = load_policy(tmp_path / "moved/head", device="cpu")
    assert again.source and again.source.adapter == tmp_path / "moved/adapter"
    shutil.rmtree(tmp_path / "moved/adapter")
    with pytest.raises(ValueError, match=r"moved/head: the adapters that it stands on, .*adapter, are not there"):
        load_policy(tmp_path / "moved/head", device="cpu")


def test_rows_of_a_pattern_are_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder's own name may look like a pattern; what does is only what was written."""
    rows = tmp_path / "lr[1]" / "rows"
    rows.mkdir(parents=True)
    (rows / "part1.jsonl").touch()
    monkeypatch.chdir(rows.parent)
    data = anchored(TaskConfig("own", data="rows/part?.jsonl", reward=("number",))).data
    monkeypatch.chdir(tmp_path)
    assert data and matches(data) == [str(rows / "part1.jsonl")]


def test_another_base_is_a_warning(tmp_path: Path) -> None:
    tiny_policy(learned=True).save_pretrained(tmp_path / "base")
    load_policy(tmp_path / "base", device="cpu").save_pretrained(tmp_path / "head", {})
    other = tiny_policy(learned=True)
    with torch.no_grad():
        other.denoiser.head.weight.add_(1.0)
    other.save_pretrained(tmp_path / "base")
    with pytest.warns(UserWarning, match="whose weights have changed since"):
        load_policy(tmp_path / "head", device="cpu")


FLAGS = ["--task.name", "tiny_sudoku", "--eval.samplers", "top_k:8", "--eval.gammas", "--eval.num-prompts", "2"]


def tiny_sudoku() -> Policy:
    alphabet = load_task("tiny_sudoku").alphabet
    return create_policy(alphabet, ModelConfig(hidden_size=16, num_layers=1, num_heads=2, mlp_size=16))


def test_answers_of_other_weights_are_set_aside_and_reuse_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, out = tiny_sudoku(), tmp_path / "e"
    names = {"evaluation.json", "evaluation.csv", "completions.jsonl", "frontier.png", "settings.json"}
    old: list[bytes] = []
    for _ in range(3):
        policy.save_pretrained(tmp_path / "m")
        main(["eval", str(tmp_path / "m"), *FLAGS, "--output", str(out)])
        said = capsys.readouterr().out
        assert "reused" not in said and (f"{out} held results of other weights: they are in {out}/" in said) == bool(
            old
        )
        main(["eval", str(tmp_path / "m"), *FLAGS, "--output", str(out)])
        assert "2 of 2 answers reused from 20" in capsys.readouterr().out
        old.append((out / "completions.jsonl").read_bytes())
        with torch.no_grad():
            policy.denoiser.head.weight.add_(torch.randn(policy.denoiser.head.weight.shape))
    aside = sorted((path for path in out.iterdir() if path.is_dir()), key=lambda path: (len(path.name), path.name))
    assert [(path / "completions.jsonl").read_bytes() for path in aside] == old[:2]  # by date; the second has a number
    assert all({file.name for file in path.iterdir()} == names for path in aside)
    main(["compare", *map(str, aside), str(out)])
    assert "prompt by prompt" in capsys.readouterr().out


def test_answers_of_a_head_whose_code_has_changed_are_not_reused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, policy = tmp_path / "mine.py", tiny_sudoku()
    code.write_text("from diffpo import ThresholdHead\n\n\nclass Mine(ThresholdHead):\n    pass\n")
    policy.add_head(ThresholdConfig(network=f"{code}:Mine"))
    policy.save_pretrained(tmp_path / "m")
    flags = [*FLAGS, "--output", str(tmp_path / "e")]
    main(["eval", str(tmp_path / "m"), *flags])
    main(["eval", str(tmp_path / "m"), *flags])
    assert "reused" in capsys.readouterr().out
    code.write_text(code.read_text() + "    bound = 1.0\n")
    with pytest.raises(SystemExit):
        main(["eval", str(tmp_path / "m"), *flags])
    assert "holds an evaluation with other settings (threshold.network (file))" in capsys.readouterr().err


def test_an_evaluation_that_a_kill_cut_within_a_character_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sudoku().save_pretrained(tmp_path / "m")
    main(["eval", str(tmp_path / "m"), *FLAGS, "--output", str(tmp_path / "e")])
    answers = tmp_path / "e/completions.jsonl"
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.index(b"\n") + 1] + '{"text": "é'.encode()[:-1])
    capsys.readouterr()
    main(["eval", str(tmp_path / "m"), *FLAGS, "--output", str(tmp_path / "e")])
    assert "1 of 2 answers reused from 20" in capsys.readouterr().out and answers.read_bytes() == whole


def test_a_run_that_went_on_keeps_its_former_results_by_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, run = tiny_sudoku(), tmp_path / "run"
    policy.rollout = RolloutConfig(canvas="{8}0{7}")  # as it was trained, which gives way to lengths
    for version, step in enumerate((30, 60), start=1):
        (run / f"checkpoints/step_{step:06d}").mkdir(parents=True)
        (run / "config.json").write_text("{}")
        (run / "metrics.jsonl").touch()
        policy.version = version
        with torch.no_grad():
            policy.denoiser.head.weight.add_(1.0)
        policy.save_pretrained(run / "policy")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of checkpoints without content
            main(["eval", str(run), *FLAGS, "--eval.gen-lengths", "8", "16"])
    assert f"are in {run}/eval/step_000030/L16 now" in capsys.readouterr().out
    main(["compare", f"{run}/eval/step_000030", f"{run}/eval"])
    out = capsys.readouterr().out
    shown = [line.split()[:3] for line in out.splitlines()]
    assert ["step_000030", "L8", "top_k:8"] in shown and ["eval", "L16", "top_k:8"] in shown and "…" not in out


def test_other_settings_and_other_models_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy, out = tiny_sudoku(), str(tmp_path / "e")
    policy.save_pretrained(tmp_path / "m")
    main(["eval", str(tmp_path / "m"), *FLAGS, "--output", out])
    with torch.no_grad():
        policy.denoiser.head.weight.add_(1.0)
    policy.save_pretrained(tmp_path / "other")
    wrong = {("m", "--seed", "1"): "other settings (seed)", ("other",): "other settings (model, weights)"}
    for (model, *more), error in wrong.items():
        with pytest.raises(SystemExit):
            main(["eval", str(tmp_path / model), *FLAGS, "--output", out, *more])
        assert error in capsys.readouterr().err
    shutil.move(tmp_path / "m", tmp_path / "moved")  # the same weights
    main(["eval", str(tmp_path / "moved"), *FLAGS, "--output", out])
    assert "2 of 2 answers reused" in capsys.readouterr().out


def test_a_run_under_way_stands_for_its_newest_good_checkpoint(tmp_path: Path) -> None:
    for step in (1, 2):
        folder = tmp_path / f"run/checkpoints/step_{step:06d}"
        policy = trained(folder / "policy")
        policy.version = step
        policy.save_pretrained(folder / "policy")
        files = {f"policy/{path.name}": digest_of(path) for path in (folder / "policy").iterdir()}
        (folder / "manifest.json").write_text(json.dumps(files))
    (tmp_path / "run/config.json").write_text("{}")
    (tmp_path / "run/metrics.jsonl").touch()
    with pytest.warns(UserWarning, match="run is not at its end: taking its checkpoint step_000002"):
        assert load_policy(tmp_path / "run", device="cpu").version == 2
    asked = parse("eval", str(tmp_path / "run"))
    assert asked.rollout.sampler == TRAINED.sampler and asked._place() == (tmp_path / "run/eval/step_000002", "")
    (tmp_path / "run/checkpoints/step_000002/policy/config.json").write_text("{}")
    with pytest.warns(UserWarning, match="passing it over.*taking its checkpoint step_000001"):
        assert load_policy(tmp_path / "run", device="cpu").version == 1
    policy.version = 3
    policy.save_pretrained(tmp_path / "run/policy")
    assert load_policy(tmp_path / "run", device="cpu").version == 3
    assert parse("eval", str(tmp_path / "run"))._place() == (tmp_path / "run/eval", "step_000002")


def test_a_model_meets_tasks_of_its_kind_alone() -> None:
    tiny, chat = load_task("tiny_sudoku"), load_task("countdown_cd3")
    with pytest.raises(ValueError, match=r"tiny_sudoku is a task for tiny .* name one for this model with task\.name"):
        evaluate(load_policy(GOLDEN / "llada-tiny", device="cpu"), tiny, quiet=True)
    with pytest.raises(ValueError, match="countdown_cd3 is a task for chat models"):
        evaluate(tiny_policy(), chat, quiet=True)


def test_an_adapter_that_lacks_what_its_settings_name_is_a_warning(tmp_path: Path) -> None:
    policy = load_policy(GOLDEN / "llada-tiny", device="cpu")
    policy.add_adapters(LoraConfig(rank=2, targets=("q_proj",)))
    policy.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if ".blocks.1." not in name}
    save_file(kept, tmp_path / "adapter_model.safetensors")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    del settings["lora_alpha"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.warns(UserWarning) as said:
        load_policy(tmp_path, device="cpu")
    lines = " ".join(str(line.message) for line in said)
    assert "no lora_alpha: taking PEFT's 8" in lines and "no tensors for model.transformer.blocks.1.q_proj" in lines
