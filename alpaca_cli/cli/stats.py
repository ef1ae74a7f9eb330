"""`alpaca stats`: what is in the data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from alpaca_cli.cli.seed import lengths_table

if TYPE_CHECKING:
    from alpaca_cli.stages.stats import Report

BAR = 20  # characters of the longest bar


def stats(
    files: FilesArgument = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="HTML", help="Write the report as one HTML file."),
    ] = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Report what is in the data: counts, lengths, verbs, similarity, lint.

    With FILES: they are measured as one; -o writes one self-contained HTML report. Without: the
    examples of this run, with both reports in the run folder.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.stages import stats as stage

    session = open_session(recipe, run, sets, json=json, quiet=quiet)
    if files:
        report = stage.measure_files(files, session.recipe, session.progress, output)
        session.finish(report, show(report), f"alpaca train {shlex.quote(files[0])}")
    elif output is not None:
        raise UsageError("-o needs FILES", hint="without them the report is in the run folder")
    else:
        with session.locked():
            report = stage.run(
                session.recipe, session.run, session.progress, fresh=freshness(fresh)
            )
        session.finish(report, show(report), "alpaca train")


def show(report: Report) -> RenderableType:
    """The report for people: the same figures as in the HTML report, shorter."""
    share = report.with_input / report.examples if report.examples else 0
    repeats = report.duplicates
    parts: list[RenderableType] = [
        f"[bold]{report.examples:,} examples[/], {share:.0%} with an input, "
        f"from {escape(report.source)}",
    ]
    if report.funnel is not None:
        parts.append(_funnel(report.funnel))
    parts.append(lengths_table({name: found["quantiles"] for name, found in report.words.items()}))
    if report.tokens is not None:
        parts.append(lengths_table({"example": report.tokens["quantiles"]}, unit="tokens"))
        parts.append(
            f"{report.tokens['total']:,} tokens in all; {report.tokens['over']:,} examples are "
            f"longer than {report.tokens['max_length']:,}"
        )
    parts.append("")
    parts.append(_verbs(report.openings))
    parts += ["", _similarity(report.similarity)]
    parts.append(
        f"exact duplicates: {repeats['rows']:,} rows, {repeats['instructions']:,} instructions, "
        f"{repeats['outputs']:,} outputs"
    )
    for kind, counts in report.groups.items():
        listed = " · ".join(f"{escape(name)} {count:,}" for name, count in counts.items())
        parts.append(f"[dim]by {kind}:[/] {listed}")
    parts += ["", _lint(report.lint)]
    parts += [f"[dim]{escape(note)}[/]" for note in report.notes]
    if report.html is not None:
        parts.append(f"report: {escape(report.html)}")
    return Group(*parts)


def _funnel(funnel: dict[str, Any]) -> str:
    rejected = " · ".join(
        f"{escape(reason)} {count:,}" for reason, count in funnel["rejected"].items()
    )
    text = f"{funnel['candidates']:,} candidates → {funnel['generated']:,} kept"
    if funnel["kept"] is not None:
        text += f" → {funnel['kept']:,} after dedup"
    return f"{text}\n[dim]rejected:[/] {rejected}" if rejected else text


def _verbs(openings: dict[str, Any]) -> RenderableType:
    # Expanded, with a ratio: the last column takes what is left instead of squeezing the others.
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("opens with")
    table.add_column("", justify="right")
    table.add_column("")
    table.add_column("objects (by rule)", overflow="ellipsis", no_wrap=True, ratio=1)
    largest = max((verb["count"] for verb in openings["verbs"]), default=1)
    for verb in openings["verbs"][:12]:
        objects = " · ".join(f"{escape(noun)} {count:,}" for noun, count in verb["objects"])
        table.add_row(
            escape(verb["verb"]), f"{verb['count']:,}", _bar(verb["count"], largest), objects
        )
    return table


def _similarity(found: dict[str, Any]) -> RenderableType:
    """A histogram of ten bars, from the twenty of the report."""
    if not found["measured"]:
        return "nearest neighbours: not measured"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("nearest ROUGE-L")
    table.add_column("", justify="right")
    table.add_column("")
    bins = found["histogram"]
    pairs = [
        (first["from"], second["to"], int(first["count"] + second["count"]))
        for first, second in zip(bins[::2], bins[1::2], strict=True)
    ]
    largest = max(count for _, _, count in pairs)
    for low, high, count in pairs:
        table.add_row(f"{low:.1f} – {high:.1f}", f"{count:,}", _bar(count, largest))
    above = f"{found['above']:,} of {found['measured']:,} measured are above {found['threshold']:g}"
    return Group(table, above)


def _lint(rules: dict[str, Any]) -> RenderableType:
    if not rules:
        return "[green]lint: nothing found[/]"
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("lint")
    table.add_column("", justify="right")
    table.add_column("for example", overflow="ellipsis", no_wrap=True, ratio=1)
    for rule, found in rules.items():
        colour = "red" if found["severity"] == "error" else "yellow"
        first = found["rows"][0]
        table.add_row(
            f"[{colour}]{rule}[/]",
            f"{found['count']:,}",
            f"row {first['row']:,}: {escape(first['reason'])}",
        )
    return table


def _bar(count: int, largest: int) -> str:
    return "[blue]" + "━" * round(BAR * count / largest) + "[/]" if count else ""
