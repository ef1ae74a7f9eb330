"""From the text of a reply to the tasks in it, one by one, whole or with what is wrong with them.

Whatever form was asked for, both are understood: JSON (fenced, with text around it, one object a
line, broken in the middle, cut at the end) and numbered text (numbers restarted, skipped or
absent, `###` between tasks or not, bold labels). Three promises: never an exception, never a task
that the teacher did not write, never two tasks in one. Where the text leaves doubt, the candidate
is returned with a fault, for the caller to reject and count.

What makes a whole task good is not known here (`alpaca_cli.data.filters`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

Fault = Literal["", "unparsable", "malformed", "missing_field", "truncated", "ambiguous"]
FIELDS = ("instruction", "input", "output")
CUT = frozenset({"length", "max_tokens", "content_filter"})


@dataclass(frozen=True, slots=True)
class Candidate:
    """One task that a teacher wrote; usable when `fault` is empty.

    Attributes:
        fault: `truncated` (cut off by the end of the reply), `missing_field`, `malformed` (broken
            JSON, or values that are not text), `ambiguous` (labels inside a field: where one task
            ends and the next begins is a guess), `unparsable` (no task in the whole reply).
        detail: what exactly is wrong, with the text itself where no field could be read.
    """

    instruction: str = ""
    input: str = ""
    output: str = ""
    fault: Fault = ""
    detail: str = ""


def parse_reply(text: str, finish_reason: str | None = None, opening: str = "") -> list[Candidate]:
    """The tasks of a reply in their order; at least one candidate, be it an unparsable one.

    Args:
        finish_reason: as the endpoint gave it; `length` and its like mean that the last task of a
            text reply is cut off.
        opening: the beginning of the first task that stood in the prompt already.
    """
    body = _without_thoughts(text)
    cut = finish_reason in CUT
    if opening and body and not _INSTRUCTION.match(body) and body[0] not in "{[`":
        body = f"{opening} {body}"
    structured = _JSON_START.search(body)
    labelled = _INSTRUCTION.search(body)
    if structured and (not labelled or structured.start() < labelled.start()):
        found = list(_json_candidates(body, structured.start(), cut))
    else:
        found = list(_text_candidates(body, cut))
    if found:
        return found
    detail = f"finish_reason {finish_reason}: {_excerpt(text)}"
    return [Candidate(fault="unparsable", detail=detail)]


def _without_thoughts(text: str) -> str:
    """The reply without the reasoning that some servers leave in front of it."""
    stripped = text.lstrip("\ufeff \t\r\n")
    if stripped.startswith("<think>"):
        _, _, stripped = stripped.partition("</think>")
    return stripped.lstrip()


def _candidate(fields: dict[str, str], fault: Fault = "", detail: str = "") -> Candidate:
    """A candidate of the fields found, with the fault given or else the one that it has."""
    instruction, input, output = (fields.get(name, "").strip() for name in FIELDS)
    if _NO_INPUT.fullmatch(input):
        input = ""
    missing = [name for name in ("instruction", "output") if name not in fields]
    if not fault and (missing or not instruction):
        fault, detail = "missing_field", f"no {' and no '.join(missing or ['instruction'])}"
    if _SURROGATE.search(instruction + input + output):
        instruction, input, output = map(_whole, (instruction, input, output))
        if not fault:
            fault, detail = "malformed", "half of a character pair"
    return Candidate(instruction, input, output, fault, detail)


def _whole(text: str) -> str:
    """The text without halves of character pairs, which UTF-8 cannot hold."""
    return _SURROGATE.sub("\ufffd", text)


# Only what cannot be an input itself: a bare "empty" is left to the filters.
_NO_INPUT = re.compile(
    r"[<(\[]?(?:no[ _-]?input(?:[ ](?:is[ ])?(?:needed|required|necessary|provided|given))?"
    r"|n/?a|none|not[ ]applicable)[>)\]]?\.?",
    re.IGNORECASE | re.VERBOSE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def _excerpt(text: str, size: int = 200) -> str:
    text = _whole(" ".join(text[: 4 * size].split()))
    return text if len(text) <= size else text[: size - 1] + "…"


# --- JSON ---------------------------------------------------------------------------------------

# A task may begin with a short member of its own, e.g. an id or a category.
_KEYS = r'\s*(?:"\w+"\s*:[^\[\]{}]{0,80},\s*)?"(?:instruction|input|output)"\s*:'
_ITEM = re.compile(rf"\{{(?={_KEYS})", re.IGNORECASE)
# A task, or what holds tasks: a list of them, or an object with "tasks".
_JSON_START = re.compile(
    rf"\{{(?=\s*\"tasks\"\s*:)|[\[{{](?=[\s\[{{]{{0,20}}{_KEYS})", re.IGNORECASE
)
# After a broken object only one that follows the end of another is surely a task of its own.
_SIBLING = re.compile(rf"\}}\s*[,\n]\s*(\{{{_KEYS})", re.IGNORECASE)


class _Twice(dict[str, Any]):
    """A JSON object with a key written twice: probably two tasks run into one."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Twice(found)


# Numbers stay the text that the teacher wrote; line breaks inside strings are forgiven.
_DECODER = json.JSONDecoder(
    strict=False, parse_int=str, parse_float=str, parse_constant=str, object_pairs_hook=_object
)


def _json_candidates(text: str, start: int, cut: bool) -> Iterator[Candidate]:
    """Candidates of every JSON value from `start` on."""
    at: int | None = start
    while at is not None:
        value, end = _decode(text, at)
        if end is not None:
            yield from map(_from_value, _items(value))
            following = _JSON_START.search(text, end)
            at = following.start() if following else None
        elif item := _ITEM.match(text, at):
            yield _broken(text, item.start())
            sibling = _SIBLING.search(text, at)
            at = sibling.start(1) if sibling else None
        else:
            # The container is broken or cut: its items one by one.
            inner = _ITEM.search(text, at + 1)
            if inner is None and cut:
                yield Candidate(fault="truncated", detail=_excerpt(text[at:]))
            at = inner.start() if inner else None


def _decode(text: str, at: int) -> tuple[Any, int | None]:
    """The JSON value at `at` and where it ends; no end when it is broken."""
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, None


def _items(value: Any) -> list[Any]:
    """The task objects inside a decoded reply."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        if any(str(key).lower() in FIELDS for key in value):
            return [value]
        for inner in value.values():
            if isinstance(inner, list) and any(isinstance(item, dict) for item in inner):
                return inner
    return []


def _from_value(item: Any) -> Candidate:
    if not isinstance(item, dict):
        return Candidate(fault="malformed", detail=f"not an object: {_excerpt(json.dumps(item))}")
    fields: dict[str, str] = {}
    wrong = "a key is there twice" if isinstance(item, _Twice) else ""
    for key, value in item.items():
        name = str(key).strip().lower()
        if name not in FIELDS or (value is None and name == "input"):
            continue
        if isinstance(value, bool):
            value = json.dumps(value)
        if name in fields:
            wrong = "a key is there twice"
        elif isinstance(value, str):
            fields[name] = value
        else:
            wrong = wrong or f"{name} is not text: {_excerpt(json.dumps(value))}"
    return _candidate(fields, "malformed" if wrong else "", wrong)


def _broken(text: str, at: int) -> Candidate:
    """The candidate for a task object that does not decode."""
    try:
        _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        # A string that never ends, or the end of the text where more was expected.
        ended = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string")
        sibling = _SIBLING.search(text, at)
        fault: Fault = "truncated" if ended and sibling is None else "malformed"
        stop = sibling.start() + 1 if sibling else len(text)
        return Candidate(fault=fault, detail=f"{error.msg}: {_excerpt(text[at:stop])}")
    except RecursionError:
        return Candidate(fault="malformed", detail="nested too deeply")
    return Candidate(fault="malformed", detail=_excerpt(text[at:]))


# --- numbered text ------------------------------------------------------------------------------

# Every repetition is bounded: a reply may be 100,000 underscores.
_NUMBER = r"^[ \t#>*_-]{0,12}(?:(?P<number>\d{1,4})[ \t]?[.):][ \t]{0,4})"
_NAME = r"[*_]{0,3}(?P<field>Instruction|Input|Output)[ \t]?[*_]{0,3}:[*_]{0,3}[ \t]*"
_FLAGS = re.MULTILINE | re.IGNORECASE
_LABEL = re.compile(f"{_NUMBER}?{_NAME}", _FLAGS)
_NUMBERED_LABEL = re.compile(f"{_NUMBER}{_NAME}", _FLAGS)
_INSTRUCTION = re.compile(rf"{_NUMBER}?[*_]{{0,3}}Instruction[ \t]?[*_]{{0,3}}:", _FLAGS)
# What stands between two tasks, at the end of the first.
_BETWEEN = re.compile(
    r"^[ \t]*(?:\#{2,}|-{3,}|\*{3,}|[#*]*[ \t]*(?:Task|Example)[ \t]*\#?\d+[ \t]*[.:]?\**)[ \t]*\Z",
    _FLAGS,
)


def _text_candidates(text: str, cut: bool) -> Iterator[Candidate]:
    """Candidates of a reply in labelled text.

    Labels count by their order, not by their numbers: an instruction begins a task, an input or
    output belongs to it when that field has not been passed yet; anything else is content.
    """
    starts = [match for match in _LABEL.finditer(text) if _field(match) == "instruction"]
    if any(match["number"] for match in starts):
        # In a numbered list a bare "Instruction:" is a line of somebody's answer.
        starts = [match for match in starts if match["number"]]
    bounds = [match.start() for match in starts] + [len(text)]
    for start, end in pairwise(bounds):
        yield _text_candidate(text[start:end], cut and end == len(text))


def _text_candidate(part: str, cut: bool) -> Candidate:
    """The candidate of the stretch of text from one instruction label to the next."""
    labels: list[re.Match[str]] = []
    for match in _LABEL.finditer(part):
        if not labels or FIELDS.index(_field(match)) > FIELDS.index(_field(labels[-1])):
            labels.append(match)
    ends = [match.start() for match in labels[1:]] + [len(part)]
    fields = {
        _field(match): part[match.end() : end] for match, end in zip(labels, ends, strict=True)
    }
    last = _field(labels[-1])
    while (trimmed := _BETWEEN.sub("", fields[last].rstrip())) != fields[last]:
        fields[last] = trimmed
    if cut:
        return _candidate(fields, "truncated", f"the reply ends in its {last}")
    if any(map(_NUMBERED_LABEL.search, fields.values())):
        return _candidate(fields, "ambiguous", "a field holds labels of another task")
    return _candidate(fields)


def _field(match: re.Match[str]) -> str:
    return match["field"].lower()
