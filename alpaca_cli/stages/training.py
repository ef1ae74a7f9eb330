"""One process's training, alone or as one of several: from examples to `train/final/`.

Which processes there are, and who starts them, is the business of `alpaca_cli.stages.train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.data.formats import HUB, read_examples

if TYPE_CHECKING:
    from alpaca_cli.model.batches import Encoded, Schedule
    from alpaca_cli.model.student import Trainee

# Keys that say how the work is done, not what comes out: they may change between a kill and the
# resume, and a finished training stays up to date.
HOW = {"gpus", "micro_batch", "gradient_checkpointing", "save_every", "keep_checkpoints"}


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Attributes:
        examples: trained on; `dropped` and `truncated` ones were longer than max_length.
        tokens: prompt and response tokens seen, repeats included, padding not.
        trained_tokens: those the loss was taken over: responses and EOS.
        loss: mean over the trained tokens of the last tenth of the steps, in nats.
        seconds: in training steps; loading and saving not counted.
        parameters: of the whole model; `trained_parameters` were changed.
    """

    model: str
    steps: int
    epochs: float
    examples: int
    dropped: int
    truncated: int
    tokens: int
    trained_tokens: int
    loss: float
    seconds: float
    tokens_per_second: float
    parameters: int
    trained_parameters: int
    device: str
    processes: int
    dtype: str


def train_here(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    data: str | None,
    accelerator: Any,
    fresh: Fresh,
) -> Report:
    """Load or make the student, train it, and have the first process write the results."""
    from alpaca_cli.model.batches import encode_rows
    from alpaca_cli.model.checkpoints import newest_checkpoint, remove_leftovers
    from alpaca_cli.model.student import load_trainee, make_trainee, out_of_memory
    from alpaca_cli.model.trainer import compute_dtype, train

    stage, settings = run.stage("train"), recipe.train
    stamp, inputs = stamp_of(recipe, run, data)
    with accelerator.main_process_first():
        main = accelerator.is_main_process
        if (stored := stage.open(stamp, inputs, fresh=fresh if main else "never")) is not None:
            return Report(**stored)
        if main:
            remove_leftovers(stage / "checkpoints")
    examples = read_examples([source(run, data)])
    dtype = compute_dtype(settings.dtype, accelerator.device)
    resumed = newest_checkpoint(stage / "checkpoints")
    with out_of_memory():
        trainee = (
            load_trainee(settings, resumed[1], dtype)
            if resumed
            else make_trainee(settings, texts(examples), recipe.seed, dtype)
        )
        encoded = encode_rows(
            examples, trainee.tokenizer, trainee.template, settings.max_length, settings.overlong
        )
        schedule = schedule_of(recipe, encoded)
        _announce(progress, settings, trainee, encoded, schedule, resumed)
        if main:
            # Not sooner: data or a model that had to be put right first are not "changed" later.
            stage.begin(stamp, inputs)
        train(trainee, encoded.rows, schedule, settings, stage.path, accelerator, progress, resumed)
    if accelerator.is_main_process:
        _write_results(stage, trainee, progress)
        report = _report(stage, trainee, encoded, settings, accelerator, dtype)
        stage.finish(asdict(report), stamp, inputs, [*_final_files(stage), "log.jsonl"])
    accelerator.wait_for_everyone()
    done = stage.report()
    assert done is not None  # the first process has just written it
    return Report(**done)


def _write_results(stage: StageFolder, trainee: Trainee, progress: Progress) -> None:
    """`final/`, checked before it appears, and `loss.png`."""
    from alpaca_cli.model.checkpoints import new_folder
    from alpaca_cli.model.plot import plot_loss
    from alpaca_cli.model.saving import save_trainee, verify_saved
    from alpaca_cli.model.trainer import read_log

    with new_folder(stage / "final") as temporary:
        save_trainee(trainee, temporary)
        verify_saved(trainee, temporary)
    try:
        plot_loss(read_log(stage / "log.jsonl"), stage / "loss.png")
    except UsageError as error:  # matplotlib is an extra; the training is whole without it
        progress.info(f"no loss.png: {error}; {error.hint}")


def _announce(
    progress: Progress,
    settings: Train,
    trainee: Trainee,
    encoded: Encoded,
    schedule: Schedule,
    resumed: tuple[int, Path] | None,
) -> None:
    """Say what is about to happen, and what may surprise."""
    for note in trainee.notes:
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
    if resumed:
        progress.info(f"resuming at step {resumed[0]:,} of {schedule.steps:,}")
    progress.info(
        f"{trainee.parameters:,} parameters, {trainee.trainable:,} of them trained; "
        f"{len(encoded.rows):,} examples, {schedule.steps:,} steps"
    )


def _report(
    stage: StageFolder,
    trainee: Trainee,
    encoded: Encoded,
    settings: Train,
    accelerator: Any,
    dtype: object,
) -> Report:
    """Sums over the whole log, so that a resumed training reports like an uninterrupted one."""
    from alpaca_cli.model.trainer import read_log

    log = read_log(stage / "log.jsonl")
    tail = log[-max(1, len(log) // 10) :]
    tokens, seconds = sum(line["tokens"] for line in log), sum(line["seconds"] for line in log)
    trained = sum(line["trained_tokens"] for line in tail)
    return Report(
        model=str(stage / "final"),
        steps=len(log),
        epochs=settings.epochs,
        examples=len(encoded.rows),
        dropped=encoded.dropped,
        truncated=encoded.truncated,
        tokens=tokens,
        trained_tokens=sum(line["trained_tokens"] for line in log),
        loss=sum(line["loss"] * line["trained_tokens"] for line in tail) / trained,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        parameters=trainee.parameters,
        trained_parameters=trainee.trainable,
        device=_device_name(accelerator),
        processes=accelerator.num_processes,
        dtype=str(dtype).removeprefix("torch."),
    )


def _device_name(accelerator: Any) -> str:
    from alpaca_cli.model.devices import gpus

    kind: str = accelerator.device.type
    return gpus()[accelerator.device.index or 0].name if kind == "cuda" else kind


def _final_files(stage: StageFolder) -> list[str]:
    return [f"final/{path.name}" for path in sorted((stage / "final").iterdir())]


def schedule_of(recipe: Recipe, encoded: Encoded) -> Schedule:
    from alpaca_cli.model.batches import Schedule

    return Schedule(len(encoded.rows), recipe.train.global_batch, recipe.train.epochs, recipe.seed)


def stamp_of(
    recipe: Recipe, run: RunFolder, data: str | None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Settings and input files that determine the result."""
    stamp = recipe.train.model_dump(mode="json", exclude=HOW) | {"seed": recipe.seed}
    named = source(run, data)
    if named.startswith(HUB):
        return stamp | {"data": named}, {}
    return stamp, {"data": Path(named)}


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


def texts(examples: Sequence[Example]) -> list[str]:
    """What the tokenizer of a model from scratch is trained on."""
    return [
        text for each in examples for text in (each.instruction, each.input, each.output) if text
    ]
