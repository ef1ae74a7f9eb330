"""The report page as a file: its size, its form, and what it lets nobody do."""

from __future__ import annotations

import base64
import gzip
import re
import subprocess
import sys
from collections import Counter
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.stats_report import (
    Bin,
    Change,
    Comparison,
    Funnel,
    Group,
    LintRule,
    Pair,
    Report,
    Sample,
    Verb,
)
from alpaca_cli.data.report_html import render
from alpaca_cli.data.report_plotly import allowed
from alpaca_cli.data.report_shapes import at_least, histogram, slices, steps
from alpaca_cli.data.report_tags import (
    clean,
    dollars,
    number,
    percent,
    probability,
    script_json,
    signed,
    tag,
)
from tests import processes
from tests.data.reports import attacked, empty_report, make_report

VOID = {"meta", "br"}
LIMIT = 5_000_000  # bytes


class Page(HTMLParser):
    """A page taken apart; AssertionError where an element is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str | None, str]] = []
        self.styles: list[str] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["script"]:
            self.scripts.append((self.elements[-1][1].get("type"), data))
        elif self._open[-1:] == ["style"]:
            self.styles.append(data)
        else:
            self.words.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="module")
def html(report: Report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_one_file_that_asks_for_nothing_else(html: str, page: Page) -> None:
    assert len(html.encode()) <= LIMIT
    for name, attributes in page.elements:
        for key in ("src", "srcset", "href", "action", "data", "poster", "background"):
            link = attributes.get(key)
            assert link is None or link.startswith("#"), f"<{name} {key}={link}>"
    assert not [name for name, _ in page.elements if name in {"link", "base", "iframe", "object"}]
    assert not re.search(r"@import|url\(", "".join(page.styles))


def test_the_policy_names_the_two_scripts_and_nothing_else(page: Page) -> None:
    (policy,) = [
        attributes["content"]
        for attributes in page.named("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    (ours,) = [text for kind, text in page.scripts if kind is None]
    (packed,) = [text for kind, text in page.scripts if kind == "text/plain"]
    plotly = gzip.decompress(base64.b64decode(packed)).decode()
    assert policy is not None
    assert policy.split("; ") == [
        "default-src 'none'",
        "style-src 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        f"script-src {allowed(ours)} {allowed(plotly)}",
    ]
    # The value of an empty text, known from elsewhere: it is SHA-256 in base64.
    assert allowed("") == "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"


def numbers_of(value: Any) -> list[int]:
    """Every whole number of a report, at any depth."""
    if is_dataclass(value) and not isinstance(value, type):
        return [n for field in fields(value) for n in numbers_of(getattr(value, field.name))]
    if isinstance(value, dict):
        return [n for item in value.values() for n in numbers_of(item)]
    if isinstance(value, list):
        return [n for item in value for n in numbers_of(item)]
    return [value] if isinstance(value, int) and not isinstance(value, bool) else []


def test_every_count_of_the_report_is_on_the_page(report: Report, page: Page) -> None:
    assert report.provenance is not None
    lengths = {
        # There is a figure, with its bars, of the words only.
        field: replace(
            found, characters=replace(found.characters, histogram=[]), tokens=found.words
        )
        for field, found in report.lengths.items()
    }
    provenance = replace(report.provenance, seeds=report.provenance.seeds[:30])
    shown = replace(report, lengths=lengths, provenance=provenance)
    words = set(re.findall(r"[\d,]*\d", page.text))
    missing = {number(n) for n in numbers_of(shown)} - words
    assert not missing
    assert len(numbers_of(shown)) > 700


def test_every_share_and_quantile_is_on_the_page(report: Report, page: Page) -> None:
    groups = [*report.task_types.values(), *report.duplicates.values()]
    for group in groups:
        assert percent(group.share).replace("\u00a0", " ") in page.text or not group.count
    found = report.lengths["output"].words
    names = ("min", "p5", "p25", "median", "p75", "p95", "p99", "max")
    values = [number(getattr(found, name)) for name in names]
    row = [number(found.count), number(found.total), f"{found.mean:.1f}", f"{found.sd:.1f}"]
    assert " ".join(["Output, words", *row, *values]) in page.text
    assert "$41.27 in all" in page.text
    assert "+11.2 to +16.0" in page.text
    assert "… and 10 more." in page.text  # seeds


def test_every_example_is_on_the_page(report: Report, page: Page) -> None:
    def samples(value: Any) -> list[Sample]:
        if isinstance(value, Sample):
            return [value]
        if is_dataclass(value) and not isinstance(value, type):
            return [s for f in fields(value) for s in samples(getattr(value, f.name))]
        items = value.values() if isinstance(value, dict) else value
        return [s for i in items for s in samples(i)] if isinstance(value, (dict, list)) else []

    found = samples(report)
    assert len(found) > 150
    for one in found:
        assert clean(one.text) in page.text
        assert clean(one.note) in page.text


def test_headings_links_and_labels_hang_together(page: Page) -> None:
    levels = [int(name[1]) for name, _ in page.elements if re.fullmatch(r"h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert max(ids.values()) == 1
    links = [attributes["href"] for attributes in page.named("a")]
    assert links[0] == "#main"
    targets = {str(link)[1:] for link in links}
    targets |= {str(a["aria-labelledby"]) for _, a in page.elements if "aria-labelledby" in a}
    assert targets <= ids.keys()
    assert len(page.named("section")) == len(page.named("nav") and links) - 1
    for name, attributes in page.elements:
        assert attributes.get("role") != "img" or attributes.get("aria-label"), name
    tables = page.named("table")
    assert len(page.named("caption")) == len(tables)
    assert all("scope" in attributes for attributes in page.named("th"))
    assert page.named("html") == [{"lang": "en"}]


def test_figures_are_there_without_a_script(html: str, report: Report) -> None:
    drawn = html.split("<figure>")[1:]
    assert len(drawn) >= 10
    for part in drawn:
        before, _, after = part.partition('<script type="application/json"')
        assert "<rect" in before or "<path" in before
        assert after
    for verb in report.openings.verbs:
        assert f">{verb.verb}</text>" in html
    assert ">max_length 256</text>" in html


def test_texts_of_the_data_stay_texts(report: Report, page: Page) -> None:
    text = render(attacked(report))
    hostile = Page(text)  # it is well-formed, too
    names = Counter(name for name, _ in page.elements)
    seen = Counter(name for name, _ in hostile.elements)
    # Fewer of some, where a name was known; never an element that was not there before.
    assert seen.keys() <= names.keys()
    assert seen["script"] == names["script"]
    assert not [a for _, a in hostile.elements for key in a if key.startswith("on")]
    assert not [a for _, a in hostile.elements if "autofocus" in a]
    assert "<script>alert(1)</script>" in hostile.text
    assert not re.search("[\x00-\x08\x0b-\x1f\u2028\u2029\u202e\ud800]", text.replace("\r", "\n"))
    text.encode()


def test_a_script_element_of_data_cannot_be_ended() -> None:
    data = script_json(["</script><!--", "\u2028&"], class_="x")
    assert data == (
        '<script type="application/json" class="x">'
        '["\\u003c/script\\u003e\\u003c!--","\\u2028\\u0026"]</script>'
    )


def test_a_tag_escapes_texts_and_attributes_but_not_tags() -> None:
    inner = tag("b", "<&>")
    assert tag("p", "a<b", inner, title='"<', hidden=True, id=None) == (
        '<p title="&quot;&lt;" hidden>a&lt;b<b>&lt;&amp;&gt;</b></p>'
    )


def large(report: Report) -> Report:
    """As much of everything as a set can bring, each text as long as can be."""
    long = "<é>&" * 200
    rows = [Sample(52_000, long, long, long)] * 5
    group = Group(52_000, 0.5, rows)
    many = {f"{at}{long}": group for at in range(300)}
    verbs = [Verb(long, 300 - at, [Pair(long, 9)] * 30, rows) for at in range(300)]
    funnel = Funnel(9_000_000, dict.fromkeys(many, 50), 52_000, dict.fromkeys(many, 5), 50_000)
    rule = LintRule("error", long, 52_000, 1.0, rows)
    assert report.provenance is not None
    producers = [
        replace(one, name=long, rejected=funnel.rejected) for one in report.provenance.seeds
    ] * 3
    return replace(
        report,
        source=long,
        openings=replace(report.openings, verbs=verbs, first_words=many),
        task_types=many,
        languages=replace(report.languages, instruction=many, output=many, differs=group),
        lint={f"rule-{at}": rule for at in range(100)},
        groups={f"{at}{long}": many for at in range(5)},
        provenance=replace(
            report.provenance,
            funnel=funnel,
            seeds=producers,
            teachers=producers,
            positions=producers,
        ),
        against=Comparison(long, 9, [Change(long, 1, 2, 1, 0.5, 1.5, 0.01, True)] * 300),
        notes=[long] * 1000,
    )


def test_at_most_5_mb_however_large_the_set_is(report: Report) -> None:
    html = render(large(report))
    assert 2_500_000 < len(html.encode()) <= LIMIT
    assert "Examples are left out" in html
    assert "… and 260 more." in html


def test_equal_reports_are_equal_files(report: Report, html: str) -> None:
    assert render(report) == html


def test_a_set_without_examples() -> None:
    page = Page(render(empty_report()))
    assert "Examples 0" in page.text
    assert "Nothing was measured." in page.text


def test_without_plotly_the_page_is_whole_and_says_so(page: Page, tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['plotly'] = None\n"
        "from alpaca_cli.data.report_html import render\n"
        "from tests.data.reports import make_report\n"
        "open(sys.argv[1], 'w', encoding='utf-8').write(render(make_report()))\n"
    )
    file = tmp_path / "report.html"
    root = Path(__file__).parents[2]
    subprocess.run(
        [sys.executable, "-c", program, file], cwd=root, env=processes.environment(), check=True
    )
    still = Page(file.read_text("utf-8"))
    assert {kind for kind, _ in still.scripts} == {"application/json"}
    assert "plotly, of the extra [report], was not installed" in still.text
    assert "script-src" not in file.read_text("utf-8")
    assert len(still.named("svg")) == len(page.named("svg"))
    assert file.stat().st_size < 1_000_000


# --- shapes and numbers ---------------------------------------------------------------------------


def test_outer_bars_are_as_wide_as_the_others_whatever_they_hold() -> None:
    shape = histogram([Bin(-50, 20, 1), Bin(20, 40, 5), Bin(40, 60, 3), Bin(60, 900, 2)])
    assert shape.edges == [0, 20, 40, 60, 80]
    assert shape.labels == ["−50 to 20", "20 to 40", "40 to 60", "60 to 900"]
    assert shape.place(30) == 1.5
    assert shape.place(500) is None
    assert histogram([Bin(7, 7, 3)]).edges == [7, 8]


def test_the_curve_says_how_many_are_at_least_that_similar(report: Report) -> None:
    points = dict(at_least(report.neighbours))
    scores = report.neighbours.scores
    assert scores is not None
    above = sum(found.count for found in scores.histogram if found.low >= 0.7)
    assert points[0] == 1
    assert points[0.7] == pytest.approx(above / report.examples)
    assert max(points) == 0.95


def test_steps_of_the_funnel_come_off_what_was_there() -> None:
    found = steps(Funnel(100, {"short": 10, "similar": 30}, 60, {"near": 5}, 55))
    assert [(step.count, step.start) for step in found] == [
        (100, 0), (30, 70), (10, 60), (60, 0), (5, 55), (55, 0),
    ]  # fmt: skip


def test_slices_fill_the_circle_and_each_verb() -> None:
    found = slices(
        [Verb("write", 6, [Pair("story", 2), Pair("poem", 1)], []), Verb("go", 2, [], [])]
    )
    assert [(one.name, one.start, one.end) for one in found] == [
        ("write", 0, 0.75),
        ("story", 0, 0.25),
        ("poem", 0.25, 0.375),
        ("other or none", 0.375, 0.75),
        ("go", 0.75, 1),
        ("other or none", 0.75, 1),
    ]


def test_numbers_as_people_read_them() -> None:
    assert [number(n) for n in (0, 1234, 61.3, 0.12345, 12345.6, -2, None, float("nan"))] == [
        "0", "1,234", "61.3", "0.1235", "12,346", "−2", "–", "–",
    ]  # fmt: skip
    shares = [percent(n).replace("\u00a0", " ") for n in (0, 0.0001, 0.123, 0.99999, 1)]
    assert shares == ["0.0 %", "< 0.1 %", "12.3 %", "> 99.9 %", "100.0 %"]
    assert [dollars(n) for n in (0, 1234.5, 0.00123, 0.0000072, None)] == [
        "$0.00", "$1,234.50", "$0.0012", "$0.0000072", "–",
    ]  # fmt: skip
    assert signed(0.0082, -0.0101) == ["+0.0082", "−0.0101"]
    assert signed(13.6, 16, -1234) == ["+14", "+16", "−1,234"]
    assert [probability(p).replace("\u00a0", " ") for p in (0.0004, 0.31, None)] == [
        "< 0.001", "0.310", "–",
    ]  # fmt: skip
