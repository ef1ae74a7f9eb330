"""Files and batches of the test server, as OpenAI's API has them.

A batch is `validating` when it is made, `in_progress` when it is looked at, and ends at the so
many-th look or when the test says so. Only then are its lines worked on and billed, by the very
function that answers them online, and written in an order that has nothing to do with theirs.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from tests.serving.wire import Asked, Fault, Rules, error, sha_of

MOST_LINES = 50_000
OPEN = ("validating", "in_progress", "finalizing", "cancelling")


@dataclass(frozen=True)
class Line:
    """One request of a batch.

    Attributes:
        number: its place in the file, from 0.
        batch: how many batches were made before its own.
        asked: the request; `attempt` counts how often any batch had this very body.
    """

    custom_id: str
    number: int
    batch: int
    asked: Asked


@dataclass(frozen=True)
class End:
    """How a batch ends.

    Attributes:
        worked: how many lines, in the order of the file, were worked on before it expired or was
            cancelled. The others of an expired batch are in the error file as `batch_expired`.
        errors: of a failed batch, e.g. `{"line": 3, "code": "invalid_json_line", "message": …}`.
    """

    status: Literal["completed", "failed", "expired", "cancelled"]
    worked: int = 0
    errors: Sequence[dict[str, Any]] = ()


ENQUEUED_LIMIT = End(
    "failed",
    errors=[
        {
            "code": "token_limit_exceeded",
            "line": None,
            "message": "Enqueued token limit reached for m in organization org-x. Limit: 90,000 "
            "enqueued tokens. Please try again once some in_progress batches have been completed.",
            "param": None,
        }
    ],
)


@dataclass
class StoredBatch:
    """A batch as the server knows it; `number` counts from 0 in the order of creation."""

    number: int
    id: str
    input_file_id: str
    endpoint: str
    metadata: dict[str, str] | None
    lines: list[Line] = field(default_factory=list)
    status: str = "validating"
    looks: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: Sequence[dict[str, Any]] = ()
    counts: dict[str, int] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    times: dict[str, int] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """What the API tells of it."""
        names = "in_progress finalizing completed failed expired cancelling cancelled"
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": list(self.errors)} if self.errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": "24h",
            "status": self.status,
            "output_file_id": self.output_file_id,
            "error_file_id": self.error_file_id,
            "created_at": self.times["created"],
            "expires_at": self.times["created"] + 86_400,
            **{f"{name}_at": self.times.get(name) for name in names.split()},
            "request_counts": self.counts or {"total": 0, "completed": 0, "failed": 0},
            "metadata": self.metadata,
            "usage": self.usage,
        }

    def become(self, status: str) -> None:
        """Change the status, and note when."""
        self.status = status
        self.times[status] = int(time.time())


@dataclass(frozen=True)
class StoredFile:
    """A file, uploaded or written by a batch."""

    id: str
    name: str
    purpose: str
    data: bytes
    created: int

    def shown(self) -> dict[str, Any]:
        """What the API tells of it."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": len(self.data),
            "created_at": self.created,
            "filename": self.name,
            "purpose": self.purpose,
            "status": "processed",
        }


Work = Callable[[Asked, str], dict[str, Any]]


class BatchDesk:
    """The files and batches of one server.

    Args:
        work: answers one request and bills it to a custom_id.

    Attributes:
        batches: all that were ever made, in that order.
        submitted: how often any batch had a body, by its `Asked.sha`.
    """

    def __init__(self, rules: Rules, work: Work) -> None:
        self.batches: list[StoredBatch] = []
        self.submitted: Counter[str] = Counter()
        self._rules, self._work = rules, work
        self._files: dict[str, StoredFile] = {}
        self._lock = threading.RLock()
        self._stored = 0

    def finish(self) -> None:
        """End every batch that is still open."""
        with self._lock:
            for batch in self.batches:
                if batch.status in OPEN:
                    self._end(batch)

    def handle(self, asked: Asked) -> Fault | None:
        """The answer to a request to files or batches; None when there is no such path."""
        with self._lock:
            match [asked.method, *asked.path.removeprefix("/v1/").split("/")]:
                case ["POST", "files"]:
                    return self._upload(asked)
                case ["GET", "files"]:
                    purpose = asked.body.get("purpose")
                    newest = [
                        file.shown()
                        for file in reversed(self._files.values())
                        if purpose in (None, file.purpose)
                    ]
                    return Fault(body=_page(newest, asked.body))
                case [method, "files", name, *rest]:
                    return self._file(method, name, rest)
                case ["POST", "batches"]:
                    return self._create(asked)
                case ["GET", "batches"]:
                    newest = [batch.shown() for batch in reversed(self.batches)]
                    return Fault(body=_page(newest, asked.body))
                case [method, "batches", name, *rest]:
                    return self._batch(method, name, rest)
        return None

    def _upload(self, asked: Asked) -> Fault:
        data = asked.body.get("file")
        if not isinstance(data, bytes):
            return error(400, "'file' is a required property", param="file")
        file = self._store(asked.body.get("filename", "upload"), asked.body["purpose"], data)
        return Fault(body=file.shown())

    def _store(self, name: str, purpose: str, data: bytes) -> StoredFile:
        self._stored += 1
        file = StoredFile(f"file-{self._stored}", name, purpose, data, int(time.time()))
        self._files[file.id] = file
        return file

    def _file(self, method: str, name: str, rest: list[str]) -> Fault | None:
        file = self._files.get(name)
        if file is None:
            return error(404, f"No such File object: {name}", param="id")
        if method == "DELETE" and not rest:
            del self._files[name]
            return Fault(body={"id": name, "object": "file", "deleted": True})
        if method != "GET" or rest not in ([], ["content"]):
            return None
        if rest:
            return Fault(body=file.data, headers={"Content-Type": "application/octet-stream"})
        return Fault(body=file.shown())

    def _batch(self, method: str, name: str, rest: list[str]) -> Fault | None:
        batch = next((batch for batch in self.batches if batch.id == name), None)
        if batch is None:
            return error(404, f"No batch found with id '{name}'.")
        if (method, rest) == ("GET", []):
            self._look(batch)
        elif (method, rest) == ("POST", ["cancel"]):
            if batch.status not in ("validating", "in_progress"):
                return error(409, f"Cannot cancel a batch with status '{batch.status}'.")
            batch.become("cancelling")
        else:
            return None
        return Fault(body=batch.shown())

    def _look(self, batch: StoredBatch) -> None:
        if batch.status not in OPEN:
            return
        batch.looks += 1
        polls = self._rules.batch_polls
        if batch.status == "cancelling" or (polls is not None and batch.looks >= polls):
            self._end(batch)
        elif batch.status == "validating" and not batch.errors:
            batch.become("in_progress")

    def _create(self, asked: Asked) -> Fault:
        for name in ("input_file_id", "endpoint", "completion_window"):
            if name not in asked.body:
                return error(400, f"Missing required parameter: '{name}'.", param=name)
        file = self._files.get(asked.body["input_file_id"])
        if file is None or file.purpose != "batch":
            return error(400, "Invalid input_file_id.", param="input_file_id")
        if asked.body["completion_window"] != "24h":
            return error(400, "Invalid value: the window is '24h'.", param="completion_window")
        number = len(self.batches)
        batch = StoredBatch(
            number, f"batch_{number}", file.id, asked.body["endpoint"], asked.body.get("metadata")
        )
        batch.become("created")
        batch.status = "validating"
        batch.lines, batch.errors = self._read(file, batch, asked)
        self.batches.append(batch)
        return Fault(body=batch.shown())

    def _read(
        self, file: StoredFile, batch: StoredBatch, asked: Asked
    ) -> tuple[list[Line], list[dict[str, Any]]]:
        """The lines of a file, and what is wrong with them."""
        lines: list[Line] = []
        wrong: list[dict[str, Any]] = []
        names: set[str] = set()
        models: set[str] = set()

        def complain(code: str, message: str, at: int | None = None) -> None:
            wrong.append({"code": code, "line": at, "message": message, "param": None})

        for at, raw in enumerate(file.data.splitlines(), 1):
            try:
                row = json.loads(raw)
                name, body = row["custom_id"], row["body"]
                models.add(body["model"])
                place = (row["method"], row["url"])
            except ValueError:
                complain("invalid_json_line", "This line is not parseable as valid JSON.", at)
                continue
            except (LookupError, TypeError):
                complain("missing_required_parameter", "Missing required parameter.", at)
                continue
            if name in names:
                complain("duplicate_custom_id", f"The custom_id '{name}' is not unique.", at)
            if place != ("POST", batch.endpoint):
                complain("invalid_url", "The URL does not match that of the batch.", at)
            names.add(name)
            sha = sha_of(body)
            self.submitted[sha] += 1
            request = Asked(row["url"], asked.headers, body, len(lines), self.submitted[sha])
            lines.append(Line(name, len(lines), batch.number, request))
        if len(models) > 1:
            complain("mismatched_model", "All lines must have the same model.")
        if not lines and not wrong:
            complain("empty_file", "The input file is empty.")
        if len(lines) > MOST_LINES:
            complain("too_many_tasks", f"At most {MOST_LINES} lines in a batch.")
        return lines, wrong

    def _end(self, batch: StoredBatch) -> None:
        end = self._rules.batch_end(batch)
        if batch.errors:
            end = End("failed", errors=batch.errors)
        elif batch.status == "cancelling":
            end = replace(end or End("cancelled"), status="cancelled")
        elif end is None:
            end = End("completed")
        if end.status == "failed":
            batch.errors = end.errors
            batch.become("failed")
            return
        worked = len(batch.lines) if end.status == "completed" else end.worked
        right: list[dict[str, Any]] = []
        wrong: list[dict[str, Any]] = []
        for line in batch.lines[:worked]:
            response = self._response(line)
            (right if response["status_code"] < 400 else wrong).append(_row(line, response))
        if end.status == "expired":
            wrong += [_row(line, None) for line in batch.lines[worked:]]
        for rows, kind in ((right, "output"), (wrong, "error")):
            if rows:
                Random(batch.number).shuffle(rows)
                data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
                file = self._store(f"{batch.id}_{kind}.jsonl", "batch_output", data)
                setattr(batch, f"{kind}_file_id", file.id)
        counts = {"total": len(batch.lines), "completed": len(right), "failed": len(wrong)}
        batch.counts = counts
        batch.usage = _usage(row["response"]["body"] for row in right)
        batch.become("in_progress")
        batch.become("finalizing")
        batch.become(end.status)

    def _response(self, line: Line) -> dict[str, Any]:
        """What the model answers to one line."""
        fault = self._rules.batch_line(line) or self._rules.refusal(line.asked) or Fault()
        body = fault.body
        if fault.works:
            answer = self._work(line.asked, line.custom_id)
            body = answer if body is None else body
        if isinstance(body, bytes):
            body = body.decode()
        name = f"req_{line.batch}_{line.number}"
        return {"status_code": fault.status, "request_id": name, "body": body}


def _row(line: Line, response: dict[str, Any] | None) -> dict[str, Any]:
    """A line of an output or error file; without a response, it is one that expired."""
    expired = {
        "code": "batch_expired",
        "message": "This request could not be executed before the completion window expired.",
    }
    return {
        "id": f"batch_req_{line.batch}_{line.number}",
        "custom_id": line.custom_id,
        "response": response,
        "error": expired if response is None else None,
    }


def _usage(bodies: Any) -> dict[str, Any] | None:
    """The usage of all replies of a batch, in the names that batches have for it."""
    told = [body["usage"] for body in bodies if isinstance(body, dict) and "usage" in body]
    if not told:
        return None
    read = sum(row.get("prompt_tokens_details", {}).get("cached_tokens", 0) for row in told)
    thought = sum(
        row.get("completion_tokens_details", {}).get("reasoning_tokens", 0) for row in told
    )
    return {
        "input_tokens": sum(row["prompt_tokens"] for row in told),
        "input_tokens_details": {"cached_tokens": read},
        "output_tokens": sum(row["completion_tokens"] for row in told),
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": sum(row["total_tokens"] for row in told),
    }


def _page(rows: list[dict[str, Any]], query: dict[str, Any]) -> dict[str, Any]:
    """One page of a list, newest first."""
    if after := query.get("after"):
        rows = rows[[row["id"] for row in rows].index(after) + 1 :]
    page = rows[: int(query.get("limit", 20))]
    ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {
        "object": "list",
        "data": page,
        "first_id": ends[0],
        "last_id": ends[1],
        "has_more": len(rows) > len(page),
    }
