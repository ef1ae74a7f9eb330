"""One process's training, alone or as one of several: from examples to `train/final/`.

Which processes there are, and who starts them, is the business of `alpaca_cli.stages.train`.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import DataError, ResourceError, UsageError
from alpaca_cli.core.files import digest
from alpaca_cli.core.hardware import find_gpu
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.stages.observing import observed

if TYPE_CHECKING:
    import torch

    from alpaca_cli.model.batches import Schedule
    from alpaca_cli.model.checkpoints import Checkpoint
    from alpaca_cli.model.memory import Shape
    from alpaca_cli.model.rows import Ids, Rows
    from alpaca_cli.model.strategy import Strategy
    from alpaca_cli.model.student import Trainee
    from alpaca_cli.model.tokens import Tokens
    from alpaca_cli.model.trainer import Training

# Keys that say how the work is done, not what comes out: they may change between a kill and the
# resume, and a finished training stays up to date.
HOW = {
    "attention",
    "compile",
    "evaluate_every",
    "gpus",
    "gradient_checkpointing",
    "keep_checkpoints",
    "liger",
    "micro_batch",
    "nodes",
    "rendezvous",
    "report_to",
    "run_id",
    "samples",
    "save_every",
    "strategy",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Attributes:
        examples: trained on; `dropped` and `truncated` ones were longer than max_length.
        held_out: examples that the held-out loss was taken from.
        tokens: prompt and response tokens seen, repeats included, padding not.
        trained_tokens: those the loss was taken over: responses and EOS.
        padding: share of the computed positions that held no token.
        loss: mean over the trained tokens of the last tenth of the steps, in nats.
        held_out_loss: after the last step; `best_checkpoint` is a saved one whose own is lower.
        spikes: steps that stood out; log.jsonl has their examples.
        seconds: in training steps; loading, evaluating and saving not counted.
        mfu: share of the devices' peak, over all steps; None when that is unknown.
        memory: most bytes held by the first process, on its GPU or in RAM without one.
        parameters: of the whole model; `trained_parameters` were changed.
    """

    model: str
    steps: int
    epochs: float
    examples: int
    held_out: int
    dropped: int
    truncated: int
    tokens: int
    trained_tokens: int
    padding: float
    loss: float
    held_out_loss: float | None
    best_checkpoint: str | None
    spikes: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    memory: int
    parameters: int
    trained_parameters: int
    device: str
    processes: int
    strategy: str
    dtype: str


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
    from accelerate import PartialState

    from alpaca_cli.model.checkpoints import remove_leftovers
    from alpaca_cli.model.kernels import apply_kernels
    from alpaca_cli.model.strategy import compute_dtype, make_accelerator
    from alpaca_cli.model.student import load_trainee, make_trainee, out_of_memory
    from alpaca_cli.model.trainer import train

    stage, settings = run.stage("train"), recipe.train
    stamp, inputs = stamp_of(recipe, run, data)
    processes = PartialState(cpu=not gpus)
    with processes.main_process_first():
        first = processes.is_main_process
        if (stored := stage.open(stamp, inputs, fresh=fresh if first else "never")) is not None:
            return Report(**stored)
        if first:
            remove_leftovers(stage / "checkpoints")
        tokens = tokens_of(settings, run, data, progress)
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
            # Not sooner: data or a model that had to be put right first are not "changed" later.
            stage.begin(stamp, inputs)
        with observed(recipe, run, training, progress, checkpoint) as observer:
            train(training, observer, checkpoint)
    _write_results(stage, training, progress)
    if accelerator.is_main_process:
        report = _report(stage, training, tokens, dtype, gpus)
        stage.finish(asdict(report), stamp, inputs, [*_final_files(stage), "log.jsonl"])
    accelerator.wait_for_everyone()
    done = stage.report()
    assert done is not None  # the first process has just written it
    return Report(**done)


def tokens_of(settings: Train, run: RunFolder, data: str | None, progress: Progress) -> Tokens:
    """The data as ids, from `train/tokens/` when it is there, else made and stored."""
    from alpaca_cli.model.tokens import prepare_tokens

    named = source(run, data)
    folder = run.stage("train").path / "tokens"
    return prepare_tokens(settings, _data_digest(named), lambda: read_examples([named]), folder)


def _strategy(
    settings: Train,
    tokens: Tokens,
    dtype: torch.dtype,
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
    from accelerate.utils import broadcast_object_list

    from alpaca_cli.model.checkpoints import newest_checkpoint

    found: list[Checkpoint | None] = [None]
    if accelerator.is_main_process:
        found[0], skipped = newest_checkpoint(stage / "checkpoints")
        for why in skipped:
            progress.warn(f"not gone on from {why}")
    broadcast_object_list(found)
    return found[0]


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
    if accelerator.is_main_process:
        check_disk(stage, settings, shape)
    tokens_in, trained = int(rows.lengths.sum()), int(rows.trained.sum())
    # The mean over tokens, not over examples: a token in a long example attends to more.
    length = float((rows.lengths**2).sum()) / tokens_in
    return Training(
        trainee=trainee,
        rows=rows,
        held_out=held_out,
        asked=_asked(settings, source(run, data), held_out),
        schedule=schedule_of(recipe, len(rows)),
        settings=settings,
        folder=stage.path,
        accelerator=accelerator,
        strategy=strategy,
        flops=flops_per_token(shape, settings, length, trained / tokens_in),
        peak=_peak(accelerator),
    )


def hold_out(settings: Train, tokens: Tokens, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on, and rows to take the held-out loss from.

    Raises:
        UsageError: nothing would be left to train on.
        DataError: the file of held-out examples cannot be read, or none of them fits.
    """
    from alpaca_cli.model.rows import encode_rows

    rows = tokens.encoded.rows
    if settings.holdout_file:
        examples = read_examples([settings.holdout_file])
        encoded = encode_rows(
            examples, tokens.tokenizer, tokens.template, settings.max_length, "drop"
        )
        return rows, encoded.rows
    if settings.holdout >= len(rows):
        raise UsageError(
            f"train.holdout: {settings.holdout:,} of {len(rows):,} examples leave none to train on",
            hint="hold out fewer, or name a file of others: train.holdout_file",
        )
    # A text seed is hashed by random itself: the same draw in every process and version.
    drawn = set(random.Random(f"{seed}/holdout").sample(range(len(rows)), settings.holdout))
    kept = [index for index in range(len(rows)) if index not in drawn]
    return rows.take(kept), rows.take(sorted(drawn))


def _asked(settings: Train, named: str, held_out: Rows) -> list[tuple[str, str, Ids]]:
    """The held-out instructions that are answered at each evaluation, with their prompts' ids."""
    chosen = [held_out[index] for index in range(min(settings.samples, len(held_out)))]
    if not chosen:
        return []
    examples = read_examples([settings.holdout_file or named])
    found = []
    for row in chosen:
        example = examples[row.number - 1]
        found.append((example.instruction, example.input, row.ids[: row.prompt]))
    return found


def check_disk(stage: StageFolder, settings: Train, shape: Shape) -> None:
    """See to it that a checkpoint and the final model fit on the disk, before hours are spent.

    Raises:
        ResourceError: they do not.
    """
    place = stage.path
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, disk_needed(settings, shape)
    if free < needed:
        raise ResourceError(
            f"{stage.path}: {free / 1e9:,.1f} GB free on the disk, checkpoints and the final model "
            f"need {needed / 1e9:,.1f} GB",
            hint="free space, name another folder with --run DIR, or lower train.keep_checkpoints",
        )


def disk_needed(settings: Train, shape: Shape) -> int:
    """Bytes of the checkpoints that stay, the one being written, the best, and the final model."""
    from alpaca_cli.model.memory import checkpoint_bytes

    best = 1 if settings.holdout or settings.holdout_file else 0
    return (settings.keep_checkpoints + 2 + best) * checkpoint_bytes(shape, settings)


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


def _report(
    stage: StageFolder,
    training: Training,
    tokens: Tokens,
    dtype: torch.dtype,
    gpus: Sequence[int],
) -> Report:
    """Sums over the whole log, so that a resumed training reports like an uninterrupted one."""
    from alpaca_cli.model.checkpoints import best_checkpoint
    from alpaca_cli.model.log import read_log

    log, held_out = read_log(stage / "log.jsonl"), read_log(stage / "held_out.jsonl")
    tail = log[-max(1, len(log) // 10) :]
    total = {
        key: sum(line[key] for line in log)
        for key in ("tokens", "trained_tokens", "positions", "seconds")
    }
    trained = sum(line["trained_tokens"] for line in tail)
    last = held_out[-1]["loss"] if held_out else None
    best = best_checkpoint(stage / "checkpoints")
    better = best is not None and last is not None and (best.position.held_out_loss or last) < last
    rate = total["tokens"] / total["seconds"]
    accelerator = training.accelerator
    return Report(
        model=str(stage / "final"),
        steps=len(log),
        epochs=training.settings.epochs,
        examples=len(training.rows),
        held_out=len(training.held_out),
        dropped=tokens.encoded.dropped,
        truncated=tokens.encoded.truncated,
        tokens=total["tokens"],
        trained_tokens=total["trained_tokens"],
        padding=1 - total["tokens"] / total["positions"],
        loss=sum(line["loss"] * line["trained_tokens"] for line in tail) / trained,
        held_out_loss=last,
        best_checkpoint=str(best.path) if best is not None and better else None,
        spikes=sum(line.get("spike", False) for line in log),
        seconds=total["seconds"],
        tokens_per_second=rate,
        mfu=training.flops * rate / training.peak if training.peak else None,
        memory=max(line["memory"] for line in log),
        parameters=training.trainee.parameters,
        trained_parameters=training.trainee.trainable,
        device=_device_name(accelerator),
        processes=accelerator.num_processes,
        strategy=training.strategy,
        dtype=str(dtype).removeprefix("torch."),
    )


def _device_name(accelerator: Any) -> str:
    from alpaca_cli.model.devices import gpus

    kind: str = accelerator.device.type
    return gpus()[accelerator.device.index or 0].name if kind == "cuda" else kind


def _final_files(stage: StageFolder) -> list[str]:
    return [f"final/{path.name}" for path in sorted((stage / "final").iterdir())]


def schedule_of(recipe: Recipe, examples: int) -> Schedule:
    """Which of so many examples are in which step."""
    from alpaca_cli.model.batches import Schedule

    return Schedule(examples, recipe.train.global_batch, recipe.train.epochs, recipe.seed)


def stamp_of(
    recipe: Recipe, run: RunFolder, data: str | None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Settings and input files that determine the result."""
    stamp = recipe.train.model_dump(mode="json", exclude=HOW) | {"seed": recipe.seed}
    inputs = {}
    if recipe.train.holdout_file:
        inputs["holdout_file"] = Path(recipe.train.holdout_file)
    named = source(run, data)
    if named.startswith(HUB):
        return stamp | {"data": named}, inputs
    return stamp, inputs | {"data": Path(named)}


def source(run: RunFolder, data: str | None) -> str:
    """Where the examples are.

    Raises:
        DataError: no file is named and the run has none.
    """
    if data is not None:
        return data
    for name in ("dedup", "generate"):
        path = run.stage(name) / "kept.jsonl"
        if path.is_file():
            return str(path)
    raise DataError(
        f"{run.path}: no examples to train on",
        hint="run alpaca generate first, or name a FILE: alpaca train FILE",
    )


def _data_digest(named: str) -> str:
    """What the data is, by its content."""
    if not named.startswith(HUB):
        return digest(Path(named))
    found = hashlib.sha256()
    for example in read_examples([named]):
        row = [example.instruction, example.input, example.output]
        found.update(json.dumps(row).encode())
    return found.hexdigest()
