"""What stands between the network and the page: who may ask, for what, and what a page may do.

gradio serves far more than a chat page needs: uploads, files, a proxy, an API with its
documentation, run histories on a hub. Here everything is refused but the few paths that the page
asks for. Answers carry a Content-Security-Policy, so that text of a model that got past the
sanitiser of the page still could not run a script or reach another machine.

An ASGI application around another one; neither gradio nor the chat is known here.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from alpaca_cli.stages.listening import is_loopback

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST = 1 << 20  # bytes in the body of a request
# What gradio 6.31's page asks for, and its login.
PATHS = {
    "GET": {
        "/", "/config", "/theme.css", "/manifest.json", "/favicon.ico", "/robots.txt", "/logout",
        "/gradio_api/queue/data", "/gradio_api/startup-events",
    },
    "POST": {"/gradio_api/queue/join", "/login", "/login/"},
}  # fmt: skip
FOLDERS = ("/assets/", "/static/", "/svelte/", "/gradio_api/heartbeat/")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """The guarded application.

    Args:
        app: what is guarded.
        any_host: False lets only names of this machine in as the host that is asked for, so that
            a page of another site cannot reach us through a name of its own that points here.
    """

    def __init__(self, app: App, *, any_host: bool) -> None:
        self._app, self._any_host = app, any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return None  # the page opens no sockets of its own
        refused = self._refusal(scope)
        if refused is not None:
            return await _say(send, *refused)
        nonce = secrets.token_urlsafe(16)
        if scope["path"] == "/":
            # The page is changed on its way, which needs it uncompressed.
            kept = [pair for pair in scope["headers"] if pair[0] != b"accept-encoding"]
            return await self._app({**scope, "headers": kept}, receive, _Marked(send, nonce))
        return await self._app(scope, receive, _with_headers(send, nonce))

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, or None for a request that may pass."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if not self._any_host and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            return 403, "this page is for this machine only"
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, "another site may not ask here"
        method, path = scope["method"], scope["path"]
        if method == "HEAD":
            method = "GET"
        if path not in PATHS.get(method, ()) and not (
            method == "GET" and path.startswith(FOLDERS) and ".." not in path
        ):
            return 404, "not here"
        if method == "POST" and not _small(headers.get(b"content-length")):
            return 413, "too long"
        return None


def _small(length: str | None) -> bool:
    return length is not None and length.isdecimal() and int(length) <= LARGEST


def policy(nonce: str) -> str:
    """The Content-Security-Policy: everything from here, scripts only where marked by the nonce."""
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src 'self' 'nonce-{nonce}'",
            "style-src 'self' 'unsafe-inline'",
            "img-src 'self' data:",
            "font-src 'self' data:",
            "connect-src 'self'",
            "manifest-src 'self'",
            "form-action 'self'",
            "base-uri 'self'",
            "frame-ancestors 'none'",
        )
    )


def _with_headers(send: Send, nonce: str) -> Send:
    async def forward(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *_headers(nonce)]}
        await send(message)

    return forward


def _headers(nonce: str) -> Iterable[tuple[bytes, bytes]]:
    for name, value in {**HEADERS, "Content-Security-Policy": policy(nonce)}.items():
        yield name.lower().encode(), value.encode()


class _Marked:
    """Collects a page and marks its own scripts with the nonce before it is sent."""

    def __init__(self, send: Send, nonce: str) -> None:
        self._send, self._nonce = send, nonce
        self._start: Message = {}
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = self._body.replace(b"<script", f'<script nonce="{self._nonce}"'.encode())
        kept = [pair for pair in self._start.get("headers", ()) if pair[0] != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        headers = [*kept, length, (b"cache-control", b"no-store"), *_headers(self._nonce)]
        await self._send({**self._start, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


async def _say(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_headers("")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
