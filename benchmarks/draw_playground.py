"""Pictures of the playground for docs/serving.md: on a desktop, in the dark, on a phone. It wants a Chromium.

    python benchmarks/draw_playground.py MODEL

MODEL answers the first test prompt of its task by its own rule and, beside it, by an entropy bound of 0.1 nats.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from serving.browser import browsing
from serving.live import serving

from diffpo.config import ServeConfig
from diffpo.models.policy import load_policy

BESIDE = """
document.getElementById("two").click();
const rule = document.querySelectorAll(".rule")[1];
rule.value = "gamma";
rule.dispatchEvent(new Event("change"));
document.getElementById("ask").click();
"""
BACK = """
const paint = document.getElementById("paint"), slider = document.querySelector(".slider");
paint.value = "call";
paint.dispatchEvent(new Event("change"));
slider.value = Math.floor(slider.max / 2);
slider.dispatchEvent(new Event("input"));
"""


def main() -> None:
    policy, images = load_policy(sys.argv[1]), Path(__file__).parents[1] / "docs" / "images"
    config = ServeConfig(rollout=policy.decoding)
    with (
        serving(policy, config, "sudoku") as live,
        tempfile.TemporaryDirectory() as profile,
        browsing(Path(profile)) as page,
    ):
        page.look(1200, 660)
        page.open(live.url)
        page.wait("document.getElementById('prompt').value")
        page.do(f"{{{BESIDE}}}")
        page.wait("!document.getElementById('ask').disabled")
        (images / "playground.png").write_bytes(page.look(1200, 660))
        page.do(f"{{{BACK}}}")
        (images / "playground_dark.png").write_bytes(page.look(1200, 660, dark=True))
        (images / "playground_phone.png").write_bytes(page.look(390, 900))


if __name__ == "__main__":
    main()
