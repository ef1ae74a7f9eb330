"""Generation through the Batch API: cut or broken anywhere, nothing is submitted twice."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop, DataError, TeacherError, TryAgain, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.ledger import Ledger
from alpaca_cli.data.spending import Spending
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests import processes
from tests.servers import (
    ENQUEUED_LIMIT,
    Asked,
    End,
    Fault,
    Line,
    StoredBatch,
    TeacherServer,
    error,
)

OUTPUTS = ("kept.jsonl", "rejected.jsonl")
PRICE = {"input": 1.0, "output": 2.0, "batch": 0.5}
POLL = 0.02


def recipe(server: TeacherServer, mode: str = "batch", **settings: Any) -> Recipe:
    """60 examples, 5 tasks a request, in batch mode."""
    teacher = {"kind": "openai", "model": "m", "base_url": server.url, "price": PRICE}
    teacher |= settings.pop("teacher", {})
    section = {
        "target": 60,
        "tasks_per_request": 5,
        "concurrency": 4,
        "teacher": teacher,
        "mode": mode,
        "batch": {"poll": POLL} | settings.pop("batch", {}),
    }
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, said: StringIO | None = None, **options: Any) -> Report:
    console = Console(file=said or StringIO(), width=1000)
    return generate(what, RunFolder(folder), Progress(console), **options)


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


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of an online run in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("straight")
    with TeacherServer() as server:
        run(folder, recipe(server, "online"))
    return outputs(folder)


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


# --- lines and batches that fail ------------------------------------------------------------------


def test_lines_that_fail_are_asked_for_again(tmp_path: Path, straight: list[bytes]) -> None:
    faults = {
        1: error(429, "slow down", code="rate_limit_exceeded"),
        2: Fault(500, {"error": {"message": "oops"}}),
        3: Fault(200, "<html>"),
        4: Fault(504, billed=True),
    }
    with TeacherServer(
        batch_line=lambda line: faults.get(line.number) if line.batch == 0 else None
    ) as server:
        report = run(tmp_path, recipe(server))
        again = {line.asked.sha for line in server.batches[0].lines[1:5]}
        assert {sha for sha, times in server.submitted.items() if times == 2} == again
        assert max(server.submitted.values()) == 2
        assert report.guessed == 2, "what may have been billed counts at its worst case"
        assert report.cost is not None
        assert report.cost >= float(server.billed(PRICE))
    assert outputs(tmp_path) == straight


def test_a_request_that_is_refused_is_left_out_for_good(tmp_path: Path) -> None:
    no = error(400, "blocked", code="content_filter")
    with TeacherServer(
        batch_line=lambda line: no if (line.batch, line.number) == (0, 2) else None
    ) as server:
        report = run(tmp_path, recipe(server))
        check_each_once(server)
    assert (report.failed, report.kept) == (1, 60)
    assert [row["text"] for row in rows(tmp_path, "failed")] == ["400: blocked"]


def test_a_line_that_always_fails_is_given_up(tmp_path: Path) -> None:
    def wrong(line: Line) -> Fault | None:
        first = server.batches[0].lines[2].asked.sha
        return Fault(500) if line.asked.sha == first else None

    with TeacherServer(batch_line=wrong) as server:
        report = run(tmp_path, recipe(server, teacher={"max_attempts": 3}))
    assert report.failed == 1
    assert max(server.submitted.values()) == 3
    assert rows(tmp_path, "failed")[0]["text"].startswith("no reply after 3 attempts; the last: 500")


def test_a_last_request_that_is_refused_does_not_block_for_ever(tmp_path: Path) -> None:
    """It is alone in its batch, and there is nothing else to ask before its place is filled."""

    def wrong(line: Line) -> Fault | None:
        if line.number == 2 and line.batch == 0:
            return Fault(429)
        return error(400, "blocked") if line.asked.attempt == 2 else None

    def end(batch: StoredBatch) -> End | None:
        return End("cancelled", worked=99) if batch.number == 0 else None

    with TeacherServer(batch_line=wrong, batch_end=end) as server:
        with pytest.raises(TryAgain, match="cancelled"):
            run(tmp_path, recipe(server))
        report = run(tmp_path, recipe(server))
        assert len(server.batches[1].lines) == 1
    assert (report.failed, report.kept) == (1, 60)


def test_a_refusal_of_everything_blames_no_request(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer(
        batch_line=lambda line: error(400, "blocked") if line.batch == 0 else None
    ) as server:
        with pytest.raises(TeacherError, match="every request was refused; the last: 400: blocked"):
            run(tmp_path, recipe(server))
        assert rows(tmp_path, "failed") == []
        run(tmp_path, recipe(server))
    assert outputs(tmp_path) == straight


def test_a_key_that_is_refused_keeps_what_is_there(tmp_path: Path, straight: list[bytes]) -> None:
    no = error(401, "no such key")
    with TeacherServer(
        batch_line=lambda line: no if line.batch == 0 and line.number % 2 else None
    ) as server:
        with pytest.raises(TeacherError, match="401: no such key"):
            run(tmp_path, recipe(server))
        kept = len(rows(tmp_path, "reply"))
        assert kept > 3
        run(tmp_path, recipe(server))
        assert len(server.ledger) == len(rows(tmp_path, "reply")), "paid for once"
    assert outputs(tmp_path) == straight


def test_too_long_requests_are_made_smaller(tmp_path: Path) -> None:
    with TeacherServer(context=1200) as server:
        teacher = {"max_output_tokens": 600}
        report = run(tmp_path, recipe(server, teacher=teacher))
    assert report.kept == 60


def test_an_expired_batch_keeps_what_was_done(tmp_path: Path, straight: list[bytes]) -> None:
    def end(batch: StoredBatch) -> End | None:
        return End("expired", worked=5) if batch.number == 0 else None

    said = StringIO()
    with TeacherServer(batch_end=end) as server:
        run(tmp_path, recipe(server), said)
        done = [entry.sha for entry in server.ledger]
        assert len(done) == len(set(done)), "paid for once"
        late = len(server.batches[0].lines) - 5
        assert len(server.batches[1].lines) >= late
    assert f"batch_0: expired, 5 replies, {late} without a reply" in said.getvalue()
    assert outputs(tmp_path) == straight


def test_batches_that_bring_nothing_are_not_sent_for_ever(tmp_path: Path) -> None:
    with TeacherServer(batch_end=lambda batch: End("expired")) as server:
        with pytest.raises(TryAgain, match=r"batch_0 \(expired\) brought no reply"):
            run(tmp_path, recipe(server))
        assert len(server.batches) == 1


def test_a_batch_that_somebody_cancelled(tmp_path: Path, straight: list[bytes]) -> None:
    def end(batch: StoredBatch) -> End | None:
        return End("cancelled", worked=6) if batch.number == 0 else None

    with TeacherServer(batch_end=end) as server:
        with pytest.raises(TryAgain, match=r"batch_0 was cancelled at the provider: 6 of \d+"):
            run(tmp_path, recipe(server))
        assert len(rows(tmp_path, "reply")) == 7
        run(tmp_path, recipe(server))
        done = [entry.sha for entry in server.ledger]
        assert len(done) == len(set(done)), "paid for once"
    assert outputs(tmp_path) == straight


def test_a_batch_that_the_provider_does_not_take(tmp_path: Path, straight: list[bytes]) -> None:
    wrong = {"code": "invalid_model", "line": 2, "message": "no such model"}
    ends = {0: ENQUEUED_LIMIT, 1: End("failed", errors=[wrong])}
    with TeacherServer(batch_end=lambda batch: ends.get(batch.number)) as server:
        with pytest.raises(TryAgain, match="Enqueued token limit reached for m") as caught:
            run(tmp_path, recipe(server))
        assert "batch.max_requests" in caught.value.hint
        with pytest.raises(TeacherError, match=r"request 2: no such model \(invalid_model\)"):
            run(tmp_path, recipe(server))
        run(tmp_path, recipe(server))
        done = [entry.sha for entry in server.ledger]
        assert len(done) == len(set(done)), "paid for once"
    assert outputs(tmp_path) == straight


# --- calls that fail ------------------------------------------------------------------------------


def test_every_first_call_fails(tmp_path: Path, straight: list[bytes]) -> None:
    faults = [
        Fault(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "5"}),
        Fault(503, b"<html>", {"retry-after": "0"}),
        Fault(200, b"<html>busy</html>"),
    ]

    def fault(asked: Asked) -> Fault | None:
        return faults[asked.number % 3] if asked.attempt == 1 else None

    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("answer", [Fault(500, after=True), Fault(200, b"<html>", after=True)])
def test_an_answer_that_leaves_open_what_was_done(
    path: str, answer: Fault, tmp_path: Path, straight: list[bytes]
) -> None:
    unclear = {"done": 0}

    def fault(asked: Asked) -> Fault | None:
        if (asked.method, asked.path) == ("POST", path) and not unclear["done"]:
            unclear["done"] = 1
            return answer
        return None

    said = StringIO()
    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server), said)
        check_each_once(server)
        uploads = [call for call in server.calls if (call.method, call.path) == ("POST", "/v1/files")]
        assert len(uploads) == len(server.batches)
    assert ("is not submitted again" in said.getvalue()) == (path == "/v1/batches")
    assert outputs(tmp_path) == straight


def test_a_torn_download_is_repeated(tmp_path: Path, straight: list[bytes]) -> None:
    broken = [
        Fault(cut=300),
        Fault(200, b'{"custom_id": "some'),
        Fault(200, b'{"custom_id": "other-1", "response": null}\n'),
    ]

    def fault(asked: Asked) -> Fault | None:
        content = asked.path.endswith("/content")
        return broken[asked.attempt - 1] if content and asked.attempt <= len(broken) else None

    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight
    assert [path.suffix for path in (tmp_path / "generate" / "batches").iterdir()] == [".jsonl"] * (
        len(server.batches)
    )


def test_a_provider_that_stays_away_ends_in_try_again(
    tmp_path: Path, straight: list[bytes]
) -> None:
    def fault(asked: Asked) -> Fault | None:
        return Fault(503) if asked.method == "GET" and not server.release.is_set() else None

    with TeacherServer(batch_fault=fault) as server:
        with pytest.raises(TryAgain, match="the Batch API does not work: 503"):
            run(tmp_path, recipe(server, teacher={"patience": 0.3}))
        assert states(tmp_path)[-1] == "submitted"
        server.release.set()
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight


def test_an_endpoint_without_batches(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer(batch_fault=lambda asked: error(404, "Not Found")) as server:
        with pytest.raises(TeacherError, match="404: Not Found"):
            run(tmp_path, recipe(server))
        assert states(tmp_path) == ["intent", "done"], "nothing is open: it was refused"
        run(tmp_path, recipe(server, "online"))
    assert outputs(tmp_path) == straight


# --- budgets --------------------------------------------------------------------------------------


def test_no_more_is_billed_than_max_cost(tmp_path: Path) -> None:
    """The server bills the most that it may for every answer, in batches and online."""
    teacher = {"max_output_tokens": 1000}
    with TeacherServer(completion_tokens=1000, batch_line=html_once) as server:
        for cap in (0.015, 0.018, 0.022):
            with pytest.raises(BudgetStop, match=r"generate\.max_cost"):
                run(tmp_path, recipe(server, teacher=teacher, max_cost=cap))
            billed = float(server.billed(PRICE))
            assert cap / 2 < billed <= cap
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


# --- open batches ---------------------------------------------------------------------------------


def arguments(server: TeacherServer, folder: Path, **more: object) -> list[str]:
    keys: dict[str, object] = {
        "target": 60,
        "tasks_per_request": 5,
        "concurrency": 4,
        "mode": "batch",
        "batch.poll": POLL,
        "teacher.kind": "openai",
        "teacher.model": "m",
        "teacher.base_url": server.url,
        "teacher.price": json.dumps(PRICE),
    }
    sets = [f"--set=generate.{key}={value}" for key, value in (keys | more).items()]
    return ["generate", f"--run={folder}", *sets]


def holding(method: str, path: str, fault: Fault) -> Callable[[Asked], Fault | None]:
    """Hold the first such call: until it is let go, its client waits."""
    held: list[int] = []

    def hold(asked: Asked) -> Fault | None:
        if asked.method == method and asked.path.startswith(path) and asked.path.endswith(
            "/content" if "files/" in path else ""
        ):
            held.append(asked.number)
            return fault if len(held) == 1 else None
        return None

    return hold


HOLD = Fault(hold=True)
NEVER = Fault(500, hold=True)
INSTANTS = {
    "before the upload arrives": ("POST", "/v1/files", NEVER, "intent"),
    "before the upload is answered": ("POST", "/v1/files", HOLD, "intent"),
    "before the batch is made": ("POST", "/v1/batches", NEVER, "uploaded"),
    "before the batch is answered": ("POST", "/v1/batches", HOLD, "uploaded"),
    "while it waits": ("GET", "/v1/batches/", HOLD, "submitted"),
    "while it downloads": ("GET", "/v1/files/", HOLD, "submitted"),
}


@pytest.mark.parametrize("mode", ["batch", "online"])
@pytest.mark.parametrize("instant", INSTANTS)
def test_kill(instant: str, mode: str, tmp_path: Path, straight: list[bytes]) -> None:
    method, path, fault, state = INSTANTS[instant]
    if mode == "online" and fault is NEVER:
        pytest.skip("the same in whatever mode")
    folder = tmp_path / "run"
    with TeacherServer(batch_fault=holding(method, path, fault)) as server:
        process = processes.start(*arguments(server, folder), cwd=tmp_path)
        processes.kill_when(process, partial(arrived, server, method, path))
        assert states(folder)[-1] == state
        assert outcomes(folder) == 1, "no reply of the batch yet"
        server.release.set()
        run(folder, recipe(server, mode))
        check_each_once(server)
        assert len(server.batches) >= 1
    assert outputs(folder) == straight


def arrived(server: TeacherServer, method: str, path: str) -> bool:
    return any(
        call.method == method
        and call.path.startswith(path)
        and ("files/" not in path or call.path.endswith("/content"))
        for call in server.calls
    )


def outcomes(folder: Path) -> int:
    return len(rows(folder, "reply"))


def test_any_cut_of_the_journal_after_the_intent(tmp_path: Path, straight: list[bytes]) -> None:
    """What a kill in the middle of a group, or between two rows, leaves."""
    path = tmp_path / "generate" / "journal.jsonl"
    with TeacherServer(batch_line=html_once) as server:
        run(tmp_path, recipe(server))
        asked, whole = server.submitted.copy(), path.read_bytes()
        lines = whole.splitlines(keepends=True)
        first = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "batch") + 1
        for count in range(first, len(lines), 3):
            path.write_bytes(b"".join(lines[:count]) + lines[count][:40])
            (path.parent / "done.json").unlink()
            report = run(tmp_path, recipe(server))
            assert outputs(tmp_path) == straight
            counts = [row["n"] for row in rows(tmp_path, "reply")]
            assert len(counts) == len(set(counts)), "journalled twice"
            assert report.guessed == 1
            lost = set(server.submitted) - set(asked)
            assert not lost
            inside = server.batches[0].lines
            assert max(server.submitted[line.asked.sha] for line in inside if line.number != 3) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_batch_to_the_provider(
    number: signal.Signals, code: int, tmp_path: Path, straight: list[bytes]
) -> None:
    folder = tmp_path / "run"
    with TeacherServer(batch_polls=None) as server:
        process = processes.start(*arguments(server, folder, **{"batch.poll": 600}), cwd=tmp_path)
        processes.wait_until(process, partial(arrived, server, "GET", "/v1/batches/"))
        process.send_signal(number)
        _, said = process.communicate(timeout=15)
        assert process.returncode == code, said
        assert "batch batch_0 goes on at the provider; the same command collects it" in said
        assert outcomes(folder) == 1
        server.finish_batches()
        server.rules.__dict__["batch_polls"] = 2
        run(folder, recipe(server))
        check_each_once(server)
    assert outputs(folder) == straight


def left_open(folder: Path, server: TeacherServer) -> None:
    """A run whose batch goes on without it."""
    with pytest.raises(TryAgain, match="does not work"):
        run(folder, recipe(server, teacher={"patience": 0.05}))
    assert states(folder)[-1] == "submitted"


def away(asked: Asked) -> Fault | None:
    return Fault(503) if asked.method == "GET" else None


def test_an_open_batch_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
    with TeacherServer() as other, pytest.raises(UsageError, match="this batch is open at http"):
        run(tmp_path, recipe(other, "online"))


def test_an_open_batch_can_be_given_up(tmp_path: Path, straight: list[bytes]) -> None:
    gone = [error(404, "No batch found")]

    def fault(asked: Asked) -> Fault | None:
        looks = asked.path.startswith("/v1/batches/")
        return gone[0] if looks and asked.path.endswith("/batch_0") else None

    with TeacherServer(batch_fault=fault) as server:
        with pytest.raises(TeacherError, match="404: No batch found"):
            run(tmp_path, recipe(server))
        with pytest.raises(TeacherError, match="404: No batch found") as caught:
            run(tmp_path, recipe(server))
        _, _, path = caught.value.hint.rpartition("touch ")
        Path(path).touch()
        lines = len(server.batches[0].lines)
        report = run(tmp_path, recipe(server, "online"))
        assert report.guessed == lines, "all of it may have been billed"
    assert outputs(tmp_path) == straight


def test_a_damaged_file_of_requests_is_refused(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
        (path,) = (tmp_path / "generate" / "batches").iterdir()
        path.write_bytes(path.read_bytes().replace(b"Write 5", b"Write 6", 1))
        with pytest.raises(DataError, match="not the file that this run has written"):
            run(tmp_path, recipe(server))


def test_replay_does_not_touch_an_open_batch(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
        before = len(server.calls)
        run(tmp_path, recipe(server), replay=True)
        assert len(server.calls) == before


def test_the_recipe() -> None:
    settings = load_recipe("52k-batch").generate
    assert settings.mode == "batch"
    assert getattr(settings.teacher, "price", None).batch == 0.5  # type: ignore[union-attr]


def test_the_command_line(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer() as server:
        done: subprocess.CompletedProcess[str] = processes.run(
            *arguments(server, tmp_path / "run"), cwd=tmp_path
        )
        check_each_once(server)
    assert "batch batch_0: completed" in done.stderr
    assert outputs(tmp_path / "run") == straight
