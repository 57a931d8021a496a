"""`make docs`: the pages of docs/ as a site in build/site, which opens from its folder and asks nothing of the network.

zensical builds it from build/docs, with broken links as errors. There links that leave docs/ lead into the repository,
formulas are MathML, and the names in python.md's table have pages of their own from the docstrings.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from latex2mathml.converter import convert

DOCS = Path(__file__).parent
ROOT = DOCS.parent
BUILD = ROOT / "build" / "docs"
PAGES = "https://github.com/diffpo/diffpo/blob/main"
BLOCK, SPAN = re.compile(r"(^```.*?^```|^(?: {4}[^\n]*\n)+)", re.M | re.S), re.compile(r"(`[^`\n]+`)")
"""Code, which stays as it is."""
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.S)
REMARK = re.compile(r"^( {4}\w+: [^#\n]+?)  # (.+)$", re.M)
"""A field and what the comment behind it says."""
LINK = re.compile(r"\[([^\[\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)]*)?\)")
SHIM = re.compile(r'https://[^"]+/iframe-worker/shim')
"""What zensical lets offline pages load from elsewhere."""


def page(text: str) -> str:
    """A page of docs/ as the site has it."""
    parts = BLOCK.split(text)  # every second one is code
    for index in range(0, len(parts), 2):
        spans = SPAN.split(LINK.sub(link, parts[index]))  # likewise
        spans[::2] = [FORMULA.sub(mathml, span) for span in spans[::2]]
        parts[index] = "".join(spans)
    return "".join(parts)


def link(found: re.Match[str]) -> str:
    """A page that is named by its file has its title; what is no page of the site is in the repository."""
    said, target, place = found[1], found[2], found[3] or ""
    path = (DOCS / target).resolve()
    if path.suffix not in (".md", ".png", ".svg") or not path.is_relative_to(DOCS):
        target = f"{PAGES}/{path.relative_to(ROOT)}"
    elif said == target:
        said = path.read_text().partition("\n")[0].removeprefix("# ")
    return f"[{said}]({target}{place})"


def mathml(found: re.Match[str]) -> str:
    """TeX as browsers show it by themselves."""
    if found[1]:
        return f'<div class="formula">{convert(" ".join(found[1].split()), display="block")}</div>'
    return convert(found[2])


def reference(text: str) -> dict[str, str]:
    """Pages of the names in python.md's table, by file: a subject each."""
    pages = {}
    for subject, names in re.findall(r"^\| ([\w ]+) \| (`.*) \|$", text.split("## All names")[1], re.M):
        entries = "\n\n".join(f"::: diffpo.{name}" for name in re.findall(r"`(\w+)`", names))
        pages[f"reference/{subject.replace(' ', '_')}.md"] = f"# {subject.capitalize()}\n\n{entries}\n"
    return pages


def copy_source() -> None:
    """src, where comments behind fields are docstrings, as which they are meant."""
    for path in (ROOT / "src").rglob("*.py"):
        copy = BUILD.parent / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(
            REMARK.sub(lambda found: f'{found[1]}\n    r"""{found[2][0].upper()}{found[2][1:]}"""', path.read_text())
        )


def main() -> None:
    for folder in (BUILD, BUILD.parent / "src"):
        shutil.rmtree(folder, ignore_errors=True)
    copy_source()
    shutil.copytree(DOCS / "images", BUILD / "images")
    made = {path.name: page(path.read_text()) for path in DOCS.glob("*.md")}
    made |= reference((DOCS / "python.md").read_text())
    for name, text in made.items():
        path = BUILD / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    for name in ("site.css", "worker.js"):
        shutil.copy(DOCS / name, BUILD)
    check_navigation(made)
    zensical = Path(sys.executable).with_name("zensical")
    subprocess.run([zensical, "build", "--clean", "--strict"], cwd=ROOT, check=True)
    for path in (BUILD.parent / "site").rglob("*.html"):
        up = "../" * len(path.relative_to(BUILD.parent / "site").parts[1:])
        path.write_text(SHIM.sub(f"{up}worker.js", path.read_text()))


def check_navigation(made: dict[str, str]) -> None:
    """SystemExit where a page is not in the navigation of zensical.toml, or one that is there is not made."""
    named = set(re.findall(r'"([^"]+\.md)"', (ROOT / "zensical.toml").read_text()))
    if wrong := named ^ made.keys():
        raise SystemExit(f"zensical.toml's nav and the pages differ in {', '.join(sorted(wrong))}")


if __name__ == "__main__":
    main()
