"""Near-duplicates are dropped exactly as rouge-score would; each names its survivor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from rouge_score import rouge_scorer, tokenizers

from alpaca_cli.core.files import read_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import Dropped, find_duplicates
from alpaca_cli.data.formats import read_examples
from tests.processes import run

Decisions = tuple[list[int], list[tuple[int, int, float]]]


def quiet() -> Progress:
    return Progress(Console(file=StringIO(), width=200))


def brute_force(texts: Sequence[str], threshold: float) -> Decisions:
    """Greedy, first one stays, by rouge-score's own scorer on every pair."""
    tokenizer = tokenizers.DefaultTokenizer(use_stemmer=False)
    tokens = [tokenizer.tokenize(text) for text in texts]
    kept: list[int] = []
    dropped = []
    for row, new in enumerate(tokens):
        scores = [rouge_scorer._score_lcs(new, tokens[old]).fmeasure for old in kept]
        best = max(scores, default=0)
        if best > threshold:
            dropped.append((row, kept[scores.index(best)], best))
        else:
            kept.append(row)
    return kept, dropped


def decisions(examples: Sequence[Example], **settings: object) -> Decisions:
    outcome = find_duplicates(examples, Dedup.model_validate(settings), quiet())
    return outcome.kept, [(found.row, found.other, found.score) for found in outcome.dropped]


def real_examples(folder: Path) -> list[Example]:
    return read_examples([folder / "code_alpaca_2k.json", folder / "alpaca_en_demo.json"])


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_decisions_are_those_of_rouge_score(real_data: Path, threshold: float) -> None:
    # Three slices, so that the exact duplicates inside alpaca_en_demo are among them.
    examples = real_examples(real_data)
    examples = [*examples[:150], *examples[2017:2167], *examples[2516:2616]]
    expected = brute_force([example.instruction for example in examples], threshold)
    assert decisions(examples, threshold=threshold) == expected
    assert expected[1]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_decisions_on_whole_files_are_those_of_rouge_score(real_data: Path) -> None:
    examples = real_examples(real_data)
    expected = brute_force([example.instruction for example in examples], 0.7)
    assert decisions(examples) == expected


def test_the_first_stays_and_only_kept_ones_drop_others() -> None:
    rows = [
        Example("a b c d e f g h i j"),
        Example("a b c d e f g h x y"),  # 0.8 with the first: dropped
        Example("a b c d e f q r x y"),  # 0.8 with the dropped one, 0.6 with the first: kept
        Example("a b c d e f g h i j"),
    ]
    outcome = find_duplicates(rows, Dedup(), quiet())
    assert outcome.kept == [0, 2]
    assert outcome.dropped == [
        Dropped(1, "duplicate", 0, 0.8000000000000002, False),
        Dropped(3, "duplicate", 0, 1.0, True),
    ]


@pytest.mark.parametrize(
    ("key", "kept"),
    [("instruction", [0, 3]), ("instruction+input", [0, 1, 2, 3]), ("output", [0, 2])],
)
def test_keys(key: str, kept: list[int]) -> None:
    rows = [
        Example("Sort the words.", "cherry apple banana", "apple banana cherry"),
        Example("Sort the words.", "banana apple cherry and four more", "apple banana cherry"),
        Example("Sort the words.", "zebra yak ox", "ox yak zebra"),
        Example("Put them in alphabetical order.", "cherry banana apple", "apple banana cherry"),
    ]
    assert decisions(rows, key=key)[0] == kept


def test_other_scripts_need_the_unicode_tokenizer() -> None:
    rows = [Example("写一首关于春天的诗"), Example("写一首关于秋天的诗"), Example("什么是光合作用")]
    console = Console(file=StringIO(), width=200)
    assert find_duplicates(rows, Dedup(), Progress(console)).kept == [0, 1, 2]
    assert isinstance(console.file, StringIO)
    assert "3 of 3 rows have no words for the rouge tokenizer" in console.file.getvalue()
    assert decisions(rows, tokenizer="unicode")[0] == [0, 2]


def test_files_from_the_command_line(tmp_path: Path, real_data: Path) -> None:
    files = [real_data / "code_alpaca_2k.json", real_data / "alpaca_en_demo.json"]
    done = run("dedup", *files, "-o", "out.json", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["read"] == 3016 == report["kept"] + report["dropped"]
    assert report["output"] == "out.json"
    kept = json.loads((tmp_path / "out.json").read_text())
    dropped = [row for _, row in read_jsonl(tmp_path / "out.dropped.jsonl")]
    assert (len(kept), len(dropped)) == (report["kept"], report["dropped"])
    assert sum(row["score"] == 1.0 for row in dropped) >= report["exact"] > 0
    places = {f"{file}#{row}": example for file in files
              for row, example in enumerate(read_examples([file]), 1)}  # fmt: skip
    for row in dropped:
        survivor = places[row["duplicate_of"]]  # rows of these files have no ids
        assert row["score"] > 0.7
        assert survivor.instruction in {one["instruction"] for one in kept}


def test_nothing_dropped_leaves_no_dropped_file(tmp_path: Path) -> None:
    source = tmp_path / "one.jsonl"
    source.write_text('{"id": "a", "instruction": "Name a bird.", "output": "Owl", "by": "me"}\n')
    run("dedup", source, "-o", "out.jsonl", cwd=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "out.jsonl"]
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row == {
        "id": "a",
        "instruction": "Name a bird.",
        "input": "",
        "output": "Owl",
        "by": "me",
    }


def test_an_input_is_never_overwritten(tmp_path: Path) -> None:
    source = tmp_path / "one.jsonl"
    source.write_text('{"instruction": "Name a bird.", "output": "Owl"}\n')
    before = source.read_bytes()
    done = run("dedup", "one.jsonl", "-o", "./one.jsonl", cwd=tmp_path, code=2)
    assert "is one of the inputs" in done.stderr
    assert source.read_bytes() == before


def test_in_a_run(tmp_path: Path) -> None:
    generated = tmp_path / "runs/run/generate/kept.jsonl"
    generated.parent.mkdir(parents=True)
    rows = [
        {"id": "g1", "instruction": "Name a large bird.", "input": "", "output": "Ostrich"},
        {"id": "g2", "instruction": "Name a very large bird.", "input": "", "output": "Emu"},
        {"id": "g3", "instruction": "Count to three.", "input": "", "output": "1 2 3"},
    ]
    generated.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = json.loads(run("dedup", "--json", cwd=tmp_path).stdout)
    assert (report["read"], report["kept"], report["dropped"]) == (3, 2, 1)
    stage = tmp_path / "runs/run/dedup"
    assert [row["id"] for _, row in read_jsonl(stage / "kept.jsonl")] == ["g1", "g3"]
    assert [row for _, row in read_jsonl(stage / "dropped.jsonl")] == [
        {
            **rows[1],
            "reason": "duplicate",
            "row": "g2",
            "duplicate_of": "g1",
            "score": 0.888888888888889,
        }
    ]
    assert "up to date" in run("dedup", cwd=tmp_path).stderr
    done = run("dedup", "--threshold", "0.95", cwd=tmp_path, code=2)
    assert "threshold: was 0.7, now 0.95" in done.stderr
    again = run("dedup", "--threshold", "0.95", "--fresh", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["kept"] == 3
