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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffpo import Policy, Request, Rule, Sampler, Seen, export, generate, load_policy
from diffpo.models.attention import pack

GOLDEN = Path(__file__).parents[1] / "tests" / "golden"


@torch.no_grad()
def logits(policy: Policy, ids: Tensor) -> Tensor:
    """Logits [B, S, V] as the published code returns them: unshifted, nothing banned."""
    (rows, length), size = ids.shape, policy.denoiser.config.block_length
    labels = 2 * (torch.arange(length) // size).expand(ids.shape) if size else None  # blocks begin with the row
    hidden = policy.denoiser(*pack(ids, torch.full((rows,), length), labels=labels))
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


@dataclass(frozen=True)
class Tied(Rule):
    """SDAR's static schedule at temperature 0: each likeliest token counts as certain, torch.topk breaks the ties."""

    count: float

    def __call__(self, seen: Seen) -> Tensor:
        chosen = torch.zeros_like(seen.candidates)
        for row in seen.candidates.any(-1).nonzero().flatten().tolist():
            certain = torch.where(seen.candidates[row], 1.0, -torch.inf)
            chosen[row, certain.topk(int(self.count)).indices] = True
        return chosen


def llada_rows(case: dict[str, Any], tensors: dict[str, Tensor], index: str) -> tuple[Sampler, list[Tensor]]:
    """How a case is decoded, and prompts and outputs of its rows in turn."""
    pairs = zip(tensors[f"prompt_{index}"], tensors[f"output_{index}"], strict=True)
    return Sampler("steps", case["steps"]), [row for prompt, output in pairs for row in (prompt, output[len(prompt) :])]


def bd3lm_rows(case: dict[str, Any], tensors: dict[str, Tensor], index: str) -> tuple[Sampler, list[Tensor]]:
    names = [f"{part}_{index}_{row}" for row in range(case["rows"]) for part in ("prompt", "completion")]
    return Sampler("steps", case["steps"]), [tensors[name] for name in names]


def sdar_rows(case: dict[str, Any], tensors: dict[str, Tensor], index: str) -> tuple[Sampler, list[Tensor]]:
    _, rows = llada_rows(case | {"steps": 1}, tensors, index)
    if case["rule"] == "low_confidence_dynamic":
        return Sampler("confidence", case["confidence_threshold"]), rows
    return Sampler(f"{__file__}:Tied", case["block_length"] / case["denoising_steps"]), rows


GENERATED = {"llada": llada_rows, "bd3lm": bd3lm_rows, "sdar": sdar_rows}


def check_generations(family: str, cache: str) -> None:
    folder = GOLDEN / f"{family}-tiny"
    policy = load_policy(folder, "float32")
    cases, tensors = json.loads((folder / "generate.json").read_text()), load_file(folder / "generate.safetensors")
    equal = total = 0
    for index, case in cases.items():
        sampler, rows = GENERATED[family](case, tensors, index)
        requests = [
            Request(
                prompt_ids=tuple(prompt.tolist()),
                key=0,
                gen_length=len(output),
                block_length=case["block_length"],
                sampler=sampler,
                temperature=0.0,
                entropy_temperature=1e-5 if family == "sdar" else 1.0,  # certainty as its loop sees it
                early_exit=False,
                cache=cache,
            )
            for prompt, output in zip(rows[::2], rows[1::2], strict=True)
        ]
        for completion, output in zip(generate(policy, requests), rows[1::2], strict=True):
            equal += torch.equal(completion.tokens, output)
            total += 1
    print(f"| {family}, cache {cache} | {equal} of {total} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="diffpo against the published code's logits")
    parser.add_argument("--export", type=Path, help="folder for the merged exports")
    folder = parser.parse_args().export or Path(tempfile.mkdtemp())
    print("| checkpoint | largest difference of a logit | same argmax |\n| --- | --- | --- |")
    for name in ("llada", "dream", "a2d-qwen3", "a2d-qwen2", "a2d-llama", "bd3lm", "sdar"):
        check_family(name, folder)
    print("\n| generations of the published loop at temperature 0 | equal token for token |\n| --- | --- |")
    for name, cache in (("llada", "none"), ("bd3lm", "none"), ("bd3lm", "exact"), ("sdar", "none"), ("sdar", "exact")):
        check_generations(name, cache)
