"""How sure a share or a mean is: Wilson's interval, the percentile bootstrap, the sign test.

Figures in, figures out; what was measured is not known here. numpy is imported by the bootstrap
alone, so that a share has its interval in a chat that loads nothing heavy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

CONFIDENCE = 0.95
_CHUNK = 1 << 22  # values drawn at once: 32 MiB of indices


def wilson_interval(hits: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval for a share of `hits` in `n` > 0, which need not be whole numbers.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = hits / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # The ends are exactly 0 and 1 there, which rounding misses.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    return low, 1.0 if hits == n else min(1.0, middle + half)


def mean_interval(
    values: Sequence[float], resamples: int, seed: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile bootstrap interval for the mean of at least one value.

    Each resample draws as many values as there are, with replacement; the interval goes from one
    tail quantile of their means to the other. Equal arguments, equal interval. It says nothing
    about what few values have not shown: with less than about 20 it is too narrow, and with one,
    or equal ones, it is a point.

    Source: B. Efron, R. J. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np

    data = np.asarray(values, dtype=np.float64)
    draw = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(data))
    means = np.concatenate([
        data[draw.integers(len(data), size=(min(rows, resamples - start), len(data)))].mean(axis=1)
        for start in range(0, resamples, rows)
    ])  # fmt: skip
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def sign_test(positive: int, negative: int) -> float:
    """Two-sided p-value of so many signs when both are equally likely; 1.0 without any.

    Exact, from the binomial distribution; on pairs that differ it is McNemar's test.
    """
    n, extreme = positive + negative, max(positive, negative)
    tail, ways = 0, math.comb(n, extreme)
    for hits in range(extreme, n + 1):
        tail += ways
        ways = ways * (n - hits) // (hits + 1)  # comb(n, hits + 1), far cheaper than anew
    return min(1.0, float(2 * tail / 2**n)) if n else 1.0
