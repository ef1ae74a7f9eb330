"""`alpaca stats` from the command line: figures that one can count by hand or another way, on small
sets and on real data; and that a run, a comparison, gates and a card go with them."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console
from rouge_score import rouge_scorer

from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Report, report_from, schema
from alpaca_cli.stages.stats import measure
from tests.processes import run

FILES = ("alpaca_en_demo.json", "alpaca_zh_demo.json", "code_alpaca_2k.json")


def report_on(examples: list[Example], **stats: Any) -> Report:
    progress = Progress(Console(file=StringIO()), quiet=True)
    recipe = Recipe.model_validate({"stats": stats})
    return measure(examples, recipe, progress, source="test")


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def clean_rows(count: int) -> list[dict[str, str]]:
    """Examples that no gate has anything against, except that there are few."""
    things = ("river", "lamp", "novel", "garden", "engine", "window", "planet", "bread")
    verbs = ("Describe", "Draw", "Compare", "Explain", "Sketch", "Praise", "Count", "Repair")
    return [
        {
            "instruction": f"{verbs[n % 8]} the {things[(n // 8) % 8]} of house {n}.",
            "output": f"House {n} has one {things[n % 8]}; number {n * n} is painted on it.",
        }
        for n in range(count)
    ]


def test_counts_of_a_small_set() -> None:
    report = report_on(
        [
            Example("Write a poem about rain.", "", "Drip drop."),
            Example("Write a poem about snow.", "", "White and cold."),
            Example("Sort the words.", "b a", "a b", meta={"family": "sort"}),
            Example("Sort the words.", "b a", "a b", meta={"family": "sort"}),
        ]
    )
    assert (report.examples, report.with_input, report.with_input_share) == (4, 2, 0.5)
    assert report.lengths["instruction"].words.max == 5
    assert report.lengths["input"].words.mean == 2
    verbs = {verb.verb: (verb.count, verb.objects[0].object) for verb in report.openings.verbs}
    assert verbs == {"write": (2, "poem"), "sort": (2, "words")}
    assert {name: found.count for name, found in report.duplicates.items()} == {
        "rows": 1, "instructions": 1, "outputs": 1,
    }  # fmt: skip
    assert report.neighbours.scores is not None
    assert (report.neighbours.scores.max, report.neighbours.above) == (1, 4)
    assert report.neighbours.scores.min == pytest.approx(0.8)
    assert report.neighbours.nearest[0].note == "1.000 with row 4: Sort the words."
    assert report.lint["duplicate-instruction"].rows[0].row == 4
    assert report.findings.rows == 2, "one near-duplicate, one duplicate"
    assert report.groups["family"]["sort"].count == 2
    assert (report.tokens, report.seeds, report.contamination, report.provenance) == (None,) * 4
    assert any("tokens not counted" in note for note in report.notes)


def test_the_sample_of_neighbours_is_the_same_every_time() -> None:
    examples = [Example(f"Add {n} and {n * n}.", "", str(n + n * n)) for n in range(60)]
    first, second = (report_on(examples, neighbours=20).neighbours for _ in range(2))
    assert first == second
    assert first.measured == 20
    assert report_on(examples, neighbours=0).neighbours.scores is None


@pytest.mark.parametrize("name", FILES)
def test_figures_of_real_data_counted_another_way(
    name: str, tmp_path: Path, real_data: Path
) -> None:
    """Against plain Python on the rows, and rouge-score on a few of them."""
    done = run("stats", real_data / name, "--json", cwd=tmp_path)
    report = report_from(json.loads(done.stdout))
    rows = json.loads((real_data / name).read_text("utf-8"))
    assert report.examples == len(rows)
    assert report.with_input == sum(bool(row.get("input", "").strip()) for row in rows)
    for field, found in report.lengths.items():
        texts = [row[field] for row in rows if row.get(field, "").strip()]
        characters = [len(text) for text in texts]
        assert found.characters.mean == pytest.approx(statistics.fmean(characters), abs=1e-5)
        assert found.characters.max == max(characters)
        assert found.characters.median == statistics.median_low(characters)
        if "zh" not in name:
            counts = [len(re.findall(r"[a-z0-9]+", text.lower())) for text in texts
                      if text.isascii()]  # fmt: skip
            assert found.words.count >= len(counts)
            if all(text.isascii() for text in texts):
                assert found.words.mean == pytest.approx(statistics.fmean(counts), abs=1e-5)
    whole = Counter((row["instruction"], row.get("input", ""), row["output"]) for row in rows)
    assert report.duplicates["rows"].count == len(rows) - len(whole)
    instructions = Counter(row["instruction"] for row in rows)
    assert report.duplicates["instructions"].count == len(rows) - len(instructions)
    assert sum(found.count for found in report.languages.instruction.values()) == len(rows)
    assert sum(found.count for found in report.task_types.values()) == len(rows)
    if "zh" in name:
        assert report.languages.instruction["zh"].share > 0.9
        assert report.openings.verbs[0].verb == "生成"
        return
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    asked = [row["instruction"] for row in rows]
    for shown in report.neighbours.nearest[:2]:
        mine = asked[shown.row - 1]
        best = max(
            scorer.score(mine, other)["rougeL"].fmeasure
            for place, other in enumerate(asked)
            if place != shown.row - 1
        )
        assert shown.note.startswith(f"{best:.3f} with row")


def test_the_report_keeps_to_its_schema(tmp_path: Path) -> None:
    printed = json.loads(run("stats", "--schema", cwd=tmp_path).stdout)
    assert printed == schema()
    lint = printed["$defs"]["LintRule"]["properties"]["share"]
    assert lint["type"] == "number"
    assert printed["properties"]["task_types"]["description"]
    data = write(tmp_path / "data.jsonl", clean_rows(20))
    report = json.loads(run("stats", data, "--json", cwd=tmp_path).stdout)
    assert set(report) == set(printed["properties"])
    with pytest.raises(ValueError, match="surprise"):
        report_from(report | {"surprise": 1})


def test_english_data_on_the_terminal(tmp_path: Path, real_data: Path) -> None:
    done = run("stats", real_data / "alpaca_en_demo.json", "-o", "report.html", cwd=tmp_path)
    assert "999 examples, 41% with an input" in done.stdout
    assert "generate" in done.stdout
    assert "languages of instructions: en 9" in done.stdout
    assert "exact duplicates: 14 rows" in done.stdout
    assert "report: report.html" in done.stdout
    page = (tmp_path / "report.html").read_text("utf-8")
    assert page.startswith("<!doctype html>")
    assert len(page.encode()) < 5_000_000


def test_tokens_are_counted_by_a_tokenizer_file(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["[UNK]", "Response", ":"]
    tokenizer = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    data = write(tmp_path / "data.jsonl", [{"instruction": "Say yes twice.", "output": "yes yes"}])
    flags = ["--set", f"stats.tokenizer={tmp_path}", "--set", "train.max_length=20"]
    report = json.loads(run("stats", data, *flags, "--json", cwd=tmp_path).stdout)
    # The template's two sentences, "### Instruction:", the instruction, "### Response:".
    prompt = 9 + 9 + 3 + 4 + 3
    assert report["tokens"]["lengths"]["total"] == prompt + 2 + 1
    assert (report["tokens"]["over"], report["tokens"]["over_share"]) == (1, 1)
    assert report["lengths"]["output"]["tokens"]["total"] == 2
    done = run("stats", data, "--set", "stats.tokenizer=none.json", cwd=tmp_path, code=3)
    assert "stats.tokenizer: none.json: no such file" in done.stderr


def test_in_a_run_the_funnel_and_the_seeds_are_shown(tmp_path: Path) -> None:
    assert "no examples in this run" in run("stats", cwd=tmp_path, code=3).stderr
    sets = ["--set", "generate.target=60"]
    run("generate", "--recipe", "quickstart", *sets, cwd=tmp_path)
    run("dedup", "--recipe", "quickstart", *sets, cwd=tmp_path)
    command = ["stats", "--recipe", "quickstart", *sets]
    report = report_from(json.loads(run(*command, "--json", cwd=tmp_path).stdout))
    folder = tmp_path / "runs/quickstart"
    kept, rejected = (folder / "generate/kept.jsonl", folder / "generate/rejected.jsonl")
    candidates = sum(len(path.read_text().splitlines()) for path in (kept, rejected))
    assert report.provenance is not None
    assert report.provenance.funnel is not None
    assert report.provenance.funnel.candidates == candidates
    assert report.provenance.funnel.generated == 60
    assert report.provenance.funnel.kept == report.examples
    assert report.seeds is not None
    assert report.seeds.measured == report.examples
    assert json.loads((folder / "stats/report.json").read_text())["examples"] == report.examples
    assert "<html" in (folder / "stats/report.html").read_text("utf-8")
    shown = run(*command, cwd=tmp_path)
    assert f"{candidates} candidates → 60 kept → {report.examples} after dedup" in shown.stdout
    assert "up to date" in shown.stderr
    assert "next: alpaca train" in shown.stderr
    recipe = (folder / "recipe.yaml").read_bytes()
    assert "up to date" in run("stats", "--run", folder, cwd=tmp_path).stderr
    assert (folder / "recipe.yaml").read_bytes() == recipe
    again = run(*command, "--set", "stats.top=3", cwd=tmp_path, code=2)
    assert "stats.top: was 20, now 3" in again.stderr


def test_evaluation_tasks_that_were_trained_on_are_found(tmp_path: Path) -> None:
    rows = clean_rows(30)
    question = "Explain in two sentences why the sky above the sea looks blue at noon"
    data = write(tmp_path / "d.jsonl", [*rows, {"instruction": question, "output": "It scatters."}])
    asked = write(tmp_path / "e.jsonl", [{"instruction": question, "output": ""}])
    flags = ["--set", f"stats.contamination=[{asked}]"]
    done = run("stats", data, *flags, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)["contamination"]
    assert (found["found"]["count"], found["questions"]) == (1, 1)
    assert found["found"]["rows"][0]["row"] == 31
    assert json.loads(run("stats", data, "--json", cwd=tmp_path).stdout)["contamination"] is None


def test_gates_hold_or_end_in_5(tmp_path: Path) -> None:
    rows = clean_rows(40)
    good = write(tmp_path / "good.jsonl", rows)
    bad = write(tmp_path / "bad.jsonl", [*rows, *({**rows[0], "output": ""} for _ in range(10))])
    gates = tmp_path / "gates.yaml"
    gates.write_text(
        "examples: {min: 40}\n"
        'lint.empty-output.share: {max: 0.05, why: "an empty answer teaches silence"}\n'
    )
    done = run("stats", good, "--check", gates, "--junit", "j.xml", cwd=tmp_path)
    assert "all gates passed" in done.stdout
    assert ElementTree.parse(tmp_path / "j.xml").getroot().find(".//failure") is None
    flags = ["--check", gates, "--junit", "j.xml", "--markdown", "m.md", "--json"]
    done = run("stats", bad, *flags, cwd=tmp_path, code=5)
    verdict = json.loads(done.stdout)["check"]
    assert [gate["passed"] for gate in verdict["gates"]] == [True, False]
    assert verdict["gates"][1]["value"] == 0.2
    assert verdict["gates"][1]["rows"][0]["row"] == 41
    assert "1 of 2 gates failed: lint.empty-output.share" in done.stderr
    failure = ElementTree.parse(tmp_path / "j.xml").getroot().find(".//failure")
    assert failure is not None
    assert "teaches silence" in (failure.get("message") or "") + (failure.text or "")
    assert "lint.empty-output.share" in (tmp_path / "m.md").read_text()


def test_a_wrong_gate_is_told_before_anything_is_measured(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", clean_rows(5))
    gates = tmp_path / "gates.yaml"
    gates.write_text("examples: {min: 1}\nneighbours.above_shar: {max: 0.1}\n")
    done = run("stats", data, "--check", gates, cwd=tmp_path, code=2)
    assert "gates.yaml:2" in done.stderr
    assert 'neighbours.above_shar: no figure "above_shar"' in done.stderr
    assert 'did you mean "above_share"' in done.stderr
    assert "checking examples" not in done.stderr
    assert (
        "--junit needs --check" in run("stats", data, "--junit", "x", cwd=tmp_path, code=2).stderr
    )


def test_what_moved_between_two_sets(tmp_path: Path) -> None:
    rows = clean_rows(400)
    longer = [{**row, "output": row["output"] + " And more." * 20} for row in rows]
    one, other = write(tmp_path / "one.jsonl", rows), write(tmp_path / "two.jsonl", longer)
    report = json.loads(run("stats", other, "--against", one, "--json", cwd=tmp_path).stdout)
    changes = {change["figure"]: change for change in report["against"]["changes"]}
    moved = changes["lengths.output.words.mean"]
    assert moved["moved"]
    assert moved["difference"] == pytest.approx(40)
    assert not changes["lengths.instruction.words.mean"]["moved"]
    (tmp_path / "base.json").write_text(run("stats", one, "--json", cwd=tmp_path).stdout)
    stored = run("stats", other, "--against", "base.json", "--json", cwd=tmp_path)
    assert json.loads(stored.stdout)["against"]["changes"] == report["against"]["changes"]
    shown = run("stats", other, "--against", one, cwd=tmp_path).stdout
    assert "lengths.output.words.mean" in shown
    (tmp_path / "old.json").write_text('{"version": 0}')
    old = run("stats", other, "--against", "old.json", cwd=tmp_path, code=3)
    assert "a report of version 0" in old.stderr


def test_a_card_and_the_pictures(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", clean_rows(50))
    run("stats", data, "--card", "README.md", "--figures", "figures", cwd=tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\n")
    assert "license:" not in card.split("---")[1]
    run("stats", data, "--card", "README.md", "--license", "cc-by-4.0", cwd=tmp_path)
    assert "license: cc-by-4.0" in (tmp_path / "README.md").read_text()
    made = {path.suffix for path in (tmp_path / "figures").iterdir()}
    assert made == {".png", ".svg"}
    no_folder = run("stats", data, "--figures", "README.md", cwd=tmp_path, code=2)
    assert "cannot write" in no_folder.stderr


@pytest.mark.parametrize("flag", ["-o", "--card", "--figures"])
def test_what_is_read_is_not_overwritten(flag: str, tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", clean_rows(5))
    before = data.read_bytes()
    assert run("stats", data, flag, data, cwd=tmp_path, code=2).stderr
    other = write(tmp_path / "other.jsonl", clean_rows(5))
    searched = ("--set", f"stats.contamination=[{data}]")
    assert run("stats", other, *searched, flag, data, cwd=tmp_path, code=2).stderr
    (tmp_path / "r/dedup").mkdir(parents=True)
    (tmp_path / "r/dedup/kept.jsonl").symlink_to(data)
    kept = "r/dedup/kept.jsonl"
    assert run("stats", "--run", "r", flag, kept, cwd=tmp_path, code=2).stderr
    assert data.read_bytes() == before


def test_two_outputs_do_not_share_a_file(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", clean_rows(5))
    done = run("stats", data, "-o", "x", "--card", "./x", cwd=tmp_path, code=2)
    assert "--card x: another output goes there" in done.stderr


def test_browsing_needs_a_terminal(tmp_path: Path) -> None:
    data = write(tmp_path / "data.jsonl", clean_rows(5))
    done = run("stats", data, "--browse", cwd=tmp_path, code=2)
    assert "--browse needs a terminal" in done.stderr
