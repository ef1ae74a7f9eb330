"""`alpaca eval`: answers to held-out questions, scored, compared, and judged in pairs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alpaca_cli.cli.eval_view import show as show
from alpaca_cli.cli.eval_view import show_votes
from alpaca_cli.cli.options import (
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    SafeConsole,
    SetOption,
    freshness,
    open_session,
    print_json,
    runs_folder,
)

if TYPE_CHECKING:
    from alpaca_cli.cli.options import Session


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
    against: Annotated[
        list[str] | None,
        typer.Option(
            "--against",
            metavar="MODEL|FILE",
            help="Compare with another model, or with a file of answers. Repeatable.",
        ),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option("--judge", metavar="MODEL", help="Judge answers in pairs by this model."),
    ] = None,
    judge_base_url: Annotated[
        str | None,
        typer.Option(
            "--judge-base-url", metavar="URL", help="Its OpenAI-compatible endpoint (OpenAI's)."
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option("--max-cost", metavar="USD", help="Budget of the judge; needs its price."),
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate", metavar="EXPR", help="E.g. 'exact_match >= 0.6'; exit 5 if not. Repeatable."
        ),
    ] = None,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            "--lm-eval",
            metavar="TASK[,TASK]",
            help="Also run tasks of lm-evaluation-harness, by name or YAML file.",
        ),
    ] = None,
    votes: Annotated[
        list[Path] | None,
        typer.Option(
            "--votes", metavar="FILE", help="Only count votes of chat --blind. Repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="HTML", help="All of it as one page."),
    ] = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score greedy answers by exact match and ROUGE-L, compare models, judge them in pairs.

    Without -r and --run: the run that MODEL is part of, else the newest finished run. Results
    are in its eval folder, with --data in eval-<name of the data>; a model that is part of no
    run gets runs/eval-<name>.
    """
    if votes:
        _count_votes(votes, json)
        return
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.stages import eval as stage

    if output is not None and output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: the page is HTML", hint="use a name ending in .html")
    flags: dict[str, tuple[str, Any]] = {
        "eval.data": ("--data", data),
        "eval.against": ("--against", against or None),
        "eval.judge.teacher.model": ("--judge", judge),
        "eval.judge.teacher.base_url": ("--judge-base-url", judge_base_url),
        "eval.judge.max_cost": ("--max-cost", max_cost),
        "eval.gates": ("--gate", gate or None),
    }
    if any(given is not None for given in (judge, judge_base_url, max_cost)):
        # First, because another kind of teacher would take its other keys with it.
        sets = ["eval.judge.teacher.kind=openai", *(sets or ())]
    session, stored = _session(model, recipe, run, sets, flags, json, quiet)
    # A run that brings its own recipe keeps it: an evaluation must not rewrite how it was made.
    with session.run.lock() if stored else session.locked():
        report, problem = stage.run(
            session.recipe,
            session.run,
            session.progress,
            fresh=freshness(fresh),
            model=model,
            into=stage.results_folder(session.run.path, model, data),
            page=output,
            benchmarks=[task.strip() for task in (lm_eval or "").split(",") if task.strip()],
        )
    asked = shlex.quote(model or str(session.run.path))
    next_command = "" if problem else f"alpaca chat {asked}"
    session.finish(report, show(report), next_command)
    if problem is not None:
        raise problem


def _session(
    model: str | None,
    recipe: str | None,
    run: Path | None,
    sets: list[str] | None,
    flags: dict[str, tuple[str, Any]],
    json: bool,
    quiet: bool,
) -> tuple[Session, bool]:
    """The session, and whether its recipe is the run's own stored one."""
    if recipe is not None:
        return open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags), False
    from alpaca_cli.stages import eval as stage

    place = stage.place(model, run, runs_folder())
    stored = None if place.recipe is None else str(place.recipe)
    session = open_session(
        stored, place.run, sets, json=json, quiet=quiet, flags=flags, name="eval"
    )
    if run is None and model is None:
        session.progress.info(f"run: {place.run} (the newest finished one)")
    return session, stored is not None


def _count_votes(files: list[Path], json: bool) -> None:
    """What people's votes add up to; nothing else is done."""
    from dataclasses import asdict

    from alpaca_cli.stages.eval_votes import run

    found = run(files)
    if json:
        print_json(asdict(found))
    else:
        SafeConsole(highlight=False).print(show_votes(found))
