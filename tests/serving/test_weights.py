"""Adapters that come and go beside each other, and a run that is followed."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models.test_variants import saved_adapter, saved_base, stirred
from serving.live import Live, serving

from diffpo.config import RolloutConfig, ServeConfig
from diffpo.models.policy import Policy, load_policy
from diffpo.models.variants import saved_weights
from diffpo.rollout.local import sample
from diffpo.serving.app import create_app
from diffpo.serving.asking import Served
from diffpo.serving.weights import adapted

CONFIG = ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:1", gen_length=8))
WARM = {"temperature": 1, "seed": 3, "n": 4, "sampler": "top_k:2"}


def expected(folder: Path | str) -> list[str]:
    config = replace(CONFIG.rollout, temperature=1.0, sampler="top_k:2")
    return [completion.text for completion in sample(load_policy(folder), ["012"] * 4, config, seed=3)]


def texts(live: Live, model: str) -> list[str]:
    return [choice["text"] for choice in live.complete(model=model, **WARM)["choices"]]


def test_requests_for_different_adapters_are_decoded_together(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base")
    folders = {f"adapter{seed}": saved_adapter(base, tmp_path / f"a{seed}", seed) for seed in range(2)}
    config = replace(CONFIG, adapter=tuple(f"{name}={folder}" for name, folder in folders.items()))
    with serving(load_policy(base), config, "base") as live, ThreadPoolExecutor(6) as pool:
        names = ["base", *folders] * 4
        want = {name: expected(folders.get(name, base)) for name in ["base", *folders]}
        assert len({*map(tuple, want.values())}) == 3
        assert list(pool.map(lambda name: texts(live, name), names)) == [want[name] for name in names]
        assert [model["id"] for model in live.client.get("/v1/models").json()["data"]] == ["base", *folders]


def test_adapters_come_and_go_on_request(tmp_path: Path) -> None:
    base, root = saved_base(tmp_path / "base"), tmp_path / "root"
    saved_adapter(base, root / "mine", 0)
    saved_adapter(base, tmp_path / "outside", 1)
    with serving(load_policy(base), replace(CONFIG, adapter_root=str(root)), "base") as live:
        load = {"path": "/v1/load_lora_adapter", "lora_name": "mine"}
        for path, said in (("../outside", "must lie below"), ("/etc", "must lie below"), ("none", ""), ("\x00", "")):
            error = live.error(**load, lora_path=path)
            assert error["param"] == "lora_path" and said in error["message"]
        assert live.post(**load, lora_path="mine").json() == {"status": "loaded", "id": "mine"}
        assert "served already" in live.error(**load, lora_path="mine")["message"]
        assert texts(live, "mine") == expected(root / "mine")
        for name, status in (("base", 400), ("none", 404)):
            live.error("/v1/unload_lora_adapter", status, lora_name=name)
        assert live.post("/v1/unload_lora_adapter", lora_name="mine").json() == {"status": "unloaded", "id": "mine"}
        live.error(model="mine", prompt="0", status=404)
        assert texts(live, "base") == expected(base)
        assert len(live.service.scheduler._engines) == 1
    with serving(load_policy(base), CONFIG, "base") as live:
        assert "adapter_root" in live.error(**load, lora_path="mine", status=403)["message"]


def test_of_two_clients_who_load_one_name_one_is_told_that_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other's requests would be answered by an adapter that it did not load."""
    base, root, meet = saved_base(tmp_path / "base"), tmp_path / "root", threading.Barrier(2)
    for seed in range(2):
        saved_adapter(base, root / str(seed), seed)

    def together(*arguments: Any) -> Served:
        meet.wait(30)
        return adapted(*arguments)

    monkeypatch.setattr("diffpo.serving.service.adapted", together)
    with (
        serving(load_policy(base), replace(CONFIG, adapter_root=str(root)), "base") as live,
        ThreadPoolExecutor(2) as pool,
    ):
        load = {"path": "/v1/load_lora_adapter", "lora_name": "mine"}
        answers = list(pool.map(lambda path: live.post(**load, lora_path=path), "01"))
        assert sorted(answer.status_code for answer in answers) == [200, 400]
        winner = next(path for path, answer in zip("01", answers, strict=True) if answer.status_code == 200)
        assert texts(live, "mine") == expected(root / winner)


def test_the_fingerprint_is_of_the_weights_that_were_loaded(tmp_path: Path) -> None:
    """Whatever becomes of their folder before the first request."""
    base = saved_base(tmp_path / "base")
    with serving(load_policy(base), CONFIG, "base") as live:
        Path(base).rename(tmp_path / "moved")
        told = live.complete()["system_fingerprint"]
    with serving(load_policy(tmp_path / "moved"), CONFIG, "moved") as live:
        assert live.complete()["system_fingerprint"] == told


def test_an_adapter_that_is_named_wrongly_is_refused(tmp_path: Path) -> None:
    policy = load_policy(saved_base(tmp_path / "base"))
    for wrong in ("name", "=path", "base=path"):
        with pytest.raises(ValueError, match="write NAME=PATH, each name once"):
            create_app(policy, "base", replace(CONFIG, adapter=(wrong,)))


@pytest.mark.parametrize("adapters", [{"adapter": ("a=b",)}, {"adapter_root": "adapters"}])
def test_adapters_do_not_stand_on_weights_that_change(adapters: dict[str, Any]) -> None:
    """They answered from whatever weights had come, under their own version."""
    with pytest.raises(ValueError, match="follow: adapters would stand on weights that change"):
        ServeConfig(follow="runs/a", **adapters)


def test_a_run_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Weights change between two calls; completions say with which version they ended. A disk may be away at first,
    which is said once, and a run that begins anew in the same folder has older weights."""
    monkeypatch.setattr("diffpo.serving.weights.EVERY", 0.02)
    tries = iter(2 * (OSError("a disk is away"),))

    def read(policy: Policy, folder: Path) -> tuple:
        if error := next(tries, None):
            raise error
        return saved_weights(policy, folder)

    monkeypatch.setattr("diffpo.serving.weights.saved_weights", read)
    base, run = saved_base(tmp_path / "base"), tmp_path / "run"
    newer = stirred(load_policy(base), 6)
    with serving(load_policy(base), replace(CONFIG, follow=str(run)), "base") as live:
        assert live.complete(seed=0)["choices"][0]["version"] == 0 and texts(live, "base") == expected(base)
        newer.save_pretrained(tmp_path / "written")
        run.mkdir()
        (tmp_path / "written").rename(run / "policy")
        for _ in range(200):
            if live.metric("diffpo_weights_version") == 7:
                break
            time.sleep(0.02)
        assert live.complete(seed=0)["choices"][0]["version"] == 7
        assert texts(live, "base") == expected(run / "policy")
        (run / "policy").rename(tmp_path / "before")
        Path(saved_base(tmp_path / "anew")).rename(run / "policy")  # at once, as a run writes it
        (run / "checkpoints" / "step_000001").mkdir(parents=True)
        for _ in range(200):
            if caplog.records[-1].getMessage().endswith("which stay"):
                break
            time.sleep(0.02)
        assert texts(live, "base") == expected(tmp_path / "before")
    said = [record.getMessage().removeprefix(f"{run}: ") for record in caplog.records]
    assert [line for line in said if line != "no diffpo.json, so no policy of a run"] == [  # between the two renames
        "nothing there to follow yet",
        "a disk is away",
        "its weights have 0 updates, fewer than those in use (7), which stay",
    ]
