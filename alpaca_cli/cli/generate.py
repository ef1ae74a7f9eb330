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
from alpaca_cli.core.progress import duration

if TYPE_CHECKING:
    from rich.console import RenderableType

    from alpaca_cli.stages.estimate import Estimate
    from alpaca_cli.stages.explain import Explanation
    from alpaca_cli.stages.generate import Report


def generate(
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    target: Annotated[
        int | None, typer.Option("--target", metavar="N", help="How many examples to keep.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", "--max-requests", metavar="N", help="Stop after N requests in all."
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="USD", help="Never spend more than this in all."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", metavar="N", help="Never use more tokens than this in all."),
    ] = None,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="Show the next request, cost and time; send nothing."),
    ] = False,
    probe: Annotated[
        int | None,
        typer.Option("--probe", metavar="N", min=1, help="Send N requests, then --estimate."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="ID", help="Why an example was kept or rejected."),
    ] = None,
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
    chosen = [
        name
        for name, given in (
            ("--estimate", estimate),
            ("--probe", probe is not None),
            ("--explain", explain is not None),
            ("--replay", replay),
        )
        if given
    ]
    if len(chosen) > 1:
        raise UsageError(f"{' and '.join(chosen)}: one at a time")
    flags = {
        "generate.target": ("--target", target),
        "generate.max_requests": ("--limit", limit),
        "generate.max_cost": ("--max-cost", max_cost),
        "generate.max_tokens": ("--max-tokens", max_tokens),
    }
    session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    if explain is not None:
        from alpaca_cli.stages.explain import explain as explained

        story = explained(session.recipe, session.run, explain)
        session.finish(story, show_explanation(story))
        return
    if not estimate:
        with session.locked():
            report = stage.run(
                session.recipe,
                session.run,
                session.progress,
                fresh=freshness(fresh),
                replay=replay,
                probe=probe,
            )
        if probe is None:
            session.finish(report, show(report), session.after("alpaca dedup"))
            return
    from alpaca_cli.stages.estimate import estimate as estimated

    plan = estimated(session.recipe, session.run)
    session.finish(plan, show_estimate(plan, request=probe is None))


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
    if report.judge_cost is not None:
        table.add_row("cost of the judge", _dollars(report.judge_cost))
    if report.guessed:
        table.add_row("attempts counted at their worst", f"{report.guessed:,}")
    table.add_row("time", f"{report.seconds:,.1f} s")
    return table


def show_estimate(estimate: Estimate, *, request: bool) -> RenderableType:
    """What the rest comes to; with `request`, after the next request as it would be sent."""
    table = Table(title="estimate", title_justify="left", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    parts: list[RenderableType] = []
    if request:
        body = dict(estimate.request)
        messages = body.pop("messages", None) or [{"role": "prompt", "content": body.pop("prompt")}]
        for name, value in body.items():
            table.add_row(name.replace("_", " "), escape(str(value)))
        for message in messages:
            parts.append(f"[bold]{message['role']}[/]\n{escape(message['content'])}\n")
    table.add_row("seed tasks", f"{estimate.seeds:,}")
    table.add_row("kept so far", f"{estimate.kept:,} of {estimate.target:,}")
    table.add_row("kept per request", f"{estimate.kept_per_request:.1f}")
    table.add_row("requests to come, about", f"{estimate.requests:,}")
    table.add_row("input tokens, about", f"{estimate.input_tokens:,}")
    if estimate.cached_tokens:
        table.add_row("  of them cached", f"{estimate.cached_tokens:,}")
    table.add_row("output tokens, about", f"{estimate.output_tokens:,}")
    table.add_row("cost to come, about", _dollars(estimate.cost))
    if estimate.cost_per_kept is not None:
        table.add_row("cost per kept example", f"${estimate.cost_per_kept:,.6f}")
    if estimate.spent:
        table.add_row("spent so far", _dollars(estimate.spent))
    if estimate.worst_case_per_request is not None:
        table.add_row("worst case of one request", _dollars(estimate.worst_case_per_request))
    if estimate.max_cost is not None:
        table.add_row("max_cost", _dollars(estimate.max_cost))
    if estimate.seconds is not None:
        table.add_row("time, about", duration(estimate.seconds))
    notes = []
    if estimate.measured_on:
        notes.append(f"measured on {estimate.measured_on:,} requests")
    if estimate.assumptions:
        notes.append(f"assumed: {escape(estimate.assumptions)}")
    return Group(*parts, table, *(f"[dim]{note}[/]" for note in notes))


def show_explanation(story: Explanation) -> RenderableType:
    """The story of one example, the end first."""
    table = Table(title=story.id, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    verdict = story.verdict.replace("_", " ")
    table.add_row("verdict", escape(f"{verdict} ({story.detail})" if story.detail else verdict))
    for name in ("instruction", "input", "output"):
        table.add_row(name, escape(str(story.example.get(name, ""))))
    if story.nearest is not None:
        table.add_row(
            "nearest before it",
            escape(f"{story.nearest['id']}: {story.nearest['instruction']}\n")
            + f"ROUGE-L {story.nearest['score']:.3f}; rejected above {story.threshold:g}",
        )
    for score in story.scores:
        table.add_row("judge", escape(f"items {score['items']}: {score['text']}"))
    for row in story.demonstrations:
        table.add_row(f"shown: {row['id']}", escape(str(row.get("instruction", "(not known)"))))
    for name in ("mode", "model", "finish_reason", "usage", "attempts", "request_hash"):
        table.add_row(name.replace("_", " "), escape(str(story.journal.get(name))))
    return Group(table, "[bold]the reply[/]", escape(story.reply))


def _dollars(amount: float | None) -> str:
    return "unknown (no teacher.price)" if amount is None else f"${amount:,.4f}"
