"""`kill -9` at many random instants, with 32 requests in flight and an endpoint that is no better
than real ones: the same files in the end, and nothing that arrived is asked for again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.generate import run as generate
from alpaca_cli.stages.generation import Generation
from tests.forks import Forks
from tests.servers import Asked, Fault, TeacherServer

KILLS = 50
CONCURRENCY = 32
TARGET = 2000
TORN = b'{"n": 7, "kind": "re'  # what a crash in the middle of a write leaves
FAULTS = [
    (0.05, Fault(429, headers={"retry-after-ms": "5"})),
    (0.08, Fault(503, b"<html>", headers={"retry-after-ms": "5"})),
    (0.10, Fault(cut=60)),
    (0.12, Fault(200, b"<html>gateway</html>")),
]


def fault(asked: Asked) -> Fault | None:
    """One attempt in eight fails, of first attempts and of later ones alike."""
    chance = random.Random(f"{asked.sha}{asked.attempt}").random()
    return next((what for share, what in FAULTS if chance < share), None)


def latency(asked: Asked) -> float:
    return random.Random(asked.sha).random() * 0.03


def settings(server: TeacherServer) -> dict[str, Any]:
    return {
        "target": TARGET,
        "tasks_per_request": 5,
        "concurrency": CONCURRENCY,
        "novelty": 1,
        "novelty_key": "instruction+input",
        "teacher.kind": "openai",
        "teacher.model": "m",
        "teacher.base_url": server.url,
    }


def recipe(server: TeacherServer) -> Recipe:
    given = settings(server)
    teacher = {name.partition(".")[2]: given.pop(name) for name in list(given) if "." in name}
    return Recipe.model_validate({"generate": given | {"teacher": teacher}})


def command(server: TeacherServer, folder: Path) -> list[str]:
    sets = [f"--set=generate.{name}={value}" for name, value in settings(server).items()]
    return ["generate", f"--run={folder}", *sets]


def outputs(folder: Path) -> list[bytes]:
    return [(folder / "generate" / name).read_bytes() for name in ("kept.jsonl", "rejected.jsonl")]


def whole_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a journal that some process may still be writing to."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def answered(path: Path) -> set[int]:
    return {row["n"] for row in whole_rows(path) if row["kind"] in ("reply", "failed")}


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def instant(chance: random.Random, server: TeacherServer, path: Path) -> Callable[[], bool]:
    """A condition that will hold some time after the next start."""
    kind = chance.choice(["asked", "answered", "journal", "bytes"])
    if kind == "asked":
        asked = len(server.asked) + chance.randint(1, 44)
        return lambda: len(server.asked) >= asked
    if kind == "answered":
        replies = server.answered + chance.randint(1, 20)
        return lambda: server.answered >= replies
    grown = size(path) + (chance.randint(1, 15_000) if kind == "bytes" else 1)
    return lambda: size(path) >= grown


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of an uninterrupted run in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("straight")
    with TeacherServer() as server:
        generate(recipe(server), RunFolder(folder), Progress(Console(file=StringIO())))
    return outputs(folder)


def test_kill_at_fifty_random_instants(tmp_path: Path, straight: list[bytes]) -> None:
    chance = random.Random(11)
    folder = tmp_path / "run"
    path = folder / "generate" / "journal.jsonl"
    lost = 0
    with TeacherServer(fault, latency=latency) as server, Forks(tmp_path) as forks:
        work = Generation(recipe(server), load_seeds("builtin"))
        number = {json.dumps(work.request(n).body["messages"]): n for n in range(2000)}
        arrived: set[int] = set()
        for kill in range(KILLS + 1):
            before, delivered = len(server.asked), server.answered
            if kill < KILLS:
                condition = instant(chance, server, path)
                forks.start(*command(server, folder))
                forks.wait_until(condition)
                forks.kill()
            else:
                forks.start(*command(server, folder))
                assert forks.finish() == 0, forks.said()
            now = [number[json.dumps(a.body["messages"])] for a in server.asked[before:]]
            assert not arrived & set(now), "a reply that had reached us was asked for again"
            assert arrived <= answered(path), "a reply that had reached us was forgotten"
            lost += server.answered - delivered - len(answered(path) - arrived)
            arrived = answered(path)
            if chance.random() < 0.3 and kill < KILLS:
                with path.open("ab") as file:
                    file.write(TORN[: chance.randint(1, len(TORN))])
    assert outputs(folder) == straight
    assert lost <= KILLS * CONCURRENCY, "only what was in flight is lost"
    assert server.most > CONCURRENCY / 2
    assert forks.said().count("cut off") > 5, "torn rows were healed"
    seen = {row["kind"] for row in whole_rows(path)}
    assert seen == {"sent", "reply"}
