"""`train --inspect`: what is shown is what is trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Literal

import pytest
from rich.console import Console

from alpaca_cli.cli.inspection import show
from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.template import ALPACA
from alpaca_cli.data.formats import read_examples
from alpaca_cli.stages.inspection import InspectedRow, Inspection, inspect_rows
from tests.tokenizers import CHATML, byte_level, save_folder

ROWS = [
    {"instruction": "Name a color.", "input": "", "output": "Blue.\n\tOr \x1b[31mred."},
    {"instruction": "Repeat.", "input": "one two", "output": "one two"},
    {"instruction": "Say it often.", "input": "", "output": "again and again " * 20},
    {"instruction": "Say nothing.", "input": "", "output": ""},
]


@pytest.fixture
def data(tmp_path: Path) -> str:
    write_jsonl(tmp_path / "rows.jsonl", ROWS)
    return str(tmp_path / "rows.jsonl")


def recipe(*sets: str) -> Recipe:
    small = "train.model={config: {vocab_size: 400}}"
    return load_recipe(None, overrides=[small, *sets], environment={})


def inspect(data: str | Path, count: int, *sets: str) -> Inspection:
    return inspect_rows(recipe(*sets), RunFolder(Path("nowhere")), str(data), count)


def part(row: InspectedRow, *kinds: str) -> str:
    return "".join(token.text for token in row.tokens if token.kind in kinds)


def shown(inspection: Inspection, *, colour: bool) -> str:
    out = StringIO()
    system: Literal["standard"] | None = "standard" if colour else None
    console = Console(file=out, width=80, force_terminal=colour, color_system=system)
    console.print(show(inspection))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_every_token_is_told_by_what_becomes_of_it(data: str) -> None:
    found = inspect(data, 2)
    assert [row.number for row in found.rows] == [1, 2, 3]  # the third is the longest
    for row, example in zip(found.rows, ROWS, strict=False):
        assert row.total == len(row.tokens) == row.prompt + row.trained == row.whole
        kinds = [token.kind for token in row.tokens]
        assert {kind.split()[-1] for kind in kinds[: row.prompt]} == {"prompt"}
        assert {kind.split()[-1] for kind in kinds[row.prompt :]} == {"trained"}
        assert part(row, "trained") == example["output"]
        last = row.tokens[-1]
        assert (last.text, last.kind) == (found.eos, "special trained")
    assert (found.kept, found.dropped, found.truncated, found.empty) == (4, 0, 0, 1)
    assert found.longest == max(row.total for row in found.rows)
    assert found.trained_share == found.trained_tokens / found.tokens
    assert any("blank output" in note for note in found.notes)


def test_a_truncated_row_is_shown_even_when_it_is_not_among_the_first(data: str) -> None:
    found = inspect(data, 1, "train.max_length=60", "train.overlong=truncate_response")
    assert found.truncated == 1
    [first, cut] = found.rows
    assert (first.number, first.whole) == (1, first.total)
    assert (cut.number, cut.total) == (3, 60)
    assert cut.whole > 60
    assert cut.tokens[-1].text == found.eos
    assert str(ROWS[2]["output"]).startswith(part(cut, "trained"))


def test_it_can_be_written_as_json(data: str) -> None:
    row = json.loads(json.dumps(asdict(inspect(data, 1))))["rows"][0]
    assert set(row) == {"number", "total", "prompt", "trained", "whole", "tokens"}
    assert set(row["tokens"][0]) == {"id", "text", "kind"}


def test_a_chat_template_shows_its_special_tokens(tmp_path: Path, data: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    model = save_folder(tmp_path / "model", tokenizer)
    found = inspect(data, 2, f"train.model={model}", "train.template=tokenizer")
    row = found.rows[1]
    names = [token.text for token in row.tokens if token.kind.startswith("special")]
    assert names == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    assert part(row, "prompt") == "user\nRepeat.\n\none two\nassistant\n"
    assert found.eos == "<|im_end|>"
    assert any("answers end in '<|im_end|>'" in note for note in found.notes)


def test_nothing_is_written_and_no_weights_are_needed(tmp_path: Path, data: str) -> None:
    model = save_folder(tmp_path / "model", byte_level())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    inspect(data, 3, f"train.model={model}")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_without_colour_the_same_is_to_be_seen(data: str) -> None:
    text = shown(inspect(data, 2), colour=False)
    assert "\x1b" not in text
    assert "⟦Blue.↵\n" in text
    assert "⇥   Or \\x1b[31mred.«</s>»⟧" in text
    assert "example 1: " in text
    assert "(the longest)" in text
    assert text.count("⟦") == text.count("⟧") == 1 + 3  # the legend, and three rows


def test_colours_tell_trained_from_masked_and_special(data: str) -> None:
    text = shown(inspect(data, 1), colour=True)
    assert "\x1b[32m⟦" in text  # green
    assert "\x1b[2mBelow is an instruction" in text  # dim
    assert "\x1b[1;7;32m«</s>»" in text  # bold, reversed, green
    assert "\x1b[31m" not in text  # the data's own colour is not let through


def test_too_long_examples_are_said(data: str) -> None:
    text = shown(inspect(data, 1, "train.max_length=40"), colour=False)
    assert "too long: 1 examples dropped, 0 responses truncated" in text


def test_what_training_would_refuse_is_refused_here(data: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="example 3"):
        inspect(data, 1, "train.max_length=40", "train.overlong=error")
    with pytest.raises(DataError, match="no examples to train on"):
        inspect_rows(recipe(), RunFolder(tmp_path), None, 1)


def test_real_rows_read_as_they_were_written(tmp_path: Path, real_data: Path) -> None:
    path = real_data / "alpaca_en_demo.json"
    examples = read_examples([path])
    model = save_folder(tmp_path / "model", byte_level([each.output for each in examples]))
    found = inspect(path, 50, f"train.model={model}", "train.max_length=4096")
    assert len(found.rows) == 51
    for row in found.rows:
        example = examples[row.number - 1]
        assert part(row, "prompt") == ALPACA.prompt(example.instruction, example.input)
        assert part(row, "trained") == example.output
