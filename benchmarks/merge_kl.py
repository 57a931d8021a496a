"""How far rollouts with merged adapters are from the model that learns: KL(merged || unmerged), nats a token, in bf16.

python benchmarks/merge_kl.py [MODEL ADAPTER]            the golden tiny checkpoints unless named

k3 over drawn tokens, of their log-probabilities in behaviour and under the unmerged adapters at the very states that
they were drawn in. The row without merging is what bf16 does by itself.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path

from diffpo.lab.bench.workloads import batch_of, random_requests
from diffpo.models.lora import merged_adapters
from diffpo.models.policy import load_policy
from diffpo.rollout.cache import cache_kl
from diffpo.rollout.engine import generate

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


def main(pairs: list[tuple[str, str]]) -> None:
    print("| model | rollouts | KL to the model that learns, nats a token |\n| --- | --- | --- |")
    for model, adapter in pairs:
        policy = load_policy(model, "bfloat16", adapter=adapter)
        requests = random_requests(policy, [8] * 4, "top_k:1", gen_length=32, block_length=32, group=8)
        for name in ("unmerged", "merged"):
            with merged_adapters(policy.denoiser) if name == "merged" else nullcontext():
                completions = generate(policy, requests)
            kl = cache_kl(policy, batch_of(requests, completions), 1.0)
            print(f"| {Path(model).name} | {name} | {float(kl):.5f} |", flush=True)


if __name__ == "__main__":
    golden = [(str(GOLDEN / name), str(GOLDEN / name / "lora")) for name in ("llada-tiny", "dream-tiny")]
    main([(sys.argv[1], sys.argv[2])] if len(sys.argv) > 2 else golden)
