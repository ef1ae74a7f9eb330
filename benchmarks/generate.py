"""alpaca generate against a bare `AsyncOpenAI` loop, on the same requests and server, in one run.

    python benchmarks/generate.py [requests] [concurrency] [seconds of latency]

The server is a process of its own, takes any number of requests at once and answers each after a
fixed time, so a perfect client needs ceil(requests / concurrency) x latency. Told are how much of
the server's capacity each client used, and the CPU time per request of its process. The peer only
sends and receives: a semaphore and `asyncio.gather`, the SDK's own parsing, nothing kept. Ours
also builds the requests, journals every reply durably, parses and filters twenty tasks of each,
and compares them by ROUGE-L with everything kept (shown with and without that comparison).
"""

from __future__ import annotations

import asyncio
import json
import math
import multiprocessing
import sys
import tempfile
import time
from contextlib import suppress
from hashlib import sha256
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path

import openai
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply
from alpaca_cli.data.prompts import RequestBuilder
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.data.teacher import wire_body
from alpaca_cli.stages import generate

REPLIES = 500  # different ones, made before the clock starts


def serve(latency: float, made: list[bytes], ready: Connection) -> None:
    """A minimal HTTP server with keep-alive; a reply is a function of the request's bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                arrived = time.monotonic()
                size = next(
                    int(line.split(b":")[1])
                    for line in head.lower().splitlines()
                    if line.startswith(b"content-length")
                )
                body = await reader.readexactly(size)
                number = int.from_bytes(sha256(body).digest()[:4]) % len(made)
                await asyncio.sleep(latency - (time.monotonic() - arrived))
                writer.write(made[number])
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def work() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1024)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(work())


def http_reply(text: str) -> bytes:
    """A chat completion as it travels."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 900, "completion_tokens": 2000, "total_tokens": 2900}
    completion = {"id": "c", "object": "chat.completion", "created": 0, "model": "m"}
    body = json.dumps(completion | {"choices": [choice], "usage": usage}).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def recipe(url: str, requests: int, concurrency: int) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": url}
    section = {
        "teacher": teacher, "concurrency": concurrency, "max_requests": requests,
        "target": 10**9, "min_yield": 0, "novelty_key": "instruction+input",
    }  # fmt: skip
    return Recipe.model_validate({"generate": section})


def ours(what: Recipe) -> int:
    """A whole generation into a new folder; returns how many examples were kept."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Console(file=StringIO()), quiet=True)
        with suppress(BudgetStop):  # max_requests
            generate.run(what, RunFolder(Path(folder)), progress)
        report = json.loads((Path(folder) / "generate" / "report.json").read_text())
        assert report["requests"] == what.generate.max_requests
        return int(report["kept"])


def bare(what: Recipe) -> int:
    """The same requests, sent by the SDK as its documentation shows; returns how many replies."""
    settings = what.generate
    build = RequestBuilder(settings, what.seed, load_seeds("builtin"))
    bodies = [wire_body(build(n).body, "max_tokens") for n in range(settings.max_requests or 0)]

    async def work() -> int:
        gate = asyncio.Semaphore(settings.concurrency)
        url = getattr(settings.teacher, "base_url", None)
        async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:

            async def one(body: dict[str, object]) -> bool:
                async with gate:
                    completion = await client.chat.completions.create(**body)  # type: ignore[call-overload]  # plain data
                    return bool(completion.choices[0].message.content)

            return sum(await asyncio.gather(*map(one, bodies)))

    return asyncio.run(work())


def main(requests: int = 256, concurrency: int = 64, latency: float = 10.0) -> None:
    build = RequestBuilder(recipe("http://x/v1", 1, 1).generate, 0, load_seeds("builtin"))
    known = family_names()
    made = [http_reply(reply(build(n).text, 0.02, known).text) for n in range(REPLIES)]
    here, there = multiprocessing.Pipe()
    server = multiprocessing.Process(target=serve, args=(latency, made, there), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    what = recipe(url, requests, concurrency)
    bare(recipe(url, 8, 8))  # imports, off the clock
    ideal = math.ceil(requests / concurrency) * latency
    print(f"{requests} requests, {concurrency} in flight, {latency} s each: ideal {ideal:.1f} s")
    cpu = {}
    plain = what.model_copy(update={"generate": what.generate.model_copy(update={"novelty": 1.0})})
    for name, client, asked in (
        ("bare AsyncOpenAI", bare, what),
        ("alpaca, no ROUGE-L", ours, plain),
        ("alpaca generate", ours, what),
    ):
        began, burned = time.perf_counter(), time.process_time()
        count = client(asked)
        wall = time.perf_counter() - began
        cpu[name] = (time.process_time() - burned) / requests * 1000
        kept = f"{count:,} {'replies dropped' if name.startswith('bare') else 'examples kept'}"
        print(
            f"{name:18} {wall:6.1f} s = {ideal / wall:6.1%} of capacity · "
            f"{cpu[name]:5.2f} ms CPU per request · {kept}"
        )
    server.terminate()
    first, *ours_ = cpu
    for name in ours_:
        print(f"{name:18} {cpu[name] - cpu[first]:+.2f} ms of CPU per request beyond the SDK")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:2]), *map(float, given[2:]))
