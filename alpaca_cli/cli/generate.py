"""`alpaca generate`: a teacher writes new tasks from a few seed tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
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
)
from alpaca_cli.core.errors import UsageError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from alpaca_cli.stages.estimate import Estimate
    from alpaca_cli.stages.generate import Report


def generate(
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    target: Annotated[
        int | None, typer.Option("--target", metavar="N", help="How many examples to keep.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="Stop after N requests in all.")
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="USD", help="Never spend more than this in all."),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Show request 0 and the cost; send nothing.")
    ] = False,
    replay: Annotated[
        bool, typer.Option("--replay", help="Judge the journal again; send nothing.")
    ] = False,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Let a teacher write new tasks; keep the good and new ones.

    Every reply is journalled before it is read: after any interruption the same command goes on.
    Filters, novelty and target may change without paying for a reply again.
    """
    from alpaca_cli.stages import generate as stage

    if replay and fresh:
        raise UsageError("--replay and --fresh: a fresh journal has nothing to replay")
    flags = {
        "generate.target": ("--target", target),
        "generate.max_requests": ("--limit", limit),
        "generate.max_cost": ("--max-cost", max_cost),
    }
    session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    if estimate:
        from alpaca_cli.stages.estimate import estimate as estimated

        plan = estimated(session.recipe, session.run)
        session.finish(plan, show_estimate(plan))
        return
    with session.locked():
        report = stage.run(
            session.recipe,
            session.run,
            session.progress,
            fresh=freshness(fresh),
            replay=replay,
        )
    session.finish(report, show(report), "alpaca dedup")


def show(report: Report) -> RenderableType:
    """The report for people."""
    table = Table(title="generate", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("kept", f"{report.kept:,} of {report.target:,}")
    table.add_row("requests", f"{report.requests:,}")
    if report.failed:
        table.add_row("  without a reply", f"{report.failed:,}")
    table.add_row("kept per request", f"{report.kept_per_request:.1f}")
    table.add_row("candidates", f"{report.candidates:,}")
    for reason, count in sorted(report.rejected.items(), key=lambda pair: -pair[1]):
        table.add_row(f"  {reason.replace('_', ' ')}", f"{count:,}")
    if report.tokens is not None:
        for name, count in report.tokens.items():
            table.add_row(f"{name} tokens", f"{count:,}")
    table.add_row("cost", _dollars(report.cost))
    table.add_row("time", f"{report.seconds:,.1f} s")
    return table


def show_estimate(estimate: Estimate) -> RenderableType:
    """Request 0 as it would be sent, and what all of them come to."""
    body = dict(estimate.request)
    messages = body.pop("messages", None) or [{"role": "prompt", "content": body.pop("prompt")}]
    table = Table(title="estimate", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in body.items():
        table.add_row(name.replace("_", " "), escape(str(value)))
    table.add_row("seed tasks", f"{estimate.seeds:,}")
    table.add_row("target", f"{estimate.target:,}")
    table.add_row("requests, about", f"{estimate.requests:,}")
    table.add_row("input tokens, about", f"{estimate.input_tokens:,}")
    table.add_row("output tokens, about", f"{estimate.output_tokens:,}")
    table.add_row("cost, about", _dollars(estimate.cost))
    if estimate.worst_case_per_request is not None:
        table.add_row("worst case of one request", _dollars(estimate.worst_case_per_request))
    if estimate.max_cost is not None:
        table.add_row("max_cost", _dollars(estimate.max_cost))
    parts = [f"[bold]{message['role']}[/]\n{escape(message['content'])}\n" for message in messages]
    return Group(*parts, table, f"[dim]assumed: {escape(estimate.assumptions)}[/]")


def _dollars(amount: float | None) -> str:
    return "unknown (no teacher.price)" if amount is None else f"${amount:,.4f}"
