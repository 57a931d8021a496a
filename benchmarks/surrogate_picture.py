"""The picture of docs/algorithm.md: a rollout's states, a cut, and which latent scores which token.

python benchmarks/surrogate_picture.py          writes docs/images/two_times.svg
"""

from __future__ import annotations

from pathlib import Path

import torch

from diffpo.functional.surrogate import assign_cuts

COMMITTED_AT = [2, 1, 3, 2]
CUTS = [0, 1]
CELL, GAP, LEFT, TOP = 34, 48, 16, 62
STYLE = """
text { font: 14px sans-serif; fill: #1f2328; text-anchor: middle } .small { font-size: 12px }
.cell { fill: none; stroke: #57606a } .known { fill: #9db7d5; fill-opacity: .55 } .fresh { stroke-width: 3 }
.cut { stroke: #b35900; stroke-dasharray: 5 4; stroke-width: 2 } .cuttext { fill: #8a4500 }
.path { fill: none; stroke: #57606a; stroke-width: 1.5 } .tip { fill: #57606a }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3 } .cell, .path { stroke: #9198a1 } .tip { fill: #9198a1 } .known { fill: #33567d }
.cut { stroke: #ffa657 } .cuttext { fill: #ffa657 } }
"""


def draw() -> str:
    """The SVG of one rollout and its two-times mean field."""
    num_calls, length = max(COMMITTED_AT), len(COMMITTED_AT)
    scored = assign_cuts(torch.tensor([COMMITTED_AT]), torch.tensor([CUTS]))[0].tolist()
    pitch = length * CELL + GAP
    width, bottom = 2 * LEFT + (num_calls + 1) * pitch - GAP, TOP + CELL + 128
    parts = []
    for call in range(num_calls + 1):
        x = LEFT + call * pitch
        parts.append(f'<text x="{x + length * CELL / 2}" y="{TOP - 12}">z{call}</text>')
        for place, made in enumerate(COMMITTED_AT):
            kind = ("known " if made <= call else "") + ("fresh" if made == call else "")
            corner = x + place * CELL
            parts.append(f'<rect class="cell {kind}" x="{corner}" y="{TOP}" width="{CELL}" height="{CELL}"/>')
            label = f"o{place + 1}" if made <= call else "?"
            parts.append(f'<text x="{corner + CELL / 2}" y="{TOP + 22}">{label}</text>')
        if call < num_calls:
            parts.append(f'<text class="small" x="{x + pitch - GAP / 2}" y="{TOP + 8}">call {call + 1}</text>')
            parts.append(f'<text x="{x + pitch - GAP / 2}" y="{TOP + 26}">→</text>')
    for index, cut in enumerate(CUTS):
        x = LEFT + cut * pitch + length * CELL / 2
        parts.append(f'<text class="cuttext" x="{x}" y="{TOP - 34}">cut τ{index} = {cut}</text>')
        parts.append(f'<path class="cut" d="M {x} {TOP + CELL + 4} V {TOP + CELL + 34}"/>')
        tokens = [place for place, chosen in enumerate(scored) if chosen == index]
        names = ", ".join(f"o{place + 1}" for place in tokens)
        parts.append(f'<text x="{x}" y="{TOP + CELL + 54}">scores {names}</text>')
        calls = " and ".join(str(call) for call in sorted({COMMITTED_AT[place] for place in tokens}))
        parts.append(f'<text class="small" x="{x}" y="{TOP + CELL + 74}">committed by call {calls}</text>')
    note = (
        "Filled: committed. Thick: by the call just made. ?: masked. A token is scored at the last cut before its call."
    )
    parts.append(f'<text class="small" x="{width / 2}" y="{bottom - 14}">{note}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom}" role="img">'
    title = "<title>Four tokens, three calls, two latents</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    (Path(__file__).parents[1] / "docs/images/two_times.svg").write_text(draw())
