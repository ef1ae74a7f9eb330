"""Who starts whom when several processes train.

    alpaca train --gpus 8          the parent: holds the run's lock, shows the result
    └── torchrun                   torch's own launcher, one per machine
        ├── alpaca train  rank 0   the workers: the same command, told by RANK and WORLD_SIZE
        ├── alpaca train  rank 1   that they are one of several (`alpaca_cli.model.worker`)
        └── …

With `--nodes N` the same command is started on N machines; their torchruns meet at `--rendezvous`
under a common `--run-id`. No parent holds the lock then: the worker of rank 0 takes it. A worker
started by torchrun, a scheduler or `accelerate launch` directly has no such parent, and trains
just the same.

How they are watched and stopped is in `alpaca_cli.model.parent`. What they do is not known here.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.machine import cores
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.parent import run_workers
from alpaca_cli.model.worker import PATIENCE


@dataclass(frozen=True, slots=True)
class Devices:
    """What a machine's processes compute on: a GPU each, or, without GPUs, the CPU."""

    gpus: list[int]
    processes: int


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the torchruns of several machines find each other."""

    nodes: int
    endpoint: str
    """HOST:PORT of one of them."""
    run_id: str


def choose_gpus(wanted: str | int, available: int) -> Devices:
    """The devices that `train.gpus` names.

    Raises:
        UsageError: there are not so many, or the text is no count, list, `auto` or `cpu:N`.
    """
    text = str(wanted).strip()
    if text == "auto":
        return Devices(list(range(available)), available or 1)
    kind, _, count = text.partition(":")
    if kind == "cpu" and (count or "1").isdecimal() and int(count or 1):
        return Devices([], int(count or 1))
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"train.gpus: {wanted}: expected a count, a list such as 0,1, auto, or cpu:2"
        )
    if "," not in text:
        numbers = list(range(numbers[0]))
    missing = [number for number in numbers if number >= available]
    if missing:
        have = "no CUDA GPU" if not available else f"{available}, numbered from 0"
        raise UsageError(
            f"train.gpus: {wanted} asked for, this machine has {have}",
            hint="use --gpus auto" if available else "use --gpus 0 for CPU",
        )
    return Devices(numbers, len(numbers) or 1)


def wants_cpu(wanted: str | int) -> bool:
    """Whether `train.gpus` asks for the CPU, whatever the machine has."""
    return str(wanted).strip().partition(":")[0] in ("0", "cpu")


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


def torchrun(
    processes: int | str, meeting: Meeting | None, address: str | None, arguments: Sequence[str]
) -> list[str]:
    """The command that starts `alpaca <arguments>` `processes` times on this machine.

    Args:
        processes: a number, or `gpu` for as many as there are GPUs.
        meeting: None when there is only this machine.
        address: under which the others reach this machine; None leaves it to torchrun, which
            takes the host's full name.
    """
    where = ["--standalone"]
    if meeting is not None:
        where = ["--nnodes", str(meeting.nodes), "--rdzv-backend", "c10d"]
        where += ["--rdzv-endpoint", meeting.endpoint, "--rdzv-id", meeting.run_id]
    if address is not None:
        where += ["--local-addr", address]
    return [
        *(sys.executable, "-m", "torch.distributed.run", *where),
        *("--nproc-per-node", str(processes), "--max-restarts", "0"),
        *("--shutdown-timeout", str(PATIENCE)),
        *("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"),
        # Without `--` torchrun would take our `--run` for the beginning of its `--run-path`.
        *("-m", "--", "alpaca_cli", *arguments),
    ]


def own_address(endpoint: str) -> str:
    """Under which name or address the other machines reach this one, from the way to `endpoint`.

    torchrun would use the host's full name, which often means something on that host only.

    Raises:
        UsageError: it is no HOST:PORT, or there is no way to it.
    """
    host, _, port = endpoint.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal():
        raise UsageError(f"train.rendezvous: {endpoint}: expected HOST:PORT")
    try:
        family, kind, _, _, there = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(there)  # a datagram socket: nothing is sent
            own = str(probe.getsockname()[0])
    except OSError as error:
        raise UsageError(
            f"train.rendezvous: {endpoint}: {error.strerror}",
            hint="name one of the machines as the others see it",
        ) from error
    return host if own == there[0] or ip_address(own).is_loopback else own


def launch(
    arguments: Sequence[str],
    devices: Devices,
    meeting: Meeting | None,
    log: Path,
    progress: Progress,
) -> bool:
    """Run `alpaca <arguments>` once per device and wait for all of them.

    Args:
        meeting: with whom, when other machines take part.
        log: gets all that torchrun and workers write, appended.

    Returns:
        Whether rank 0 was one of them.

    Raises:
        AlpacaError: what a worker raised, or that one ended without saying why.
        KeyboardInterrupt, Terminated: on to the workers first, who saved a checkpoint.
    """
    address = own_address(meeting.endpoint) if meeting else "localhost"
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // devices.processes))
    environment = {"CUDA_VISIBLE_DEVICES": visible(devices.gpus), "OMP_NUM_THREADS": threads}
    command = torchrun(devices.processes, meeting, address, arguments)
    return run_workers(command, environment, log, progress)


def visible(gpus: Sequence[int]) -> str:
    """CUDA_VISIBLE_DEVICES for the workers, inside what we ourselves may see."""
    ours = [part for part in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if part]
    return ",".join(ours[number] if ours else str(number) for number in gpus)
