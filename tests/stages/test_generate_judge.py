"""Generation with a judge: scores decide, are paid once, and have a budget of their own."""

from __future__ import annotations

import json
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop, TeacherError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.estimate import estimate
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests import processes
from tests.servers import Asked, Fault, TeacherServer

PRICE = {"input": 1.0, "output": 2.0}


def verdict(row: str) -> int:
    """The test judge's opinion of a candidate: one in four is bad."""
    return 2 if sha256(row.encode()).digest()[0] < 64 else 4


def answer(asked: Asked) -> str | None:
    """Scores when asked for them, else the embedded teacher's tasks."""
    if asked.body["model"] != "judge":
        return None
    rows = asked.body["messages"][1]["content"].split("\n\n", 1)[1].splitlines()
    return json.dumps({"scores": [verdict(row) for row in rows]})


def recipe(server: TeacherServer, **settings: Any) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": server.url, "price": PRICE}
    judge = {"teacher": teacher | {"model": "judge", "max_output_tokens": 100}}
    section: dict[str, Any] = {"target": 60, "tasks_per_request": 5, "concurrency": 4}
    section |= {"teacher": teacher, "judge": judge | settings.pop("judge", {})}
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, **options: Any) -> Report:
    return generate(what, RunFolder(folder), Progress(Console(file=StringIO())), **options)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "generate" / name).read_text().splitlines()
    return [json.loads(line) for line in lines]


def fields(row: dict[str, Any]) -> str:
    names = ("instruction", "input", "output")
    return json.dumps({name: row[name] for name in names}, ensure_ascii=False)


def judged(server: TeacherServer) -> list[str]:
    """Everything that the judge was asked about."""
    asked = [a for a in server.asked if a.body["model"] == "judge"]
    return [row for a in asked for row in a.body["messages"][1]["content"].split("\n")[2:]]


def test_an_estimate_says_that_the_judge_is_not_in_it(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as server:
        what = recipe(server)
        assert estimate(what, RunFolder(tmp_path)).assumptions.endswith(", nothing for the judge")
        run(tmp_path, what, probe=2)
        told = estimate(what, RunFolder(tmp_path))
        assert (told.measured_on, told.assumptions) == (2, "nothing for the judge")


def test_scores_decide_and_are_kept(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as server:
        report = run(tmp_path, recipe(server))
        questions = judged(server)
    kept, rejected = rows(tmp_path, "kept.jsonl"), rows(tmp_path, "rejected.jsonl")
    assert report.kept == len(kept) == 60
    assert all(row["meta"]["score"] == 4 == verdict(fields(row)) for row in kept)
    low = [row for row in rejected if row["reason"] == "judged_low"]
    assert len(low) == report.rejected["judged_low"] > 5
    assert all(verdict(fields(row)) == 2 for row in low)
    assert "scored 2, below 4" in low[0]["detail"]
    faulty = [row for row in rejected if row["reason"] in ("truncated", "empty_output")]
    assert faulty
    assert not {fields(row) for row in faulty} & set(questions), "only what passes the filters"
    assert report.judge_cost is not None
    assert report.cost is not None
    assert report.judge_cost > 0


def test_each_budget_counts_its_own(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as server:
        report = run(tmp_path, recipe(server))
        bills = {"m": 0.0, "judge": 0.0}
        for billed in server.ledger:
            bills[server.asked[billed.number].body["model"]] += float(billed.cost(PRICE))
    assert report.cost == pytest.approx(bills["m"])
    assert report.judge_cost == pytest.approx(bills["judge"])


def test_the_judges_budget_stops_and_a_higher_one_goes_on(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as straight:
        run(tmp_path / "straight", recipe(straight))
    with TeacherServer(answer=answer) as server:
        with pytest.raises(BudgetStop, match=r"generate\.judge\.max_cost"):
            run(tmp_path / "cut", recipe(server, judge={"max_cost": 0.004}))
        bill = sum(
            float(billed.cost(PRICE))
            for billed in server.ledger
            if server.asked[billed.number].body["model"] == "judge"
        )
        assert 0 < bill <= 0.004
        run(tmp_path / "cut", recipe(server))
        assert {asked.attempt for asked in server.asked} == {1}, "nothing is judged twice"
    for name in ("kept.jsonl", "rejected.jsonl"):
        assert rows(tmp_path / "cut", name) == rows(tmp_path / "straight", name)


def test_what_a_judge_lacks_is_told_in_its_own_keys(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as server:
        what = recipe(server)
        assert what.generate.judge is not None
        lacking = {"api_key_env": "NO_SUCH_KEY", "base_url": "https://judge.invalid/v1"}
        teacher = what.generate.judge.teacher.model_dump() | lacking
        with pytest.raises(TeacherError, match=r"generate\.judge\.teacher\.api_key_env"):
            run(tmp_path / "key", recipe(server, judge={"teacher": teacher}))
    refused = Fault(404, {"error": {"message": "no such model"}})
    with TeacherServer(
        lambda asked: refused if asked.body["model"] == "judge" else None, answer=answer
    ) as server:
        with pytest.raises(TeacherError, match="the judge") as caught:
            run(tmp_path / "model", recipe(server))
        assert "generate.judge.teacher.model" in caught.value.hint


def test_another_threshold_costs_nothing_and_another_judge_is_asked(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as server:
        run(tmp_path, recipe(server))
        asked = len(server.asked)
        report = run(tmp_path, recipe(server, judge={"threshold": 2}, target=50))
        assert (report.kept, report.rejected.get("judged_low")) == (50, None)
        assert len(server.asked) == asked
        other = recipe(server).generate.judge
        assert other is not None
        warmer = other.teacher.model_copy(update={"temperature": 0.5})
        run(tmp_path, recipe(server, judge={"teacher": warmer.model_dump()}))
        before, new = server.asked[:asked], server.asked[asked:]
        assert {a.body["temperature"] for a in new if a.body["model"] == "judge"} == {0.5}
        paid = {a.sha for a in before if a.body["model"] == "m"}
        assert not paid & {a.sha for a in new}, "what was written is not asked for again"


def test_a_judge_that_says_nothing_of_use_rejects_and_is_not_asked_again(tmp_path: Path) -> None:
    def dumb(asked: Asked) -> str | None:
        return "Fine, all of them!" if asked.body["model"] == "judge" else None

    with TeacherServer(answer=dumb) as server:
        with pytest.raises(BudgetStop, match=r"max_requests"):
            run(tmp_path, recipe(server, max_requests=6))
        assert rows(tmp_path, "kept.jsonl") == []
        reasons = {row["reason"] for row in rows(tmp_path, "rejected.jsonl")}
        assert "not_judged" in reasons
        asked = len(server.asked)
        with pytest.raises(BudgetStop, match=r"max_requests"):
            run(tmp_path, recipe(server, max_requests=6))
        assert len(server.asked) == asked


def test_killed_while_judging_ends_in_the_same_bytes(tmp_path: Path) -> None:
    with TeacherServer(answer=answer) as straight:
        run(tmp_path / "straight", recipe(straight))

    def hold(asked: Asked) -> Fault | None:
        judging = asked.body["model"] == "judge"
        return Fault(hold=True) if judging and asked.number >= 8 else None

    folder = tmp_path / "cut"
    with TeacherServer(hold, answer=answer) as server:
        what = tmp_path / "recipe.yaml"
        what.write_text(json.dumps(recipe(server).model_dump(mode="json")))
        arguments = ["generate", f"--recipe={what}", f"--run={folder}"]
        process = processes.start(*arguments, cwd=tmp_path)
        held = 3
        processes.kill_when(
            process,
            lambda: sum(a.body["model"] == "judge" and a.number >= 8 for a in server.asked) >= held,
        )
    with TeacherServer(answer=answer) as server:
        run(folder, recipe(server))
        again = judged(server)
    for name in ("kept.jsonl", "rejected.jsonl"):
        assert rows(folder, name) == rows(tmp_path / "straight", name)
    scored = [
        (row["n"], item)
        for row in rows(folder, "journal.jsonl")
        if row.get("of") == "judge" and row["kind"] == "reply"
        for item in row["items"]
    ]
    assert len(scored) == len(set(scored)), "no score was paid for twice"
    assert again
