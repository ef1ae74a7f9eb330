"""The task families: read from `families.yaml`, checked, and drawn from.

A form is a wording: templates of instruction, input and output whose `{placeholders}` are
filled from what the family's generator gives (`{Word}` is `{word}` with a capital). The
wording alone decides the style of the answer, so an answer is a function of instruction and
input. Held-out forms are for evaluation: training data must never use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from string import Formatter
from typing import Any

from alpaca_cli.core.errors import UsageError, did_you_mean
from alpaca_cli.data.procedural import (
    arithmetic,
    dates,
    editing,
    facts,
    grammar,
    judging,
    letters,
    lists,
    numerals,
    records,
    snippets,
)
from alpaca_cli.data.procedural.lexicon import HERE, read_yaml

Generator = Callable[[Random], dict[str, str]]

MODULES = {
    "arithmetic": arithmetic,
    "dates": dates,
    "editing": editing,
    "facts": facts,
    "grammar": grammar,
    "judging": judging,
    "letters": letters,
    "lists": lists,
    "numerals": numerals,
    "records": records,
    "snippets": snippets,
}


@dataclass(frozen=True, slots=True)
class Task:
    """One instruction with its only correct answer; `input` may be empty."""

    family: str
    category: str
    form: str
    """Which wording: `antonym/3`, or `antonym/held-out-1`."""
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Form:
    """One wording of a family."""

    name: str
    instruction: str
    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Family:
    """Tasks of one kind: a generator of values and the wordings that use them."""

    name: str
    category: str
    about: str
    forms: tuple[Form, ...]
    held_out: tuple[Form, ...]
    values: Generator


@cache
def families() -> tuple[Family, ...]:
    """All families by name, read and checked once; ValueError names a wrong form."""
    blocks = read_yaml(HERE / "families.yaml")
    found = tuple(_family(name, block) for name, block in sorted(blocks.items()))
    seen: dict[str, str] = {}
    for family in found:
        for form in family.forms + family.held_out:
            other = seen.setdefault(form.instruction, form.name)
            if other != form.name:
                raise ValueError(f"{form.name}: same instruction as {other}")
    return found


def family_names(wanted: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of all families, or just the wanted ones, sorted.

    Raises:
        UsageError: there is no such family; suggests the closest.
    """
    known = _by_name()
    for name in wanted:
        if name not in known:
            raise UsageError(
                f'generate.teacher.families: no family "{name}"{did_you_mean(name, known)}',
                hint=f"known: {', '.join(known)}",
            )
    return tuple(sorted(set(wanted) or known))


def draw(rng: Random, family: str, *, held_out: bool = False) -> Task:
    """One task of a family; equal generator states give equal tasks.

    `held_out` uses the wordings kept from training data. KeyError: no such family.
    """
    chosen = _by_name()[family]
    form = rng.choice(chosen.held_out if held_out else chosen.forms)
    values = chosen.values(rng)
    return Task(
        family=chosen.name,
        category=chosen.category,
        form=form.name,
        instruction=_filled(form.instruction, values),
        input=_filled(form.input, values),
        output=_filled(form.output, values),
    )


@cache
def _by_name() -> dict[str, Family]:
    return {family.name: family for family in families()}


def _family(name: str, block: dict[str, Any]) -> Family:
    unknown = block.keys() - {"category", "about", "values", "forms", "held_out"}
    if unknown:
        raise ValueError(f"{name}: unknown keys {sorted(unknown)}")
    module, _, function = block["values"].partition(".")
    values: Generator | None = getattr(MODULES.get(module), function, None)
    if values is None:
        raise ValueError(f"{name}: no generator {block['values']!r}")
    given = set(values(Random(0)))
    forms = tuple(_forms(f"{name}/", block["forms"], given))
    held_out = tuple(_forms(f"{name}/held-out-", block["held_out"], given))
    return Family(
        name=name,
        category=block["category"],
        about=block["about"],
        forms=forms,
        held_out=held_out,
        values=values,
    )


def _forms(prefix: str, rows: list[dict[str, str]], given: set[str]) -> Iterator[Form]:
    for number, row in enumerate(rows, 1):
        name = f"{prefix}{number}"
        unknown = row.keys() - {"instruction", "input", "output"}
        if unknown or not row.get("instruction") or not row.get("output"):
            raise ValueError(f"{name}: needs instruction and output, may have input")
        form = Form(name, row["instruction"], row.get("input", ""), row["output"])
        asked = "".join((form.instruction, form.input))
        for template in (asked, form.output):
            missing = {_key(field) for field in _fields(template)} - given
            if missing:
                raise ValueError(f"{name}: the generator gives no {sorted(missing)}")
        if not _fields(asked):
            raise ValueError(f"{name}: always asks the same")
        yield form


def _fields(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def _key(field: str) -> str:
    return field[0].lower() + field[1:]


def _filled(template: str, values: dict[str, str]) -> str:
    """The template with its placeholders filled; a capital placeholder capitalizes."""
    text = []
    for literal, field, _, _ in Formatter().parse(template):
        text.append(literal)
        if field is not None:
            value = values[_key(field)]
            text.append(value if field[0].islower() else value[0].upper() + value[1:])
    return "".join(text)
