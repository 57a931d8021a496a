"""Entropies against right tokens: on completions written by hand, and on a tiny policy."""

from __future__ import annotations

import torch
from lab.analysis.subjects import SETTINGS, some_subject

from diffpo.lab.analysis.calibration import calibration_sections, commitments, tokens_per_call
from diffpo.types import Completion, Prompt, Rollout, RolloutGroup, Verdict


def group(tokens: list[int], correct: bool = True, length: int | None = None, nfe: int = 2) -> RolloutGroup:
    size = len(tokens)
    ids, entropies = torch.tensor(tokens), torch.arange(size) / 10
    completion = Completion(ids, torch.ones(size).long(), torch.zeros(size), entropies, nfe, nfe, length or size)
    return RolloutGroup(Prompt("p", ""), (), [Rollout(completion, "", Verdict(correct, 0.0), 0.0)])


def test_tokens_are_right_that_the_careful_answer_has() -> None:
    careful = [group([1, 2, 3]), group([4, 5, 6], correct=False), group([7, 8, 9])]
    run = [group([1, 0, 3], correct=False, length=2), group([4, 5, 6]), group([7, 8, 9])]
    right, entropies, clusters = commitments(careful, [run, run[:1] + careful[1:]])
    first = [1.0, 0.0]
    assert right.tolist() == [*first, 1.0, 1.0, 1.0] * 2 and clusters.tolist() == [0, 0, 2, 2, 2] * 2
    torch.testing.assert_close(entropies, torch.tensor([0, 0.1, 0, 0.1, 0.2] * 2))
    assert tokens_per_call(run[0]) == 1.0


def test_both_policies_are_measured() -> None:
    subject = some_subject(compared=True)
    calibration, commits, accuracy = calibration_sections(subject)
    for section in (commits, accuracy):
        assert [series.label for series in section.series] == ["before", "after"]
        assert all(list(series.x) == list(SETTINGS.gammas) for series in section.series)
    for series in commits.series:
        assert 0 < series.y[0] < series.y[1] <= subject.task.gen_length
    assert all(0 <= y <= 1 for series in (*calibration.series, *accuracy.series) for y in series.y)
    assert calibration.figures["mean entropy of a committed token, before"] > 0
