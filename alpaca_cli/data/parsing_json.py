"""Tasks out of a reply in JSON, however it is wrapped, nested, cut or broken.

Objects that decode are read wherever they stand. Of those that do not, only what has one reading
is mended: a comma before a closing bracket, and strings in Python's or in typographic quotes.
Quotes that are not escaped, backslashes that JSON does not know and keys written twice leave a
doubt, and with it a fault.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from alpaca_cli.data.candidates import FIELDS, NAMES, Candidate, Fault, excerpt, make_candidate

_QUOTE = "[\"'“”]"
# A task may begin with short members of its own, e.g. an id and a category.
_KEYS = (
    rf"\s*(?:{_QUOTE}\w{{1,30}}{_QUOTE}\s*:[^\[\]{{}}]{{0,80}}?,\s*){{0,3}}"
    rf"{_QUOTE}(?:{'|'.join(NAMES)}){_QUOTE}\s*:"
)
_ITEM = re.compile(rf"\{{(?={_KEYS})", re.IGNORECASE)
# A task, or what holds tasks: a list of them, or an object with "tasks".
_START = re.compile(
    rf"\{{(?=\s*{_QUOTE}tasks{_QUOTE}\s*:)|[\[{{](?=[\s\[{{]{{0,20}}{_KEYS})", re.IGNORECASE
)
# After a broken object only one that follows the end of another is surely a task of its own.
_SIBLING = re.compile(rf"\}}\s*[,\n]\s*(\{{{_KEYS})", re.IGNORECASE)
_HOLDER = re.compile(rf"\{{\s*{_QUOTE}tasks{_QUOTE}\s*:\s*\[?\s*\{{{_KEYS}", re.IGNORECASE)
_DEPTH = 8  # of lists and objects around a task

# Formulas and patterns written with single backslashes: "\frac", "\times", "\neq", "\bword".
_EATEN = re.compile(r"[\b\f]|\t(?:imes|heta|frac|ext\{)|\r(?:ight|ho\b)|\n(?:eq|abla)\b")


def find_json(text: str) -> int | None:
    """Where the first JSON value that looks like tasks begins."""
    found = _START.search(text)
    return found.start() if found else None


def holds_json_tasks(text: str) -> bool:
    """Whether a list of tasks in JSON begins somewhere in the text."""
    return _HOLDER.search(text) is not None


def json_candidates(text: str, start: int, cut: bool) -> tuple[list[Candidate], int]:
    """Candidates of every JSON value from `start` on, and where the last of them ends.

    Args:
        cut: the reply ended at a limit.
    """
    found: list[Candidate] = []
    end = start
    at: int | None = start
    while at is not None:
        value, over = _decode(text, at)
        if over is not None:
            end = over
            found += map(_from_value, _items(value))
            at = _next(_START, text, end)
        elif _ITEM.match(text, at):
            pairs, end, why = _lenient(text, at)
            if pairs is not None:
                found.append(_from_value(_object(pairs)))
                at = _next(_START, text, end)
            else:
                sibling = _SIBLING.search(text, at)
                stop = sibling.start() + 1 if sibling else len(text)
                open_end = text.find("}", end, stop) < 0
                found.append(_broken(text[at:stop], why, sibling is None, open_end))
                at, end = (sibling.start(1) if sibling else None), stop
        else:
            # The container is broken or cut: its items one by one.
            inner = _next(_ITEM, text, at + 1)
            if inner is None:
                end = len(text)
                if cut:
                    found.append(Candidate(fault="truncated", detail=excerpt(text[at:])))
            at = inner
    return found, end


def _next(pattern: re.Pattern[str], text: str, at: int) -> int | None:
    found = pattern.search(text, at)
    return found.start() if found else None


class _Twice(dict[str, Any]):
    """A JSON object with a key written twice: probably two tasks run into one."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(pairs)


# Numbers stay the text that the teacher wrote; line breaks inside strings are forgiven.
_DECODER = json.JSONDecoder(
    strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_object
)


def _decode(text: str, at: int) -> tuple[Any, int | None]:
    """The JSON value at `at` and where it ends; no end when it is broken."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, None


# --- values -------------------------------------------------------------------------------------


def _items(value: Any, depth: int = 0) -> list[Any]:
    """The task objects inside a decoded value, and what stands among them instead of one."""
    if depth > _DEPTH:
        return []
    if isinstance(value, str):
        inner, end = _decode(value, 0) if _START.match(value) else (None, None)
        return _items(inner, depth + 1) if end is not None else []
    if isinstance(value, dict):
        if value.keys() == _USUAL:
            return [value]
        named = {_field(key) for key, inner in value.items() if isinstance(inner, str)}
        if named >= {"instruction", "output"}:
            return [value]
        pairs = value.pairs if isinstance(value, _Twice) else list(value.items())
        nested = [item for _, inner in pairs for item in _items(inner, depth + 1)]
        meant = any(str(key).strip().lower() in ("instruction", "output") for key in value)
        return nested or ([value] if meant else [])
    if isinstance(value, list):
        nested = [(inner, _items(inner, depth + 1)) for inner in value]
        if any(items for _, items in nested):
            # An empty list or string among tasks is nothing; anything else was meant as one.
            return [item for inner, items in nested for item in items or ([inner] if inner else [])]
    return []


_USUAL = frozenset(FIELDS)


def _field(key: str) -> str:
    return key if key in _USUAL else NAMES.get(str(key).strip().lower(), "")


def _from_value(item: Any) -> Candidate:
    if not isinstance(item, dict):
        return Candidate(fault="malformed", detail=f"not an object: {excerpt(json.dumps(item))}")
    fields: dict[str, str] = {}
    wrong = "a key is there twice" if isinstance(item, _Twice) else ""
    members = item.items() if item.keys() == _USUAL else _members(item)
    for key, value in members:
        name = _field(key)
        if value is None and name == "input":
            continue
        if isinstance(value, bool):
            value = json.dumps(value)
        if name in fields:
            wrong = "a key is there twice"
        elif not isinstance(value, str):
            wrong = wrong or f"{name} is not text: {excerpt(json.dumps(value))}"
        else:
            fields[name] = value
            if _EATEN.search(value):
                wrong = wrong or f"{name} has a backslash that JSON reads as a control character"
    return make_candidate(fields, "malformed" if wrong else "", wrong)


def _members(item: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The members that are fields; other names of a field only where its own is not there."""
    own = {name for key in item if (name := str(key).strip().lower()) in FIELDS}
    for key, value in item.items():
        name = str(key).strip().lower()
        if name in own or (name in NAMES and NAMES[name] not in own):
            yield key, value


# --- objects that do not decode -----------------------------------------------------------------

_SPACE = re.compile(r"\s*+")
_STRINGS = {
    '"': re.compile(r'"((?:[^"\\]|\\.)*+)"'),
    "'": re.compile(r"'((?:[^'\\]|\\.)*+)'"),
    # Typographic quotes inside would leave open which is the last.
    "“": re.compile(r"“([^“”\\]*+(?:\\.[^“”\\]*+)*+)”"),
}
_SCALAR = re.compile(r"(?:-?\d[\d.eE+-]{0,30}|true|false|null|True|False|None)(?=\s*[,}])")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\", "/": "/"}


def _lenient(text: str, at: int) -> tuple[list[tuple[str, Any]] | None, int, str]:
    """The members of a flat object with forgivable mistakes, and where it ends.

    No members when it has others; then what is wrong, and where, instead.
    """
    pairs: list[tuple[str, Any]] = []
    at = _skip(text, at + 1)
    while text[at : at + 1] != "}":
        key, over = _string(text, at)
        colon = _skip(text, over)
        if key is None or text[colon : colon + 1] != ":":
            return None, at, "no key"
        at = _skip(text, colon + 1)
        value: Any
        value, over = _string(text, at)
        if value is None:
            scalar = _SCALAR.match(text, at)
            if scalar is None:
                return None, at, "no value"
            over = scalar.end()
            value = {"null": None, "None": None}.get(scalar[0], scalar[0])
        pairs.append((key, value))
        at = _skip(text, over)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "}":
            return None, at, "no comma"
    return pairs, at + 1, ""


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _string(text: str, at: int) -> tuple[str | None, int]:
    """The string that begins at `at` in any quotes, and where it ends."""
    pattern = _STRINGS.get(text[at : at + 1])
    found = pattern.match(text, at) if pattern else None
    if found is None:
        return None, at
    known = True

    def character(escape: re.Match[str]) -> str:
        nonlocal known
        code = escape[1]
        if len(code) > 1:
            return chr(int(code[1:], 16))
        known = known and code in _ESCAPED
        return _ESCAPED.get(code, "")

    plain = _ESCAPE.sub(character, found[1])
    if not known:
        return None, at
    # Two escapes may be the halves of one character.
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass"), found.end()


def _broken(part: str, why: str, last: bool, open_end: bool) -> Candidate:
    """The candidate for a task object that does not decode.

    Args:
        part: from its bracket to where the next object begins.
        last: no other object follows.
        open_end: nothing closes it.
    """
    try:
        _DECODER.raw_decode(part)
    except json.JSONDecodeError as error:
        # A string that never ends, or the end of the text where more was expected.
        ended = error.pos >= len(part.rstrip()) or error.msg.startswith("Unterminated string")
        fault: Fault = "truncated" if last and (ended or open_end) else "malformed"
        return Candidate(fault=fault, detail=f"{error.msg}: {excerpt(part)}")
    except RecursionError:
        return Candidate(fault="malformed", detail="nested too deeply")
    return Candidate(fault="malformed", detail=f"{why}: {excerpt(part)}")
