"""completions.jsonl: the answers of an evaluation on disk, row by row; those of old weights are set aside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from diffpo.evaluation.answers import Answer
from diffpo.files.folder import append, whole_lines, write_text
from diffpo.files.recipe import read_json
from diffpo.view.progress import counted

SETTINGS, ANSWERS = "settings.json", "completions.jsonl"
FILES = ("evaluation.json", "evaluation.csv", "frontier.png", SETTINGS, ANSWERS)
"""What an evaluation leaves in its folder; the answers last, so that a move that is cut short is taken up again."""
Key = tuple[str, str, int]
"""Sampler, prompt and sample of an answer."""
NAMES = ("model", "load.adapter", "load.base", "load.revision")
"""Settings that say where the weights are, which may move: what they are is the setting `weights`."""


class AnswerLog:
    """The answers in an evaluation's folder, written as they come, so that one that was cut short can go on.

    `settings` are all that answers depend on, digests of weights and files among them. Answers of the same model at
    other weights (a run that went on, or was trained anew) are set aside, with the results made of them, in a folder of
    `root` that has the name they were kept under; `name` is that of the answers to come, their date if it is empty.
    ValueError if the folder holds answers made under other settings, or of another model.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], root: Path | None = None, name: str = "") -> None:
        self.folder, self.path = folder, folder / ANSWERS
        folder.mkdir(parents=True, exist_ok=True)
        header, wanted = folder / SETTINGS, json.loads(json.dumps(settings))
        self.aside: Path | None = None
        """Where the answers of old weights are now, if there were any."""
        lines = whole_lines(self.path)
        if lines and header.is_file():
            before = read_json(header)
            changed = _changed(before, wanted)
            if "weights" in changed and "model" not in changed:
                self.aside = _set_aside(folder, root or folder, before.get("name") or f"{self._date():%Y-%m-%d_%H%M}")
                lines = []
            elif changed:
                raise ValueError(
                    f"{folder} holds an evaluation with other settings ({', '.join(changed)}): choose another "
                    "output, or remove that"
                )
        self.date = self._date() if lines else None
        write_text(header, json.dumps(wanted | {"name": name}, indent=2) + "\n")
        self.answers: dict[Key, Answer] = {}
        for number, line in enumerate(lines, start=1):
            try:
                answer = Answer(**json.loads(line))
            except (ValueError, TypeError) as error:
                mend = "choose another output, or remove that file"
                raise ValueError(f"{self.path}:{number}: not a row of this evaluation ({error}): {mend}") from None
            self.answers[_key(answer)] = answer
        self.num_asked = self.num_found = 0
        if self.path.is_file() and not self.path.read_bytes().endswith(b"\n"):
            write_text(self.path, "".join(line + "\n" for line in lines))

    def _date(self) -> datetime:
        return datetime.fromtimestamp(self.path.stat().st_mtime)

    def find(self, keys: Sequence[Key]) -> dict[Key, Answer]:
        """Those of the wanted answers that are here; what is asked for and found is counted."""
        found = {key: self.answers[key] for key in keys if key in self.answers}
        self.num_asked, self.num_found = self.num_asked + len(keys), self.num_found + len(found)
        return found

    def add(self, answers: Sequence[Answer]) -> None:
        """Write answers down. OSError says that they could not be, and what still stands."""
        rows = "".join(json.dumps(asdict(answer), ensure_ascii=False) + "\n" for answer in answers)
        try:
            append(self.path, rows.encode())
        except OSError as error:
            raise OSError(f"{error}; {self.said_of_stop()}") from error
        self.answers |= {_key(answer): answer for answer in answers}

    def said_of_stop(self) -> str:
        """A line for who is stopped: what stands, and how to go on."""
        stand = counted(len(self.answers), "answer stands", "answers stand")
        return f"{stand} in {self.path}, and the same command goes on from them"

    def said_of_effort(self, cost: object) -> str:
        """A line on the answers that were here already, with their date, and on what the others took."""
        if self.date is None:
            return str(cost)
        return f"{self.num_found} of {counted(self.num_asked, 'answer')} reused from {self.date:%Y-%m-%d %H:%M}; {cost}"


def _key(answer: Answer) -> Key:
    return answer.sampler, answer.id, answer.sample


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings that differ. The name of the weights does not count where the weights are the same."""
    same_weights = now.get("weights") is not None and before.get("weights") == now["weights"]
    free = ("name", *(NAMES if same_weights else ()))
    return [name for name in {**before, **now} if before.get(name) != now.get(name) and name not in free]


def _set_aside(folder: Path, root: Path, name: str) -> Path:
    """Move an evaluation's files to a folder NAME of `root`, or NAME_2, ... where that holds one; returns the place."""
    names = (f"{name}_{number}" if number > 1 else name for number in count(1))
    places = (root / other / folder.relative_to(root) for other in names)
    place = next(place for place in places if not (place / ANSWERS).exists())
    place.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        if (folder / file).is_file():
            (folder / file).replace(place / file)
    return place
