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
    keep: Annotated[
        str | None,
        typer.Option("--keep", help="Of similar ones stays: first, longest, or by a FIELD."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="FILE", help="Drop what is like an example of FILE."),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(
            "--decontaminate", metavar="FILE", help="Drop what holds a question of FILE (n-grams)."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the kept examples here."),
    ] = None,
    clusters: Annotated[
        Path | None,
        typer.Option("--clusters", metavar="FILE", help="Write the groups here (JSONL)."),
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            "--verify", metavar="N", min=0, help="Check N random rows with rouge-score; exit 5."
        ),
    ] = 0,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Drop near-duplicates by exact ROUGE-L; the first of a group stays.

    With FILES: they are compared as one, in order; -o writes what is kept, and what is dropped
    beside it with the name of its survivor. Without: the examples that this run generated.
    --against and --decontaminate may be given several times.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.stages import dedup as stage

    flags = {
        "dedup.threshold": ("--threshold", threshold),
        "dedup.key": ("--key", key),
        "dedup.tokenizer": ("--tokenizer", tokenizer),
        "dedup.keep": ("--keep", keep),
        "dedup.against": ("--against", against or None),
        "dedup.decontaminate": ("--decontaminate", decontaminate or None),
    }
    session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    if files:
        report = stage.dedupe_files(
            files,
            session.recipe.dedup,
            session.progress,
            output,
            clusters=clusters,
            verify=verify,
            seed=session.recipe.seed,
        )
        following = f"alpaca stats {output}" if output else "the same with -o FILE writes them"
        session.finish(report, show(report), following)
        return
    for flag, file in (("-o", output), ("--clusters", clusters)):
        if file is not None:
            raise UsageError(
                f"{flag} needs FILES", hint="without them the result is in the run folder"
            )
    with session.locked():
        report = stage.run(
            session.recipe, session.run, session.progress, fresh=freshness(fresh), verify=verify
        )
    session.finish(report, show(report), "alpaca stats")


def show(report: Report) -> RenderableType:
    """The report for people."""
    reasons = {
        "near-duplicates": report.duplicates,
        "like --against": report.against,
        "contaminated": report.contaminated,
    }
    listed = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
    exact = f", {report.exact:,} of them exact" if report.exact else ""
    lines = [
        f"[bold]kept {report.kept:,} of {report.read:,}[/], dropped {report.dropped:,}"
        + (f": {listed}{exact}" if report.dropped else ""),
        f"[dim]{escape(report.key)}, ROUGE-L above {report.threshold:g}, {report.tokenizer} "
        f"tokenizer, {escape(report.keep)} stays[/]",
        f"[dim]{report.pairs['all']:,} pairs: {report.pairs['bounded']:,} bounded, "
        f"{report.pairs['compared']:,} compared; {report.seconds:,.1f} s, "
        f"{report.memory / 2**20:,.0f} MiB[/]",
    ]
    if report.verified:
        lines.append(f"[green]rouge-score decides the same in {report.verified:,} rows[/]")
    if report.without_words:
        lines.append(f"[yellow]{report.without_words:,} rows without words were not compared[/]")
    for group in report.largest:
        text = " ".join(group["instruction"].split())
        lines.append(
            f"  {group['size']:,} like [bold]{escape(group['survivor'])}[/]: {escape(text[:80])}"
        )
    for name, file in (
        ("written", report.output),
        ("dropped", report.dropped_output),
        ("groups", report.clusters),
    ):
        if file is not None:
            lines.append(f"{name}: {escape(file)}")
    return Group(*lines)
