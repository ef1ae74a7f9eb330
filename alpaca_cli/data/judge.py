"""A model as a judge of candidates: the question, and the scores in its answer.

All promising candidates of one reply are judged in one request, against a scale of 1 to 5. As in
AlpaGasus, what is judged is the answer to its instruction, not the task's taste. Which candidates
are asked about, and what a score means, is decided elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Judge
from alpaca_cli.data.prompts import Request

RUBRIC = """\
You check training examples for an assistant that follows instructions in text. Score each example \
by how good its output is as an answer to its instruction and input:
5: correct, complete, helpful, nothing to improve.
4: correct and helpful; a detail could be better.
3: partly right or incomplete, or the instruction is hard to understand.
2: mostly wrong, evasive, or beside the point.
1: wrong, empty of content, harmful, or impossible to answer in text.
Check facts, calculations and code before you score. A short answer is good when the instruction \
asks for no more.

Reply with one JSON object and nothing else, with one score for every example in their order: \
{"scores": [4, 5, …]}"""


class JudgeBuilder:
    """Builds a judge's requests.

    Attributes:
        digest: names the judge: another model or rubric is another judge.
    """

    def __init__(self, settings: Judge) -> None:
        teacher = settings.teacher
        self._sampling = {
            "mode": "json",
            "model": teacher.model,
            "temperature": teacher.temperature,
            "top_p": teacher.top_p,
            "max_output_tokens": teacher.max_output_tokens,
            "extra_body": {name: v for name, v in teacher.extra_body.items() if v is not None},
        }
        told = json.dumps([RUBRIC, self._sampling], sort_keys=True)
        self.digest = sha256(told.encode()).hexdigest()[:12]

    def __call__(self, n: int, candidates: Mapping[int, Example]) -> Request:
        """The request about candidates of reply n, by item."""
        rows = [
            {"instruction": task.instruction, "input": task.input, "output": task.output}
            for task in candidates.values()
        ]
        listed = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        messages = [
            {"role": "system", "content": RUBRIC},
            {"role": "user", "content": f"{len(rows)} examples, one a line:\n\n{listed}"},
        ]
        note = {"items": list(candidates), "judge": self.digest}
        body = {**self._sampling, "messages": messages}
        return Request(n, len(rows), (), body, note=note)


def read_scores(text: str, count: int) -> list[float | None]:
    """The scores in a judge's reply, in the order of the examples; None where there is none.

    A list of another length than `count` tells nothing about any: which score is whose is unknown.
    """
    for found in re.finditer(r"[\[{]", text):
        try:
            value, _ = json.JSONDecoder().raw_decode(text, found.start())
        except (ValueError, RecursionError):
            continue
        scores = value.get("scores") if isinstance(value, dict) else value
        if isinstance(scores, list) and len(scores) == count:
            return [_score(score) for score in scores]
    return [None] * count


def _score(value: Any) -> float | None:
    """A score on the scale; judges also write "4" and {"score": 4}."""
    if isinstance(value, dict):
        value = value.get("score")
    if isinstance(value, str):
        number = re.fullmatch(r"\s*([1-5](?:\.\d+)?)(?:\s*/\s*5)?\s*", value)
        value = float(number[1]) if number else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 5:
        return None
    return float(value)
