"""The model in lm_eval: answers are those of `sample`, likelihoods are bounds that enumeration confirms."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_policy
from models.published_llada import golden_checkpoint

from diffpo.config import RolloutConfig
from diffpo.functional.random import make_key
from diffpo.models.bounds import evidence_bounds
from diffpo.models.policy import load_policy
from diffpo.rollout.engine import generate
from diffpo.rollout.judging import text_of
from diffpo.rollout.likelihood import log_likelihoods
from diffpo.rollout.local import make_request, sample
from diffpo.types import Prompt

pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance as Row  # pyright: ignore[reportMissingImports]

from diffpo.harness import Chat, DiffpoLM


def Instance(args: tuple[Any, ...], doc: int = 0) -> Row:
    """What a task asks of its row `doc`."""
    return Row("generate_until", {}, args, idx=0, metadata=("digits", doc, 1))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_policy(1).save_pretrained(folder)
    return str(folder)


def test_answers_are_those_of_sample(model: str) -> None:
    lm, policy = DiffpoLM(model, sampler="top_k:2", gen_length=8, num_slots=3), load_policy(model)
    found = lm.generate_until([Instance((text, {"until": ["3"], "do_sample": False})) for text in ("012", "45", "6")])
    assert found == [each.text.partition("3")[0] for each in sample(policy, ["012", "45", "6"], lm.config, 8)]
    chat = lm.apply_chat_template([{"role": "user", "content": "012"}])
    assert isinstance(chat, Chat)
    with pytest.raises(ValueError, match="no chat template"):
        lm.generate_until([Instance((chat, {}))])


def test_a_prompt_that_is_too_long_is_named(model: str) -> None:
    lm = DiffpoLM(model, gen_length=8)
    with pytest.raises(ValueError, match=r"prompt '01234560123.*: a row of \d+ tokens exceeds the model's"):
        lm.generate_until([Instance(("0", {})), Instance(("0123456" * 400, {}))])


def test_likelihoods_are_bounds(model: str) -> None:
    lm, policy = DiffpoLM(model, nelbo_samples=64), load_policy(model)
    (found, greedy), empty = lm.loglikelihood([Instance(("012", "34")), Instance(("", ""))])
    expected = evidence_bounds(policy, [0, 1, 2], [3, 4], 64, make_key(0, "nelbo", "digits 0 0 0"))
    assert found == float(expected.mean()) < 0 and not greedy and empty == (0.0, False)
    (rolling,) = lm.loglikelihood_rolling([Instance(("0123456" * 12,))])
    assert rolling < found


def test_likelihoods_are_the_samplers_where_that_is_asked_for(model: str) -> None:
    lm = DiffpoLM(model, sampler="top_k:2", likelihood="exact")
    rows = [Instance(("012", "34")), Instance(("01", "5"), doc=1), Instance(("", ""))]
    config = RolloutConfig(sampler="top_k:2")
    expected = log_likelihoods(load_policy(model), [((0, 1, 2), (3, 4)), ((0, 1), (5,))], config)
    assert [value for value, _ in lm.loglikelihood(rows)] == [*expected, 0.0]
    with pytest.raises(ValueError, match="likelihood=exakt; did you mean 'exact'"):
        DiffpoLM(model, likelihood="exakt")


def test_no_token_of_a_continuation_is_lost_to_its_context(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = DiffpoLM(model)
    monkeypatch.setattr(lm.policy.tokenizer, "encode", lambda text: tuple(map(int, text.replace("34", "5"))))
    assert lm._pair("03", "4") == ((0, 3), (4,)) and lm._pair("0", "34") == ((0,), (5,))


def test_a_conversation_is_asked_under_the_models_template_and_its_answer_goes_on(tmp_path: Path) -> None:
    lm = DiffpoLM(str(golden_checkpoint(tmp_path, tokenizer=True)), sampler="top_k:2", gen_length=8, dtype="float32")
    policy, talk = lm.policy, [{"role": "user", "content": "is it"}]
    answer = {"role": "assistant", "content": "the"}
    begun = lm.apply_chat_template([*talk, answer], add_generation_prompt=False)
    chat = lm.apply_chat_template(talk)
    found = [value for value, _ in lm.loglikelihood([Instance((chat, " in"), 4), Instance((begun, " in"), 7)])]
    assert found == [
        float(evidence_bounds(policy, policy.encode(talk, start), policy.encode(" in", chat=False), 32, key).mean())
        for start, key in (("", make_key(0, "nelbo", "digits 4 0 0")), ("the", make_key(0, "nelbo", "digits 7 0 0")))
    ]
    assert chat + "the" == begun
    (expected,) = sample(policy, [Prompt("", "is it", prefill="the")], lm.config, 8, seed=0)
    assert lm.generate_until([Instance((begun, {}))]) == [expected.text]


def test_spaces_at_the_end_of_a_context_belong_to_the_word_behind_them(tmp_path: Path) -> None:
    lm = DiffpoLM(str(golden_checkpoint(tmp_path, tokenizer=True)), dtype="float32")
    (apart,) = lm.loglikelihood([Instance(("it ", "is"))])
    assert (apart,) == tuple(lm.loglikelihood([Instance(("it", " is"))]))


@pytest.mark.parametrize(
    ("settings", "length", "temperature"),
    [
        ({"max_new_tokens": 5}, 5, 0.0),
        ({"max_gen_toks": None, "max_tokens": 6, "do_sample": True}, 6, 1.0),
        ({"max_gen_toks": 4, "temperature": 0.5}, 4, 0.5),
        ({"max_gen_toks": 4, "temperature": 0.5, "do_sample": False, "top_p": 0.9}, 4, 0.0),
    ],
)
def test_what_tasks_say_of_an_answer_counts_or_is_named(
    model: str, settings: dict[str, Any], length: int, temperature: float, caplog: pytest.LogCaptureFixture
) -> None:
    lm, policy = DiffpoLM(model, sampler="top_k:1"), load_policy(model)
    config = replace(lm.config, gen_length=length, temperature=temperature)
    keys = (make_key(0, "digits 3 0 0"), make_key(0, "digits 3 0 1"))
    asked = [make_request(policy, "012", config, length, key, explore=False) for key in keys]
    expected = [text_of(policy, completion) for completion in generate(policy, asked)]
    assert lm.generate_until([Instance(("012", settings), 3)] * 2) == expected  # the row's repeats
    assert ("top_p" in caplog.text) == ("top_p" in settings)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The folder of a task of five rows, each answered at random."""
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"q": "{at}12", "a": "{at}"}}\n' for at in range(5)))
    (tmp_path / "digits.yaml").write_text(
        f"task: digits\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path}/rows.jsonl}}}}\n"
        "test_split: test\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\nrepeats: 2\n"
        "generation_kwargs: {until: ['3'], do_sample: true, max_gen_toks: 8}\n"
        "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n"
    )
    return tmp_path


def test_the_harness_runs_it_on_rows_of_a_file(model: str, digits: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    tasks = TaskManager(include_path=str(digits), include_defaults=False)
    found = simple_evaluate("diffpo", f"pretrained={model}", tasks=["digits"], task_manager=tasks)
    assert 0 <= found["results"]["digits"]["exact_match,none"] <= 1 and found["n-samples"]["digits"]["effective"] == 5


def test_processes_share_the_rows_and_change_no_answer(model: str, digits: Path) -> None:
    def answers(launch: list[str], output: Path) -> dict[int, Any]:
        command = [
            "-m",
            "diffpo.harness",
            "--model",
            "diffpo",
            "--model_args",
            f"pretrained={model}",
            "--device",
            "cpu",
        ]
        command += ["--tasks", "digits", "--include_path", str(digits), "--log_samples", "--output_path", str(output)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run([*launch, *command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        (file,) = output.rglob("samples_digits_*.jsonl")
        return {row["doc_id"]: row["resps"][0][:2] for row in map(json.loads, file.read_text().splitlines())}

    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    alone = answers([sys.executable], digits / "alone")
    assert answers([*launch, "--main_process_port", "0"], digits / "two") == alone
    assert sorted(alone) == list(range(5)) and len({text for pair in alone.values() for text in pair}) > 5
