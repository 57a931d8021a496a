"""The wheel, installed outside the tree, trains: nothing that a user needs is left behind in the checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path) -> str:
    """Run a command to success and return what it printed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fresh venv in it that holds diffpo's wheel, and sees this environment's other packages."""
    folder = tmp_path_factory.mktemp("elsewhere")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=folder)
    pip = (sys.executable, "-m", "pip", "--python", folder / "venv/bin/python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # After the install, or pip would see diffpo as installed already. A folder named in a .pth file is searched,
    # but its own .pth files, the editable install's among them, are not read.
    (site,) = folder.glob("venv/lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def test_wheel_is_what_runs(installed: Path) -> None:
    where = run("venv/bin/python", "-c", "import diffpo; print(diffpo.__file__)", cwd=installed)
    assert Path(where.strip()).is_relative_to(installed / "venv")
    assert "sft" in run("venv/bin/diffpo", "--help", cwd=installed)
    assert "sft" in run("venv/bin/python", "-m", "diffpo", "--help", cwd=installed)


@pytest.mark.parametrize("folder", ["recipes", "studies"])
def test_wheel_ships_recipes_and_studies(installed: Path, folder: str) -> None:
    shipped = {path.name for path in installed.glob(f"venv/lib/python*/site-packages/diffpo/{folder}/*.toml")}
    assert shipped == {path.name for path in (ROOT / folder).glob("*.toml")} and shipped
    if folder == "studies":
        run("venv/bin/diffpo", "study", "paper_table", "--dry-run", cwd=installed)


def test_the_readme_of_the_wheel_has_no_links_into_the_checkout(installed: Path) -> None:
    (metadata,) = installed.glob("venv/lib/python*/site-packages/diffpo-*.dist-info/METADATA")
    links = re.findall(r"\]\(([^)]+)\)", metadata.read_text())
    assert links and all(link.startswith("https://") for link in links)
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", metadata.read_text())
    assert pictures and all("raw" in link for link in pictures)


def test_wheel_trains(installed: Path) -> None:
    shape = ("--shape.hidden-size", 32, "--shape.num-layers", 1, "--shape.mlp-size", 32, "--shape.num-heads", 2)
    size = ("--steps", 2, "--batch-size", 8, "--num-examples", 64, "--num-threads", 1)
    run("venv/bin/diffpo", "sft", "--task.name", "tiny_sudoku", "--output", "tiny", *size, *shape, cwd=installed)
    assert list(installed.glob("tiny/**/*.safetensors"))

    size = ("--steps", 2, "--prompts-per-step", 2, "--num-generations", 2, "--num-threads", 1)
    run("venv/bin/diffpo", "train", "--model", "tiny", "--output", "tuned", *size, cwd=installed)
    assert list(installed.glob("tuned/**/*.safetensors"))
    assert len((installed / "tuned/metrics.jsonl").read_text().splitlines()) >= 2
