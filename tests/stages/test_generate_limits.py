"""Generation within the limits of a real server: slots, quotas, and rests that it asks for."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from email.utils import formatdate
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import TryAgain
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests import processes
from tests.servers import Asked, Fault, TeacherServer


def recipe(server: TeacherServer, **settings: Any) -> Recipe:
    """About 40 requests, 16 in flight; nothing is too similar."""
    teacher = {"kind": "openai", "model": "m", "base_url": server.url}
    teacher |= settings.pop("teacher", {})
    section = {
        "target": 160, "tasks_per_request": 5, "concurrency": 16, "novelty": 1,
        "novelty_key": "instruction+input", "teacher": teacher,
    }  # fmt: skip
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe) -> Report:
    return generate(what, RunFolder(folder), Progress(Console(file=StringIO())))


def kept(folder: Path) -> bytes:
    return (folder / "generate" / "kept.jsonl").read_bytes()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What is kept when nothing limits anything."""
    folder = tmp_path_factory.mktemp("straight")
    with TeacherServer() as server:
        run(folder, recipe(server))
    return kept(folder)


def refused(server: TeacherServer) -> int:
    return len(server.asked) - len(server.ledger)


# --- limits that the server has -------------------------------------------------------------------


def test_a_server_with_fewer_slots_is_kept_busy(tmp_path: Path, straight: bytes) -> None:
    with TeacherServer(slots=4, retry_after=0.05, latency=0.1) as server:
        started = time.monotonic()
        run(tmp_path, recipe(server, target=300))
        seconds = time.monotonic() - started
    assert kept(tmp_path).startswith(straight)
    assert 1 <= refused(server) < 0.75 * len(server.ledger)
    assert seconds < 2 * len(server.ledger) * 0.1 / 4 + 2


def test_a_quota_of_requests_that_is_told_is_kept(tmp_path: Path, straight: bytes) -> None:
    """20 at once and 10 a second: 40 requests take two seconds, and are hardly ever refused."""
    with TeacherServer(rpm=20, minute=2) as server:
        started = time.monotonic()
        run(tmp_path, recipe(server))
        seconds = time.monotonic() - started
    assert kept(tmp_path) == straight
    assert seconds > (len(server.ledger) - 21) / 10
    assert refused(server) <= 16, "the first burst may be too much, nothing after it"
    assert seconds < 2 * (len(server.ledger) - 20) / 10 + 2


def test_a_quota_of_tokens_that_is_told_is_kept(tmp_path: Path, straight: bytes) -> None:
    with TeacherServer(tpm=40_000, minute=2) as server:
        run(tmp_path, recipe(server, teacher={"max_output_tokens": 2000}))
    assert kept(tmp_path) == straight
    assert refused(server) < 2 * len(server.ledger)


def test_a_request_that_is_larger_than_the_quota_ends_in_try_again(tmp_path: Path) -> None:
    with (
        TeacherServer(tpm=500, minute=0.5) as server,
        pytest.raises(TryAgain, match="Request too large"),
    ):
        run(tmp_path, recipe(server, teacher={"patience": 0.5}))
    assert len(server.asked) < 10


# --- limits of the recipe -------------------------------------------------------------------------


def test_no_more_is_sent_than_the_recipe_allows(tmp_path: Path, straight: bytes) -> None:
    """1,200 a minute are 20 a second; five seconds' worth may go out at once."""
    arrived: list[float] = []

    def note(asked: Asked) -> None:
        arrived.append(time.monotonic())

    with TeacherServer(note) as server:
        run(tmp_path, recipe(server, teacher={"rpm": 120}, target=80))
    assert straight.startswith(kept(tmp_path))
    assert len(arrived) >= 15
    for first, start in enumerate(arrived):
        for last, end in enumerate(arrived[first:], first):
            assert last - first <= 10 + 2 * (end - start) + 1.5


# --- rests that are asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "seconds"), [("retry-after-ms", 0.4), ("retry-after", 1.0), ("date", 1.0)]
)
def test_nothing_arrives_before_the_rest_is_over(
    header: str, seconds: float, tmp_path: Path, straight: bytes
) -> None:
    arrived: list[float] = []
    told: list[float] = []

    def fault(asked: Asked) -> Fault | None:
        arrived.append(time.monotonic())
        if asked.number != 3:
            return None
        told.append(arrived[-1])
        if header == "date":  # whole seconds: between one and two from now
            date = formatdate(time.time() + seconds + 1, usegmt=True)
            return Fault(429, headers={"retry-after": date})
        value = seconds * 1000 if header.endswith("ms") else seconds
        return Fault(429, headers={header: f"{value:g}"})

    with TeacherServer(fault) as server:
        run(tmp_path, recipe(server, concurrency=1, target=30))
    assert straight.startswith(kept(tmp_path))
    assert arrived[3] == told[0]
    rest = arrived[4] - arrived[3]
    assert rest >= seconds
    assert rest < 1.1 * (seconds + (header == "date")) + 1


def test_one_rest_holds_up_every_request(tmp_path: Path, straight: bytes) -> None:
    """All sixteen are told to rest, some longer than others; the longest counts."""
    everyone = threading.Barrier(16)
    arrived: list[float] = []
    rests = [0.1, 0.6, 0.3, 0.2]

    def fault(asked: Asked) -> Fault | None:
        arrived.append(time.monotonic())
        if not 1 <= asked.number <= 16:
            return None
        everyone.wait(20)
        return Fault(429, headers={"retry-after": str(rests[asked.number % 4])})

    with TeacherServer(fault) as server:
        run(tmp_path, recipe(server))
    assert kept(tmp_path) == straight
    assert arrived[17] - max(arrived[1:17]) >= 0.6


def test_a_storm_of_overload_is_survived(tmp_path: Path, straight: bytes) -> None:
    """Half of all requests are refused, in four ways, wherever they are."""
    ways = [
        Fault(429, headers={"retry-after-ms": "2"}),
        Fault(503, b"<html>", headers={"retry-after": "0"}),
        Fault(529, headers={"retry-after-ms": "2"}),
        Fault(498, headers={"retry-after-ms": "2"}),
    ]

    def fault(asked: Asked) -> Fault | None:
        chance = random.Random(f"{asked.sha}{asked.attempt}")
        return chance.choice(ways) if chance.random() < 0.5 else None

    with TeacherServer(fault) as server:
        report = run(tmp_path, recipe(server))
    assert kept(tmp_path) == straight
    assert report.failed == 0
    assert refused(server) > 10
    assert report.guessed == 0, "a refusal costs nothing"


def test_ctrl_c_does_not_sit_out_a_rest(tmp_path: Path) -> None:
    rest = Fault(429, headers={"retry-after": "100"})
    with TeacherServer(lambda a: rest if a.number >= 3 else None) as server:
        given = {"teacher.kind": "openai", "teacher.model": "m", "teacher.base_url": server.url}
        sets = [f"--set=generate.{key}={value}" for key, value in given.items()]
        process = processes.start("generate", "--run=run", "--target=999", *sets, cwd=tmp_path)
        journal = tmp_path / "run" / "generate" / "journal.jsonl"
        processes.wait_until(
            process, lambda: len(server.asked) > 3 and b'"reply"' in journal.read_bytes()
        )
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "the same command goes on" in said
    report = json.loads((tmp_path / "run" / "generate" / "report.json").read_text())
    assert report["guessed"] == 0
