"""The examples that are browsed: what is known of them, what is like them, what was said of them.

Rows are counted from 0 here and shown from 1. A mark belongs to the three texts of an example, so
rows with the same texts share it. Screens and keys are not known here
(`alpaca_cli.stages.browsing_app`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from alpaca_cli.core.records import Example
from alpaca_cli.data.lint import Finding
from alpaca_cli.data.reviews import Mark, Review, ReviewFile, read_reviews, review_of
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import PairIndex, Words, in_index_order
from alpaca_cli.data.rouge_kernels import Batch

NEAREST = 5  # neighbours that are shown


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A row, and the ROUGE-L F1 of its instruction with another one's."""

    row: int
    score: float


class Desk:
    """Examples, with the findings of lint and the marks of a review file.

    Args:
        sources: where the examples are from, as people know it.
        review: the file of marks; made with the first mark.

    Attributes:
        seen: rows that were shown whole.
        findings: row -> what lint found there.

    Raises:
        DataError: a line of the review file is no review.
    """

    def __init__(
        self,
        sources: Sequence[str],
        examples: Sequence[Example],
        findings: Sequence[Finding],
        review: Path,
    ) -> None:
        self.source = ", ".join(sources)
        self.examples = examples
        self.seen: set[int] = set()
        self.findings: dict[int, list[Finding]] = defaultdict(list)
        for finding in findings:
            self.findings[finding.row - 1].append(finding)
        self._keys = [example.review_key() for example in examples]
        self._rows = Counter(self._keys)
        self._path = review
        self._reviews = read_reviews(review) if review.exists() else {}
        self._before = dict(self._reviews)
        self._file: ReviewFile | None = None
        self._index: _Index | None = None
        self._indexing = Lock()  # neighbours are looked for in a thread beside the screen's

    def __len__(self) -> int:
        return len(self.examples)

    def mark(self, row: int) -> Mark:
        review = self._reviews.get(self._keys[row])
        return "none" if review is None else review.mark

    def note(self, row: int) -> str:
        review = self._reviews.get(self._keys[row])
        return "" if review is None else review.note

    def twins(self, row: int) -> int:
        """Other rows with the same three texts."""
        return self._rows[self._keys[row]] - 1

    def set_mark(self, row: int, mark: Mark) -> None:
        """Mark a row and its twins; the note stays. On the disk when this returns.

        Raises:
            TryAgain: another process writes to the review file.
            UsageError, ResourceError: it cannot be written; nothing changed.
        """
        self._write(row, mark, self.note(row))

    def set_note(self, row: int, note: str) -> None:
        """Put a note on a row and its twins; the mark stays. Raises as `set_mark`."""
        self._write(row, self.mark(row), note)

    def _write(self, row: int, mark: Mark, note: str) -> None:
        review = review_of(self.examples[row], mark, note, row=row + 1, source=self.source)
        if self._file is None:
            self._file = ReviewFile(self._path)
        self._file.add(review)
        self._reviews[review.key] = review

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def marked(self, mark: Mark) -> int:
        """How many rows have this mark."""
        return sum(self._rows[key] for key, review in self._reviews.items() if review.mark == mark)

    def changes(self) -> tuple[int, int, int]:
        """Rows whose mark is another than in the beginning: now good, now bad, and cleared."""
        now: Counter[Mark] = Counter()
        for key, review in self._reviews.items():
            if review.mark != _mark_of(self._before.get(key)):
                now[review.mark] += self._rows[key]
        return now["good"], now["bad"], now["none"]

    def fields(self, row: int) -> dict[str, Any]:
        """What the row says beside its texts and id: provenance first."""
        example = self.examples[row]
        return {**example.meta, **{k: v for k, v in example.extra.items() if k not in example.meta}}

    def field_names(self) -> set[str]:
        """Names of the fields of all rows."""
        return set(chain.from_iterable(chain(one.meta, one.extra) for one in self.examples))

    def text(self, row: int) -> str:
        """All that can be searched for in a row."""
        example = self.examples[row]
        parts = [example.instruction, example.input, example.output, example.id or ""]
        if note := self.note(row):
            parts.append(note)
        if example.meta or example.extra:
            parts.append(json.dumps(self.fields(row), ensure_ascii=False, default=str))
        return "\n".join(parts)

    def other_row(self, row: int) -> int | None:
        """The row that this one repeats, by lint."""
        others = (finding.other_row for finding in self.findings.get(row, ()))
        return next((other - 1 for other in others if other is not None), None)

    def neighbours(self, row: int) -> list[Neighbour]:
        """The rows with the most similar instructions, the most similar first; exact.

        Words of every script count. The first call reads all instructions: a second for 52,000.
        """
        with self._indexing:
            if self._index is None:
                self._index = _Index(self.examples)
            return self._index.nearest(row)


def _mark_of(review: Review | None) -> Mark:
    return "none" if review is None else review.mark


class _Index:
    """All instructions, and for each those that have a word in common with it."""

    def __init__(self, examples: Sequence[Example]) -> None:
        tokens = (tokenize(example.instruction, "unicode") for example in examples)
        self._batch = in_index_order(Words().read(tokens))
        self._pairs = PairIndex(self._batch, 0.0, threads=1)

    def nearest(self, row: int) -> list[Neighbour]:
        begin, end = self._batch.starts[row : row + 2]
        one = Batch(
            self._batch.tokens[begin:end],
            self._batch.elements[begin:end],
            np.array([0, end - begin]),
        )
        found: list[tuple[float, int]] = []
        for (_, others), scores in self._pairs.between(one):
            best = np.lexsort((others, -scores))[: NEAREST + 1]
            found += zip((-scores[best]).tolist(), others[best].tolist(), strict=True)
        ordered = sorted(pair for pair in found if pair[1] != row)
        return [Neighbour(other, -score) for score, other in ordered[:NEAREST]]
