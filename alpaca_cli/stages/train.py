"""The train stage: examples to a student that can be asked.

    dedup/kept.jsonl (else generate/kept.jsonl, or a FILE) ->
        train/log.jsonl               one line per step
        train/checkpoints/step-…/     to go on from
        train/final/                  the model folder, whole or not there
        train/loss.png

A rerun costs nothing while recipe and data are the same. Cut short at any instant, it goes on
from the newest whole checkpoint, on the same loss trajectory. With several GPUs this process
starts one worker each (`alpaca_cli.model.launch`) and reports what they did.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.core.files import digest, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import dump_recipe
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import Train
from alpaca_cli.data.formats import HUB
from alpaca_cli.model.launch import (
    Worker,
    check_batch,
    choose_gpus,
    launch,
    leave_error,
    this_worker,
)
from alpaca_cli.stages.training import Report, stamp_of, train_here


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    data: str | None = None,
) -> Report:
    """Train, or return the stored report when the training is up to date.

    Args:
        data: a file or `hub:` data set to train on instead of the run's own examples.

    Raises:
        DataError: there are no examples, or none fits; the model cannot be loaded.
        UsageError: the stage was made from something else; a setting does not fit this machine.
        GateFailed: the loss is not a number, or what was saved does not hold.
        ResourceError: disk or memory ran out.
    """
    worker = this_worker()
    try:
        if worker.processes > 1:
            return _work_together(recipe, run, progress, fresh, data, worker)
        return _lead(recipe, run, progress, fresh, data)
    except AlpacaError as error:
        leave_error(error)
        raise


def check_readable(data: str) -> None:
    """DataError when a named file cannot be read; a `hub:` data set is not asked for here."""
    if not data.startswith(HUB):
        digest(Path(data))


def is_follower() -> bool:
    """Whether another process holds the lock and shows the result of this training."""
    worker = this_worker()
    return worker.launched or not worker.main


def _lead(
    recipe: Recipe, run: RunFolder, progress: Progress, fresh: Fresh, data: str | None
) -> Report:
    """The only process, or the one that starts the workers."""
    from alpaca_cli.model.devices import gpus

    stage, settings = run.stage("train"), recipe.train
    stamp, inputs = stamp_of(recipe, run, data)
    chosen = choose_gpus(settings.gpus, len(gpus()))
    if (stored := stage.open(stamp, inputs, fresh=fresh)) is not None:
        progress.info(f"train: up to date in {stage.path}")
        return Report(**stored)
    if len(chosen) > 1:
        check_batch(settings.global_batch, len(chosen))
        progress.info(f"training on {len(chosen)} GPUs")
        launch(_arguments(recipe, run, stage, data), chosen, stage.path, progress)
        done = stage.report()
        if done is None:
            raise AlpacaError(f"{stage.path}: the workers ended without a result")
        return Report(**done)
    return train_here(recipe, run, progress, data, _accelerator(settings, chosen), fresh="never")


def _work_together(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    fresh: Fresh,
    data: str | None,
    worker: Worker,
) -> Report:
    """One of several processes: all train, the first one writes."""
    from alpaca_cli.model.devices import gpus

    check_batch(recipe.train.global_batch, worker.processes)
    accelerator = _accelerator(recipe.train, list(range(len(gpus()))))
    said = progress if worker.main else Progress(Console(quiet=True), quiet=True)
    if worker.main and worker.launched:
        # Should our parent be killed, a new one must not start workers beside us.
        with RunFolder(run.stage("train").path).lock():
            return train_here(recipe, run, said, data, accelerator, fresh)
    return train_here(recipe, run, said, data, accelerator, fresh)


def _accelerator(settings: Train, gpus: Sequence[int]) -> Any:
    """accelerate's `Accelerator` on the chosen GPUs, or on CPU when none is chosen."""
    from alpaca_cli.model.trainer import make_accelerator

    return make_accelerator(settings.dtype, gpus)


def _arguments(recipe: Recipe, run: RunFolder, stage: StageFolder, data: str | None) -> list[str]:
    """The worker's command line: this training, from the recipe as resolved here."""
    resolved = stage / "recipe.yaml"
    write_text(resolved, dump_recipe(recipe))
    named = [] if data is None else [data]
    return ["train", *named, "--recipe", str(resolved), "--run", str(run.path)]
