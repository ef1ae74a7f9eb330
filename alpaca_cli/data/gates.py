"""Gates: bounds on figures of a report, so that CI can stop bad data.

A file of gates names figures by their dotted path in the report's JSON:

    lint.refusal.share: {max: 0.01, why: a student that refuses is of no use}
    tokens.over_share: {max: 0.02, if_measured: true}
    examples: ">= 1000"

Bounds are inclusive, so a figure may equal them. What can be named is read from the JSON Schema
of the report, so that a misspelt figure is an error when the file is loaded, not a gate that never
fails. A figure that was not measured fails its gate, unless the gate says `if_measured: true`.

How figures come about is not known here. `mistake_in_path`, `walk` and `within` know schemas and
mappings only, not what a report is about.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import UsageError, did_you_mean
from alpaca_cli.core.stats_report import Check, GateResult, Report, Sample, schema
from alpaca_cli.core.yaml_places import read_yaml

DEFAULT = Path(__file__).parent / "gates.yaml"

_KEYS = ("min", "max", "why", "if_measured")
_SHORT = re.compile(r"\s*(<=|>=|==|<|>|=)\s*(\S+)\s*")

# Maps of the report that always have the same keys. In others, what is absent occurs 0 times.
_KNOWN_KEYS: Mapping[str, Sequence[str] | None] = {
    "lint": None,  # None: the keys that the report has
    "task_types": None,
    "duplicates": None,
    "diversity": None,
    "lengths": ("instruction", "input", "output"),
    "groups": ("category", "family"),
}
_LANGUAGE = re.compile(r"[a-z]{2,3}")  # an ISO 639 code; scripts are written with a capital
_COUNTS = ("count", "share", "total")  # figures of a group that are 0 when there is no such group

# Last key of a path that is null in a report -> how to get it measured.
_HOW_TO_MEASURE = {
    "tokens": "no tokenizer is known; name one with --set stats.tokenizer=FILE",
    "contamination": "name files of evaluation tasks with --set stats.contamination=[FILE]",
    "seeds": "only the examples of a run are compared with seeds: leave FILES out",
    "provenance": "nothing says where the examples come from; a run's examples do",
    "funnel": "only a run knows its candidates: leave FILES out",
    "kept": "alpaca dedup has not run yet",
    "cost": "the teacher has no price: generate.teacher.price",
    "scores": "no nearest neighbours were measured: stats.neighbours",
    "mtld": "the texts are too few or too short",
    "against": "name another set with --against FILE",
}


@dataclass(frozen=True, slots=True)
class Gate:
    """Bounds on one figure.

    Attributes:
        figure: dotted path in the report.
        minimum: smallest value that passes; None for no bound.
        maximum: largest value that passes; None for no bound.
        why: what the gate is for, as its author explains it.
        if_measured: whether the gate passes when the figure was not measured.
        place: where it was written, `file:line`.
    """

    figure: str
    minimum: float | None
    maximum: float | None
    why: str
    if_measured: bool
    place: str


def load_gates(name: str) -> list[Gate]:
    """The gates of a YAML file, in its order; `default` is the file that comes with alpaca.

    Raises:
        UsageError: lists every mistake as `file:line: figure: what is wrong`.
    """
    path = DEFAULT if name == "default" else Path(name)
    if not path.is_file():
        raise UsageError(f"{path}: no such file of gates", hint='the shipped one is "default"')
    try:
        tree = read_yaml(path)
    except UsageError as error:
        hint = 'a bound such as ">= 0.2" stands in quotes: YAML has another use for >'
        raise UsageError(str(error), hint=hint) from error
    if not isinstance(tree.data, dict) or not tree.data:
        raise UsageError(f"{path}:1: gates are a mapping of figures to bounds, and none is here")
    described = schema()
    gates: list[Gate] = []
    mistakes: list[str] = []
    for figure, bounds in tree.data.items():
        place = tree.places.get((str(figure),), str(path))
        try:
            if mistake := mistake_in_path(described, str(figure)):
                raise ValueError(mistake)
            gates.append(_gate(figure, bounds, place))
        except ValueError as error:
            mistakes.append(f"{place}: {figure}: {error}")
    if mistakes:
        raise UsageError("\n".join(mistakes), hint="alpaca stats --schema lists all figures")
    return gates


def check(report: Report, gates: Sequence[Gate], file: str) -> Check:
    """What the gates say about a report; `file` is where they are from.

    Raises:
        UsageError: a gate names a rule, a type or a field that no report has.
    """
    values = asdict(report)
    results: list[GateResult] = []
    mistakes: list[str] = []
    for gate in gates:
        try:
            results.append(_result(values, gate))
        except ValueError as error:
            mistakes.append(f"{gate.place}: {gate.figure}: {error}")
    if mistakes:
        raise UsageError("\n".join(mistakes))
    return Check(file=file, passed=all(result.passed for result in results), gates=results)


def mistake_in_path(described: Mapping[str, Any], figure: str) -> str:
    """What is wrong with a dotted path as the name of a number; empty when nothing is.

    Args:
        described: JSON Schema of an object. Keys of maps that it does not list are all allowed.
    """
    node, done = described, ""
    for part in figure.split("."):
        node = _resolved(described, node)
        inside = f" in {done}" if done else ""
        if "properties" in node:
            if part not in node["properties"]:
                return f'no figure "{part}"{inside}{did_you_mean(part, node["properties"])}'
            node = node["properties"][part]
        elif isinstance(node.get("additionalProperties"), Mapping):
            if not part:
                return f"a key is missing{inside}"
            node = node["additionalProperties"]
        elif node.get("type") == "array":
            return f"{done} is a list; gates are on single numbers"
        else:
            return f'{done} is a single value; there is no "{part}" in it'
        done = f"{done}.{part}" if done else part
    return _mistake_in_leaf(_resolved(described, node), figure)


def walk(values: Mapping[str, Any], figure: str) -> list[Any]:
    """The values on the way to a figure, from the whole mapping on, as far as the path exists."""
    trail: list[Any] = [values]
    for part in figure.split("."):
        if not isinstance(trail[-1], Mapping) or part not in trail[-1]:
            break
        trail.append(trail[-1][part])
    return trail


def within(value: float, minimum: float | None, maximum: float | None) -> bool:
    """Whether a value keeps bounds, which belong to what is allowed; NaN keeps none."""
    return (minimum is None or value >= minimum) and (maximum is None or value <= maximum)


def _resolved(described: Mapping[str, Any], node: Mapping[str, Any]) -> Mapping[str, Any]:
    """A node of a JSON Schema without its references, and without the null that it may be."""
    while "$ref" in node or "anyOf" in node:
        if "$ref" in node:
            node = described["$defs"][node["$ref"].rpartition("/")[2]]
        else:
            node = next(option for option in node["anyOf"] if option.get("type") != "null")
    return node


def _mistake_in_leaf(node: Mapping[str, Any], figure: str) -> str:
    kind = node.get("type")
    if kind in ("integer", "number"):
        return ""
    if "properties" in node:
        return f"holds several figures; name one: {figure}.{_first_number(node)}"
    if kind == "object":
        return f"holds figures by name; name one: {figure}.NAME"
    return f"is {'a list' if kind == 'array' else 'no number'}; gates are on single numbers"


def _first_number(node: Mapping[str, Any]) -> str:
    """The last share, which is what gates are mostly on; else the first key."""
    names: list[str] = list(node["properties"])
    return next((name for name in reversed(names) if name.endswith("share")), names[0])


def _gate(figure: str, bounds: Any, place: str) -> Gate:
    """One entry of a file of gates.

    Raises:
        ValueError: says what is wrong with it.
    """
    why, if_measured = "", False
    if isinstance(bounds, str):
        minimum, maximum = _shorthand(bounds)
    elif isinstance(bounds, dict):
        for key in bounds:
            if key not in _KEYS:
                cut = "; a text with a comma stands in quotes" if bounds[key] is None else ""
                raise ValueError(f"unknown key {key}{did_you_mean(str(key), _KEYS)}{cut}")
        minimum, maximum = (
            _number(bounds[key]) if key in bounds else None for key in ("min", "max")
        )
        why, if_measured = bounds.get("why", ""), bounds.get("if_measured", False)
        if not isinstance(why, str):
            raise ValueError("why must be a text")
        if not isinstance(if_measured, bool):
            raise ValueError("if_measured must be true or false")
    else:
        raise ValueError('expected {min: …, max: …} or a text such as "<= 0.05"')
    if minimum is None and maximum is None:
        raise ValueError("neither min nor max is given")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise ValueError(f"min {minimum:g} is more than max {maximum:g}")
    if figure.endswith("share"):
        for bound in (minimum, maximum):
            if bound is not None and not 0 <= bound <= 1:
                raise ValueError(f"shares are parts of 1, not percentages: {bound:g}")
    return Gate(figure, minimum, maximum, " ".join(why.split()), if_measured, place)


def _shorthand(text: str) -> tuple[float | None, float | None]:
    """Minimum and maximum of `<= 0.05`, `>= 3` or `== 0`."""
    found = _SHORT.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no bound; expected e.g. "<= 0.05", ">= 3" or "== 0"')
    sign, number = found[1], _number(found[2])
    if sign not in ("<=", ">=", "=="):
        raise ValueError(f'"{sign}" is not known: write <=, >= or ==, which include the number')
    return (number if sign != "<=" else None, number if sign != ">=" else None)


def _number(value: Any) -> float:
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number")
    return number


def _result(values: Mapping[str, Any], gate: Gate) -> GateResult:
    """One gate applied to the JSON of a report.

    Raises:
        ValueError: the report could never have such a figure.
    """
    trail = walk(values, gate.figure)
    parts = gate.figure.split(".")
    reached, found = parts[: len(trail) - 1], trail[-1]
    value: float | None
    missing = ""
    if isinstance(found, Mapping):
        value, missing = _absent(values, found, reached, parts)
    elif found is None:
        value, missing = None, _HOW_TO_MEASURE.get(reached[-1], "the report has no such figure")
    else:
        value = found
    if value is None:
        why = f"{gate.why}; not measured: {missing}" if gate.why else f"not measured: {missing}"
        passed = gate.if_measured
    else:
        why, passed = gate.why, within(value, gate.minimum, gate.maximum)
    # Examples explain a figure that is too large. When it is too small, others are what is missing.
    too_large = value is not None and gate.maximum is not None and value > gate.maximum
    rows = _rows(values, trail, parts) if too_large else []
    return GateResult(gate.figure, value, gate.minimum, gate.maximum, passed, why, rows)


def _absent(
    values: Mapping[str, Any], at: Mapping[str, Any], reached: Sequence[str], parts: Sequence[str]
) -> tuple[float | None, str]:
    """The value of a figure whose path ends at a map without the next key, or why it has none."""
    key, rest = parts[len(reached)], parts[len(reached) + 1 :]
    if len(reached) == 1 and reached[0] in _KNOWN_KEYS:
        known = _KNOWN_KEYS[reached[0]]
        if key not in (at if known is None else known):
            raise ValueError(f'no "{key}" in {reached[0]}{did_you_mean(key, known or at)}')
    if reached[0] == "languages" and key != "unknown":
        by_script = values["languages"]["method"] == "script"
        if by_script and _LANGUAGE.fullmatch(key):
            return None, "languages are told by py3langid, the extra [language]; here are scripts"
        if not by_script and not _LANGUAGE.fullmatch(key):
            return None, "here are languages; scripts are counted where py3langid is not installed"
    if not rest or rest[-1] in _COUNTS:
        return 0.0, ""
    return None, f"no example has an {key}"


def _rows(values: Mapping[str, Any], trail: Sequence[Any], parts: Sequence[str]) -> list[Sample]:
    """The examples behind a figure: those of the closest record around it that has some."""
    if parts[0] == "findings":
        errors_only = parts[-1] == "errors"
        rules = [
            rule
            for rule in values["lint"].values()
            if rule["severity"] == "error" or not errors_only
        ]
        return [Sample(**rule["rows"][0]) for rule in rules if rule["rows"]]
    for record in reversed(trail):
        for name in ("rows", "nearest", "longest"):
            if isinstance(record, Mapping) and isinstance(record.get(name), list):
                return [Sample(**row) for row in record[name]]
    return []
