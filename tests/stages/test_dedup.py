"""The dedup command: what it reads, writes and says; which examples stay is decided elsewhere."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.files import read_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.data.corpus import read_corpus
from alpaca_cli.data.duplicates import find_duplicates
from alpaca_cli.data.formats import read_examples
from alpaca_cli.stages.dedup import Report, check, dedupe_files
from alpaca_cli.stages.dedup import run as dedup_run
from tests.processes import kill_when, run, start

BIRD, BIG_BIRD, COUNT = "Name a large bird.", "Name a very large bird.", "Count to three."
BIRDS = 0.888888888888889  # ROUGE-L F1 of the two


def quiet() -> Progress:
    return Progress(Console(file=StringIO(), width=200))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"output": "Owl"} | dict(row)) + "\n" for row in rows))
    return path


def rows_of(path: Path) -> list[Any]:
    return [row for _, row in read_jsonl(path)]


def dedupe(folder: Path, *names: str, output: str = "out.jsonl", **changes: Any) -> Report:
    """`dedupe_files` on files in a folder, which the results are written to."""
    files = [str(folder / name) for name in names]
    dedup = Dedup.model_validate(changes)
    return dedupe_files(files, dedup, quiet(), folder / output, clusters=folder / "groups.jsonl")


def test_real_files_from_the_command_line(tmp_path: Path, real_data: Path) -> None:
    files = [real_data / "code_alpaca_2k.json", real_data / "alpaca_en_demo.json"]
    options = ["--clusters", "groups.jsonl", "--verify", 30, "-o", "out.json"]
    done = run("dedup", *files, *options, cwd=tmp_path)
    assert "kept 2,980 of 3,016, dropped 36 (exact copies: 14)" in done.stdout
    assert "rouge-score decides the same for 30 rows" in done.stdout
    assert "next: alpaca stats out.json" in done.stderr

    places = {f"{file}#{row}": example for file in files
              for row, example in enumerate(read_examples([file]), 1)}  # fmt: skip
    kept = json.loads((tmp_path / "out.json").read_text())
    dropped = rows_of(tmp_path / "out.dropped.jsonl")
    assert (len(kept), len(dropped)) == (2980, 36)
    stay = {row["instruction"] for row in kept}
    for row in dropped:  # rows of these files have no ids
        assert row["score"] > 0.7
        assert places[row["row"]].instruction == row["instruction"]
        assert places[row["duplicate_of"]].instruction in stay
    groups = rows_of(tmp_path / "groups.jsonl")
    assert [group["size"] for group in groups] == sorted(
        (1 + len(group["dropped"]) for group in groups), reverse=True
    )
    assert sorted((group["survivor"], one["row"], one["score"]) for group in groups
                  for one in group["dropped"]) == sorted(
        (row["duplicate_of"], row["row"], row["score"]) for row in dropped)  # fmt: skip


def test_every_option_at_once(tmp_path: Path) -> None:
    question = "which of these two rivers is the longer one and by how much"
    write(tmp_path / "known.jsonl", [{"id": "k", "instruction": "Write a haiku about autumn."}])
    write(tmp_path / "eval.jsonl", [{"id": "e", "instruction": question}])
    data: list[dict[str, Any]] = [
        {"id": "a", "instruction": BIRD, "quality": 1},
        {"id": "b", "instruction": BIG_BIRD, "quality": 2},
        {"id": "c", "instruction": "Write a haiku about the autumn."},
        {"id": "d", "instruction": "Make up a quiz.", "output": f"First, {question}?"},
        {"id": "f", "instruction": COUNT, "quality": 0.5},
        {"id": "g", "instruction": "Name a very very large bird.", "quality": 3},
    ]
    write(tmp_path / "data.jsonl", data)
    bad = Example("Name a very very large bird.", "", "Owl")
    write(tmp_path / "review.jsonl", [{"key": bad.review_key(), "mark": "bad"}])
    done = run(
        "dedup", "data.jsonl", "--keep", "quality", "--against", "known.jsonl",
        "--decontaminate", "eval.jsonl", "--threshold", 0.8, "--key", "instruction",
        "--tokenizer", "unicode", "-o", "out.jsonl", "--clusters", "groups.jsonl",
        "--exclude", "review.jsonl", "--verify", 9, "--json", cwd=tmp_path,
    )  # fmt: skip
    report = json.loads(done.stdout)
    assert report.pop("memory") > 2**20
    assert report.pop("seconds") >= 0
    assert report["pairs"].pop("all") == 6 + 4
    assert all(0 < cost <= 10 for cost in report.pop("pairs").values())
    assert report == {
        "read": 6, "against_read": 1, "evaluation_read": 1, "kept": 2, "dropped": 4,
        "duplicates": 1, "against": 1, "contaminated": 1, "semantic": 0, "exact": 0,
        "without_words": 0,
        "threshold": 0.8, "key": "instruction", "tokenizer": "unicode", "keep": "quality",
        "groups": 2,
        "largest": [
            {"survivor": "b", "text": BIG_BIRD, "size": 2},
            {"survivor": "k", "text": "Write a haiku about autumn.", "size": 2},
        ],
        "verified": 4, "output": "out.jsonl", "dropped_output": "out.dropped.jsonl",
        "clusters": "groups.jsonl", "excluded": 1,
    }  # fmt: skip
    assert [row["id"] for row in rows_of(tmp_path / "out.jsonl")] == ["b", "f"]
    reasons: list[dict[str, Any]] = [
        {"reason": "duplicate", "row": "a", "duplicate_of": "b", "score": BIRDS},
        {"reason": "against", "row": "c", "duplicate_of": "k", "score": 0.9090909090909091},
        {"reason": "contaminated", "row": "d", "duplicate_of": "e", "score": 1.0},
        {"reason": "excluded", "row": "g", "duplicate_of": None, "score": None},
    ]
    gone = (data[row] for row in (0, 2, 3, 5))
    whole = [{"input": "", "output": "Owl"} | row | why
             for row, why in zip(gone, reasons, strict=True)]  # fmt: skip
    assert rows_of(tmp_path / "out.dropped.jsonl") == whole
    assert rows_of(tmp_path / "groups.jsonl") == [
        {"survivor": "b", "text": BIG_BIRD, "size": 2,
         "dropped": [{"row": "a", "text": BIRD, "score": BIRDS}]},
        {"survivor": "k", "text": "Write a haiku about autumn.", "size": 2,
         "dropped": [{"row": "c", "text": "Write a haiku about the autumn.",
                      "score": 0.9090909090909091}]},
    ]  # fmt: skip


def test_the_summary_names_reasons_and_groups(tmp_path: Path) -> None:
    write(tmp_path / "known.jsonl", [{"instruction": COUNT}])
    write(tmp_path / "data.jsonl", [{"instruction": text} for text in (BIRD, BIG_BIRD, BIRD)])
    done = run("dedup", "data.jsonl", "--against", "known.jsonl", cwd=tmp_path)
    assert "kept 1 of 3, dropped 2 (exact copies: 1)" in done.stdout
    assert "2 near-duplicates · 0 like one of 1 in --against" in done.stdout
    assert [line.split() for line in done.stdout.splitlines() if "data.jsonl:1" in line] == [
        ["3", *BIRD.split(), "data.jsonl:1"]
    ]
    assert "the same with -o FILE writes them" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "known.jsonl"]


def test_no_text_of_the_data_steers_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b]0;title\x07\x9b2J"
    row = {"id": f"{evil}1", "instruction": f"{evil}{BIRD}", "output": "Owl", "category": evil}
    write(tmp_path / "a.jsonl", [row, row | {"id": f"{evil}2"}])
    for command in ("dedup", "stats"):
        shown = run(command, "a.jsonl", cwd=tmp_path).stdout
        assert "]0;title" in shown
        assert not set(shown) & {"\x1b", "\x07", "\x9b"}
    done = run("dedup", "a.jsonl", "--keep", "category", cwd=tmp_path, code=3)
    assert "]0;title2J1: field" in done.stderr
    assert "\x1b" not in done.stderr


def test_rows_are_named_by_ids_of_their_own_else_by_their_place(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [
        {"id": 7, "instruction": BIRD},
        {"id": "twice", "instruction": BIG_BIRD},
        {"instruction": BIRD},
    ])  # fmt: skip
    write(tmp_path / "b.jsonl", [{"id": "twice", "instruction": COUNT},
                                 {"id": "once", "instruction": COUNT}])  # fmt: skip
    dedupe(tmp_path, "a.jsonl", "b.jsonl")
    dropped = rows_of(tmp_path / "out.dropped.jsonl")
    assert {row["row"]: row["duplicate_of"] for row in dropped} == {
        f"{tmp_path}/a.jsonl:2": "7",
        f"{tmp_path}/a.jsonl:3": "7",
        "once": f"{tmp_path}/b.jsonl:1",
    }


def test_rows_of_one_place_are_groups_of_their_own(tmp_path: Path) -> None:
    # Instances of one task without an id all have the place of the task.
    task = {"instruction": "Answer.", "instances": [{"input": word, "output": word * 3}
                                                    for word in ("owl", "emu")]}  # fmt: skip
    write(tmp_path / "a.jsonl", [task, task])
    dedupe(tmp_path, "a.jsonl", key="output")
    groups = rows_of(tmp_path / "groups.jsonl")
    assert [(group["text"], group["size"]) for group in groups] == [
        ("owlowlowl", 2),
        ("emuemuemu", 2),
    ]


def test_groups_of_most_rows_come_first(tmp_path: Path) -> None:
    texts = [BIRD, COUNT, BIG_BIRD, COUNT, COUNT, "Something else."]
    write(tmp_path / "a.jsonl", [{"instruction": text} for text in texts])
    report = dedupe(tmp_path, "a.jsonl")
    sizes = [(group["text"], group["size"]) for group in rows_of(tmp_path / "groups.jsonl")]
    assert sizes == [(COUNT, 3), (BIRD, 2)]
    assert [(group["text"], group["size"]) for group in report.largest] == sizes


def test_fields_that_a_reason_replaces_are_kept(tmp_path: Path) -> None:
    own = {"reason": "mine", "row": 3, "duplicate_of": None, "score": 0.1, "by": "me"}
    write(tmp_path / "a.jsonl", [{"instruction": BIRD, **own}, {"instruction": BIRD, **own}])
    dedupe(tmp_path, "a.jsonl")
    (row,) = rows_of(tmp_path / "out.dropped.jsonl")
    assert (row["reason"], row["score"], row["by"]) == ("duplicate", 1.0, "me")
    assert row["meta"] == {"replaced": {key: own[key] for key in own if key != "by"}}
    (kept,) = rows_of(tmp_path / "out.jsonl")
    assert {key: kept[key] for key in own} == own


def test_what_stays_is_written_as_it_was(tmp_path: Path) -> None:
    row = {"id": "a", "instruction": BIRD, "input": "", "output": "Owl", "by": "me"}
    write(tmp_path / "one.jsonl", [row])
    report = dedupe(tmp_path, "one.jsonl")
    assert report.dropped_output is None
    assert not (tmp_path / "out.dropped.jsonl").exists()
    assert json.dumps(rows_of(tmp_path / "out.jsonl")[0]) == json.dumps(row)


def test_dropped_rows_of_an_earlier_command_do_not_stay(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"instruction": BIRD}, {"instruction": BIG_BIRD}])
    dedupe(tmp_path, "a.jsonl")
    assert len(rows_of(tmp_path / "out.dropped.jsonl")) == 1
    dedupe(tmp_path, "a.jsonl", threshold=0.9)
    assert rows_of(tmp_path / "out.dropped.jsonl") == []


@pytest.mark.parametrize("name", ["out.json.gz", "out.jsonl.gz", "out.parquet"])
def test_other_formats(tmp_path: Path, name: str) -> None:
    write(tmp_path / "a.jsonl", [{"instruction": text} for text in (BIRD, BIG_BIRD, COUNT)])
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    report = dedupe(tmp_path, "a.jsonl.gz", output=name)
    written = read_examples([tmp_path / name])
    assert [example.instruction for example in written] == [BIRD, COUNT]
    assert report.dropped_output == str(tmp_path / "out.dropped.jsonl")
    assert rows_of(tmp_path / "out.dropped.jsonl")[0]["instruction"] == BIG_BIRD


def test_killed_while_it_writes_it_leaves_whole_files_or_none(tmp_path: Path) -> None:
    # 15 MB that gzip cannot make smaller fast: the kept rows are long in the writing.
    rng = random.Random(1)
    rows = [{"instruction": f"Task {n} of {n * n}", "output": rng.randbytes(5000).hex()}
            for n in range(1500)]  # fmt: skip
    write(tmp_path / "a.jsonl", [*rows, rows[0]])
    before = (tmp_path / "a.jsonl").read_bytes()
    arguments = ["dedup", "a.jsonl", "-o", "out.jsonl.gz", "--clusters", "groups.jsonl"]
    dropped = tmp_path / "out.dropped.jsonl"
    kill_when(start(*arguments, cwd=tmp_path), dropped.exists)
    assert not (tmp_path / "out.jsonl.gz").exists()
    assert len(rows_of(dropped)) == len(rows_of(tmp_path / "groups.jsonl")) == 1
    assert (tmp_path / "a.jsonl").read_bytes() == before
    run(*arguments, cwd=tmp_path)
    assert len(read_examples([tmp_path / "out.jsonl.gz"])) == 1500


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    source = write(tmp_path / "one.jsonl", [{"instruction": BIRD}])
    (tmp_path / "link.jsonl").symlink_to(source)
    before = source.read_bytes()
    done = run("dedup", "one.jsonl", "-o", "./link.jsonl", cwd=tmp_path, code=2)
    assert "is one of the inputs" in done.stderr
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("output", "clusters", "message"),
    [
        ("a.json", None, r"-o \(dropped rows\) a.dropped.jsonl: is one of the inputs"),
        ("out.dropped.jsonl", "out.dropped.jsonl", "another output goes there"),
        ("out.json", "out.dropped.jsonl", "another output goes there"),
        ("known.jsonl", None, "-o known.jsonl: is one of the inputs"),
        (None, "eval.jsonl", "--clusters eval.jsonl: is one of the inputs"),
        ("folder.json", None, "-o folder.json: cannot be written"),
        ("known.jsonl/out.json", None, "-o known.jsonl/out.json: cannot be written"),
        (None, "groups.csv", "must end in .jsonl"),
        (".", None, "unknown output format"),
    ],
)
def test_outputs_are_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    output: str | None,
    clusters: str | None,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.dropped.jsonl", "known.jsonl", "eval.jsonl"):
        write(Path(name), [{"instruction": BIRD}])
    Path("folder.json").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    # "missing" is read after the refusal, if at all.
    files = ["a.dropped.jsonl", "missing.jsonl"]
    dedup = Dedup(against=["known.jsonl"], decontaminate=["eval.jsonl"])
    with pytest.raises(UsageError, match=message):
        dedupe_files(
            files,
            dedup,
            quiet(),
            None if output is None else Path(output),
            clusters=None if clusters is None else Path(clusters),
        )
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("changes", [{"against": ["./a.jsonl"]}, {"decontaminate": ["a.jsonl"]}])
def test_a_file_is_not_compared_with_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", [{"instruction": BIRD}])
    with pytest.raises(UsageError, match="is one of the files to deduplicate"):
        dedupe_files(["a.jsonl"], Dedup.model_validate(changes), quiet())


def test_what_rouge_score_decides_otherwise_is_named(tmp_path: Path) -> None:
    texts = [BIRD, BIG_BIRD, COUNT]
    write(
        tmp_path / "a.jsonl",
        [{"id": f"id{n}", "instruction": text} for n, text in enumerate(texts)],
    )
    corpus = read_corpus([str(tmp_path / "a.jsonl")], Dedup())
    right = find_duplicates([example for _, example in corpus.rows], Dedup(), quiet())
    assert check(corpus, right, Dedup(), quiet(), rows=9, seed=1) == 3
    assert check(corpus, right, Dedup(), quiet(), rows=2, seed=1) == 2
    false = replace(right, dropped=[replace(right.dropped[0], score=0.75)])
    with pytest.raises(GateFailed) as caught:
        check(corpus, false, Dedup(), quiet(), rows=9, seed=1)
    assert str(caught.value) == (
        "rouge-score decides otherwise for 1 of 3 rows:\n"
        f"  id1: goes for id0 at 0.75; rouge-score: goes for id0 at {BIRDS}"
    )
    false = replace(right, dropped=[], kept=[0, 1, 2])
    with pytest.raises(GateFailed, match=f"id1: stays; rouge-score: goes for id0 at {BIRDS}"):
        check(corpus, false, Dedup(), quiet(), rows=9, seed=1)


GENERATED = [
    {"id": "g1", "instruction": BIRD, "input": "", "output": "Ostrich"},
    {"id": "g2", "instruction": BIG_BIRD, "input": "", "output": "Emu"},
    {"id": "g3", "instruction": COUNT, "input": "", "output": "1 2 3"},
]


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """The dedup folder, not made yet, of a run with three generated examples."""
    generated = tmp_path / "runs/run/generate/kept.jsonl"
    generated.parent.mkdir(parents=True)
    write(generated, GENERATED)
    return tmp_path / "runs/run/dedup"


def test_in_a_run(tmp_path: Path, stage: Path) -> None:
    report = json.loads(run("dedup", "--json", cwd=tmp_path).stdout)
    assert (report["read"], report["kept"], report["dropped"]) == (3, 2, 1)
    assert rows_of(stage / "kept.jsonl") == [GENERATED[0], GENERATED[2]]
    why = {"reason": "duplicate", "row": "g2", "duplicate_of": "g1", "score": BIRDS}
    assert rows_of(stage / "dropped.jsonl") == [GENERATED[1] | why]
    assert [group["survivor"] for group in rows_of(stage / "clusters.jsonl")] == ["g1"]
    assert report["clusters"] == "runs/run/dedup/clusters.jsonl"
    assert "up to date" in run("dedup", cwd=tmp_path).stderr
    recipe = stage.with_name("recipe.yaml").read_text()
    done = run("dedup", "--threshold", "0.95", cwd=tmp_path, code=2)
    assert "threshold: was 0.7, now 0.95" in done.stderr
    assert stage.with_name("recipe.yaml").read_text() == recipe
    again = run("dedup", "--threshold", "0.95", "--fresh", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["kept"] == 3


def dedupe_run(stage: Path, verify: int = 0, **changes: Any) -> Report:
    recipe = Recipe.model_validate({"name": "run", "dedup": changes})
    return dedup_run(recipe, RunFolder(stage.parent), quiet(), verify=verify)


def test_files_to_compare_with_are_inputs_of_a_run(tmp_path: Path, stage: Path) -> None:
    known = write(tmp_path / "known.jsonl", [{"instruction": COUNT}])
    dedupe_run(stage, against=[str(known)])
    assert [row["id"] for row in rows_of(stage / "kept.jsonl")] == ["g1"]
    write(known, [{"instruction": "Something else."}])
    with pytest.raises(UsageError, match=r"dedup.against: .*known.jsonl: the file's content"):
        dedupe_run(stage, against=[str(known)])


def test_verify_notices_files_that_were_changed(tmp_path: Path, stage: Path) -> None:
    report = dedupe_run(stage)
    assert dedupe_run(stage, verify=2) == replace(report, verified=2)
    for name, old, new in (
        ("kept.jsonl", "Ostrich", "Penguin"),
        ("dropped.jsonl", "g1", "g3"),
        ("clusters.jsonl", "g1", "g3"),
    ):
        right = (stage / name).read_text()
        (stage / name).write_text(right.replace(old, new))
        assert dedupe_run(stage) == report  # the size is the same
        with pytest.raises(GateFailed, match=f"{name}:1: is not what dedup writes there today"):
            dedupe_run(stage, verify=2)
        (stage / name).write_text(right)
    (stage / "kept.jsonl").write_text((stage / "kept.jsonl").read_text().replace("1 2 3", "1,2,3"))
    done = run("dedup", "--verify", 2, cwd=tmp_path, code=5)
    assert "runs/run/dedup/kept.jsonl:2: is not what dedup writes there today" in done.stderr
