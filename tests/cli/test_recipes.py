"""`alpaca recipes` and `alpaca doctor`, as a person and as a script see them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from alpaca_cli.cli import doctor
from alpaca_cli.core.hardware import GPUS
from alpaca_cli.core.recipe import load_recipe
from tests.processes import run


def test_recipes_are_listed_shown_copied_and_validated(tmp_path: Path) -> None:
    listed = json.loads(run("recipes", "list", "--json", cwd=tmp_path).stdout)
    assert "quickstart" in [recipe["name"] for recipe in listed]
    run("recipes", "copy", "quickstart", "mine.yaml", cwd=tmp_path)
    shown = run("recipes", "show", "mine.yaml", cwd=tmp_path).stdout
    assert shown == run("recipes", "show", "quickstart", cwd=tmp_path).stdout
    resolved = run(
        "recipes", "show", "quickstart", "--resolved", "--set", "seed=7", cwd=tmp_path
    ).stdout
    (tmp_path / "resolved.yaml").write_text(resolved)
    assert load_recipe(str(tmp_path / "resolved.yaml"), environment={}).seed == 7
    names = [recipe["name"] for recipe in listed]
    assert run("recipes", "validate", *names, cwd=tmp_path).stdout.count(": ok") == len(names)


def test_validate_lists_the_mistakes_of_every_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("trian: {}\n")
    (tmp_path / "b.yaml").write_text("seed: x\n")
    done = run("recipes", "validate", "a.yaml", "quickstart", "b.yaml", cwd=tmp_path, code=2)
    assert "quickstart: ok" in done.stdout
    assert 'a.yaml:1: trian: unknown key, did you mean "train"?' in done.stderr
    assert "b.yaml:1: seed: Input should be a valid integer" in done.stderr


def test_the_schema_documents_every_key(tmp_path: Path) -> None:
    schema = json.loads(run("recipes", "schema", cwd=tmp_path).stdout)
    sections = [schema, *schema["$defs"].values()]
    keys = [
        (section.get("title"), name, key)
        for section in sections
        for name, key in section["properties"].items()
    ]
    assert len(keys) > 60
    assert [k[:2] for k in keys if "description" not in k[2] and "$ref" not in k[2]] == []


def test_doctor_names_keys_without_their_values(tmp_path: Path) -> None:
    done = run("doctor", "--json", cwd=tmp_path, OPENAI_API_KEY="sk-secret-of-mine")
    found = json.loads(done.stdout)
    assert found["keys"]["OPENAI_API_KEY"] is True
    assert found["works"]["quickstart"] is True
    assert "sk-secret" not in done.stdout + done.stderr


def test_doctor_knows_every_library_of_the_project_and_every_card_with_24_gb() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=]", each)[0] for each in project["dependencies"]]
    assert sorted(doctor.REQUIRED) == sorted(names)
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"]) - {"dev", "all"}
    cards = [card for card in GPUS if card.name.endswith("-24GB")]
    assert min(card.memory for card in cards) >= doctor.TUNING
