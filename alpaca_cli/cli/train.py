"""`alpaca train`: fine-tune a student, or train one from scratch."""

from __future__ import annotations

import re
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

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

if TYPE_CHECKING:
    from alpaca_cli.stages.plan import Plan
    from alpaca_cli.stages.training import Report


def train(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="JSON, JSONL, Parquet (also .gz), or hub:<dataset>."),
    ] = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="M", help="A model folder or hub id to fine-tune."),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", metavar="N|auto|0,1", help="How many GPUs, or which; 0: CPU."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show steps, tokens and parameters; train nothing.")
    ] = False,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a student on FILE, or on what this run generated.

    Interrupted at any time, the same command goes on from the newest checkpoint. With FILE and
    no recipe the run is named after the file.
    """
    from alpaca_cli.stages import train as stage

    flags = {"train.model": ("--model", model), "train.gpus": ("--gpus", gpus)}
    session = open_session(
        recipe, run, sets, json=json, quiet=quiet, flags=flags, name=_run_name(file)
    )
    if dry_run:
        from alpaca_cli.stages.plan import plan

        planned = plan(session.recipe, session.run, file)
        session.finish(planned, show_plan(planned), "the same without --dry-run")
        return
    if file is not None:
        stage.check_readable(file)  # before a run folder is made for it
    with nullcontext() if stage.is_follower() else session.locked():
        report = stage.run(
            session.recipe, session.run, session.progress, fresh=freshness(fresh), data=file
        )
    if not stage.is_follower():
        session.finish(report, show(report), f"alpaca chat {session.run.path}")


def _run_name(file: str | None) -> str:
    """A run's name made from a file's, in the letters that names may have."""
    stem = Path(file).name.split(".")[0] if file else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-") or "run"


def show(report: Report) -> RenderableType:
    """The report for people."""
    where = report.device if report.processes == 1 else f"{report.processes} x {report.device}"
    lines = [
        f"[bold]loss {report.loss:.3f}[/] after {report.steps:,} steps "
        f"({report.epochs:g} epochs of {report.examples:,} examples)",
        f"{report.tokens:,} tokens, {report.trained_tokens:,} of them trained, in "
        f"{report.seconds:,.0f} s: {report.tokens_per_second:,.0f} tokens/s",
        f"{report.parameters:,} parameters, {report.trained_parameters:,} trained, "
        f"{escape(where)}, {report.dtype}",
        f"model: {escape(report.model)}",
    ]
    if report.dropped or report.truncated:
        lines.insert(
            1,
            f"[yellow]too long: {report.dropped:,} examples dropped, "
            f"{report.truncated:,} responses truncated[/]",
        )
    return Group(*lines)


def show_plan(plan: Plan) -> RenderableType:
    """The plan for people."""
    return Group(
        f"[bold]{plan.steps:,} steps[/] ({plan.epochs:g} epochs of {plan.examples:,} examples)",
        f"too long: {plan.dropped:,} examples dropped, {plan.truncated:,} responses truncated; "
        f"longest {plan.longest:,} tokens",
        f"{plan.tokens:,} tokens, {plan.trained_tokens:,} of them trained",
        f"{plan.micro_batches:,.1f} micro-batches per step, {plan.padding:.1%} padding",
        f"{plan.parameters:,} parameters, {plan.trained_parameters:,} trained",
    )
