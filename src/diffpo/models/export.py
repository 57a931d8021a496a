"""A policy as others load it: a Hugging Face folder in the layout and under the names of its base model."""

from __future__ import annotations

from pathlib import Path

from diffpo.files.folder import new_folder, write_folder
from diffpo.models.card import model_card
from diffpo.models.policy import load_policy
from diffpo.models.weights import DTYPES


def export(name: str | Path, output: str | Path, merge: bool = False, base: str | Path | None = None) -> list[Path]:
    """Write a run's policy, an adapter or a checkpoint to an empty folder; returns the files written.

    With `merge` adapters are folded into the weights and the folder is a whole model in the dtype of its base, which
    the published modelling code loads. Without, a policy with adapters becomes a PEFT folder that names its base. The
    sampler head goes along for diffpo's own sampling; others ignore it. `base` stands in for the base that an
    adapter's folder names.
    """
    output = new_folder(output)
    policy = load_policy(name, dtype="saved", device="cpu", base=base)
    if merge:
        policy.merge_adapters()
    if policy.base and not policy.adapter:
        config = policy.base.config
        dtype = DTYPES.get(str(config.get("dtype") or config.get("torch_dtype")))
        if dtype:  # weights trained in fp32 go home in the dtype of their base
            policy.denoiser.to(dtype)

    def write(folder: Path) -> None:
        policy.save_pretrained(folder)
        (folder / "README.md").write_text(model_card(policy))

    write_folder(output, write)
    return sorted(path for path in output.rglob("*") if path.is_file())


def push_to_hub(folder: str | Path, repository: str, private: bool = True) -> str:
    """Upload an exported folder to the Hugging Face hub (HF_TOKEN, or `hf auth login`); returns its address."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import httpx

    api = HfApi()
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except (httpx.HTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{repository}: the hub refused ({reason}); {folder} is complete") from None
    return str(url)
