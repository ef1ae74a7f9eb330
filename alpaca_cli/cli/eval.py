"""`alpaca eval`: answers to held-out questions, scored against their references."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from alpaca_cli.cli.options import (
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    SetOption,
    freshness,
    open_session,
    runs_folder,
)

if TYPE_CHECKING:
    from alpaca_cli.stages.eval import Report

ROWS = 14  # more families than this stand in two tables side by side
SHOWN_MISSES = 3


def eval(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run, model, checkpoint or adapter folder, or hub id (default: the run's own).",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FILE|procedural", help="Examples, or the embedded teacher's tasks."
        ),
    ] = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score greedy answers by exact match and ROUGE-L, overall and by family.

    Without -r and --run: the run that MODEL is part of, else the newest finished run. Results
    are in its eval folder, with --data in eval-<name of the data>; a model that is part of no
    run gets runs/eval-<name>.
    """
    from alpaca_cli.stages import eval as stage

    flags = {"eval.data": ("--data", data)}
    if recipe is None:
        place = stage.place(model, run, runs_folder())
        stored = None if place.recipe is None else str(place.recipe)
        session = open_session(
            stored, place.run, sets, json=json, quiet=quiet, flags=flags, name="eval"
        )
        if run is None and model is None:
            session.progress.info(f"run: {place.run} (the newest finished one)")
    else:
        stored = None
        session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    # A run that brings its own recipe keeps it: an evaluation must not rewrite how it was made.
    with session.run.lock() if stored else session.locked():
        report = stage.run(
            session.recipe,
            session.run,
            session.progress,
            fresh=freshness(fresh),
            model=model,
            into=stage.results_folder(session.run.path, model, data),
        )
    session.finish(report, show(report), f"alpaca chat {model or session.run.path}")


def show(report: Report) -> RenderableType:
    """The report for people."""
    low, high = report.exact_match_interval
    lines: list[RenderableType] = [
        f"[bold]exact match {report.exact_match:.1%}[/] ({low:.1%} to {high:.1%} at 95 %) · "
        f"ROUGE-L {report.rouge_l:.3f} · {report.questions:,} questions",
        f"[dim]{escape(report.model)} on {escape(report.data)}[/]",
    ]
    for name, part in (("seen", report.seen_phrasings), ("unseen", report.unseen_phrasings)):
        if part is not None:
            lines.append(f"{name} phrasings: {part['exact_match']:.1%} of {part['n']:,}")
    if report.by_family:
        lines += ["", _families(report.by_family)]
        lines.append(f"{report.families_at_90} of {len(report.by_family)} families at 90 % or more")
    if report.without_reference:
        lines.append(
            f"[yellow]{report.without_reference:,} of {report.rows:,} rows left out: no output[/]"
        )
    if report.cut:
        lines.append(
            f"[yellow]{report.cut:,} of {report.questions:,} answers cut at the token limit[/]"
        )
    for miss in report.misses[:SHOWN_MISSES]:
        lines.append(_miss(miss))
    return Group(*lines)


def _families(by_family: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Tables side by side, best families first."""
    best = sorted(by_family.items(), key=lambda item: (-item[1]["exact_match"], item[0]))
    rows = len(best) if len(best) <= ROWS else (len(best) + 1) // 2
    tables = []
    for start in range(0, len(best), rows):
        table = Table("family", box=None, header_style="dim", pad_edge=False)
        for heading in ("n", "exact", "ROUGE-L"):
            table.add_column(heading, justify="right")
        for name, part in best[start : start + rows]:
            share = part["exact_match"]
            color = "green" if share >= 0.9 else "red" if share < 0.5 else "yellow"
            table.add_row(
                escape(name), str(part["n"]), f"[{color}]{share:.0%}[/]", f"{part['rouge_l']:.2f}"
            )
        tables.append(table)
    return Columns(tables, padding=(0, 4))


def _miss(miss: Mapping[str, Any]) -> str:
    def line(text: str) -> str:
        flat = " ".join(
            "".join(each for each in text if each.isprintable() or each.isspace()).split()
        )
        return escape(flat if len(flat) <= 160 else f"{flat[:159]}…")

    asked = line(miss["instruction"]) + (f" · {line(miss['input'])}" if miss["input"] else "")
    return (
        f"\n[dim]asked   [/] {asked}\n[dim]expected[/] {line(miss['expected'])}\n"
        f"[dim]answered[/] {line(miss['answer'])}"
    )
