"""The dedup stage: of examples that say nearly the same, the first stays.

    generate/kept.jsonl -> dedup/kept.jsonl, dedup/dropped.jsonl (`duplicate_of`, `score`)

Examples are compared in the order of the file with those kept before them, by exact ROUGE-L; the
decisions are those of a comparison of every pair with `rouge-score`. A rerun costs nothing while
recipe and input are the same; cut short, it starts over, for it is minutes of CPU at most.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.data.formats import HUB, output_format, read_placed, write_examples
from alpaca_cli.data.rouge import RougeIndex, tokenize
from alpaca_cli.data.texts import key_text


@dataclass(frozen=True, slots=True)
class Dropped:
    """An example that is too similar to an earlier one.

    Attributes:
        row, survivor: positions in the input, from 0; the survivor was kept.
        score: ROUGE-L F1 of the two.
        exact: the compared texts are equal, byte for byte.
    """

    row: int
    survivor: int
    score: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Report:
    """What happened. `exact` counts dropped rows whose compared text equals the survivor's.

    Attributes:
        without_words: rows whose text has no words for this tokenizer; nothing is similar to them.
        output, dropped_output: the files written; None when none was.
    """

    read: int
    kept: int
    dropped: int
    exact: int
    without_words: int
    threshold: float
    key: str
    tokenizer: str
    seconds: float
    output: str | None
    dropped_output: str | None


def run(recipe: Recipe, run: RunFolder, progress: Progress, *, fresh: Fresh = "never") -> Report:
    """generate/kept.jsonl -> dedup/, or the stored report when that is up to date.

    Raises:
        DataError: nothing was generated in this run yet.
        UsageError: the stage was made from other examples or settings.
    """
    source = run.stage("generate") / "kept.jsonl"
    if not source.is_file():
        raise DataError(
            f"{source}: no generated examples in this run",
            hint="run alpaca generate first, or name FILES",
        )
    stage = run.stage("dedup")
    settings = recipe.dedup.model_dump(mode="json")
    inputs = {"generate/kept.jsonl": source}
    if (stored := stage.open(settings, inputs, fresh=fresh)) is not None:
        progress.info(f"dedup: up to date in {stage.path}")
        return Report(**stored)
    started = time.monotonic()
    placed = read_placed(source)
    examples = [example for _, example in placed]
    kept, dropped = dedupe(examples, recipe.dedup, progress)
    kept_file, dropped_file = stage / "kept.jsonl", stage / "dropped.jsonl"
    write_jsonl(kept_file, (examples[row].to_row() for row in kept))
    write_jsonl(dropped_file, (row.to_row() for row in _with_reason(placed, dropped)))
    report = _report(
        examples, kept, dropped, recipe.dedup, started, str(kept_file), str(dropped_file)
    )
    stage.finish(asdict(report), settings, inputs, [kept_file.name, dropped_file.name])
    return report


def dedupe_files(
    files: Sequence[str], settings: Dedup, progress: Progress, output: Path | None = None
) -> Report:
    """Drop near-duplicates over several files, taken as one in the order given.

    With `output` (.json, .jsonl, .parquet) the kept examples are written there and, when there
    are any, the dropped ones beside it as <stem>.dropped.jsonl. No input is changed.

    Raises:
        DataError: a file is missing or malformed.
        UsageError: the output is one of the inputs, or its suffix is none that we write.
    """
    if output is not None:
        output_format(output)
        refuse_overwriting(files, output)
    started = time.monotonic()
    placed = [pair for source in files for pair in read_placed(source)]
    examples = [example for _, example in placed]
    kept, dropped = dedupe(examples, settings, progress)
    dropped_file = None
    if output is not None:
        write_examples(output, (examples[row] for row in kept))
        if dropped:
            plain = output.with_suffix("") if output.suffix == ".gz" else output
            dropped_file = plain.with_suffix(".dropped.jsonl")
            write_examples(dropped_file, _with_reason(placed, dropped))
    return _report(
        examples,
        kept,
        dropped,
        settings,
        started,
        None if output is None else str(output),
        None if dropped_file is None else str(dropped_file),
    )


def dedupe(
    examples: Sequence[Example], settings: Dedup, progress: Progress
) -> tuple[list[int], list[Dropped]]:
    """Which examples stay, as positions in their order, and which do not, and why.

    An example is dropped when its ROUGE-L F1 with one kept before it is above the threshold; the
    most similar one is its survivor, of equally similar ones the first.
    """
    index = RougeIndex(settings.threshold)
    kept: list[int] = []
    dropped: list[Dropped] = []
    empty = 0
    with progress.task("comparing examples", total=len(examples)) as task:
        for row, example in enumerate(examples):
            text = key_text(example, settings.key)
            tokens = tokenize(text, settings.tokenizer)
            empty += not tokens
            near = index.nearest(tokens)
            if near is None:
                index.add(tokens)
                kept.append(row)
            else:
                survivor = kept[near[0]]
                exact = text == key_text(examples[survivor], settings.key)
                dropped.append(Dropped(row, survivor, near[1], exact))
            if row % 100 == 99:
                task.set(row + 1, f"{len(dropped):,} dropped")
        task.set(len(examples), f"{len(dropped):,} dropped")
    if empty > 0.05 * len(examples):
        progress.warn(
            f"{empty:,} of {len(examples):,} rows have no words for the {settings.tokenizer} "
            "tokenizer, so nothing is similar to them; others are compared by the words it reads"
            + ("; --tokenizer unicode reads every script" if settings.tokenizer == "rouge" else "")
        )
    return kept, dropped


def _with_reason(
    placed: Sequence[tuple[str, Example]], dropped: Sequence[Dropped]
) -> list[Example]:
    """The dropped examples with `duplicate_of` and `score`.

    The survivor is named by its id, or by its place (file:line) where it has none of its own.
    """
    ids = Counter(example.id for _, example in placed)

    def name(row: int) -> str:
        place, example = placed[row]
        return example.id if example.id is not None and ids[example.id] == 1 else place

    rows = []
    for found in dropped:
        example = placed[found.row][1]
        reason: dict[str, Any] = {"duplicate_of": name(found.survivor), "score": found.score}
        rows.append(replace(example, extra={**example.extra, **reason}))
    return rows


def _report(
    examples: Sequence[Example],
    kept: Sequence[int],
    dropped: Sequence[Dropped],
    settings: Dedup,
    started: float,
    output: str | None,
    dropped_output: str | None,
) -> Report:
    texts = (key_text(example, settings.key) for example in examples)
    return Report(
        read=len(examples),
        kept=len(kept),
        dropped=len(dropped),
        exact=sum(found.exact for found in dropped),
        without_words=sum(not tokenize(text, settings.tokenizer) for text in texts),
        threshold=settings.threshold,
        key=settings.key,
        tokenizer=settings.tokenizer,
        seconds=round(time.monotonic() - started, 2),
        output=output,
        dropped_output=dropped_output,
    )


def refuse_overwriting(files: Sequence[str], output: Path) -> None:
    """UsageError when `output` is one of the input files."""
    for source in files:
        if not source.startswith(HUB) and Path(source).resolve() == output.resolve():
            raise UsageError(f"-o {output}: is one of the inputs", hint="name another file")
