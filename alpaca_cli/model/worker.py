"""One of the processes that train together: which one it is, and how it keeps in touch.

A worker is told by torchrun's environment variables (`RANK`, `WORLD_SIZE`) that it is one of
several; who sets them (our own launcher, torchrun by hand, Slurm, Kubernetes) makes no difference
to the training. With our own parent (`alpaca_cli.model.launch`) there is more:

    ALPACA_LAUNCH   a folder on this machine, where a worker leaves its process id, whether it is
                    rank 0, and the error that it ends with, for the parent to tell
    stdin           a pipe on which nothing is ever written; it closes when the parent dies,
                    however it dies, and the worker then saves a checkpoint and ends

What is trained is not known here.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from alpaca_cli.core import errors
from alpaca_cli.core.errors import AlpacaError, Terminated, TryAgain, UsageError
from alpaca_cli.core.files import read_json, write_json, write_text

LAUNCH_FOLDER = "ALPACA_LAUNCH"
PATIENCE = 600  # seconds that workers have to save a checkpoint once they were asked to stop
TICK = 0.2  # seconds between two looks at a file that another process writes


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that train together.

    Attributes:
        rank: from 0; rank 0 writes what there is to write.
        node: its machine's number, from 0, among `nodes`; rank 0 is on node 0.
        parent: the folder shared with our own parent process; None when another launcher
            started us.
    """

    rank: int
    processes: int
    node: int
    nodes: int
    parent: Path | None

    @property
    def main(self) -> bool:
        return self.rank == 0


def this_worker() -> Worker | None:
    """What torchrun's environment variables say; None when no launcher started this process.

    Raises:
        UsageError: they are incomplete.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return None
    rank, processes = _number("RANK", 0), _number("WORLD_SIZE", 1)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if processes > 1 and missing:
        raise UsageError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} not",
            hint="start this with torchrun, or unset RANK and WORLD_SIZE",
        )
    # Some schedulers give each machine one GPU and no local rank; accelerate wants to see one.
    os.environ.setdefault("LOCAL_RANK", "0")
    parent = os.environ.get(LAUNCH_FOLDER)
    return Worker(
        rank=rank,
        processes=processes,
        node=_number("GROUP_RANK", 0),
        nodes=_number("GROUP_WORLD_SIZE", 1),
        parent=Path(parent) if parent else None,
    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdecimal():
        raise UsageError(f"the environment says {variable}={text}: expected a number")
    return int(text)


@contextmanager
def tied_to_parent(worker: Worker) -> Iterator[None]:
    """Let our own parent know this worker, tell it the error that the block ends with, and end
    with it: a parent that is killed leaves nothing behind. Without such a parent: nothing."""
    folder = worker.parent
    if folder is None:
        yield
        return
    if not folder.is_dir():  # the parent ended while this process was starting
        raise Terminated
    (folder / f"{worker.rank}.pid").write_text(str(os.getpid()), encoding="ascii")
    if worker.main:
        (folder / "main").touch()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        yield
    except BaseException as error:
        leave_error(folder, worker.rank, error)
        raise


def _end_with_parent() -> None:
    """Wait for the parent's end; then stop as asked by SIGTERM, or, stuck, without a checkpoint."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)


def leave_error(folder: Path, rank: int, error: BaseException) -> None:
    """Tell the parent why this worker ends; the first one to do so is the one that is heard."""
    kind, message, hint = type(error).__name__, str(error), ""
    if isinstance(error, AlpacaError):
        hint = error.hint
    elif isinstance(error, MemoryError):
        kind, message = "ResourceError", f"out of memory in the process of rank {rank}"
    elif not isinstance(error, KeyboardInterrupt):
        first = message.partition("\n")[0]
        message = f"a bug of ours in the process of rank {rank}: {kind}: {first}"
        hint = "launch.log says where its traceback is; please report it"
    path = folder / "error.json"
    if not path.exists():
        write_json(path, {"type": kind, "message": message, "hint": hint})


def left_error(folder: Path) -> AlpacaError | KeyboardInterrupt | None:
    """What `leave_error` left; None when no worker said anything."""
    path = folder / "error.json"
    if not path.is_file():
        return None
    said = read_json(path)
    if said["type"] == "KeyboardInterrupt":
        return KeyboardInterrupt()
    if said["type"] == "Terminated":
        return Terminated()
    kind: type[AlpacaError] = getattr(errors, said["type"], AlpacaError)
    return kind(said["message"], hint=said["hint"])


@contextmanager
def lost_contact(worker: Worker) -> Iterator[None]:
    """Name it when the others cannot be reached any more, instead of showing a bug.

    Raises:
        TryAgain: a collective operation failed: another process or its machine has ended.
    """
    try:
        yield
    except RuntimeError as error:
        from torch.distributed import DistError

        # gloo's own errors have no class (torch 2.13).
        if not isinstance(error, DistError) and "/gloo/" not in str(error):
            raise
        # "[file.cc:553] Connection closed by peer [10.0.0.2]:408. This is typically caused by …"
        said = re.sub(r"^\[\S+\] ", "", str(error)).partition(". ")[0].strip()
        raise TryAgain(
            f"rank {worker.rank} lost contact with the other processes: {said}",
            hint="one of them ended first and said why; the same command goes on from the newest "
            "checkpoint",
        ) from error


@contextmanager
def usr1_terminates() -> Iterator[None]:
    """Inside the block SIGUSR1 does what SIGTERM does: Slurm sends it some time before a job's
    limit. Only in the main thread, where Python allows handlers."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def check_shared_disk(worker: Worker, folder: Path, patience: float = 120.0) -> None:
    """See that all machines have the same run folder: node 0 leaves a word, the others look.

    Raises:
        UsageError: this machine's `folder` is not the one that node 0 writes into.
    """
    if worker.nodes == 1:
        return
    start = ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")
    word = " ".join(os.environ.get(name, "") for name in start)
    path = folder / ".node0"
    if worker.main:
        write_text(path, word)
    until = time.monotonic() + patience
    while not (path.is_file() and path.read_text("utf-8") == word):
        if time.monotonic() > until:
            raise UsageError(
                f"{folder.absolute()} on node {worker.node} is not the folder that node 0 writes "
                "to, or is not up to date",
                hint="all machines need the run folder on one shared disk: name it with --run DIR",
            )
        time.sleep(TICK)
