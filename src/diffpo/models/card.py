"""The model card of a saved policy: the README.md that the hub shows."""

from __future__ import annotations

import json

from diffpo.models.policy import Policy


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
    return "\n".join(
        [
            *("---", *front, "tags: [diffusion-language-model, reinforcement-learning, diffpo]", "---", ""),
            f"A masked diffusion language model: {kind}{f' on {base}' if base else ''}, {policy.version} updates.",
            f"\nIts sampler head is in {head.kind}.safetensors: it {does[head.kind]}.\n" if head else "",
            "```python",
            "from diffpo import load_policy, sample",
            "",
            'policy = load_policy("FOLDER")',
            'print(sample(policy, ["..."])[0].text)',
            "```",
            "",
        ]
    )
