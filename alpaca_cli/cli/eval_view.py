"""What `alpaca eval` shows of its reports on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from alpaca_cli.stages.eval_report import Report
    from alpaca_cli.stages.eval_votes import Votes

ROWS = 14  # more families than this stand in two tables side by side
SHOWN_FAMILIES = 100  # the others are in the report
SHOWN_MISSES = 3


def show(report: Report) -> RenderableType:
    """The report for people."""
    lines: list[RenderableType] = [*_headline(report)]
    for name, part in (("seen", report.seen_phrasings), ("unseen", report.unseen_phrasings)):
        if part is not None:
            lines.append(f"{name} phrasings: {part['exact_match']:.1%} of {part['n']:,}")
    if report.against:
        lines += ["", _contenders(report)]
    if report.pairwise:
        lines += ["", *_judged(report)]
    if report.by_family and not report.against:
        lines += ["", _families(report.by_family)]
        more = len(report.by_family) - SHOWN_FAMILIES
        if more > 0:
            lines.append(f"[dim]and {more:,} more in report.json[/]")
        lines.append(f"{report.families_at_90} of {len(report.by_family)} families at 90 % or more")
    if report.lm_eval:
        lines += ["", _benchmarks(report.lm_eval)]
    lines += _cautions(report)
    if not report.against:
        lines += [_miss(miss) for miss in report.misses[:SHOWN_MISSES]]
    if report.gates:
        lines += ["", _gates(report.gates)]
    return Group(*lines)


def _headline(report: Report) -> Iterator[str]:
    if report.exact_match is None or report.exact_match_interval is None:
        yield f"[bold]{report.questions:,} questions without references[/]"
    else:
        low, high = report.exact_match_interval
        yield (
            f"[bold]exact match {report.exact_match:.1%}[/] ({low:.1%} to {high:.1%} at 95 %) · "
            f"ROUGE-L {report.rouge_l:.3f}{_spread(report.rouge_l_interval)} · "
            f"{report.scored:,} questions"
        )
    yield f"[dim]{escape(report.model)} on {escape(report.data)}[/]"


def _spread(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"


def _cautions(report: Report) -> Iterator[str]:
    if report.without_reference:
        what = "without a reference" if report.against else "left out: no output"
        yield f"[yellow]{report.without_reference:,} of {report.rows:,} rows {what}[/]"
    if report.cut:
        yield f"[yellow]{report.cut:,} of {report.questions:,} answers cut at the token limit[/]"
    for name, found in report.against.items():
        if found["missing"]:
            yield f"[yellow]{escape(name)}: no answer to {found['missing']:,} questions[/]"


def _table(*heads: str) -> Table:
    """A plain table; every column but the first is of numbers."""
    table = Table(box=None, header_style="dim", pad_edge=False)
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if number else "left", overflow="fold")
    return table


def _contenders(report: Report) -> Table:
    """Everyone's figures, and the differences to the first."""
    table = _table("model", "exact match", "ROUGE-L", "Δ exact match", "Δ ROUGE-L")
    for name, found in {report.model: asdict(report), **report.against}.items():
        apart = found.get("difference") or {}
        table.add_row(
            escape(name),
            _figure(found, "exact_match", "{:.1f}", 100),
            _figure(found, "rouge_l", "{:.3f}"),
            _figure(apart, "exact_match", "{:+.1f}", 100, colored=True),
            _figure(apart, "rouge_l", "{:+.3f}", colored=True),
        )
    return table


def _figure(
    found: Mapping[str, Any], name: str, form: str, factor: float = 1.0, *, colored: bool = False
) -> str:
    """A figure above its interval; empty where it was not measured."""
    if found.get(name) is None:
        return ""
    interval = found[f"{name}_interval"]
    color = _told_apart(interval) if colored else "default"
    return f"[{color}]{form.format(factor * found[name])}[/]\n{_range(interval, form, factor)}"


def _told_apart(interval: Sequence[float]) -> str:
    low, high = interval
    return "green" if low > 0 else "red" if high < 0 else "default"


def _range(interval: Sequence[float] | None, form: str, factor: float = 1.0) -> str:
    if interval is None:
        return ""
    return f"[dim]{' to '.join(form.format(factor * end) for end in interval)}[/]"


def _judged(report: Report) -> Iterator[RenderableType]:
    """Win rates, and what they are worth."""
    table = _table(
        "judged against", "win rate", "equal length", "won/tied/lost", "none", "first shown"
    )
    for name, found in report.pairwise.items():
        table.add_row(
            escape(name),
            f"{_share(found['win_rate'])}\n{_range(found['interval'], '{:.1f}', 100)}",
            f"{_share(found['length_controlled'])}\n"
            f"{_range(found['length_controlled_interval'], '{:.1f}', 100)}",
            f"{found['wins']:,}/{found['ties']:,}/{found['losses']:,}",
            f"{found['no_verdict'] + found['pending']:,}",
            _share(found["position_bias"]),
        )
    yield table
    if report.judge is not None:
        cost = report.judge["cost"]
        money = "" if cost is None else f" · ${cost:.4f}"
        yield (
            f"[dim]judge: {escape(report.judge['model'])}, both orders, a tie is half a win · "
            f"{report.judge['requests']:,} requests{money}[/]"
        )
    for name, found in report.pairwise.items():
        if found["position_note"]:
            yield f"[yellow]{found['position_note']}[/]"
        if found["length_controlled_note"]:
            yield f"[dim]{escape(name)}: {found['length_controlled_note']}[/]"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _families(by_family: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Tables side by side, best families first."""
    best = sorted(by_family.items(), key=lambda item: (-item[1]["exact_match"], item[0]))
    best = best[:SHOWN_FAMILIES]
    rows = len(best) if len(best) <= ROWS else (len(best) + 1) // 2
    tables = []
    for start in range(0, len(best), rows):
        table = _table("family", "n", "exact", "ROUGE-L")
        for name, part in best[start : start + rows]:
            share = part["exact_match"]
            color = "green" if share >= 0.9 else "red" if share < 0.5 else "yellow"
            table.add_row(
                escape(name), str(part["n"]), f"[{color}]{share:.0%}[/]", f"{part['rouge_l']:.2f}"
            )
        tables.append(table)
    return Columns(tables, padding=(0, 4))


def _benchmarks(results: Mapping[str, Mapping[str, Any]]) -> Table:
    table = _table("lm-evaluation-harness", "result")
    for task, found in results.items():
        for metric, value in found["results"].items():
            if isinstance(value, float):
                table.add_row(escape(f"{task} {metric}"), f"{value:.4g}")
    return table


def _gates(gates: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("gate", "is", "")
    for gate in gates:
        value = "not measured" if gate["value"] is None else f"{gate['value']:g}"
        passed = "[green]passed[/]" if gate["passed"] else "[red]FAILED[/]"
        table.add_row(escape(gate["text"]), value, passed)
    return table


def _miss(miss: Mapping[str, Any]) -> str:
    def line(text: str) -> str:
        flat = " ".join(
            "".join(each for each in text if each.isprintable() or each.isspace()).split()
        )
        return escape(flat if len(flat) <= 160 else f"{flat[:159]}…")

    asked = line(miss["instruction"]) + (f" · {line(miss['input'])}" if miss["input"] else "")
    return (
        f"\n[dim]asked   [/] {asked}\n[dim]expected[/] {line(miss['expected'])}\n"
        f"[dim]answered[/] {line(miss['answer'])}"
    )


def show_votes(votes: Votes) -> RenderableType:
    """Win rates of each pair of models that people voted on, ties apart."""
    table = _table(
        "model", "against", "won", "lost", "tied", "won of decided", "95 %", "first shown"
    )
    for pair in votes.pairs:
        table.add_row(
            escape(pair["model_a"]),
            escape(pair["model_b"]),
            f"{pair['wins_a']:,}",
            f"{pair['wins_b']:,}",
            f"{pair['ties']:,}",
            f"{_share(pair['decisive_rate'])}\n{_range(pair['interval'], '{:.1f}', 100)}",
            f"{_share(pair['first_rate'])}\n{_range(pair['first_interval'], '{:.1f}', 100)}",
        )
    return Group(f"[bold]{votes.votes:,} votes[/]", "", table)
