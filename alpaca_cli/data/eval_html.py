"""An evaluation as one HTML page that needs nothing else: no network, no script, no library.

Figures of all contenders side by side with their intervals, what a judge said, and every question
with all answers, which the browser's own search finds. Every text is escaped: it is model output.
The page follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from alpaca_cli.core.progress import CONTROL

_STYLE = (Path(__file__).parent / "eval.css").read_text("utf-8")
QUESTIONS = 1000  # shown on the page: more would be too much for a browser
FAMILIES = 24  # more categories than this are folded away

Figures = Mapping[str, Any]


def render(report: Figures, rows: Sequence[Figures]) -> str:
    """The whole page.

    Args:
        report: the fields of `stages.eval_report.Report`.
        rows: the lines of comparison.jsonl.
    """
    contenders = {report["model"]: report, **report["against"]}
    sections = [
        _overview(contenders, len(rows)),
        _judge(report),
        _families(contenders, report["pairwise"]),
        _benchmarks(report["lm_eval"]),
        _questions(rows, list(contenders), report["model"]),
    ]
    title = " · ".join(map(_text, contenders))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Evaluation: {title}</title>
<style>
{_STYLE}</style>
</head>
<body>
<header><p>alpaca eval</p><h1>{title}</h1>
<p>{len(rows):,} questions of {_text(report["data"])}</p></header>
<main>
{"".join(sections)}</main>
</body>
</html>
"""


def _overview(contenders: Mapping[str, Figures], questions: int) -> str:
    """Who answered, and how that compares with the references."""
    first = next(iter(contenders))
    heads = ["model", "answers"]
    scored = any(found["exact_match"] is not None for found in contenders.values())
    if scored:
        heads += ["exact match", "ROUGE-L"]
        if len(contenders) > 1:
            heads += ["exact match, difference", "ROUGE-L, difference"]
    lines = []
    for name, found in contenders.items():
        cells = [_answered(found, questions)]
        if scored:
            cells += [_figure(found, "exact_match", _percent), _figure(found, "rouge_l", _decimal)]
            if len(contenders) > 1:
                apart = found.get("difference") or {}
                cells += [
                    _figure(apart, "exact_match", _points, around_zero=True),
                    _figure(apart, "rouge_l", _signed, around_zero=True),
                ]
        lines.append((_text(name), cells))
    notes = []
    if scored:
        notes.append(
            "Intervals hold 95 %: Wilson's for exact match, else a bootstrap of the questions."
        )
        if len(contenders) > 1:
            notes.append(
                f"Differences are to {_text(first)}, paired question by question: an interval "
                "without 0 tells the two apart."
            )
    else:
        notes.append("The questions have no references to compare with.")
    return _section("Models", _table(heads, lines) + _note(notes))


def _answered(found: Figures, questions: int) -> str:
    missing = found.get("missing", 0)
    extra = [
        f"{found[name]:,} {what}"
        for name, what in (("cut", "cut"), ("too_long", "too long"))
        if found[name]
    ]
    return f"{questions - missing:,}" + _small(", ".join(extra))


def _judge(report: Figures) -> str:
    if not report["pairwise"]:
        return ""
    heads = [
        f"{_text(report['model'])} against", "win rate", "at equal length", "won / tied / lost",
        "without verdict", "orders agree", "first shown preferred",
    ]  # fmt: skip
    lines, notes = [], []
    for name, found in report["pairwise"].items():
        lines.append((
            _text(name),
            [
                _figure(found, "win_rate", _percent, interval="interval"),
                _figure(found, "length_controlled", _percent),
                f"{found['wins']:,} / {found['ties']:,} / {found['losses']:,}",
                f"{found['no_verdict'] + found['pending']:,}",
                _percent(found["agreement"]),
                _figure(found, "position_bias", _percent),
            ],
        ))  # fmt: skip
        if found["position_note"]:
            notes.append(f'<p class="bias">{_text(found["position_note"])}</p>')
        if found["length_controlled_note"]:
            notes.append(
                _note([f"No rate at equal length: {_text(found['length_controlled_note'])}."])
            )
    told = report["judge"]
    cost = "" if told["cost"] is None else f" for ${told['cost']:.4f}"
    notes.append(_note([
        f"{_text(told['model'])} was asked in both orders{cost}. A pair is won when both prefer "
        "the model, and tied when they disagree; the win rate counts a tie as half a win.",
        "At equal length: by a logistic model of the difference in length, as in AlpacaEval 2.",
    ]))  # fmt: skip
    if told["pending"]:
        notes.append(f'<p class="bias">{told["pending"]:,} verdicts are still to be asked for.</p>')
    return _section("Judged in pairs", _table(heads, lines) + "".join(notes))


def _families(contenders: Mapping[str, Figures], pairwise: Mapping[str, Figures]) -> str:
    names = sorted({
        family
        for found in (*contenders.values(), *pairwise.values())
        for family in found["by_family"]
    })  # fmt: skip
    if not names:
        return ""
    heads = ["category", *(f"exact match, {_text(name)}" for name in contenders)]
    heads += [f"win rate against {_text(name)}" for name in pairwise]
    lines = []
    for family in names:
        cells = []
        for found in contenders.values():
            part = found["by_family"].get(family)
            cells.append("" if part is None else _cell(part, "exact_match"))
        for found in pairwise.values():
            part = found["by_family"].get(family)
            cells.append(
                "" if part is None else _percent(part["win_rate"]) + _small(f"n = {part['n']}")
            )
        lines.append((_text(family), cells))
    table = _table(heads, lines)
    if len(names) > FAMILIES:
        table = f"<details><summary>{len(names)} categories</summary>{table}</details>"
    return _section("By category", table)


def _benchmarks(results: Mapping[str, Figures]) -> str:
    if not results:
        return ""
    lines = [
        (f"{_text(task)}: {_text(metric)}", [f"{value:.4g}"])
        for task, found in results.items()
        for metric, value in found["results"].items()
        if isinstance(value, float)
    ]
    return _section("lm-evaluation-harness", _table(["task", "result"], lines))


def _questions(rows: Sequence[Figures], names: Sequence[str], model: str) -> str:
    parts = [_question(row, names, model) for row in rows[:QUESTIONS]]
    if len(rows) > QUESTIONS:
        parts.append(_note([f"{len(rows) - QUESTIONS:,} more questions are in comparison.jsonl."]))
    return _section("Questions and answers", "".join(parts))


def _question(row: Figures, names: Sequence[str], model: str) -> str:
    badges = [
        f'<small class="{kind}">{word} against {_text(name)}</small>'
        for name, verdict in row["verdicts"].items()
        for kind, word in [_RESULTS[verdict["result"]]]
    ]
    asked = f'<pre class="asked" dir="auto">{_text(row["input"])}</pre>' if row["input"] else ""
    answers = [
        _answer(name, row["answers"].get(name), f"{number}") for number, name in enumerate(names, 1)
    ]
    answers += [
        f'<div><h3>reference</h3><pre dir="auto">{_text(text)}</pre></div>'
        for text in row["references"]
    ]
    verdicts = [
        f'<p class="verdict">against {_text(name)}, {place}: '
        f"<b>{_side(verdict[order], model, name)}</b> {_text(verdict['reasons'][number])}</p>"
        for name, verdict in row["verdicts"].items()
        for number, (order, place) in enumerate(_ORDERS)
    ]
    family = f"<small>{_text(row['family'])}</small>" if row["family"] else ""
    return (
        f"<details><summary><bdi>{_text(row['instruction'])}</bdi> {family}{''.join(badges)}"
        f'</summary>{asked}<div class="answers">{"".join(answers)}</div>'
        f"{''.join(verdicts)}</details>\n"
    )


_RESULTS = {
    "a": ("good", "won"), "b": ("bad", "lost"), "tie": ("", "tied"), None: ("", "no verdict"),
}  # fmt: skip
_ORDERS = (("shown_first", "model shown first"), ("shown_second", "model shown second"))


def _side(side: str | None, model: str, opponent: str) -> str:
    return {"a": _text(model), "b": _text(opponent), "tie": "tie"}.get(side or "", "no verdict")


def _answer(name: str, found: Figures | None, number: str) -> str:
    if found is None:
        return f"<div><h3>{_text(name)}</h3><small>no answer</small></div>"
    notes = []
    if "exact" in found:
        notes.append("exact" if found["exact"] else f"ROUGE-L {found['rouge_l']:.2f}")
    if found["finish_reason"] in ("length", "prompt_too_long"):
        notes.append("cut" if found["finish_reason"] == "length" else "question too long")
    shown = f"<small>{', '.join(notes)}</small>" if notes else ""
    text = _text(found["text"]) or "<small>(empty)</small>"
    return f'<div><h3>{_text(name)}{shown}</h3><pre dir="auto">{text}</pre></div>'


# --- parts ----------------------------------------------------------------------------------------


def _figure(
    found: Figures, name: str, said: Any, *, interval: str = "", around_zero: bool = False
) -> str:
    """A figure, its interval in words and as a drawing; a dash where it was not measured."""
    value = found.get(name)
    if value is None:
        return "–"
    ends = found.get(interval or f"{name}_interval")
    if ends is None:
        return str(said(value))
    words = f"{said(ends[0])} to {said(ends[1])}"
    scale = [(each + 1) / 2 if around_zero else each for each in (*ends, value)]
    low, high, middle = (4 + 112 * min(1.0, max(0.0, each)) for each in scale)
    axis = 60 if around_zero else 4
    drawing = (
        f'<svg viewBox="0 0 120 12" role="img" aria-label="{words}">'
        f'<line class="scale" x1="4" x2="116" y1="6" y2="6"/>'
        f'<line class="scale" x1="{axis}" x2="{axis}" y1="1" y2="11"/>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="6" y2="6"/>'
        f'<circle cx="{middle:.1f}" cy="6" r="3"/></svg>'
    )
    return f"{said(value)}{_small(words)}{drawing}"


def _cell(part: Figures, name: str) -> str:
    low, high = part[f"{name}_interval"]
    return _percent(part[name]) + _small(f"{_percent(low)} to {_percent(high)}, n = {part['n']}")


def _table(heads: Iterable[str], lines: Iterable[tuple[str, Sequence[str]]]) -> str:
    """A table of cells that are HTML already; the first of a line names it."""
    head = "".join(f'<th scope="col">{each}</th>' for each in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in lines
    )
    table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="wide"><table>{table}</table></div>'


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>{body}</section>\n"


def _note(sentences: Sequence[str]) -> str:
    return f'<p class="note">{" ".join(sentences)}</p>' if sentences else ""


def _small(text: str) -> str:
    return f"<small>{text}</small>" if text else ""


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def _decimal(value: float) -> str:
    return f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _text(text: str) -> str:
    return escape(text.translate(CONTROL))
