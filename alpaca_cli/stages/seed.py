"""The seed stage: read, lint and count the human-written tasks everything starts from.

    recipe seeds.source -> seed/kept.jsonl

Every task is written, with an id of its own; nothing is dropped, for seeds are few and somebody's
work. A task that cannot be used (empty instruction or output) stops the stage before anything is
written; what only looks wrong is reported. A rerun costs nothing while recipe and file are the
same; cut short, it starts over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Recipe, Seeds
from alpaca_cli.data.formats import HUB, output_format, read_placed, write_examples
from alpaca_cli.data.lint import lint
from alpaca_cli.data.measures import groups, lengths, read_words
from alpaca_cli.data.seeds import BUILTIN, load_seeds


@dataclass(frozen=True, slots=True)
class Report:
    """What was read, and what lint says about it.

    Attributes:
        categories: kind -> category -> count, for the tasks that name one.
        words: field -> quantiles of its length in words; `input` without the empty ones.
        findings: row (from 1), id, place (file:line), rule, severity, reason, other_row.
        output: the file that was written; None when none was.
    """

    source: str
    tasks: int
    with_input: int
    categories: dict[str, dict[str, int]]
    words: dict[str, dict[str, float]]
    errors: int
    warnings: int
    findings: list[dict[str, Any]]
    output: str | None


def run(recipe: Recipe, run: RunFolder, progress: Progress, *, fresh: Fresh = "never") -> Report:
    """seeds.source -> seed/kept.jsonl, or the stored report when that is up to date.

    Raises:
        DataError: the seeds are missing, malformed or unusable.
        UsageError: the stage was made from other seeds or settings.
    """
    stage = run.stage("seed")
    settings = recipe.seeds.model_dump(mode="json")
    source = recipe.seeds.source
    # A Hub dataset has no file whose content could be compared.
    file = BUILTIN if source == "builtin" else Path(source)
    inputs = {} if source.startswith(HUB) else {"seeds": file}
    if (stored := stage.open(settings, inputs, fresh=fresh)) is not None:
        progress.info(f"seed: up to date in {stage.path}")
        return Report(**stored)
    examples = load_seeds(source)
    places = [f"{source}#{row}" for row in range(1, len(examples) + 1)]
    output = stage / "kept.jsonl"
    report = _report(source, examples, places, recipe.seeds, output, progress)
    refuse_errors(report)
    write_jsonl(output, (example.to_row() for example in examples))
    stage.finish(asdict(report), settings, inputs, [output.name])
    return report


def check(
    files: Sequence[str], settings: Seeds, progress: Progress, output: Path | None = None
) -> Report:
    """Lint files of examples; with `output`, also write them in one format.

    The report holds errors, too, so that they can be shown; `refuse_errors` turns them into an
    exception. Nothing is written when there are any.

    Raises:
        DataError: a file is missing or malformed.
    """
    if output is not None:
        output_format(output)
    placed = [pair for source in files for pair in read_placed(source)]
    places = [place for place, _ in placed]
    examples = [example for _, example in placed]
    report = _report(", ".join(files), examples, places, settings, output, progress)
    if output is not None and not report.errors:
        write_examples(output, examples)
    return report


def refuse_errors(report: Report) -> None:
    """DataError that lists the rows which cannot be used, when there are any."""
    errors = [found for found in report.findings if found["severity"] == "error"]
    if errors:
        listed = [f"{found['place']}: {found['reason']}" for found in errors[:10]]
        if len(errors) > len(listed):
            listed.append(f"… and {len(errors) - len(listed):,} more")
        raise DataError("\n".join(listed), hint="complete these rows or take them out")


def _report(
    source: str,
    examples: Sequence[Example],
    places: Sequence[str],
    settings: Seeds,
    output: Path | None,
    progress: Progress,
) -> Report:
    with progress.task("checking tasks", total=len(examples)) as task:
        found_in_rows = lint(examples, settings.near_duplicate, task.advance)
    findings = [asdict(found) | {"place": places[found.row - 1]} for found in found_in_rows]
    errors = sum(found["severity"] == "error" for found in findings)
    measured = lengths(examples, read_words(examples))
    of_words = {name: asdict(found.words) for name, found in measured.items()}
    return Report(
        source=source,
        tasks=len(examples),
        with_input=sum(bool(example.input.strip()) for example in examples),
        categories={
            kind: {name: found.count for name, found in named.items()}
            for kind, named in groups(examples).items()
        },
        words={
            name: {figure: value for figure, value in found.items() if figure != "histogram"}
            for name, found in of_words.items()
        },
        errors=errors,
        warnings=len(findings) - errors,
        findings=findings,
        output=None if output is None or errors else str(output),
    )
