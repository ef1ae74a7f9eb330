"""A real HTTP server that streams chat completions, for tests of whoever talks to a model.

    with ChatServer(lambda body: "Hello *you*.") as server:
        …  # base_url: server.url; server.asked holds the bodies that arrived

What it says is the test's choice, and so is what goes wrong: see `Manner`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.serving.sockets import Sockets, gone

Body = dict[str, Any]


@dataclass(frozen=True)
class Manner:
    """How a request is answered.

    Attributes:
        size: characters of the reply in one chunk.
        pace: chunks that are sent at once; each further one waits for `server.step()`, or for the
            client to leave.
        reasoning: sent before the reply, as servers of reasoning models do.
        usage: tell it, where it is asked for.
        finish_reason: None tells none.
        drop: close the connection after so many chunks, in the middle of the stream.
        fails: an error in the stream after so many chunks.
        status: other than 200: answer with `error` and `headers`, and with nothing else.
        page: answer with this HTML, and status 200.
    """

    size: int = 4
    pace: int | None = None
    reasoning: str = ""
    usage: bool = True
    finish_reason: str | None = "stop"
    drop: int | None = None
    fails: int | None = None
    status: int = 200
    error: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    page: str = ""


class ChatServer:
    """The server, on a free port of the loopback while the `with` block lasts.

    Args:
        say: the reply to a body.
        manner: how it is given; a function of the body, or always the same.

    Attributes:
        asked: the bodies that arrived.
        headers: those of the requests, names in lower case.
        left: how many clients hung up before their reply was whole.
    """

    def __init__(
        self, say: Callable[[Body], str], manner: Manner | Callable[[Body], Manner] = Manner()
    ) -> None:
        self.asked: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.left = 0
        self.hung_up = threading.Event()
        self._say, self._manner = say, manner
        self._steps = threading.Semaphore(0)
        self._server = Sockets(self._handle)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The `base_url` for clients."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def step(self, chunks: int = 1) -> None:
        """Let so many more chunks go."""
        self._steps.release(chunks)

    def __enter__(self) -> ChatServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._steps.release(1 << 20)
        self._server.shutdown()
        self._thread.join()
        self._server.close_all()
        if self._server.broken and kind is None:
            raise RuntimeError("the test server failed") from self._server.broken[0]

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        body: Body = json.loads(raw)
        self.asked.append(body)
        self.headers.append({name.lower(): value for name, value in handler.headers.items()})
        manner = self._manner(body) if callable(self._manner) else self._manner
        if manner.status != 200 or manner.page:
            told = manner.page.encode() or json.dumps({"error": manner.error}).encode()
            kind = "text/html" if manner.page else "application/json"
            headers = {"Content-Type": kind, "Content-Length": str(len(told)), **manner.headers}
            self._begin(handler, manner.status, headers)
            handler.wfile.write(told)
            return
        self._begin(
            handler, 200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        )
        try:
            self._stream(handler, body, manner)
        except ConnectionError:
            self._hang_up(handler)

    def _begin(
        self, handler: BaseHTTPRequestHandler, status: int, headers: Mapping[str, str]
    ) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    def _stream(self, handler: BaseHTTPRequestHandler, body: Body, manner: Manner) -> None:
        for number, event in enumerate(self._events(body, manner)):
            if number in (manner.drop, manner.fails):
                if number == manner.fails:
                    self._send(handler, {"error": dict(manner.error)})
                handler.close_connection = True
                return
            if manner.pace is not None and number >= manner.pace:
                while not self._steps.acquire(timeout=0.02):
                    if gone(handler.connection):
                        self._hang_up(handler)
                        return
            self._send(handler, event)
        while manner.pace is not None and self._steps.acquire(blocking=False):
            continue  # steps beyond the end are none of the next reply's
        self._write(handler, b"data: [DONE]\n\n")
        self._write(handler, b"")

    def _hang_up(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        self.left += 1
        self.hung_up.set()

    def _events(self, body: Body, manner: Manner) -> Iterator[Body]:
        text = self._say(body)
        chunk: Body = {"id": "c", "object": "chat.completion.chunk", "model": body["model"]}
        deltas: list[Body] = [{"role": "assistant", "content": ""}]
        if manner.reasoning:
            deltas.append({"reasoning_content": manner.reasoning, "content": None})
        deltas += [
            {"content": text[at : at + manner.size]} for at in range(0, len(text), manner.size)
        ]
        for delta in deltas:
            yield chunk | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        if manner.finish_reason is not None:
            end = {"index": 0, "delta": {}, "finish_reason": manner.finish_reason}
            yield chunk | {"choices": [end]}
        if manner.usage and body.get("stream_options", {}).get("include_usage"):
            yield chunk | {"choices": [], "usage": usage_of(body, text)}

    def _send(self, handler: BaseHTTPRequestHandler, event: Body) -> None:
        self._write(handler, f"data: {json.dumps(event)}\n\n".encode())

    def _write(self, handler: BaseHTTPRequestHandler, data: bytes) -> None:
        handler.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        handler.wfile.flush()


def usage_of(body: Body, text: str) -> dict[str, int]:
    """Tokens of an exchange, which are words here."""
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    answer = len(text.split())
    return {
        "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer,
    }  # fmt: skip


def failing(status: int, message: str, **error: Any) -> Manner:
    """An error in the shape that OpenAI gives it; `headers` beside it."""
    headers = error.pop("headers", {})
    told = {"message": message, "type": "invalid_request_error", "code": None, **error}
    return replace(Manner(), status=status, error=told, headers=headers)
