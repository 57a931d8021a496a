"""Run the notebooks of docs/notebooks, each in a process and a folder of its own, and write what they show into them.

    python benchmarks/run_notebooks.py                      # all, as they stand: minutes
    python benchmarks/run_notebooks.py first_run --check    # at the sizes of SMALL, and nothing is written

No Jupyter is needed: a cell shows what it prints, and its last expression as HTML, PNG or text, as IPython would.
"""

from __future__ import annotations

import argparse
import ast
import base64
import builtins
import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"
SMALL: Mapping[str, int] = {"PRETRAIN_STEPS": 2, "STEPS": 1, "PUZZLES": 4, "NUM_PROMPTS": 4}
"""What the cell tagged "parameters" sets, for a run that is to show that the cells run."""


class ZMQInteractiveShell:
    """What rich, and so the progress line, knows a notebook by."""


def execute(notebook: dict[str, Any], parameters: Mapping[str, int]) -> None:
    """Run the cells in order and put their outputs into them; `parameters` override the cell tagged so."""
    builtins.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    names: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(cells, start=1):
        stream = io.StringIO()
        with contextlib.redirect_stdout(stream), warnings.catch_warnings():
            warnings.simplefilter("error")
            shown = run_cell("".join(cell["source"]), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            names.update(parameters)
        cell["execution_count"], cell["outputs"] = number, []
        if text := as_seen(stream.getvalue()):
            cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": text.splitlines(keepends=True)})
        if shown is not None:
            result = {"output_type": "execute_result", "execution_count": number, "metadata": {}, "data": looks(shown)}
            cell["outputs"].append(result)


def run_cell(source: str, names: dict[str, Any]) -> Any:
    """The value of the cell's last line, where that is an expression."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    exec(compile(ast.Module(body, []), "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


def looks(value: Any) -> dict[str, Any]:
    """A value by MIME type."""
    bundle = getattr(value, "_repr_mimebundle_", lambda **_: {})(include=(), exclude=())
    html = getattr(value, "_repr_html_", lambda: bundle.get("text/html"))()
    png = getattr(value, "_repr_png_", lambda: None)()
    found = {"text/plain": bundle.get("text/plain", repr(value)).splitlines(keepends=True)}
    if html:
        light = re.sub(r"(?<=data:image/png;base64,)[\w+/=]+", lambda found: lighter(base64.b64decode(found[0])), html)
        found["text/html"] = light.splitlines(keepends=True)
    return found | ({"image/png": lighter(png)} if png else {})


def lighter(png: bytes) -> str:
    """A picture of few colours, in base64: a notebook is read over the network."""
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(file, format="png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def as_seen(text: str) -> str:
    """A stream as it is seen in the end: what follows a carriage return stands in the place of the line."""
    lines = (line.split("\r")[-1] for line in text.split("\n"))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # in this process and folder
    options = parser.parse_args()
    for name in options.names:
        path = NOTEBOOKS / f"{name}.ipynb"
        if not options.here:
            command = [sys.executable, str(Path(__file__).resolve()), "--here", name, *(["--check"] * options.check)]
            with tempfile.TemporaryDirectory() as folder:
                subprocess.run(command, cwd=folder, check=True)
            continue
        notebook = json.loads(path.read_text())
        execute(notebook, SMALL if options.check else {})
        if not options.check:
            text = json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
            path.write_text(text.replace(f"{Path.cwd()}/", ""))
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
