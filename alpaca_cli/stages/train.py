"""The train stage: examples to a student that can be asked.

    dedup/kept.jsonl (else generate/kept.jsonl, or a FILE) ->
        train/log.jsonl               one line per step
        train/checkpoints/step-…/     to go on from
        train/final/                  the model folder, whole or not there
        train/loss.png

A rerun costs nothing while recipe and data are the same. Cut short at any instant, it goes on
from the newest whole checkpoint, on the same loss trajectory. With several GPUs or machines this
process starts one worker per GPU (`alpaca_cli.model.launch`) and reports what they did; what one
process does is `alpaca_cli.stages.training`.
"""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, UsageError
from alpaca_cli.core.files import digest, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import dump_recipe
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.formats import HUB
from alpaca_cli.model.launch import (
    Devices,
    Meeting,
    check_batch,
    choose_gpus,
    launch,
    own_address,
    wants_cpu,
)
from alpaca_cli.model.worker import (
    Worker,
    check_shared_disk,
    lost_contact,
    this_worker,
    tied_to_parent,
    usr1_terminates,
)
from alpaca_cli.stages.training import train_here
from alpaca_cli.stages.training_data import stamp_of, tokens_of
from alpaca_cli.stages.training_report import Report


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training went for this process, which may be one of several."""

    report: Report
    ours: bool
    """Whether this process is the one that shows the report."""


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    data: str | None = None,
) -> Report:
    """Train, or return the stored report when the training is up to date.

    The caller holds the run's lock, and there is one machine; `take_part` is for several.

    Args:
        data: a file or `hub:` data set to train on instead of the run's own examples.

    Raises:
        DataError: there are no examples, or none fits; the model cannot be loaded.
        UsageError: the stage was made from something else; a setting does not fit this machine.
        GateFailed: the loss is not a number, or what was saved does not hold.
        ResourceError: disk or memory ran out, or a process was killed.
        TryAgain: contact to other processes was lost.
        KeyboardInterrupt, Terminated: asked to stop; a checkpoint was saved.
    """
    if recipe.train.nodes > 1:
        raise UsageError(
            f"train.nodes: {recipe.train.nodes} machines train by `alpaca train` on each of them",
            hint="start that after the stages before it, or set train.nodes=1",
        )
    return take_part(recipe, run, progress, fresh=fresh, data=data).report


def take_part(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    data: str | None = None,
) -> Outcome:
    """What this process has to do for a training: all of it, start workers, or be one.

    Arguments and errors as `run`. The caller holds the run's lock where `holds_lock` says so.
    """
    worker = this_worker()
    with usr1_terminates():
        if worker is None:
            return _lead(recipe, run, progress, fresh, data)
        with tied_to_parent(worker), lost_contact(worker):
            return _work(recipe, run, progress, fresh, data, worker)


def holds_lock(recipe: Recipe) -> bool:
    """Whether this process is the one that locks the run folder.

    On one machine that is the process that was started by hand; with several machines, whose
    parents share a disk, and under other launchers, it is the worker of rank 0.
    """
    worker = this_worker()
    several = recipe.train.nodes > 1
    if worker is None:
        return not several
    return worker.main and (several or worker.parent is None)


def check_readable(data: str) -> None:
    """DataError when a named file cannot be read; a `hub:` data set is not asked for here."""
    if not data.startswith(HUB):
        digest(Path(data))


def _lead(
    recipe: Recipe, run: RunFolder, progress: Progress, fresh: Fresh, data: str | None
) -> Outcome:
    """The process that was started by hand: train here, or start workers."""
    from alpaca_cli.model.devices import gpus

    stage, settings = run.stage("train"), recipe.train
    meeting = _meeting(recipe, run, data) if settings.nodes > 1 else None
    devices = choose_gpus(settings.gpus, len(gpus()))
    stamp, inputs = stamp_of(recipe, run, data)
    # Of several parents none may move the folder: the worker of rank 0 does it.
    if meeting is None or fresh == "never":
        if (stored := stage.open(stamp, inputs, fresh=fresh)) is not None:
            progress.info(f"train: up to date in {stage.path}")
            return Outcome(Report(**stored), ours=True)
        fresh = "never"
    check_batch(settings.global_batch, devices.processes * settings.nodes)
    if devices.processes == 1 and meeting is None:
        report = train_here(recipe, run, progress, data, devices.gpus, fresh)
        return Outcome(report, ours=True)
    if fresh == "never":
        # Once, here: workers that wait for the first one to do it may wait longer than they can.
        tokens_of(settings, run, data)
    ours = _start_workers(recipe, run, progress, fresh, data, devices, meeting)
    done = stage.report()
    if done is None:
        raise AlpacaError(f"{stage.path}: the workers ended without a result")
    if not ours:
        progress.info(f"train: done; the machine of rank 0 shows the result in {stage.path}")
    return Outcome(Report(**done), ours)


def _start_workers(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    fresh: Fresh,
    data: str | None,
    devices: Devices,
    meeting: Meeting | None,
) -> bool:
    """This training, by several processes; whether rank 0 was one of this machine's."""
    each = "one per GPU" if devices.gpus else "on the CPU"
    log = run.stage("train") / "launch.log"
    if meeting is None:
        progress.info(f"training in {devices.processes} processes, {each}")
    else:
        progress.info(
            f"training in {devices.processes * meeting.nodes} processes, {each}, on "
            f"{meeting.nodes} machines that meet at {meeting.endpoint} as {meeting.run_id}"
        )
        # Not inside the stage's folder: rank 0 may move that.
        log = run.path / f"launch-{platform.node()}.log"
    with TemporaryDirectory(prefix="alpaca-recipe-") as name:
        resolved = Path(name) / "recipe.yaml"
        write_text(resolved, dump_recipe(recipe))
        named = [] if data is None else [data]
        arguments = ["train", *named, "--recipe", str(resolved), "--run", str(run.path)]
        if fresh != "never":
            arguments.append("--fresh")
        return launch(arguments, devices, meeting, log, progress)


def _work(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    fresh: Fresh,
    data: str | None,
    worker: Worker,
) -> Outcome:
    """One of several processes: all train, the first one writes."""
    from alpaca_cli.model.devices import gpus

    check_batch(recipe.train.global_batch, worker.processes)
    check_shared_disk(worker, run.path)
    chosen = [] if wants_cpu(recipe.train.gpus) else list(range(len(gpus())))
    said = progress if worker.main else Progress(Console(quiet=True), quiet=True)
    if worker.main and worker.parent and worker.nodes == 1:
        # Should our parent be killed, a new one must not start workers beside us.
        with RunFolder(run.stage("train").path).lock():
            return Outcome(train_here(recipe, run, said, data, chosen, fresh), ours=False)
    report = train_here(recipe, run, said, data, chosen, fresh)
    return Outcome(report, ours=worker.main and worker.parent is None)


def _meeting(recipe: Recipe, run: RunFolder, data: str | None) -> Meeting:
    """Where this machine meets the others.

    Raises:
        UsageError: the recipe does not say it.
    """
    settings = recipe.train
    if not settings.rendezvous:
        raise UsageError(
            f"train.nodes: {settings.nodes} machines need a place to meet",
            hint="on each: --rendezvous HOST:PORT, the name of one of them and a free port there",
        )
    own_address(settings.rendezvous)  # a mistake in it is told before anything starts
    stamp, _ = stamp_of(recipe, run, data)
    # The same on every machine, and another one for another training.
    mark = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:8]
    made = f"{recipe.name}-{run.path.resolve().name}-{mark}"
    return Meeting(settings.nodes, settings.rendezvous, settings.run_id or made)
