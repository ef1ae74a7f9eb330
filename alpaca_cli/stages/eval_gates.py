"""Gates: bounds on figures of an evaluation, so that a script can stop at a worse model.

A gate is written as a comparison, `exact_match >= 0.6`, on any number of the report by its dotted
path: `by_family.sort.exact_match`, `pairwise.<model>.win_rate`, `exact_match_interval.0`. Names may
hold dots themselves. What figures mean is not known here.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from alpaca_cli.core.errors import GateFailed, UsageError, did_you_mean

SHORT = {"exact": "exact_match"}  # first part of a path -> what it stands for
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "==": operator.eq,
}  # fmt: skip
_NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_GATE = re.compile(rf"\s*([^<>=]+?)\s*(>=|<=|==|>|<)\s*({_NUMBER})\s*")


@dataclass(frozen=True, slots=True)
class Gate:
    """A bound on one figure; `text` is how it was written."""

    text: str
    path: str
    comparison: str
    bound: float


def parse_gates(texts: Sequence[str], fields: Iterable[str]) -> list[Gate]:
    """Gates as written; `fields` are the report's own, one of which each path begins with.

    Raises:
        UsageError: one is no comparison, or on something that no report has.
    """
    fields = list(fields)
    gates = []
    for text in texts:
        if (found := _GATE.fullmatch(text)) is None:
            raise UsageError(
                f"eval.gates: {text!r} is no comparison",
                hint="for example exact_match >= 0.6, with >=, <=, >, < or == and a number",
            )
        first, dot, rest = found[1].partition(".")
        first = SHORT.get(first, first)
        if first not in fields:
            raise UsageError(
                f'eval.gates: {text}: no figure "{first}"{did_you_mean(first, fields)}',
                hint="figures are those of report.json, by their dotted path",
            )
        gates.append(Gate(text, first + dot + rest, found[2], float(found[3])))
    return gates


def check_gates(gates: Sequence[Gate], report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each gate with its figure, and whether that passes; what was not measured does not.

    Raises:
        UsageError: the report has no such number; says which are near.
    """
    results = []
    for gate in gates:
        try:
            value = look_up(report, gate.path)
        except KeyError as error:
            raise UsageError(f"eval.gates: {gate.text}: {error.args[0]}") from error
        passed = value is not None and COMPARISONS[gate.comparison](value, gate.bound)
        results.append({**asdict(gate), "value": value, "passed": passed})
    return results


def refuse(results: Sequence[Mapping[str, Any]]) -> GateFailed | None:
    """The error that lists all gates when one has failed."""
    failed = sum(not each["passed"] for each in results)
    if not failed:
        return None
    wide = max(len(each["text"]) for each in results)
    lines = [
        f"  {each['text']:<{wide}}  {_said(each['value']):>12}  "
        f"{'passed' if each['passed'] else 'FAILED'}"
        for each in results
    ]
    return GateFailed("\n".join([f"{failed} of {len(results)} gates failed:", *lines]))


def _said(value: float | None) -> str:
    return "not measured" if value is None else f"{value:g}"


def look_up(values: Any, path: str) -> float | None:
    """The number at a dotted path, None where it was not measured.

    Raises:
        KeyError: there is none; says what is wrong.
    """
    at, rest = values, path
    while True:
        if at is None:
            return None
        if isinstance(at, Mapping):
            keys = {str(key): value for key, value in at.items()}
        elif isinstance(at, Sequence) and not isinstance(at, str):
            keys = {str(number): value for number, value in enumerate(at)}
        else:
            raise KeyError(f'there is nothing below that number to call "{rest}"')
        # Names of models have dots: the longest that fits is meant.
        fitting = [key for key in keys if rest == key or rest.startswith(f"{key}.")]
        if not fitting:
            raise KeyError(f'no figure "{rest}"{did_you_mean(rest.split(".")[0], keys)}')
        key = max(fitting, key=len)
        at, rest = keys[key], rest[len(key) + 1 :]
        if not rest:
            break
    if at is None or (isinstance(at, int | float) and not isinstance(at, bool)):
        return at
    raise KeyError(f"{path} is not a single number")
