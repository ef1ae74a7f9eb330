"""A real HTTP server that speaks the OpenAI protocol, for tests.

It answers `/v1/chat/completions` and `/v1/completions` as a pure function of the request, with the
embedded teacher's tasks, and the same requests in files and batches; and it keeps a ledger of what
it billed. What goes wrong, and when, is the test's choice: a function from the request as received
to a `Fault`, or None; how the server is otherwise is said by `Rules`, whose names are all
arguments of `TeacherServer`:

    with TeacherServer(lambda a: Fault(500) if a.number == 3 else None, slots=8) as server:
        …  # base_url: server.url
    assert server.billed({"input": 1, "output": 2}) <= cap
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from itertools import count
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply
from tests.serving.batches import ENQUEUED_LIMIT, BatchDesk, End, Line, StoredBatch
from tests.serving.billing import Billed, PromptCache, cost, usage
from tests.serving.limits import Limiter
from tests.serving.sockets import Sockets, gone, read_body
from tests.serving.wire import FLEX_UNAVAILABLE, Asked, Fault, Rules, error, sha_of, words

__all__ = [
    "ENQUEUED_LIMIT",
    "FLEX_UNAVAILABLE",
    "Asked",
    "Billed",
    "End",
    "Fault",
    "Line",
    "Rules",
    "StoredBatch",
    "TeacherServer",
    "cost",
    "error",
]

COMPLETIONS = ("/v1/chat/completions", "/v1/completions")
CLOSING = 5.0  # seconds that answers under way get when the server closes
TICK = 0.01


class TeacherServer:
    """The server, listening on a free port of the loopback while the `with` block lasts.

    Args:
        fault: what goes wrong with a completion; it comes before all limits and rules.
        rules: the fields of `Rules`, by name.

    Attributes:
        asked: every request for a completion in the order of arrival.
        calls: every other request: files, batches, models.
        ledger: all work done, in the order in which it was begun; billed from then on.
        answered: how many got a whole usual answer.
        tokens: prompt and completion tokens of those, as told in their usage.
        most: the highest number of requests for a completion that were being answered at once.
        release: an event that lets go of everything that is held or drips.
    """

    def __init__(
        self, fault: Callable[[Asked], Fault | None] = lambda asked: None, **rules: Any
    ) -> None:
        self.rules = Rules(**rules)
        self.asked: list[Asked] = []
        self.calls: list[Asked] = []
        self.ledger: list[Billed] = []
        self.answered = self.most = 0
        self.tokens: Counter[str] = Counter()
        self.release = threading.Event()
        self._fault = fault
        self._desk = BatchDesk(self.rules, self._work_in_batch)
        self._limiter = Limiter(self.rules.rpm, self.rules.tpm, self.rules.minute)
        self._cache = PromptCache()
        self._lock = threading.Lock()
        self._steps = threading.Semaphore(0)
        self._closing = threading.Event()
        self._seen: Counter[tuple[str, str, str]] = Counter()
        self._busy = self._working = 0
        self._lines = count()
        self._server = Sockets(self.handle)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The `base_url` for clients."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    @property
    def batches(self) -> list[StoredBatch]:
        """Every batch that was ever made, with its lines."""
        return self._desk.batches

    @property
    def submitted(self) -> Counter[str]:
        """How often any batch had a body, by its `Asked.sha`."""
        return self._desk.submitted

    def finish_batches(self) -> None:
        """End every batch that is still open, as it ends by the rules."""
        self._desk.finish()

    def billed(self, price: Mapping[str, float]) -> Decimal:
        """USD for all work done, see `Billed.cost`."""
        return cost(self.ledger, price)

    def step(self, pieces: int = 1) -> None:
        """Let so many more pieces go, of all that drips together."""
        self._steps.release(pieces)

    def __enter__(self) -> TeacherServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Answer what is under way, then close every connection.

        Raises:
            RuntimeError: the server itself failed at a request.
        """
        self._closing.set()
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        deadline = time.monotonic() + CLOSING
        while self._busy and time.monotonic() < deadline:
            time.sleep(TICK)
        self._server.close_all()
        if self._server.broken and kind is None:
            raise RuntimeError("the test server failed") from self._server.broken[0]

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Read one request, and answer it."""
        size = int(handler.headers.get("Content-Length", 0))
        raw = handler.rfile.read(size)
        if len(raw) < size:  # the client died while sending
            handler.close_connection = True
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        url = urlsplit(handler.path)
        body = (
            read_body(headers.get("content-type", ""), raw) if raw else dict(parse_qsl(url.query))
        )
        online = handler.command == "POST" and url.path in COMPLETIONS
        with self._lock:
            key = (handler.command, url.path, sha_of(body))
            self._seen[key] += 1
            into = self.asked if online else self.calls
            asked = Asked(url.path, headers, body, len(into), self._seen[key], handler.command)
            into.append(asked)
            self._busy += online
            self.most = max(self.most, self._busy)
        try:
            if online:
                self._complete(handler, asked)
            else:
                self._other(handler, asked)
        except (BrokenPipeError, ConnectionResetError):
            handler.close_connection = True  # the client was killed, as tests do
        finally:
            with self._lock:
                self._busy -= online

    # --- completions ------------------------------------------------------------------------------

    def _complete(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        fault = self._fault(asked) or self._limited(asked) or self.rules.refusal(asked) or Fault()
        if not fault.works:
            if fault.hold:
                self.release.wait()
            self._send(handler, fault)
            return
        with self._lock:
            full = self.rules.slots is not None and self._working >= self.rules.slots
            self._working += not full
        if full:
            self._send(handler, self._no_slot())
            return
        try:
            answer, place = self._work(asked, None, fault.body)
            latency = self.rules.latency
            self._closing.wait(latency(asked) if callable(latency) else latency)
            if fault.hold:
                self.release.wait()
        finally:
            with self._lock:
                self._working -= 1
        body = answer if fault.body is None and fault.status < 400 else fault.body
        self._send(handler, replace(fault, body=body), place, usual=body is answer)

    def _limited(self, asked: Asked) -> Fault | None:
        return self._limiter.refusal(max(asked.limit or 0, words(asked.text)))

    def _no_slot(self) -> Fault:
        wait = self.rules.retry_after
        headers = {} if wait is None else {"retry-after": f"{wait:g}"}
        code = "rate_limit_exceeded"
        return error(429, "Too many requests at once.", code=code, kind=code, headers=headers)

    def _work(
        self, asked: Asked, custom_id: str | None, told: Any = None
    ) -> tuple[dict[str, Any], int]:
        """The usual answer, billed, and its place in the ledger.

        A fault's own body with a usage is billed at that.
        """
        answer = self.completion(asked)
        with self._lock:
            cached, written = self._cache(asked.text) if self.rules.caching else (0, 0)
            tokens = self._usage(asked, answer, cached, written)
            if self.rules.usage:
                answer["usage"] = tokens
            if isinstance(told, dict) and isinstance(told.get("usage"), dict):
                tokens = told["usage"]
            details = tokens.get("prompt_tokens_details") or {}
            entry = Billed(
                asked.number if custom_id is None else next(self._lines),
                asked.path,
                asked.sha,
                tokens["prompt_tokens"],
                tokens["completion_tokens"],
                details.get("cached_tokens") or 0,
                details.get("cache_write_tokens") or 0,
                answer.get("service_tier"),
                custom_id,
            )
            self.ledger.append(entry)
            return answer, len(self.ledger) - 1

    def _work_in_batch(self, asked: Asked, custom_id: str) -> dict[str, Any]:
        return self._work(asked, custom_id)[0]

    def _usage(
        self, asked: Asked, answer: dict[str, Any], cached: int, written: int
    ) -> dict[str, Any]:
        rules = self.rules
        choice = answer["choices"][0]
        completion = words(choice["text"] if "text" in choice else choice["message"]["content"])
        if callable(rules.completion_tokens):
            completion = rules.completion_tokens(asked)
        elif rules.completion_tokens is not None:
            completion = rules.completion_tokens
        return usage(
            words(asked.text),
            completion + rules.reasoning_tokens,
            cached if rules.caching else None,
            written if rules.cache_writes else None,
            rules.reasoning_tokens,
        )

    def completion(self, asked: Asked) -> dict[str, Any]:
        """The usual answer, in the shape of the endpoint that was asked, without its usage."""
        text, finish_reason = self._written(asked)
        chat = asked.path == COMPLETIONS[0]
        content: dict[str, Any] = (
            {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        )
        answer: dict[str, Any] = {
            "id": f"c{asked.number}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 0,
            "model": asked.body["model"],
            "choices": [{"index": 0, "finish_reason": finish_reason, **content}],
        }
        tier = self.rules.tier(asked) or asked.body.get("service_tier")
        if tier is not None:
            answer["service_tier"] = "default" if tier == "auto" else tier
        return answer

    def _written(self, asked: Asked) -> tuple[str, str | None]:
        """Text and finish reason; cut at the limit of the request."""
        text, finish_reason = self.rules.answer(asked), "stop"
        if text is None:
            prompt = asked.text
            if self.rules.ignores:  # a model that does not write JSON even when told to
                prompt = prompt.replace('{"tasks":', "{tasks:")
            written = reply(prompt, self.rules.mistakes, family_names())
            text, finish_reason = written.text, written.finish_reason or "stop"
        limit = None if asked.limit is None else max(0, asked.limit - self.rules.reasoning_tokens)
        if limit is not None and words(text) > limit:
            text = text[: len(text) - len(text.split(None, limit)[-1])]
            finish_reason = "length"
        return text, finish_reason

    # --- everything else --------------------------------------------------------------------------

    def _other(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        fault = self.rules.batch_fault(asked) or Fault()
        if fault.hold:
            self.release.wait()
        if (fault.body is not None or fault.status != 200) and not fault.after:
            self._send(handler, fault)
            return
        done = self._looked_up(asked) or error(404, f"Invalid URL ({asked.method} {asked.path})")
        if fault.after:
            done = fault
        elif done.status == 200:
            done = replace(done, cut=fault.cut, drip=fault.drip)
        self._send(handler, done)

    def _looked_up(self, asked: Asked) -> Fault | None:
        if asked.path == "/health":
            return Fault(body={"status": "ok"})
        if (asked.method, asked.path) == ("GET", "/v1/models"):
            models = [
                {"id": name, "object": "model", "created": 0, "owned_by": "tests"}
                for name in self.rules.models
            ]
            return Fault(body={"object": "list", "data": models})
        return self._desk.handle(asked)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        fault: Fault,
        place: int | None = None,
        *,
        usual: bool = False,
    ) -> None:
        """Send an answer, whole or as the fault says, and note in the ledger that it went out."""
        body = fault.body
        if body is None:
            body = error(fault.status, f"The test wants a {fault.status}.").body
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if gone(handler.connection):
            raise BrokenPipeError
        handler.send_response(fault.status)
        always = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        for name, value in (always | self._limiter.headers() | dict(fault.headers)).items():
            handler.send_header(name, value)
        handler.end_headers()
        if fault.cut is not None:
            handler.wfile.write(data[: fault.cut])
            handler.close_connection = True
            return
        while fault.drip is not None and len(data) > fault.drip:
            handler.wfile.write(data[: fault.drip])
            data = data[fault.drip :]
            while not self._steps.acquire(timeout=TICK) and not self.release.is_set():
                pass
        if place is None:
            handler.wfile.write(data)
            return
        counts = body.get("usage", {}) if usual else None
        # Noted before, for the client may look at the ledger as soon as it has the last byte.
        self._note(place, counts, delivered=True)
        try:
            handler.wfile.write(data)
        except OSError:
            self._note(place, counts, delivered=False)
            raise

    def _note(self, place: int, usual: dict[str, Any] | None, *, delivered: bool) -> None:
        with self._lock:
            self.ledger[place] = replace(self.ledger[place], delivered=delivered)
            if usual is not None:
                change = 1 if delivered else -1
                self.answered += change
                for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
                    self.tokens[name] += change * usual.get(name, 0)
