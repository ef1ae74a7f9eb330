"""`alpaca seed`: write, lint and report seed tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

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
    from alpaca_cli.stages.seed import Report

SHOWN = 50  # findings on the terminal; --json has all


def seed(
    files: FilesArgument = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the seed tasks to this file."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="What each seed has bred in this run; reads only.")
    ] = False,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check seed tasks: load, lint and count them.

    With FILES: those files are checked and nothing else is written (-o writes them in one
    format). Without: the recipe's seeds go into the run folder; the built-in ones by default.

    With --report, also while a generation is under way: which seeds breed new tasks, which breed
    duplicates or rejections, and what a kept example costs by seed. A seed is named when its share
    of kept candidates, or of requests without a readable task, is farther from the run's than
    chance explains: binomial probability below 0.05 after correction for all comparisons, with
    the candidates of one reply counted as fewer than they are.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.stages import seed as stage

    if report:
        from alpaca_cli.cli.seed_report import seed_report

        if files or output is not None or fresh:
            raise UsageError("--report: is about a run; it takes no FILES, -o or --fresh")
        seed_report(recipe, run, sets, json=json, quiet=quiet)
        return
    session = open_session(recipe, run, sets, json=json, quiet=quiet)
    if files:
        checked = stage.check(files, session.recipe.seeds, session.progress, output)
        session.finish(checked, show(checked))
        stage.refuse_errors(checked)
    elif output is not None:
        raise UsageError("-o needs FILES", hint="without them the tasks go into the run folder")
    else:
        with session.locked():
            checked = stage.run(
                session.recipe, session.run, session.progress, fresh=freshness(fresh)
            )
        session.finish(checked, show(checked), session.after("alpaca generate"))


def show(report: Report) -> RenderableType:
    """The report for people: counts, lengths, categories, findings."""
    parts: list[RenderableType] = [
        f"[bold]{report.tasks:,} tasks[/], {report.with_input:,} with an input, "
        f"from {escape(report.source)}",
        lengths_table(report.words),
    ]
    for kind, counts in report.categories.items():
        listed = " · ".join(f"{escape(name)} {count:,}" for name, count in counts.items())
        parts.append(f"[dim]by {kind}:[/] {listed}")
    parts.append(findings_table(report))
    if report.output is not None:
        parts.append(f"written: {escape(report.output)}")
    return Group(*parts)


def lengths_table(words: dict[str, dict[str, float]], unit: str = "words") -> Table:
    """Quantiles of the length of each field."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(unit)
    names = ("min", "p5", "median", "p95", "max", "mean")
    for name in names:
        table.add_column(name, justify="right")
    for field, values in words.items():
        if values:
            table.add_row(field, *(_number(values[name]) for name in names))
    return table


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def findings_table(report: Report) -> RenderableType:
    """Each finding with row, rule and reason; or that there is none."""
    if not report.findings:
        return "[green]lint: nothing found[/]"
    # Errors first; the rest in the order of the rows.
    ordered = sorted(report.findings, key=lambda found: found["severity"] != "error")[:SHOWN]
    several = ", " in report.source
    named = any(found["id"] is not None for found in ordered)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("place" if several else "row", justify="left" if several else "right")
    if named:
        table.add_column("id", overflow="fold", max_width=24)
    table.add_column("rule")
    table.add_column("reason", overflow="fold")
    for found in ordered:
        colour = "red" if found["severity"] == "error" else "yellow"
        place = Path(found["place"]).name if several else f"{found['row']:,}"
        name = [escape(found["id"] or "")] if named else []
        rule = f"[{colour}]{found['rule']}[/]"
        table.add_row(escape(place), *name, rule, escape(found["reason"]))
    title = f"lint: {report.errors:,} errors, {report.warnings:,} warnings"
    more = len(report.findings) - SHOWN
    rest = [f"[dim]… and {more:,} more; --json lists all[/]"] if more > 0 else []
    return Group(title, table, *rest)
