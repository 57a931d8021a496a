"""What a reader copies: each command of the pages, recipes and studies parses; what `diffpo plan` printed is so."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from diffpo.cli import COMMANDS, main, parse
from diffpo.config import SftConfig, TrainConfig
from diffpo.files.recipe import kind_at, load_config

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}
COMMENTS = {
    folder: "\n".join(re.sub("^# *", "    ", path.read_text(), flags=re.MULTILINE) for path in sorted(paths))
    for folder in ("recipes", "studies")
    if (paths := (ROOT / folder).glob("*.toml"))
}
STANDS_FOR = {"RECIPE": "sudoku_tiny", "RUN": "runs/sudoku_tiny", "mine.toml": "sudoku_tiny", "N": "1", "K": "1"}
"""What a reader puts in."""
PLANNED = [page for page, text in PAGES.items() if "    $ diffpo plan" in text]


def commands(text: str) -> Iterator[list[str]]:
    """The words of every `diffpo` line in blocks of code, without what it prints and without remarks."""
    code = "\n".join(re.findall(r"^```(?:sh)?\n.*?^```$|^    .*$", text, re.MULTILINE | re.DOTALL))
    for line in re.findall(r"^ *(?:\$ )?(?:[A-Z]+=\S+ )?(diffpo [a-z].*)$", code.replace("\\\n", " "), re.MULTILINE):
        words = shlex.split(line, comments=True)
        ends = [place for place, word in enumerate(words) if word == "&&"]
        for begin, end in zip([0, *(place + 1 for place in ends)], [*ends, len(words)], strict=True):
            yield [STANDS_FOR.get(word, word) for word in words[begin + 1 : end]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the settings of a run of every recipe."""
    folder = tmp_path_factory.mktemp("reader")
    for path in (ROOT / "recipes").glob("*.toml"):
        config = load_config(SftConfig if kind_at(str(path)) == "sft" else TrainConfig, path)
        (folder / config.output).mkdir(parents=True)
        (folder / config.output / "config.json").write_text(json.dumps(asdict(config)))
    return folder


@pytest.mark.parametrize("page", PAGES | COMMENTS)
def test_every_command_parses(page: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    for command, *arguments in {tuple(words): words for words in commands((PAGES | COMMENTS)[page])}.values():
        if command not in COMMANDS:
            assert page == "docs/index.md" and command == "trains", command
            continue
        try:
            parse(command, *arguments)
        except (SystemExit, ValueError) as error:
            pytest.fail(f"{page}: diffpo {command} {' '.join(arguments)}: {error}")


def planned(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each `$ diffpo plan` of a page with the lines below it, but for simulations and for rows that a reader has."""
    for command, below in re.findall(
        r"^    \$ diffpo (plan .*)\n((?: {4}[^$].*\n|\n(?= {4}[^$]))+)", text, re.MULTILINE
    ):
        if not {"--sweep", "--data"} & {*command.split()}:
            yield command, [plain(line) for line in below.splitlines() if plain(line) != "..."]


def plain(line: str) -> str:
    return " ".join(line.split())


@pytest.mark.slow
@pytest.mark.parametrize("page", PLANNED)
def test_plan_still_says_what_the_page_says(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command, lines in planned(PAGES[page]):
        main(command.split())
        said = [plain(line) for line in capsys.readouterr().out.splitlines()]
        assert [line for line in lines if line not in said] == [], command
