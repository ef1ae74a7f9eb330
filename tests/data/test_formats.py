"""Every format in, every format out, and a place for every malformed row."""

from __future__ import annotations

import gzip
import json
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples, read_placed, write_examples
from alpaca_cli.data.seeds import load_seeds

ROW = {"instruction": "Add.", "input": "1, 2", "output": "3"}
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def save(path: Path, data: str | bytes) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def flipped(data: bytes, start: int, count: int) -> bytes:
    """The data with some bytes turned over, as a bad disk does."""
    end = start + count
    return data[:start] + bytes(255 - byte for byte in data[start:end]) + data[end:]


def parquet_of(columns: dict[str, list[Any]]) -> bytes:
    file = BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {"instruction": TEXT.filter(str.strip), "input": TEXT, "output": TEXT},
            optional={"id": TEXT, "note": TEXT, "meta": st.dictionaries(TEXT, TEXT, min_size=1)},
        ),
        min_size=1,
        max_size=5,
    ),
    suffix=st.sampled_from([".json", ".jsonl", ".json.gz", ".jsonl.gz", ".parquet"]),
)
def test_any_example_survives_a_round_trip(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], suffix: str
) -> None:
    path = tmp_path_factory.mktemp("round") / f"x{suffix}"
    source = save(path.with_name("in.jsonl"), "\n".join(map(json.dumps, rows)))
    examples = read_examples([source])
    write_examples(path, examples)
    assert read_examples([path]) == examples
    assert [example.to_row() for example in examples] == rows


def test_the_self_instruct_format_gives_one_example_an_instance(tmp_path: Path) -> None:
    row = {
        "id": "t",
        "instruction": "Add.",
        "instances": [{"input": "1", "output": "a"}, {"input": "2", "output": "b"}],
        "is_classification": False,
    }
    examples = read_examples([save(tmp_path / "s.jsonl", json.dumps(row))])
    assert examples == [
        Example("Add.", "1", "a", id="t", extra={"is_classification": False}),
        Example("Add.", "2", "b", id="t-2", extra={"is_classification": False}),
    ]


def test_a_chat_of_one_exchange_is_an_example(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi?"},
        {"role": "assistant", "content": "Hi."},
    ]
    rows = [{"messages": messages, "topic": "x"}, {"messages": messages[1:]}]
    path = save(tmp_path / "chat.jsonl", "\n".join(map(json.dumps, rows)))
    assert read_examples([path]) == [
        Example("Be brief.\n\nHi?", "", "Hi.", extra={"topic": "x"}),
        Example("Hi?", "", "Hi."),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"instruction": "a", "output": "b"}\n{"instruction": \n', ":2: not a JSON line"),
        ('{"instruction": "a", "output": "b"}\n\n{"output": "b"}\n', ':3: field "instruction" is'),
        ('[{"instruction": "a", "output": "b"}, {"instruction": "a"}]', '#2: field "output" is mi'),
        ('[{"instruction": "a"', ":1: not JSON"),
        ('{"instruction": " ", "output": "b"}', ':1: field "instruction" is empty'),
        ('{"instruction": "a", "output": 3}', ':1: field "output" must be a string, not int'),
        ('{"instruction": "\\ud800", "output": "b"}', ":1: a string holds half of a surrogate"),
        ('{"instruction": "a", "output": "b", "x": ["\\ud800"]}', ":1: a string holds half of"),
        ('{"instruction": "a", "output": "b", "id": "\\ud800"}', ":1: a string holds half of"),
        ('{"instruction": "a", "output": "b", "x": ' + "[" * 100_000, ":1: not a JSON line"),
        ("[" * 100_000, ":1: not JSON"),
        ("[1]", "#1: a row must be an object, not int"),
        ("[]", "holds no examples"),
        ("", "holds no examples"),
        (b'{"instruction": "a\xff"}', ":1: not UTF-8"),
        (b"\x1f\x8b\x08\x00broken", "cannot read"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9, "cannot read: Error -3"),
        (b"PAR1 and no more", "not a whole Parquet file"),
        (flipped(parquet_of({"instruction": ["a"], "output": ["b"]}), 4, 40), "not a whole Parqu"),
        (
            parquet_of({"instruction": ["a"], "output": ["b"], "meta": ["from a book"]}),
            '#1: field "meta" must be an object, not str',
        ),
        (
            parquet_of({"instruction": ["a"], "output": ["b"], "made": [date(2026, 1, 31)]}),
            '#1: field "made": Object of type date is not JSON serializable; store it as text',
        ),
        ('{"instruction": "a", "instances": []}', 'field "instances" must be a list'),
        ('{"messages": [{"role": "user", "content": "a"}]}', "this has the roles user"),
    ],
)
def test_a_malformed_row_names_its_place(tmp_path: Path, data: str | bytes, message: str) -> None:
    path = save(tmp_path / "bad", data)
    with pytest.raises(DataError) as caught:
        read_examples([path])
    assert f"{path}" in str(caught.value)
    assert message in str(caught.value)


def test_a_missing_file_and_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.json: cannot read: No such file"):
        read_examples([tmp_path / "none.json"])
    with pytest.raises(UsageError, match="unknown output format"):
        write_examples(tmp_path / "x.csv", [Example("a", "", "b")])


def test_what_fits_no_parquet_column_is_refused(tmp_path: Path) -> None:
    for rows in ([1, "a"], [2**64]):
        with pytest.raises(DataError, match="do not fit Parquet columns"):
            write_examples(tmp_path / "x.parquet", [Example("a", extra={"n": n}) for n in rows])
    assert not list(tmp_path.iterdir())


def test_places_are_lines_in_jsonl_and_rows_elsewhere(tmp_path: Path) -> None:
    jsonl = save(tmp_path / "a.jsonl", "\n" + json.dumps(ROW))
    whole = save(tmp_path / "a.json.gz", gzip.compress(json.dumps([ROW, ROW]).encode()))
    assert [place for place, _ in read_placed(jsonl)] == [f"{jsonl}:2"]
    assert [place for place, _ in read_placed(whole)] == [f"{whole}#1", f"{whole}#2"]


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("seed_tasks.jsonl", 175),
        ("user_oriented_instructions.jsonl", 252),
        ("alpaca_en_demo.json", 999),
        ("alpaca_zh_demo.json", 1000),
        ("code_alpaca_2k.json", 2017),
    ],
)
def test_real_files_load_whole(real_data: Path, name: str, rows: int) -> None:
    assert len(read_examples([real_data / name])) == rows


def test_the_built_in_seeds_are_many_and_diverse() -> None:
    seeds = load_seeds("builtin")
    categories = {seed.meta["category"] for seed in seeds}
    with_input = sum(bool(seed.input) for seed in seeds) / len(seeds)
    assert len(seeds) >= 175
    assert len({seed.id for seed in seeds}) == len(seeds)
    assert len(categories) >= 12
    assert 0.35 <= with_input <= 0.45
    assert all(seed.output.strip() == seed.output for seed in seeds)


def test_seeds_without_ids_get_their_own(tmp_path: Path) -> None:
    rows = [ROW, ROW | {"id": "x"}, ROW | {"id": "x"}]
    path = save(tmp_path / "s.jsonl", "\n".join(map(json.dumps, rows)))
    assert [seed.id for seed in load_seeds(str(path))] == ["seed-1", "x", "x-3"]
