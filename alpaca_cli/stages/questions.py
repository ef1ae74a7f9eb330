"""What `alpaca eval` asks: examples of a file, or unseen tasks of the embedded teacher.

A question is an instruction with an input and the answers that count as right, of which there may
be none when answers are compared with each other. Asking and scoring are the business of
`alpaca_cli.stages.eval`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example, example_from_row
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.data.procedural import draw
from alpaca_cli.data.texts import plain

HELD_OUT_EVERY = 3  # one task in three has a held-out wording
TRIES = 200  # draws for one unseen task before a family counts as exhausted
# Fields that name the group of a row; the last one is that of the self-instruct evaluation tasks.
GROUPS = ("family", "category", "motivation_app")
ANSWERED = ("output", "messages", "instances")  # a row with one of these has an answer


@dataclass(slots=True)
class Question:
    """What is asked once; rows that ask the same are one question with several references."""

    instruction: str
    input: str
    references: list[str] = field(default_factory=list)
    family: str = ""
    """The family or category that its row names."""
    held_out: bool | None = None
    """Its wording was kept from training data; None when the row does not say."""


def training_files(run: RunFolder) -> dict[str, Path]:
    """Where the run's training examples stand, name -> file; empty when it has none."""
    names = ("seed/kept.jsonl", "generate/kept.jsonl", "dedup/kept.jsonl")
    return {name: run.path / name for name in names if (run.path / name).is_file()}


def trained_pairs(files: Iterable[Path]) -> set[tuple[str, str]]:
    """The (instruction, input) pairs of some files, as `pair` makes them."""
    return {pair(each.instruction, each.input) for file in files for each in read_examples([file])}


def pair(instruction: str, input: str) -> tuple[str, str]:
    """Instruction and input with white space and case evened out, for comparing."""
    return plain(instruction), plain(input)


def unseen_tasks(
    count: int, seed: int, seen: set[tuple[str, str]], names: Sequence[str]
) -> list[Example]:
    """Procedural tasks that are not in `seen`, balanced over the named families, none twice.

    A third has wordings that training data never uses. A family with too few unseen tasks left
    gives what it has, so that there may be fewer than `count`. Equal arguments, equal tasks.
    """
    order = Random(f"eval {seed}").sample(names, len(names))
    taken = set(seen)
    chosen: dict[str, list[Example]] = {}
    drawn = 0
    for place, name in enumerate(order):
        wanted = count // len(order) + (place < count % len(order))
        # Rounded over all families, so that a third is a third where each gives one or two.
        held_out = (drawn + wanted) // HELD_OUT_EVERY - drawn // HELD_OUT_EVERY
        drawn += wanted
        rng = Random(f"eval {seed} {name}")
        chosen[name] = [
            *_fresh(rng, name, wanted - held_out, taken, held_out=False),
            *_fresh(rng, name, held_out, taken, held_out=True),
        ]
    return [example for name in names for example in chosen[name]]


def _fresh(
    rng: Random, family: str, wanted: int, taken: set[tuple[str, str]], *, held_out: bool
) -> Iterator[Example]:
    """Up to `wanted` tasks of a family that are not in `taken`, which grows."""
    for _ in range(wanted):
        for _ in range(TRIES):
            task = draw(rng, family, held_out=held_out)
            key = pair(task.instruction, task.input)
            if key not in taken:
                taken.add(key)
                meta = {"family": task.family, "category": task.category, "form": task.form}
                example = Example(task.instruction, task.input, task.output, meta=meta)
                yield example.with_meta(held_out=held_out)
                break


def read_questions(source: str) -> list[Example]:
    """The examples of a file, or those of a file of bare questions, with empty outputs.

    Bare questions are JSON or JSONL objects with `instruction` and perhaps `input`, of which none
    has an answer.

    Raises:
        DataError: it is missing, malformed, or holds nothing.
    """
    if source.startswith(HUB) or (rows := _bare_rows(Path(source))) is None:
        return read_examples([source])
    examples = []
    for number, row in enumerate(rows, 1):
        try:
            examples.append(example_from_row({**row, "output": ""}))
        except ValueError as error:
            raise DataError(f"{source}#{number}: {error}") from error
    return examples


def _bare_rows(path: Path) -> list[Mapping[str, Any]] | None:
    """The rows of a file in which no row has an answer; None for every other file."""
    try:
        text = path.read_text("utf-8-sig")
        is_list = text.lstrip()[:1] == "["
        lines = (line for line in text.split("\n") if line.strip())
        rows = json.loads(text) if is_list else [json.loads(line) for line in lines]
    except (OSError, ValueError):  # what is wrong with it is said by who reads examples
        return None
    bare = all(isinstance(row, Mapping) and not set(ANSWERED) & row.keys() for row in rows)
    return rows if rows and bare else None


def merge(examples: Sequence[Example], *, unreferenced: bool = False) -> tuple[list[Question], int]:
    """Questions in order, and how many rows have no reference.

    Args:
        unreferenced: keep questions without a reference, too: for comparing answers.
    """
    questions: dict[tuple[str, str], Question] = {}
    without = 0
    for example in examples:
        blank = not example.output.strip()
        without += blank
        if blank and not unreferenced:
            continue
        question = questions.setdefault(
            (example.instruction, example.input),
            Question(
                example.instruction,
                example.input,
                family=_family(example),
                held_out=_held_out(example),
            ),
        )
        if not blank:
            question.references.append(example.output)
    return list(questions.values()), without


def _family(example: Example) -> str:
    known = {**example.extra, **example.meta}
    named = (known.get(name) for name in GROUPS)
    return next((name for name in named if isinstance(name, str) and name), "")


def _held_out(example: Example) -> bool | None:
    value = example.meta.get("held_out")
    return value if isinstance(value, bool) else None
