"""The report counts what is there, in any script, and is one file that needs nothing else."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.stats import Report, measure
from tests.processes import run

NASTY = "<script>alert('x')</script> & \"quoted\" <img src=http://example.com/x onerror=y>"


class Page(HTMLParser):
    """Collects what a browser would do with a page: its tags, its text, what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def report_on(examples: list[Example], html: Path | None = None, **stats: Any) -> Report:
    progress = Progress(Console(file=StringIO()), quiet=True)
    recipe = Recipe.model_validate({"stats": stats})
    return measure(examples, recipe, progress, source="test", html=html)


def test_counts_of_a_small_set() -> None:
    report = report_on(
        [
            Example("Write a poem about rain.", "", "Drip drop."),
            Example("Write a poem about snow.", "", "White and cold."),
            Example("Sort the words.", "b a", "a b", meta={"family": "sort"}),
            Example("Sort the words.", "b a", "a b", meta={"family": "sort"}),
        ]
    )
    assert (report.examples, report.with_input) == (4, 2)
    assert report.words["instruction"]["quantiles"]["max"] == 5
    assert report.words["input"]["quantiles"]["mean"] == 2
    assert report.openings["verbs"][0] == {"verb": "write", "count": 2, "objects": [["poem", 2]]}
    assert report.duplicates == {"rows": 1, "instructions": 1, "outputs": 1}
    assert report.similarity["quantiles"]["max"] == 1
    assert report.similarity["quantiles"]["min"] == pytest.approx(0.8)
    assert report.similarity["above"] == 4
    assert report.lint["duplicate-instruction"]["rows"][0]["row"] == 4
    assert report.groups == {"family": {"sort": 2}}
    assert report.tokens is None
    assert any("tokens not counted" in note for note in report.notes)


def test_the_sample_of_neighbours_is_the_same_every_time() -> None:
    examples = [Example(f"Add {n} and {n * n}.", "", str(n + n * n)) for n in range(60)]
    first, second = (report_on(examples, neighbours=20).similarity for _ in range(2))
    assert first == second
    assert first["measured"] == 20
    assert sum(found["count"] for found in first["histogram"]) == 20
    assert report_on(examples, neighbours=0).similarity["measured"] == 0


def test_chinese_data_is_measured_in_its_own_words(tmp_path: Path, real_data: Path) -> None:
    path = tmp_path / "zh.html"
    done = run("stats", real_data / "alpaca_zh_demo.json", "-o", path, "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["examples"] == 1000
    assert 10 <= report["words"]["instruction"]["quantiles"]["median"] <= 20
    assert report["openings"]["verbs"][0]["verb"] == "生成"
    assert 0.3 < report["similarity"]["quantiles"]["median"] < 0.5
    assert "生成" in path.read_text("utf-8")


def test_english_data_from_the_command_line(tmp_path: Path, real_data: Path) -> None:
    done = run("stats", real_data / "alpaca_en_demo.json", "-o", "report.html", cwd=tmp_path)
    assert "999 examples, 41% with an input" in done.stdout
    assert "generate" in done.stdout
    assert "exact duplicates: 14 rows" in done.stdout
    assert "report: report.html" in done.stdout
    page = Page((tmp_path / "report.html").read_text("utf-8"))
    assert page.tags.count("svg") > 10
    assert "Opening verbs and their objects" in page.texts
    assert "999" in page.texts


def test_the_page_loads_nothing_and_escapes_everything(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    meta = {"category": NASTY}
    report_on(
        [Example(NASTY, "N/A", "", id=NASTY, meta=meta), Example(NASTY, "N/A", "")], html=path
    )
    text = path.read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.loads == []
    assert page.open == []
    assert NASTY in page.texts
    assert "default-src 'none'" in text
    assert "prefers-color-scheme: dark" in text


def test_tokens_are_counted_by_a_tokenizer_file(tmp_path: Path, real_data: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "Response", ":"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "Say yes twice.", "output": "yes yes"}\n')
    flags = ["--set", f"stats.tokenizer={tmp_path}", "--set", "train.max_length=20"]
    tokens = json.loads(run("stats", data, *flags, "--json", cwd=tmp_path).stdout)["tokens"]
    # The template's two sentences, "### Instruction:", the instruction, "### Response:".
    prompt = 9 + 9 + 3 + 4 + 3
    assert tokens["total"] == prompt + 2 + 1
    assert (tokens["over"], tokens["max_length"]) == (1, 20)
    done = run("stats", data, "--set", "stats.tokenizer=none.json", cwd=tmp_path, code=3)
    assert "stats.tokenizer: none.json: no such file" in done.stderr


def test_in_a_run_the_funnel_is_shown(tmp_path: Path) -> None:
    def write(name: str, *rows: dict[str, Any]) -> None:
        path = tmp_path / "runs/run" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    assert "no examples in this run" in run("stats", cwd=tmp_path, code=3).stderr
    kept = [
        {"instruction": text, "output": "x y"} for text in ("Name a bird.", "Count to ten slowly.")
    ]
    write("generate/kept.jsonl", *kept, kept[0])
    write("generate/rejected.jsonl", {"reason": "novelty"}, {"reason": "length"},
          {"reason": "novelty"})  # fmt: skip
    write("dedup/kept.jsonl", *kept)
    write("dedup/dropped.jsonl", {**kept[0], "reason": "duplicate"})
    report = json.loads(run("stats", "--json", cwd=tmp_path).stdout)
    assert report["examples"] == 2
    assert report["funnel"] == {
        "candidates": 6,
        "rejected": {"novelty": 2, "length": 1},
        "generated": 3,
        "dropped": {"duplicate": 1},
        "kept": 2,
    }
    stage = tmp_path / "runs/run/stats"
    assert json.loads((stage / "report.json").read_text()) == report
    page = (stage / "report.html").read_text("utf-8")
    assert "rejected: novelty" in page
    assert "dropped: duplicate" in page
    shown = run("stats", cwd=tmp_path)
    assert "6 candidates → 3 kept → 2 after dedup" in shown.stdout
    assert "up to date" in shown.stderr
    assert "next: alpaca train" in shown.stderr
