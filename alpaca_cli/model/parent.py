"""What the parent of several workers does until they have ended: listen, stop, tell how it went.

Stopping. SIGINT, SIGTERM and SIGUSR1 to the parent become one SIGTERM to torchrun, which hands it
to its workers; these agree among all machines, save a checkpoint at the next step and end. The
parent waits at most `PATIENCE` seconds, ends what is left, and exits with 130 or 143. A second
Ctrl-C ends everything at once. torchrun starts each worker in a session of its own, so killing
torchrun or its process group does not end them: the parent knows their process ids, and they
notice its end by a closed pipe.

What is known to go wrong with torchrun (2.13), and what is done about it:
- Workers have 30 s from a signal to SIGKILL, too few to save a large model: `--shutdown-timeout`.
- It writes to its stderr while it stops; when nobody reads that pipe, it never ends. It is read
  here to the end.
- After workers that ended with 0 it waits up to 300 s, deaf to signals, for the torchruns of other
  machines, one of which may have been signalled and gone. Stopped workers end with 143, and it
  ends at once.
- Stopped by a signal it exits with 1 whatever the workers did: the code comes from the parent.

How torchrun is called is in `alpaca_cli.model.launch`.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from select import select
from tempfile import TemporaryDirectory
from types import FrameType
from typing import IO

from alpaca_cli.core.errors import AlpacaError, ResourceError, Terminated, TryAgain
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.worker import LAUNCH_FOLDER, PATIENCE, TICK, left_error

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# After a worker has said why it ends, torchrun gives the others 30 s before it kills them.
GRACE = 60
# A line of torch's log, and the one with which torchrun begins to report a failure.
TORCH_LOG = re.compile(r"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ torch/")
FAILURE = re.compile(r"torch/distributed/elastic/.*\bfailed \(exitcode")
# In that report: which rank ended how.
DEATH = re.compile(r"rank +: (\d+) \(local_rank: \d+\)\n +exitcode +: (-?\d+)")


def run_workers(
    command: Sequence[str],
    environment: dict[str, str],
    log: Path,
    progress: Progress,
    grace: float = GRACE,
) -> bool:
    """Run torchrun's command to its end.

    Args:
        environment: added to ours.
        log: gets all that torchrun and workers write, appended.
        grace: seconds for all to end in once a worker has said why it does.

    Returns and raises: as `alpaca_cli.model.launch.launch`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    # Recipe keys in the environment are in the resolved recipe already, and flags went over them.
    kept = {k: v for k, v in os.environ.items() if k == "ALPACA_RUNS" or k[:7] != "ALPACA_"}
    with TemporaryDirectory(prefix="alpaca-launch-") as name, _collected_signals() as received:
        folder = Path(name)
        launcher = subprocess.Popen(
            command,
            env=kept | environment | {LAUNCH_FOLDER: name},
            stdin=subprocess.PIPE,  # what ties the workers to us
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Ctrl-C must reach the workers once, through us, not a second time from the terminal.
            start_new_session=True,
        )
        try:
            with open(log, "ab") as file:
                relay = _Relay(file, progress, folder)
                _watch(launcher, folder, relay, received, grace)
        finally:
            _kill(launcher, folder)
            assert launcher.stdin is not None
            assert launcher.stderr is not None
            launcher.stdin.close()
            launcher.stderr.close()
        error = left_error(folder)
        if received:
            # What kept the workers from saving must be heard; that they stopped was our wish.
            if isinstance(error, AlpacaError) and not isinstance(error, TryAgain):
                raise error
            raise KeyboardInterrupt if received[0] == signal.SIGINT else Terminated
        if launcher.returncode < 0 and not isinstance(error, AlpacaError):
            raise _killed("torchrun", -launcher.returncode, log)
        if launcher.returncode:
            nothing = f"a training process ended without a reason; see the end of {log}"
            raise _death(relay.report, log) or error or AlpacaError(nothing)
        return (folder / "main").exists()


def _watch(
    launcher: subprocess.Popen[bytes],
    folder: Path,
    relay: _Relay,
    received: list[int],
    grace: float,
) -> None:
    """Hand on what is said until torchrun and its workers have ended; ask them to stop when we
    are asked to, and end them when they do not."""
    assert launcher.stdin is not None
    assert launcher.stderr is not None
    stopping, deadline = False, float("inf")
    while True:
        said = relay.read(launcher.stderr)
        now, ended = time.monotonic(), launcher.poll() is not None
        if ended and not said and not any(map(_alive, _workers(folder))):
            return
        if received and not stopping:
            stopping, deadline = True, now + PATIENCE
            relay.stop()
            if not ended:
                launcher.send_signal(signal.SIGTERM)
        if ended and not launcher.stdin.closed:
            # torchrun was killed: its workers learn it from us, and have time to save.
            launcher.stdin.close()
            deadline = min(deadline, now + PATIENCE)
        elif not ended and (folder / "error.json").exists():
            deadline = min(deadline, now + grace)
        if now > deadline or received.count(signal.SIGINT) > 1:
            _kill(launcher, folder)
            return


@dataclass(slots=True)
class _Relay:
    """What launcher and workers say, line by line: all of it to the log, what is meant for people
    to the progress.

    Attributes:
        report: the last lines.
    """

    log: IO[bytes]
    progress: Progress
    folder: Path
    report: deque[str] = field(default_factory=lambda: deque(maxlen=500))
    silent: bool = False
    rest: bytes = b""

    def read(self, stream: IO[bytes]) -> bool:
        """Wait a moment for more; whether there was some."""
        if not select([stream], [], [], TICK)[0]:
            return False
        chunk = os.read(stream.fileno(), 1 << 16)
        if not chunk and not self.rest:
            time.sleep(TICK)  # closed, and so always readable
            return False
        *whole, self.rest = (self.rest + (chunk or b"\n")).split(b"\n")
        for line in whole:
            self._line(line)
        return True

    def stop(self) -> None:
        """From now on only the log listens."""
        self.progress.info("stopping: a checkpoint is saved first; Ctrl-C again ends at once")
        self.silent = True

    def _line(self, line: bytes) -> None:
        self.log.write(line + b"\n")
        self.log.flush()
        text = line.decode("utf-8", "replace").rstrip()
        self.report.append(text)
        # The launcher's report of a failure is long, and ours says the same.
        if FAILURE.search(text) or (self.folder / "error.json").exists():
            self.silent = True
        if self.silent or TORCH_LOG.match(text):
            return
        if text.startswith("warning: "):
            self.progress.warn(text.removeprefix("warning: "))
        else:
            self.progress.info(text)


@contextmanager
def _collected_signals() -> Iterator[list[int]]:
    """Collect what asks to stop, so that nothing is left half done; only in the main thread,
    where Python allows handlers."""
    received: list[int] = []

    def collect(signum: int, frame: FrameType | None) -> None:
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {each: signal.signal(each, collect) for each in STOPS}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _workers(folder: Path) -> list[int]:
    """Process ids of the workers that have reported."""
    found = [path.read_text("ascii") for path in folder.glob("*.pid")]
    return [int(text) for text in found if text]


def _alive(process: int) -> bool:
    """Whether it still runs; one that has ended may wait long for its new parent to notice."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def _kill(launcher: subprocess.Popen[bytes], folder: Path) -> None:
    """End the launcher and its workers, if they have not ended yet."""
    if launcher.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
    for process in filter(_alive, _workers(folder)):
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # each leads its own group


def _death(report: Sequence[str], log: Path) -> AlpacaError | None:
    """The error for a worker that was killed; None when torchrun reports no such thing."""
    found = [(int(rank), -int(code)) for rank, code in DEATH.findall("\n".join(report))]
    # torchrun itself ends the others by SIGTERM.
    for rank, number in found:
        if number > 0 and number != signal.SIGTERM:
            return _killed(f"the process of rank {rank}", number, log)
    return None


def _killed(what: str, number: int, log: Path) -> AlpacaError:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    on = "the same command goes on from the newest checkpoint"
    if number == signal.SIGKILL:
        return ResourceError(
            f"{what} was killed ({name})",
            hint=f"often because memory ran out (dmesg, the scheduler's log); {on}",
        )
    return AlpacaError(f"{what} crashed ({name}); see the end of {log}", hint=on)
