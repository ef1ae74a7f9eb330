"""Intervals against closed forms, and how often they hold what they are to hold."""

from __future__ import annotations

import math
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.intervals import mean_interval, sign_test, wilson_interval

Z = 1.959963984540054


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_solves_his_equation(case: tuple[int, int]) -> None:
    hits, n = case
    for end in wilson_interval(hits, n):
        # Its ends are the shares p for which |hits/n - p| is z standard errors of p.
        error = (hits / n - end) ** 2 - Z**2 * end * (1 - end) / n
        assert abs(error) < 1e-9
    low, high = wilson_interval(hits, n)
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1


def test_wilsons_interval_of_the_published_comparison() -> None:
    low, high = wilson_interval(90, 179)  # Alpaca 7B won 90 of 179 against text-davinci-003
    assert (round(low, 4), round(high, 4)) == (0.4303, 0.5752)


@pytest.mark.parametrize(("hits", "n"), [(500, 1000), (640, 800), (250, 1000)])
def test_the_bootstrap_of_a_share_is_its_closed_form(hits: int, n: int) -> None:
    """A resampled mean of 0/1 is a binomial share: normal, or Wilson's, at this size."""
    low, high = mean_interval([1] * hits + [0] * (n - hits), 4000, seed=1)
    share = hits / n
    error = math.sqrt(share * (1 - share) / n)
    assert [low, high] == pytest.approx([share - Z * error, share + Z * error], abs=error / 5)
    assert [low, high] == pytest.approx(wilson_interval(hits, n), abs=error / 5)


def test_the_bootstrap_covers_a_known_mean_as_often_as_it_says() -> None:
    draw = random.Random(5)
    runs, n, mean = 600, 60, 0.3
    hits = widths = 0.0
    for seed in range(runs):
        low, high = mean_interval([draw.gauss(mean, 1) for _ in range(n)], 500, seed)
        hits += low <= mean <= high
        widths += high - low
    # 95 % of 600, less the known narrowness of n = 60, give or take three standard errors.
    assert 0.91 <= hits / runs <= 0.97
    assert widths / runs == pytest.approx(2 * Z / math.sqrt(n), rel=0.06)


def test_confidence_and_seed() -> None:
    draw = random.Random(3)
    values = [draw.random() for _ in range(40)]
    usual = mean_interval(values, 1000, seed=7)
    assert usual == mean_interval(values, 1000, seed=7)
    assert usual != mean_interval(values, 1000, seed=8)
    wide, narrow = (mean_interval(values, 1000, 7, confidence) for confidence in (0.99, 0.5))
    assert wide[0] < usual[0] < narrow[0] < narrow[1] < usual[1] < wide[1]
    assert mean_interval([0.25], 100, 1) == (0.25, 0.25)


def test_many_values_are_drawn_in_parts() -> None:
    values = [0.0, 1.0] * 50_000  # one resample of these is more than a part's tenth
    low, high = mean_interval(values, 200, seed=1)
    half = Z * 0.5 / math.sqrt(len(values))
    assert [low, high] == pytest.approx([0.5 - half, 0.5 + half], abs=half / 4)


def test_the_sign_test_counts_tails() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 5) == 1
    assert sign_test(5, 0) == sign_test(0, 5) == 2 / 32
    assert sign_test(8, 2) == pytest.approx(2 * (45 + 10 + 1) / 1024)
    assert sign_test(2000, 1700) == pytest.approx(8.5e-7, rel=0.05)
    assert sign_test(20_000, 19_990) == pytest.approx(0.9641, abs=1e-4)


def test_a_share_needs_no_numpy() -> None:
    script = (
        "import sys\nfrom alpaca_cli.core.intervals import wilson_interval\n"
        "wilson_interval(1, 2)\nassert 'numpy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
