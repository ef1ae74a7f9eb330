"""Seeds are read whole, checked, and written with ids; unusable ones stop the stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpaca_cli.core.files import read_jsonl
from tests.processes import run

GOOD = {"instruction": "Name three primary colours.", "input": "", "output": "Red, blue, yellow."}
EMPTY = {"instruction": "Name a bird.", "input": "", "output": " "}


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.json"
    path.write_text(json.dumps([GOOD, GOOD | {"output": "Others."}]))
    return path


def test_the_self_instruct_seeds_load_whole(tmp_path: Path, real_data: Path) -> None:
    done = run("seed", real_data / "seed_tasks.jsonl", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert (report["tasks"], report["with_input"]) == (175, 125)
    assert (report["errors"], report["warnings"]) == (0, 2)
    pairs = [(found["id"], found["row"], found["other_row"]) for found in report["findings"]]
    assert pairs == [("seed_task_74", 75, 48), ("seed_task_113", 114, 78)]
    assert report["findings"][0]["place"].endswith("seed_tasks.jsonl:75")
    assert report["categories"] == {"category": {"not classification": 149, "classification": 26}}
    assert list(tmp_path.iterdir()) == []

    shown = run("seed", real_data / "seed_tasks.jsonl", cwd=tmp_path).stdout
    assert "175 tasks" in shown
    assert shown.count("near-duplicate-instruction") == 2
    assert "0.824" in shown
    assert "seed_task_47" in shown


def test_output_writes_all_tasks_in_one_format(tmp_path: Path, seeds: Path) -> None:
    more = tmp_path / "more.jsonl"
    more.write_text(json.dumps({"id": "m1", "note": "kept", **GOOD}))
    run("seed", seeds, more, "-o", "all.jsonl", cwd=tmp_path)
    rows = [row for _, row in read_jsonl(tmp_path / "all.jsonl")]
    assert len(rows) == 3
    assert rows[2] == {"id": "m1", **GOOD, "note": "kept"}


def test_an_empty_output_is_reported_and_ends_in_3(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(f"{json.dumps(GOOD)}\n\n{json.dumps(EMPTY)}\n")
    done = run("seed", bad, "-o", "out.json", "--json", cwd=tmp_path, code=3)
    report = json.loads(done.stdout)
    assert (report["errors"], report["output"]) == (1, None)
    assert f"{bad}:3: the output is empty" in done.stderr
    assert not (tmp_path / "out.json").exists()

    done = run("seed", "--set", f"seeds.source={bad}", cwd=tmp_path, code=3)
    assert "the output is empty" in done.stderr
    assert not (tmp_path / "runs/run/seed").exists()


def test_in_a_run_the_builtin_seeds_are_kept_with_ids(tmp_path: Path) -> None:
    first = json.loads(run("seed", "--json", cwd=tmp_path).stdout)
    rows = [row for _, row in read_jsonl(tmp_path / "runs/run/seed/kept.jsonl")]
    assert len(rows) == first["tasks"] >= 175
    assert len({row["id"] for row in rows}) == len(rows)
    again = run("seed", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == first
    shown = run("seed", cwd=tmp_path)
    assert "up to date" in shown.stderr
    assert "next: alpaca generate" in shown.stderr


def test_changed_seeds_are_named_and_fresh_redoes_them(tmp_path: Path, seeds: Path) -> None:
    flag = f"seeds.source={seeds}"
    run("seed", "--set", flag, cwd=tmp_path)
    seeds.write_text(json.dumps([GOOD]))
    done = run("seed", "--set", flag, cwd=tmp_path, code=2)
    assert "seeds: the file's content changed" in done.stderr
    run("seed", "--set", flag, "--fresh", cwd=tmp_path)
    stage = tmp_path / "runs/run/seed"
    assert len(list(read_jsonl(stage / "kept.jsonl"))) == 1
    assert len(list(read_jsonl(stage.with_name("seed.old-1") / "kept.jsonl"))) == 2


def test_output_without_files_is_refused(tmp_path: Path) -> None:
    assert "-o needs FILES" in run("seed", "-o", "x.json", cwd=tmp_path, code=2).stderr
