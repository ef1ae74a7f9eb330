"""`alpaca seed --report`: which seeds breed new tasks, and which duplicates or rejections."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from alpaca_cli.cli.options import Session, open_session, runs_folder

if TYPE_CHECKING:
    from alpaca_cli.stages.seed_report import SeedFigures, SeedReport

SHOWN = 10  # seeds at either end; --json has all
WIDE = 96  # characters from which on a table has all its columns
NARROW_REST, WIDE_REST = 43, 76  # characters of all columns but the first
BAD = ("breeds duplicates", "breeds rejections")
COLOURS = {"breeds": "green", "breeds duplicates": "red", "breeds rejections": "red"}
MEANINGS = {
    "breeds": "more of its candidates are kept than in the run, beyond chance",
    "breeds duplicates": "fewer are kept, mostly for being like an earlier task",
    "breeds rejections": "fewer are kept for other reasons, or more requests bring nothing",
    "too little shown": "not even with nothing kept could chance be ruled out",
    "ordinary": "no different from the run, as far as can be told",
}


def seed_report(
    recipe: str | None,
    run: Path | None,
    sets: Sequence[str] | None,
    *,
    json: bool,
    quiet: bool,
) -> None:
    """Read and show the report; without a recipe named, by the one that the run was made with."""
    from alpaca_cli.stages.seed_report import seed_report as stage

    made_with = (run or runs_folder() / "run") / "recipe.yaml"
    if recipe is None and made_with.is_file():
        recipe = str(made_with)
    session = open_session(recipe, run, sets, json=json, quiet=quiet)
    report = stage(session.recipe, session.run)
    session.finish(report, show(report), _next(session, report))


def _next(session: Session, report: SeedReport) -> str:
    if not any(seed.verdict in BAD for seed in report.seeds):
        return session.after("alpaca dedup" if report.finished else "alpaca generate")
    command = f"alpaca seed {shlex.quote(report.source)}"
    # The built-in seeds, or those of the hub, are not the user's to edit.
    ours = not report.source.startswith("hub:") and not report.built_in
    return command if ours else f"{command} -o seeds.jsonl"


def show(report: SeedReport) -> RenderableType:
    """The report for people: the run, the verdicts, both ends, and what to edit."""
    shown = [seed for seed in report.seeds if seed.requests]
    parts: list[RenderableType] = [_heading(report), "", _verdicts(report), ""]
    if len(shown) <= 2 * SHOWN:
        parts.append(_Seeds("worst first", shown, priced=bool(report.cost)))
    else:
        best = sorted(shown, key=lambda seed: (seed.verdict in BAD, -seed.low, seed.id))
        parts.append(_Seeds(f"worst {SHOWN}", shown[:SHOWN], priced=bool(report.cost)))
        parts += ["", _Seeds(f"best {SHOWN}", best[:SHOWN], priced=bool(report.cost))]
        parts.append(f"[dim]{len(shown) - 2 * SHOWN:,} between; --json lists all[/]")
    parts += _to_edit([seed for seed in shown if seed.verdict in BAD])
    parts += [f"[dim]{escape(note)}[/]" for note in report.notes]
    return Group(*parts)


def _heading(report: SeedReport) -> str:
    text = (
        f"[bold]{len(report.seeds):,} seeds[/], {report.shown:,} of them shown, in "
        f"{escape(report.run)}\n"
        f"{report.requests:,} requests → {report.candidates:,} candidates → {report.kept:,} kept "
        f"({report.kept_share:.0%})"
    )
    if report.lost:
        text += f"; {report.lost:,} requests brought no readable task"
    if report.cost is None:
        return f"{text}\ncost unknown (no teacher.price)"
    if report.cost_per_kept:
        text += f"\n${report.cost:,.4f} in all, ${report.cost_per_kept:,.6f} for a kept example"
    return text


def _verdicts(report: SeedReport) -> RenderableType:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(no_wrap=True)
    table.add_column(style="dim", overflow="fold")
    for verdict, count in report.verdicts.items():
        if count:
            table.add_row(f"{count:,}", _coloured(verdict), MEANINGS[verdict])
    return table


def _coloured(verdict: str) -> str:
    return f"[{COLOURS[verdict]}]{verdict}[/]" if verdict in COLOURS else verdict


@dataclass(frozen=True, slots=True)
class _Seeds:
    """A table of seeds, with as many columns as the terminal has room for."""

    title: str
    seeds: Sequence[SeedFigures]
    priced: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        wide = options.max_width >= WIDE
        table = Table(box=None, pad_edge=False, header_style="dim")
        room = options.max_width - (WIDE_REST if wide else NARROW_REST)
        table.add_column(self.title, overflow="ellipsis", no_wrap=True, max_width=max(12, room))
        table.add_column("verdict", no_wrap=True)
        for name in ("kept", "95 %", "alike"):
            table.add_column(name, justify="right", no_wrap=True)
        if wide:
            table.add_column("of", justify="right", no_wrap=True)
            if self.priced:
                table.add_column("$ per kept", justify="right", no_wrap=True)
            table.add_column("most often", overflow="ellipsis", no_wrap=True)
        for seed in self.seeds:
            table.add_row(*self._cells(seed, wide=wide))
        yield table

    def _cells(self, seed: SeedFigures, *, wide: bool) -> list[str]:
        shares = ["–"] * 3
        if seed.candidates:
            interval = f"{100 * seed.low:.0f}–{100 * seed.high:.0f}"
            alike = seed.near_duplicates / seed.candidates
            shares = [f"{seed.kept_share:.0%}", interval, f"{alike:.0%}"]
        cells = [escape(_printable(seed.id)), _coloured(seed.verdict), *shares]
        if wide:
            cells.append(f"{seed.candidates:,}")
            if self.priced:
                known = seed.cost_per_kept is not None
                cells.append(f"{seed.cost_per_kept:,.6f}" if known else "–")
            usual = seed.common_rejection or ("no reply" if seed.lost else "–")
            cells.append(escape(usual.replace("_", " ")))
        return cells


def _to_edit(seeds: Sequence[SeedFigures]) -> list[RenderableType]:
    """What is known of the seeds to edit or take out, one paragraph each."""
    if not seeds:
        return []
    parts: list[RenderableType] = ["", "[bold]to edit or take out[/]"]
    for seed in seeds[:SHOWN]:
        reasons = list(seed.rejected.items())[:3]
        listed = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in reasons)
        facts = [f"{seed.kept:,} kept of {seed.candidates:,}", listed]
        if seed.copies:
            facts.append(f"{seed.copies:,} of them like the seed itself")
        if seed.lost:
            facts.append(f"{seed.lost:,} of {seed.requests:,} requests without a readable task")
        known = "; ".join(escape(fact) for fact in facts if fact)
        parts.append(f"[red]{escape(_printable(seed.id))}[/]: {known}")
        parts.append(Padding(f"[dim]{escape(_printable(seed.instruction))}[/]", (0, 0, 0, 2)))
    if len(seeds) > SHOWN:
        parts.append(f"[dim]… and {len(seeds) - SHOWN:,} more; --json lists all[/]")
    return parts


def _printable(text: str) -> str:
    """Without what steers a terminal: ids and instructions may be anybody's."""
    return "".join(letter for letter in text if letter.isprintable())
