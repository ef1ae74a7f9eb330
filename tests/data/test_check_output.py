"""The verdict on CI pages: read back by parsers that are not ours."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from importlib.util import find_spec
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from alpaca_cli.core.stats_report import Check, GateResult, Sample
from alpaca_cli.data.check_output import bounds, junit, markdown, number
from tests.data.reports import make_report, synthetic_rows

REPORT = make_report(synthetic_rows(50), verdict=False)
NASTY = [
    "a | b",
    "`code` ``` fence",
    "<script>alert(1)</script></details>",
    "[link](http://example.com) ![image](x)",
    "www.example.com http://example.com @someone #12 a@b.cc",
    "\x00\x1b[31mred\x07 \x0b\ufffe",
    "\\| \\\\| \\`",
    "*stars* _lines_ ~~gone~~ $x^2$",
    "1. one",
    "- list",
    "&amp; &#124; &lt;",
    "]]> <!-- x -->",
    "中文 العربية 🦙",
]


def result(**changes: Any) -> GateResult:
    gate = GateResult(
        figure="lint.refusal.share",
        value=0.021,
        minimum=None,
        maximum=0.01,
        passed=False,
        why="of no use",
        rows=[Sample(7, "g-7", "Who won?", "I cannot say")],
    )
    return replace(gate, **changes)


def verdict(*gates: GateResult) -> Check:
    return Check("gates.yaml", all(gate.passed for gate in gates), list(gates))


PASSED = result(figure="examples", value=50.0, minimum=10, maximum=None, passed=True, rows=[])
SKIPPED = result(value=None, passed=True, why="not measured: no tokenizer", rows=[])
UNKNOWN = result(value=None, passed=False, why="not measured: no tokenizer", rows=[])


class Cells(HTMLParser):
    """The text of every cell of the tables of a page, and all its tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.cells[-1] += data


def page_of(text: str) -> str:
    """HTML, as a renderer of GitHub's Markdown makes it.

    Bare addresses become links where linkify-it-py is installed, which comes with textual.
    """
    if find_spec("linkify_it") is not None:
        renderer = MarkdownIt("gfm-like")
    else:
        renderer = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    return str(renderer.render(text))


def rendered(text: str) -> Cells:
    """The cells of the tables of that page."""
    return Cells(page_of(text))


def test_bounds_read_as_people_write_them() -> None:
    assert bounds(result()) == "<= 0.01"
    assert bounds(PASSED) == ">= 10"
    assert bounds(result(minimum=0.2, maximum=0.8)) == "0.2 to 0.8"
    assert bounds(result(minimum=0, maximum=0)) == "== 0"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.0, "12,345"), (0.5, "0.5"), (0.000004, "4e-06"), (1234.56, "1,234.6"), (0, "0")],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number(value) == text


def test_junit_has_a_case_for_each_gate() -> None:
    root = ElementTree.fromstring(junit(verdict(result(), PASSED, SKIPPED, UNKNOWN), REPORT))
    suite = root.find("testsuite")
    assert root.tag == "testsuites"
    assert suite is not None
    assert suite.get("name") == "alpaca.stats"
    for element in (root, suite):
        counted = [element.get(name) for name in ("tests", "failures", "errors", "skipped")]
        assert counted == ["4", "2", "0", "1"]
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == [
        "lint.refusal.share <= 0.01",
        "examples >= 10",
        "lint.refusal.share <= 0.01",
        "lint.refusal.share <= 0.01",
    ]
    assert {case.get("classname") for case in cases} == {"alpaca.stats"}
    assert [[child.tag for child in case] for case in cases] == [
        ["failure"],
        [],
        ["skipped"],
        ["failure"],
    ]


def test_a_failure_names_value_bound_reason_and_rows() -> None:
    root = ElementTree.fromstring(junit(verdict(result()), REPORT))
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("message") == "0.021, allowed is <= 0.01: of no use"
    assert failure.text is not None
    assert "row 7 g-7: Who won? (I cannot say)" in failure.text
    unknown = ElementTree.fromstring(junit(verdict(UNKNOWN), REPORT)).find(".//failure")
    assert unknown is not None
    assert str(unknown.get("message")).startswith("not measured, allowed is <= 0.01: not measured")


@given(st.text())
def test_junit_is_xml_whatever_the_data_holds(text: str) -> None:
    gate = result(figure=text, why=text, rows=[Sample(1, text, text, text)])
    page = junit(verdict(gate), replace(REPORT, source=text))
    root = ElementTree.fromstring(page.encode())
    assert root.find(".//failure") is not None


@pytest.mark.parametrize("text", NASTY)
def test_junit_keeps_the_text(text: str) -> None:
    failure = ElementTree.fromstring(
        junit(verdict(result(rows=[Sample(1, None, text)])), REPORT)
    ).find(".//failure")
    assert failure is not None
    kept = "".join(sign for sign in text if sign >= " " and sign != "\ufffe")
    assert kept in str(failure.text)


def test_markdown_tells_the_failed_gates_first() -> None:
    text = markdown(verdict(PASSED, SKIPPED, result()), REPORT)
    assert text.startswith("## ❌ 1 of 3 gates failed\n")
    heads = ["", "figure", "value", "allowed", "why"]
    assert rendered(text).cells == [
        *heads,
        *("❌", "lint.refusal.share", "0.021", "<= 0.01", "of no use"),
        *("row", "id", "text", "note"),
        *("7", "g-7", "Who won?", "I cannot say"),
        *heads,
        *("✅", "examples", "50", ">= 10", "of no use"),
        *("➖", "lint.refusal.share", "–", "<= 0.01", "not measured: no tokenizer"),
    ]
    assert text.count("<details>") == text.count("</details>") == 2
    assert "<summary>passed: 1, not measured: 1</summary>" in text


def test_markdown_of_a_passed_check() -> None:
    text = markdown(verdict(PASSED), REPORT)
    assert text.startswith("## ✅ 1 gate passed\n")
    assert rendered(text).cells[5:] == ["✅", "examples", "50", ">= 10", "of no use"]


@pytest.mark.parametrize("text", NASTY)
def test_markdown_shows_the_data_as_it_is(text: str) -> None:
    gate = result(figure=f"groups.category.{text}", why=text, rows=[Sample(1, text, text, text)])
    page = rendered(markdown(verdict(gate), replace(REPORT, source=text)))
    shown = " ".join("".join(sign for sign in text if sign >= " " and sign != "\x7f").split())
    assert page.cells[6] == f"groups.category.{shown}"
    assert page.cells[9] == shown
    assert page.cells[-3:] == [shown] * 3
    assert page.tags <= {
        "h2", "p", "table", "thead", "tbody", "tr", "td", "th", "code", "details", "summary"
    }  # fmt: skip


def test_marks_that_turn_the_direction_are_left_out() -> None:
    gate = result(rows=[Sample(1, None, "abc \u202e cba\u2066")])
    text = markdown(verdict(gate), REPORT)
    assert "\u202e" not in text
    assert "\u2066" not in text
