"""How close diffpo is to the published code of each family, on tiny checkpoints that it wrote with their logits.

    python benchmarks/golden.py [--export FOLDER]

Prints a table of logits (fp32, bf16, with adapters, exported and loaded again) and of generations. `--export` keeps the
merged exports, with a sha256 of the fp32 logits of the golden input, for the published code to load.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffpo import Policy, Request, Sampler, export, generate, load_policy
from diffpo.models.transformer import pack

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


@torch.no_grad()
def logits(policy: Policy, ids: Tensor) -> Tensor:
    """Logits [B, S, V] as the published code returns them: unshifted, nothing banned."""
    rows, length = ids.shape
    hidden = policy.denoiser(*pack(ids, torch.full((rows,), length)))
    with policy.denoiser.autocast():
        return policy.denoiser.head(hidden).view(rows, length, -1).float()


def show(name: str, ours: Tensor, theirs: Tensor) -> None:
    difference, agree = (ours - theirs).abs().max(), (ours.argmax(-1) == theirs.argmax(-1)).float().mean()
    print(f"| {name} | {difference:.1e} | {agree:.1%} |")


def check_family(family: str, exports: Path) -> None:
    folder = GOLDEN / f"{family}-tiny"
    golden, lora = load_file(folder / "golden.safetensors"), folder / "lora"
    for dtype in ("float32", "bfloat16"):
        show(f"{family}, {dtype}", logits(load_policy(folder, dtype), golden["input_ids"]), golden["logits"])
    policy = load_policy(folder, "float32")
    if lora.is_dir():
        golden = load_file(lora / "golden.safetensors")
        for dtype in ("float32", "bfloat16"):
            policy = load_policy(folder, dtype, adapter=lora)
            show(f"{family}, {dtype}, adapters", logits(policy, golden["input_ids"]), golden["logits"])
        policy = load_policy(folder, "float32", adapter=lora)
        policy.adapter = {**(policy.adapter or {}), "base_model_name_or_path": str(folder)}
    with tempfile.TemporaryDirectory() as run:
        policy.save_pretrained(run)
        files = export(run, exports / family, merge=True)
    exported = logits(load_policy(exports / family, "saved"), golden["input_ids"])
    merged = "merged, " if policy.adapter else ""
    show(f"{family}, {merged}exported and loaded again", exported, golden["logits"])
    with safe_open(exports / family / "model.safetensors", "pt") as tensors:
        record = {
            "files": [file.name for file in files],
            "tensors": {name: tensors.get_slice(name).get_shape() for name in sorted(tensors.keys())},
            "input": f"{family}-tiny/{'lora/' if policy.adapter else ''}golden.safetensors: input_ids",
            "logits_sha256": hashlib.sha256(exported.contiguous().numpy().tobytes()).hexdigest(),
        }
    (exports / f"{family}.json").write_text(json.dumps(record, indent=2) + "\n")


def check_generations() -> None:
    folder = GOLDEN / "llada-tiny"
    policy = load_policy(folder, "float32")
    cases, tensors = json.loads((folder / "generate.json").read_text()), load_file(folder / "generate.safetensors")
    equal = 0
    for index, case in cases.items():
        prompts, outputs = tensors[f"prompt_{index}"], tensors[f"output_{index}"]
        requests = [
            Request(
                prompt_ids=tuple(prompt),
                key=0,
                gen_length=case["gen_length"],
                block_length=case["block_length"],
                sampler=Sampler("steps", case["steps"]),
                temperature=0.0,
                early_exit=False,
            )
            for prompt in prompts.tolist()
        ]
        for prompt, output, completion in zip(prompts, outputs, generate(policy, requests), strict=True):
            equal += torch.equal(torch.cat([prompt, completion.tokens]), output)
    total = sum(len(tensors[f"prompt_{index}"]) for index in cases)
    print(f"\nGenerations of the published loop at temperature 0, equal token for token: {equal} of {total}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="diffpo against the published code's logits")
    parser.add_argument("--export", type=Path, help="folder for the merged exports")
    folder = parser.parse_args().export or Path(tempfile.mkdtemp())
    print("| checkpoint | largest difference of a logit | same argmax |\n| --- | --- | --- |")
    for name in ("llada", "dream", "a2d-qwen3", "a2d-qwen2", "a2d-llama"):
        check_family(name, folder)
    check_generations()
