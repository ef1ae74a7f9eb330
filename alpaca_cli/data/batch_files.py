"""The files of the Batch API: requests as lines to upload, and what the lines that come back mean.

What was asked is kept in a file of our own, from which the upload and, after any crash, the
journal rows of the replies are made: whoever comes back needs nothing else. Lines come back in
any order, named by their request.

Networks are not known here: see `alpaca_cli.data.batch_client`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import digest, json_line, read_jsonl, write_jsonl
from alpaca_cli.data.endpoint import Endpoint, judged_status, read_reply, redacted, wire_body
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.teacher import Busy, Reply

MOST_BYTES = 200_000_000  # of an upload. Source: OpenAI's limit
FIELDS = ("n", "tasks", "demonstrations", "body", "opening", "shrink", "note")


def save_requests(path: Path, requests: Iterable[Request]) -> str:
    """Write requests as JSONL, so that they can be read again; returns the file's sha256."""
    write_jsonl(path, ({name: getattr(request, name) for name in FIELDS} for request in requests))
    return digest(path)


def load_requests(path: Path, sha256: str) -> dict[int, Request]:
    """The requests of a file by their numbers, in its order.

    Raises:
        DataError: it is missing, or not the file that was written.
    """
    if digest(path) != sha256:
        raise DataError(f"{path}: not the file that this run has written")
    rows = (row for _, row in read_jsonl(path))
    requests = (Request(**row | {"demonstrations": tuple(row["demonstrations"])}) for row in rows)
    return {request.n: request for request in requests}


def url_of(request: Request) -> str:
    """Where a request of a batch goes, as a line names it."""
    return "/v1/completions" if "prompt" in request.body else "/v1/chat/completions"


def sent_body(request: Request, limit_field: str) -> dict[str, Any]:
    """The body as it would be sent online, without a service tier: a batch is one of its own."""
    body = wire_body(request, limit_field, None)
    extra: dict[str, Any] = body.pop("extra_body", {})
    return body | extra


def upload_line(name: str, request: Request, limit_field: str) -> bytes:
    """The line of a request in the upload of the batch with this name."""
    return json_line(
        {
            "custom_id": f"{name}-{request.n}",
            "method": "POST",
            "url": url_of(request),
            "body": sent_body(request, limit_field),
        }
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one line: a reply, or what went wrong as online."""

    request: Request
    reply: Reply | None
    problem: Exception | None


def whole_lines(file: IO[bytes]) -> int:
    """How many lines a downloaded file has.

    Raises:
        ValueError: a line is torn, or no JSON object for another reason.
    """
    file.seek(0)
    count = 0
    for count, line in enumerate(file, 1):
        if not isinstance(json.loads(line), dict):
            raise ValueError(f"line {count} is not an object")
    file.seek(0)
    return count


def read_results(
    file: IO[bytes], name: str, requests: Mapping[int, Request], endpoint: Endpoint, field: str
) -> Iterator[Result]:
    """What the lines of an output or error file mean, but for lines that are not ours.

    Args:
        file: as checked by `whole_lines`.
        name: of the batch.
        requests: by their numbers.
        field: the name of the length limit with which they were sent.
    """
    for line in file:
        row = json.loads(line)
        batch, _, number = str(row.get("custom_id")).rpartition("-")
        request = requests.get(int(number)) if number.isdecimal() else None
        if batch == name and request is not None:
            reply, problem = _outcome(row, request, endpoint, field)
            yield Result(request, reply, problem)


def _outcome(
    row: Mapping[str, Any], request: Request, endpoint: Endpoint, field: str
) -> tuple[Reply | None, Exception | None]:
    response = row.get("response")
    if not isinstance(response, Mapping):  # expired, or the provider's own failure
        return None, Busy(_told(row, endpoint.key), overload=True)
    status, body = response.get("status_code"), response.get("body")
    if status == 200:
        try:
            reply = read_reply(request, body, endpoint.settings.model)
        except ValueError:
            shown = redacted(str(body)[:200], endpoint.key)
            return None, Busy(f"200, but not a completion: {shown}", maybe_billed=True)
        return reply.told({}, field), None
    error = body.get("error") if isinstance(body, Mapping) else None
    sent = wire_body(request, field, None)
    told = _told(body, endpoint.key)
    number = status if isinstance(status, int) else 500
    return None, judged_status(number, error, told, {}, endpoint.settings, sent)


def _told(body: object, key: str) -> str:
    """The message of an error, in one short line; else whatever there is."""
    error = body.get("error") if isinstance(body, Mapping) else None
    message = error.get("message") if isinstance(error, Mapping) else None
    text = message if isinstance(message, str) else str(error or body)
    return redacted(" ".join(text.split())[:300], key)
