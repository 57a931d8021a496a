"""Checkpoints written by the published modelling code, and checkpoints that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import GOLDEN
from safetensors.torch import load_file, save_file

from diffpo.models.transformer import pack
from diffpo.models.weights import load_denoiser

FAMILIES = ("llada", "dream")


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_the_published_code(family: str) -> None:
    """Dream's golden logits are unshifted: `shift` is applied where tokens are predicted."""
    folder = GOLDEN / f"{family}-tiny"
    golden = load_file(folder / "golden.safetensors")
    denoiser = load_denoiser(folder)
    rows, length = golden["input_ids"].shape
    with torch.no_grad():
        logits = denoiser.head(denoiser(*pack(golden["input_ids"], torch.full((rows,), length))))
    torch.testing.assert_close(logits.view_as(golden["logits"]), golden["logits"], atol=1e-4, rtol=0)
    assert denoiser.config.shift == {"llada": 0, "dream": 1}[family]
    assert all(parameter.requires_grad for parameter in denoiser.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_sharded_weights_load_alike(family: str, tmp_path: Path) -> None:
    source = GOLDEN / f"{family}-tiny"
    shutil.copy(source / "config.json", tmp_path)
    tensors = load_file(source / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, tmp_path / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, tmp_path / "model-00002-of-00002.safetensors")
    whole, sharded = load_denoiser(source).state_dict(), load_denoiser(tmp_path).state_dict()
    assert whole.keys() == sharded.keys() and all(torch.equal(whole[name], sharded[name]) for name in whole)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(GOLDEN / "llada-tiny" / name, tmp_path)
    return tmp_path


EMBED, NORM = "model.transformer.wte.weight", "model.transformer.ln_f.weight"


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda tensors: tensors.pop(EMBED), ["missing model.transformer.wte.weight"]),
        (lambda tensors: tensors.update({NORM: torch.zeros(7)}), [NORM, r"\(7,\)", r"\(64,\)"]),
        (lambda tensors: tensors.update({"stray": torch.zeros(7)}), ["unexpected stray"]),
        (lambda tensors: (tensors.pop(EMBED), tensors.pop(NORM)), ["wte.weight", "ln_f.weight"]),
    ],
)
def test_one_error_names_all_that_does_not_fit(
    checkpoint: Path, spoil: Callable[[dict[str, torch.Tensor]], object], named: list[str]
) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    spoil(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=".*".join(named)):
        load_denoiser(checkpoint)


def test_an_unknown_family_is_an_error_that_suggests_one(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"model_type": "lada"}))
    with pytest.raises(ValueError, match=r"'lada'.*did you mean 'llada'"):
        load_denoiser(checkpoint)


def test_a_folder_without_weights_is_an_error(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"missing model\.transformer\.wte"):
        load_denoiser(checkpoint)
    with pytest.raises(ValueError, match="no checkpoint here"):
        load_denoiser(checkpoint / "nowhere")
