"""Generation through the Batch API: cut or broken anywhere, nothing is submitted twice."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import OpenAITeacher
from alpaca_cli.data.ledger import Ledger
from alpaca_cli.data.spending import Spending
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests import processes
from tests.servers import Asked, Fault, Line, TeacherServer

OUTPUTS = ("kept.jsonl", "rejected.jsonl")
PRICE = {"input": 1.0, "output": 2.0, "batch": 0.5}
POLL = 0.02


def recipe(server: TeacherServer, mode: str = "batch", **settings: Any) -> Recipe:
    """60 examples, 5 tasks a request, in batch mode."""
    teacher = {"kind": "openai", "model": "m", "base_url": server.url, "price": PRICE}
    teacher |= settings.pop("teacher", {})
    batch = {"poll": POLL} | settings.pop("batch", {})
    section = {"target": 60, "tasks_per_request": 5, "concurrency": 4, "mode": mode}
    section |= {"teacher": teacher, "batch": batch}
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, said: StringIO | None = None, **options: Any) -> Report:
    console = Console(file=said or StringIO(), width=1000)
    return generate(what, RunFolder(folder), Progress(console), **options)


def arguments(server: TeacherServer, folder: Path, **more: object) -> list[str]:
    """The command line of the same recipe."""
    keys: dict[str, object] = {"target": 60, "tasks_per_request": 5, "concurrency": 4}
    keys |= {"mode": "batch", "batch.poll": POLL, "teacher.kind": "openai", "teacher.model": "m"}
    keys |= {"teacher.base_url": server.url, "teacher.price": json.dumps(PRICE)}
    sets = [f"--set=generate.{key}={value}" for key, value in (keys | more).items()]
    return ["generate", f"--run={folder}", *sets]


def outputs(folder: Path) -> list[bytes]:
    return [(folder / "generate" / name).read_bytes() for name in OUTPUTS]


def rows(folder: Path, kind: str = "batch") -> list[dict[str, Any]]:
    lines = (folder / "generate" / "journal.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def states(folder: Path) -> list[str]:
    path = folder / "generate" / "journal.jsonl"
    return [row["state"] for row in rows(folder)] if path.is_file() else []


def check_each_once(server: TeacherServer) -> None:
    """No request was worked on twice, in a batch or online."""
    assert server.submitted
    assert set(server.submitted.values()) == {1}
    done = [entry.sha for entry in server.ledger]
    assert len(done) == len(set(done))


def online_bytes(folder: Path) -> list[bytes]:
    """The bytes of an online run in which nothing goes wrong."""
    with TeacherServer() as server:
        run(folder, recipe(server, "online"))
    return outputs(folder)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return online_bytes(tmp_path_factory.mktemp("straight"))


# --- a run in which nothing goes wrong ------------------------------------------------------------


def test_a_batch_ends_in_the_same_bytes_for_half_the_price(
    tmp_path: Path, straight: list[bytes]
) -> None:
    said = StringIO()
    with TeacherServer() as server:
        report = run(tmp_path, recipe(server), said)
        check_each_once(server)
        assert len(server.asked) == 1, "the first request, to see how to ask"
        assert report.cost == pytest.approx(float(server.billed(PRICE)))
        assert report.guessed == 0
        assert server.batches[0].metadata is not None
        before = len(server.calls)
        assert run(tmp_path, recipe(server)) == report
        assert len(server.calls) == before, "up to date"
    assert outputs(tmp_path) == straight
    replies = rows(tmp_path, "reply")
    assert [row["tier"] for row in replies] == [None] + ["batch"] * (len(replies) - 1)
    assert states(tmp_path)[:4] == ["intent", "uploaded", "submitted", "done"]
    assert f"batch_0: {len(server.batches[0].lines)} requests submitted, about $" in said.getvalue()
    assert "goes online, at the full price" in said.getvalue()


def test_the_budget_is_counted_from_the_journal_alone(tmp_path: Path) -> None:
    with TeacherServer(batch_line=html_once) as server:
        report = run(tmp_path, recipe(server))
    what = recipe(server).generate.teacher
    spending = Spending(getattr(what, "price", None))
    ledger = Ledger(spending)
    for line in (tmp_path / "generate" / "journal.jsonl").read_text().splitlines():
        ledger.take(json.loads(line))
    ledger.finish()
    assert (round(float(spending.spent), 6), spending.guessed) == (report.cost, 1)
    assert ledger.open_batches == []


def html_once(line: Line) -> Fault | None:
    """A line that is billed and brings nothing."""
    return Fault(200, "<html>") if (line.batch, line.number) == (0, 3) else None


def test_waves_are_as_large_as_told(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer() as server:
        run(tmp_path, recipe(server, batch={"max_requests": 4}))
        check_each_once(server)
        assert {len(batch.lines) for batch in server.batches[:-1]} == {4}
    assert outputs(tmp_path) == straight


def test_a_wave_asks_for_little_more_than_needed(tmp_path: Path) -> None:
    with TeacherServer(mistakes=0) as server:
        report = run(tmp_path, recipe(server, target=600))
        sizes = [len(batch.lines) for batch in server.batches]
    assert sizes[0] > 100
    assert len(sizes) <= 4
    assert report.unused <= 0.4 * report.requests


@pytest.mark.parametrize("protocol", ["chat-text", "completion"])
def test_other_ways_of_asking(protocol: str, tmp_path: Path) -> None:
    with TeacherServer(forms=()) as server:
        teacher = {"protocol": protocol, "extra_body": {"reasoning_effort": "none"}}
        run(tmp_path / "batch", recipe(server, teacher=teacher, target=30))
        run(tmp_path / "online", recipe(server, "online", teacher=teacher, target=30))
        alike = {asked.sha for asked in server.asked} & set(server.submitted)
        assert len(alike) >= 5, "the same bodies, byte for byte"
        assert all(asked.body["reasoning_effort"] == "none" for asked in server.asked)
    assert outputs(tmp_path / "batch") == outputs(tmp_path / "online")


def test_how_to_ask_is_found_out_before_a_batch_is_sent(tmp_path: Path) -> None:
    with TeacherServer(forms=("json_object",), refuses=("max_tokens",)) as server:
        run(tmp_path, recipe(server, target=30))
        bodies = [line.asked.body for batch in server.batches for line in batch.lines]
    assert {body["response_format"]["type"] for body in bodies} == {"json_object"}
    assert all("max_completion_tokens" in body for body in bodies)


def test_shown_examples_of_the_pool_bound_a_wave(tmp_path: Path) -> None:
    shown = {"seed": 2, "pool": 1, "window": 6}
    with TeacherServer() as server:
        run(tmp_path / "batch", recipe(server, demonstrations=shown))
        sizes = [len(batch.lines) for batch in server.batches]
        run(tmp_path / "online", recipe(server, "online", demonstrations=shown))
    assert max(sizes) <= 6
    assert outputs(tmp_path / "batch") == outputs(tmp_path / "online")


def test_a_probe_does_not_wait_for_a_batch(tmp_path: Path) -> None:
    with TeacherServer() as server:
        run(tmp_path, recipe(server), probe=3)
        assert (len(server.asked), server.batches) == (3, [])


def test_online_and_batches_continue_each_other(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer() as server:
        for mode, requests in (("online", 4), ("batch", 9), ("online", 12), ("batch", None)):
            what = recipe(server, mode, max_requests=requests)
            if requests is None:
                run(tmp_path, what)
            else:
                with pytest.raises(BudgetStop, match="max_requests"):
                    run(tmp_path, what)
        check_each_once(server)
        assert len(server.asked) == 4 + 3
    assert outputs(tmp_path) == straight


# --- budgets --------------------------------------------------------------------------------------


def test_no_more_is_billed_than_max_cost(tmp_path: Path) -> None:
    """The server bills the most that it may for every answer, in batches and online."""
    teacher = {"max_output_tokens": 1000}
    with TeacherServer(completion_tokens=1000, batch_line=html_once) as server:
        for cap in (0.018, 0.020, 0.022):
            with pytest.raises(BudgetStop, match=r"generate\.max_cost"):
                run(tmp_path, recipe(server, teacher=teacher, max_cost=cap))
            billed = float(server.billed(PRICE))
            assert cap / 2 < billed <= cap
            numbers = sorted(row["n"] for row in rows(tmp_path, "reply"))
            assert numbers == [*range(len(numbers))], "what was not affordable comes first again"
        run(tmp_path, recipe(server, teacher=teacher, max_cost=5))
        report = json.loads((tmp_path / "generate" / "report.json").read_text())
        assert report["cost"] >= float(server.billed(PRICE)) - 1e-6
        assert max(server.submitted.values()) == 2, "only the line that brought nothing"


def test_max_requests_counts_lines(tmp_path: Path) -> None:
    with TeacherServer() as server:
        with pytest.raises(BudgetStop, match="max_requests: 5 requests"):
            run(tmp_path, recipe(server, max_requests=5))
        assert len(server.asked) + len(server.batches[0].lines) == 5


# --- with a judge ---------------------------------------------------------------------------------


def scored(asked: Asked) -> str | None:
    """Scores when asked for them, else the embedded teacher's tasks."""
    if asked.body["model"] != "judge":
        return None
    candidates = asked.body["messages"][1]["content"].split("\n\n", 1)[1].splitlines()
    return json.dumps({"scores": [2 if len(row) % 4 == 0 else 4 for row in candidates]})


def test_a_judge_scores_what_batches_bring(tmp_path: Path) -> None:
    with TeacherServer(answer=scored) as server:
        teacher = {"kind": "openai", "model": "judge", "base_url": server.url}
        judge = {"teacher": teacher | {"max_output_tokens": 100}}
        report = run(tmp_path / "batch", recipe(server, judge=judge))
        waves = len(server.batches)
        run(tmp_path / "online", recipe(server, "online", judge=judge))
    assert outputs(tmp_path / "batch") == outputs(tmp_path / "online")
    assert report.rejected["judged_low"] > 5
    assert waves <= 3, "no wave before the last one is scored"


# --- the command ----------------------------------------------------------------------------------


def test_the_recipe() -> None:
    settings = load_recipe("52k-batch").generate
    assert settings.mode == "batch"
    assert isinstance(settings.teacher, OpenAITeacher)
    assert settings.teacher.price is not None
    assert settings.teacher.price.batch == 0.5


def test_the_command_line(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer() as server:
        done = processes.run(*arguments(server, tmp_path / "run"), cwd=tmp_path)
        check_each_once(server)
    assert "batch batch_0: completed" in done.stderr
    assert outputs(tmp_path / "run") == straight
