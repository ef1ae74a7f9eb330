"""Lines and batches that fail, expire or are cancelled: what was done is kept, the rest asked."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest

from alpaca_cli.core.errors import TeacherError, TryAgain
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.generation import Generation
from tests.servers import ENQUEUED_LIMIT, End, Fault, Line, StoredBatch, TeacherServer, error
from tests.stages.test_batches import (
    PRICE,
    check_each_once,
    online_bytes,
    outputs,
    recipe,
    rows,
    run,
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return online_bytes(tmp_path_factory.mktemp("straight"))


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
    assert rows(tmp_path, "failed")[0]["text"].startswith(
        "no reply after 3 attempts; the last: 500"
    )


def test_a_last_request_that_is_refused_does_not_block_for_ever(tmp_path: Path) -> None:
    """It is alone in its batch."""

    def wrong(line: Line) -> Fault | None:
        if line.number == 2 and line.batch == 0:
            return Fault(429)
        return error(400, "blocked") if line.asked.attempt == 2 else None

    def end(batch: StoredBatch) -> End | None:
        return End("cancelled", worked=99) if batch.number == 0 else None

    with TeacherServer(batch_line=wrong, batch_end=end) as server:
        with pytest.raises(TryAgain, match="cancelled"):
            run(tmp_path, recipe(server))
        report = run(tmp_path, recipe(server, batch={"max_requests": 1}))
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
    teacher = {"max_output_tokens": 600}
    with TeacherServer() as server:
        first = Generation(recipe(server), load_seeds("builtin")).request(0)
    with TeacherServer(context=len(first.text.split()) + 600) as server:  # what fits the first
        report = run(tmp_path, recipe(server, teacher=teacher))
        assert len(server.asked) == 1
    assert (report.kept, report.failed) == (60, 0)
    assert {row["shrink"] for row in rows(tmp_path, "reply")} == {0, 1}


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
    assert f"batch_0: expired, 5 of {5 + late} answered" in said.getvalue()
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
