"""Requests that come at any time: each is answered as if it were alone, and memory is that of the slots.

    python benchmarks/admission.py [--num 1000] [--slots 8]

Requests of mixed prompts, canvases, blocks, rules, temperatures and caches arrive at random while others are decoded,
by a model that attends to the whole row and by one that is block-causal. Every completion is compared bit for bit with
that of its request alone; memory is that of the tensors alive after a call, and the process's own, early and late.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
from dataclasses import replace

import torch

from diffpo import Completion, Engine, Finished, Policy, Request, Sampler, generate
from diffpo.lab.bench.workloads import random_policy
from diffpo.models.transformer import TransformerConfig

RULES = ("top_k:1", "top_k:3", "entropy_bound:0.5", "confidence:0.4", "margin:2", "steps:8", "random:2")
SHAPE = TransformerConfig(64, hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=2, mlp_size=64, max_length=256)
MODELS = {
    "attention to the whole row": (SHAPE, ("none", "prefix", "dual")),
    "block-causal": (replace(SHAPE, block_length=4, blocks_from="row"), ("none", "exact")),
}


def mixed(num: int, caches: tuple[str, ...], draw: random.Random) -> list[Request]:
    return [
        Request(
            prompt_ids=tuple(draw.randrange(62) for _ in range(draw.randint(1, 40))),
            key=draw.getrandbits(62),
            gen_length=draw.choice((8, 16, 24, 40)),
            block_length=draw.choice((4, 8, 64)),
            sampler=Sampler.parse(draw.choice(RULES)),
            temperature=draw.choice((0.0, 0.7, 1.0)),
            cache=draw.choice(caches),
        )
        for _ in range(num)
    ]


def held() -> int:
    """Bytes of the tensors that are alive."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects() if is_tensor(t)}
    return sum(storages.values())


def is_tensor(thing: object) -> bool:
    return issubclass(type(thing), torch.Tensor)


def serve(
    policy: Policy, requests: list[Request], slots: int, draw: random.Random
) -> tuple[dict[int, Completion], list[int]]:
    """Completions by ticket, and bytes held after every fiftieth call, completions aside."""
    engine, found, memory, kept = Engine(policy, slots), dict[int, Completion](), list[int](), 0
    left = list(requests)
    while left or engine.busy:
        for _ in range(draw.choice((0, 0, 0, 1, 2, 9))):
            if left:
                engine.submit(left.pop(0))
        for event in engine.step():
            if isinstance(event, Finished):
                found[event.ticket] = event.completion
                parts = (value for value in vars(event.completion).values() if is_tensor(value))
                kept += sum(part.untyped_storage().nbytes() for part in parts)
        if engine.steps % 50 == 0:
            memory.append(held() - kept)
    return found, memory


def same(ours: Completion, theirs: Completion) -> bool:
    names = ("tokens", "committed_at", "behaviour_logprobs", "entropies")
    return ours.nfe == theirs.nfe and all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--slots", type=int, default=8)
    options = parser.parse_args()
    print(
        "| model | requests | as alone | calls | tensors held early, MiB | late | process, peak |\n"
        + "| --- " * 7
        + "|"
    )
    for name, (shape, caches) in MODELS.items():
        draw, policy = random.Random(0), random_policy(shape)
        requests = mixed(options.num, caches, draw)
        found, memory = serve(policy, requests, options.slots, draw)
        equal = sum(same(found[ticket], generate(policy, [asked])[0]) for ticket, asked in enumerate(requests))
        third = max(1, len(memory) // 3)
        early, late = (max(part) / 2**20 for part in (memory[third : 2 * third], memory[-third:]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        calls = sum(completion.nfe for completion in found.values())
        print(f"| {name} | {len(found):,} | {equal:,} | {calls:,} | {early:.2f} | {late:.2f} | {peak:.0f} |")


if __name__ == "__main__":
    main()
