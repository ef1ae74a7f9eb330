"""Which GPUs to use, and starting one process per GPU through accelerate's launcher.

The parent holds the run's lock, waits, and hands on what its workers say; each worker is the
same `alpaca train` command, told by its environment (RANK, WORLD_SIZE) that it is one of several.
A command started by torchrun, `accelerate launch` or a cluster's scheduler is a worker likewise.

What the workers do is not known here.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from alpaca_cli.core import errors
from alpaca_cli.core.errors import AlpacaError, UsageError
from alpaca_cli.core.files import read_json, write_json
from alpaca_cli.core.progress import Progress

ERROR_FILE = "ALPACA_WORKER_ERROR"  # where a worker leaves its error for the parent
PATIENCE = 120  # seconds that workers have to save a checkpoint after SIGTERM


@dataclass(frozen=True, slots=True)
class Worker:
    """This process among those that train together."""

    rank: int
    processes: int
    launched: bool
    """By our own parent process, which holds the run's lock and shows the result."""

    @property
    def main(self) -> bool:
        return self.rank == 0


def this_worker() -> Worker:
    """What torchrun's environment variables say; rank 0 of 1 outside of any launcher."""
    environment = os.environ
    return Worker(
        rank=int(environment.get("RANK", "0")),
        processes=int(environment.get("WORLD_SIZE", "1")),
        launched=ERROR_FILE in environment,
    )


def choose_gpus(wanted: str | int, available: int) -> list[int]:
    """Device numbers for `train.gpus`; none means CPU.

    Raises:
        UsageError: there are not so many, or the text is no count, list or `auto`.
    """
    text = str(wanted).strip()
    if text == "auto":
        return list(range(available))
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(f"train.gpus: {wanted}: expected a count, a list such as 0,1, or auto")
    if "," not in text:
        numbers = list(range(numbers[0]))
    missing = [number for number in numbers if number >= available]
    if missing:
        have = "no CUDA GPU" if not available else f"{available}, numbered from 0"
        raise UsageError(
            f"train.gpus: {wanted} asked for, this machine has {have}",
            hint="use --gpus auto" if available else "use --gpus 0 for CPU",
        )
    return numbers


def check_batch(global_batch: int, processes: int) -> None:
    """Every process must get equally many examples of a step.

    Raises:
        UsageError: it does not divide; names the nearest batches that do.
    """
    if global_batch % processes:
        low = global_batch // processes * processes
        near = " or ".join(str(n) for n in (low, low + processes) if n)
        raise UsageError(
            f"train.global_batch: {global_batch} does not split over {processes} processes",
            hint=f"use {near}",
        )


def launch(arguments: Sequence[str], gpus: Sequence[int], folder: Path, progress: Progress) -> None:
    """Run `alpaca <arguments>` once per GPU and wait for all of them.

    Args:
        folder: the stage's folder; gets `launch.log` with all that launcher and workers write.

    Raises:
        AlpacaError: what a worker raised, or that one ended without saying why.
        KeyboardInterrupt, Terminated: passed on to the workers, who saved a checkpoint first.
    """
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--num_processes", str(len(gpus)), "--num_machines", "1", "--main_process_port", "0"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "alpaca_cli", *arguments),
    ]
    run_workers(command, {"CUDA_VISIBLE_DEVICES": _visible(gpus)}, folder, progress)


def run_workers(
    command: Sequence[str], environment: dict[str, str], folder: Path, progress: Progress
) -> None:
    """Run a launcher's command to its end; see `launch`."""
    folder.mkdir(parents=True, exist_ok=True)
    error_file = folder / "worker-error.json"
    error_file.unlink(missing_ok=True)
    # Recipe keys in the environment are in the resolved recipe already, and flags went over them.
    kept = {k: v for k, v in os.environ.items() if k == "ALPACA_RUNS" or k[:7] != "ALPACA_"}
    launcher = subprocess.Popen(
        command,
        env=kept | environment | {ERROR_FILE: str(error_file)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        # Ctrl-C must reach the workers once, through us, not a second time from the terminal.
        start_new_session=True,
    )
    assert launcher.stderr is not None
    try:
        with open(folder / "launch.log", "w", encoding="utf-8") as log, launcher.stderr as said:

            def relay(*, show: bool) -> None:
                for line in said:
                    log.write(line)
                    log.flush()
                    # After an error the launcher adds its own, longer report: that is for the log.
                    if show and not error_file.exists():
                        progress.info(line.rstrip())

            try:
                relay(show=True)
            except KeyboardInterrupt:
                launcher.send_signal(signal.SIGTERM)
                patience = Timer(PATIENCE, _kill, [launcher])
                patience.start()
                relay(show=False)  # workers that save a checkpoint need someone to talk to
                patience.cancel()
                raise
        code = launcher.wait()
    finally:
        _kill(launcher)
    if code:
        raise _worker_error(error_file, folder / "launch.log")


def leave_error(error: AlpacaError) -> None:
    """In a worker: tell the parent why; the first worker to fail is the one that is heard."""
    path = os.environ.get(ERROR_FILE)
    if path and not Path(path).exists():
        write_json(
            Path(path), {"type": type(error).__name__, "message": str(error), "hint": error.hint}
        )


def _worker_error(error_file: Path, log: Path) -> AlpacaError:
    if not error_file.is_file():
        return AlpacaError(f"a training process ended without a reason; see the end of {log}")
    said = read_json(error_file)
    error_file.unlink()
    kind: type[AlpacaError] = getattr(errors, said["type"], AlpacaError)
    return kind(said["message"], hint=said["hint"])


def _visible(gpus: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for the workers, inside what we ourselves may see."""
    ours = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    return ",".join(ours[number] if ours else str(number) for number in gpus)


def _kill(launcher: subprocess.Popen[str]) -> None:
    """End the launcher and all in its process group, if they have not ended yet."""
    with suppress(ProcessLookupError):
        os.killpg(launcher.pid, signal.SIGKILL)
    launcher.wait()
