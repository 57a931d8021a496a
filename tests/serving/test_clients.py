"""Clients that others wrote, against a live server; and the command itself, from its first line to SIGTERM."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import openai
import pytest
from helpers import tiny_policy
from serving.live import Live, serving

from diffpo.cli import main
from diffpo.config import RolloutConfig, ServeConfig

PLAIN = RolloutConfig(temperature=0.0, sampler="top_k:1", gen_length=8)
ASK = {"model": "tiny", "messages": [{"role": "user", "content": "012"}]}


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with serving(tiny_policy(1, learned=True), ServeConfig(rollout=PLAIN, api_key="secret")) as live:
        yield live


@pytest.fixture(scope="module")
def client(live: Live) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="secret", max_retries=0) as client:
        yield client


def test_the_client_of_openai_chats(client: openai.OpenAI) -> None:
    ours = {"entropy_bound": 0.5, "block_length": 4}
    answer = client.chat.completions.create(
        **ASK, seed=3, temperature=1, max_tokens=8, n=2, logprobs=True, extra_body=ours
    )
    first = answer.choices[0]
    assert len(answer.choices) == 2 and first.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.denoiser_calls >= 2 and first.gamma == 0.5
    assert "".join(token.token for token in first.logprobs.content) == first.message.content
    again = client.chat.completions.create(**ASK, seed=3, temperature=1, max_completion_tokens=8, extra_body=ours)
    assert again.choices[0].message.content == first.message.content
    # an answer goes back as it came
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        client.chat.completions.create(**ASK | {"messages": [*ASK["messages"], first.message, *ASK["messages"]]})


def test_the_client_of_openai_streams(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**ASK, seed=1, temperature=1)
    options = {"include_usage": True, "include_unmasking": True}
    chunks = list(client.chat.completions.create(**ASK, seed=1, temperature=1, stream=True, stream_options=options))
    deltas = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(deltas) == whole.choices[0].message.content
    assert chunks[-1].usage == whole.usage
    calls = [chunk.unmasking["call"] for chunk in chunks if "unmasking" in chunk.model_extra]
    assert calls == list(range(1, whole.usage.denoiser_calls + 1))


def test_the_client_of_openai_completes_and_lists(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt=["01", "2"], logprobs=0, extra_body={"sampler": "learned"})
    assert len(answer.choices) == 2 and all(choice.gamma > 0 for choice in answer.choices)
    assert "".join(answer.choices[1].logprobs.tokens) == answer.choices[1].text
    assert [model.id for model in client.models.list()] == ["tiny"] and client.models.retrieve("tiny").version == 0


def test_the_client_of_openai_knows_our_errors(live: Live, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**ASK, extra_body={"entropy_bond": 1})
    assert wrong.value.param == "entropy_bond" and "did you mean 'entropy_bound'?" in wrong.value.message
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**ASK | {"model": "gpt"})
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="guess") as other, pytest.raises(openai.AuthenticationError):
        other.models.list()


@pytest.mark.skipif(not shutil.which("curl"), reason="no curl here")
def test_curl(live: Live) -> None:
    headers = ["-H", "Content-Type: application/json", "-H", "Authorization: Bearer secret"]
    body = json.dumps({"prompt": "012", "stream": True})
    command = ["curl", "-sSN", f"{live.url}/v1/completions", *headers, "-d", body]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and json.loads(lines[0].removeprefix("data: "))["choices"]


# --- the command -----------------------------------------------------------------------------------------------------


def start(folder: Path, *flags: str) -> tuple[subprocess.Popen[str], str]:
    """The command and where it serves."""
    command = [sys.executable, "-m", "diffpo", "serve", str(folder), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith(f"serving {folder} at http://127.0.0.1:"), line + process.communicate()[1]
    return process, line.split(" at ")[1].split(";")[0]


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_the_command_answers_all_it_has_accepted(tmp_path: Path) -> None:
    """SIGTERM under load: what was accepted is answered, and the process ends well. After SIGKILL it serves again."""
    tiny_policy(1, learned=True).save_pretrained(tmp_path / "tiny")
    process, url = start(tmp_path / "tiny", "--rollout.num-slots", "2")
    body = {"prompt": "012", "n": 2, "max_tokens": 20, "sampler": "top_k:1"}
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(8) as pool:
        while client.get("/health").status_code != 200:
            pass
        answers = [pool.submit(client.post, "/v1/completions", json={**body, "seed": seed}) for seed in range(6)]
        while "diffpo_slots_in_use 2.0" not in client.get("/metrics").text:
            pass
        process.send_signal(signal.SIGTERM)
        taken = [answer.result() for answer in answers if answer.exception() is None]
    assert process.communicate()[1] == "" and process.returncode == 0
    assert taken and all(answer.status_code == 200 for answer in taken)

    process, url = start(tmp_path / "tiny")
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.post, "/v1/completions", json={**body, "n": 128})
        while "diffpo_slots_in_use 64.0" not in client.get("/metrics").text:
            pass
        process.kill()
        assert isinstance(answer.exception(), httpx2.RemoteProtocolError | httpx2.ReadError)
    process.communicate()
    port = url.rpartition(":")[2]
    process, _ = start(tmp_path / "tiny", "--port", port)
    process.terminate()
    assert process.communicate()[1] == "" and process.returncode == 0


def test_a_second_ctrl_c_leaves_what_is_asked_unanswered_and_prints_nothing(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path / "tiny")
    process, url = start(tmp_path / "tiny")
    with httpx2.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(1) as pool:
        body = {"prompt": "012", "n": 128, "max_tokens": 60, "sampler": "top_k:1"}
        answer = pool.submit(client.post, "/v1/completions", json=body)
        while "diffpo_slots_in_use 64.0" not in client.get("/metrics").text:
            pass
        for _ in range(2):
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)  # two signals at once are one
        assert process.communicate()[1] == "" and process.returncode == 0
        assert answer.exception() or answer.result().status_code == 500


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--port", "70000"], "port must lie between 0 and 65535, got 70000"),
        (["--timeout", "inf"], "timeout must be a number of seconds > 0, got inf"),
        (["--host", "no.such.host.invalid"], "no.such.host.invalid:8000: "),
        (["--api-key-file", "empty", "--port", "0"], "empty: no key in it, one a line"),
        (["--api-key-file", "utf16", "--port", "0"], "utf16: no UTF-8: save it as that"),
        (["--api-key", ""], "api_key is empty, which would let everybody in"),
        (["--api-key-file", ""], "api_key_file is empty, which would let everybody in"),
        (["--rollout.sampler", "learned", "--port", "0"], "this policy has no sampler head"),
        (["--rollout.gen-length", "64", "--port", "0"], "exceeds the model's 64"),
        (["--max-length", "16", "--port", "0"], "max_length = 16 leaves a canvas of 16 tokens no prompt: raise it"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n# none\n")
    (tmp_path / "utf16").write_text("key", "utf-16")
    tiny_policy().save_pretrained("tiny")
    with pytest.raises(SystemExit) as ended:
        main(["serve", "tiny", *flags])
    shown = capsys.readouterr()
    assert ended.value.code == 2 and shown.out == "" and said in " ".join(shown.err.replace("│", "").split())
