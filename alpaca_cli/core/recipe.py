"""Reading a recipe: YAML files, `extends`, the environment and `--set`, merged and validated.

Every mistake is reported with the place it was written at (`file:line`, `--set …` or the
variable's name). YAML is read by the 1.2 core rules where 1.1 surprises: `1e-5` is a number,
`no` and `on` are words, `12:30` is text; duplicate keys, anchors and aliases are refused.

Precedence: flag > `--set` > `ALPACA_…` environment > recipe > what it extends > defaults.

What the keys mean is in `alpaca_cli.core.settings`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from alpaca_cli.core.errors import UsageError, did_you_mean
from alpaca_cli.core.settings import Recipe

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
class _Tree:
    """Plain data, and for every key path the place where it was written."""

    data: Any
    places: dict[Key, str]


def load_recipe(
    source: str | None,
    *,
    overrides: Sequence[str] = (),
    flags: Mapping[str, tuple[str, Any]] = MappingProxyType({}),
    environment: Mapping[str, str] = os.environ,
    default_name: str = "run",
) -> Recipe:
    """The recipe named or stored at `source`, with overrides applied.

    Args:
        source: a name (`52k`), a path (`52k.yaml`), or None for the defaults.
        overrides: `key.sub=value`, the value in YAML, as `--set` takes them.
        flags: recipe key -> (flag as the user writes it, value), from the command line.
        environment: `ALPACA_TRAIN__EPOCHS=1` stands for `train.epochs=1`.
        default_name: `name` when neither the recipe nor an override gives one.

    Raises:
        UsageError: lists every mistake as `place: key: what is wrong`.
    """
    tree = _Tree({}, {(): "recipe"})
    if source is not None:
        path = find_recipe(source)
        tree = _read(path, ())
        default_name = path.stem
    for variable, key in _environment_keys(environment):
        tree = _override(tree, key, _parse_text(environment[variable], variable, lines=False))
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text}: expected key.sub=value")
        key = tuple(name.strip().split("."))
        tree = _override(tree, key, _parse_text(value, f"--set {name.strip()}", lines=False))
    for name, (flag, value) in flags.items():
        tree = _override(tree, tuple(name.split(".")), _Tree(value, {(): flag}))
    return _validate(_merge(_Tree({"name": default_name}, {}), tree))


def find_recipe(source: str) -> Path:
    """The file of a recipe: a path as given, else a shipped recipe's name with or without `.yaml`.

    Raises:
        UsageError: there is none; suggests the closest name.
    """
    path = Path(source)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in shipped_recipes()}
    if path.parent == Path(".") and path.name.removesuffix(".yaml") in shipped:
        return shipped[path.name.removesuffix(".yaml")]
    raise UsageError(
        f'no recipe "{source}"{did_you_mean(path.stem, shipped)}',
        hint="alpaca recipes list shows the shipped ones; a path to a YAML file works too",
    )


def shipped_recipes() -> list[Path]:
    """The recipes that come with alpaca, sorted by name."""
    package = Path(__file__).parents[1]
    # In a wheel they stand inside the package; in a checkout, beside it.
    folder = package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"
    return sorted(folder.glob("*.yaml"))


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that `load_recipe` reads back to an equal one."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return text


def _read(path: Path, children: tuple[Path, ...]) -> _Tree:
    """One file and what it extends, merged."""
    resolved = path.resolve()
    if resolved in children:
        chain = " -> ".join(file.name for file in (*children, resolved))
        raise UsageError(f"{path}: recipes extend each other in a circle: {chain}")
    tree = _parse(path)
    if tree.data is None:  # an empty file is a recipe of defaults
        tree = _Tree({}, tree.places)
    if not isinstance(tree.data, dict):
        raise UsageError(f"{path}:1: a recipe is a mapping of keys, not {_kind(tree.data)}")
    if "extends" not in tree.data:
        return tree
    parent = tree.data.pop("extends")
    if not isinstance(parent, str):
        raise UsageError(f"{tree.places['extends',]}: extends: must be a recipe's name or path")
    beside = path.parent / parent
    base = _read(beside if beside.is_file() else find_recipe(parent), (*children, resolved))
    # A name and a description belong to one recipe; they are not inherited.
    for key in ("name", "description"):
        base.data.pop(key, None)
    return _merge(base, tree)


def _parse(path: Path) -> _Tree:
    try:
        raw = path.read_bytes()
        if len(raw) > MAX_BYTES:
            raise UsageError(
                f"{path}: a recipe may have {MAX_BYTES:,} bytes, this has {len(raw):,}"
            )
        return _parse_text(raw.decode("utf-8-sig"), str(path), lines=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8: {error}") from error


def _parse_text(text: str, place: str, *, lines: bool) -> _Tree:
    """YAML text to data and places; `place` names the source, lines are added for files."""
    loader = _Loader(text)
    try:
        _refuse_aliases(text, place, lines)
        root = loader.get_single_node()
        places: dict[Key, str] = {}
        if root is not None:
            _collect_places(root, (), place, lines, places)
        data = loader.construct_document(root) if root is not None else None
        return _Tree(data, places or {(): place})
    except yaml.MarkedYAMLError as error:
        where = place
        if lines and error.problem_mark is not None:
            where = f"{place}:{error.problem_mark.line + 1}"
        raise UsageError(f"{where}: not valid YAML: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{place}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _refuse_aliases(text: str, place: str, lines: bool) -> None:
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.AliasEvent):
            mark = event.start_mark
            where = f"{place}:{mark.line + 1}" if lines and mark is not None else place
            raise UsageError(
                f"{where}: recipes have no anchors and aliases", hint="use extends: instead"
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
            sub = (*key, name.value)
            if sub in places:
                raise UsageError(
                    f"{at(name)}: {_dotted(sub)}: written twice, first at {places[sub]}"
                )
            places[sub] = at(name)
            _collect_places(value, sub, place, lines, places)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _collect_places(value, (*key, index), place, lines, places)


def _environment_keys(environment: Mapping[str, str]) -> list[tuple[str, Key]]:
    """Variables whose first word is a recipe key; others with our prefix are not ours."""
    found: list[tuple[str, Key]] = []
    for variable in sorted(environment):
        if variable.startswith("ALPACA_"):
            key: Key = tuple(variable.removeprefix("ALPACA_").lower().split("__"))
            if key[0] in Recipe.model_fields:
                found.append((variable, key))
    return found


def _override(tree: _Tree, key: Key, value: _Tree) -> _Tree:
    """The tree with the value of one key replaced."""
    data = value.data
    for name in reversed(key):
        data = {name: data}
    places = {key[:depth]: value.places[()] for depth in range(1, len(key) + 1)}
    places |= {(*key, *sub): place for sub, place in value.places.items()}
    return _merge(tree, _Tree(data, places))


def _merge(base: _Tree, top: _Tree) -> _Tree:
    """`top` over `base`: mappings are merged, everything else is replaced."""

    def merge(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        if "kind" in new and new["kind"] != old.get("kind"):
            return new  # another kind of teacher has other keys
        return old | {key: merge(old.get(key), value) for key, value in new.items()}

    return _Tree(merge(base.data, top.data), base.places | top.places)


def _validate(tree: _Tree) -> Recipe:
    try:
        return Recipe.model_validate(tree.data)
    except ValidationError as error:
        mistakes = [_mistake(tree, dict(detail)) for detail in error.errors(include_url=False)]
        raise UsageError("\n".join(dict.fromkeys(mistakes))) from error


def _mistake(tree: _Tree, detail: dict[str, Any]) -> str:
    """`place: key: what is wrong` for one pydantic error."""
    key = _real_key(tree.data, detail["loc"])
    place = next(tree.places[key[:n]] for n in range(len(key), -1, -1) if key[:n] in tree.places)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        siblings = _siblings(detail["loc"])
        message = f"unknown key{did_you_mean(str(key[-1]), siblings)}"
    elif detail["type"] == "literal_error":
        # pydantic lists the choices; a close one is worth naming.
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        message += did_you_mean(str(detail["input"]), choices)
    return f"{place}: {_dotted(key) or 'recipe'}: {message}"


def _real_key(data: Any, loc: Iterable[str | int]) -> Key:
    """pydantic's location without the union tags that are not keys of the data."""
    key: list[str | int] = []
    parts = list(loc)
    for index, part in enumerate(parts):
        holds = (isinstance(data, dict) and part in data) or (
            isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if holds:
            data = data[part]
        elif not (index == len(parts) - 1 and isinstance(data, dict)):
            continue  # a tag such as `openai` or `scratch`
        key.append(part)
    return tuple(key)


def _siblings(loc: Sequence[str | int]) -> list[str]:
    """The keys that would have been known where an unknown one stands."""
    sections: list[type[BaseModel]] = [Recipe]
    for part in loc[:-1]:
        fields = [model.model_fields[str(part)] for model in sections if part in model.model_fields]
        # A part that is no field is a union's tag: all its options stay in the running.
        sections = [m for field in fields for m in _models(field.annotation)] or sections
    return [name for model in sections for name in model.model_fields]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The section classes inside an annotation such as `A | B | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in getattr(annotation, "__args__", ()) for model in _models(arg)]


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), "a single value")
