"""Files and batches of the test server, as the real SDK sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types import Batch, FileObject

from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply
from tests.servers import ENQUEUED_LIMIT, Asked, End, Fault, Line, TeacherServer, error
from tests.test_servers import ASK, client, serving

URL = "/v1/chat/completions"
NAMES = [f"r{n}" for n in range(12)]


def body(n: int, **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{n}: {ASK}"}], **more}


def row(n: int, **more: Any) -> dict[str, Any]:
    return {"custom_id": f"r{n}", "method": "POST", "url": URL, "body": body(n), **more}


def upload(sdk: openai.OpenAI, rows: list[dict[str, Any]], extra: bytes = b"") -> FileObject:
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows) + extra
    return sdk.files.create(file=("in.jsonl", data), purpose="batch")


def submit(
    sdk: openai.OpenAI, rows: list[dict[str, Any]] | None = None, extra: bytes = b""
) -> Batch:
    file = upload(sdk, [row(n) for n in range(12)] if rows is None else rows, extra)
    return create(sdk, file)


def create(sdk: openai.OpenAI, file: FileObject) -> Batch:
    return sdk.batches.create(
        input_file_id=file.id,
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"run": "one"},
    )


def ended(sdk: openai.OpenAI, batch: Batch) -> Batch:
    while (seen := sdk.batches.retrieve(batch.id)).status in ("validating", "in_progress"):
        continue
    return seen


def rows(sdk: openai.OpenAI, name: str | None) -> dict[str, Any]:
    assert name is not None
    lines = sdk.files.content(name).text.splitlines()
    found = {row["custom_id"]: row for row in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_round_trip() -> None:
    with serving(batch_polls=3) as (server, sdk):
        batch = submit(sdk)
        statuses = [batch.status, *(sdk.batches.retrieve(batch.id).status for _ in range(2))]
        assert server.ledger == []
        done = sdk.batches.retrieve(batch.id)
        found = rows(sdk, done.output_file_id)
        online = sdk.chat.completions.create(**body(3))
    assert [*statuses, done.status] == ["validating", "in_progress", "in_progress", "completed"]
    assert list(found) != sorted(found, key=NAMES.index), "the order means nothing"
    assert sorted(found, key=NAMES.index) == NAMES
    for n in range(12):
        answer = found[f"r{n}"]["response"]["body"]
        text = reply(f"{n}: {ASK}", 0.1, family_names()).text
        assert answer["choices"][0]["message"]["content"] == text
    assert (
        online.choices[0]
        == openai.types.chat.ChatCompletion.model_validate(found["r3"]["response"]["body"]).choices[
            0
        ]
    )
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed) == (12, 12)
    assert (done.metadata, done.error_file_id) == ({"run": "one"}, None)
    assert done.usage is not None
    billed = server.ledger[:12]
    assert done.usage.output_tokens == sum(entry.completion_tokens for entry in billed)
    assert {entry.custom_id for entry in billed} == set(NAMES)
    assert all(entry.batch for entry in billed)
    assert server.ledger[12].sha == server.asked[0].sha == billed[3].sha


def test_a_batch_that_ends_when_the_test_says() -> None:
    with serving(batch_polls=None) as (server, sdk):
        batch = submit(sdk)
        assert {sdk.batches.retrieve(batch.id).status for _ in range(5)} == {"in_progress"}
        server.finish_batches()
        assert sdk.batches.retrieve(batch.id).status == "completed"
        server.finish_batches()
    assert len(server.ledger) == 12


def test_lines_that_fail() -> None:
    def wrong(line: Line) -> Fault | None:
        faults = {
            "r1": error(429, "slow down", code="rate_limit_exceeded"),
            "r2": Fault(500, billed=True, body={"error": {"message": "oops"}}),
            "r3": Fault(200, "<html>"),
        }
        return faults.get(line.custom_id) if line.asked.attempt == 1 else None

    long = row(4, body=body(4, max_tokens=900))
    with serving(batch_line=wrong, batch_polls=1, context=800) as (server, sdk):
        first = ended(sdk, submit(sdk, [row(0), row(1), row(2), row(3), long]))
        second = ended(sdk, submit(sdk, [row(1)]))
        right, failed = rows(sdk, first.output_file_id), rows(sdk, first.error_file_id)
        assert set(rows(sdk, second.output_file_id)) == {"r1"}
    assert set(right) == {"r0", "r3"}
    assert right["r3"]["response"]["body"] == "<html>"
    assert {name: row["response"]["status_code"] for name, row in failed.items()} == {
        "r1": 429, "r2": 500, "r4": 400,
    }  # fmt: skip
    assert failed["r4"]["response"]["body"]["error"]["code"] == "context_length_exceeded"
    assert failed["r1"]["error"] is None
    assert [entry.custom_id for entry in server.ledger] == ["r0", "r2", "r3", "r1"]
    twice = [entry for entry, times in server.submitted.items() if times > 1]
    assert twice == [server.batches[1].lines[0].asked.sha]


def test_a_batch_that_expires_half_done() -> None:
    with serving(batch_end=lambda batch: End("expired", worked=5)) as (server, sdk):
        batch = ended(sdk, submit(sdk))
        right, late = rows(sdk, batch.output_file_id), rows(sdk, batch.error_file_id)
    assert batch.status == "expired"
    assert set(right) == set(NAMES[:5])
    assert set(late) == set(NAMES[5:])
    assert {row["error"]["code"] for row in late.values()} == {"batch_expired"}
    assert len(server.ledger) == 5


def test_cancelling() -> None:
    with serving(batch_polls=9, batch_end=lambda batch: End("completed", worked=3)) as (
        server,
        sdk,
    ):
        batch = submit(sdk)
        assert sdk.batches.cancel(batch.id).status == "cancelling"
        done = sdk.batches.retrieve(batch.id)
        assert set(rows(sdk, done.output_file_id)) == set(NAMES[:3])
        with pytest.raises(openai.ConflictError, match="status 'cancelled'"):
            sdk.batches.cancel(batch.id)
    assert (done.status, done.error_file_id, len(server.ledger)) == ("cancelled", None, 3)


def test_a_batch_that_the_provider_fails() -> None:
    with serving(batch_end=lambda batch: ENQUEUED_LIMIT if batch.number == 0 else None) as (
        server,
        sdk,
    ):
        failed = ended(sdk, submit(sdk))
        assert ended(sdk, submit(sdk)).status == "completed"
    assert (failed.status, failed.output_file_id) == ("failed", None)
    assert failed.errors is not None
    assert failed.errors.data is not None
    assert [e.code for e in failed.errors.data] == ["token_limit_exceeded"]
    assert {entry.number for entry in server.ledger} == set(range(12))


@pytest.mark.parametrize(
    ("given", "extra", "wrong"),
    [
        ([], b"", [("empty_file", None)]),
        ([row(0)], b"{torn", [("invalid_json_line", 2)]),
        ([row(0), row(0)], b"", [("duplicate_custom_id", 2)]),
        ([row(0), row(1, url="/v1/completions")], b"", [("invalid_url", 2)]),
        ([row(0), {"custom_id": "x"}], b"", [("missing_required_parameter", 2)]),
        ([row(0), row(1, body=body(1) | {"model": "n"})], b"", [("mismatched_model", None)]),
    ],
)
def test_files_are_validated(given: Any, extra: bytes, wrong: Any) -> None:
    with serving() as (server, sdk):
        batch = ended(sdk, submit(sdk, given, extra))
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [(e.code, e.line) for e in batch.errors.data] == wrong
    assert not server.ledger


def test_an_answer_that_does_not_say_what_was_done() -> None:
    """Created, but the client is told 500: only the list of batches tells."""

    def ambiguous(asked: Asked) -> Fault | None:
        created = (asked.method, asked.path) == ("POST", "/v1/batches")
        return Fault(500, after=True) if created and asked.attempt == 1 else None

    with serving(batch_fault=ambiguous) as (server, sdk):
        file = upload(sdk, [row(0)])
        with pytest.raises(openai.InternalServerError):
            create(sdk, file)
        assert [batch.metadata for batch in sdk.batches.list()] == [{"run": "one"}]
        create(sdk, file)
    assert len(server.batches) == 2
    assert list(server.submitted.values()) == [2]


def test_refused_and_torn() -> None:
    def fault(asked: Asked) -> Fault | None:
        if asked.attempt > 1:
            return None
        if asked.path.endswith("/content"):
            return Fault(cut=200)
        return error(429, "slow down") if asked.path == "/v1/batches" else None

    with serving(batch_fault=fault) as (server, sdk):
        file = upload(sdk, [row(n) for n in range(12)])
        with pytest.raises(openai.RateLimitError):
            create(sdk, file)
        assert not server.batches
        batch = ended(sdk, create(sdk, file))
        with pytest.raises(openai.APIConnectionError):
            rows(sdk, batch.output_file_id)
        assert len(rows(sdk, batch.output_file_id)) == 12
    assert len(server.ledger) == 12
    assert server.batches[0].id == batch.id


@pytest.fixture
def stocked() -> Iterator[tuple[TeacherServer, openai.OpenAI]]:
    with TeacherServer() as server, client(server) as sdk:
        for n in range(5):
            submit(sdk, [row(n)])
        yield server, sdk


def test_lists_have_pages(stocked: tuple[TeacherServer, openai.OpenAI]) -> None:
    server, sdk = stocked
    assert [batch.id for batch in sdk.batches.list(limit=2)] == [
        batch.id for batch in reversed(server.batches)
    ]
    pages = [call for call in server.calls if call.method == "GET"]
    assert [call.body.get("after") for call in pages] == [None, "batch_3", "batch_1"]
    assert [file.bytes for file in sdk.files.list(limit=4)] == [
        len(json.dumps(row(n))) + 1 for n in reversed(range(5))
    ]
    server.finish_batches()
    assert len(list(sdk.files.list(limit=3))) == 10
    assert len(list(sdk.files.list(limit=3, purpose="batch"))) == 5


def test_files(stocked: tuple[TeacherServer, openai.OpenAI]) -> None:
    _, sdk = stocked
    file = sdk.files.create(file=("x.jsonl", b"\r\n--a\r\n\xff\n"), purpose="batch")
    assert (sdk.files.retrieve(file.id).filename, file.bytes) == ("x.jsonl", 9)
    assert sdk.files.content(file.id).content == b"\r\n--a\r\n\xff\n"
    assert sdk.files.delete(file.id).deleted
    for missing in (sdk.files.retrieve, sdk.files.content, sdk.batches.retrieve):
        with pytest.raises(openai.NotFoundError):
            missing(file.id)


def test_what_cannot_be_created(stocked: tuple[TeacherServer, openai.OpenAI]) -> None:
    server, sdk = stocked
    with pytest.raises(openai.BadRequestError, match="Invalid input_file_id"):
        sdk.batches.create(input_file_id="x", endpoint=URL, completion_window="24h")  # type: ignore[arg-type]
    assert len(server.batches) == 5
