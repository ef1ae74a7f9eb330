"""A real HTTP server that speaks the OpenAI protocol, for tests.

It answers `/v1/chat/completions` and `/v1/completions` as a pure function of the request, with the
embedded teacher's tasks, and counts what it would have billed. What goes wrong, and when, is the
test's choice: a function from the request as received to a `Fault`, or None.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply


@dataclass(frozen=True)
class Asked:
    """One request as it arrived; names of headers in lower case.

    Attributes:
        number: how many requests arrived before this one.
        attempt: how often this very body has arrived, this time included.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    number: int
    attempt: int

    @property
    def text(self) -> str:
        if "prompt" in self.body:
            return str(self.body["prompt"])
        return "\n\n".join(message["content"] for message in self.body["messages"])


@dataclass(frozen=True)
class Fault:
    """An answer that is not the usual one.

    Attributes:
        body: bytes as they are, or a value for JSON; None for the usual answer.
        cut: close the connection after this many bytes of the body.
        hold: answer only when the server's `release` is set, or it closes.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: bool = False


class TeacherServer:
    """The server, listening on a free port of the loopback while the `with` block lasts.

    Attributes:
        asked: every request in the order of arrival.
        answered: how many got a whole usual answer.
        tokens: prompt and completion tokens of those, as told in their usage.
        most: the highest number of requests that were being answered at once.
    """

    def __init__(
        self,
        fault: Callable[[Asked], Fault | None] = lambda asked: None,
        *,
        mistakes: float = 0.1,
        usage: bool = True,
        completion_tokens: int | None = None,
    ) -> None:
        self.asked: list[Asked] = []
        self.answered = self.most = 0
        self.tokens: Counter[str] = Counter()
        self.release = threading.Event()
        self._fault, self._mistakes = fault, mistakes
        self._usage, self._completion_tokens = usage, completion_tokens
        self._lock = threading.Lock()
        self._seen: Counter[str] = Counter()
        self._busy = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server._answer(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> TeacherServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        raw = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self._lock:
            self._seen[raw.decode()] += 1
            asked = Asked(
                handler.path,
                {name.lower(): value for name, value in handler.headers.items()},
                json.loads(raw),
                len(self.asked),
                self._seen[raw.decode()],
            )
            self.asked.append(asked)
            self._busy += 1
            self.most = max(self.most, self._busy)
        try:
            self._send(handler, asked, self._fault(asked) or Fault())
        except (BrokenPipeError, ConnectionResetError):
            pass  # the client was killed, as tests do
        finally:
            with self._lock:
                self._busy -= 1

    def _send(self, handler: BaseHTTPRequestHandler, asked: Asked, fault: Fault) -> None:
        if fault.hold:
            self.release.wait()
        body = self.completion(asked) if fault.body is None else fault.body
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(fault.status)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in {"Content-Type": "application/json", **fault.headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if fault.cut is not None:
            handler.wfile.write(data[: fault.cut])
            handler.close_connection = True
            return
        if fault.body is None and fault.status == 200:
            with self._lock:
                self.answered += 1
                self.tokens.update(body.get("usage", {}))
        handler.wfile.write(data)

    def completion(self, asked: Asked) -> dict[str, Any]:
        """The usual answer, in the shape of the endpoint that was asked."""
        answer = reply(asked.text, self._mistakes, family_names())
        chat = asked.path.endswith("/chat/completions")
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": answer.text}}
            if chat
            else {"text": answer.text}
        )
        body = {
            "id": "c",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": asked.body["model"],
            "choices": [{"index": 0, "finish_reason": answer.finish_reason, **content}],
        }
        if self._usage:
            words = len(answer.text.split())
            completion = words if self._completion_tokens is None else self._completion_tokens
            prompt = len(asked.text.split())
            body["usage"] = {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        return body
