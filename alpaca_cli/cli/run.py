"""`alpaca run`: the stages of a recipe, in order, resuming where it stopped."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from importlib import import_module
from typing import Annotated, Any

import typer

from alpaca_cli.cli.options import (
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    SafeConsole,
    SetOption,
    open_session,
    print_json,
)

STAGES = ("seed", "generate", "dedup", "stats", "train", "eval")


def run(
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Move changed stages aside and redo them; keep the others."),
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Walk the whole road: seed, generate, dedup, stats, train, eval.

    Finished stages are skipped; interrupted ones go on. The same command is the way to resume.
    """
    session = open_session(recipe, run, sets, json=json, quiet=quiet)
    reports: dict[str, Any] = {}
    problem: BaseException | None = None
    with session.locked():
        for name in STAGES:
            if name == "eval" and session.recipe.eval is None:
                continue
            session.progress.info(f"── {name} " + "─" * (60 - len(name)))
            # Imported one by one: a run that stops before training never loads torch.
            stage, command = (import_module(f"alpaca_cli.{room}.{name}") for room in _ROOMS)
            report = stage.run(
                session.recipe,
                session.run,
                session.progress,
                fresh="changed" if fresh else "never",
            )
            if name == "eval":  # has a report even where a gate has failed
                report, problem = report
            reports[name] = asdict(report)
            if not json:
                SafeConsole(highlight=False).print(command.show(report))
    if json:
        print_json(reports)
    if problem is not None:
        raise problem
    session.progress.info(f"next: alpaca chat {shlex.quote(str(session.run.path))}")


_ROOMS = ("stages", "cli")
