"""`alpaca stats`: what is in the data, and whether it may pass."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alpaca_cli.cli.options import (
    FilesArgument,
    FreshOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    RunOption,
    Session,
    SetOption,
    freshness,
    open_session,
    print_json,
)
from alpaca_cli.cli.stats_view import show

if TYPE_CHECKING:
    from alpaca_cli.core.stats_report import Report

__all__ = ["show", "stats"]


def stats(
    files: FilesArgument = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="HTML", help="Write the report as one HTML file."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", metavar="DIR", help="Write each figure as PNG and SVG."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="FILE",
            help="Compare with these examples, or with a "
            "report.json: what moved, and whether more than by chance.",
        ),
    ] = None,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="GATES",
            help="Exit 5 unless all gates of this YAML file hold; `default` is the shipped one.",
        ),
    ] = None,
    junit: Annotated[
        Path | None,
        typer.Option("--junit", metavar="XML", help="With --check: the verdict as JUnit XML."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option("--markdown", metavar="MD", help="With --check: the verdict as Markdown."),
    ] = None,
    browse: Annotated[
        bool,
        typer.Option("--browse", help="Read, search and mark the examples in the terminal."),
    ] = False,
    review: Annotated[
        Path | None,
        typer.Option("--review", metavar="FILE", help="With --browse: where marks are kept."),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option("--card", metavar="MD", help="Write a dataset card, a README for a hub."),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license",
            metavar="ID",
            help="With --card: the data's licence, e.g. cc-by-4.0; not stated when not given.",
        ),
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the report, and end.")
    ] = False,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Report what is in the data: lengths, languages, verbs, similarity, lint; and gate on it.

    With FILES: they are measured as one. Without: the examples of this run (with --run alone by
    its own recipe), with report.json and report.html in the run folder. Every figure of --json
    can be a gate: --check gates.yaml.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.core.stats_report import schema as report_schema
    from alpaca_cli.stages import stats as stage
    from alpaca_cli.stages import stats_outputs as outputs

    if schema:
        print_json(report_schema())
        return
    for flag, given, needed, other in (
        ("--junit", junit, check, "--check"),
        ("--markdown", markdown, check, "--check"),
        ("--review", review, browse, "--browse"),
        ("--license", license, card, "--card"),
    ):
        if given is not None and not needed:
            raise UsageError(f"{flag} needs {other}")
    stored = None if run is None else run / "recipe.yaml"
    own = recipe is None and stored is not None and stored.is_file()
    session = open_session(str(stored) if own else recipe, run, sets, json=json, quiet=quiet)
    if browse:
        _browse(session, files, review)
        return
    written = {"-o": output, "--junit": junit, "--markdown": markdown, "--card": card}
    written["--figures"] = figures
    read = [*(files or ()), *filter(None, (against, check)), *session.recipe.stats.contamination]
    if not files:
        read += map(str, session.run.path.glob("*/*.jsonl"))
    outputs.refuse_overwriting_inputs(read, written)
    gates = None if check is None else outputs.gates_of(check)  # a wrong one is told at once
    report = _measured(session, files, fresh, own=own)
    if against is not None:
        report = stage.against(report, against, session.recipe, session.progress)
    if gates is not None and check is not None:
        report = outputs.checked(report, gates, check)
    if output is not None:
        report = outputs.write_page(report, output)
    if figures is not None:
        outputs.write_pictures(report, figures)
    if card is not None:
        outputs.write_card(report, session.recipe, card, license)
    if report.check is not None:
        outputs.write_verdict(report.check, report, junit, markdown)
    session.finish(report, show(report), _next(session, files, report))
    if report.check is not None:
        outputs.refuse_failed(report.check)


def _measured(session: Session, files: list[str] | None, fresh: bool, *, own: bool) -> Report:
    """The report; a run that brought its `own` recipe keeps it as it was."""
    from alpaca_cli.stages import stats as stage

    if files:
        return stage.measure_files(files, session.recipe, session.progress)
    with session.run.lock() if own else session.locked():
        return stage.run(session.recipe, session.run, session.progress, fresh=freshness(fresh))


def _browse(session: Session, files: list[str] | None, review: Path | None) -> None:
    from alpaca_cli.stages import stats as stage

    tally = stage.look(files or [], session.recipe, session.run, session.progress, review)
    session.progress.info(
        f"read {tally.seen:,}; marked {tally.good:,} good, {tally.bad:,} bad; "
        f"took back {tally.cleared:,}"
    )
    if tally.review is not None:
        named = _named(session, files)
        session.progress.info(f"next: alpaca dedup {named}--exclude {shlex.quote(tally.review)}")


def _next(session: Session, files: list[str] | None, report: Report) -> str:
    if report.check is not None and not report.check.passed:
        return f"alpaca stats {_named(session, files)}--browse"
    if files and len(files) > 1:  # a training reads one
        return f"alpaca dedup {shlex.join(files)} -o FILE"
    return session.after(shlex.join(["alpaca", "train", *(files or ())]))


def _named(session: Session, files: list[str] | None) -> str:
    """What was looked at, as arguments with a space behind each."""
    return "".join(f"{shlex.quote(each)} " for each in files or session.named)
