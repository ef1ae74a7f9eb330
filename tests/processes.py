"""Running the real command as a process, and waiting for what it does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

COMMAND = [sys.executable, "-m", "alpaca_cli"]
TICK = 0.02  # seconds between two looks at a condition


def environment(**extra: str) -> dict[str, str]:
    """The environment of a test process: plain output, one thread, no hub, none of our keys."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("ALPACA_", "OPENAI_"))}
    fixed = {"NO_COLOR": "1", "COLUMNS": "100", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return ours | fixed | extra


def start(*arguments: object, cwd: Path, **extra: str) -> subprocess.Popen[str]:
    """`alpaca …` in the folder `cwd`, with its streams in pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(
    *arguments: object, cwd: Path, stdin: str | None = None, code: int = 0, **extra: str
) -> subprocess.CompletedProcess[str]:
    """`alpaca …` to its end; AssertionError with both streams when the exit code is another."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**extra),
        input=stdin or "",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """Until the condition holds; AssertionError when the process ends before it does."""
    while not condition():
        try:
            process.wait(TICK)
        except subprocess.TimeoutExpired:
            continue
        assert condition(), f"ended early: {process.returncode}\n{process.communicate()[1]}"


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """`kill -9` as soon as the condition holds."""
    wait_until(process, condition)
    process.kill()
    process.communicate()


def lines(path: Path) -> int:
    """How many whole lines a file has; 0 when there is none."""
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def free_port() -> int:
    """A TCP port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
