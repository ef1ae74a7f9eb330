"""YAML files as plain data that knows where each key was written.

YAML is read by the 1.2 core rules where 1.1 surprises: `1e-5` is a number, `no` and `on` are
words, `12:30` is text; duplicate keys, anchors and aliases are refused. What the keys mean is
not known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alpaca_cli.core.errors import UsageError

MAX_BYTES = 1 << 20
Key = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalar rules of the YAML 1.2 core schema."""


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),  # "": an empty value
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?[0-9]+", [*"-+0123456789"]),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+."]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
    )


@dataclass(frozen=True, slots=True)
class Tree:
    """Plain data, and for every key path the place where it was written."""

    data: Any
    places: dict[Key, str]


def read_yaml(path: Path) -> Tree:
    """A file's data and places.

    Raises:
        UsageError: it cannot be read or is not valid YAML; names the line.
    """
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise UsageError(
                f"{path}: {len(raw):,} bytes are more than the {MAX_BYTES:,} that may be"
            )
        return parse_yaml(raw.decode("utf-8-sig"), str(path), lines=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from error


def parse_yaml(text: str, place: str, *, lines: bool) -> Tree:
    """YAML text to data and places; `place` names the source, lines are added for files.

    Raises:
        UsageError: it is not valid YAML, or a key is written twice.
    """
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:  # a control character
        raise UsageError(f"{place}: not valid YAML: {error}") from error
    try:
        _refuse_aliases(text, place, lines)
        root = loader.get_single_node()
        places: dict[Key, str] = {}
        if root is not None:
            _collect_places(root, (), place, lines, places)
        data = loader.construct_document(root) if root is not None else None
        return Tree(data, places or {(): place})
    except yaml.MarkedYAMLError as error:
        where = place
        if lines and error.problem_mark is not None:
            where = f"{place}:{error.problem_mark.line + 1}"
        raise UsageError(f"{where}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{place}: not valid YAML: {error}") from error
    except RecursionError as error:
        raise UsageError(f"{place}: nested too deeply") from error
    finally:
        loader.dispose()


def _refuse_aliases(text: str, place: str, lines: bool) -> None:
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            mark = event.start_mark
            where = f"{place}:{mark.line + 1}" if lines and mark is not None else place
            raise UsageError(
                f"{where}: anchors and aliases are not read here",
                hint="write the value out; a recipe can be based on another with extends:",
            )


def _collect_places(
    node: yaml.Node, key: Key, place: str, lines: bool, places: dict[Key, str]
) -> None:
    """Record where every key path stands; a key written twice is an error."""

    def at(node: yaml.Node) -> str:
        return f"{place}:{node.start_mark.line + 1}" if lines else place

    places.setdefault(key, at(node))
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise UsageError(f"{at(name)}: a key is one word, not a list or a mapping")
            sub = (*key, name.value)
            if sub in places:
                raise UsageError(
                    f"{at(name)}: {dotted(sub)}: written twice, first at {places[sub]}"
                )
            places[sub] = at(name)
            _collect_places(value, sub, place, lines, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_places(value, (*key, index), place, lines, places)


def dotted(key: Key) -> str:
    """A key path as people write it."""
    return ".".join(map(str, key))
