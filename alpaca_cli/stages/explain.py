"""Where one example comes from, and why it was kept or rejected (`generate --explain ID`).

Everything is read from the run folder; nothing is asked for and nothing is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.journal import whole_rows
from alpaca_cli.core.records import Example, example_from_row
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data import rouge
from alpaca_cli.data.seeds import GENERATED_ID, load_seeds
from alpaca_cli.data.texts import key_text

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of one candidate.

    Attributes:
        verdict: `kept`, or the reason of its rejection; `detail` says more.
        example: its row as it stands in kept.jsonl or rejected.jsonl.
        nearest: id, score and text of the most similar seed task or example kept before it; None
            when there was nothing before it, or nothing in it to compare.
        threshold: the score above which `novelty` rejects.
        demonstrations: the tasks that the request showed; those no longer known by id alone.
        mode: in which form tasks were asked for.
        reply: the teacher's reply, as it came.
        journal: the row of the journal without the reply's text: usage, attempts, finish reason.
        scores: rows of the judge about this reply, where there is one.
    """

    id: str
    verdict: str
    detail: str
    example: Row
    nearest: Row | None
    threshold: float
    demonstrations: list[Row]
    mode: str
    reply: str
    journal: Row
    scores: list[Row]


def explain(recipe: Recipe, run: RunFolder, name: str) -> Explanation:
    """The story of the example with this id, e.g. `g-12-3`: item 3 of the reply to request 12.

    Raises:
        DataError: there is no such example in the run.
    """
    stage = run.stage("generate")
    number = GENERATED_ID.fullmatch(name)
    if number is None:
        raise DataError(
            f'"{name}" is not the id of a generated example',
            hint="ids look like g-12-3 (request 12, item 3) and stand in kept.jsonl",
        )
    found = _find(stage / "kept.jsonl", name) or _find(stage / "rejected.jsonl", name)
    replies = [row for row in whole_rows(stage / "journal.jsonl") if row.get("n") == int(number[1])]
    reply = next((row for row in replies if row["kind"] == "reply" and "of" not in row), None)
    if found is None:
        why = "no such example, and no reply to its request"
        if reply is not None:
            why = "its reply is in the journal, but holds no such item, or was not needed"
        raise DataError(f"{name}: {why}", hint=f"looked in {stage.path}")
    if reply is None:
        raise DataError(f"{stage / 'journal.jsonl'}: no reply to request {number[1]}")
    seeds = load_seeds(recipe.seeds.source)
    before = [*seeds, *_kept_before(stage / "kept.jsonl", int(number[1]), int(number[2]))]
    return Explanation(
        id=name,
        verdict=found.get("reason", "kept"),
        detail=found.get("detail", ""),
        example=found,
        nearest=_nearest(found, before, recipe.generate.novelty_key),
        threshold=recipe.generate.novelty,
        demonstrations=_shown(reply["demonstrations"], before),
        mode=reply["mode"],
        reply=reply["text"],
        journal={key: value for key, value in reply.items() if key != "text"},
        scores=[row for row in replies if row.get("of") == "judge" and row["kind"] == "reply"],
    )


def _find(path: Path, name: str) -> Row | None:
    return next((row for row in whole_rows(path) if row.get("id") == name), None)


def _kept_before(path: Path, request: int, item: int) -> Iterator[Example]:
    for row in whole_rows(path):
        if (row["meta"]["request"], row["meta"]["item"]) < (request, item):
            yield example_from_row(row)


def _nearest(row: Row, before: list[Example], key: str) -> Row | None:
    """The most similar of the earlier ones, by the score of the novelty check."""
    example = Example(row["instruction"], row["input"], row["output"])
    tokens = rouge.tokenize(key_text(example, key))
    best: tuple[float, Example] | None = None
    for other in before:
        score = rouge.score(tokens, rouge.tokenize(key_text(other, key)))
        if best is None or score > best[0]:
            best = score, other
    if best is None or not tokens:
        return None
    score, other = best
    return {"id": other.id, "score": round(score, 4), "instruction": other.instruction}


def _shown(names: list[str], before: list[Example]) -> list[Row]:
    """The demonstrations by their ids."""
    known: Mapping[str, Example] = {str(example.id): example for example in before}
    return [known[name].to_row() if name in known else {"id": name} for name in names]
