"""The page of an evaluation: whole, self-contained, and harmless whatever models have written."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

from alpaca_cli.data import eval_html
from alpaca_cli.data.eval_html import render

HOSTILE = "</pre><script>alert(1)</script>\x1b[31m\x00 <img src=x onerror=alert(2)> ＜ \u202e"
VOID = {"meta", "line", "circle"}


class Page(HTMLParser):
    """Every element must be closed in order; collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def figures(**changes: Any) -> dict[str, Any]:
    part = {"n": 4, "exact_match": 0.5, "exact_match_interval": [0.2, 0.8], "rouge_l": 0.6,
            "rouge_l_interval": [0.4, 0.7]}  # fmt: skip
    return {**part, "cut": 1, "too_long": 0, "by_family": {HOSTILE: part}} | changes


def report(**changes: Any) -> dict[str, Any]:
    apart = {"n": 4, "exact_match": -0.25, "exact_match_interval": [-0.6, 0.1], "rouge_l": 0.1,
             "rouge_l_interval": [0.01, 0.2]}  # fmt: skip
    judged = {
        "win_rate": 0.5, "interval": [0.4, 0.6], "length_controlled": None, "pending": 2,
        "length_controlled_interval": None, "length_controlled_note": "too few", "wins": 1,
        "losses": 1, "ties": 0, "no_verdict": 1, "agreement": 1.0, "position_bias": 0.9,
        "position_bias_interval": [0.8, 1.0], "position_note": "This judge prefers the first.",
        "by_family": {HOSTILE: {"n": 2, "win_rate": 0.5}},
    }  # fmt: skip
    against = {HOSTILE: figures(missing=1, difference=apart)}
    return figures(
        model="mine", data=HOSTILE, against=against, pairwise={HOSTILE: judged}, lm_eval={},
        judge={"model": HOSTILE, "cost": 0.5, "pending": 2},
    ) | changes  # fmt: skip


def row(**changes: Any) -> dict[str, Any]:
    answer = {"text": HOSTILE, "finish_reason": "length", "exact": 0, "rouge_l": 0.25}
    verdict = {"result": "tie", "shown_first": "a", "shown_second": None, "reasons": [HOSTILE, ""]}
    return {
        "instruction": HOSTILE, "input": HOSTILE, "references": [HOSTILE], "family": HOSTILE,
        "answers": {"mine": answer}, "verdicts": {HOSTILE: verdict},
    } | changes  # fmt: skip


def test_whatever_models_write_is_text() -> None:
    html = render(report(), [row(), row()])
    page = Page(html)
    assert not {"script", "img", "link", "iframe"} & set(page.tags)
    assert not {name for name in page.names if name.startswith("on")}
    assert not {"src", "href"} & page.names
    assert "\x1b" not in html
    assert "\x00" not in html
    assert page.text.count("<script>alert(1)</script>") > 10
    assert page.text.count("no answer") == 2, "the opponent has none"
    assert "50.0 %" in page.text
    assert "-25.0 points" in page.text
    assert "This judge prefers the first." in page.text
    assert "2 verdicts are still to be asked for" in page.text
    assert "No rate at equal length: too few." in page.text


def test_pages_without_references_a_judge_or_families() -> None:
    nothing = figures(exact_match=None, exact_match_interval=None, rouge_l=None, by_family={})
    page = Page(render(
        report(**nothing, against={}, pairwise={}, judge=None,
               lm_eval={"arc": {"results": {"acc,none": 0.25, "alias": "arc"}}}),
        [row(verdicts={}, references=[], family="", input="")],
    ))  # fmt: skip
    assert "The questions have no references" in page.text
    assert "Judged in pairs" not in page.text
    assert "By category" not in page.text
    assert "arc: acc,none" in page.text


def test_long_evaluations_and_many_categories_stay_readable() -> None:
    many = {f"family {at}": figures()["by_family"][HOSTILE] for at in range(40)}
    rows = [row()] * (eval_html.QUESTIONS + 3)
    page = Page(render(report(by_family=many), rows))
    assert page.tags.count("details") == eval_html.QUESTIONS + 1
    assert "3 more questions are in comparison.jsonl." in page.text
