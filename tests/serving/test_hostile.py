"""What clients send makes no server fail, hang or change an answer; benchmarks/serving_fuzz.py sends more of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from random import Random

from helpers import tiny_policy
from serving.hostile import complaint, requests
from serving.live import serving

from diffpo.config import RolloutConfig, ServeConfig


def test_hostile_requests_are_answered() -> None:
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, sampler="top_k:2", gen_length=8))
    with serving(tiny_policy(1, learned=True), config) as live, ThreadPoolExecutor(4) as pool:
        before = live.complete(seed=1, temperature=1)["choices"]
        asked = list(requests(150, Random(0)))
        found = pool.map(lambda each: complaint(live.client, each), asked)
        assert not [(said, each) for said, each in zip(found, asked, strict=True) if said]
        live.wait("diffpo_slots_in_use", 0)
        live.wait("diffpo_waiting", 0)
        assert live.complete(seed=1, temperature=1)["choices"] == before
