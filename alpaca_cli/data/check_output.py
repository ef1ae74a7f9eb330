"""What gates said, for the pages of CI: JUnit XML, and a summary in Markdown.

JUnit XML has no standard; written is what GitHub's reporters, GitLab and Jenkins all read: a
`testsuite` of `testcase`s with `failure` and `skipped`. The Markdown is that of
`$GITHUB_STEP_SUMMARY`, where a summary may have 1 MiB; a gate shows five rows at most, so that a
file of gates of any sensible size stays far below.

Which gates there are, and whether they hold, is known to `alpaca_cli.data.gates`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from alpaca_cli.core.stats_report import Check, GateResult, Report, Sample
from alpaca_cli.data.dataset_card_markdown import code, literal, table

SUITE = "alpaca.stats"

# What a document of XML 1.0 may not hold, in no form (section 2.2).
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit(check: Check, report: Report) -> str:
    """The verdict as JUnit XML: one case per gate; a figure that was not asked for is skipped."""
    skipped = [gate for gate in check.gates if _skipped(gate)]
    counts = {
        "tests": str(len(check.gates)),
        "failures": str(sum(not gate.passed for gate in check.gates)),
        "errors": "0",
        "skipped": str(len(skipped)),
        "time": "0",
    }
    root = ElementTree.Element("testsuites", {"name": "alpaca", **counts})
    suite = ElementTree.SubElement(root, "testsuite", {"name": SUITE, **counts})
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("source", report.source), ("examples", str(report.examples))):
        ElementTree.SubElement(properties, "property", {"name": name, "value": _xml(value)})
    for gate in check.gates:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            {
                "classname": SUITE,
                "name": _xml(f"{gate.figure} {bounds(gate)}"),
                "file": _xml(check.file),
                "time": "0",
            },
        )
        if _skipped(gate):
            ElementTree.SubElement(case, "skipped", {"message": _xml(gate.why)})
        elif not gate.passed:
            message = _xml(f"{shown(gate)}: {gate.why}" if gate.why else shown(gate))
            failure = ElementTree.SubElement(case, "failure", {"message": message, "type": "gate"})
            failure.text = _xml("\n".join([message, *map(_row_line, gate.rows)]))
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text.decode() + "\n"


def markdown(check: Check, report: Report) -> str:
    """The verdict as Markdown: a headline, the failed gates with their rows, folded the others."""
    failed = [gate for gate in check.gates if not gate.passed]
    passed = [gate for gate in check.gates if gate.passed and not _skipped(gate)]
    skipped = [gate for gate in check.gates if _skipped(gate)]
    many = f"{len(check.gates)} gates" if len(check.gates) != 1 else "1 gate"
    parts = [
        f"## {f'❌ {len(failed)} of {many} failed' if failed else f'✅ {many} passed'}",
        f"{code(report.source)}: {report.examples:,} examples, by the gates of {code(check.file)}",
    ]
    if failed:
        parts.append(_gates(failed))
        parts += [
            _folded(f"{code(gate.figure)}: rows", _rows(gate)) for gate in failed if gate.rows
        ]
    if passed or skipped:
        told = f"passed: {len(passed)}" + (f", not measured: {len(skipped)}" if skipped else "")
        parts.append(_folded(told, _gates([*passed, *skipped])))
    return "\n\n".join(parts) + "\n"


def bounds(gate: GateResult) -> str:
    """What a gate allows: `<= 0.01`, `>= 5`, `== 0`, or `0.2 to 0.8`."""
    low, high = gate.minimum, gate.maximum
    if low is not None and high is not None:
        return f"== {number(low)}" if low == high else f"{number(low)} to {number(high)}"
    return f"<= {number(high)}" if high is not None else f">= {number(low)}"


def shown(gate: GateResult) -> str:
    """Value and bounds in one phrase: `0.021, allowed is <= 0.01`."""
    return f"{number(gate.value)}, allowed is {bounds(gate)}"


def number(value: float | None) -> str:
    """A figure as people read it: whole, or to six digits."""
    if value is None:
        return "not measured"
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.6g}"


def _skipped(gate: GateResult) -> bool:
    """Whether a gate passed because its figure was not measured, as it allows."""
    return gate.value is None and gate.passed


def _xml(text: str) -> str:
    return _NOT_XML.sub("", text)


def _row_line(row: Sample) -> str:
    note = f" ({row.note})" if row.note else ""
    return f"row {row.row}{f' {row.id}' if row.id else ''}: {row.text}{note}"


def _gates(gates: Sequence[GateResult]) -> str:
    cells = [
        [
            "➖" if _skipped(gate) else "✅" if gate.passed else "❌",
            code(gate.figure),
            "–" if gate.value is None else number(gate.value),
            code(bounds(gate)),
            literal(gate.why),
        ]
        for gate in gates
    ]
    return table(["", "figure", "value>", "allowed", "why"], cells)


def _rows(gate: GateResult) -> str:
    cells = [
        [str(row.row), *(code(text) if text else "" for text in (row.id, row.text, row.note))]
        for row in gate.rows
    ]
    return table(["row>", "id", "text", "note"], cells)


def _folded(summary: str, text: str) -> str:
    """What is shown on a click. Between blank lines text is Markdown again, inside HTML, too."""
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>"
