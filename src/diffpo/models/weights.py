"""Checkpoints on disk or on the Hugging Face hub: config.json and safetensors, never pickle, never remote code."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from diffpo.files.places import is_path, list_checkpoints
from diffpo.files.recipe import read_json
from diffpo.files.shipped import maker_of
from diffpo.models.experts import apart, place
from diffpo.models.families import FAMILIES, Family, check_known, kind_of
from diffpo.models.published import with_blocks
from diffpo.models.quantization import pack, quantize_linears
from diffpo.models.transformer import Transformer

Shape = tuple[int, ...]
HEAD = "head.weight"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SAVED = {**DTYPES, "float16": torch.float16}
"""Dtypes that config.json may name."""
PLAIN = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float32}
"""Dtypes of weights that mean what they say, as safetensors names them, and what they are loaded in as saved; others
have scales beside them."""
COMPANIONS = ("*.json", "*.txt", "*.jinja", "*.py", "*.md", "LICENSE*")
"""Files of a repository beside its weights. Its Python files go along into exports and are never imported here."""


def locate(name: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of `name`: that folder itself, or a snapshot of the hub repository of that id.

    The hub's own conventions hold: HF_HOME, HF_HUB_OFFLINE, HF_TOKEN. `weights` False leaves the weights there.
    ValueError says what was looked for where.
    """
    folder = Path(name).expanduser()
    if is_path(name):
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import httpx

    patterns = [*COMPANIONS, *(["*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=patterns))
    except (httpx.HTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name}: no such folder here, and the hub does not give it: {reason}") from None


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a config.json, and safetensors beside it."""

    name: str
    """A hub id, or a folder by its absolute path, so that it can be named from elsewhere."""
    folder: Path
    config: dict[str, Any]
    revision: str | None = None
    """Branch, tag or commit that was asked for on the hub."""

    @classmethod
    def open(cls, name: str | Path, revision: str | None = None, weights: bool = True) -> Checkpoint:
        """Find a checkpoint and read its config.json; ValueError if there is none or its family is unknown."""
        folder = locate(name, revision, weights)
        name = name if is_snapshot(folder) and not Path(name).is_dir() else folder.resolve()
        config = with_blocks(str(name), read_config(folder))
        return cls(str(name), folder, {**FAMILIES[kind_of(config)].ids, **config}, revision)

    @property
    def is_local(self) -> bool:
        """Whether the name is that of a folder here."""
        return Path(self.name).is_absolute()

    @property
    def commit(self) -> str | None:
        """The commit on the hub that was loaded; None for a folder."""
        return None if self.is_local else self.folder.name

    @property
    def family(self) -> Family:
        return FAMILIES[kind_of(self.config)]

    @property
    def files(self) -> list[Path]:
        """The safetensors files: those that the index names, or model*.safetensors."""
        index = self.folder / "model.safetensors.index.json"
        if not index.is_file():
            if found := sorted(filter(Path.is_file, self.folder.glob("model*.safetensors"))):
                return found
            raise without_weights(self.folder, "model.safetensors")
        shards = read_json(index).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise ValueError(f"{index}: has no weight_map of tensors to files: download it again")
        files = [self.folder / name for name in sorted(set(shards.values()))]
        if lost := [file.name for file in files if not file.is_file()]:
            raise ValueError(f"{self.folder}: the index names {', '.join(lost)}, which is not here: download it again")
        whole = self.folder / "model.safetensors"
        if whole not in files and whole.is_file():  # which some loaders read, and some the others
            raise ValueError(f"{whole} stands beside {index.name}, which names others: remove what is not the model's")
        return files

    def empty_denoiser(self) -> Transformer:
        """The transformer that config.json describes, on the meta device."""
        try:
            with torch.device("meta"):
                return Transformer(self.family.shape(self.config))
        except (KeyError, TypeError, ValueError) as error:
            lacks = f"config.json lacks {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{self.folder}: {lacks}") from None


def without_weights(folder: Path, wanted: str) -> ValueError:
    """What to say of a folder that lacks the file `wanted`. Pickles run code when they are read: they are none."""
    pickles = sorted(path.name for kind in ("*.bin", "*.pt", "*.pth") for path in folder.glob(kind))
    there = f"only {', '.join(pickles)}, which diffpo does not read: save it as safetensors"
    return ValueError(f"{folder}: {wanted} is wanted, and there is {there if pickles else 'none'}")


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is a commit's snapshot in a cache of the hub."""
    return folder.parent.name == "snapshots"


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a checkpoint's folder; ValueError if there is none or diffpo cannot load such a one."""
    path = folder / "config.json"
    if folder.is_file():
        mend = "`diffpo convert` makes one of it" if folder.suffix.lower() == ".gguf" else f"name {folder.parent}"
        raise ValueError(f"{folder}: a file, where the folder of a checkpoint is wanted: {mend}")
    if not path.is_file():
        maker, saved = maker_of(folder), list_checkpoints(folder)
        if saved:
            raise ValueError(f"{folder}: this holds a run's checkpoints: name one, such as {saved[0]}, or its run")
        mend = f"`{maker}` makes it" if maker else "`diffpo sft` makes one, and `diffpo convert` of a causal model"
        raise ValueError(f"{folder}: no checkpoint here (no config.json); {mend}")
    config = read_json(path)
    check_known(config, path)
    return config


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """A safetensors file, to read tensor by tensor; ValueError names one that is lost, cut short or none."""
    try:
        with safe_open(file, framework="pt") as tensors:
            yield tensors
    except FileNotFoundError:
        raise ValueError(f"{file}: no such file") from None
    except SafetensorError as error:
        raise ValueError(f"{file}: not a whole safetensors file: {error}") from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file. ValueError as `opened`, or if one is not finite."""
    with opened(file) as tensors:
        names = tensors.keys()
        return {name: _finite(file, name, tensors.get_tensor(name)) for name in names}


def _finite(file: Path, name: str, tensor: Tensor) -> Tensor:
    """The tensor; ValueError if it holds NaN or infinity.

    Not all of these would come out as answers are made: torch's attention on a CPU takes scores of NaN for nothing.
    """
    suspect = not tensor.sum(dtype=torch.float32).isfinite()  # in one pass without a copy; a sum may be too large
    if suspect and not tensor.isfinite().all():
        name = name if "." in name else f"{file.stem}.{name}"  # of a head, whose file has its own names alone
        raise ValueError(f"{file}: the weight {name} is not finite: load weights that are")
    return tensor


def tensor_shapes(files: list[Path]) -> Iterator[tuple[Path, str, Shape, str]]:
    """(file, name, shape, dtype) of every tensor, from the files' headers alone."""
    for file in files:
        with opened(file) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                part = tensors.get_slice(name)
                yield file, name, tuple(part.get_shape()), part.get_dtype()


def load_denoiser(
    checkpoint: Checkpoint | str | Path,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    four_bit: bool = False,
) -> Transformer:
    """The transformer of a checkpoint of any family, in `dtype` (None: as saved, the widest of several), on `device`.

    It is built on meta and filled tensor by tensor, so that host memory holds the weights and no second copy.
    ValueError lists every tensor that is missing, unexpected or of another shape, before any is read, or names one that
    is not finite.
    """
    if not isinstance(checkpoint, Checkpoint):
        checkpoint = Checkpoint.open(checkpoint)
    model = checkpoint.empty_denoiser()
    expected = {name: tuple(tensor.shape) for name, tensor in apart(model.state_dict()).items()}
    files, family = checkpoint.files, checkpoint.family
    twice = {HEAD: expected["embed.weight"]} if model.config.tied else {}  # some write the tied head as well
    wanted, allowed = ({family.original(name): shape for name, shape in some.items()} for some in (expected, twice))
    tensors = list(tensor_shapes(files))
    check_plain(checkpoint.folder, {name: dtype for _, name, _, dtype in tensors})
    found = [(file.name, name, shape) for file, name, shape, _ in tensors]
    check_fit(checkpoint.folder, found, wanted, allowed)
    learned = parameter_names(family, model)
    common = dtype or widest(dtype for _, name, _, dtype in tensors if name in learned)
    if four_bit:
        quantize_linears(model)
    heads: list[Tensor] = []
    for file in files:
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            for name in tensors.keys():  # noqa: SIM118
                tensor, native = _finite(file, name, tensors.get_tensor(name)), family.native(name)
                tensor = tensor.to(common if name in learned else dtype)
                if native in twice:
                    heads.append(tensor)
                else:
                    _assign(model, native, tensor)
    check_tied(checkpoint.folder, family, model.embed.weight, heads)
    model.initialize_buffers(torch.device(device))
    return model.eval()


def check_tied(place: str | Path, family: Family, embeddings: Tensor, heads: Iterable[Tensor]) -> None:
    """ValueError for a head that is written beside the embeddings it is tied to, and is another."""
    if not all(torch.equal(head, embeddings) for head in heads):
        names = " is not ".join(map(family.original, (HEAD, "embed.weight")))
        raise ValueError(f"{place}: {names}, though config.json ties them: set tie_word_embeddings to false")


def check_plain(place: str | Path, dtypes: Mapping[str, str]) -> None:
    """ValueError for weights that are no plain numbers, by the names of their dtypes in safetensors."""
    if packed := next((f"{name} is {dtype}" for name, dtype in dtypes.items() if dtype not in PLAIN), None):
        raise ValueError(
            f"{place}: the weights are quantized ({packed}), which diffpo does not read: name the model that they were "
            "made of; load.four_bit makes 4 bits of it"
        )


def parameter_names(family: Family, model: Transformer) -> set[str]:
    """The checkpoint's names of what may learn, a tied head's among them; the rest is buffers."""
    return {family.original(name) for name in (*apart(dict(model.named_parameters())), HEAD)}


def widest(dtypes: Iterable[str]) -> torch.dtype:
    """The dtype that loses nothing of weights of these, as safetensors names them: a product needs both in one."""
    return functools.reduce(torch.promote_types, (PLAIN[dtype] for dtype in dtypes))


def check_learns(dtype: torch.dtype) -> None:
    """ValueError for a dtype in which no denoiser learns: its gradients go through the dtype of its weights."""
    if dtype == torch.float16:
        raise ValueError(
            "load.dtype: small gradients are 0 in float16, which the weights are saved in: set load.dtype = bfloat16, "
            "or float32"
        )


def check_fit(
    place: str | Path,
    found: Iterable[tuple[str, str, Shape]],
    wanted: Mapping[str, Shape],
    allowed: Mapping[str, Shape] | None = None,
) -> None:
    """ValueError unless what is `found`, by file and name, is all of `wanted`, any of `allowed`, and no more."""
    expected, problems, seen = {**wanted, **(allowed or {})}, list[str](), set[str]()
    for file, name, shape in found:
        if name not in expected:
            problems.append(f"unexpected {name}")
        elif shape != expected[name]:
            problems.append(f"{name} has shape {shape}, expected {expected[name]}")
        if name in seen:
            problems.append(f"{name} stands in another file than {file} as well")
        seen.add(name)
    problems += [f"missing {name}" for name in wanted if name not in seen]
    if problems:
        raise ValueError(f"{place}: the weights do not fit config.json: {'; '.join(problems)}")


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Put `tensor` in the place of a parameter or buffer on meta, or of one expert's part of a stack."""
    stack = place(name)
    path, _, leaf = (stack[0] if stack else name).rpartition(".")
    module = model.get_submodule(path)
    if stack:
        experts = module.get_parameter(leaf)
        if experts.is_meta:
            experts = nn.Parameter(torch.empty(experts.shape, dtype=tensor.dtype, device=tensor.device))
            setattr(module, leaf, experts)
        experts.data[stack[1]] = tensor
        return
    if leaf in dict(module.named_buffers(recurse=False)):
        setattr(module, leaf, tensor)
        return
    whole = type(module.get_parameter(leaf)) is nn.Parameter  # else it is one of four bits
    setattr(module, leaf, nn.Parameter(tensor) if whole else pack(tensor))


def find_dtype(dtype: str | torch.dtype, checkpoint: Checkpoint) -> torch.dtype | None:
    """The dtype to load in; None for the checkpoint's own."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        dtype = "saved" if checkpoint.config["model_type"] == "diffpo" else "bfloat16"
    if dtype != "saved" and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: choose among auto, saved, {', '.join(DTYPES)}")
    return DTYPES.get(dtype)
