"""What a training would be, found out without training or writing anything (`train --dry-run`)."""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.formats import read_examples
from alpaca_cli.stages.training import schedule_of, source, texts


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would be; fields as in `alpaca_cli.stages.training.Report`.

    Attributes:
        micro_batches: forward passes in a step of one process, on average over the first steps.
        padding: share of the positions in them that hold no token.
    """

    steps: int
    epochs: float
    examples: int
    dropped: int
    truncated: int
    tokens: int
    trained_tokens: int
    longest: int
    micro_batches: float
    padding: float
    parameters: int
    trained_parameters: int


def plan(recipe: Recipe, run: RunFolder, data: str | None = None) -> Plan:
    """What `train.run` would do, found out without training or writing anything.

    Raises:
        DataError, UsageError: as `train.run`.
    """
    from alpaca_cli.model.batches import encode_rows, micro_batches
    from alpaca_cli.model.student import make_trainee

    settings = recipe.train
    examples = read_examples([source(run, data)])
    trainee = make_trainee(settings, texts(examples), recipe.seed, weights=False)
    encoded = encode_rows(
        examples, trainee.tokenizer, trainee.template, settings.max_length, settings.overlong
    )
    schedule = schedule_of(recipe, encoded)
    visited = [encoded.rows[i] for step in range(schedule.steps) for i in schedule.indices(step)]
    sample = [
        [encoded.rows[i] for i in schedule.indices(step)] for step in range(min(20, schedule.steps))
    ]
    batches = [
        batch
        for rows in sample
        for batch in micro_batches(
            rows, settings.micro_batch, settings.max_length, settings.packing
        )
    ]
    widths = [[sum(len(row.ids) for row in packed) for packed in batch] for batch in batches]
    positions = sum(max(width) * len(width) for width in widths)
    return Plan(
        steps=schedule.steps,
        epochs=settings.epochs,
        examples=len(encoded.rows),
        dropped=encoded.dropped,
        truncated=encoded.truncated,
        tokens=sum(len(row.ids) for row in visited),
        trained_tokens=sum(row.trained for row in visited),
        longest=max(len(row.ids) for row in encoded.rows),
        micro_batches=len(batches) / len(sample),
        padding=1 - sum(map(sum, widths)) / positions,
        parameters=trainee.parameters,
        trained_parameters=trainee.trainable,
    )
