"""Tasks on this machine's processes, on a Slurm cluster or on Ray, through `datatrove`.

Importing this module needs the extra [scale]; only `alpaca_cli.stages.dedup_shards` does, and only
when asked to. datatrove keeps a marker file for every task that is done, pickles the work for
Slurm and submits it; what it lacks is added here: a task whose process was killed is tried again
(datatrove's own pools wait for it for ever), its log lines stay in its log files, and no process
outlives the command. What a task does is not known here.
"""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from inspect import signature
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from datatrove.executor import (
    LocalPipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
)
from datatrove.utils.logging import logger

from alpaca_cli.core.errors import AlpacaError, ResourceError, UsageError, did_you_mean

Work = Callable[[Any, int, int], None]  # (nothing, task, tasks): datatrove's form of a step

TRIES = 3  # of a stage of which a process was killed
ARRAY = 1000  # tasks of a Slurm job array; the default of MaxArraySize is one more
RAY_OPTIONS = ("cpus_per_task", "mem_per_cpu_gb", "ray_remote_kwargs")  # those heeded here


class Local(LocalPipelineExecutor):  # type: ignore[misc]
    """Processes of this machine."""

    def run_tasks(self, done: Callable[[], None]) -> None:
        """Do what is not done yet; `done` is called for each task.

        Raises:
            BrokenProcessPool: a process was killed.
        """
        context = multiprocessing.get_context("forkserver")
        # Imported once, not in every process of every stage.
        context.set_forkserver_preload(
            [__name__, *(one.args[0].__module__ for one in self.pipeline)]
        )
        receiver, sender = context.Pipe(duplex=False)
        with (
            receiver,
            sender,
            ProcessPoolExecutor(self.workers, context, _enter_worker, (receiver,)) as pool,
        ):
            waiting = [
                pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()
            ]
            try:
                for future in as_completed(waiting):
                    future.result()
                    done()
            except KeyboardInterrupt:
                sender.close()  # tasks can take long: their processes leave now
                raise
            finally:
                pool.shutdown(cancel_futures=True)


class Ray(RayPipelineExecutor):  # type: ignore[misc]
    """Tasks of a Ray cluster, or of Ray on this machine."""

    def run_tasks(self, done: Callable[[], None], **resources: Any) -> None:
        """Do what is not done yet; `done` is called for each task. Ray tries lost ones again."""
        import ray

        one = ray.remote(**resources)(_run_one)
        waiting = [one.remote(self, rank) for rank in self.get_incomplete_ranks()]
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
            done()


class Slurm(SlurmPipelineExecutor):  # type: ignore[misc]
    """Job arrays of a Slurm cluster."""

    def launch_merge_stats(self) -> None:
        """No job for statistics: our tasks keep none."""


def _enter_worker(commands: Connection) -> None:
    """Keep datatrove's lines out of the terminal, and leave when the command dies or says so."""
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the process's lifetime
    threading.Thread(target=_leave_with_command, args=(commands,), daemon=True).start()


def _leave_with_command(commands: Connection) -> None:
    commands.poll(None)  # nothing is ever sent: the other end is closed
    os._exit(1)


def _run_one(executor: Any, rank: int) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the process's lifetime
    executor._run_for_rank(rank, 1)


def run_local(
    work: Work,
    tasks: int,
    folder: Path,
    workers: int,
    done: Callable[[], None],
    warn: Callable[[str], None],
) -> None:
    """Do the tasks of one stage in processes of this machine; those done before are left out.

    Args:
        folder: for datatrove's logs and markers.

    Raises:
        ResourceError: processes were killed again and again.
    """
    logger.remove()
    executor = Local([work], tasks=tasks, workers=workers, logging_dir=str(folder))
    for tried in range(1, TRIES + 1):
        try:
            executor.run_tasks(done)
            return
        except BrokenProcessPool as error:
            killed = f"a process of {folder.parent.name} was killed"
            if tried == TRIES:
                raise ResourceError(
                    f"{killed}, {TRIES} times in a row; unfinished: "
                    f"tasks {listed(executor.get_incomplete_ranks())}",
                    hint="often memory ran out; fewer --tasks at once need less. "
                    "The same command goes on",
                ) from error
            warn(f"{killed}; its tasks are done again")


def run_ray(
    work: Work, tasks: int, folder: Path, options: Mapping[str, Any], done: Callable[[], None]
) -> None:
    """Do the tasks of one stage on Ray; those done before are left out.

    Raises:
        UsageError: Ray is not installed, or has no option of this name.
        ResourceError: Ray gave up.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise UsageError("--executor ray needs Ray", hint="pip install ray") from error
    _refuse_unknown(Ray, "ray", options, RAY_OPTIONS)
    logger.remove()
    if not ray.is_initialized():
        terminate = signal.getsignal(signal.SIGTERM)
        ray.init(log_to_driver=False, logging_level="ERROR")
        signal.signal(signal.SIGTERM, terminate)  # Ray's own ends in a stack trace
    executor = Ray([work], tasks=tasks, logging_dir=str(folder))
    cpus = options.get("cpus_per_task", 1)
    resources = {"num_cpus": cpus, "max_retries": TRIES - 1, **options.get("ray_remote_kwargs", {})}
    if "mem_per_cpu_gb" in options:
        resources["memory"] = int(options["mem_per_cpu_gb"] * cpus * 2**30)
    try:
        executor.run_tasks(done, **resources)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, AlpacaError):
            raise error.cause from error
        raise
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"Ray lost tasks {listed(executor.get_incomplete_ranks())} of {folder.parent.name}: "
            f"{error}",
            hint="the same command goes on",
        ) from error


def submit_slurm(
    stages: Mapping[str, tuple[Work, int]], folder: Path, options: Mapping[str, Any]
) -> dict[str, str]:
    """Submit a job array for each stage that is not done, each after the one before it.

    Args:
        stages: name -> what its tasks do, and how many there are.
        options: arguments of datatrove's SlurmPipelineExecutor; `partition` and `time` at least.

    Returns:
        stage -> job id, for the stages submitted.

    Raises:
        UsageError: an option is missing or unknown, the folder's name has a space, or Slurm
            refuses; then none is submitted.
    """
    for name in ("partition", "time"):
        if name not in options:
            raise UsageError(
                f"--executor slurm needs a {name}",
                hint="--executor-option partition=NAME --executor-option time=HH:MM:SS",
            )
    known = set(signature(Slurm.__init__).parameters)
    _refuse_unknown(
        Slurm, "slurm", options, known - {"self", "pipeline", "tasks", "logging_dir", "depends"}
    )
    if any(letter.isspace() or letter == "%" for letter in str(folder)):
        raise UsageError(f"{folder}: Slurm cannot have a space or % in the name of this folder")
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        raise UsageError("this is a task of a Slurm job array; submit from outside of it")
    logger.remove()
    jobs: dict[str, str] = {}
    before = None
    here = Path(sys.executable).parent
    for name, (work, tasks) in stages.items():
        given = {
            "job_name": f"alpaca-{name}",
            "qos": None,
            "tasks_per_job": -(-tasks // ARRAY),  # one array: the next stage waits for one only
            "env_command": f"export PATH={here}:$PATH",
            "requeue": False,
            **options,
            "sbatch_args": {"kill-on-invalid-dep": "yes", **options.get("sbatch_args", {})},
        }
        executor = Slurm(
            [work], tasks=tasks, logging_dir=str(folder / name / "logs"), depends=before, **given
        )
        try:
            executor.run()
        except (OSError, subprocess.CalledProcessError) as error:
            if jobs:
                subprocess.run(["scancel", *jobs.values()], check=False)
            raise UsageError(f"Slurm does not take the {name} job: {error}") from error
        if executor.job_id not in (None, -1):  # -1: all of its tasks are done
            jobs[name] = str(executor.job_id)
        before = executor
    return jobs


def queued(jobs: Mapping[str, str]) -> dict[str, str]:
    """Which of these Slurm jobs are waiting or running: stage -> job id.

    Raises:
        UsageError: Slurm does not answer.
    """
    try:
        shown = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%F"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"Slurm does not answer: {error}") from error
    present = set(shown.stdout.split())
    return {stage: job for stage, job in jobs.items() if job in present}


def _refuse_unknown(
    kind: Any, name: str, options: Mapping[str, Any], known: Sequence[str] | set[str]
) -> None:
    """UsageError for an option that is unknown, or whose value is no number where one must be."""
    for option, value in options.items():
        if option not in known:
            raise UsageError(
                f"--executor-option {option}: {name} has none of this name"
                f"{did_you_mean(option, known)}",
                hint=f"one of {', '.join(sorted(known))}",
            )
        default = signature(kind.__init__).parameters[option].default
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if type(default) is int and not number:
            raise UsageError(f"--executor-option {option}={value}: must be a number")


def listed(tasks: Sequence[int]) -> str:
    """The first of some task numbers, for a message."""
    shown = ", ".join(map(str, tasks[:10]))
    return shown if len(tasks) <= 10 else f"{shown}, … ({len(tasks):,})"


def step(function: Callable[..., None], *arguments: Any) -> Work:
    """`function(*arguments, task)` as a step that every executor can send to another process."""
    return partial(_step, function, arguments)


def _step(
    function: Callable[..., None], arguments: tuple[Any, ...], data: Any, task: int, tasks: int
) -> None:
    logger.info("process {} on {}", os.getpid(), platform.node())
    function(*arguments, task)
