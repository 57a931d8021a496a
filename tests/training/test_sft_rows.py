"""Fine-tuning on rows of a file: what is encoded, what is masked, what is an error, and what does not matter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models.published_llada import golden_checkpoint

from diffpo.config import LoadConfig, LoraConfig, OptimConfig, SftConfig
from diffpo.models.attention import Packing
from diffpo.models.policy import Policy, load_policy
from diffpo.processes.world import World
from diffpo.training.examples import read_examples
from diffpo.training.metrics import read_metrics
from diffpo.training.sft import batch_rows, fine_tune, losses, mean_loss

ROWS = [
    {"prompt": "2+3?", "completion": "5"},
    {"prompt": "What is seven?", "completion": "one more than six"},
    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello there, you"}]},
    {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}], "completion": "So."},
    {"prompt": "a" * 40, "completion": "b" * 40},
]


@pytest.fixture(params=["llada", "dream", "a2d-qwen3"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A golden checkpoint with a tokenizer."""
    folder = golden_checkpoint(tmp_path / request.param, request.param, tokenizer=True, max_position_embeddings=128)
    return str(folder)


@pytest.fixture
def data(tmp_path: Path) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + "\n")
    return str(path)


@pytest.fixture
def config(model: str, data: str, tmp_path: Path) -> SftConfig:
    return SftConfig(
        model=model,
        data=data,
        output=str(tmp_path / "run"),
        steps=6,
        batch_size=4,
        lora=LoraConfig(rank=4),
        load=LoadConfig(dtype="float32"),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
    )


def test_rows_become_prompts_and_canvases(model: str, config: SftConfig) -> None:
    policy = load_policy(model)
    examples = read_examples(config.data, policy, config)
    chat, end = policy.tokenizer.chat, policy.tokenizer.end_of_turn
    assert len(end) == 1
    expected = [
        (chat([{"role": "user", "content": "2+3?"}]), "5"),
        (chat([{"role": "user", "content": "What is seven?"}]), "one more than six"),
        (chat(ROWS[2]["messages"][:1]), "hello there, you"),
        (chat(ROWS[3]["prompt"]), "So."),
    ]
    for row, (prompt, completion) in enumerate(expected):
        assert examples.prompts[row][: examples.prompt_lengths[row]].tolist() == list(prompt)
        answer = [*policy.tokenizer.encode(completion), *end]
        length = int(examples.canvas_lengths[row])
        assert length % 32 == 0 and 0 < length - len(answer) <= 32
        padding = [policy.eos_id] * (length - len(answer))
        assert examples.canvases[row][:length].tolist() == [*answer, *padding]
        assert policy.tokenizer.decode(answer) == completion
    assert examples.num_cut == 0


def test_how_an_answer_starts_is_given_and_not_learned(model: str, config: SftConfig, tmp_path: Path) -> None:
    path = tmp_path / "started.jsonl"
    path.write_text(json.dumps({"prompt": "2+3?", "prefill": "<think>", "completion": "5"}) + "\n")
    policy = load_policy(model)
    examples = read_examples(path, policy, config)
    chat = policy.tokenizer.chat([{"role": "user", "content": "2+3?"}], "<think>")
    assert examples.prompts[0].tolist() == list(chat)
    assert policy.tokenizer.decode(examples.canvases[0].tolist()).startswith("5")


def test_thoughts_do_not_follow_thoughts_that_the_template_closed(
    model: str, config: SftConfig, tmp_path: Path
) -> None:
    policy, path = load_policy(model), tmp_path / "thoughts.jsonl"
    path.write_text(json.dumps({"prompt": "2+3?", "prefill": "<think>\n", "completion": "so\n</think>\n\n5"}))
    prompt, asked = read_examples(path, policy, config).prompts[0].tolist(), [{"role": "user", "content": "2+3?"}]
    closed = list(policy.tokenizer.chat(asked))
    assert (prompt[: len(closed)] == closed) is (Path(model).name != "a2d-qwen3")
    path.write_text(json.dumps({"prompt": "2+3?", "completion": "<think>\nso\n</think>\n\n5"}))
    if Path(model).name != "a2d-qwen3":
        assert len(read_examples(path, policy, config)) == 1
        return
    with pytest.raises(ValueError, match=r"thoughts\.jsonl, line 1: .* closes the thoughts before an answer"):
        read_examples(path, policy, config)


def test_empty_completions_are_counted(model: str, config: SftConfig, tmp_path: Path) -> None:
    path = tmp_path / "empty.jsonl"
    rows = [{"prompt": "2+3?", "completion": text} for text in ("5", "", " \n")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_examples(path, load_policy(model), config).num_empty == 2


def test_long_completions_are_cut_and_counted(model: str, config: SftConfig) -> None:
    examples = read_examples(config.data, load_policy(model), replace(config, gen_length=8))
    assert examples.canvas_lengths.tolist() == [8] * 5 and examples.num_cut == 3
    shorter = read_examples(config.data, load_policy(model), replace(config, max_length=80))
    assert (shorter.prompt_lengths + shorter.canvas_lengths).max() == 80 and shorter.num_cut == 1


@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("{", "Expecting"),
        ("3", "a row is an object with columns, got '3'"),
        ('{"prompt": "a"}', "a row has one of prompt and completion, messages, .*; the row's columns: prompt"),
        ('{"prompt": "a", "completion": 3}', "column 'completion' must be text or a list of .*, got 3"),
        ('{"prompt": [1], "completion": "a"}', "column 'prompt': message 1 must have a role and content, got 1"),
        ('{"prompt": "a", "completion": "b<|im_end|>"}', "in a chat template already"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "the last message must be the assistant's"),
        ('{"prompt": "a", "completion": "b", "prefill": 3}', "column 'prefill' must be text, got 3"),
        ('{"messages": []}', "column 'messages' must be text or a list of"),
        (json.dumps({"prompt": "a" * 999, "completion": "b"}), r"\d+ tokens leaves no room within 128"),
    ],
)
def test_a_bad_row_is_one_line_that_names_it(config: SftConfig, row: str, error: str) -> None:
    path = Path(config.data)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl, line 7: .*{error}") as caught:
        read_examples(path, load_policy(config.model), config)
    assert "\n" not in str(caught.value)


def test_completions_that_fill_their_canvas_are_counted(model: str, config: SftConfig) -> None:
    policy, path = load_policy(model), Path(config.data)
    path.write_text(json.dumps({"prompt": "a", "completion": "5"}) + "\n")
    size = len(policy.tokenizer.encode("5")) + len(policy.tokenizer.end_of_turn)
    full, ended = (read_examples(path, policy, replace(config, gen_length=size + room)) for room in (0, 1))
    assert (full.num_full, full.num_cut, ended.num_full) == (1, 0, 0) and not ended.doubts()
    said = "1 of 1 completions fill their canvas and learn no end: raise gen_length or max_length"
    assert full.doubts() == [said]


def test_overlong_prompts_are_left_out_and_counted(config: SftConfig) -> None:
    path = Path(config.data)
    path.write_text(path.read_text() + json.dumps({"prompt": "a" * 999, "completion": "b"}) + "\n")
    examples = read_examples(path, load_policy(config.model), replace(config, overlong="drop"))
    assert (len(examples), examples.num_dropped) == (5, 1)


def test_what_becomes_of_held_out_rows_is_said_too(
    config: SftConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held = tmp_path / "held.jsonl"
    rows = [{"prompt": "a" * n, "completion": text} for n, text in ((1, "5"), (1, ""), (1, "b" * 99), (999, "c"))]
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    fine_tune(replace(config, steps=1, eval_data=str(held), overlong="drop", gen_length=60))
    said = capsys.readouterr().err
    assert "1 of 3 completions of eval_data are cut: raise gen_length or max_length\n" in said
    assert "1 row of eval_data is left out: its prompt is too long\n" in said
    assert "1 of 3 completions of eval_data are empty\n" in said


def test_the_formats_of_data_sets_are_one(config: SftConfig, tmp_path: Path) -> None:
    """A conversation is learned alike from messages, ShareGPT, Alpaca, and a CSV that spells it in JSON."""
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}
    answer = {"role": "assistant", "content": "So."}
    (tmp_path / "cells.csv").write_text(
        'prompt,completion\n"' + json.dumps([system, user]).replace('"', '""') + '",So.\n'
    )
    rows = [
        {"prompt": [system, user], "completion": [answer]},
        {"messages": [{**turn, "tool_calls": None, "weight": 1} for turn in (system, user, answer)]},
        {"system": "Be brief.", "conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
        {"instruction": "Why?", "input": "", "output": "So.", "system": "Be brief."},
    ]
    policy = load_policy(config.model)
    found = [read_examples(tmp_path / "cells.csv", policy, config)]
    for index, row in enumerate(rows):
        (tmp_path / f"{index}.jsonl").write_text(json.dumps(row) + "\n")
        found.append(read_examples(tmp_path / f"{index}.jsonl", policy, config))
    for examples in found:
        assert examples.prompts[0].tolist() == list(policy.tokenizer.chat([system, user]))
        assert examples.canvases.equal(found[0].canvases)


def test_files_without_rows(config: SftConfig, tmp_path: Path) -> None:
    policy = load_policy(config.model)
    with pytest.raises(ValueError, match="no such file"):
        read_examples(tmp_path / "lost.jsonl", policy, config)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(ValueError, match="no rows in it"):
        read_examples(tmp_path / "empty.jsonl", policy, config)


def test_an_epoch_shows_every_row_once(config: SftConfig) -> None:
    examples = read_examples(config.data, load_policy(config.model), config)
    rows = torch.cat([batch_rows(examples, config, step) for step in range(5)]).view(4, 5)
    assert (rows.sort(-1).values == torch.arange(5)).all() and len(rows.unique(dim=0)) > 1


def every_loss(policy: Policy, config: SftConfig, size: int) -> torch.Tensor:
    examples, key = read_examples(config.data, policy, config), torch.tensor(7)
    parts = torch.arange(5).split(size)
    return torch.cat([losses(policy, examples, torch.arange(5), part, key, config) for part in parts]).detach()


def test_a_rows_loss_does_not_depend_on_its_batch(config: SftConfig) -> None:
    policy = load_policy(config.model, "float32")
    torch.testing.assert_close(every_loss(policy, config, 5), every_loss(policy, config, 2), rtol=1e-5, atol=0)
    assert mean_loss(policy, read_examples(config.data, policy, config), config, World()) > 0


def test_a_held_out_rows_time_has_nothing_to_do_with_its_place_in_the_file(config: SftConfig, tmp_path: Path) -> None:
    """Else rows that are sorted, by length or by difficulty, are each measured at a time of their own kind."""
    path = tmp_path / "sorted.jsonl"
    rows = [{"prompt": "abc"[place // 16], "completion": "what follows is as long"} for place in range(48)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = load_policy(config.model, "float32")
    examples = read_examples(path, policy, config)
    seen: list[tuple[torch.Tensor, Packing]] = []
    hook = policy.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    mean_loss(policy, examples, config, World())
    hook.remove()
    shares: dict[tuple[int, ...], list[float]] = {}
    for ids, packing, *_ in seen:
        for start in packing.starts.tolist():
            prompt = ids[start : start + (width := int(examples.prompt_lengths[0]))]
            canvas = ids[start + width : start + width + int(examples.canvas_lengths[0])]
            shares.setdefault(tuple(prompt.tolist()), []).append(float((canvas == policy.mask_id).float().mean()))
    assert [len(found) for found in shares.values()] == [16] * 3
    assert all(0.35 < sum(found) / 16 < 0.7 for found in shares.values())


def test_the_loss_is_the_slow_twins(config: SftConfig) -> None:
    """One row at a time, without packing: (1/t) sum of -log p at the masked positions, a canvas position."""
    policy = load_policy(config.model, "float32")
    config = replace(config, prompt_mask_prob=0.0)
    examples = read_examples(config.data, policy, config)
    rows, key = torch.arange(5), torch.tensor(7)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    body = policy.denoiser.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
    fast = losses(policy, examples, rows, rows, key, config)
    body.remove()
    ids, packing, _ = seen[0]
    times = config.min_time + (1 - config.min_time) * (torch.arange(5) + _uniforms(key)) / 5
    for row in range(5):
        start, prompt, length = packing.starts[row], examples.prompt_lengths[row], examples.canvas_lengths[row]
        canvas = ids[start + prompt : start + prompt + length]
        assert ids[start : start + prompt].equal(examples.prompts[row][:prompt])
        masked = canvas == policy.mask_id
        assert canvas[~masked].equal(examples.canvases[row][:length][~masked])
        hidden = policy.denoiser(ids[start : start + prompt + length], _alone(int(prompt + length)))
        logits = policy.logits(hidden).roll(policy.denoiser.config.shift, 0)
        scores = logits.log_softmax(-1)[prompt:].gather(-1, examples.canvases[row][:length, None])[:, 0]
        torch.testing.assert_close(-scores[masked].sum() / times[row] / length, fast[row], rtol=1e-4, atol=1e-5)


def _uniforms(key: torch.Tensor) -> torch.Tensor:
    from diffpo.functional.random import fold, uniform

    return uniform(fold(key, torch.arange(5), 1))


def _alone(length: int):
    from diffpo.models.attention import pack

    return pack(torch.zeros(1, length, dtype=torch.int64), torch.tensor([length]))[1]


Change = Callable[[SftConfig], SftConfig]


@pytest.mark.parametrize(
    "change",
    [
        lambda config: replace(config, optim=replace(config.optim, micro_batch_tokens=1)),
        lambda config: replace(config, optim=replace(config.optim, gradient_checkpointing=True)),
    ],
    ids=["micro-batches of one", "gradient checkpointing"],
)
def test_what_changes_memory_changes_no_result(config: SftConfig, change: Change) -> None:
    plain = fine_tune(config, quiet=True)
    other = fine_tune(replace(change(config), output=config.output + "2"), quiet=True)
    for name, parameter in plain.trainable().items():
        # Adam makes a step of 1e-2 of a gradient that is all rounding, too
        torch.testing.assert_close(other.trainable()[name], parameter, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rank", [0, 4])
def test_fine_tuning_lowers_the_loss_and_resumes_bit_for_bit(config: SftConfig, rank: int) -> None:
    config = replace(config, lora=LoraConfig(rank=rank), eval_data=config.data, eval_every=3, save_every=2, steps=12)
    config = replace(config, optim=replace(config.optim, learning_rate=3e-2 if rank else 1e-2))
    straight = fine_tune(config, quiet=True)
    metrics = read_metrics(Path(config.output) / "metrics.jsonl")
    evals = [line["eval/loss"] for line in metrics if "eval/loss" in line]
    assert len(evals) == 4 and evals[-1] < 0.9 * evals[0]
    assert metrics[-1]["epochs"] == 12 * 4 / 5
    checkpoints = sorted((Path(config.output) / "checkpoints").glob("step_*"))
    assert [folder.name for folder in checkpoints] == ["step_000010", "step_000012"]
    shutil.rmtree(checkpoints[-1])
    resumed = fine_tune(config, resume=True, quiet=True)
    assert all(torch.equal(value, resumed.trainable()[name]) for name, value in straight.trainable().items())
    again = load_policy(config.output, dtype="float32")
    assert all(torch.equal(value, again.trainable()[name]) for name, value in straight.trainable().items())
