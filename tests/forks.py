"""The real command as a real process, without the second that its imports take.

A helper process imports everything once, and then forks at each `start`; what is forked runs
`alpaca_cli.cli.main` and can be killed like any other process. The helper has one thread and never
runs a command itself, so a fork inherits nothing but modules:

    with Forks(folder) as forks:
        forks.start("generate", "--run=x")
        forks.wait_until(lambda: …)
        forks.kill()
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from tests import processes

TICK = 0.0005  # seconds between two looks: short beside all that happens between two rows
LIMIT = 60.0  # seconds that a condition may take


class Forks:
    """The helper; one command at a time.

    Args:
        folder: where commands run, and where `out.txt` gets what they say.
    """

    def __init__(self, folder: Path) -> None:
        self._out = folder / "out.txt"
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", self._out],
            cwd=folder,
            env=processes.environment(PYTHONPATH=str(Path(__file__).parents[1])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._pid = 0

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._pid:
            self.kill()
        self._helper.communicate(timeout=LIMIT)

    def start(self, *arguments: object) -> None:
        """Begin `alpaca …`."""
        assert self._helper.stdin is not None
        self._helper.stdin.write(json.dumps([str(argument) for argument in arguments]) + "\n")
        self._helper.stdin.flush()
        self._pid = self._number()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; AssertionError when the command ends before it does."""
        assert self.holds_before_the_end(condition), f"ended early:\n{self.said()}"

    def holds_before_the_end(self, condition: Callable[[], bool]) -> bool:
        """Wait until the condition holds; False when the command ends before it does."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            if self._ended():
                return condition()
            assert time.monotonic() < deadline, f"not within {LIMIT:.0f} s:\n{self.said()}"
            time.sleep(TICK)
        return True

    def kill(self) -> None:
        """`kill -9`, and wait until it is gone; it may have ended by itself just before."""
        os.kill(self._pid, signal.SIGKILL)
        self.finish()

    def finish(self) -> int:
        """Wait for the end, and return the exit code: negative after a signal."""
        assert self._helper.stdout is not None
        assert self._helper.stdin is not None
        assert self._helper.stdout.readline() == "ended\n"
        self._helper.stdin.write("\n")
        self._helper.stdin.flush()
        code, self._pid = self._number(), 0
        return code

    def said(self) -> str:
        """What the commands have said so far, all of them."""
        return self._out.read_text()

    def _number(self) -> int:
        assert self._helper.stdout is not None
        return int(self._helper.stdout.readline())

    def _ended(self) -> bool:
        assert self._helper.stdout is not None
        return bool(select.select([self._helper.stdout], [], [], 0)[0])


def helper(out: Path) -> None:
    """Fork for each line of arguments; tell the process, and then how it ended."""
    import openai

    import alpaca_cli.stages.generate  # noqa: F401
    from alpaca_cli.cli import main

    client = openai.AsyncOpenAI(api_key="none")
    assert client.chat.completions  # the SDK imports its parts when they are used
    assert client.completions

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.argv = ["alpaca", *json.loads(line)]
            main()
            raise AssertionError("main ends in SystemExit")
        print(child, flush=True)  # noqa: T201
        # Told before it is reaped, so that nobody kills another process of the same number.
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        print("ended", flush=True)  # noqa: T201
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    helper(Path(sys.argv[1]))
