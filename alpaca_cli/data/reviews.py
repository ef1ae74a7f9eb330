"""Review files: which examples a person marked good or bad, as append-only JSONL.

    {"key": …, "mark": "bad", "note": "wrong sum", "row": 17, "id": null, "source": "data.json",
     "instruction": "Add the numbers …", "at": "2026-01-31T12:00:00Z"}

A line for each mark; of several with one `key` the last one counts, and `none` takes a mark back.
The key is made from the three texts (`Example.review_key`): a mark follows its example into other
files, covers every row with the same texts, and does not outlive a change of them. Only `key` and
`mark` matter to what reads the file; the rest is for people. Two reviews are one when one file is
put after the other.

How marks are made is not known here (`alpaca_cli.stages.browsing`), nor what is done with them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast, get_args

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.journal import Journal, hold
from alpaca_cli.core.records import Example

Mark = Literal["good", "bad", "none"]

_BEGINNING = b'{"key":'  # of every row
SHOWN = 80  # characters of an instruction that go along with a mark

_KEY = re.compile(r"[0-9a-f]{64}")
_TYPES: dict[str, tuple[type, ...]] = {
    "note": (str,),
    "row": (int,),
    "id": (str, type(None)),
    "source": (str,),
    "instruction": (str,),
    "at": (str,),
}


@dataclass(frozen=True, slots=True)
class Review:
    """What a person said about an example.

    Attributes:
        key: `Example.review_key` of the example.
        row: where it was when it was marked, from 1 within `source`.
        instruction: the beginning of it.
        at: when, ISO 8601 in UTC.
    """

    key: str
    mark: Mark
    note: str = ""
    row: int = 0
    id: str | None = None
    source: str = ""
    instruction: str = ""
    at: str = ""


def review_of(example: Example, mark: Mark, note: str, *, row: int, source: str) -> Review:
    """The review of an example, made now."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    beginning = example.instruction[:SHOWN]
    return Review(example.review_key(), mark, note, row, example.id, source, beginning, now)


def read_reviews(path: Path) -> dict[str, Review]:
    """Key -> the last review of it, in the order in which the keys first occur.

    A last line without its end that is no whole row is what a crash, or a review that is going on,
    leaves behind: it is passed over, and nothing else is.

    Raises:
        DataError: the file cannot be read, or a line is no review; names file and line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    *lines, last = data.split(b"\n")
    if _is_whole(last):
        lines.append(last)
    found: dict[str, Review] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                review = _parsed(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: not a review: {error}") from error
            found[review.key] = review
    return found


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parsed(row: Any) -> Review:
    """A row of the file; ValueError says what is wrong with it. Unknown fields are let pass."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    key, mark = row.get("key"), row.get("mark")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ValueError('field "key" must be a sha256 in hexadecimal')
    if mark not in get_args(Mark):
        raise ValueError(f'field "mark" must be one of {", ".join(get_args(Mark))}')
    rest: dict[str, Any] = {name: row[name] for name in _TYPES if name in row}
    for name, value in rest.items():
        if not isinstance(value, _TYPES[name]) or isinstance(value, bool):
            raise ValueError(f'field "{name}" must not be {value!r}')
    return Review(key, cast(Mark, mark), **rest)


def excluded(paths: Sequence[str]) -> frozenset[str]:
    """Keys of the examples that are marked bad, in any of the review files.

    Raises:
        DataError: a file cannot be read, or a line of it is no review.
    """
    return frozenset(
        review.key
        for path in paths
        for review in read_reviews(Path(path)).values()
        if review.mark == "bad"
    )


def strangers(paths: Sequence[str], examples: Iterable[Example]) -> list[str]:
    """The review files that have reviews, but none of any of these examples.

    Raises:
        DataError: as `excluded`.
    """
    known = {path: read_reviews(Path(path)).keys() for path in paths}
    present = {example.review_key() for example in examples}
    return [path for path, keys in known.items() if keys and keys.isdisjoint(present)]


def stranger_warning(path: str) -> str:
    """What to say of one of `strangers`."""
    return f"{path}: no example here is in this review; is it the review of other data?"


def exclusion_stamp(paths: Sequence[str]) -> dict[str, str]:
    """A stage's setting that changes with what is marked bad, and with nothing else.

    Nothing when nothing is, so that a review without a bad mark is like none.

    Raises:
        DataError: as `excluded`.
    """
    keys = sorted(excluded(paths))
    if not keys:
        return {}
    mark = hashlib.sha256("\n".join(keys).encode()).hexdigest()[:12]
    return {"exclude": f"{len(keys):,} marked bad ({mark})"}


class ReviewFile:
    """A review file that is written to; created when absent.

    One process writes at a time. What a crash left at the end is put right: a whole row gets its
    line break, a part of one is cut off.

    Raises:
        DataError: it is another file, whose last line would be cut off.
        TryAgain: another process is writing to it.
        UsageError: it cannot be written.
        ResourceError: the disk is full.
    """

    def __init__(self, path: Path) -> None:
        # Others may read what one has marked.
        self._lock = hold(path, "reviews", _BEGINNING, _parsed, 0o666)
        try:
            self._journal = Journal(path)
        except BaseException:
            os.close(self._lock)
            raise

    def add(self, review: Review) -> None:
        """Append a review; it is on the disk when this returns.

        Raises:
            ResourceError: the disk is full; what was there before is whole.
        """
        self._journal.append([asdict(review)])

    def close(self) -> None:
        self._journal.close()
        os.close(self._lock)
