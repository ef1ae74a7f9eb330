"""Chat pages for tests: a model that says what the test lets it say, and servers that show it.

A page's server is a real process that runs `web.run` as the command does. gradio takes seconds to
import, so one helper process imports it once and forks each server:

    with Pages(folder) as pages:
        url = pages.serve("one", names=["alpha"])
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from alpaca_cli.core.errors import TryAgain
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.speaker import Reply, Room
from tests import processes

TICK = 0.01
LIMIT = 60.0  # seconds that a condition may take


class Puppet:
    """A speaker: asked to `count` it says a word for each byte of the file `gate`, asked to be
    `hostile` it says what is in the file of that name, and else it says what it was asked."""

    about, sampling, history, notes = "a puppet", Sampling(), True, ("It has strings.",)

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder

    def ask(
        self,
        session: Session,
        message: str,
        input: str = "",
        *,
        write: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Reply, int]:
        if message == "busy":
            raise TryAgain("the puppet is tired", hint="come back")
        reason = "stop"
        if message == "count":
            said, reason = self._count(write, stop)
        else:
            said = self._told(session, message, input)
            if message in ("hostile", "passes"):
                said = (self._folder / message).read_text()
            write(said)
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        return Reply(self.name, message, said, reason, usage), len(session.exchanges())

    def _told(self, session: Session, message: str, input: str) -> str:
        sampling = session.sampling
        seen = [each.instruction for each in session.exchanges()]
        return (
            f"{self.name} heard {message!r} with {input!r}, system {session.system!r}, "
            f"temperature {sampling.temperature:g}, seed {sampling.seed}, after {seen}"
        )

    def _count(self, write: Callable[[str], None], stop: Callable[[], bool]) -> tuple[str, str]:
        gate, said = self._folder / "gate", 0
        self._note("asked")
        while not stop():
            if said < gate.stat().st_size:
                said += 1
                write(f" word{said}" if said > 1 else "word1")
            elif gate.read_bytes().endswith(b"."):
                return _words(said), "stop"
            else:
                time.sleep(TICK)
        self._note("stopped")
        return _words(said), "interrupted"

    def _note(self, what: str) -> None:
        with (self._folder / what).open("a") as file:
            file.write(f"{self.name}\n")

    def room(self, session: Session, message: str = "", input: str = "") -> Room | None:
        return None

    def close(self) -> None:
        pass


def _words(count: int) -> str:
    return " ".join(f"word{n}" for n in range(1, count + 1))


class Pages:
    """The helper, and the servers that it forked.

    Args:
        folder: where puppets read their strings (`gate`), and servers leave their addresses.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._pids = folder, dict[str, int]()
        (folder / "gate").touch()

    def __enter__(self) -> Pages:
        with (self.folder / "log.txt").open("wb") as log:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "tests.pages", str(self.folder)],
                cwd=Path(__file__).parents[1],
                env=processes.environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)
        assert self._helper.stdin is not None
        self._helper.stdin.close()
        self._helper.wait()

    def serve(self, name: str, **options: Any) -> str:
        """Start a server with `tests.pages.show`'s options; its address."""
        assert self._helper.stdin is not None
        self._helper.stdin.write(json.dumps({"name": name, **options}) + "\n")
        self._helper.stdin.flush()
        told = self.folder / f"{name}.json"
        until(told.is_file, lambda: (self.folder / "log.txt").read_text())
        found: dict[str, Any] = json.loads(told.read_text())
        self._pids[name] = found["pid"]
        address: str = found["url"]
        return address

    def signal(self, name: str, number: int) -> int:
        """Send a signal to a server; its exit code."""
        os.kill(self._pids.pop(name), number)
        code = self.folder / f"{name}.code"
        until(code.is_file, lambda: (self.folder / "log.txt").read_text())
        return int(code.read_text())


def until(condition: Callable[[], object], said: Callable[[], str] = lambda: "") -> None:
    """Wait for a condition; AssertionError with what was said when it does not come."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(TICK)


def show(folder: Path, options: dict[str, Any]) -> None:
    """Be the server of one page, to its end."""
    from alpaca_cli.cli import _terminate, guarded
    from alpaca_cli.stages import web

    name = options["name"]

    def say(url: str) -> None:
        written = folder / f"{name}.tmp"
        written.write_text(json.dumps({"url": url, "pid": os.getpid()}))
        written.rename(folder / f"{name}.json")

    signal.signal(signal.SIGTERM, _terminate)
    guarded(web.run)(
        [Puppet(each, folder) for each in options["names"]],
        Session(Sampling(temperature=0.5)),
        port=0,
        auth=tuple(options["auth"]) if "auth" in options else None,
        votes=Path(options["votes"]) if "votes" in options else None,
        say=say,
    )


def main() -> None:
    """Fork a server for each line of stdin; when it closes all have ended."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio  # noqa: F401  # so that what is forked has it

    folder = Path(sys.argv[1])
    for line in sys.stdin:
        options = json.loads(line)
        if os.fork() == 0:
            # One more, so that the exit code is seen while this loop waits for lines.
            server = os.fork()
            if server == 0:
                show(folder, options)
                sys.exit()
            code = os.waitstatus_to_exitcode(os.waitpid(server, 0)[1])
            (folder / "code.tmp").write_text(str(code))
            (folder / "code.tmp").rename(folder / f"{options['name']}.code")
            os._exit(0)


if __name__ == "__main__":
    main()
