"""One task as a teacher wrote it, whole or with what is wrong with it.

Where in a reply its fields stood is the business of `alpaca_cli.data.parsing_json` and
`alpaca_cli.data.parsing_text`; whether it is worth keeping, of `alpaca_cli.data.filters`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Fault = Literal["", "unparsable", "malformed", "missing_field", "truncated", "ambiguous"]
FIELDS = ("instruction", "input", "output")
# What teachers call the fields, the surest name of each first; English and Chinese only.
NAMES: Mapping[str, str] = {
    "instruction": "instruction",
    "指令": "instruction",
    "prompt": "instruction",
    "task": "instruction",
    "question": "instruction",
    "任务": "instruction",
    "问题": "instruction",
    "input": "input",
    "输入": "input",
    "output": "output",
    "输出": "output",
    "response": "output",
    "answer": "output",
    "completion": "output",
    "回答": "output",
    "答案": "output",
}


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


def make_candidate(fields: Mapping[str, str], fault: Fault = "", detail: str = "") -> Candidate:
    """A candidate of the fields found, with the fault given or else the one that it has."""
    instruction, input, output = (fields.get(name, "").strip() for name in FIELDS)
    if says_no_input(input):
        input = ""
    missing = [name for name in ("instruction", "output") if name not in fields]
    if not fault and (missing or not instruction):
        fault, detail = "missing_field", f"no {' and no '.join(missing or ['instruction'])}"
    joined = instruction + input + output
    if not joined.isascii() and _SURROGATE.search(joined):
        instruction, input, output = map(_encodable, (instruction, input, output))
        if not fault:
            fault, detail = "malformed", "half of a character pair"
    return Candidate(instruction, input, output, fault, detail)


def says_no_input(text: str) -> bool:
    """Whether the text stands for "this task has no input", and cannot well be one itself.

    A bare "empty", "nothing" or "NA" can, and is left to the filters.
    """
    return len(text) < 80 and _NO_INPUT.fullmatch(text) is not None


_NO_INPUT = re.compile(
    r"""[*_`<(\[（]{0,4}
    (?: no[ _-]?(?:additional[ ]|further[ ]|extra[ ])?inputs?
        (?:[ ](?:is[ ]|was[ ])?(?:needed|required|necessary|provided|given))?
        (?:[ ]for[ ]this[ ](?:task|instruction))?
      | none(?:[ ](?:needed|required|necessary|provided|given))?
      | n/a | not[ ](?:applicable|needed|required)
      | 无|无输入|没有输入|无需输入|不需要输入|不适用
    )
    [.。]?[*_`>)\]）]{0,4}[.。]?
    | "" | '' | “”
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def _encodable(text: str) -> str:
    """The text without halves of character pairs, which UTF-8 cannot hold."""
    return _SURROGATE.sub("\ufffd", text)


def excerpt(text: str, size: int = 200) -> str:
    """The beginning of a text on one line, for the detail of a fault."""
    text = _encodable(" ".join(text[: 4 * size].split()))
    return text if len(text) <= size else text[: size - 1] + "…"
