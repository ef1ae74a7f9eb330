"""Tasks on this machine's processes, on a Slurm cluster or on Ray, through `datatrove`.

Importing this module needs the extra [scale]; only `alpaca_cli.stages.dedup_shards` does, and only
when asked to. datatrove keeps a marker file for every task that is done, pickles the work for
Slurm and submits it; what it lacks is added here: a task whose process was killed ends the stage
with an error or is tried again (datatrove's own pools wait for it for ever), its log lines stay in
its log files, and no process outlives the command. What a task does is not known here.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from inspect import signature
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


class Local(LocalPipelineExecutor):  # type: ignore[misc]
    """Processes of this machine."""

    def run_tasks(self, done: Callable[[], None]) -> None:
        """Do what is not done yet; `done` is called for each task.

        Raises:
            BrokenProcessPool: a process was killed.
        """
        context = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(self.workers, context, _enter_worker) as pool:
            waiting = [
                pool.submit(self._run_for_rank, rank, 1) for rank in self.get_incomplete_ranks()
            ]
            try:
                for future in as_completed(waiting):
                    future.result()
                    done()
            finally:
                pool.shutdown(cancel_futures=True)


class Ray(RayPipelineExecutor):  # type: ignore[misc]
    """Tasks of a Ray cluster, or of Ray on this machine."""

    def run_tasks(self, done: Callable[[], None]) -> None:
        """Do what is not done yet; `done` is called for each task. Ray tries lost ones again."""
        import ray

        one = ray.remote(num_cpus=self.cpus_per_task, max_retries=TRIES - 1)(_run_one)
        waiting = [one.remote(self, rank) for rank in self.get_incomplete_ranks()]
        while waiting:
            ready, waiting = ray.wait(waiting)
            ray.get(ready)
            done()


class Slurm(SlurmPipelineExecutor):  # type: ignore[misc]
    """Job arrays of a Slurm cluster."""

    def launch_merge_stats(self) -> None:
        """No job for statistics: our tasks keep none."""


def _enter_worker() -> None:
    """Keep datatrove's lines out of the terminal, and leave when the command dies."""
    sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the process's lifetime
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _run_one(executor: Any, rank: int) -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the process's lifetime
    executor._run_for_rank(rank, 1)


def incomplete(folder: Path, tasks: int) -> list[int]:
    """The tasks of a stage that are not done, by the markers in its log folder."""
    return [task for task in range(tasks) if not (folder / f"completions/{task:05}").is_file()]


def run_local(work: Work, tasks: int, folder: Path, workers: int, done: Callable[[], None]) -> None:
    """Do the tasks of one stage in processes of this machine; those done before are left out.

    Args:
        folder: for datatrove's logs and markers.

    Raises:
        ResourceError: processes were killed again and again.
    """
    logger.remove()
    executor = Local([work], tasks=tasks, workers=workers, logging_dir=str(folder))
    for tried in range(TRIES):
        try:
            executor.run_tasks(done)
            return
        except BrokenProcessPool as error:
            if tried + 1 == TRIES:
                raise ResourceError(
                    f"a process was killed, {TRIES} times in a row; unfinished: "
                    f"tasks {_listed(incomplete(folder, tasks))} of {folder.parent.name}",
                    hint="often memory ran out; fewer --tasks at once need less. "
                    "The same command goes on",
                ) from error


def run_ray(
    work: Work, tasks: int, folder: Path, options: Mapping[str, Any], done: Callable[[], None]
) -> None:
    """Do the tasks of one stage on Ray; those done before are left out."""
    import ray

    logger.remove()
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="ERROR")
    executor = _make(Ray, "ray", [work], tasks, folder, options)
    try:
        executor.run_tasks(done)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, AlpacaError):
            raise cause from error
        raise
    except ray.exceptions.RayError as error:
        raise ResourceError(
            f"Ray lost tasks {_listed(incomplete(folder, tasks))} of {folder.parent.name}: {error}",
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
            refuses.
    """
    for name in ("partition", "time"):
        if name not in options:
            raise UsageError(
                f"--executor slurm needs a {name}",
                hint="--executor-option partition=NAME --executor-option time=HH:MM:SS",
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
            "sbatch_args": {"kill-on-invalid-dep": "yes"},
            "requeue": False,
            "depends": before,
        } | dict(options)
        executor = _make(Slurm, "slurm", [work], tasks, folder / name / "logs", given)
        try:
            executor.run()
        except (OSError, subprocess.CalledProcessError) as error:
            raise UsageError(f"Slurm does not take the {name} job: {error}") from error
        if executor.job_id not in (None, -1):  # -1: all of its tasks are done
            jobs[name] = str(executor.job_id)
        before = executor
    return jobs


def queued(jobs: Mapping[str, str]) -> set[str]:
    """Which of these Slurm jobs are waiting or running."""
    try:
        shown = subprocess.run(
            ["squeue", "--me", "--noheader", "--format=%F"],
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"Slurm does not answer: {error}") from error
    return set(jobs.values()) & set(shown.stdout.split())


def _make(
    kind: Any, name: str, work: list[Work], tasks: int, folder: Path, options: Mapping[str, Any]
) -> Any:
    known = set(signature(kind.__init__).parameters) - {"self", "pipeline", "tasks", "logging_dir"}
    for option in options:
        if option not in known:
            raise UsageError(
                f"--executor-option {option}: {name} has none of this name"
                f"{did_you_mean(option, known)}",
                hint=f"one of {', '.join(sorted(known))}",
            )
    return kind(work, tasks=tasks, logging_dir=str(folder), **options)


def _listed(tasks: list[int]) -> str:
    shown = ", ".join(map(str, tasks[:10]))
    return shown if len(tasks) <= 10 else f"{shown}, … ({len(tasks):,})"


def step(function: Callable[..., None], *arguments: Any) -> Work:
    """`function(*arguments, task)` as a step that every executor can send to another process."""
    return partial(_step, function, arguments)


def _step(
    function: Callable[..., None], arguments: tuple[Any, ...], data: Any, task: int, tasks: int
) -> None:
    function(*arguments, task)
