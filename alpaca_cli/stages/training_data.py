"""What a training is made from: its examples as ids, which of them are held out, and the settings
that determine what comes out.

What is done with them is `alpaca_cli.stages.training`.
"""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import digest, sampled_digest
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import Train
from alpaca_cli.core.template import TEMPLATES, load_template
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.data.reviews import excluded, exclusion_stamp, stranger_warning, strangers
from alpaca_cli.model.locate import find_model, weight_files

if TYPE_CHECKING:
    from alpaca_cli.model.batches import Schedule
    from alpaca_cli.model.rows import Ids, Rows
    from alpaca_cli.model.tokens import Tokens

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


def schedule_of(recipe: Recipe, examples: int) -> Schedule:
    """Which of so many examples are in which step."""
    from alpaca_cli.model.batches import Schedule

    return Schedule(examples, recipe.train.global_batch, recipe.train.epochs, recipe.seed)


def stamp_of(
    recipe: Recipe, run: RunFolder, data: str | None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Settings and input files that determine the result.

    Of review files it is what they mark bad: notes and good marks change nothing.
    """
    settings = recipe.train
    stamp = settings.model_dump(mode="json", exclude={*HOW, "exclude"}) | {"seed": recipe.seed}
    stamp |= exclusion_stamp(settings.exclude) | _model_stamp(settings)
    inputs = {}
    if recipe.train.holdout_file:
        inputs["holdout_file"] = Path(recipe.train.holdout_file)
    if settings.template not in TEMPLATES:
        load_template(settings.template)  # a mistake in it is told as such
        inputs["template"] = Path(settings.template)
    named = source(run, data)
    if named.startswith(HUB):
        return stamp | {"data": named}, inputs
    return stamp, inputs | {"data": Path(named)}


def _model_stamp(settings: Train) -> dict[str, str]:
    """A mark of what is in the folder of a model on this machine: another may take its place."""
    model = settings.model
    if not isinstance(model, str) or not Path(model).expanduser().exists():
        return {}
    folder = find_model(model)
    files = [*sorted(folder.glob("*.json")), *weight_files(folder)]
    marks = [f"{path.name} {sampled_digest(path)}" for path in files]
    return {"model_files": hashlib.sha256("\n".join(marks).encode()).hexdigest()[:12]}


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


def tokens_of(settings: Train, run: RunFolder, data: str | None) -> Tokens:
    """The data as ids, from `train/tokens/` when it is there, else made and stored."""
    from alpaca_cli.model.tokens import prepare_tokens

    named = source(run, data)
    folder = run.stage("train").path / "tokens"
    return prepare_tokens(
        settings,
        _data_digest(named),
        lambda: read_examples([named]),
        folder,
        excluded(settings.exclude),
    )


def data_warnings(settings: Train, named: str) -> list[str]:
    """What to say of review files that have nothing to do with the data, and of held-out examples
    that are trained on."""
    if not (settings.exclude or settings.holdout_file):
        return []  # without reading the data
    examples = read_examples([named])
    said = [stranger_warning(path) for path in strangers(settings.exclude, examples)]
    if settings.holdout_file:
        trained = {each.review_key() for each in examples} - excluded(settings.exclude)
        held_out = read_examples([settings.holdout_file])
        if both := sum(each.review_key() in trained for each in held_out):
            said.append(
                f"{both:,} of {len(held_out):,} held-out examples are trained on, too: their loss "
                "says nothing about new ones"
            )
    return said


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


def asked_rows(settings: Train, named: str, held_out: Rows) -> list[tuple[str, str, Ids]]:
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


def _data_digest(named: str) -> str:
    """What the data is, by its content."""
    if not named.startswith(HUB):
        return digest(Path(named))
    found = hashlib.sha256()
    for example in read_examples([named]):
        row = [example.instruction, example.input, example.output]
        found.update(json.dumps(row).encode())
    return found.hexdigest()
