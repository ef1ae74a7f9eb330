"""Reading a recipe: YAML files, `extends`, the environment and `--set`, merged and validated.

Every mistake is reported with the place it was written at (`file:line`, `--set …` or the
variable's name). How YAML is read is `alpaca_cli.core.yaml_places`.

Precedence: flag > `--set` > `ALPACA_…` environment > recipe > what it extends > defaults.

What the keys mean is in `alpaca_cli.core.settings`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from alpaca_cli.core.errors import UsageError, did_you_mean
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.yaml_places import Key, Tree, dotted, parse_yaml, read_yaml


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
    tree = Tree({}, {(): "recipe"})
    if source is not None:
        path = find_recipe(source)
        tree = _read(path, ())
        default_name = path.stem
    for variable, key in environment_keys(environment):
        tree = _override(tree, key, parse_yaml(environment[variable], variable, lines=False))
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {text}: expected key.sub=value")
        key = tuple(name.strip().split("."))
        tree = _override(tree, key, parse_yaml(value, f"--set {name.strip()}", lines=False))
    for name, (flag, value) in flags.items():
        tree = _override(tree, tuple(name.split(".")), Tree(value, {(): flag}))
    return _validate(_merge(Tree({"name": default_name}, {}), tree))


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


def _read(path: Path, children: tuple[Path, ...]) -> Tree:
    """One file and what it extends, merged."""
    resolved = path.resolve()
    if resolved in children:
        chain = " -> ".join(file.name for file in (*children, resolved))
        raise UsageError(f"{path}: recipes extend each other in a circle: {chain}")
    tree = read_yaml(path)
    if tree.data is None:  # an empty file is a recipe of defaults
        tree = Tree({}, tree.places)
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


def environment_keys(environment: Mapping[str, str]) -> list[tuple[str, Key]]:
    """Variables whose first word is a recipe key; others with our prefix are not ours."""
    found: list[tuple[str, Key]] = []
    for variable in sorted(environment):
        if variable.startswith("ALPACA_"):
            key: Key = tuple(variable.removeprefix("ALPACA_").lower().split("__"))
            if key[0] in Recipe.model_fields:
                found.append((variable, key))
    return found


def _override(tree: Tree, key: Key, value: Tree) -> Tree:
    """The tree with the value of one key replaced."""
    data = value.data
    for name in reversed(key):
        data = {name: data}
    places = {key[:depth]: value.places[()] for depth in range(1, len(key) + 1)}
    places |= {(*key, *sub): place for sub, place in value.places.items()}
    return _merge(tree, Tree(data, places))


def _merge(base: Tree, top: Tree) -> Tree:
    """`top` over `base`: mappings are merged, everything else is replaced."""

    def merge(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        if "kind" in new and new["kind"] != old.get("kind"):
            return new  # another kind of teacher has other keys
        return old | {key: merge(old.get(key), value) for key, value in new.items()}

    return Tree(merge(base.data, top.data), base.places | top.places)


def _validate(tree: Tree) -> Recipe:
    try:
        return Recipe.model_validate(tree.data)
    except ValidationError as error:
        mistakes = [_mistake(tree, dict(detail)) for detail in error.errors(include_url=False)]
        raise UsageError("\n".join(dict.fromkeys(mistakes))) from error


def _mistake(tree: Tree, detail: dict[str, Any]) -> str:
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
    return f"{place}: {dotted(key) or 'recipe'}: {message}"


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


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", type(None): "nothing"}.get(type(value), "a single value")
