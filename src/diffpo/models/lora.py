"""LoRA adapters (arXiv 2106.09685) under the checkpoint's own module names, in PEFT's files.

The adapter files that are read and written here are those that PEFT reads and writes for the original modelling code:
names start with `base_model.model.`, targets are the checkpoint's modules.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffpo.config import LoraConfig, suggest
from diffpo.files.recipe import read_json
from diffpo.functional.random import make_key
from diffpo.models.families import Family
from diffpo.models.quantization import dequantize_linears, is_packed
from diffpo.models.saving import save_file
from diffpo.models.transformer import Transformer
from diffpo.models.weights import check_plain, read_tensors, tensor_shapes, without_weights

PREFIX = "base_model.model."
CARRIES = (
    "lora.rank: the model carries adapters already: set lora.rank = 0 to go on training those, or merge them first "
    "(diffpo export --merge)"
)
UNSUPPORTED = (
    *("use_dora", "use_qalora", "use_bdlora", "lora_bias", "modules_to_save", "trainable_token_indices"),
    *("layer_replication", "target_parameters", "fan_in_fan_out", "alora_invocation_tokens"),
    *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
)
"""Settings of adapter_config.json that change what an adapter computes, and that diffpo does not have."""
ALPHA = 8
"""PEFT's lora_alpha."""
PATTERNS = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
"""Settings of all modules, and where adapter_config.json says which have another."""
KINDS = {
    "rank_pattern": dict,
    "alpha_pattern": dict,
    "target_modules": str | list,
    "exclude_modules": str | list,
    "layers_to_transform": int | list,
    "use_rslora": bool,
}
"""What PEFT writes as the settings that say where an adapter is and how it is scaled; texts and keys are patterns."""
PARTS = (".lora_A.weight", ".lora_B.weight")
MERGE = "merge it with PEFT (merge_and_unload) and load the whole model"
INITIALIZATIONS = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of init_lora_weights that leave the base model as it is; others (pissa, olora, ...) train on a changed one."""


class Adapted(nn.Module):
    """A frozen linear and its update of low rank: W x + scaling B A x, of tokens [N, in] to [N, out].

    The update is added and scaled within the product by B: no pass over the output beside it.
    """

    def __init__(self, base: nn.Linear, rank: int, scaling: float) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, scaling
        with torch.device("meta"):
            self.lora_A = nn.Linear(base.in_features, rank, bias=False)
            self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        self.merged: Tensor | None = None
        """The sum of both as one weight, while it is what computes (`merged_adapters`)."""

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return nn.functional.linear(x, self.merged, self.base_layer.bias)
        return torch.addmm(self.base_layer(x), self.lora_A(x), self.lora_B.weight.T, alpha=self.scaling)

    @torch.no_grad()
    def merge(self) -> Tensor:
        """W + scaling B A [out, in], summed in fp32, in the dtype of W."""
        weight, update = self.base_layer.weight, self.lora_B.weight.float() @ self.lora_A.weight.float()
        return (weight.float() + self.scaling * update).to(weight.dtype)


def linear_names(denoiser: Transformer, family: Family) -> dict[str, str]:
    """Checkpoint's name -> our name of every linear of the blocks, what adapters can go on."""
    names = (f"blocks.{name}" for name, module in denoiser.blocks.named_modules() if isinstance(module, nn.Linear))
    return {family.original(name): name for name in names}


def short_names(names: Iterable[str]) -> list[str]:
    """Last parts of module names, such as q_proj: what people write as targets."""
    return sorted({name.rpartition(".")[2] for name in names})


def add_adapters(denoiser: Transformer, family: Family, config: LoraConfig, seed: int) -> dict[str, Any]:
    """Put fresh adapters onto a denoiser and freeze everything else; returns their adapter_config.json.

    A is uniform (Kaiming, as PEFT draws it) keyed by (seed, name), B is zero, so the policy stays what it was. A target
    is a module's name in the checkpoint, or the end of one; ValueError for a target that matches nothing.
    """
    linears = linear_names(denoiser, family)
    chosen = list(linears)
    if config.targets:
        matches = {t: [name for name in linears if _ends(name, t)] for t in config.targets}
        if lost := [target for target, names in matches.items() if not names]:
            allowed = short_names(linears)
            raise ValueError(f"lora.targets: no module is named {', '.join(lost)}{suggest(lost[0], allowed)}")
        chosen = [name for name in linears if any(name in names for names in matches.values())]
    _inject(denoiser, {linears[name]: (config.rank, config.alpha) for name in chosen}, rslora=False)
    for name, parameter in adapter_parameters(denoiser).items():
        values = torch.zeros(parameter.shape)
        if ".lora_A." in name:
            generator = torch.Generator().manual_seed(make_key(seed, "lora", name) % 2**63)
            values = (torch.rand(parameter.shape, generator=generator) * 2 - 1) / math.sqrt(parameter.shape[1])
        _set(denoiser, name, values)
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "",
        "revision": None,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": _pattern(chosen, linears),
        "task_type": None,
        "inference_mode": True,
    }


def load_adapters(denoiser: Transformer, family: Family, folder: Path) -> dict[str, Any]:
    """Put the adapters of a PEFT folder onto a denoiser; returns its adapter_config.json.

    Warnings say where it is not what its settings say: targets that match nothing in this architecture (one trained
    with another's names works, but on fewer modules than its author meant), modules without tensors, no lora_alpha, and
    lora_dropout, which is not applied here.
    """
    settings = read_json(folder / "adapter_config.json")
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{folder}: a {settings.get('peft_type')} adapter; diffpo loads LORA")
    if others := [key for key in UNSUPPORTED if settings.get(key)]:
        raise ValueError(f"{folder}: the adapter uses {', '.join(others)}, which diffpo does not have: {MERGE}")
    for key, allowed in (("bias", (None, "none")), ("init_lora_weights", INITIALIZATIONS)):
        if settings.get(key) not in allowed:
            raise ValueError(f"{folder}: the adapter has {key} = {settings[key]!r}: save it as plain LoRA weights")
    if not (file := folder / "adapter_model.safetensors").is_file():
        raise without_weights(folder, file.name)
    _check_settings(folder, settings)
    check_plain(folder, {name: dtype for _, name, _, dtype in tensor_shapes([file])})
    saved = {name.removeprefix(PREFIX): tensor for name, tensor in read_tensors(file).items()}
    if others := sorted(name for name in saved if not name.endswith(PARTS)):
        more = "more than the A and B of linears, as where embeddings were resized or a head learned"
        raise ValueError(f"{folder}: {file.name} holds {_few(others)}, {more}: {MERGE}")
    tensors = {family.native(name): tensor for name, tensor in saved.items()}
    linears = {ours: theirs for theirs, ours in linear_names(denoiser, family).items()}
    modules = {name.partition(".lora_")[0] for name in tensors}
    if strange := sorted(family.original(name) for name in modules - linears.keys()):
        own = ", ".join(short_names(linears.values()))
        raise ValueError(
            f"{folder}: the adapter is on {_few(strange)}; in this model one goes on the blocks' {own}: name its own "
            f"base, or {MERGE}"
        )
    if not modules:
        raise ValueError(f"{folder}: adapter_model.safetensors holds no LoRA tensors")
    _check_fit(folder, denoiser, {name: linears[name] for name in modules}, tensors, settings)
    if settings.get("lora_alpha") is None:
        settings["lora_alpha"] = ALPHA
        warnings.warn(f"{folder}: adapter_config.json has no lora_alpha: taking PEFT's {ALPHA}", stacklevel=2)
    if dropout := settings.get("lora_dropout"):
        settings["lora_dropout"] = 0.0
        warnings.warn(f"{folder}: lora_dropout {dropout} is left out: diffpo trains without dropout", stacklevel=2)
    _check_targets(folder, settings, {linears[name] for name in modules}, list(linears.values()))
    sizes = {
        name: (len(tensors[f"{name}.lora_A.weight"]), _setting(settings, "lora_alpha", linears[name]))
        for name in modules
    }
    _inject(denoiser, sizes, bool(settings.get("use_rslora")))
    for name in adapter_parameters(denoiser):
        _set(denoiser, name, tensors[name])
    return settings


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """ValueError names a setting that is not as PEFT writes it: of another kind, no number, or no pattern."""
    for key, kind in KINDS.items():
        if not isinstance(value := settings.get(key), kind | None):
            raise ValueError(f"{folder}: adapter_config.json has {key} = {value!r}, which PEFT does not write")
        for pattern in [value] if isinstance(value, str) else value if isinstance(value, dict) else ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{folder}: {key} has {pattern!r}, which is no pattern: {error}") from None
    for key, patterns in PATTERNS.items():
        own = {} if settings.get(key) is None else {key: settings[key]}
        for name, value in {**own, **(settings.get(patterns) or {})}.items():
            if not isinstance(value, int | float) or not 0 < (value if key == "r" else abs(value)) < 1e18:
                wanted = "above 0" if key == "r" else "other than 0, which leaves the adapter out"
                raise ValueError(f"{folder}: adapter_config.json has {name} = {value!r}: it must be a number {wanted}")


def _check_fit(
    folder: Path,
    denoiser: Transformer,
    modules: Mapping[str, str],
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
) -> None:
    """ValueError lists the `modules` (ours -> the checkpoint's name) whose A or B is missing or has another shape."""
    problems = []
    for name, original in sorted(modules.items()):
        linear = denoiser.get_submodule(name)
        own = {part.removeprefix(f"{name}."): part for part in tensors if part.startswith(f"{name}.")}
        found = {short: tuple(tensors[part].shape) for short, part in own.items()}
        rank = _setting(settings, "r", original) or found.get("lora_A.weight", (0,))[0]
        if found != {"lora_A.weight": (rank, linear.in_features), "lora_B.weight": (linear.out_features, rank)}:
            features = f"{linear.in_features} to {linear.out_features} features"
            problems.append(f"{original} ({features}) at rank {rank} has {found}")
    if problems:
        raise ValueError(f"{folder}: the adapter does not fit the model: {_few(problems)}")


def adapter_parameters(denoiser: Transformer) -> dict[str, nn.Parameter]:
    """The adapters' parameters by our names: `blocks.0.attn.q_proj.lora_A.weight` [rank, in], lora_B [out, rank]."""
    return {name: parameter for name, parameter in denoiser.named_parameters() if ".lora_" in name}


def save_adapters(folder: Path, family: Family, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write adapter_config.json and adapter_model.safetensors under the checkpoint's names."""
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    named = {PREFIX + family.original(name): tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def merge_adapters(denoiser: Transformer) -> None:
    """Add scaling * B A to the weights below, of 4 bits or not, and take the adapters off: all learns again."""
    dequantize_linears(denoiser)
    for name, module in list(denoiser.named_modules()):
        if isinstance(module, Adapted):
            weight = module.merge()
            if not weight.isfinite().all():
                raise ValueError(f"the adapter on {name} is not finite: it does not merge")
            module.base_layer.weight = nn.Parameter(weight)
            denoiser.set_submodule(name, module.base_layer)
    denoiser.requires_grad_(True)


@contextmanager
def merged_adapters(denoiser: Transformer) -> Iterator[None]:
    """Within, adapted linears compute with one merged weight, in the base's dtype: a product less, and rounded once.

    They are copies: afterwards the base is what it was, bit for bit. Within, no gradient reaches an adapter.
    """
    if is_packed(denoiser):
        raise ValueError("rollout.merge_adapters: adapters do not merge into 4-bit weights: leave out load.four_bit")
    adapted = [module for module in denoiser.modules() if isinstance(module, Adapted)]
    if not adapted:
        raise ValueError("rollout.merge_adapters: the model has no adapters: set lora.rank")
    try:
        for module in adapted:
            module.merged = module.merge()
        yield
    finally:
        for module in adapted:
            module.merged = None


def _inject(denoiser: Transformer, modules: Mapping[str, tuple[int, float]], rslora: bool) -> None:
    """Put adapters onto the modules, each (rank, alpha), their parameters in fp32 on meta; freeze the rest."""
    denoiser.requires_grad_(False)
    for name, (rank, alpha) in modules.items():
        base = denoiser.get_submodule(name)
        assert isinstance(base, nn.Linear)
        scaling = alpha / (math.sqrt(rank) if rslora else rank)
        denoiser.set_submodule(name, Adapted(base, rank, scaling))


def _set(denoiser: Transformer, name: str, values: Tensor) -> None:
    """Fill one adapter parameter, on meta so far, in fp32, where the weights are."""
    layer = denoiser.get_submodule(name.removesuffix(".weight"))
    layer.weight = nn.Parameter(values.to(denoiser.head.weight.device, torch.float32))


def _setting(settings: Mapping[str, Any], key: str, name: str) -> Any:
    """What a key of PATTERNS is for the module `name` of the checkpoint: by the first pattern that fits, or for all."""
    patterns = settings.get(PATTERNS[key]) or {}
    matching = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", name))
    return next(matching, settings.get(key))


def _pattern(names: Iterable[str], linears: Iterable[str]) -> str:
    """A regular expression for exactly these modules: a list of short names may hit the head, named as in a block."""
    shapes = sorted({re.sub(r"\.\d+\.", ".#.", name) for name in names})
    pattern = "|".join(re.escape(shape).replace(r"\#", r"\d+") for shape in shapes)
    same = {name for name in linears if re.fullmatch(pattern, name)} == set(names)
    return pattern if same else "|".join(map(re.escape, names))


def _check_targets(folder: Path, settings: Mapping[str, Any], found: set[str], linears: list[str]) -> None:
    """Warn of targets and of linears without tensors; ValueError for tensors that the settings leave out."""
    targets = settings.get("target_modules")
    wanted = [] if isinstance(targets, str) else sorted(targets or [])
    if lost := [target for target in wanted if not any(_ends(name, target) for name in found)]:
        untouched = sorted(set(short_names(linears)) - set(short_names(found)))
        warnings.warn(
            f"{folder}: the adapter's targets {', '.join(lost)} match nothing in this model, so it leaves "
            f"{', '.join(untouched)} untouched",
            stacklevel=3,
        )
    meant = [name for name in linears if is_target(name, settings)]
    if targets and (more := sorted(found - set(meant))):
        raise ValueError(
            f"{folder}: the adapter has tensors for {_few(more)}, which adapter_config.json leaves out, and so does "
            "PEFT: remove them, or mend target_modules, exclude_modules and layers_to_transform"
        )
    if missing := [name for name in meant if name not in found and not any(_ends(name, t) for t in lost)]:
        warnings.warn(
            f"{folder}: the adapter has no tensors for {_few(missing)}, which its settings name: they stay as the base "
            "has them",
            stacklevel=3,
        )


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are: a model has hundreds of linears."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def is_target(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether PEFT puts an adapter on the linear `name` of a block under these settings."""

    def matches(pattern: str | Sequence[str] | None) -> bool:
        if isinstance(pattern, str):
            return pattern == "all-linear" or re.fullmatch(pattern, name) is not None
        return any(_ends(name, target) for target in pattern or ())

    layers = settings.get("layers_to_transform")
    layers = [layers] if isinstance(layers, int) else layers or None
    at = re.search(r"\.(\d+)\.", name)
    inside = layers is None or (at is not None and int(at.group(1)) in layers)
    return matches(settings.get("target_modules")) and not matches(settings.get("exclude_modules")) and inside
