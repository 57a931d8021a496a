"""Prompts of a file to answers in a file: those of `sample`, in order, whatever stopped it on the way."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from random import Random

import pytest
from helpers import tiny_policy

from diffpo.cli import main
from diffpo.config import RolloutConfig
from diffpo.files.folder import append
from diffpo.rollout import offline
from diffpo.rollout.local import sample
from diffpo.rollout.offline import Written, generate_file
from diffpo.tasks.data import Row

CONFIG = RolloutConfig(temperature=0.9, sampler="random:1", gen_length=8, num_slots=3)
NUM = 14
ALL_AT_ONCE = """
from dataclasses import dataclass
from diffpo import Rule

@dataclass(frozen=True)
class All(Rule):
    number: float
    def __call__(self, seen):
        return seen.candidates
"""
PROMPTS = ["".join(Random(seed).choices("0123456", k=1 + seed % 9)) for seed in range(NUM)]


def write(path: Path, prompts: list[str] = PROMPTS) -> str:
    path.write_text("".join(json.dumps({"id": f"q{at}", "prompt": text}) + "\n" for at, text in enumerate(prompts)))
    return str(path)


def test_the_answers_of_a_file_are_those_of_sample(tmp_path: Path) -> None:
    policy, output = tiny_policy(1), tmp_path / "deep" / "answers.jsonl"
    assert generate_file(policy, write(tmp_path / "prompts.jsonl"), output, CONFIG, seed=3, quiet=True) == (NUM, 0, 0)
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["row"], line["id"]) for line in found] == [(at + 1, f"q{at}") for at in range(NUM)]
    for line, expected in zip(found, sample(policy, PROMPTS, CONFIG, seed=3), strict=True):
        assert line["text"] == expected.text and line["tokens"] == expected.length
        assert line["denoiser_calls"] == expected.nfe


def test_an_answer_goes_on_from_its_start(tmp_path: Path) -> None:
    policy, output = tiny_policy(1), tmp_path / "answers.jsonl"
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "012", "prefill": "34"}\n')
    generate_file(policy, str(tmp_path / "prompts.jsonl"), output, CONFIG, quiet=True)
    expected = sample(policy, ["01234"], CONFIG)[0]
    assert json.loads(output.read_text())["text"] == expected.text != sample(policy, ["012"], CONFIG)[0].text


@pytest.mark.parametrize("kept", [1, 700, -1])
def test_a_file_that_was_cut_is_completed(kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy, output = tiny_policy(1), tmp_path / "answers.jsonl"
    prompts = write(tmp_path / "prompts.jsonl")
    generate_file(policy, prompts, output, CONFIG, quiet=True)
    whole = output.read_bytes()
    output.write_bytes(whole[:kept])
    with monkeypatch.context() as patch:  # a kill that finds the answers on their way to the disk again loses them
        patch.delattr(Path, "write_bytes")
        found = generate_file(policy, prompts, output, CONFIG, quiet=True)
    assert output.read_bytes() == whole and found == Written(NUM, 0, whole[:kept].count(b"\n"))
    output.write_bytes(whole)
    assert generate_file(policy, prompts, output, CONFIG, quiet=True).reused == NUM


def test_a_row_that_cannot_be_answered_says_why(tmp_path: Path) -> None:
    prompts = write(tmp_path / "prompts.jsonl", ["0", "x", "", "0" * 60, "1"])
    with open(prompts, "a") as file:
        file.write('{"question": "0"}\n{"messages": [{"role": "user", "content": "2"}]}\n')
    output = tmp_path / "answers.jsonl"
    assert generate_file(tiny_policy(), prompts, output, CONFIG, quiet=True) == (2, 5, 0)
    said = [json.loads(line).get("error", "") for line in output.read_text().splitlines()]
    for error, part in zip(
        said,
        [
            "",
            "alphabet lacks 'x'",
            "must be text or a list, got ''",
            "exceeds the model's 64",
            "",
            "columns: question",
            "no chat template",
        ],
        strict=True,
    ):
        assert part in error and bool(part) == bool(error)
    assert generate_file(tiny_policy(), prompts, output, CONFIG, quiet=True) == (2, 5, 7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"gen_length": 64}, "exceeds the model's 64"),
        ({"sampler": "learned"}, "has no sampler head"),
        ({"sampler": "steps:3", "block_length": 4}, "must be a multiple of the 2 block"),
        ({"sampler": "none.py:Rule:1"}, "none.py: no such file"),
    ],
)
def test_settings_that_no_row_can_be_answered_with_are_refused(
    changes: dict[str, object], said: str, tmp_path: Path
) -> None:
    prompts, output = write(tmp_path / "prompts.jsonl"), tmp_path / "answers.jsonl"
    with pytest.raises(ValueError, match=said):
        generate_file(tiny_policy(), prompts, output, replace(CONFIG, **changes), quiet=True)
    assert not output.exists()


def test_answers_to_something_else_are_not_touched(tmp_path: Path) -> None:
    prompts, output = write(tmp_path / "prompts.jsonl"), tmp_path / "answers.jsonl"
    generate_file(tiny_policy(), prompts, output, CONFIG, quiet=True)
    before = output.read_bytes()
    with pytest.raises(ValueError, match=r"line 1: no answer to this row .* choose another output"):
        generate_file(tiny_policy(), prompts, output, CONFIG, seed=1, quiet=True)
    with pytest.raises(ValueError, match="line 2: no answer"):
        generate_file(tiny_policy(), write(tmp_path / "others.jsonl", [PROMPTS[0], "5"]), output, CONFIG, quiet=True)
    assert output.read_bytes() == before


@pytest.mark.parametrize("text", ['[{"prompt": "0"}]', '{"row": 15, "te', "0"])
def test_a_file_without_an_end_of_line_that_is_no_answer_cut_short_is_not_touched(text: str, tmp_path: Path) -> None:
    prompts, output = write(tmp_path / "prompts.jsonl"), tmp_path / "notes"
    output.write_text(text)
    with pytest.raises(ValueError, match="line 1: no answer to this row"):
        generate_file(tiny_policy(), prompts, output, CONFIG, quiet=True)
    rows = tmp_path / "rows.json"
    rows.write_text('[{"prompt": "0"}, {"prompt": "1"}]')
    with pytest.raises(ValueError, match="line 1: no answer to this row"):
        generate_file(tiny_policy(), str(rows), rows, CONFIG, quiet=True)
    assert output.read_text() == text and len(json.loads(rows.read_text())) == 2


def test_an_id_that_is_no_json_is_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    when = date(2026, 1, 2)
    monkeypatch.setattr(offline, "read_rows", lambda *_: [Row("rows.parquet, row 1", {"prompt": "0", "id": when})])
    generate_file(tiny_policy(), "rows.parquet", tmp_path / "answers", CONFIG, quiet=True)
    assert json.loads((tmp_path / "answers").read_text())["id"] == "2026-01-02"


def test_answers_of_other_blocks_another_dtype_or_a_rule_that_has_changed_are_others(tmp_path: Path) -> None:
    rule = tmp_path / "rule.py"
    rule.write_text(ALL_AT_ONCE)
    prompts, config = write(tmp_path / "prompts.jsonl", ["0"]), replace(CONFIG, sampler=f"{rule}:All:1")
    changes = {
        "blocks": lambda policy: policy.use_blocks(4),
        "dtype": lambda policy: policy.denoiser.bfloat16(),
        "rule": lambda _: rule.write_text(ALL_AT_ONCE + "\n"),
    }
    for name, change in changes.items():
        policy = tiny_policy(block_length=2)
        generate_file(policy, prompts, tmp_path / name, config, quiet=True)
        change(policy)
        with pytest.raises(ValueError, match="line 1: no answer to this row"):
            generate_file(policy, prompts, tmp_path / name, config, quiet=True)


def test_two_do_not_write_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts, output = write(tmp_path / "prompts.jsonl"), tmp_path / "answers.jsonl"
    monkeypatch.setattr(offline, "append", lambda path, content: append(path, 2 * content))  # the other's lines
    with pytest.raises(ValueError, match=r"answers\.jsonl: another process writes there"):
        generate_file(tiny_policy(1), prompts, output, CONFIG, quiet=True)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_policy().save_pretrained("tiny")
    write(Path("prompts.jsonl"), ["0", "x"])
    for reused in ("", ", 2 of them there before"):
        with pytest.raises(SystemExit) as ended:
            main(["generate", "tiny", "prompts.jsonl", "--output", "answers.jsonl", "--rollout.gen-length", "4"])
        assert ended.value.code == 1 and capsys.readouterr().out == f"saved answers.jsonl: 1 answer, 1 error{reused}\n"
