"""What `generate` tells without asking for more: --estimate, --probe and --explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.data.rouge import score, tokenize
from alpaca_cli.data.seeds import load_seeds
from tests import processes
from tests.servers import Fault, TeacherServer

PRICE = "{input: 1.0, output: 2.0}"


def arguments(server: TeacherServer, folder: Path, *more: str, target: int = 60) -> list[str]:
    sets = {
        "target": target,
        "tasks_per_request": 5,
        "concurrency": 4,
        "teacher.kind": "openai",
        "teacher.model": "m",
        "teacher.base_url": server.url,
        "teacher.price": PRICE,
    }
    flags = [f"--set=generate.{key}={value}" for key, value in sets.items()]
    return ["generate", f"--run={folder}", *flags, *more]


def told(*command: str, cwd: Path, code: int = 0) -> dict[str, Any]:
    done = processes.run(*command, "--json", cwd=cwd, code=code)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "generate" / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_estimate_is_a_guess_before_and_measured_after(tmp_path: Path) -> None:
    with TeacherServer(caching=True) as server:
        command = arguments(server, tmp_path / "run", target=140)
        guess = told(*command, "--estimate", cwd=tmp_path)
        assert server.asked == []
        assert guess["measured_on"] == 0
        assert guess["requests"] == 40
        assert "70% of the tasks" in guess["assumptions"]
        assert guess["cost"] == (guess["input_tokens"] + 2 * guess["output_tokens"]) / 1e6
        assert not (tmp_path / "run" / "generate").exists()
        probed = told(*command, "--probe", "6", cwd=tmp_path)
        assert len(server.asked) == 6
        assert probed["measured_on"] == 6
        assert probed["assumptions"] == ""
        assert probed["kept"] == pytest.approx(6 * probed["kept_per_request"])
        bill = float(server.billed({"input": 1.0, "output": 2.0}))
        assert probed["spent"] == pytest.approx(bill)
        assert probed["cost_per_kept"] == pytest.approx(bill / probed["kept"], rel=0.02)
        assert probed["seconds"] > 0
        rest = told(*command, cwd=tmp_path)
        assert rest["kept"] == 140
        asked = len(server.asked) - 6
        assert asked == pytest.approx(probed["requests"], rel=0.4), "the probe foretold it"


def test_an_estimate_leaves_a_running_generation_alone(tmp_path: Path) -> None:
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 6 else None) as server:
        command = arguments(server, tmp_path / "run")
        journal = tmp_path / "run" / "generate" / "journal.jsonl"
        process = processes.start(*command, cwd=tmp_path)
        processes.wait_until(
            process,
            lambda: len(server.asked) == 10 and journal.read_bytes().count(b'"kind":"reply"') == 6,
        )
        with journal.open("ab") as file:
            file.write(b'{"n": 99, "kin')  # the other process is in the middle of a row
        before = journal.read_bytes()
        assert told(*command, "--estimate", cwd=tmp_path)["measured_on"] == 6
        assert journal.read_bytes() == before
        process.kill()
        process.communicate()


def test_explain_tells_the_story_of_every_candidate(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with TeacherServer(mistakes=0.1) as server:
        command = arguments(server, folder)
        processes.run(*command, cwd=tmp_path)
        asked = len(server.asked)
        kept, rejected = rows(folder, "kept.jsonl"), rows(folder, "rejected.jsonl")
        near = next(row for row in rejected if row["reason"] == "near_duplicate")
        cut = next(row for row in rejected if row["reason"] == "truncated")
        for row in (kept[-1], near, cut):
            story = told(*command, "--explain", row["id"], cwd=tmp_path)
            assert story["example"] == row
            assert story["verdict"] == row.get("reason", "kept")
            assert [shown["id"] for shown in story["demonstrations"]] == row["meta"][
                "demonstrations"
            ]
            assert all(shown["instruction"] for shown in story["demonstrations"])
            assert row["instruction"][:10] in story["reply"]
        assert len(server.asked) == asked
        story = told(*command, "--explain", near["id"], cwd=tmp_path)
        assert story["nearest"]["id"] == near["meta"]["nearest"]["id"]
        assert story["nearest"]["score"] == near["meta"]["nearest"]["score"] > 0.7
        story = told(*command, "--explain", kept[-1]["id"], cwd=tmp_path)
        words = tokenize(kept[-1]["instruction"])
        before = [seed.instruction for seed in load_seeds("builtin")]
        before += [row["instruction"] for row in kept[:-1]]
        best = max(score(words, tokenize(text)) for text in before)
        assert story["nearest"]["score"] == round(best, 4) <= 0.7
        shown = processes.run(*command, "--explain", near["id"], cwd=tmp_path).stdout
        assert "near duplicate" in shown
        assert "rejected above 0.7" in shown


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("seed-1", "is not the id of a generated example"),
        ("g-9999-0", "no reply to its request"),
        ("g-0-77", "holds no such item"),
    ],
)
def test_explain_of_nothing(name: str, says: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    processes.run("generate", f"--run={folder}", "--set=generate.target=5", cwd=tmp_path)
    done = processes.run("generate", f"--run={folder}", "--explain", name, cwd=tmp_path, code=3)
    assert says in done.stderr


def test_one_question_at_a_time(tmp_path: Path) -> None:
    done = processes.run("generate", "--estimate", "--explain", "g-0-0", cwd=tmp_path, code=2)
    assert "--estimate and --explain: one at a time" in done.stderr
