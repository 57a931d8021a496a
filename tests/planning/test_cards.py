"""What the head of a recipe says of its card is what `diffpo plan` says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from helpers import GOLDEN

from diffpo.cli import main

RECIPES = Path(__file__).parents[2] / "recipes"
CARDS = {12: "rtx-3060", 24: "rtx-4090", 80: "h100"}
SMOLLM2 = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "right_shift_logits": True,
    "block_size": 4,
}
"""Of the config.json that `diffpo convert` makes of SmolLM2-135M."""
CLAIMS = [
    (path.stem, claim["flags"], int(claim["gigabytes"]))
    for path in sorted(RECIPES.glob("*.toml"))
    if not path.stem.startswith(("llada8b", "dream7b")) or path.stem.endswith("gsm8k_diffpo")  # one shape each
    for claim in re.finditer(
        rf"^# diffpo (?:train|sft) {path.stem}(?P<flags>(?: --\S+ \S+)*) .*on one GPU of (?P<gigabytes>\d+) GB",
        path.read_text(),
        re.MULTILINE,
    )
]


@pytest.mark.parametrize(("recipe", "flags", "gigabytes"), CLAIMS)
def test_a_recipe_fits_the_card_that_it_names(
    recipe: str, flags: str, gigabytes: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", recipe, "--gpu", CARDS[gigabytes], "--json", *shlex.split(flags)]
    if recipe.startswith("smollm2"):
        config = json.loads((GOLDEN / "a2d-llama-tiny/config.json").read_text())
        (tmp_path / "config.json").write_text(json.dumps(config | SMOLLM2))
        arguments += ["--model", str(tmp_path)]
    main(arguments)
    assert json.loads(capsys.readouterr().out)["fits"]


def test_the_claims_are_found() -> None:
    assert {gigabytes for *_, gigabytes in CLAIMS} == {*CARDS} and len(CLAIMS) > 20
