"""`alpaca dedup`: drop near-duplicates; the first of a group stays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from alpaca_cli.cli.options import (
    FilesArgument,
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    SetOption,
    freshness,
    open_session,
)

if TYPE_CHECKING:
    from alpaca_cli.stages.dedup import Report


def dedup(
    files: FilesArgument = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="F1", help="Drop above this ROUGE-L F1 (0.7)."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option("--key", help="Compare: instruction, instruction+input or output."),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="rouge (a-z, 0-9) or unicode (every script)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the kept examples here."),
    ] = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Drop near-duplicates by exact ROUGE-L; the first of a group stays.

    With FILES: they are compared as one, in order; -o writes what is kept, and what is dropped
    beside it with the name of its survivor. Without: the examples that this run generated.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.stages import dedup as stage

    flags = {
        "dedup.threshold": ("--threshold", threshold),
        "dedup.key": ("--key", key),
        "dedup.tokenizer": ("--tokenizer", tokenizer),
    }
    session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    if files:
        report = stage.dedupe_files(files, session.recipe.dedup, session.progress, output)
        following = f"alpaca stats {output}" if output else "the same with -o FILE writes them"
        session.finish(report, show(report), following)
    elif output is not None:
        raise UsageError("-o needs FILES", hint="without them the result is in the run folder")
    else:
        with session.locked():
            report = stage.run(
                session.recipe, session.run, session.progress, fresh=freshness(fresh)
            )
        session.finish(report, show(report), "alpaca stats")


def show(report: Report) -> RenderableType:
    """The report for people."""
    lines = [
        f"[bold]kept {report.kept:,} of {report.read:,}[/], dropped {report.dropped:,} "
        f"({report.exact:,} of them exact) in {report.seconds:,.1f} s",
        f"[dim]{escape(report.key)}, ROUGE-L above {report.threshold:g}, "
        f"{report.tokenizer} tokenizer[/]",
    ]
    if report.without_words:
        lines.append(f"[yellow]{report.without_words:,} rows without words were not compared[/]")
    if report.output is not None:
        lines.append(f"written: {escape(report.output)}")
    if report.dropped_output is not None:
        lines.append(f"dropped: {escape(report.dropped_output)}")
    return Group(*lines)
