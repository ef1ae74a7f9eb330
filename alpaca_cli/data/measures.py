"""Small measurements of a set of examples: lengths, histograms, repeats, groups, neighbours.

Plain functions from examples and numbers to the records of `alpaca_cli.core.stats_report`. Words
are those of `tokenize(…, "unicode")`: words of any script, and letters where a script has no
spaces, so that Chinese and English data can both be read from the same table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import (
    SHOWN,
    Bin,
    Distribution,
    Group,
    Lengths,
    Neighbours,
    Sample,
    group,
    sample,
    share,
)
from alpaca_cli.data.grouped import grouped
from alpaca_cli.data.rouge import tokenize

FIELDS = ("instruction", "input", "output")
SCORES = tuple(number / 20 for number in range(21))
"""Edges of the bars of ROUGE-L."""
_SHARES = (("p5", 0.05), ("p25", 0.25), ("median", 0.5), ("p75", 0.75), ("p95", 0.95),
           ("p99", 0.99))  # fmt: skip

Words = Mapping[str, Sequence[Sequence[str]]]


def read_words(examples: Sequence[Example], step: Callable[[], None] = lambda: None) -> Words:
    """Field -> the words of each example.

    Equal words are one object, so that large sets fit in memory.
    """
    one: dict[str, str] = {}
    words: dict[str, list[list[str]]] = {name: [] for name in FIELDS}
    for example in examples:
        for name in FIELDS:
            found = tokenize(getattr(example, name), "unicode")
            words[name].append([one.setdefault(word, word) for word in found])
        step()
    return words


def distribution(
    values: Sequence[float], edges: Sequence[float] | None = None
) -> Distribution | None:
    """Mean, quantiles (nearest rank: each is a value that occurs) and histogram; None of nothing.

    Args:
        edges: of the histogram's bars; None for those of `length_edges`.
    """
    if not values:
        return None
    numbers = np.sort(np.asarray(values))
    quantiles = {name: numbers[math.ceil(part * len(numbers)) - 1].item() for name, part in _SHARES}
    return Distribution(
        count=len(numbers),
        total=numbers.sum().item(),
        mean=round(numbers.mean().item(), 6),
        sd=round(numbers.std(ddof=1).item(), 6) if len(numbers) > 1 else 0.0,
        min=numbers[0].item(),
        max=numbers[-1].item(),
        histogram=histogram(values, length_edges(values) if edges is None else edges),
        **quantiles,
    )


def histogram(values: Sequence[float], edges: Sequence[float]) -> list[Bin]:
    """Counts between neighbouring edges; the last bar holds its upper edge, too.

    Values outside the edges are counted in the first or last bar, which says so by having the
    true smallest or largest value as its edge.
    """
    if not values:
        return []
    places = np.searchsorted(edges[1:-1], values, side="right")
    counts = np.bincount(places, minlength=len(edges) - 1).tolist()
    outer = [min(edges[0], *values), *edges[1:-1], max(edges[-1], *values)]
    return [Bin(low, high, n) for low, high, n in zip(outer, outer[1:], counts, strict=False)]


def length_edges(values: Sequence[float], bins: int = 24) -> list[float]:
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


def lengths(
    examples: Sequence[Example], words: Words, tokens: Mapping[str, Sequence[int]] | None = None
) -> dict[str, Lengths]:
    """Field -> how long it is where it is not blank; a field that always is, is left out.

    Args:
        words: of `read_words`.
        tokens: field -> tokens of each example, when there is a tokenizer.
    """
    found = {}
    for name in FIELDS:
        texts = [getattr(example, name) for example in examples]
        rows = [row for row, text in enumerate(texts) if text.strip()]
        counts = [len(words[name][row]) for row in rows]
        in_words = distribution(counts)
        in_characters = distribution([len(texts[row]) for row in rows])
        if in_words is None or in_characters is None:
            continue
        longest = sorted(zip(counts, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))
        found[name] = Lengths(
            words=in_words,
            characters=in_characters,
            tokens=None if tokens is None else distribution([tokens[name][row] for row in rows]),
            longest=[
                sample(row + 1, examples[row].id, texts[row], f"words: {count:,}")
                for count, row in longest[:SHOWN]
            ],
        )
    return found


def repeated(examples: Sequence[Example]) -> dict[str, Group]:
    """Rows that repeat an earlier one exactly: in all three fields, in the instruction, or in the
    output; each sample names the first row."""

    def repeats(key: Callable[[Example], object]) -> Group:
        first: dict[object, int] = {}
        return group(
            len(examples),
            (
                sample(row, example.id, example.instruction, f"as row {first[key(example)]:,}")
                for row, example in enumerate(examples, 1)
                if first.setdefault(key(example), row) != row
            ),
        )

    return {
        "rows": repeats(lambda example: (example.instruction, example.input, example.output)),
        "instructions": repeats(lambda example: example.instruction),
        "outputs": repeats(lambda example: example.output),
    }


def groups(examples: Sequence[Example]) -> dict[str, dict[str, Group]]:
    """Examples by category and by family, where they say so; largest first.

    A category stands in `meta` or beside it; the self-instruct seeds have
    `is_classification` instead.
    """
    named: dict[str, list[str | None]] = {"category": [], "family": []}
    for example in examples:
        known: dict[str, Any] = {**example.extra, **example.meta}
        if "category" not in known and isinstance(known.get("is_classification"), bool):
            known["category"] = (
                "classification" if known["is_classification"] else "not classification"
            )
        for name, labels in named.items():
            value = known.get(name)
            labels.append(value if isinstance(value, str) and value else None)
    found = {name: grouped(examples, labels) for name, labels in named.items()}
    return {name: groups for name, groups in found.items() if groups}


def neighbours(
    key: str,
    threshold: float,
    scores: Sequence[float],
    samples: Callable[[int], Sample],
) -> Neighbours:
    """What ROUGE-L with the nearest neighbour says.

    Args:
        scores: F1 of each measured example.
        samples: from a position in `scores` to what is shown of it.
    """
    above = sum(score > threshold for score in scores)
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return Neighbours(
        key=key,
        measured=len(scores),
        threshold=threshold,
        above=above,
        above_share=share(above, len(scores)),
        scores=distribution([round(score, 4) for score in scores], SCORES),
        nearest=[samples(place) for place in order[:SHOWN] if scores[place] > 0],
    )
