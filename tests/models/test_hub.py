"""Models by their id on the hub, from a cache as the hub's own library lays it out, in a process without network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import GOLDEN
from models.published_llada import golden_adapter, golden_checkpoint
from safetensors.torch import load_file, save_file

from diffpo.models.weights import locate

MAIN, OLD = "1" * 40, "2" * 40

ANSWER = """
import json, sys
from diffpo.models.inspection import inspect
from diffpo.models.policy import load_policy

def facts(name, **settings):
    policy = load_policy(name, device="cpu", **settings)
    return {
        "norm": policy.denoiser.norm.weight.float().sum().item(),
        "base": policy.base.name,
        "revision": policy.base.revision,
        "adapter": policy.adapter is not None,
        "tokenizer": type(policy.tokenizer).__name__,
    }

for line in sys.stdin:
    what, name, settings = json.loads(line)
    try:
        print(json.dumps({"load": facts, "inspect": inspect}[what](name, **settings)))
    except ValueError as error:
        print(json.dumps(str(error)))
"""


def cached(home: Path, name: str, revision: str, commit: str) -> Path:
    """The folder of a snapshot in a hub cache, where `revision` leads."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    return repository / "snapshots" / commit


def set_norm(folder: Path, value: float) -> None:
    """Make a checkpoint known by its final norm."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.transformer.ln_f.weight"].fill_(value)
    save_file(tensors, folder / "model.safetensors")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache: a model in two revisions, one without its weights, an adapter, and half a download."""
    home = tmp_path_factory.mktemp("hf_home")
    for revision, commit, value in (("main", MAIN, 1.0), ("v0", OLD, 2.0)):
        set_norm(golden_checkpoint(cached(home, "org/name", revision, commit), tokenizer=True), value)
    bare = golden_checkpoint(cached(home, "org/bare", "main", MAIN), tokenizer=True)
    (bare / "model.safetensors").unlink()
    golden_adapter(cached(home, "org/adapter", "main", MAIN), base_model_name_or_path="org/name", revision="v0")
    light = golden_adapter(cached(home, "org/light", "main", MAIN), base_model_name_or_path="org/bare")
    (light / "adapter_model.safetensors").unlink()
    return home


Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def ask(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Answers of one process that sees the cache and no network, asked all at once."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "runs").mkdir()
    questions = {
        "main": ("load", "org/name", {}),
        "v0": ("load", "org/name", {"revision": "v0"}),
        "commit": ("load", "org/name", {"revision": OLD}),
        "adapter": ("load", "org/adapter", {}),
        "adapter at main": ("load", "org/adapter", {"revision": "main"}),
        "given": ("load", "org/name", {"adapter": "org/adapter"}),
        "nothing": ("load", "org/nothing", {}),
        "no such revision": ("load", "org/name", {"revision": "v9"}),
        "no name": ("load", "or g/na me", {}),
        "misspelt": ("load", "runs/nothing", {}),
        "dotted": ("load", "./org/name", {}),
        "deep": ("load", "org/name/deep", {}),
        "one word": ("load", "name", {}),
        "inspect": ("inspect", "org/name", {"revision": "v0"}),
        "inspect bare": ("inspect", "org/bare", {}),
        "inspect adapter": ("inspect", "org/adapter", {}),
        "inspect light": ("inspect", "org/light", {}),
        "inspect nothing": ("inspect", "org/nothing", {}),
    }
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", ANSWER],
        input="\n".join(map(json.dumps, questions.values())),
        env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(zip(questions, map(json.loads, run.stdout.splitlines()), strict=True)).__getitem__


def test_an_id_loads_from_the_cache(ask: Ask) -> None:
    assert ask("main") == {
        "norm": 64.0,
        "base": "org/name",
        "revision": None,
        "adapter": False,
        "tokenizer": "HubTokenizer",
    }


@pytest.mark.parametrize("revision", ["v0", "commit"])
def test_a_revision_is_a_branch_a_tag_or_a_commit(revision: str, ask: Ask) -> None:
    assert ask(revision)["norm"] == 128.0 and ask(revision)["revision"] == {"v0": "v0", "commit": OLD}[revision]


def test_an_adapter_follows_its_base_in_the_base_s_own_revision(ask: Ask) -> None:
    for question in ("adapter", "adapter at main"):
        facts = ask(question)
        assert facts["adapter"] and (facts["base"], facts["revision"], facts["norm"]) == ("org/name", "v0", 128.0)
    assert ask("given")["adapter"] and ask("given")["norm"] == 64.0


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("nothing", "org/nothing"),
        ("inspect nothing", "org/nothing"),
        ("no such revision", "org/name"),
        ("no name", "or g/na me"),
    ],
)
def test_what_the_hub_does_not_give_is_one_line_that_names_it(question: str, name: str, ask: Ask) -> None:
    message = ask(question)
    assert message.startswith(f"{name}: no such folder here, and the hub does not give it: ") and "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("question", "name"),
    [("misspelt", "runs/nothing"), ("dotted", "org/name"), ("deep", "org/name/deep"), ("one word", "name")],
)
def test_a_path_never_goes_to_the_hub(question: str, name: str, ask: Ask) -> None:
    """Its folder's parent exists, it begins with a dot, or no id looks like it."""
    assert ask(question).startswith(f"{name}: no checkpoint here")


def test_inspection_of_an_id_needs_no_weights(ask: Ask) -> None:
    whole, bare = ask("inspect"), ask("inspect bare")
    assert whole["files"].keys() == {"model.safetensors"} and whole["dtypes"] == {"F32": 30}
    assert bare["files"] == {} and bare["dtypes"] == {}
    same = whole.keys() - {"model", "folder", "files", "dtypes"}
    assert {key: whole[key] for key in same} == {key: bare[key] for key in same}
    assert bare["model"] == "org/bare" and bare["parameters"] == 184_768 and bare["chat_template"] is True


def test_inspection_of_an_adapter_s_id(ask: Ask) -> None:
    whole, light = ask("inspect adapter"), ask("inspect light")
    assert (whole["model"], light["model"]) == ("org/name", "org/bare")
    assert OLD in whole["folder"]
    assert (whole["adapter_rank"], light["adapter_rank"]) == (4, 4)
    assert whole["adapter_parameters"] and light["adapter_parameters"] is None


def test_folders_win_over_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert locate("org/name") == Path("org/name") and locate("org/other") == Path("org/other")
    assert locate(GOLDEN) == GOLDEN
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/org") == tmp_path / "org"


def test_a_hub_out_of_reach_is_one_line(tmp_path: Path) -> None:
    """At a port of this machine where nobody listens."""
    code = (
        "from diffpo.models.policy import load_policy\ntry: load_policy('org/name')\nexcept ValueError as e: print(e)"
    )
    settings = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    (line,) = run.stdout.splitlines()
    assert line.startswith("org/name: no such folder here") and "Connection refused" in line
