"""Small measurements of a set of examples: lengths, histograms, similarity, counts.

Plain functions from lists of numbers and examples to plain values that are JSON as they stand.
Words are those of `tokenize(…, "unicode")`: words of any script, and letters where a script has
no spaces, so that Chinese and English data can both be read from the same table.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from alpaca_cli.core.records import Example
from alpaca_cli.data.rouge import tokenize

FIELDS = ("instruction", "input", "output")
_SHARES = (("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95))


def words(text: str) -> int:
    """How many words a text has, in any script."""
    return len(tokenize(text, "unicode"))


def word_lengths(examples: Sequence[Example]) -> dict[str, list[int]]:
    """Words per example of each field; inputs that are empty are left out of `input`."""
    lengths: dict[str, list[int]] = {name: [] for name in FIELDS}
    for example in examples:
        lengths["instruction"].append(words(example.instruction))
        if example.input.strip():
            lengths["input"].append(words(example.input))
        lengths["output"].append(words(example.output))
    return lengths


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Mean, extremes and quantiles (nearest rank: each is a value that occurs)."""
    if not values:
        return {}
    ordered = sorted(values)
    found = {"mean": round(sum(ordered) / len(ordered), 3), "min": ordered[0]}
    for name, share in _SHARES:
        found[name] = ordered[math.ceil(share * len(ordered)) - 1]
    return found | {"max": ordered[-1]}


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[dict[str, float]]:
    """Counts between neighbouring edges; the last bin holds its upper edge, too.

    Values outside the edges are counted in the first or last bin, which says so by holding the
    true smallest or largest value as its edge.
    """
    if not values:
        return []
    counts = [0] * (len(edges) - 1)
    for value in values:
        position = sum(edge <= value for edge in edges[1:-1])
        counts[position] += 1
    bins = [
        {"from": low, "to": high, "count": count}
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    bins[0]["from"] = min(edges[0], min(values))
    bins[-1]["to"] = max(edges[-1], max(values))
    return bins


def length_edges(values: Sequence[int], bins: int = 24) -> list[float]:
    """Round edges of equal width that hold 98 in 100 of the values; the rest is in the last."""
    ordered = sorted(values)
    top = ordered[math.ceil(0.98 * len(ordered)) - 1] + 1 if ordered else 1
    width = _round_up(top / bins)
    return [width * number for number in range(math.ceil(top / width) + 1)]


def _round_up(width: float) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …"""
    power = 1
    while True:
        for step in (1, 2, 5):
            if step * power >= width:
                return step * power
        power *= 10


def repeated(examples: Sequence[Example]) -> dict[str, int]:
    """Rows that repeat an earlier one exactly: in all three fields, and in the instruction."""
    whole = {(example.instruction, example.input, example.output) for example in examples}
    instructions = {example.instruction for example in examples}
    outputs = {example.output for example in examples}
    return {
        "rows": len(examples) - len(whole),
        "instructions": len(examples) - len(instructions),
        "outputs": len(examples) - len(outputs),
    }


def groups(examples: Sequence[Example]) -> dict[str, dict[str, int]]:
    """Counts by category and by family, for the examples that say so; largest first.

    A category stands in `meta` or beside it; the self-instruct seeds have
    `is_classification` instead.
    """
    counts: dict[str, Counter[str]] = {}
    for example in examples:
        known: dict[str, Any] = {**example.extra, **example.meta}
        if "category" not in known and isinstance(known.get("is_classification"), bool):
            known["category"] = (
                "classification" if known["is_classification"] else "not classification"
            )
        for name in ("category", "family"):
            value = known.get(name)
            if isinstance(value, str) and value:
                counts.setdefault(name, Counter())[value] += 1
    return {name: dict(counter.most_common()) for name, counter in counts.items()}
