"""`alpaca train`: fine-tune a student, or train one from scratch.

Beside training: look at the rows as the model sees them (`--inspect`), plan (`--dry-run`), prove
the recipe on a tiny model (`--selfcheck`), or write what starts it elsewhere (`--print-launch`).
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from alpaca_cli.cli.options import (
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    Session,
    SetOption,
    freshness,
    open_session,
)
from alpaca_cli.core.errors import GateFailed, UsageError

if TYPE_CHECKING:
    from alpaca_cli.stages.training_report import Report

SEVERAL = "Several GPUs and machines"
INSTEAD = "Instead of training"


class Launcher(StrEnum):
    """What `--print-launch` writes."""

    torchrun = "torchrun"
    slurm = "slurm"
    sky = "sky"


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
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude",
            metavar="FILE",
            help="Leave out what is marked bad in this review file (repeatable).",
        ),
    ] = None,
    inspect: Annotated[
        int | None,
        typer.Option(
            "--inspect",
            metavar="N",
            min=1,
            help="Show N rows token by token: what is trained, masked, special.",
            rich_help_panel=INSTEAD,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Plan steps, tokens, memory, disk and time, without loading weights.",
            rich_help_panel=INSTEAD,
        ),
    ] = False,
    selfcheck: Annotated[
        bool,
        typer.Option(
            "--selfcheck",
            help="Prove this recipe's training on a tiny random model; exit 5 if it fails.",
            rich_help_panel=INSTEAD,
        ),
    ] = False,
    print_launch: Annotated[
        Launcher | None,
        typer.Option(
            "--print-launch",
            help="Print the command, sbatch script or SkyPilot file that starts this training.",
            rich_help_panel=INSTEAD,
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="8xA100-80GB",
            help="With --dry-run or --print-launch: the GPUs of a machine that is not this one.",
            rich_help_panel=INSTEAD,
        ),
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            "--gpus",
            metavar="N|auto|0,1",
            help="How many GPUs, or which; 0: CPU; cpu:2: two processes on the CPU.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            "--nodes",
            metavar="N",
            help="Machines that train together: start the same command on each.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    rendezvous: Annotated[
        str | None,
        typer.Option(
            "--rendezvous",
            metavar="HOST:PORT",
            help="Where they meet: one of them, and a free port there.",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    run_id: Annotated[
        str | None,
        typer.Option(
            "--run-id",
            metavar="ID",
            help="The name under which they meet (default: made from the run's).",
            rich_help_panel=SEVERAL,
        ),
    ] = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a student on FILE, or on what this run generated.

    Interrupted at any time, the same command goes on from the newest checkpoint. With FILE and
    no recipe the run is named after the file.
    """
    _refuse_combinations(inspect, dry_run, selfcheck, print_launch, on)
    flags = {
        "train.model": ("--model", model),
        "train.exclude": ("--exclude", exclude or None),
        "train.gpus": ("--gpus", gpus),
        "train.nodes": ("--nodes", nodes),
        "train.rendezvous": ("--rendezvous", rendezvous),
        "train.run_id": ("--run-id", run_id),
    }
    session = open_session(
        recipe, run, sets, json=json, quiet=quiet, flags=flags, name=_run_name(file)
    )
    if inspect is not None:
        _inspect(session, file, inspect)
    elif dry_run:
        _plan(session, file, on)
    elif selfcheck:
        _selfcheck(session)
    elif print_launch is not None:
        arguments = _arguments(file, recipe, run, sets, flags) + ["--fresh"] * fresh
        _print_launch(session, print_launch, arguments, on)
    else:
        _train(session, file, fresh)


def _refuse_combinations(
    inspect: int | None,
    dry_run: bool,
    selfcheck: bool,
    print_launch: Launcher | None,
    on: str | None,
) -> None:
    modes = {
        "--inspect": inspect is not None,
        "--dry-run": dry_run,
        "--selfcheck": selfcheck,
        "--print-launch": print_launch is not None,
    }
    given = [name for name, wanted in modes.items() if wanted]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other")
    if on is not None and given not in (["--dry-run"], ["--print-launch"]):
        raise UsageError("--on goes with --dry-run or --print-launch")


def _train(session: Session, file: str | None, fresh: bool) -> None:
    from alpaca_cli.stages import train as stage

    if file is not None:
        stage.check_readable(file)  # before a run folder is made for it
    with session.locked() if stage.holds_lock(session.recipe) else nullcontext():
        outcome = stage.take_part(
            session.recipe, session.run, session.progress, fresh=freshness(fresh), data=file
        )
    if outcome.ours:
        report = outcome.report
        following = f"alpaca chat {shlex.quote(str(session.run.path))}"
        session.finish(report, show(report), following)


def _inspect(session: Session, file: str | None, count: int) -> None:
    from alpaca_cli.cli.inspection import show as show_rows
    from alpaca_cli.stages.inspection import inspect_rows

    found = inspect_rows(session.recipe, session.run, file, count)
    session.finish(found, show_rows(found), "the same without --inspect")


def _plan(session: Session, file: str | None, machine: str | None) -> None:
    from alpaca_cli.cli.plan import show as show_plan
    from alpaca_cli.stages.plan import plan

    planned = plan(session.recipe, session.run, file, machine=machine)
    session.finish(planned, show_plan(planned), "the same without --dry-run")


def _selfcheck(session: Session) -> None:
    from alpaca_cli.cli.selfcheck import show as show_checks
    from alpaca_cli.stages.selfcheck import selfcheck

    found = selfcheck(session.recipe, session.progress)
    session.finish(found, show_checks(found), "the same without --selfcheck" if found.ok else "")
    if not found.ok:
        raise GateFailed("the selfcheck failed: this training would not do what it says")


def _print_launch(
    session: Session, launcher: Launcher, arguments: list[str], machine: str | None
) -> None:
    from alpaca_cli.stages.job_scripts import job_script

    typer.echo(job_script(launcher.value, arguments, session.recipe, machine), nl=False)


def _arguments(
    file: str | None,
    recipe: str | None,
    run: Path | None,
    sets: list[str] | None,
    flags: Mapping[str, tuple[str, Any]],
) -> list[str]:
    """The command line again, without what says on which machines it runs.

    Recipe keys in the environment become part of it: the machines have another environment.
    """
    from alpaca_cli.core.recipe import environment_keys

    again = [] if file is None else [file]
    again += [] if recipe is None else ["--recipe", recipe]
    again += [] if run is None else ["--run", str(run)]
    for variable, place in environment_keys(os.environ):
        again += ["--set", f"{'.'.join(map(str, place))}={os.environ[variable]}"]
    for text in sets or []:
        again += ["--set", text]
    for key in ("train.model", "train.exclude"):
        flag, value = flags[key]
        for each in [value] if isinstance(value, str) else value or []:
            again += [flag, each]
    return again


def _run_name(file: str | None) -> str:
    """A run's name made from a file's, in the letters that names may have."""
    stem = Path(file).name.split(".")[0] if file else ""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-") or "run"


def show(report: Report) -> RenderableType:
    """The report for people."""
    several = f"{report.processes} x {report.device}, {report.strategy}"
    where = report.device if report.processes == 1 else several
    speed = f"{report.seconds:,.0f} s: {report.tokens_per_second:,.0f} tokens/s"
    lines = [
        f"[bold]loss {report.loss:.3f}[/] after {report.steps:,} steps "
        f"({report.epochs:g} epochs of {report.examples:,} examples)",
        f"{report.tokens:,} tokens, {report.trained_tokens:,} of them trained, in {speed}, "
        f"{report.padding:.1%} padding" + ("" if report.mfu is None else f", {report.mfu:.0%} MFU"),
        f"{report.parameters:,} parameters, {report.trained_parameters:,} trained, "
        f"{escape(where)}, {report.dtype}, {report.memory / 2**30:,.1f} GiB at most",
        f"model: {escape(report.model)}",
    ]
    if report.dropped or report.truncated:
        lines.insert(
            1,
            f"[yellow]too long: {report.dropped:,} examples dropped, "
            f"{report.truncated:,} responses truncated[/]",
        )
    if report.excluded:
        lines.insert(1, f"marked bad: {report.excluded:,} examples left out")
    if report.held_out_loss is not None:
        better = f"; lower in {report.best_checkpoint}" if report.best_checkpoint else ""
        lines.insert(
            1,
            f"held-out loss {report.held_out_loss:.3f} on {report.held_out:,} examples"
            + escape(better),
        )
    if report.spikes:
        lines.append(f"[yellow]{report.spikes:,} loss spikes: log.jsonl has their examples[/]")
    return Group(*lines)
