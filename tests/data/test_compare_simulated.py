"""Comparison on draws: how often two samples of one source seem to differ, and whether a planted
change is found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Group, LintRule, Report
from alpaca_cli.data.compare import PAIR_RULES, compare, difference_interval
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import lint
from tests.data.test_compare import REPORT, by_figure, distribution


class Drawn:
    """Rows whose flags and lengths are known, from which a report of any part can be made."""

    def __init__(self, examples: list[Example]) -> None:
        self.flags: dict[str, np.ndarray] = {}
        for found in lint(examples):
            if found.rule not in PAIR_RULES:
                self.flags.setdefault(found.rule, np.zeros(len(examples), bool))[found.row - 1] = (
                    True
                )
        firsts = [example.instruction.split()[0].lower() for example in examples]
        self.words = {
            word: np.array([first == word for first in firsts])
            for word, _ in Counter(firsts).most_common(20)
        }
        self.inputs = np.array([bool(example.input.strip()) for example in examples])
        self.lengths = {
            name: np.array([len(getattr(example, name).split()) for example in examples])
            for name in ("instruction", "output")
        }

    def report(self, rows: np.ndarray) -> Report:
        total = len(rows)

        def group(flags: np.ndarray) -> Group:
            count = int(flags[rows].sum())
            return Group(count, round(count / total, 6), [])

        fields = {}
        for name, lengths in self.lengths.items():
            part = lengths[rows]
            found = distribution(float(part.mean()), float(part.std(ddof=1)), total)
            fields[name] = replace(REPORT.lengths[name], words=found, characters=found, tokens=None)
        rules = {
            rule: LintRule("warning", "", (hits := group(flags)).count, hits.share, [])
            for rule, flags in self.flags.items()
        }
        none = Group(0, 0.0, [])
        words = {word: group(flags) for word, flags in self.words.items()}
        return replace(
            REPORT,
            examples=total,
            with_input=int(self.inputs[rows].sum()),
            lengths=fields,
            tokens=None,
            languages=replace(REPORT.languages, instruction={}, output={}, differs=none),
            openings=replace(REPORT.openings, total=total, recognised=total, first_words=words),
            task_types={},
            groups={},
            seeds=None,
            contamination=None,
            lint=rules,
        )


FILES = ["alpaca_en_demo.json", "alpaca_zh_demo.json", "code_alpaca_2k.json"]


@pytest.fixture(scope="module", params=FILES)
def drawn(request: pytest.FixtureRequest, real_data: Path) -> Drawn:
    return Drawn(read_examples([real_data / request.param]))


@pytest.mark.parametrize("size", [None, 100, 40])
def test_parts_of_one_source_rarely_seem_to_differ(drawn: Drawn, size: int | None) -> None:
    """Family-wise: of 200 comparisons at most about one in twenty shows anything as moved.

    Halves, and a small part against the rest. In words between spaces, Chinese texts have lengths
    with an extreme tail, which a small part mostly misses.
    """
    random = np.random.default_rng(7)
    alarms = 0
    for _ in range(200):
        rows = random.permutation(len(drawn.inputs))
        cut = len(rows) // 2 if size is None else size
        found = compare(drawn.report(rows[:cut]), drawn.report(rows[cut:]))
        assert sum(change.p is not None for change in found.changes) > 15
        alarms += any(change.moved for change in found.changes)
    # With a rate of exactly 5 %, 95 of 100 such series have at most 15.
    assert alarms <= 15


def test_a_change_of_some_size_is_found(drawn: Drawn) -> None:
    """One half loses three in four of its rows with an input."""
    random = np.random.default_rng(9)
    found = 0
    for _ in range(50):
        rows = random.permutation(len(drawn.inputs))
        half = len(rows) // 2
        first, second = rows[:half], rows[half:]
        thinned = second[~(drawn.inputs[second] & (random.random(len(second)) < 0.75))]
        changes = by_figure(compare(drawn.report(thinned), drawn.report(first)))
        found += changes["with_input_share"].moved
    assert found >= 45


def test_intervals_cover_the_truth() -> None:
    random = np.random.default_rng(10)
    for first, second in ((0.02, 0.05), (0.3, 0.35), (0.0, 0.01)):
        draws = random.binomial([300, 500], [first, second], (2000, 2))
        covered = 0
        for before, after in draws.tolist():
            low, high = difference_interval((before, 300), (after, 500))
            covered += low <= second - first <= high
        assert 0.93 <= covered / 2000 <= 1
