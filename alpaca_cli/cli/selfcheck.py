"""The result of `alpaca train --selfcheck` for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from alpaca_cli.stages.selfcheck import SelfCheck


def show(selfcheck: SelfCheck) -> RenderableType:
    """A table of what was tried, what was found, and how long it took."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    table.add_column("check")
    table.add_column("found", overflow="fold")
    table.add_column("seconds", justify="right")
    for check in selfcheck.checks:
        mark = "[green]ok[/]" if check.ok else "[red]FAILED[/]"
        found = escape(check.detail) if check.ok else f"[red]{escape(check.detail)}[/]"
        table.add_row(mark, escape(check.name), found, f"{check.seconds:.1f}")
    failed = sum(not check.ok for check in selfcheck.checks)
    verdict = (
        f"[red]{failed} of {len(selfcheck.checks)} checks failed[/]"
        if failed
        else f"[green]all {len(selfcheck.checks)} checks passed[/]"
    )
    notes = [f"note: {escape(note)}" for note in selfcheck.notes]
    return Group(
        f"tiny model: {escape(selfcheck.model)}; device: {escape(selfcheck.device)}",
        *notes,
        "",
        table,
        "",
        verdict,
    )
