"""The endpoint of the generation benchmark: chat completions that all take the same time.

    python benchmarks/generate_server.py [--latency 2] [--port 0] [--replies 500] [--tasks 20]

A process of its own, so that a client's CPU time is its own. It has no limits: with N requests in
flight it does N / latency a second. It prints its URL once it takes requests.

Replies are made beforehand: JSON of so many tasks, about as long as those of real teachers, with
instructions of `dedup_corpus.py` (some of them near-duplicates, as teachers write them) and words
of the same kind as inputs and outputs. The embedded teacher's own tasks would not do: after some
hundred requests it has nothing new to say. A request gets the next reply that is not taken, the
same request the same reply again; when all are taken, they start over.

`GET /state` tells how many requests were answered since the last such question, how many were in
flight at most, how many a second in the middle half of them, and the seconds of CPU that the
server has used for them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import time
from functools import partial
from itertools import islice

from dedup_corpus import make_corpus

from alpaca_cli.core.records import Example
from alpaca_cli.data.prompts import render_json

TEXTS_IN_OUTPUT, TEXTS_IN_INPUT = 4, 2  # of 12 words
INPUTS = (True, False, False, True, False)  # two in five tasks have one, as in Alpaca's data


def make_replies(replies: int, tasks: int) -> list[str]:
    """So many different replies of so many tasks each."""
    texts = [" ".join(tokens).capitalize() + "." for tokens in make_corpus(replies * tasks, 12)]
    # What follows instruction n are words of other instructions, far enough to be others.
    words = iter(texts * (TEXTS_IN_OUTPUT + TEXTS_IN_INPUT))
    made = [
        Example(
            instruction,
            " ".join(islice(words, TEXTS_IN_INPUT)) if INPUTS[n % len(INPUTS)] else "",
            " ".join(islice(words, TEXTS_IN_OUTPUT)),
        )
        for n, instruction in enumerate(texts)
    ]
    return [render_json(made[n : n + tasks]) for n in range(0, len(made), tasks)]


def completion(text: str) -> tuple[bytes, int]:
    """The body of a reply up to its usage, and its tokens; four bytes are one."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    head = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
    body = json.dumps(head | {"choices": [choice], "usage": None}).encode()
    return body.removesuffix(b"null}"), len(text.encode()) // 4


class Replies:
    """What is answered, and what was asked so far."""

    def __init__(self, made: list[str], latency: float) -> None:
        self.latency = latency
        self.in_flight = self.most = 0
        self.answered: list[float] = []  # when
        self._cpu = time.process_time()
        self._made = [completion(text) for text in made]
        self._taken: dict[str, int] = {}

    def __call__(self, body: bytes) -> bytes | None:
        """The reply to a request; None when it has no messages."""
        messages = json.dumps(json.loads(body).get("messages", []))
        if messages == "[]":
            return None
        number = self._taken.setdefault(messages, len(self._taken)) % len(self._made)
        text, written = self._made[number]
        read = len(messages) // 4
        usage = {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
        }
        return text + json.dumps(usage).encode() + b"}"

    def state(self) -> bytes:
        times, cpu = self.answered, time.process_time()
        middle = times[len(times) // 4 : 3 * len(times) // 4 + 1]
        told = {
            "answered": len(times),
            "most": self.most,
            "rate": (len(middle) - 1) / (middle[-1] - middle[0]) if len(middle) > 1 else 0.0,
            "cpu": cpu - self._cpu,
        }
        self.answered, self.most, self._cpu = [], self.in_flight, cpu
        return json.dumps(told).encode()


class Connection(asyncio.Protocol):
    """One connection, kept open; a request at a time."""

    def __init__(self, replies: Replies) -> None:
        self._replies = replies
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            size = int(head.partition(b"\r\ncontent-length:")[2].split(b"\r\n")[0] or 0)
            if len(self._read) < end + 4 + size:
                return
            body = self._read[end + 4 : end + 4 + size]
            self._read = self._read[end + 4 + size :]
            self._asked(head.split(b" ", 2)[1], body)

    def _asked(self, path: bytes, body: bytes) -> None:
        replies = self._replies
        if path == b"/state":
            self._send(b"200 OK", replies.state())
        elif not path.endswith(b"/chat/completions"):
            self._send(b"404 Not Found", b'{"error": {"message": "no such path"}}')
        elif (reply := replies(body)) is None:
            self._send(b"400 Bad Request", b'{"error": {"message": "no messages"}}')
        else:
            replies.in_flight += 1
            replies.most = max(replies.most, replies.in_flight)
            asyncio.get_running_loop().call_later(replies.latency, self._answer, reply)

    def _answer(self, reply: bytes) -> None:
        self._replies.in_flight -= 1
        self._replies.answered.append(time.monotonic())
        self._send(b"200 OK", reply)

    def _send(self, status: bytes, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\n"
            b"Content-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body
        )


async def serve(replies: Replies, port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(partial(Connection, replies), "127.0.0.1", port, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--latency", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--replies", type=int, default=500, help="different ones")
    parser.add_argument("--tasks", type=int, default=20, help="in a reply")
    options = parser.parse_args()
    replies = Replies(make_replies(options.replies, options.tasks), options.latency)
    gc.freeze()  # the replies are no garbage, and need not be looked through
    asyncio.run(serve(replies, options.port))


if __name__ == "__main__":
    main()
