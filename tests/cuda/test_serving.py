"""The server on the fake device, whose engine tells a call late what the call before did."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from helpers import tiny_policy
from serving.live import serving

from diffpo.config import RolloutConfig, ServeConfig


def test_answers_are_those_of_the_cpu(cuda: None) -> None:
    """Whole, cut by a stop, many at once; and nothing is left of them."""
    config = ServeConfig(rollout=RolloutConfig(temperature=0.0, gen_length=8, num_slots=3))
    bodies = [
        {"prompt": "012"[: 1 + seed % 3], "seed": seed, "temperature": seed % 2, "n": 2, "stop": [None, "3"][seed % 2]}
        for seed in range(8)
    ]
    answers = []
    for device in ("cpu", "cuda"):
        with serving(tiny_policy(1, learned=True).to(device), config) as live, ThreadPoolExecutor(4) as pool:
            found = pool.map(lambda body: live.complete(**body), bodies)
            answers.append([[(c["text"], c["denoiser_calls"]) for c in each["choices"]] for each in found])
            live.wait("diffpo_slots_in_use", 0)
    assert answers[0] == answers[1]
