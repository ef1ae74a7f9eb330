"""alpaca generate against the bare `openai` SDK and curator, on one server, in one run.

    python benchmarks/generate.py [--in-flight 8,64,256] [--rounds 12] [--latency 2]
                                  [--curator PYTHON]
    python benchmarks/generate.py --memory [--requests 10000]
    python benchmarks/generate.py --52k [--target 52000]

The server (`generate_server.py`) answers every request after the same time, any number at once, so
a perfect client needs rounds x latency. Told are the share of that which each client reaches, from
its first to its last instant and in the middle half of the replies, where starting slowly and
running out count for nothing; and the CPU time of its process per request. Every client gets the
same requests and replies, in a process of its own, and one request first, off the clock, for
imports.

The bare loop is a semaphore and `asyncio.gather` over the SDK client that alpaca uses, and keeps
nothing. alpaca also builds the requests, journals what is sent and every reply durably, parses
and filters twenty tasks of each, and compares them by ROUGE-L with everything kept. Its first
request is the one that settles how to ask, as in every run that goes on; `from nothing` has that
request, which is alone in flight, on the clock. curator (`generate_peers.py`) is asked when
`--curator` names an interpreter that has it.

`--memory`: what the process keeps over many requests: with replies that are new, with few that
come again and again, and with few of one task; so what a request, an example kept and one rejected
leave behind can be told apart. `--52k`: the recipe as users run it, but for the URL; and a replay.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.request import urlopen

import numpy as np
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import OpenAITeacher
from alpaca_cli.data.endpoint import wire_body
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.data.teacher import open_client
from alpaca_cli.stages import generate
from alpaca_cli.stages.asking import ask
from alpaca_cli.stages.generation import Generation

Result = TypeVar("Result")

HERE = Path(__file__).parent
MEMORY_IN_FLIGHT, MEMORY_LATENCY = 256, 0.5
MARKS = (0.1, 0.25, 0.5, 1.0)  # of the requests, where memory is told
FEW = 50  # replies that come again and again
YIELD = 12  # examples that a request of 20 tasks keeps at least, to have replies enough


class Clock(NamedTuple):
    """Seconds, and those of CPU in all threads."""

    seconds: float
    cpu: float


class Measured(NamedTuple):
    """What a client did: its time, and what it made of the replies."""

    clock: Clock
    result: str


@contextmanager
def serving(latency: float, replies: int, tasks: int = 20) -> Iterator[str]:
    """The server; yields its URL."""
    command = [sys.executable, str(HERE / "generate_server.py"), "--latency", str(latency)]
    command += ["--replies", str(replies), "--tasks", str(tasks)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def state(url: str) -> dict[str, float]:
    """What the server tells about itself."""
    with urlopen(url.removesuffix("/v1") + "/state") as reply:
        told: dict[str, float] = json.load(reply)
        return told


def recipe(
    url: str, requests: int, in_flight: int, *, novelty: float = 0.7, tasks: int = 20
) -> Recipe:
    section = {
        "teacher": {"kind": "openai", "model": "m", "base_url": url},
        "concurrency": in_flight, "max_requests": requests, "novelty": novelty,
        "tasks_per_request": tasks, "target": 10**9, "min_yield": 0,
    }  # fmt: skip
    return Recipe.model_validate({"generate": section})


# --- throughput -----------------------------------------------------------------------------------


def throughput(in_flight: Sequence[int], rounds: int, latency: float, curator: str) -> None:
    """Print a table of all clients for each number of requests in flight."""
    with serving(latency, rounds * max(in_flight) + 1) as url:
        for concurrency in in_flight:
            requests = rounds * concurrency
            print(f"\n{requests:,} requests, {concurrency} in flight, {latency:g} s each")
            heads = ("seconds", "of ideal", "middle half", "CPU/request", "beyond SDK", "in flight")
            print(f"{'':34}" + "".join(f"{head:>13}" for head in heads))
            sdk = 0.0
            for name, client in CLIENTS.items():
                if name == "curator" and not curator:
                    print(f"{name:34}  not asked: --curator PYTHON")
                    continue
                state(url)
                clock, result = in_process_of_its_own(client, url, requests, concurrency, curator)
                seen = state(url)
                cpu = clock.cpu / requests * 1000
                sdk = sdk or cpu
                print(
                    f"{name:34}{clock.seconds:13.1f}{rounds * latency / clock.seconds:13.1%}"
                    f"{seen['rate'] * latency / concurrency:13.1%}{cpu:10.2f} ms"
                    f"{cpu - sdk:+10.2f} ms{seen['most']:13.0f}  {result}",
                    flush=True,
                )
            each = seen["cpu"] / seen["answered"] * 1000
            print(f"the server itself: {each:.2f} ms of CPU per request")


def in_process_of_its_own(work: Callable[..., Result], *arguments: object) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(work, *arguments).result()


def timed(work: Callable[[], Result]) -> tuple[Clock, Result]:
    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Clock(time.perf_counter() - started, time.process_time() - cpu), result


def bare(url: str, requests: int, in_flight: int, curator: str) -> Measured:
    """The SDK as its documentation shows it."""
    first, *bodies = request_bodies(url, requests + 1)
    teacher = recipe(url, 1, 1).generate.teacher
    assert isinstance(teacher, OpenAITeacher)

    async def work(bodies: list[dict[str, Any]]) -> int:
        gate = asyncio.Semaphore(in_flight)
        async with open_client(teacher, in_flight) as (client, _):

            async def one(body: dict[str, Any]) -> bool:
                async with gate:
                    completion = await client.chat.completions.create(**body)
                    return bool(completion.choices[0].message.content)

            return sum(await asyncio.gather(*map(one, bodies)))

    asyncio.run(work([first]))
    clock, replies = timed(lambda: asyncio.run(work(bodies)))
    return Measured(clock, f"{replies:,} replies")


def request_bodies(url: str, requests: int) -> list[dict[str, Any]]:
    """The first requests of a run, as they travel."""
    work = Generation(recipe(url, requests, 1), load_seeds("builtin"))
    return [wire_body(work.request(n), "max_tokens", None) for n in range(requests)]


def settled(url: str, requests: int, in_flight: int, curator: str) -> Measured:
    """A run that goes on after one request."""
    with tempfile.TemporaryDirectory() as folder:
        run(recipe(url, 1, in_flight), folder)
        clock, report = timed(lambda: run(recipe(url, requests + 1, in_flight), folder))
    return Measured(clock, f"{report['kept']:,} examples kept")


def no_novelty(url: str, requests: int, in_flight: int, curator: str) -> Measured:
    """The same, but only word-for-word repeats are rejected."""
    with tempfile.TemporaryDirectory() as folder:
        run(recipe(url, 1, in_flight, novelty=1.0), folder)
        clock, report = timed(
            lambda: run(recipe(url, requests + 1, in_flight, novelty=1.0), folder)
        )
    return Measured(clock, f"{report['kept']:,} examples kept")


def from_nothing(url: str, requests: int, in_flight: int, curator: str) -> Measured:
    """A whole run."""
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as folder:
        run(recipe(url, 1, in_flight), warm)
        clock, report = timed(lambda: run(recipe(url, requests, in_flight), folder))
    return Measured(clock, f"{report['kept']:,} examples kept")


def run(what: Recipe, folder: str) -> dict[str, Any]:
    """A generation up to `max_requests` in a run folder; returns its report."""
    progress = Progress(Console(file=StringIO()), quiet=True)
    with suppress(BudgetStop):  # max_requests
        generate.run(what, RunFolder(Path(folder)), progress)
    report: dict[str, Any] = json.loads(Path(folder, "generate", "report.json").read_text())
    assert report["requests"] == what.generate.max_requests
    return report


def curator(url: str, requests: int, in_flight: int, python: str) -> Measured:
    """See `generate_peers.py`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "requests.json").write_text(json.dumps(request_bodies(url, requests + 1)))
        command = [python, str(HERE / "generate_peers.py"), url, str(in_flight)]
        command += [str(folder / "requests.json"), str(folder / "result.json")]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE)
        if done.returncode:
            sys.exit(done.stderr.decode()[-3000:])
        told = json.loads((folder / "result.json").read_text())
    clock = Clock(told["seconds"], told["cpu"])
    return Measured(clock, f"{told['replies']:,} replies")


CLIENTS: dict[str, Callable[[str, int, int, str], Measured]] = {
    "bare AsyncOpenAI loop": bare,
    "alpaca generate": settled,
    "alpaca generate, no novelty check": no_novelty,
    "alpaca generate, from nothing": from_nothing,
    "curator": curator,
}


# --- memory ---------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """What a run has kept so far, and the bytes of memory that its process holds."""

    requests: int
    kept: int
    rejected: int
    resident: int


def memory(requests: int) -> None:
    """Print how memory grows over the requests, and what each thing takes that is kept."""
    grown = []
    for replies, tasks in ((requests, 20), (FEW, 20), (FEW, 1)):
        with serving(MEMORY_LATENCY, replies, tasks) as url:
            samples = in_process_of_its_own(remembered, url, requests, tasks)
        print(f"\n{replies:,} different replies of {tasks} tasks, {MEMORY_IN_FLIGHT} in flight")
        print("".join(f"{head:>12}" for head in ("requests", "kept", "rejected", "resident")))
        for sample in samples:
            *counts, resident = sample
            print("".join(f"{count:12,}" for count in counts) + f"{mebibytes(resident):>12}")
        grown.append(np.subtract(samples[-1], samples[0]))
    table = np.array(grown, dtype=float)
    request, kept, rejected = np.linalg.solve(table[:, :3], table[:, 3])
    print(
        f"\nbytes that stay: {request:,.0f} of a request, {kept:,.0f} of an example kept, "
        f"{rejected:,.0f} of one rejected"
    )


def remembered(url: str, requests: int, tasks: int) -> list[Sample]:
    """Samples of a run at each of `MARKS`."""
    what = recipe(url, requests, MEMORY_IN_FLIGHT, tasks=tasks)
    work = Generation(what, load_seeds("builtin"))
    samples: list[Sample] = []

    def tick() -> None:
        if len(samples) < len(MARKS) and work.pool.requests >= MARKS[len(samples)] * requests:
            samples.append(sample(work))

    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder, "journal.jsonl")) as journal:
        progress = Progress(Console(file=StringIO()), quiet=True)
        asyncio.run(ask(work, journal, progress.info, tick))
    tick()
    return samples


def sample(work: Generation) -> Sample:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    pool = work.pool
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    return Sample(pool.requests, len(pool.kept), sum(pool.reasons.values()), resident)


def mebibytes(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


# --- the whole recipe -----------------------------------------------------------------------------


def whole(target: int, latency: float) -> None:
    """Print what the recipe 52k takes on the local server, and then a replay of its journal."""
    with tempfile.TemporaryDirectory() as folder, serving(latency, 20 + target // YIELD) as url:
        command = [sys.executable, "-m", "alpaca_cli", "generate", "--recipe", "52k", "--quiet"]
        command += ["--json", "--set", f"generate.teacher.base_url={url}"]
        command += ["--run", folder, "--target", str(target)]
        report = told("recipe 52k", command)
        stage = Path(folder, "generate")
        for name in ("journal.jsonl", "kept.jsonl", "rejected.jsonl"):
            print(f"{name:16}{mebibytes((stage / name).stat().st_size):>12}")
        for name in ("requests", "kept", "candidates", "rejected", "tokens", "cost"):
            print(f"{name:16}{report[name]}")
        before = stage / "kept.before"
        (stage / "kept.jsonl").rename(before)  # what is missing is derived again
        again = told("its replay", [*command, "--replay"])
        same = before.read_bytes() == (stage / "kept.jsonl").read_bytes()
        differs = "the same" if same else "DIFFERS"
        print(f"{again['replayed']:,} replies replayed; kept.jsonl {differs}")


def told(name: str, command: list[str]) -> dict[str, Any]:
    """Run a command, print what it took, and return what it printed."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{name}: exit {process.returncode}")
        output.seek(0)
        report: dict[str, Any] = json.load(output)
    peak = used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024
    print(
        f"\n{name}: {time.perf_counter() - started:,.1f} s, {used.ru_utime + used.ru_stime:,.1f} s "
        f"of CPU, {mebibytes(peak)} of memory at most"
    )
    return report


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--in-flight", default="8,64,256", metavar="N,N,…")
    parser.add_argument("--rounds", type=int, default=12, help="requests of each in flight")
    parser.add_argument("--latency", type=float, default=2.0, metavar="SECONDS")
    parser.add_argument("--curator", default="", metavar="PYTHON", help="an interpreter with it")
    parser.add_argument("--memory", action="store_true", help="over many requests")
    parser.add_argument("--requests", type=int, default=10_000, help="for --memory")
    parser.add_argument("--52k", dest="whole", action="store_true", help="a whole recipe")
    parser.add_argument("--target", type=int, default=52_000, help="for --52k")
    return parser.parse_args(given)


def main() -> None:
    options = arguments()
    if options.memory:
        memory(options.requests)
    elif options.whole:
        whole(options.target, options.latency)
    else:
        in_flight = [int(number) for number in options.in_flight.split(",")]
        throughput(in_flight, options.rounds, options.latency, options.curator)


if __name__ == "__main__":
    main()
