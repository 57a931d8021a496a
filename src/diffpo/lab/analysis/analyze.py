"""The analysis as a whole: parts in, sections out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diffpo.config import TrainConfig
from diffpo.lab.analysis.behaviour import order_sections, threshold_sections
from diffpo.lab.analysis.calibration import calibration_sections
from diffpo.lab.analysis.divergence import kl_sections
from diffpo.lab.analysis.gradients import gradient_sections
from diffpo.lab.analysis.sections import Section
from diffpo.lab.analysis.settings import AnalysisConfig, Part
from diffpo.lab.analysis.subject import Subject, look_at
from diffpo.lab.analysis.weights import weight_sections
from diffpo.lab.study.origin import origin
from diffpo.models.policy import Policy
from diffpo.tasks.base import Task
from diffpo.view.progress import Progress

PARTS: dict[Part, Callable[[Subject], list[Section]]] = {
    "kl": kl_sections,
    "weights": weight_sections,
    "gradients": gradient_sections,
    "calibration": calibration_sections,
    "thresholds": threshold_sections,
    "order": order_sections,
}


def analyze(
    policy: Policy,
    task: Task,
    config: TrainConfig,
    settings: AnalysisConfig | None = None,
    against: Policy | None = None,
    names: tuple[str, str] = ("model", "before"),
    quiet: bool = False,
) -> list[Section]:
    """Measure `policy` on test prompts of `task` under the objective and rollouts of `config`.

    Entropies and order are compared with those of `against`; `names` are what the two are called. ValueError if a part
    is not for such a model.
    """
    settings = settings or AnalysisConfig()
    if "kl" in settings.parts and policy.denoiser.config.block_length:
        others = " ".join(part for part in settings.parts if part != "kl") or "weights"
        raise ValueError(
            "analysis.parts: kl cuts the whole canvas, where a block-causal model cuts each block: set "
            f"analysis.parts = {others}"
        )
    policies = ({names[1]: against} if against else {}) | {names[0]: policy}
    sections: list[Section] = []
    with Progress("analyze", len(settings.parts) + 1, quiet, unit="part") as progress:
        subject = look_at(policies, task, config, settings)
        progress.advance()
        for part in settings.parts:
            sections += PARTS[part](subject)
            progress.advance()
    return sections


def report(title: str, command: str, sections: list[Section]) -> dict[str, Any]:
    """For JSON: what was asked, where it comes from, and what was found."""
    plain = [section.plain() for section in sections]
    return {"title": title, "command": command, "origin": origin(), "sections": plain}
