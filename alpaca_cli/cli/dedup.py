"""`alpaca dedup`: drop near-duplicates; the first one stays, or the best."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from alpaca_cli.stages.dedup import Report
    from alpaca_cli.stages.dedup_shards import Report as ShardsReport

NAME = 36  # characters of a row's name in the summary


def dedup(
    files: FilesArgument = None,
    recipe: RecipeOption = None,
    run: RunOption = None,
    sets: SetOption = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", metavar="F1", help="Drop above this ROUGE-L F1 (0.7)."),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            "--key", metavar="TEXT", help="Compare instruction, instruction+input or output."
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="NAME", help="rouge (a-z and 0-9) or unicode (every script)."
        ),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="RULE", help="What stays: first, longest, or highest FIELD."
        ),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option("--against", metavar="FILE", help="Drop what is like an example of FILE."),
    ] = None,
    decontaminate: Annotated[
        list[str] | None,
        typer.Option(
            "--decontaminate", metavar="FILE", help="Drop what holds much of a question of FILE."
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--exclude", metavar="FILE", help="Drop what is marked bad in this review file."
        ),
    ] = None,
    semantic: Annotated[
        float | None,
        typer.Option(
            "--semantic", metavar="COSINE", help="Drop what means the same, too; approximate."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the kept examples here."),
    ] = None,
    clusters: Annotated[
        Path | None,
        typer.Option("--clusters", metavar="FILE", help="Write the groups here (JSONL)."),
    ] = None,
    verify: Annotated[
        int,
        typer.Option(
            "--verify",
            metavar="N",
            min=0,
            show_default=False,
            help="Check N random rows with rouge-score; exit 5 if wrong.",
        ),
    ] = 0,
    executor: Annotated[
        Literal["local", "slurm", "ray"] | None,
        typer.Option("--executor", help="FILES are shards: do them in tasks, -o names a folder."),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option("--tasks", metavar="N", min=1, help="Tasks at once (one for each core)."),
    ] = None,
    executor_options: Annotated[
        list[str] | None,
        typer.Option(
            "--executor-option", metavar="KEY=VALUE", help="For slurm and ray, as partition=gpu."
        ),
    ] = None,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Drop near-duplicates by exact ROUGE-L; the first one stays, or the best.

    With FILES: they are compared as one, in order. -o writes what is kept, and
    what is dropped beside it, with the name of its survivor.

    Without: the examples that this run generated.

    --against, --decontaminate and --exclude may be given several times. Review
    files are those of alpaca stats --browse.

    With --executor: FILES are shards (.jsonl, .jsonl.gz, .parquet) of a corpus
    of any size; each is written into the folder -o.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.core.machine import cores
    from alpaca_cli.stages import dedup as stage
    from alpaca_cli.stages import dedup_shards

    flags = {
        "dedup.threshold": ("--threshold", threshold),
        "dedup.key": ("--key", key),
        "dedup.tokenizer": ("--tokenizer", tokenizer),
        "dedup.keep": ("--keep", keep),
        "dedup.against": ("--against", against or None),
        "dedup.decontaminate": ("--decontaminate", decontaminate or None),
        "dedup.exclude": ("--exclude", exclude or None),
        "dedup.semantic": ("--semantic", semantic),
    }
    session = open_session(recipe, run, sets, json=json, quiet=quiet, flags=flags)
    if executor is not None:
        for flag, given in (("--clusters", clusters), ("--verify", verify), ("--fresh", fresh)):
            if given:
                raise UsageError(f"{flag} does not go with --executor")
        if not files or output is None:
            raise UsageError("--executor needs FILES, the shards, and -o FOLDER")
        sharded = dedup_shards.dedupe_shards(
            files,
            session.recipe.dedup,
            session.progress,
            output,
            executor=executor,
            tasks=tasks or cores(),
            options=_options(executor_options or []),
        )
        session.finish(sharded, show_shards(sharded))
        return
    if tasks is not None or executor_options:
        raise UsageError("--tasks and --executor-option need --executor")
    if files:
        report = stage.dedupe_files(
            files,
            session.recipe.dedup,
            session.progress,
            output,
            clusters=clusters,
            verify=verify,
            seed=session.recipe.seed,
        )
        following = (
            f"alpaca stats {shlex.quote(str(output))}"
            if output
            else "the same with -o FILE writes them"
        )
        session.finish(report, show(report), following)
        return
    for flag, file in (("-o", output), ("--clusters", clusters)):
        if file is not None:
            raise UsageError(
                f"{flag} needs FILES", hint="without them the result is in the run folder"
            )
    with session.locked():
        report = stage.run(
            session.recipe, session.run, session.progress, fresh=freshness(fresh), verify=verify
        )
    session.finish(report, show(report), session.after("alpaca stats"))


def _options(given: list[str]) -> dict[str, Any]:
    """KEY=VALUE pairs, values read as in a recipe.

    Raises:
        UsageError: there is no "=", or no value behind it.
    """
    import yaml

    from alpaca_cli.core.errors import UsageError

    options = {}
    for pair in given:
        key, equals, value = pair.partition("=")
        if not equals or not value:
            raise UsageError(f"--executor-option {pair}: write KEY=VALUE")
        # YAML reads 01:00:00 as a number of seconds; only Slurm may.
        options[key] = value if ":" in value else yaml.safe_load(value)
    return options


def show_shards(report: ShardsReport) -> RenderableType:
    """The report about shards for people."""
    against = f", {report.against:,} of them like --against" if report.against else ""
    excluded = f", {report.excluded:,} marked bad in --exclude" if report.excluded else ""
    return Group(
        f"[bold]kept {report.kept:,} of {report.read:,}[/] in {report.shards:,} shards, dropped "
        f"{report.dropped:,}{against}{excluded}",
        f"[dim]{escape(report.key)}, ROUGE-L above {report.threshold:g}, {report.tokenizer} "
        f"tokenizer; {report.pairs:,} similar pairs, {report.without_words:,} rows without words; "
        f"{report.seconds:,.1f} s[/]",
        f"written: {escape(report.output)}",
        f"dropped: {escape(report.dropped_output)}",
    )


def show(report: Report) -> RenderableType:
    """The report for people."""
    lines: list[RenderableType] = [
        f"[bold]kept {report.kept:,} of {report.read:,}[/], dropped {report.dropped:,}"
        + (f" (exact copies: {report.exact:,})" if report.exact else "")
    ]
    if report.against_read or report.evaluation_read or report.semantic or report.excluded:
        lines.append(_reasons(report))
    pairs = f"{report.pairs['compared']:,} of {report.pairs['all']:,} pairs compared word by word"
    cost = f"{report.seconds:,.1f} s, {report.memory / 2**20:,.0f} MiB"
    lines.append(f"[dim]{_rule(report)}[/]")
    lines.append(f"[dim]{pairs}, the others equal or ruled out; {cost}[/]")
    if report.verified:
        lines.append(f"[green]rouge-score decides the same for {report.verified:,} rows[/]")
    if report.largest:
        lines += ["", _largest(report), ""]
    for name, file in (
        ("written", report.output),
        ("dropped", report.dropped_output),
        ("groups", report.clusters),
    ):
        if file is not None:
            lines.append(f"{name}: {escape(file)}")
    return Group(*lines)


def _reasons(report: Report) -> str:
    """Why rows were dropped; a set that was searched in vain is named, too."""
    reasons = [f"{report.duplicates:,} near-duplicates"]
    if report.against_read:
        reasons.append(f"{report.against:,} like one of {report.against_read:,} in --against")
    if report.evaluation_read:
        reasons.append(
            f"{report.contaminated:,} holding one of {report.evaluation_read:,} in --decontaminate"
        )
    if report.semantic:
        reasons.append(f"{report.semantic:,} that mean the same (approximate)")
    if report.excluded:
        reasons.append(f"{report.excluded:,} marked bad in --exclude")
    return " · ".join(reasons)


def _rule(report: Report) -> str:
    """By what was decided."""
    stays = {"first": "the first stays", "longest": "the one with the longest output stays"}
    words = f"{report.tokenizer} tokenizer"
    if report.without_words:
        words += f" ({report.without_words:,} rows have no words for it)"
    return f"{report.key}, ROUGE-L above {report.threshold:g}, {words}, " + stays.get(
        report.keep, f"the highest {escape(report.keep)} stays"
    )


def _largest(report: Report) -> RenderableType:
    """The largest groups, a line each."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("alike", justify="right")
    table.add_column("largest groups", overflow="ellipsis", no_wrap=True, ratio=1)
    table.add_column("stays", no_wrap=True)
    for group in report.largest:
        stays = group["survivor"]
        if len(stays) > NAME:
            stays = f"…{stays[1 - NAME :]}"  # a place ends in what tells it from others
        table.add_row(f"{group['size']:,}", escape(" ".join(group["text"].split())), escape(stays))
    return table
