"""What `alpaca stats` says on a terminal: the report's figures, shorter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from alpaca_cli.cli.seed import lengths_table

if TYPE_CHECKING:
    from alpaca_cli.core import stats_report as records

BAR = 20  # characters of the longest bar
VERBS, CHANGES, NAMES = 12, 20, 8  # rows on the terminal; --json has all


def show(report: records.Report) -> RenderableType:
    """The report for people: the same figures as in the HTML report, shorter."""
    parts: list[RenderableType] = [
        f"[bold]{report.examples:,} examples[/], {report.with_input_share:.0%} with an input, "
        f"from {escape(report.source)}",
    ]
    if report.provenance is not None and report.provenance.funnel is not None:
        parts.append(_funnel(report.provenance.funnel))
    words = {name: asdict(found.words) for name, found in report.lengths.items()}
    parts.append(lengths_table(words))
    if report.tokens is not None:
        tokens = report.tokens
        parts.append(lengths_table({"example": asdict(tokens.lengths)}, unit="tokens"))
        parts.append(
            f"{tokens.lengths.total:,.0f} tokens in all; {tokens.over:,} examples are "
            f"longer than {tokens.max_length:,}"
        )
    parts += ["", _verbs(report.openings), ""]
    detected = "languages" if report.languages.method == "py3langid" else "scripts"
    parts.append(_named(f"{detected} of instructions", report.languages.instruction))
    parts.append(_named("asks for", report.task_types))
    parts += [_named(f"by {kind}", found) for kind, found in report.groups.items()]
    parts += ["", _diversity(report.diversity), "", _similarity(report.neighbours)]
    if report.seeds is not None and report.seeds.scores is not None:
        seeds = report.seeds
        parts.append(
            f"nearest seed: median {report.seeds.scores.median:.2f}; "
            f"{seeds.above:,} of {seeds.measured:,} are above {seeds.threshold:g}"
        )
    repeats = report.duplicates
    parts.append(
        f"exact duplicates: {repeats['rows'].count:,} rows, {repeats['instructions'].count:,} "
        f"instructions, {repeats['outputs'].count:,} outputs"
    )
    if report.contamination is not None:
        found = report.contamination.found
        parts.append(
            f"contaminated: {found.count:,} examples hold one of "
            f"{report.contamination.questions:,} evaluation tasks"
        )
    parts += ["", _lint(report)]
    if report.against is not None:
        parts += ["", _comparison(report.against)]
    if report.check is not None:
        parts += ["", _gates(report.check)]
    parts += [f"[dim]{escape(note)}[/]" for note in report.notes]
    if report.html is not None:
        parts.append(f"report: {escape(report.html)}")
    return Group(*parts)


def _funnel(funnel: records.Funnel) -> str:
    rejected = _listed(funnel.rejected)
    text = f"{funnel.candidates:,} candidates → {funnel.generated:,} kept"
    if funnel.kept is not None:
        text += f" → {funnel.kept:,} after dedup"
    return f"{text}\n[dim]rejected:[/] {rejected}" if rejected else text


def _listed(counts: Mapping[str, int]) -> str:
    return " · ".join(f"{escape(name)} {count:,}" for name, count in counts.items())


def _named(label: str, groups: Mapping[str, records.Group]) -> str:
    """One line: the largest groups with their shares, and how many more there are."""
    some = [(name, found) for name, found in groups.items() if found.count]
    some.sort(key=lambda pair: -pair[1].count)
    listed = " · ".join(f"{escape(name)} {found.share:.0%}" for name, found in some[:NAMES])
    more = f" · {len(some) - NAMES:,} more" if len(some) > NAMES else ""
    return f"[dim]{label}:[/] {listed}{more}"


def _verbs(openings: records.Openings) -> RenderableType:
    # Expanded, with a ratio: the last column takes what is left instead of squeezing the others.
    table = _table("opens with", "", "", expand=True)
    table.add_column(f"objects ({escape(openings.method)})", overflow="ellipsis", no_wrap=True,
                     ratio=1)  # fmt: skip
    largest = max((verb.count for verb in openings.verbs), default=1)
    for verb in openings.verbs[:VERBS]:
        objects = " · ".join(f"{escape(pair.object)} {pair.count:,}" for pair in verb.objects)
        table.add_row(escape(verb.verb), f"{verb.count:,}", _bar(verb.count, largest), objects)
    return table


def _diversity(fields: Mapping[str, records.Diversity]) -> RenderableType:
    table = _table("diversity", "words", "distinct", "distinct-2", "entropy", "MTLD", "compression")
    for name, found in fields.items():
        table.add_row(
            name,
            f"{found.words:,}",
            f"{found.distinct_words:,}",
            f"{found.distinct_2:.3f}",
            f"{found.entropy:.2f} bits",
            "–" if found.mtld is None else f"{found.mtld:.0f}",
            f"{found.compression:.2f} ×",
        )
    return table


def _similarity(found: records.Neighbours) -> RenderableType:
    """A histogram of ten bars, from the twenty of the report."""
    if found.scores is None:
        return "nearest neighbours: not measured"
    table = _table("nearest ROUGE-L", "", "")
    bins = found.scores.histogram
    pairs = [
        (first.low, second.high, first.count + second.count)
        for first, second in zip(bins[::2], bins[1::2], strict=True)
    ]
    largest = max(count for _, _, count in pairs)
    for low, high, count in pairs:
        table.add_row(f"{low:.1f} – {high:.1f}", f"{count:,}", _bar(count, largest))
    above = f"{found.above:,} of {found.measured:,} measured are above {found.threshold:g}"
    return Group(table, above)


def _lint(report: records.Report) -> RenderableType:
    found = {name: rule for name, rule in report.lint.items() if rule.count}
    if not found:
        return f"[green]lint: nothing found[/] by {len(report.lint)} rules"
    table = _table("lint", "", expand=True)
    table.add_column("for example", overflow="ellipsis", no_wrap=True, ratio=1)
    for name, rule in found.items():
        colour = "red" if rule.severity == "error" else "yellow"
        first = rule.rows[0]
        table.add_row(
            f"[{colour}]{name}[/]", f"{rule.count:,}", f"row {first.row:,}: {escape(first.note)}"
        )
    clean = len(report.lint) - len(found)
    rows = f"{report.findings.rows:,} examples ({report.findings.rows_share:.1%}) have a finding"
    return Group(table, f"{rows}; {clean} of {len(report.lint)} rules found nothing")


def _comparison(against: records.Comparison) -> RenderableType:
    moved = [change for change in against.changes if change.moved]
    title = (
        f"against {escape(against.source)} ({against.examples:,} examples): "
        f"{len(moved):,} of {len(against.changes):,} figures moved by more than chance"
    )
    if not moved:
        return title
    table = _table("figure", "there", "here", "difference", "95 % interval")
    for change in moved[:CHANGES]:
        interval = ""
        if change.low is not None and change.high is not None:
            interval = f"{_number(change.low)} to {_number(change.high)}"
        table.add_row(
            escape(change.figure),
            _number(change.before),
            _number(change.after),
            f"{'+' if change.difference > 0 else ''}{_number(change.difference)}",
            interval,
        )
    more = len(moved) - CHANGES
    rest = [f"[dim]… and {more:,} more; --json lists all[/]"] if more > 0 else []
    return Group(title, table, *rest)


def _gates(check: records.Check) -> RenderableType:
    table = _table("", "gate", "value", "bound", expand=True)
    table.columns[2].justify = "right"
    table.columns[1].justify = "left"
    table.columns[3].justify = "left"
    table.add_column("why", ratio=1)
    for gate in check.gates:
        verdict = "[green]pass[/]" if gate.passed else "[red]fail[/]"
        bounds = [
            f"{sign} {_number(bound)}"
            for sign, bound in (("≥", gate.minimum), ("≤", gate.maximum))
            if bound is not None
        ]
        value = "–" if gate.value is None else _number(gate.value)
        why = "" if gate.passed else escape(gate.why)
        table.add_row(verdict, escape(gate.figure), value, " and ".join(bounds), why)
    failed = sum(not gate.passed for gate in check.gates)
    colour = "green" if check.passed else "red"
    verdict = "all gates passed" if check.passed else f"{failed} of {len(check.gates)} gates failed"
    return Group(f"[{colour}]{verdict}[/] ({escape(check.file)})", table)


def _table(first: str, *numbers: str, expand: bool = False) -> Table:
    """A plain table: a column of names, then columns of numbers."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=expand)
    table.add_column(first)
    _add_columns(table, numbers)
    return table


def _add_columns(table: Table, names: Iterable[str]) -> None:
    for position, name in enumerate(names):
        # The second of two without a name holds bars.
        table.add_column(name, justify="left" if not name and position else "right")


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def _bar(count: int, largest: int) -> str:
    return "[blue]" + "━" * round(BAR * count / largest) + "[/]" if count else ""
