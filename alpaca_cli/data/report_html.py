"""The stats report as one HTML file that needs nothing else: no network, no script, no library.

Plots are SVG drawn here, each with a title per bar and the same figures in a table below, so that
they can be read without seeing them. Every text of the data is escaped: it is model output. The
page follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_STYLE = (Path(__file__).parent / "report.css").read_text("utf-8")
_WIDTH, _HEIGHT = 640, 200  # of a histogram, in SVG units
_LEFT, _BOTTOM, _TOP = 44, 24, 20  # room for the axis labels


def render(report: Mapping[str, Any]) -> str:
    """The whole page for a stats report (the fields of `stages.stats.Report`)."""
    sections = [
        _summary(report),
        _funnel(report["funnel"]),
        _lengths(report["words"], report["tokens"]),
        _openings(report["openings"]),
        _similarity(report["similarity"]),
        _lint(report["lint"]),
        *(_groups(kind, counts) for kind, counts in report["groups"].items()),
        _notes(report["notes"]),
    ]
    title = escape(report["source"])
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Data report: {title}</title>
<style>
{_STYLE}</style>
</head>
<body>
<header><p>alpaca stats</p><h1>Data report</h1><p class="source">{title}</p></header>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def _summary(report: Mapping[str, Any]) -> str:
    examples, similarity = report["examples"], report["similarity"]
    counts = {"error": 0, "warning": 0}
    for rule in report["lint"].values():
        counts[rule["severity"]] += rule["count"]
    figures = [
        ("examples", f"{examples:,}", ""),
        ("with input", _percent(report["with_input"], examples), f"{report['with_input']:,}"),
        ("median output", f"{_median(report['words']['output']):,g}", "words"),
        ("exact duplicates", f"{report['duplicates']['rows']:,}", "whole rows"),
        (
            "near neighbour",
            _percent(similarity["above"], similarity["measured"]),
            f"ROUGE-L above {similarity['threshold']:g}",
        ),
        ("lint", f"{counts['error'] + counts['warning']:,}", f"{counts['error']:,} errors"),
    ]
    cards = "".join(
        f'<div class="card"><span>{name}</span><b>{value}</b><small>{escape(note)}</small></div>'
        for name, value, note in figures
    )
    return f'<div class="cards">{cards}</div>\n'


def _funnel(funnel: Mapping[str, Any] | None) -> str:
    if funnel is None:
        return ""
    total = funnel["candidates"]
    bars = [("written by the teacher", total, "")]
    bars += [(f"rejected: {reason}", count, "drop") for reason, count in funnel["rejected"].items()]
    bars.append(("kept by generate", funnel["generated"], ""))
    if funnel["kept"] is not None:
        bars += [
            (f"dropped: {reason}", count, "drop") for reason, count in funnel["dropped"].items()
        ]
        bars.append(("kept by dedup", funnel["kept"], ""))
    return _section("From candidates to examples", _bars(bars, total))


def _lengths(words: Mapping[str, Any], tokens: Mapping[str, Any] | None) -> str:
    names = {
        "instruction": "Instruction",
        "input": "Input (where there is one)",
        "output": "Output",
    }
    parts = [
        f"<figure><figcaption>{names[field]}, words</figcaption>"
        f"{_histogram(found['histogram'], f'{field} length in words')}"
        f"{_quantiles(found['quantiles'])}</figure>"
        for field, found in words.items()
        if found["histogram"]
    ]
    note = (
        '<p class="note">Words of any script; one per letter where a script has no spaces. '
        "The last bar holds everything longer.</p>"
    )
    if tokens is not None:
        note += (
            f'<p class="note">{tokens["total"]:,} tokens in all, by {escape(tokens["tokenizer"])}; '
            f"{tokens['over']:,} examples are longer than {tokens['max_length']:,}.</p>"
        )
        plot = _histogram(tokens["histogram"], "tokens of an example", mark=tokens["max_length"])
        parts.append(
            "<figure><figcaption>Prompt, answer and EOS, tokens</figcaption>"
            f"{plot}{_quantiles(tokens['quantiles'])}</figure>"
        )
    return _section("Lengths", f'{note}<div class="plots">{"".join(parts)}</div>')


def _openings(openings: Mapping[str, Any]) -> str:
    verbs = openings["verbs"]
    if not verbs:
        return ""
    rows = [
        (
            verb["verb"],
            verb["count"],
            " · ".join(f"{noun} {count:,}" for noun, count in verb["objects"]),
        )
        for verb in verbs
    ]
    note = (
        f'<p class="note">By rule, without a parser: recognised in {openings["recognised"]:,} of '
        f"{openings['total']:,} instructions. Beside each verb its most frequent objects.</p>"
    )
    largest = max(count for _, count, _ in rows)
    return _section("Opening verbs and their objects", note + _bars(rows, largest, noted=True))


def _similarity(found: Mapping[str, Any]) -> str:
    if not found["measured"]:
        return ""
    note = (
        f'<p class="note">ROUGE-L F1 of the {escape(found["key"])} with the most similar other '
        f"example, for {found['measured']:,} examples; {found['above']:,} are above "
        f"{found['threshold']:g}, where dedup drops.</p>"
    )
    plot = _histogram(
        found["histogram"], "similarity to the nearest neighbour", mark=found["threshold"]
    )
    table = _quantiles(found["quantiles"])
    return _section("Nearest neighbours", f'{note}<figure class="single">{plot}{table}</figure>')


def _lint(rules: Mapping[str, Any]) -> str:
    if not rules:
        return _section("Lint", "<p>Nothing found.</p>")
    parts = []
    for rule, found in rules.items():
        named = any(row["id"] for row in found["rows"])
        heads = (
            ("row", "id", "reason", "instruction") if named else ("row", "reason", "instruction")
        )
        rows = "".join(
            "<tr>" + "".join(f"<td>{escape(str(row[head] or ''))}</td>" for head in heads) + "</tr>"
            for row in found["rows"]
        )
        severity = found["severity"]
        opened = " open" if severity == "error" else ""
        parts.append(
            f'<details{opened}><summary><span class="{severity}">{severity}</span> '
            f"{escape(rule)} <b>{found['count']:,}</b></summary>"
            f'<table class="rows"><thead><tr>{_heads(heads)}</tr></thead>'
            f"<tbody>{rows}</tbody></table></details>"
        )
    return _section("Lint", "".join(parts))


def _groups(kind: str, counts: Mapping[str, int]) -> str:
    shown = list(counts.items())[:40]
    more = len(counts) - len(shown)
    note = f'<p class="note">… and {more:,} more.</p>' if more else ""
    bars = _bars([(name, count, "") for name, count in shown], max(counts.values()))
    return _section(f"By {kind}", bars + note)


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return _section("Notes", f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>")


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>\n"


def _bars(rows: Sequence[tuple[str, int, str]], largest: int, *, noted: bool = False) -> str:
    """A table whose counts are also bars; the third value is a note beside, or a class."""
    lines = []
    for name, count, extra in rows:
        width = 100 * count / largest if largest else 0
        kind = "" if noted else extra
        note = f"<td>{escape(extra)}</td>" if noted else ""
        lines.append(
            f'<tr><th scope="row">{escape(name)}</th><td class="number">{count:,}</td>'
            f'<td class="bar {kind}"><svg viewBox="0 0 100 8" preserveAspectRatio="none" '
            f'aria-hidden="true"><rect width="{width:.2f}" height="8"/></svg></td>{note}</tr>'
        )
    return f'<table class="bars{" noted" if noted else ""}"><tbody>{"".join(lines)}</tbody></table>'


def _histogram(bins: Sequence[Mapping[str, float]], label: str, mark: float | None = None) -> str:
    """Bars of equal width with an axis; `mark` draws a line at that value."""
    highest = max(found["count"] for found in bins)
    step = (_WIDTH - _LEFT) / len(bins)
    plot = _HEIGHT - _BOTTOM - _TOP
    parts = []
    for share in (0.5, 1.0):  # the middle and the top of the scale
        y = _TOP + plot * (1 - share)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" class="y">{highest * share:,.0f}</text>'
        )
    every = next(number for number in (1, 2, 4, 5, 10) if len(bins) <= 8 * number)
    for number, found in enumerate(bins):
        x, height = _LEFT + number * step, plot * found["count"] / highest
        y = _TOP + plot - height
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{step - 2:.1f}" height="{height:.1f}">'
            f"<title>{found['from']:,g} to {found['to']:,g}: {found['count']:,}</title></rect>"
        )
        if number % every == 0:
            parts.append(f'<text x="{x:.1f}" y="{_HEIGHT - 6}">{found["from"]:,g}</text>')
    base = _TOP + plot
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH}" y1="{base}" y2="{base}"/>')
    first, last = bins[0]["from"], bins[-1]["from"] + (bins[0]["to"] - bins[0]["from"])
    if mark is not None and first <= mark <= last:
        x = _LEFT + (_WIDTH - _LEFT) * (mark - first) / (last - first)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{base}"/>')
        parts.append(f'<text class="mark" x="{x - 5:.1f}" y="11">{mark:g}</text>')
    return (
        f'<svg class="histogram" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Histogram: {escape(label)}">{"".join(parts)}</svg>'
    )


def _quantiles(values: Mapping[str, float]) -> str:
    cells = "".join(f"<td>{_number(value)}</td>" for value in values.values())
    return (
        f'<table class="quantiles"><thead><tr>{_heads(values)}</tr></thead>'
        f"<tbody><tr>{cells}</tr></tbody></table>"
    )


def _heads(names: Iterable[str]) -> str:
    return "".join(f"<th>{name}</th>" for name in names)


def _number(value: float) -> str:
    return f"{value:,.4g}" if value < 1000 else f"{value:,.0f}"


def _median(found: Mapping[str, Any]) -> float:
    return float(found["quantiles"].get("median", 0))


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"
