"""What is made of a stats report: a page, pictures, a verdict for CI, a dataset card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.files import write_text
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Check, Report
from alpaca_cli.data.check_output import junit, markdown
from alpaca_cli.data.dataset_card import dataset_card
from alpaca_cli.data.figures import write_figures
from alpaca_cli.data.gates import Gate, check, load_gates
from alpaca_cli.data.report_html import render
from alpaca_cli.stages.dedup import refuse_overwriting


def gates_of(name: str) -> list[Gate]:
    """The gates of a file, or of `default`, which is shipped.

    Raises:
        UsageError: the file is missing or a gate in it is wrong.
    """
    return load_gates(name)


def checked(report: Report, gates: Sequence[Gate], name: str) -> Report:
    """The report with the verdict of these gates; `name` is where they are from."""
    return replace(report, check=check(report, gates, name))


def refuse_failed(verdict: Check) -> None:
    """GateFailed that names the gates which did not hold, when there are any."""
    failed = [gate.figure for gate in verdict.gates if not gate.passed]
    if failed:
        raise GateFailed(
            f"{len(failed)} of {len(verdict.gates)} gates failed: {', '.join(failed)}",
            hint=f"the gates are in {verdict.file}; --json has the rows behind each",
        )


def write_page(report: Report, path: Path) -> Report:
    """Write the HTML report; returns the report that names it."""
    report = replace(report, html=str(path))
    write_text(path, render(report))
    return report


def write_verdict(verdict: Check, report: Report, xml: Path | None, summary: Path | None) -> None:
    """The verdict as JUnit XML, and as Markdown for a CI page, where a file is named."""
    if xml is not None:
        write_text(xml, junit(verdict, report))
    if summary is not None:
        write_text(summary, markdown(verdict, report))


def write_pictures(report: Report, folder: Path) -> list[Path]:
    """Each figure as PNG and SVG; returns the files.

    Raises:
        UsageError: matplotlib is not installed, or the folder cannot be written.
    """
    return write_figures(report, folder)


def write_card(report: Report, recipe: Recipe, path: Path, license: str | None) -> None:
    """Write the dataset card; `license` is what a person says it is, None when nobody did."""
    write_text(path, dataset_card(report, recipe, license=license))


def refuse_overwriting_inputs(files: Sequence[str], outputs: Mapping[str, Path | None]) -> None:
    """UsageError when an output (flag -> file) is one of the files that are read, or another."""
    written: set[Path] = set()
    for flag, path in outputs.items():
        if path is not None:
            refuse_overwriting(files, path, flag)
            if path.resolve() in written:
                raise UsageError(f"{flag} {path}: another output goes there")
            written.add(path.resolve())
