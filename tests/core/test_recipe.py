"""Recipes: every mistake with its place, and the precedence of the places a key can come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.recipe import dump_recipe, find_recipe, load_recipe, shipped_recipes
from alpaca_cli.core.settings_generate import OpenAITeacher
from alpaca_cli.core.settings_train import ScratchModel


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def mistakes(source: str | None, **options: Any) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load_recipe(source, environment=options.pop("environment", {}), **options)
    return str(caught.value).splitlines()


def test_every_mistake_names_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.yaml",
        "seed: 42\n"
        "generate:\n"
        "  target: many\n"
        "  teacher:\n"
        "    kind: openai\n"
        "    modle: x\n"
        "train:\n"
        "  metod: full\n"
        "  model: {config: {layrs: 3}}\n",
    )
    found = mistakes(path)
    assert f"{path}:3: generate.target: Input should be a valid integer" in found[0]
    assert f"{path}:4: generate.teacher.model: Field required" in found
    assert f'{path}:6: generate.teacher.modle: unknown key, did you mean "model"?' in found
    assert f'{path}:8: train.metod: unknown key, did you mean "method"?' in found
    assert f'{path}:9: train.model.config.layrs: unknown key, did you mean "layers"?' in found
    assert len(found) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\ntrain: {epochs: 1}\nseed: 2\n", ":3: seed: written twice, first at"),
        ("seed: [1\n", ":2: not valid YAML"),
        ("a: &x 1\nb: *x\n", ":2: anchors and aliases are not read here"),
        ("a: \0\n", "special characters are not allowed"),
        ("a: " + "[" * 600 + "]" * 600, "nested too deeply"),
        ("? [a]\n: b\n", ":1: a key is one word"),
        ("- 1\n", ":1: a recipe is a mapping of keys, not a list"),
        ("generate: {teacher: {kind: openia}}\n", ":1: generate.teacher: "),
        ("train: {method: loar}\n", "or 'qlora', did you mean \"lora\"?"),
        ("extends: nowhere\n", 'no recipe "nowhere"'),
        ("extends: [a]\n", ":1: extends: must be a recipe's name or path"),
        (
            "generate: {max_cost: 3, teacher: {kind: openai, model: m}}\n",
            ":1: generate: max_cost needs teacher.price",
        ),
        ("train: {epochs: .inf}\n", ":1: train.epochs: Input should be a finite number"),
        ("train: {learning_rate: .nan}\n", ":1: train.learning_rate: Input should be a finite"),
        ("name: a/b\n", ":1: name: String should match pattern"),
    ],
)
def test_wrong_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "mine.yaml", text)
    assert message in "\n".join(mistakes(path))


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.yaml",
        "description: no\n"
        "generate: {max_requests: , filters: {keywords: [on, 12:30, 0o7]}}\n"
        "train: {learning_rate: 1e-5, weight_decay: 1.E-2, gpus: '0,1'}\n",
    )
    recipe = load_recipe(path, environment={})
    assert recipe.description == "no"
    assert recipe.generate.max_requests is None
    assert recipe.generate.filters.keywords == ["on", "12:30", "0o7"]
    assert (recipe.train.learning_rate, recipe.train.weight_decay) == (1e-5, 1e-2)
    assert recipe.train.gpus == "0,1"


def test_precedence_is_flag_set_environment_recipe_extends_default(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "name: base\ntrain: {epochs: 1, warmup: 0.1}\n")
    path = write(
        tmp_path / "mine.yaml",
        "extends: base.yaml\ntrain: {epochs: 2, global_batch: 2, micro_batch: 2, max_length: 20}\n",
    )
    recipe = load_recipe(
        path,
        environment={
            "ALPACA_TRAIN__GLOBAL_BATCH": "3",
            "ALPACA_TRAIN__MICRO_BATCH": "3",
            "ALPACA_TRAIN__MAX_LENGTH": "30",
            "ALPACA_API_KEY": "somebody else's variable",
        },
        overrides=["train.micro_batch=4", "train.max_length=40"],
        flags={"train.max_length": ("--max-length", 50)},
    )
    train = recipe.train
    assert recipe.name == "mine"
    assert (train.warmup, train.epochs, train.global_batch) == (0.1, 2, 3)
    assert (train.micro_batch, train.max_length, train.save_every) == (4, 50, 200)


def test_places_other_than_files_are_named() -> None:
    assert mistakes(None, overrides=["train.epochs=0"])[0].startswith("--set train.epochs: ")
    assert mistakes(None, overrides=["trian.epochs=1"]) == [
        '--set trian.epochs: trian: unknown key, did you mean "train"?'
    ]
    assert mistakes(None, overrides=["train.epochs"]) == [
        "--set train.epochs: expected key.sub=value"
    ]
    assert mistakes(None, environment={"ALPACA_TRAIN__LR": "1"})[0].startswith(
        "ALPACA_TRAIN__LR: train.lr: unknown key"
    )
    assert mistakes(None, flags={"dedup.threshold": ("--threshold", 2)})[0].startswith(
        "--threshold: dedup.threshold: "
    )


def test_a_value_may_hold_equals_signs_and_yaml() -> None:
    recipe = load_recipe(
        None,
        overrides=["train.model=a=b", "generate.filters.keywords=[image, graph]"],
        environment={},
    )
    assert recipe.train.model == "a=b"
    assert recipe.generate.filters.keywords == ["image", "graph"]


def test_another_kind_of_teacher_replaces_the_inherited_one(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "generate: {teacher: {kind: procedural, mistakes: 0.1}}\n")
    path = write(
        tmp_path / "mine.yaml",
        "extends: base.yaml\ngenerate: {teacher: {kind: openai, model: m}}\n",
    )
    assert load_recipe(path, environment={}).generate.teacher == OpenAITeacher(
        kind="openai", model="m"
    )


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "extends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    assert "in a circle: a.yaml -> b.yaml -> a.yaml" in mistakes(path)[0]


def test_a_resolved_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = load_recipe(None, overrides=["train.learning_rate=1e-5"], environment={})
    assert load_recipe(write(tmp_path / "r.yaml", dump_recipe(recipe)), environment={}) == recipe
    assert isinstance(recipe.train.model, ScratchModel)


@pytest.mark.parametrize("path", shipped_recipes(), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_described(path: Path) -> None:
    recipe = load_recipe(path.stem, environment={})
    assert recipe.name == path.stem
    assert recipe.description
    assert find_recipe(f"{path.stem}.yaml") == path
    assert yaml.safe_load(path.read_text("utf-8"))


def test_an_unknown_recipe_suggests_the_closest() -> None:
    with pytest.raises(UsageError, match='no recipe "quickstrat", did you mean "quickstart"'):
        find_recipe("quickstrat")
