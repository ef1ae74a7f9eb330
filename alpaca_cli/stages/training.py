"""One process's training, alone or as one of several: from examples to `train/final/`.

Which processes there are, and who starts them, is the business of `alpaca_cli.stages.train`.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import ResourceError, UsageError
from alpaca_cli.core.hardware import find_gpu
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.stages.observing import observed
from alpaca_cli.stages.training_data import (
    asked_rows,
    data_warnings,
    hold_out,
    schedule_of,
    source,
    stamp_of,
    tokens_of,
)
from alpaca_cli.stages.training_report import Report, report_of

if TYPE_CHECKING:
    from alpaca_cli.model.checkpoints import Checkpoint
    from alpaca_cli.model.memory import Shape
    from alpaca_cli.model.strategy import Strategy
    from alpaca_cli.model.student import Trainee
    from alpaca_cli.model.tokens import Tokens
    from alpaca_cli.model.trainer import Training


def train_here(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    data: str | None,
    gpus: Sequence[int],
    fresh: Fresh,
) -> Report:
    """Load or make the student, train it, and have the first process write the results.

    Args:
        gpus: device numbers this process may use; CPU when empty.

    Raises:
        As `alpaca_cli.stages.train.run`.
    """
    from alpaca_cli.model.checkpoints import remove_leftovers
    from alpaca_cli.model.kernels import apply_kernels
    from alpaca_cli.model.strategy import compute_dtype, make_accelerator, meet
    from alpaca_cli.model.student import load_trainee, make_trainee, out_of_memory
    from alpaca_cli.model.tracking import check_package
    from alpaca_cli.model.trainer import train

    stage, settings = run.stage("train"), recipe.train
    stamp, inputs = stamp_of(recipe, run, data)
    for name in settings.report_to:
        check_package(name)
    processes = meet(gpus)
    with processes.main_process_first():
        first = processes.is_main_process
        if (stored := stage.open(stamp, inputs, fresh=fresh if first else "never")) is not None:
            return Report(**stored)
        if first:
            remove_leftovers(stage / "checkpoints")
        tokens = tokens_of(settings, run, data)
    dtype = compute_dtype(settings.dtype, "cuda" if gpus else "cpu")
    strategy = _strategy(settings, tokens, dtype, recipe.seed, processes.num_processes, gpus)
    accelerator = make_accelerator(dtype, gpus, strategy)
    checkpoint = _resumed(stage, accelerator, progress)
    with out_of_memory():
        # Under fsdp2 the first process alone holds the weights; the others get their parts.
        weights = strategy != "fsdp2" or accelerator.is_main_process
        trainee = (
            load_trainee(
                settings,
                checkpoint.path,
                tokens.tokenizer,
                tokens.template,
                dtype,
                weights=weights,
            )
            if checkpoint
            else make_trainee(
                settings, tokens.tokenizer, tokens.template, recipe.seed, dtype, weights=weights
            )
        )
        notes = [*tokens.notes, *trainee.notes]
        apply_kernels(trainee.model, settings, accelerator.device)
        training = _training(recipe, run, data, stage, tokens, trainee, accelerator, strategy)
        _announce(progress, settings, tokens, training, checkpoint, notes)
        if accelerator.is_main_process:
            for warning in data_warnings(settings, source(run, data)):
                progress.warn(warning)
            # Not sooner: data or a model that had to be put right first are not "changed" later.
            stage.begin(stamp, inputs)
        with observed(recipe, run, training, progress, checkpoint) as observer:
            train(training, observer, checkpoint)
    _write_results(stage, training, progress)
    if accelerator.is_main_process:
        report = report_of(stage, training, tokens, dtype)
        stage.finish(asdict(report), stamp, inputs, [*_final_files(stage), "log.jsonl"])
    accelerator.wait_for_everyone()
    done = stage.report()
    assert done is not None  # the first process has just written it
    return Report(**done)


def _strategy(
    settings: Train,
    tokens: Tokens,
    dtype: Any,
    seed: int,
    processes: int,
    gpus: Sequence[int],
) -> Strategy:
    """How the processes share the model; asks the memory plan when the recipe leaves it open.

    Raises:
        UsageError: the method cannot be trained that way.
    """
    from alpaca_cli.model.adapters import check_method
    from alpaca_cli.model.devices import available_memory
    from alpaca_cli.model.memory import choose_strategy, shape_of
    from alpaca_cli.model.student import make_trainee

    strategy: Strategy = "single"
    if processes > 1:
        empty = make_trainee(
            settings, tokens.tokenizer, tokens.template, seed, dtype, weights=False
        )
        shape = shape_of(empty.model, settings)
        available = available_memory(gpus, processes)
        kind = "cuda" if gpus else "cpu"
        strategy = choose_strategy(shape, settings, dtype, processes, available, kind=kind)
    check_method(settings, strategy)
    return strategy


def _resumed(stage: StageFolder, accelerator: Any, progress: Progress) -> Checkpoint | None:
    """The newest whole checkpoint, looked for by the first process alone: it reads every byte."""
    from alpaca_cli.model.checkpoints import newest_checkpoint
    from alpaca_cli.model.strategy import told_by_first

    found = None
    if accelerator.is_main_process:
        found, skipped = newest_checkpoint(stage / "checkpoints")
        for why in skipped:
            progress.warn(f"not gone on from {why}")
    return told_by_first(found)


def _training(
    recipe: Recipe,
    run: RunFolder,
    data: str | None,
    stage: StageFolder,
    tokens: Tokens,
    trainee: Trainee,
    accelerator: Any,
    strategy: Strategy,
) -> Training:
    """What the loop needs, with what can be refused before it starts."""
    from alpaca_cli.model.memory import flops_per_token, shape_of
    from alpaca_cli.model.trainer import Training

    settings = recipe.train
    rows, held_out = hold_out(settings, tokens, recipe.seed)
    shape = shape_of(trainee.model, settings)
    schedule = schedule_of(recipe, len(rows))
    if accelerator.is_main_process:
        check_disk(stage, settings, shape, schedule.steps)
    tokens_in, trained = int(rows.lengths.sum()), int(rows.trained.sum())
    # The mean over tokens, not over examples: a token in a long example attends to more.
    length = float((rows.lengths**2).sum()) / tokens_in
    return Training(
        trainee=trainee,
        rows=rows,
        held_out=held_out,
        asked=asked_rows(settings, source(run, data), held_out),
        schedule=schedule,
        settings=settings,
        folder=stage.path,
        accelerator=accelerator,
        strategy=strategy,
        flops=flops_per_token(shape, settings, length, trained / tokens_in),
        peak=_peak(accelerator),
    )


def check_disk(stage: StageFolder, settings: Train, shape: Shape, steps: int) -> None:
    """See to it that a checkpoint and the final model fit on the disk, before hours are spent.

    Raises:
        ResourceError: they do not.
    """
    place = stage.path
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, disk_needed(settings, shape, steps)
    if free < needed:
        raise ResourceError(
            f"{stage.path}: {free / 1e9:,.1f} GB free on the disk, checkpoints and the final model "
            f"need {needed / 1e9:,.1f} GB",
            hint="free space, name another folder with --run DIR, or lower train.keep_checkpoints",
        )


def disk_needed(settings: Train, shape: Shape, steps: int) -> int:
    """Bytes of the checkpoints that stay, the one being written, the best, and the final model."""
    from alpaca_cli.model.memory import checkpoint_bytes, model_bytes
    from alpaca_cli.model.trainer import saves

    best = 1 if settings.holdout or settings.holdout_file else 0
    # One at least: it is saved when the training is asked to stop.
    written = max(1, saves(steps, settings.save_every))
    checkpoints = min(settings.keep_checkpoints + 1 + best, written)
    return checkpoints * checkpoint_bytes(shape, settings) + model_bytes(shape, settings)


def _peak(accelerator: Any) -> float | None:
    """FLOP/s of all GPUs that train, by their makers' figures; None on CPU and unknown cards."""
    if accelerator.device.type != "cuda":
        return None
    from alpaca_cli.model.devices import gpus

    known = find_gpu(gpus()[accelerator.device.index or 0].name)
    return known.bf16_tflops * 1e12 * accelerator.num_processes if known else None


def _write_results(stage: StageFolder, training: Training, progress: Progress) -> None:
    """`final/`, checked before it appears, and `loss.png`."""
    from alpaca_cli.model.checkpoints import new_folder
    from alpaca_cli.model.log import read_log
    from alpaca_cli.model.plot import plot_loss
    from alpaca_cli.model.saving import adapter_moved, save_trainee, verify_saved
    from alpaca_cli.model.strategy import whole_state

    trainee = training.trainee
    state = whole_state(trainee.model, training.strategy)
    if not training.accelerator.is_main_process:
        return
    with new_folder(stage / "final") as temporary:
        save_trainee(trainee, temporary, state)
        verify_saved(trainee, temporary, state)
        if training.settings.method != "full" and not adapter_moved(temporary):
            progress.warn(
                "the adapter is all zeros: training changed nothing; raise train.learning_rate"
            )
    try:
        plot_loss(
            read_log(stage / "log.jsonl"), stage / "loss.png", read_log(stage / "held_out.jsonl")
        )
    except UsageError as error:  # matplotlib is an extra; the training is whole without it
        progress.info(f"no loss.png: {error}; {error.hint}")


def _announce(
    progress: Progress,
    settings: Train,
    tokens: Tokens,
    training: Training,
    resumed: Checkpoint | None,
    notes: Sequence[str],
) -> None:
    """Say what is about to happen, and what may surprise."""
    trainee, encoded, schedule = training.trainee, tokens.encoded, training.schedule
    for note in notes:
        progress.info(f"train: {note}")
    if tokens.excluded:
        progress.info(f"{tokens.excluded:,} examples marked bad are left out (train.exclude)")
    for count, what in ((encoded.dropped, "dropped"), (encoded.truncated, "response truncated")):
        if count:
            total = len(encoded.rows) + encoded.dropped
            progress.warn(
                f"{count:,} of {total:,} examples are longer than train.max_length "
                f"({settings.max_length:,} tokens): {what}"
            )
    slow = settings.optimizer == "adamw" and settings.learning_rate < 1e-4
    if isinstance(settings.model, ScratchModel) and slow:
        progress.warn(
            f"train.learning_rate {settings.learning_rate:g} suits fine-tuning; a model from "
            "scratch learns little with less than about 1e-3"
        )
    processes = training.accelerator.num_processes
    if resumed:
        before = resumed.position.processes
        changed = f" with {processes} processes ({before} before)" if before != processes else ""
        progress.info(f"resuming at step {resumed.position.step:,} of {schedule.steps:,}{changed}")
    shared = f", {processes} processes ({training.strategy})" if processes > 1 else ""
    progress.info(
        f"{trainee.parameters:,} parameters, {trainee.trainable:,} of them trained; "
        f"{len(training.rows):,} examples, {schedule.steps:,} steps{shared}"
    )


def _final_files(stage: StageFolder) -> list[str]:
    return [f"final/{path.name}" for path in sorted((stage / "final").iterdir())]
