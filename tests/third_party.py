"""Servers that others wrote, as processes on the loopback: `llmock` and `transformers serve`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.processes import TICK, environment

LLMOCK = "llmock==0.2.2"
STARTING = 300.0  # seconds; imports alone take minutes on a busy machine
_LISTENS = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


@contextmanager
def serving(command: Sequence[object], folder: Path, **extra: str) -> Iterator[str]:
    """Run a uvicorn server that was told to take port 0; yields its address.

    What it says is in `server.log` in the folder.
    """
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + STARTING
        while not (found := _LISTENS.search(log.read_text("utf-8", "replace"))):
            assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "it does not listen yet"
            time.sleep(TICK)
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def install_llmock(folder: Path) -> Path:
    """`llmock` in an environment of its own, for it must not mix with ours; returns the command.

    Skips the test where there is no package index to install from.
    """
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", LLMOCK]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"cannot install {LLMOCK}: {last}")
    return folder / "bin" / "llmock"


class Llmock:
    """The controls of a running llmock; `url` is the `base_url` for clients."""

    def __init__(self, address: str) -> None:
        self.address, self.url = address, f"{address}/v1"

    def script(self, *behaviors: Mapping[str, Any]) -> None:
        """Queue what the next requests get: replies, failures, delays."""
        data = json.dumps({"behaviors": behaviors}).encode()
        request = urllib.request.Request(f"{self.address}/_llmock/scenario", data)
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201

    def verdict(self) -> dict[str, Any]:
        """What it thinks of its clients so far."""
        return self._get("verdict")

    def requests(self) -> list[dict[str, Any]]:
        """Everything that it was asked, with the status it answered."""
        found: list[dict[str, Any]] = self._get("requests")["requests"]
        return found

    def _get(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/_llmock/{what}") as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def llmock(command: Path, folder: Path, *options: object) -> Iterator[Llmock]:
    """A running llmock."""
    listen = ("serve", "--host", "127.0.0.1", "--port", 0)
    with serving([command, *listen, *options], folder) as address:
        yield Llmock(address)


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[str]:
    """`transformers serve` with one model; yields the `base_url`. Clients name it by its path."""
    hub = folder / "hub" / "hub"
    hub.mkdir(parents=True)  # it fails at /v1/models without one
    options = ("--host", "127.0.0.1", "--port", 0, "--device", "cpu", "--default-seed", 0)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, *options]
    with serving(command, folder, HF_HOME=str(hub.parent)) as address:
        yield f"{address}/v1"
