"""Cut into tasks, the decisions about shards are those of one machine about the whole corpus."""

from __future__ import annotations

import gzip
import json
import random
import shlex
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pyarrow import parquet
from rich.console import Console

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import digest, json_line, read_json, read_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import find_duplicates
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.shards import STAGES, Plan, _needed_pairs, _shares, run_task

Shards = Sequence[Sequence[str]]
Decision = tuple[str, str, str, float]  # a dropped row, why, for which, how similar


def make_plan(
    folder: Path, shards: Sequence[Path], against: Sequence[Path] = (), *, joins: int, **keys: Any
) -> Plan:
    return Plan(
        folder=folder / "out/work/x",
        shards=tuple(map(str, shards)),
        against=tuple(map(str, against)),
        digests={str(file): digest(file) for file in (*shards, *against)},
        settings=Dedup.model_validate(keys),
        joins=joins,
        output=folder / "out",
    )


def run_all(plan: Plan, stages: Sequence[str] = STAGES) -> None:
    for stage in stages:
        for task in range(plan.tasks(stage)):
            run_task(plan, stage, task)


def write_texts(path: Path, texts: Sequence[str]) -> Path:
    path.write_bytes(b"".join(json_line({"instruction": text, "output": ""}) for text in texts))
    return path


def decided(plan: Plan) -> tuple[list[list[str]], list[Decision]]:
    """The texts that stay, by shard, and the rows that go."""
    kept, dropped = [], []
    for task in range(len(plan.shards)):
        stay, go = plan.results(task)
        kept.append([row["instruction"] for _, row in read_jsonl(stay)])
        dropped += [
            (row["row"], row["reason"], row["duplicate_of"], row["score"])
            for _, row in read_jsonl(go)
        ]
    return kept, dropped


def on_one_machine(
    plan: Plan, shards: Shards, against: Shards
) -> tuple[list[list[str]], list[Decision]]:
    """The same as `decided`, by `find_duplicates`."""
    rows = [Example(text) for shard in shards for text in shard]
    known = [Example(text) for texts in against for text in texts]
    progress = Progress(Console(file=StringIO()))
    outcome = find_duplicates(rows, plan.settings, progress, against=known)
    names = {
        "duplicate": [f"{Path(file).name}#{row + 1}"
                      for file, shard in zip(plan.shards, shards, strict=True)
                      for row in range(len(shard))],
        "against": [f"{file}#{row + 1}"
                    for file, texts in zip(plan.against, against, strict=True)
                    for row in range(len(texts))],
    }  # fmt: skip
    stays = iter(np.isin(np.arange(len(rows)), outcome.kept))
    kept = [[text for text in shard if next(stays)] for shard in shards]
    dropped: list[Decision] = [
        (names["duplicate"][found.row], found.reason, names[found.reason][found.other], found.score)
        for found in outcome.dropped
    ]
    return kept, dropped


def check(shards: Shards, against: Shards = (), *, joins: int, **keys: Any) -> list[Decision]:
    """Assert that the decisions are those of one machine; returns who goes."""
    with TemporaryDirectory(prefix="a folder ") as name:
        folder = Path(name)
        plan = make_plan(
            folder,
            [write_texts(folder / f"s{n}.jsonl", texts) for n, texts in enumerate(shards)],
            [write_texts(folder / f"known{n}.jsonl", texts) for n, texts in enumerate(against)],
            joins=joins,
            **keys,
        )
        run_all(plan)
        kept, dropped = decided(plan)
        assert (kept, dropped) == on_one_machine(plan, shards, against)
        return dropped


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), max_size=9)
texts = words.map(lambda tokens: " ".join(tokens) or "…")  # "…" has no words
shards_of_texts = st.lists(st.lists(texts, min_size=1, max_size=6), min_size=1, max_size=4)


@hypothesis_settings(max_examples=25)
@given(
    shards_of_texts,
    st.one_of(st.just([]), shards_of_texts),
    st.sampled_from([0.4, 0.5, 0.7, 1.0]),
    st.integers(1, 9),
)
def test_decisions_are_those_of_one_machine(
    shards: Shards, against: Shards, threshold: float, joins: int
) -> None:
    # So few texts are in blocks of one to four; often there are more tasks than pairs of blocks.
    check(shards, against, joins=joins, threshold=threshold)


def corpus(rng: random.Random, size: int) -> list[str]:
    """Texts of any length of which many are copies, or edited copies, of others."""
    rows: list[list[str]] = []
    for _ in range(size):
        length = min(150, int(rng.lognormvariate(2.2, 0.8)))
        row = [f"w{min(400, int(rng.paretovariate(0.6)))}" for _ in range(length)]
        if rows and rng.random() < 0.5:
            row = list(rng.choice(rows))
            for _ in range(rng.randrange(0, len(row) // 3 + 1)):
                row[rng.randrange(len(row))] = f"w{rng.randrange(400)}"
        rows.append(row)
    return [" ".join(row) or "?" for row in rows]


@pytest.mark.parametrize("threshold", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("known", [0, 150])
def test_decisions_about_larger_corpora_split_at_random(threshold: float, known: int) -> None:
    rng = random.Random(f"{threshold} {known}")
    rows = corpus(rng, 800)
    cuts = [0, *sorted(rng.sample(range(1, 800), 5)), 800]
    shards = [rows[begin:end] for begin, end in pairwise(cuts)]
    against = [corpus(rng, known), rows[:10]] if known else []
    dropped = check(shards, against, joins=12, threshold=threshold)
    assert {why for _, why, _, _ in dropped} == (
        set() if threshold == 1 else {"duplicate", "against"} if known else {"duplicate"}
    )


def test_only_kept_ones_drop_others_in_whatever_shards_they_are() -> None:
    first, second, third = (
        "a b c d e f g h i j",
        "a b c d e f g h x y",  # 0.8 with the first: goes
        "a b c d e f q r x y",  # 0.8 with the second, 0.6 with the first: stays
    )
    for shards in (
        [[first, second, third]],
        [[first], [second], [third]],
        [[first, second], [third]],
    ):
        assert len(check(shards, joins=5)) == 1
    # Were it one of each connected group, the first alone would stay here as well.
    dropped = check([[third], [second], [first]], joins=5)
    assert [row for row, *_ in dropped] == ["s1.jsonl#1"]
    # The copy of one that goes has neighbours of its own: the third is nearer than the first.
    dropped = check([[first, second], ["a b c d e f g q x y", second]], joins=3)
    assert [(row, other) for row, _, other, _ in dropped] == [
        ("s0.jsonl#2", "s0.jsonl#1"),
        ("s1.jsonl#2", "s1.jsonl#1"),
    ]


@pytest.mark.parametrize("shards", [[["…"], ["!", "?"]], [["…"]], [["one word"], ["…"], ["none"]]])
def test_nothing_is_like_a_text_without_words(shards: Shards) -> None:
    assert check(shards, joins=3) == []


def test_words_of_every_script() -> None:
    shards = [
        ["写一首关于春天的诗", "اكتب قصيدة عن الربيع"],
        ["写一首关于秋天的诗", "ÅNGSTRÖM är en enhet"],
        ["ångström är en enhet"],
    ]
    dropped = check(shards, joins=2, tokenizer="unicode")
    assert [row for row, *_ in dropped] == ["s1.jsonl#1", "s2.jsonl#1"]


def skewed() -> list[list[str]]:
    """A word in every row, 2,000 rows nearly the same, and many exact copies."""
    rng = random.Random(5)
    rows = [f"please {text}" for text in corpus(rng, 1500)]
    rows += [f"please add two and two for me now {number}" for number in range(2000)]
    rows += ["please repeat this sentence after me"] * 500
    rng.shuffle(rows)
    return [rows[:1500], rows[1500:3900], rows[3900:]]


def test_skew_is_exact_and_evenly_shared(tmp_path: Path) -> None:
    joins = 6
    shards = skewed()
    plan = make_plan(
        tmp_path,
        [write_texts(tmp_path / f"s{n}.jsonl", rows) for n, rows in enumerate(shards)],
        joins=joins,
    )
    run_all(plan)
    assert decided(plan) == on_one_machine(plan, shards, [])
    # By the pairs that a task looks at, and by those that it finds.
    blocks = read_json(plan.folder / "order/blocks.json")
    loads = [
        sum(
            blocks[one][0] * (blocks[one][0] // 2 if one == other else blocks[other][0])
            for one, other in share
        )
        for share in _shares(blocks, 0.7, joins)
    ]
    assert max(loads) < 1.2 * sum(loads) / joins
    found = [(plan.folder / f"join/{task:05}.pairs").stat().st_size for task in range(joins)]
    assert sum(found) >= 16 * 2000 * 1999 // 2
    assert max(found) < 2 * sum(found) / joins


def test_large_groups_cost_keep_no_memory(tmp_path: Path) -> None:
    shards = [[f"please add two and two for me now {number}" for number in range(1000)]]
    plan = make_plan(tmp_path, [write_texts(tmp_path / "s.jsonl", shards[0])], joins=2)
    run_all(plan)
    found, needed = _needed_pairs(plan, 1000)
    assert found == 1000 * 999 // 2
    assert len(needed) == 999


def test_given_rows_are_not_compared_with_each_other() -> None:
    blocks = [[100, 5, 5, 1], [100, 5, 5, 1], [100, 5, 5, 0], [100, 5, 5, 0], [100, 50, 60, 0]]
    shares = _shares(blocks, 0.7, 3)
    pairs = sorted(pair for share in shares for pair in share)
    assert pairs == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3), (4, 4)]
    assert max(map(len, shares)) <= 3


def test_a_task_writes_the_same_bytes_whenever_it_runs(tmp_path: Path) -> None:
    rows = corpus(random.Random(1), 300)
    files = [write_texts(tmp_path / f"s{n}.jsonl", rows[100 * n : 100 * n + 100]) for n in range(3)]
    contents = []
    for name in ("one", "other"):
        plan = make_plan(tmp_path / name, files, joins=4)
        for stage in STAGES:
            tasks = list(range(plan.tasks(stage)))
            # In another order, and each twice, as when a process was killed in between.
            for task in tasks if name == "one" else 2 * tasks[::-1]:
                run_task(plan, stage, task)
        contents.append(
            {
                file.relative_to(plan.output): file.read_bytes()
                for file in plan.output.rglob("*")
                if file.is_file()
            }
        )
    assert contents[0] == contents[1]
    assert len(contents[0]) > 20


def test_lines_stay_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"output": "x",   "instruction": "Name a bird.", "n": 1.50}\r',
        b"",
        b'{"instruction": "Name a fish.", "output": "\\u00e9 \xe2\x80\xa8 \xc2\x85"} ',
        "\u00a0\u2003".encode(),  # blank too
        b'{"instruction": "Count to three.", "output": "1 2 3", "score": 4, "meta": {"by": "me"}}',
        b'{"instruction": "Name a fish!", "output": "cod", "score": 0.5, "row": [1]}',
    ]
    plain, zipped = tmp_path / "a.b.jsonl", tmp_path / "a.c.jsonl.gz"
    plain.write_bytes(b"\n".join(lines))
    zipped.write_bytes(gzip.compress(b"\n".join(lines)))
    plan = make_plan(tmp_path, [plain, zipped], joins=2)
    run_all(plan)
    kept = [lines[0], lines[2], lines[4]]
    assert (plan.output / "a.b.jsonl").read_bytes() == b"".join(line + b"\n" for line in kept)
    nothing = (plan.output / "a.c.jsonl.gz").read_bytes()
    assert gzip.decompress(nothing) == b""
    assert nothing[4:8] == bytes(4)  # no time stamp
    dropped = [row for _, row in read_jsonl(plan.output / "dropped/a.b.jsonl")]
    assert dropped == [
        {
            "instruction": "Name a fish!",
            "input": "",
            "output": "cod",
            "meta": {"replaced": {"row": [1], "score": 0.5}},
            "reason": "duplicate",
            "row": "a.b.jsonl#4",
            "duplicate_of": "a.b.jsonl#2",
            "score": 1.0,
        }
    ]
    dropped = [row for _, row in read_jsonl(plan.output / "dropped/a.c.jsonl")]
    assert [row["duplicate_of"] for row in dropped] == [
        "a.b.jsonl#1", "a.b.jsonl#2", "a.b.jsonl#3", "a.b.jsonl#2"
    ]  # fmt: skip


def test_parquet_keeps_its_schema_its_codecs_and_its_groups(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "instruction": ["Name a bird.", "Name a bird!", "Count to three.", "Name a fish."],
            "output": ["Owl", "Emu", "1 2 3", "Cod"],
            "n": pyarrow.array([1, 2, None, 4], pyarrow.int16()),
            "tags": [["a"], [], None, ["b", "c"]],
        }
    ).replace_schema_metadata({"made by": "a test"})
    codecs = {"instruction": "zstd", "output": "none", "n": "gzip", "tags.list.element": "snappy"}
    parquet.write_table(table, tmp_path / "s.parquet", compression=codecs, row_group_size=2)
    # By its content, whatever its name.
    (tmp_path / "t.jsonl").write_bytes((tmp_path / "s.parquet").read_bytes())
    plan = make_plan(tmp_path, [tmp_path / "s.parquet", tmp_path / "t.jsonl"], joins=2)
    run_all(plan)
    table = parquet.read_table(tmp_path / "s.parquet")
    kept = parquet.read_table(plan.output / "s.parquet")
    assert kept.equals(table.take([0, 2, 3]), check_metadata=True)
    for result, sizes in (("s.parquet", [1, 2]), ("t.jsonl", [0, 0])):
        before = parquet.read_metadata(tmp_path / "s.parquet")
        after = parquet.read_metadata(plan.output / result)
        assert [after.row_group(n).num_rows for n in range(2)] == sizes
        for group in range(2):
            for column in range(4):
                assert (
                    after.row_group(group).column(column).compression
                    == before.row_group(group).column(column).compression
                )
        assert parquet.read_schema(plan.output / result).equals(table.schema, check_metadata=True)


GOOD = b'{"instruction": "a", "output": "b"}\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + b'{"instruction": "a"}\n', 's.jsonl:2: field "output" is missing'),
        (GOOD + b'{"instruction', "s.jsonl:2: not a JSON line"),
        (
            GOOD + b'{"instruction": "n", "instances": '
            b'[{"input": "", "output": "x"}, {"input": "i", "output": "y"}]}\n',
            "s.jsonl:2: holds several examples",
        ),
        (b"[" + GOOD + b"]", "s.jsonl: is a JSON list"),
        (b"", "s.jsonl: holds no examples"),
    ],
)
def test_what_cannot_be_written_back_is_refused_at_once(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "s.jsonl").write_bytes(content)
    plan = make_plan(tmp_path, [tmp_path / "s.jsonl"], joins=1)
    with pytest.raises(DataError, match=message):
        run_task(plan, "count", 0)


def test_the_command_that_makes_a_shard_can_be_pasted(tmp_path: Path) -> None:
    shard = tmp_path / "my rows.jsonl"
    shard.write_bytes(b"[" + GOOD + b"]")
    with pytest.raises(DataError) as refused:
        run_task(make_plan(tmp_path, [shard], joins=1), "count", 0)
    words = shlex.split(refused.value.hint)
    assert words[:3] == ["alpaca", "dedup", str(shard)]
    assert words[5:7] == ["-o", "my rows.one.jsonl"]


def test_sets_to_compare_with_may_be_of_any_form(tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text(json.dumps([{"instruction": "Name a bird.", "output": "Owl"}], indent=2))
    seeds = tmp_path / "seeds.jsonl"
    instances = [{"input": "", "output": "x"}, {"input": "i", "output": "y"}]
    seeds.write_bytes(json_line({"id": "s", "instruction": "Sort them.", "instances": instances}))
    shard = write_texts(tmp_path / "s.jsonl", ["Sort them!", "Name a bird!", "Count to three."])
    plan = make_plan(tmp_path, [shard], [known, seeds], joins=2)
    run_all(plan)
    assert decided(plan) == (
        [["Count to three."]],
        [("s.jsonl#1", "against", f"{seeds}#1", 1.0), ("s.jsonl#2", "against", f"{known}#1", 1.0)],
    )


@pytest.mark.parametrize("until", ["count", "write"])
def test_a_file_that_changes_on_the_way_is_named(tmp_path: Path, until: str) -> None:
    shard = write_texts(tmp_path / "s.jsonl", ["a b c"])
    plan = make_plan(tmp_path, [shard], joins=1)
    run_all(plan, STAGES[: STAGES.index(until)])
    write_texts(shard, ["a b c", "d e f"])
    with pytest.raises(DataError, match=r"s\.jsonl: changed while it was deduplicated"):
        run_task(plan, until, 0)
    assert not (plan.output / "s.jsonl").exists()


def test_real_files(tmp_path: Path, real_data: Path) -> None:
    examples = read_examples([real_data / "code_alpaca_2k.json", real_data / "alpaca_en_demo.json"])
    texts = [example.instruction for example in examples]
    shards = [texts[:900], texts[900:2100], texts[2100:]]
    plan = make_plan(
        tmp_path,
        [write_texts(tmp_path / f"s{n}.jsonl", rows) for n, rows in enumerate(shards)],
        joins=4,
    )
    run_all(plan)
    assert decided(plan) == on_one_machine(plan, shards, [])
