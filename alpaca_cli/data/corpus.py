"""Examples with the names they go by, and what is written of those that were dropped.

An example is named by its id, or by its place (`file:line`, `file#row`) where it has no id of its
own. Which examples are dropped is not decided here (`alpaca_cli.data.duplicates`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import Dropped
from alpaca_cli.data.formats import read_placed
from alpaca_cli.data.reviews import excluded
from alpaca_cli.data.texts import key_text

Placed = tuple[str, Example]  # place, example


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is deduplicated, the sets that it is compared with, and what a person leaves out.

    Attributes:
        shared_ids: ids that more than one example bears.
        excluded: `Example.review_key` of what is marked bad in `dedup.exclude`.
    """

    rows: list[Placed]
    against: list[Placed]
    evaluation: list[Placed]
    shared_ids: frozenset[str]
    excluded: frozenset[str]

    def examples(self) -> tuple[list[Example], list[Example], list[Example]]:
        """Those of the rows, of the set `against` and of the evaluation, without their places."""
        rows, against, evaluation = (
            [example for _, example in placed]
            for placed in (self.rows, self.against, self.evaluation)
        )
        return rows, against, evaluation

    def example(self, row: int) -> Example:
        return self.rows[row][1]

    def name(self, row: int) -> str:
        return self._name(self.rows[row])

    def other(self, found: Dropped) -> str:
        """The name of the example for which one was dropped."""
        return self._name(self._other(found))

    def with_reasons(self, dropped: Iterable[Dropped]) -> list[Example]:
        """The dropped examples, each with why, for which other, and how similar they are.

        Both null where a person excluded it.
        """
        return [
            with_fields(
                self.example(found.row),
                reason=found.reason,
                row=self.name(found.row),
                duplicate_of=None if found.reason == "excluded" else self.other(found),
                score=None if found.reason == "excluded" else found.score,
            )
            for found in dropped
        ]

    def groups(self, dropped: Iterable[Dropped], key: str) -> list[dict[str, Any]]:
        """The examples that near-duplicates were dropped for, those of most first.

        Args:
            key: what was compared; its text is shown.
        """
        groups: dict[tuple[str, int], dict[str, Any]] = {}
        for found in dropped:
            if found.reason in ("excluded", "contaminated"):
                continue
            _, survivor = self._other(found)
            group = groups.setdefault(
                (found.reason, found.other),
                {
                    "survivor": self.other(found),
                    "text": key_text(survivor, key),
                    "size": 1,
                    "dropped": [],
                },
            )
            group["size"] += 1
            group["dropped"].append(
                {
                    "row": self.name(found.row),
                    "text": key_text(self.example(found.row), key),
                    "score": found.score,
                }
            )
        return sorted(groups.values(), key=lambda group: -int(group["size"]))

    def _other(self, found: Dropped) -> Placed:
        sets = {"against": self.against, "contaminated": self.evaluation}
        return sets.get(found.reason, self.rows)[found.other]

    def _name(self, placed: Placed) -> str:
        place, example = placed
        return place if example.id is None or example.id in self.shared_ids else example.id


def with_fields(example: Example, **fields: Any) -> Example:
    """The example with more fields; its own by these names are kept in `meta.replaced`."""
    if replaced := {name: example.extra[name] for name in fields if name in example.extra}:
        example = example.with_meta(replaced=replaced)
    return replace(example, extra={**example.extra, **fields})


def read_corpus(files: Sequence[str], settings: Dedup) -> Corpus:
    """The examples of the files, and of those that the settings compare them with; the marks.

    Raises:
        DataError: a file is missing or malformed; names the place.
    """
    marked_bad = excluded(settings.exclude)  # read first: a mistake in them is told at once
    rows, against, evaluation = (
        [placed for source in sources for placed in read_placed(source)]
        for sources in (files, settings.against, settings.decontaminate)
    )
    ids = Counter(example.id for _, example in (*rows, *against, *evaluation))
    shared = frozenset(id for id, count in ids.items() if id is not None and count > 1)
    return Corpus(rows, against, evaluation, shared, marked_bad)
