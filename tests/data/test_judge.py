"""The judge's question, and the scores in its answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Judge
from alpaca_cli.data.judge import JudgeBuilder, read_scores

TASK = Example("Name a fruit.", "", "Apple")


def builder(**teacher: Any) -> JudgeBuilder:
    settings = {"teacher": {"kind": "openai", "model": "j"} | teacher}
    return JudgeBuilder(Judge.model_validate(settings))


@pytest.mark.parametrize(
    "text",
    [
        '{"scores": [5, 2, 3.5]}',
        'Sure.\n```json\n{"scores": [5, "2", "3.5/5"]}\n```\nAnything else?',
        "[5, 2, 3.5]",
        '{"scores": [{"score": 5, "why": "[1]"}, {"score": 2}, {"score": 3.5}]}',
        'Notes [1, 2]: fine. {"scores": [5, 2, 3.5]}',
    ],
)
def test_scores_in_many_forms(text: str) -> None:
    assert read_scores(text, 3) == [5, 2, 3.5]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "All good!",
        '{"scores": [5, 4]}',
        '{"scores": [5, 4, 3, 2]}',
        "[" * 5000,
        '{"scores": 5}',
    ],
)
def test_what_tells_nothing_scores_nothing(text: str) -> None:
    assert read_scores(text, 3) == [None] * 3


def test_only_the_scale_counts() -> None:
    assert read_scores('{"scores": [0, 6, true, null, "good", -1, 5.1, 1]}', 8) == [None] * 7 + [1]


def test_the_question_holds_the_candidates_and_nothing_of_the_run() -> None:
    request = builder()(7, {2: TASK, 5: TASK})
    rows = request.body["messages"][1]["content"].split("\n\n", 1)[1].splitlines()
    row = {"instruction": "Name a fruit.", "input": "", "output": "Apple"}
    assert list(map(json.loads, rows)) == [row, row]
    assert request.note == {"items": [2, 5], "judge": builder().digest}
    assert (request.n, request.tasks) == (7, 2)


def test_another_judge_has_another_name() -> None:
    names = {
        builder().digest,
        builder(model="k").digest,
        builder(temperature=0.5).digest,
        builder(extra_body={"reasoning_effort": "none"}).digest,
    }
    assert len(names) == 4
    assert builder(timeout=5, price={"input": 1, "output": 1}).digest == builder().digest
