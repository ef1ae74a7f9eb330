"""Dedup of a corpus in shards, by tasks in several processes or on several machines.

    shard-0.jsonl … -> OUT/shard-0.jsonl …  OUT/dropped/shard-0.jsonl …  OUT/report.json

Decisions are those of `alpaca_cli.stages.dedup`; how they are cut into tasks is the business of
`alpaca_cli.data.shards`, who runs them that of `alpaca_cli.stages.executors`. Work goes into
OUT/work/<digest of inputs and settings>: a command that was cut short goes on there, and other
inputs or settings begin anew.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from alpaca_cli.core.errors import DataError, TryAgain, UsageError, missing_extra
from alpaca_cli.core.files import digest, read_json, write_json
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.formats import HUB
from alpaca_cli.data.shards import STAGES, Plan, run_task

Executor = Literal["local", "slurm", "ray"]

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
LAYOUT = 1  # of the work folder; a number of its own for each change


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
        UsageError: the files or settings are none for shards, or datatrove is not installed.
        DataError: a file is missing, malformed, or changed on the way.
        TryAgain: jobs are with Slurm; the same command later goes on.
        ResourceError: processes were killed again and again.
    """
    if importlib.util.find_spec("datatrove") is None:
        raise missing_extra("datatrove", "scale")
    started = time.monotonic()
    plan = _plan(files, settings, output, tasks)
    _forget_missing_outputs(plan)
    if executor == "slurm":
        _with_slurm(plan, options)
    else:
        _here(plan, executor, tasks, options, progress)
    report = _report(plan, executor, round(time.monotonic() - started, 2))
    write_json(output / "report.json", asdict(report))
    _remove_intermediates(plan)
    return report


def _plan(files: Sequence[str], settings: Dedup, output: Path, tasks: int) -> Plan:
    """Refuse what shards cannot do; digest every file."""
    names: dict[str, str] = {}
    for name in files:
        if name.startswith(HUB) or not name.endswith(SUFFIXES):
            raise UsageError(f"{name}: not a shard", hint=f"shards end in {', '.join(SUFFIXES)}")
        if other := names.get(Path(name).name):
            raise UsageError(
                f"{name} and {other}: two shards of one name", hint="results go by that name"
            )
        names[Path(name).name] = name
        if Path(name).resolve().parent == output.resolve():
            raise UsageError(f"-o {output}: holds the shard {name}", hint="name another folder")
    if settings.keep != "first" or settings.decontaminate:
        raise UsageError(
            "--executor keeps the first and does not decontaminate",
            hint="alpaca dedup SHARD --decontaminate FILE -o OUT does that shard by shard",
        )
    # Tasks may run elsewhere: whole paths.
    shards = [str(Path(name).resolve()) for name in files]
    against = [str(Path(name).resolve()) for name in settings.against]
    key = {
        "layout": LAYOUT,
        "shards": shards,
        "against": against,
        "digests": {name: digest(Path(name)) for name in (*against, *shards)},
        "settings": settings.model_dump(mode="json"),
        "joins": tasks,
        "output": str(output.resolve()),
    }
    stamp = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    folder = output.resolve() / "work" / stamp
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
    )


def do_task(folder: str, stage: str, task: int) -> None:
    """One task, in whichever process.

    Raises:
        DataError: the stage before it is not done.
    """
    from alpaca_cli.stages.executors import incomplete

    plan = _load_plan(Path(folder))
    for before in STAGES[: STAGES.index(stage)]:
        if incomplete(_logs(plan, before), plan.tasks(before)):
            raise DataError(f"{folder}: {stage} was started before {before} was done")
    run_task(plan, stage, task)


def _logs(plan: Plan, stage: str) -> Path:
    return plan.folder / stage / "logs"


def _forget_missing_outputs(plan: Plan) -> None:
    """Have results written again that are not there any more."""
    for task, name in enumerate(plan.shards):
        if not (plan.output / Path(name).name).is_file():
            (_logs(plan, "write") / f"completions/{task:05}").unlink(missing_ok=True)


def _here(
    plan: Plan, executor: Executor, tasks: int, options: Mapping[str, Any], progress: Progress
) -> None:
    """Do all stages, one after another, while the command waits."""
    from alpaca_cli.stages.executors import incomplete, run_local, run_ray, step

    if executor == "local" and options:
        raise UsageError("--executor-option is for slurm and ray; local has --tasks")
    for stage in STAGES:
        total, logs = plan.tasks(stage), _logs(plan, stage)
        left = len(incomplete(logs, total))
        if not left:
            continue
        with progress.task(f"{stage}, tasks", total=total) as task:
            task.set(total - left)
            work = step(do_task, str(plan.folder), stage)
            if executor == "local":
                run_local(work, total, logs, min(tasks, left), task.advance)
            else:
                run_ray(work, total, logs, options, task.advance)


def _with_slurm(plan: Plan, options: Mapping[str, Any]) -> None:
    """Return when all is done; else submit what is left, or say how far it is.

    Raises:
        TryAgain: always, unless all is done.
    """
    from alpaca_cli.stages.executors import incomplete, queued, step, submit_slurm

    totals = {stage: plan.tasks(stage) for stage in STAGES}
    left = sum(len(incomplete(_logs(plan, stage), total)) for stage, total in totals.items())
    if not left:
        return
    later = "the same command shows how far it is, and writes the report in the end"
    stored = plan.folder / "jobs.json"
    jobs = read_json(stored) if stored.is_file() else {}
    if jobs and (running := queued(jobs)):
        done = sum(totals.values()) - left
        raise TryAgain(
            f"{done:,} of {sum(totals.values()):,} tasks are done; with Slurm: "
            + ", ".join(f"{stage} {job}" for stage, job in jobs.items() if job in running),
            hint=later,
        )
    work = {
        stage: (step(do_task, str(plan.folder), stage), total) for stage, total in totals.items()
    }
    jobs = submit_slurm(work, plan.folder, options)
    write_json(stored, jobs)
    listed = ", ".join(f"{stage} {job}" for stage, job in jobs.items())
    raise TryAgain(f"submitted to Slurm: {listed}", hint=later)


def _report(plan: Plan, executor: str, seconds: float) -> Report:
    with (
        np.load(plan.folder / "order/rows.npz") as rows,
        np.load(plan.folder / "keep/rows.npz") as decided,
    ):
        given = int(rows["begins"][len(plan.against)])
        survivors = decided["survivors"][given:]
        pairs = int(decided["pairs"])
    dropped = int((survivors >= 0).sum())
    against = int(((survivors >= 0) & (survivors < given)).sum())
    return Report(
        read=len(survivors),
        kept=len(survivors) - dropped,
        dropped=dropped,
        duplicates=dropped - against,
        against=against,
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


def _remove_intermediates(plan: Plan) -> None:
    """Delete what only unfinished work needs; logs, markers and decisions stay."""
    for stage in ("count", "encode", "join"):
        for file in (plan.folder / stage).glob("*.*"):
            file.unlink()
    (plan.folder / "order/words").unlink(missing_ok=True)
