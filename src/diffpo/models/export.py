"""A policy as others load it: a Hugging Face folder in the layout and under the names of its base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from diffpo.files.folder import new_folder, write_folder
from diffpo.models.policy import Policy, policy_of
from diffpo.models.source import find_source
from diffpo.models.weights import SAVED

CARD = """---
{front}
tags: [diffusion-language-model, reinforcement-learning, diffpo]
---

A masked diffusion language model: {kind}{on}, {policy.version} updates.
{head}
```python
from diffpo import load_policy, sample

policy = load_policy("FOLDER")
print(sample(policy, ["..."])[0].text)
```
"""


def export(name: str | Path, output: str | Path, merge: bool = False, base: str | Path | None = None) -> list[Path]:
    """Write a run's policy, an adapter or a checkpoint to an empty folder; returns the files written.

    With `merge` adapters are folded into the weights and the folder is a whole model in the dtype of its base, which
    the published modelling code loads; trained on 4-bit weights, it has the values that those compute with. Without, a
    policy with adapters becomes a PEFT folder that names its base. The sampler head goes along for diffpo's own
    sampling; others ignore it. `base` stands in for the base that an adapter's folder names.
    """
    output = new_folder(output)
    source = find_source(name, base=base).in_blocks()
    four_bit = source.on_four_bits and (merge or not source.adapter)
    policy = policy_of(source, "auto" if four_bit else "saved", "cpu", four_bit)
    if merge:
        policy.merge_adapters()
    if policy.base and not policy.adapter:
        config = policy.base.config
        dtype = SAVED.get(str(config.get("dtype") or config.get("torch_dtype")))
        if dtype:  # weights trained in fp32 go home in the dtype of their base
            policy.denoiser.to(dtype)
    write_folder(output, lambda draft: save_with_card(policy, draft))
    return sorted(path for path in output.rglob("*") if path.is_file())


def save_with_card(policy: Policy, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Save a policy, of whose trainable values `weights` may be given, with the README.md that the hub shows."""
    policy.save_pretrained(folder, weights)
    (folder / "README.md").write_text(model_card(policy))


def model_card(policy: Policy) -> str:
    """Front matter that the hub reads, and how to load the folder."""
    base = policy.base.name if policy.base else ""
    kind = "adapters (PEFT)" if policy.adapter else "weights"
    front = ["library_name: peft" if policy.adapter else "library_name: diffpo"]
    front += [f"base_model: {json.dumps(base)}"] if base else []
    head = policy.sampler_head
    does = {
        "threshold": "picks the entropy threshold of the sampler",
        "bernoulli": "says how likely each masked position is committed",
    }
    sampled = f"\nIts sampler head is in {head.kind}.safetensors: it {does[head.kind]}.\n" if head else ""
    return CARD.format(front="\n".join(front), kind=kind, on=f" on {base}" if base else "", policy=policy, head=sampled)


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
