"""The sockets of the test server, and the bodies that arrive on them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RDWR, socket
from typing import Any


class Sockets(ThreadingHTTPServer):
    """A free port of the loopback: one thread for each connection, silence when one breaks.

    Attributes:
        broken: what `answer` raised; connections that broke are none of that.
    """

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, answer: Callable[[BaseHTTPRequestHandler], None]) -> None:
        self.broken: list[BaseException] = []
        self._open: set[socket] = set()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                answer(self)

            do_GET = do_DELETE = do_POST

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        failure = sys.exc_info()[1]
        if failure is not None and not isinstance(failure, ConnectionError):
            self.broken.append(failure)

    def close_all(self) -> None:
        """Close the door, and hang up on everyone."""
        self.server_close()
        for connection in list(self._open):
            try:
                connection.shutdown(SHUT_RDWR)
            except OSError:
                continue  # it is closed already


def gone(connection: socket) -> bool:
    """Whether the other end has hung up, so that nothing sent will be read."""
    try:
        return connection.recv(1, MSG_DONTWAIT | MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def read_body(content_type: str, raw: bytes) -> dict[str, Any]:
    """The fields of a body: of JSON, or of a form with files (RFC 7578)."""
    kind, _, boundary = content_type.partition("boundary=")
    if not kind.startswith("multipart/form-data"):
        body: dict[str, Any] = json.loads(raw)
        return body
    fields: dict[str, Any] = {}
    for part in raw.split(b"--" + boundary.strip('"').encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        described = head.decode()
        name = described.partition('name="')[2].partition('"')[0]
        data = data.removesuffix(b"\r\n")
        if 'filename="' in described:
            fields[name] = data
            fields["filename"] = described.partition('filename="')[2].partition('"')[0]
        else:
            fields[name] = data.decode()
    return fields
