"""What the small recipes need on ordinary cards, by `diffpo plan`: the table of docs/first_model.md.

    python benchmarks/plan_cards.py runs/smollm2_sft

The folder is a converted SmolLM2-135M; the other recipes name models whose shapes are known.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from diffpo.cli import main

CARDS = {"rtx-3060": "12 GB, RTX 3060", "rtx-4080": "16 GB, RTX 4080", "rtx-4090": "24 GB, RTX 4090"}
SMOLLM2 = "smollm2_wordproblems_diffpo"
RECIPES = (SMOLLM2, "qwen06b_bd3lm_gsm8k_diffpo", "qwen06b_gsm8k_diffpo")
ADAPTERS = ["--lora.rank", "64", "--load.dtype", "bfloat16"]
VARIANTS = {
    "all weights": ["--lora.rank", "0"],
    "LoRA 64": ADAPTERS,
    "LoRA 64 on 4 bits": [*ADAPTERS, "--load.four-bit"],
}


def planned(recipe: str, card: str, flags: list[str]) -> str:
    """Peak and seconds a step, or that it does not fit."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(["plan", recipe, "--gpu", card, "--json", *flags])
    found = json.loads(said.getvalue())
    peak = f"{found['peak_bytes'] / 2**30:.1f} GiB"
    return f"{peak}, {found['seconds_per_step']:.0f} s" if found["fits"] else f"needs {peak}"


def table(smollm2: str) -> str:
    lines = [f"| recipe | what learns | {' | '.join(CARDS.values())} |", "| --- " * (2 + len(CARDS)) + "|"]
    for recipe in RECIPES:
        for name, flags in VARIANTS.items():
            own = ["--model", smollm2] if recipe == SMOLLM2 else []
            cells = [planned(recipe, card, [*flags, *own]) for card in CARDS]
            lines.append(f"| `{recipe}` | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(sys.argv[1]))
