"""Dedup of a corpus in shards, by tasks in several processes or on several machines.

    shard-0.jsonl … -> OUT/shard-0.jsonl …  OUT/dropped/shard-0.jsonl …  OUT/report.json

Decisions are those of `alpaca_cli.stages.dedup`; how they are cut into tasks is the business of
`alpaca_cli.data.shards`, who runs them that of `alpaca_cli.stages.executors`. Work goes into
OUT/work/<digest of inputs and settings>: a command that was cut short goes on there, and other
inputs or settings begin anew. Tasks read and write by the paths of this machine, so on several
machines those paths must be on a disk that all of them share.
"""

from __future__ import annotations

import glob
import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alpaca_cli.core import errors
from alpaca_cli.core.errors import (
    AlpacaError,
    DataError,
    ResourceError,
    TryAgain,
    UsageError,
    missing_extra,
)
from alpaca_cli.core.files import digest, read_json, write_json, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import MANY_WITHOUT_WORDS
from alpaca_cli.data.formats import HUB
from alpaca_cli.data.reviews import excluded
from alpaca_cli.data.shard_files import SUFFIXES, stem
from alpaca_cli.data.shards import STAGES, Plan, run_task

Executor = Literal["local", "slurm", "ray"]

LAYOUT = 3  # of the work folder; a number of its own for each change


@dataclass(frozen=True, slots=True)
class Report:
    """What happened; names as in `alpaca_cli.stages.dedup.Report`.

    Attributes:
        shards: files read and written.
        pairs: similar pairs found among the texts that differ.
        dropped_output: the folder of the dropped rows.
        seconds: of this command alone, when an earlier one did a part.
    """

    read: int
    kept: int
    dropped: int
    duplicates: int
    against: int
    excluded: int
    without_words: int
    shards: int
    pairs: int
    threshold: float
    key: str
    tokenizer: str
    executor: str
    tasks: int
    seconds: float
    output: str
    dropped_output: str


def dedupe_shards(
    files: Sequence[str],
    settings: Dedup,
    progress: Progress,
    output: Path,
    *,
    executor: Executor,
    tasks: int,
    options: Mapping[str, Any],
) -> Report:
    """Drop near-duplicates over shards, taken as one corpus in the order given.

    Args:
        output: the folder of the results; each shard is written there under its own name.
        tasks: tasks of the join; with `local` also the processes at once.
        options: of datatrove's executor for Slurm or Ray.

    Raises:
        UsageError: the files or settings are none for shards, or a library is not installed.
        DataError: a file is missing, malformed, or changed on the way.
        TryAgain: jobs are with Slurm, and the same command later goes on; or another process is
            writing into the folder.
        ResourceError: processes were killed again and again.
    """
    if importlib.util.find_spec("datatrove") is None:
        raise missing_extra("datatrove", "scale")
    if executor == "local" and options:
        raise UsageError("--executor-option is for slurm and ray; local has --tasks")
    _refuse(files, settings, output)
    started = time.monotonic()
    with RunFolder(output / "work").lock():
        plan = _plan(files, settings, progress, output, tasks)
        _refuse_jobs(plan, executor)
        _forget_missing_results(plan)
        if executor == "slurm":
            _with_slurm(plan, options)
        else:
            _here(plan, executor, tasks, options, progress)
        report = _report(plan, executor, round(time.monotonic() - started, 2))
        write_json(output / "report.json", asdict(report))
        _clean_up(plan)
    if settings.exclude and not report.excluded:
        progress.warn(
            f"{', '.join(settings.exclude)}: no example here is marked bad there; "
            "is it the review of other data?"
        )
    if report.without_words > MANY_WITHOUT_WORDS * report.read:
        progress.warn(
            f"{report.without_words:,} of {report.read:,} rows have no words for the "
            f"{report.tokenizer} tokenizer and are like no other"
        )
    return report


def _refuse(files: Sequence[str], settings: Dedup, output: Path) -> None:
    """UsageError for what shards cannot do."""
    for key, wanted in (("keep", "first"), ("decontaminate", []), ("semantic", None)):
        if getattr(settings, key) != wanted:
            raise UsageError(
                f"dedup.{key} does not go with --executor",
                hint="alpaca dedup SHARD --decontaminate FILE -o OUT does that shard by shard"
                if key == "decontaminate"
                else "",
            )
    stems: dict[str, str] = {}
    for name in files:
        if name.startswith(HUB) or not name.endswith(SUFFIXES):
            raise UsageError(f"{name}: not a shard", hint=f"shards end in {', '.join(SUFFIXES)}")
        if other := stems.get(stem(Path(name).name)):
            raise UsageError(
                f"{name} and {other}: two shards of one name", hint="results go by that name"
            )
        stems[stem(Path(name).name)] = name
    results = {
        path.resolve()
        for name in (Path(name).name for name in files)
        for path in (output / name, output / "dropped" / f"{stem(name)}.jsonl")
    }
    shards = {Path(name).resolve() for name in files}
    for name in settings.against:
        if name.startswith(HUB):
            raise UsageError(f"--against {name}: tasks read files", hint="download it as one")
        if Path(name).resolve() in shards:
            raise UsageError(f"--against {name}: is one of the shards, nothing of it would stay")
    for name in (*files, *settings.against, *settings.exclude):
        if Path(name).resolve() in results:
            raise UsageError(f"-o {output}: would overwrite {name}", hint="name another folder")


def _plan(
    files: Sequence[str], settings: Dedup, progress: Progress, output: Path, tasks: int
) -> Plan:
    """Digest every file; the plan, stored for the tasks."""
    # Tasks may run elsewhere: whole paths. Not resolve(): a link's name tells what the file is.
    shards = [str(Path(name).absolute()) for name in files]
    against = [str(Path(name).absolute()) for name in settings.against]
    digests = {}
    with progress.task("digesting files", total=len(shards) + len(against)) as task:
        for name in (*against, *shards):
            digests[name] = digest(Path(name))
            task.advance()
    key = {
        "layout": LAYOUT,
        "shards": shards,
        "against": against,
        "digests": digests,
        "settings": settings.model_dump(mode="json", include={"threshold", "key", "tokenizer"}),
        "excluded": sorted(excluded(settings.exclude)),
        "joins": tasks,
        "output": str(output.absolute()),
    }
    stamp = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = output.absolute() / "work" / stamp
    write_json(folder / "plan.json", key)
    return _load_plan(folder)


def _load_plan(folder: Path) -> Plan:
    stored = read_json(folder / "plan.json")
    return Plan(
        folder=folder,
        shards=tuple(stored["shards"]),
        against=tuple(stored["against"]),
        digests=stored["digests"],
        settings=Dedup.model_validate(stored["settings"]),
        joins=stored["joins"],
        output=Path(stored["output"]),
        excluded=frozenset(stored["excluded"]),
    )


def do_task(folder: str, stage: str, task: int) -> None:
    """One task, in whichever process. An error that a person can act on is stored as well, for
    the command that comes back to Slurm's jobs.

    Raises:
        DataError: the stage before it is not done.
    """
    plan = _load_plan(Path(folder))
    error_file = _error_file(plan, stage, task)
    error_file.unlink(missing_ok=True)
    try:
        place = STAGES.index(stage)
        if place and _incomplete(plan, STAGES[place - 1]):
            raise DataError(f"{folder}: {stage} started before {STAGES[place - 1]} was done")
        run_task(plan, stage, task)
    except MemoryError:
        raise ResourceError(
            f"{stage}, task {task}: out of memory", hint="more --tasks make smaller blocks"
        ) from None
    except AlpacaError as error:
        stored = {"kind": type(error).__name__, "message": str(error), "hint": error.hint}
        write_json(error_file, stored)
        raise


def _logs(plan: Plan, stage: str) -> Path:
    return plan.folder / stage / "logs"


def _marker(plan: Plan, stage: str, task: int) -> Path:
    """The file that datatrove makes when a task is done."""
    return _logs(plan, stage) / f"completions/{task:05}"


def _error_file(plan: Plan, stage: str, task: int) -> Path:
    return _logs(plan, stage) / f"errors/{task:05}.json"


def _incomplete(plan: Plan, stage: str) -> list[int]:
    """The tasks of a stage that are not done."""
    tasks = range(plan.tasks(stage))
    return [task for task in tasks if not _marker(plan, stage, task).is_file()]


def _refuse_jobs(plan: Plan, executor: Executor) -> None:
    """TryAgain when jobs of an earlier command are with Slurm, and this is not to ask for them."""
    for stored in plan.folder.parent.glob("*/jobs.json"):
        if executor == "slurm" and stored.parent == plan.folder:
            continue
        from alpaca_cli.stages.executors import queued

        if running := queued(read_json(stored)["jobs"]):
            raise TryAgain(
                f"{plan.output}: Slurm jobs {', '.join(running.values())} of an earlier command "
                "still write there",
                hint="wait for them, scancel them, or name another -o FOLDER",
            )


def _forget_missing_results(plan: Plan) -> None:
    """Have results written again that are not there any more, or are those of another plan."""
    latest = plan.output / "work/latest"
    ours = latest.is_file() and latest.read_text("utf-8") == plan.folder.name
    for task in range(len(plan.shards)):
        if not ours or not all(file.is_file() for file in plan.results(task)):
            _marker(plan, "write", task).unlink(missing_ok=True)
    write_text(latest, plan.folder.name)


def _here(
    plan: Plan, executor: Executor, tasks: int, options: Mapping[str, Any], progress: Progress
) -> None:
    """Do all stages, one after another, while the command waits."""
    for stage in STAGES:
        total, logs = plan.tasks(stage), _logs(plan, stage)
        left = len(_incomplete(plan, stage))
        if not left:
            continue
        from alpaca_cli.stages.executors import run_local, run_ray, step

        with progress.task(f"{stage}, tasks", total=total) as task:
            task.set(total - left)
            work = step(do_task, str(plan.folder), stage)
            if executor == "local":
                run_local(work, total, logs, min(tasks, left), task.advance, progress.warn)
            else:
                run_ray(work, total, logs, options, task.advance)


def _with_slurm(plan: Plan, options: Mapping[str, Any]) -> None:
    """Return when all is done; else submit what is left, or say how far it is.

    Raises:
        TryAgain: jobs are with Slurm.
        ResourceError: the jobs of the last command ended and did nothing.
        AlpacaError: a task ended in this error.
    """
    totals = {stage: plan.tasks(stage) for stage in STAGES}
    left = {stage: tasks for stage in STAGES if (tasks := _incomplete(plan, stage))}
    count = sum(map(len, left.values()))
    if not left:
        return
    from alpaca_cli.stages.executors import listed, queued, step, submit_slurm

    later = "the same command shows how far it is, and writes the report in the end"
    stored = plan.folder / "jobs.json"
    last = read_json(stored) if stored.is_file() else None
    if last and (running := queued(last["jobs"])):
        done = sum(totals.values()) - count
        shown = ", ".join(f"{stage} {job}" for stage, job in running.items())
        raise TryAgain(
            f"{done:,} of {sum(totals.values()):,} tasks are done; with Slurm: {shown}", hint=later
        )
    if last:
        stored.unlink()  # whatever is said now, the command after this one submits again
        _raise_stored_error(plan, left)
        if last["left"] == count:
            stage, tasks = next(iter(left.items()))
            raise ResourceError(
                f"the Slurm jobs ended, and {stage} tasks {listed(tasks)} did not",
                hint=f"killed, or out of time or memory? {_logs(plan, stage)}/slurm_logs tells. "
                "The same command submits them again",
            )
    work = {
        stage: (step(do_task, str(plan.folder), stage), total) for stage, total in totals.items()
    }
    jobs = submit_slurm(work, plan.folder, options)
    write_json(stored, {"jobs": jobs, "left": count})
    shown = ", ".join(f"{stage} {job}" for stage, job in jobs.items())
    raise TryAgain(f"submitted to Slurm, {count:,} tasks: {shown}", hint=later)


def _raise_stored_error(plan: Plan, left: Mapping[str, Sequence[int]]) -> None:
    """Raise the error of the first task that ended in one."""
    for stage, tasks in left.items():
        for task in tasks:
            if (stored := _error_file(plan, stage, task)).is_file():
                error = read_json(stored)
                stored.unlink()
                raise getattr(errors, error["kind"])(error["message"], hint=error["hint"])


def _report(plan: Plan, executor: str, seconds: float) -> Report:
    with (
        np.load(plan.folder / "order/rows.npz") as rows,
        np.load(plan.folder / "keep/rows.npz") as decided,
    ):
        given = int(rows["begins"][len(plan.against)])
        without_words = int(rows["without_words"])
        out = int(rows["excluded"].sum())
        survivors = decided["survivors"][given:]
        pairs = int(decided["pairs"])
    alike = int((survivors >= 0).sum())
    against = int(((survivors >= 0) & (survivors < given)).sum())
    return Report(
        read=len(survivors),
        kept=len(survivors) - alike - out,
        dropped=alike + out,
        duplicates=alike - against,
        against=against,
        excluded=out,
        without_words=without_words,
        shards=len(plan.shards),
        pairs=pairs,
        threshold=plan.settings.threshold,
        key=plan.settings.key,
        tokenizer=plan.settings.tokenizer,
        executor=executor,
        tasks=plan.joins,
        seconds=seconds,
        output=str(plan.output),
        dropped_output=str(plan.output / "dropped"),
    )


def _clean_up(plan: Plan) -> None:
    """Delete what only unfinished work needs; logs, markers and decisions stay."""
    for stage in ("count", "encode", "join"):
        for file in (plan.folder / stage).glob("*.*"):
            file.unlink()
    for file in (plan.folder / "order").glob("*.npy"):
        file.unlink()
    (plan.folder / "jobs.json").unlink(missing_ok=True)
    # Half-written ones of processes that were killed.
    for task in range(len(plan.shards)):
        for result in plan.results(task):
            for file in result.parent.glob(f".{glob.escape(result.name)}.*.tmp"):
                file.unlink()
