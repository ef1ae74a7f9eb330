"""The stats report as one HTML file that needs nothing else: no network, no folder beside it.

Every figure is there first as SVG or a table, for printing, for readers without a script and for
those who do not see it. Where plotly is installed the page carries it, too, and draws the figures
anew so that they answer to the mouse. Every text of the data is escaped: it is model output. A
policy in the page forbids everything but its own two scripts; nothing can be loaded or sent. The
page follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.stats_report import Report, Sample
from alpaca_cli.data import report_sections, report_tables
from alpaca_cli.data.report_parts import ID, Section, cut
from alpaca_cli.data.report_plotly import Library, allowed, load_library
from alpaca_cli.data.report_tags import NONE, Html, clean, number, percent, tag

LIMIT = 5_000_000  # bytes
GROUPS = 8  # kinds of groups that are shown
_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "report.css").read_text("utf-8")
_SCRIPT = (_FOLDER / "report.js").read_text("utf-8")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STILL = (
    "The figures of this page do not answer to the mouse: plotly, of the extra [report], was not "
    "installed when it was written."
)
_SHORT = "Examples are left out: with them this page would be larger than 5 MB."
_FOOTER = "The same figures for scripts: alpaca stats --json."
_CREDIT = " Moving figures: plotly.js, © Plotly, Inc., MIT license."


def render(report: Report) -> str:
    """The whole page; at most LIMIT bytes, however large the set is.

    Texts and tables are cut, so that even a large report is far below; where all of that is at
    its longest at once, the page goes without examples and says so.
    """
    library = load_library()
    notes = [_STILL] if library is None else []
    page = _page(report, library, notes)
    if len(page.encode()) > LIMIT:
        page = _page(_without_samples(report), library, [*notes, _SHORT])
    return page


def _page(report: Report, library: Library | None, notes: Sequence[str]) -> str:
    sections = _sections(report, notes)
    title = cut(report.source)
    contents = [tag("li", tag("a", part.title, href=f"#{part.id}")) for part in sections]
    body = [
        tag("a", "Skip to the figures", href="#main", class_="skip"),
        tag(
            "header",
            tag("p", "alpaca stats"),
            tag("h1", "Data report"),
            tag("p", tag("bdi", title), class_="source"),
        ),
        tag("nav", tag("ul", *contents), aria_label="Contents"),
        tag("main", _cards(report), *(part.html() for part in sections), id="main"),
        tag("footer", tag("p", _FOOTER, "" if library is None else _CREDIT)),
        *_scripts(library),
    ]
    page = tag("html", _head(title, library), tag("body", *body), lang="en")
    return f"<!doctype html>\n{page}\n"


def _head(title: str, library: Library | None) -> Html:
    policy = _POLICY
    if library is not None:
        policy += f"; script-src {allowed(_SCRIPT)} {library.allowed}"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"Data report: {title}"),
        tag("style", Html(_STYLE)),
    )


def _scripts(library: Library | None) -> list[Html]:
    if library is None:
        return []
    packed = tag("script", Html(library.packed), type="text/plain", id="plotly")
    return [packed, tag("script", Html(_SCRIPT))]


def _sections(report: Report, more_notes: Sequence[str]) -> list[Section]:
    """What the report has, the verdict first."""
    known, total = report.provenance, report.examples
    found: list[Section] = []
    if report.check is not None:
        found.append(report_tables.gates(report.check))
    if report.against is not None:
        found.append(report_tables.comparison(report.against))
    if known is not None and known.funnel is not None:
        found.append(report_sections.funnel(known.funnel))
    found += [
        report_sections.lengths(report.lengths, report.tokens),
        report_sections.openings(report.openings),
        report_sections.task_types(report.task_types, total),
        report_sections.languages(report.languages, total),
        report_sections.similarity(report.neighbours, report.seeds),
        report_tables.duplicates(report.duplicates),
        report_tables.diversity(report.diversity),
        report_tables.lint(report.lint, report.findings),
    ]
    if report.contamination is not None:
        found.append(report_tables.contamination(report.contamination))
    for place, (kind, groups) in enumerate(list(report.groups.items())[:GROUPS]):
        title = f"By {clean(kind, ID)}"
        found.append(report_sections.group_section(f"group-{place}", title, groups, total))
    if known is not None:
        found.append(report_tables.provenance(known))
    if notes := [*more_notes, *report.notes]:
        found.append(report_tables.notes(notes))
    return found


def _without_samples(value: Any) -> Any:
    """A record of the report, at any depth, with no examples behind its figures."""
    if is_dataclass(value) and not isinstance(value, type):
        parts = {part.name: _without_samples(getattr(value, part.name)) for part in fields(value)}
        return replace(value, **parts)
    if isinstance(value, dict):
        return {name: _without_samples(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_without_samples(part) for part in value if not isinstance(part, Sample)]
    return value


def _cards(report: Report) -> Html:
    """The figures to know first."""
    outputs = report.lengths.get("output")
    repeats, near = report.duplicates.get("rows"), report.neighbours
    cards = [
        ("Examples", f"{report.examples:,}", ""),
        ("With input", percent(report.with_input_share), f"{report.with_input:,} examples"),
        ("Median output", NONE if outputs is None else number(outputs.words.median), "words"),
        ("Duplicates", NONE if repeats is None else f"{repeats.count:,}", "exact rows"),
        ("Near-duplicates", percent(near.above_share), f"ROUGE-L > {near.threshold:g}"),
        ("Findings", percent(report.findings.rows_share), f"{report.findings.rows:,} examples"),
    ]
    if report.check is not None:
        failed = sum(not gate.passed for gate in report.check.gates)
        verdict = "passed" if report.check.passed else "failed"
        cards.insert(0, ("Gates", verdict, f"{failed:,} of {len(report.check.gates):,} fail"))
    parts = [
        tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", text)), class_="card")
        for name, value, text in cards
    ]
    return tag("dl", *parts, class_="cards")
