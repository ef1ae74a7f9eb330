"""The Alpaca prompt is a wire format: its bytes are asserted as literals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.template import ALPACA, load_template, stored_template


def test_the_alpaca_prompt_byte_for_byte() -> None:
    assert ALPACA.prompt("Add.", "1 {instruction} 2") == (
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1 {instruction} 2\n\n### Response:"
    )
    assert ALPACA.prompt("Say {input}.") == (
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nSay {input}.\n\n### Response:"
    )


def test_a_stored_template_reads_back_equal(tmp_path: Path) -> None:
    assert stored_template(tmp_path) is None
    ALPACA.save(tmp_path)
    assert stored_template(tmp_path) == ALPACA


def test_an_unknown_template_suggests_the_closest() -> None:
    with pytest.raises(UsageError, match='"alpacca", did you mean "alpaca"'):
        load_template("alpacca")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "x", "wrong": 1}, "not a prompt template"),
        ({"name": "x", "with_input": "{instruction}", "without_input": "{instruction}"}, "{input}"),
        ({"name": "x", "with_input": "{instruction}{input}", "without_input": ""}, "exactly once"),
    ],
)
def test_a_broken_template_file_is_refused(
    tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = tmp_path / "template.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(DataError, match=message):
        load_template(str(path))
