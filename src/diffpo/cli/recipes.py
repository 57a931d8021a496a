"""The command that shows what ships: recipes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional


@dataclass(frozen=True)
class Recipes:
    """List the recipes that ship with diffpo, print one, or copy it to start your own from."""

    name: Annotated[Positional[str], tyro.conf.arg(metavar="[NAME]")] = ""
    """A recipe to print; left out: the list of all."""
    copy: str = ""
    """File to copy the recipe to, which must not be there yet."""

    def run(self) -> None:
        from diffpo.config import suggest
        from diffpo.files.shipped import list_recipes

        recipes = {recipe.name: recipe for recipe in list_recipes()}
        if not self.name:
            if self.copy:
                raise ValueError("name the recipe to copy: diffpo recipes NAME --copy FILE")
            _show(list(recipes.values()))
        elif self.name not in recipes:
            raise ValueError(f"{self.name}: no such recipe{suggest(self.name, recipes)}; diffpo recipes lists them")
        elif not self.copy:
            print(recipes[self.name].path.read_text(), end="")
        else:
            path = Path(self.copy)
            if path.exists():
                raise ValueError(f"{path} is there already: choose another name")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(recipes[self.name].path.read_text())
            print(f"saved {path}; next: {_use(recipes[self.name].command, path)}")


def _use(command: str, path: Path) -> str:
    if command == "accelerate launch":
        return f"accelerate launch --config_file {path} --num_processes 8 -m diffpo train RECIPE"
    return f"diffpo {command} {path}"


def _show(recipes: list) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), show_edge=False)
    for heading in ("recipe", "for", "what it does", "model", "task", "needs"):
        table.add_column(heading, overflow="fold", no_wrap=heading in ("recipe", "for"))
    for recipe in recipes:
        table.add_row(recipe.name, recipe.command, recipe.title, recipe.model, recipe.task, recipe.needs)
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=200)
    console.print(table)
    console.print("\ndiffpo recipes NAME prints one, --copy FILE copies it", markup=False)
