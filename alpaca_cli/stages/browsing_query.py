"""What is typed to search and to filter examples, and what it means.

A search is a text that occurs, in small letters in any case, or a regular expression between
slashes. A filter is several conditions, all of which hold:

    words "two words" /regex/     occur
    rule:refusal  rule:*input*    lint found it; also severity:error
    mark:good mark:bad mark:none  what was marked
    has:input  no:input           input, output, note, id or finding
    row:100-200                   places
    family:sort  teacher:gpt*     a field of the row or its meta
    -rule:refusal  -word          not

`*` and `?` stand for any letters and for one. What the examples are is known to the desk.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, get_args

from alpaca_cli.core.errors import UsageError, did_you_mean
from alpaca_cli.data.reviews import Mark
from alpaca_cli.stages.browsing_desk import Desk

Condition = Callable[[int], bool]  # of a row

_TERM = re.compile(r'(-?)(?:([^\W\d][\w.-]*):(?!//))?("[^"]*"|/[^/]+/(?!\S)|\S+)')
_PARTS = ("input", "output", "note", "id", "finding")
_OWN = ("rule", "severity", "mark", "has", "no", "row")


def search_pattern(text: str) -> re.Pattern[str]:
    """What finds a text: as it is, or as a regular expression between slashes.

    Capital letters count only where there are any (smart case).

    Raises:
        UsageError: it is no regular expression.
    """
    if len(text) > 2 and text[0] == text[-1] == "/":
        return _compiled(text[1:-1])
    return _compiled(re.escape(text))


def _compiled(expression: str) -> re.Pattern[str]:
    # Of an expression, \S and \W are no capital letters.
    capitals = any(letter.isupper() for letter in re.sub(r"\\.", "", expression))
    try:
        return re.compile(expression, 0 if capitals else re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"not a regular expression: {error}") from error


def row_filter(text: str, desk: Desk) -> Condition:
    """The condition on rows that a filter stands for; all pass an empty one.

    Raises:
        UsageError: it has no meaning; says which part, and what was perhaps meant.
    """
    conditions = []
    for term in _TERM.finditer(text):
        minus, name, value = term.groups()
        condition = _condition(name, value, desk)
        conditions.append(_unless(condition) if minus else condition)
    return lambda row: all(condition(row) for condition in conditions)


def _unless(condition: Condition) -> Condition:
    return lambda row: not condition(row)


def _condition(name: str | None, value: str, desk: Desk) -> Condition:
    quoted = len(value) > 1 and value[0] == value[-1] == '"'
    value = value[1:-1] if quoted else value
    if name is None:
        # In quotation marks slashes mean nothing.
        occurs = (_compiled(re.escape(value)) if quoted else search_pattern(value)).search
        return lambda row: occurs(desk.text(row)) is not None
    if name in ("rule", "severity"):
        return _finding(name, value, desk)
    if name == "mark":
        _refuse_other(name, value, get_args(Mark))
        return lambda row: desk.mark(row) == value
    if name in ("has", "no"):
        _refuse_other(name, value, _PARTS)
        return lambda row: _has(desk, row, value) == (name == "has")
    if name == "row":
        return _rows(value)
    return _field(name, value, desk)


def _finding(name: str, value: str, desk: Desk) -> Condition:
    known = {
        str(getattr(finding, name)) for findings in desk.findings.values() for finding in findings
    }
    matching = {found for found in known if _matches(found, value)}
    if not matching:
        raise UsageError(
            f"{name}:{value}: lint found none here{did_you_mean(value, known)}",
            hint=f"found: {', '.join(sorted(known)) or 'nothing'}",
        )
    return lambda row: any(getattr(one, name) in matching for one in desk.findings.get(row, ()))


def _matches(value: Any, wanted: str) -> bool:
    """Whether a value is what is wanted, in which `*` and `?` stand for letters; any case."""
    return fnmatchcase(str(value).casefold(), wanted.casefold().replace("[", "[[]"))


def _refuse_other(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name}:{value}: one of {', '.join(known)}{did_you_mean(value, known)}")


def _has(desk: Desk, row: int, part: str) -> bool:
    if part == "note":
        return bool(desk.note(row))
    if part == "finding":
        return row in desk.findings
    return bool((getattr(desk.examples[row], part) or "").strip())


def _rows(value: str) -> Condition:
    found = re.fullmatch(r"(\d+)(?:(-)(\d*))?", value)
    if found is None:
        raise UsageError(f"row:{value}: write row:17, row:100-200 or row:100-")
    first = int(found[1])
    last = first if found[2] is None else int(found[3] or 10**12)
    return lambda row: first <= row + 1 <= last


def _field(name: str, value: str, desk: Desk) -> Condition:
    known = desk.field_names()
    if name not in known:
        raise UsageError(
            f"{name}: no field of this name{did_you_mean(name, {*known, *_OWN})}",
            hint=f'a text with a colon goes in quotation marks: "{name}:{value}"',
        )

    def holds(row: int) -> bool:
        found = desk.fields(row).get(name)
        values = found if isinstance(found, list) else [] if found is None else [found]
        return any(_matches(each, value) for each in values)

    return holds
