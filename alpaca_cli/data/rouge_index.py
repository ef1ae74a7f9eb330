"""An index that finds similar earlier texts exactly, and without comparing with most of them.

It returns what a comparison of every pair by `rouge-score` would, ties included, for any
threshold. Only pairs that can exceed the threshold are compared: it and the two lengths give the
fewest tokens that a pair must share (`fewest_common`), which rules out nearly all others.

- A text's elements are its tokens with the number of the occurrence, so that multisets are sets.
  When the elements of both stand in one order, those that can be the first common one are a
  prefix (Chaudhuri et al. 2006, "A primitive operator for similarity joins"); only prefixes are
  indexed and looked up. The order is highest number first: texts known beforehand are numbered
  by frequency, so that prefixes hold rare words; later words get the next number as they come.
- Where an element stands bounds what can follow it (Xiao et al. 2008, PPJoin's positional filter).
  In the shorter one of two similar texts their first common element stands early; postings of
  elements that stand late in their text are kept apart, for shorter texts alone.
- Every bit of one text's signature that the other lacks is a token that they do not share.
- For texts of more than 64 tokens, the tokens in common are counted first, order aside.
- As the nearest text is sought, the best score so far is the threshold for the rest.

It knows token lists and positions, not examples or files.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, pairwise

import numpy as np

from alpaca_cli.data import rouge_kernels as kernels
from alpaca_cli.data.rouge_store import Floats, Ints, TextStore, at_least

Tokens = Sequence[str]
# Told now and then how many texts are done, and what it cost so far (`Stays.counts`).
Step = Callable[[int, dict[str, int]], None]

_BLOCK = 2048  # texts that are searched for at once


@dataclass(frozen=True, slots=True)
class Stays:
    """Which texts stay when each is compared with those that stay before it.

    Attributes:
        survivors: for each text -1 when it stays, else the position of the most similar text that
            stays; of equally similar ones the first.
        scores: their F1; without meaning where the text stays.
        counts: what it cost: `searches`, `scanned` postings, pairs `bounded` by their signatures,
            pairs `compared` token by token.
    """

    survivors: Ints
    scores: Floats
    counts: dict[str, int]


class RougeIndex:
    """Texts seen so far, and which of them a new one is similar to.

    Args:
        threshold: a text is similar when its F1 is greater than this; from 0 to 1.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._words = Words()
        self._texts = TextStore(threshold, threads=1)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, tokens: Tokens) -> int:
        """Store a text; returns its position, counted from 0."""
        position = len(self)
        self._texts.add(in_index_order(self._words.read([tokens])), 0, 1)
        return position

    def nearest(self, tokens: Tokens) -> tuple[int, float] | None:
        """Position and F1 of the most similar stored text above the threshold, else None.

        Of equally similar texts the earliest. A text without tokens is similar to nothing.
        """
        batch = in_index_order(self._words.read([tokens]))
        positions, scores = np.full(1, -1), np.empty(1)
        self._texts.nearest(batch, np.zeros(1, np.int64), positions, scores)
        return None if positions[0] < 0 else (int(positions[0]), float(scores[0]))

    def admit(self, texts: Sequence[Tokens]) -> list[tuple[int, float] | None]:
        """`nearest` of each text, in order; where there is none, it is stored before the next."""
        if not texts:
            return []
        batch = in_index_order(self._words.read(texts))
        total = len(texts)
        twins = _twins(batch, 0) if self.threshold < 1 else np.full(total, -1)
        positions, scores, stored = np.full(total, -1), np.zeros(total), np.full(total, -1)
        self._texts.nearest(batch, np.flatnonzero(twins < 0), positions, scores)
        self._texts.settle(batch, 0, total, twins, positions, scores, stored)
        found = zip(positions.tolist(), scores.tolist(), strict=True)
        return [None if position < 0 else (position, score) for position, score in found]


def first_stays(
    texts: Iterable[Tokens],
    threshold: float,
    *,
    given: int = 0,
    threads: int | None = None,
    step: Step = lambda done, counts: None,
) -> Stays:
    """Decide in order: a text whose F1 with one that stays before it exceeds the threshold goes.

    Args:
        given: so many texts at the beginning stay, whatever they are like.
        threads: None for as many as there are cores. The result is the same.
    """
    batch = _by_frequency(Words().read(texts))
    total = len(batch.starts) - 1
    store = TextStore(threshold, threads)
    store.add(batch, 0, given)
    twins = _twins(batch, given) if threshold < 1 else np.full(total, -1)
    survivors, scores, stored = np.full(total, -1), np.zeros(total), np.full(total, -1)
    stored[:given] = range(given)
    for first in range(given, total, _BLOCK):
        last = min(total, first + _BLOCK)
        store.nearest(batch, first + np.flatnonzero(twins[first:last] < 0), survivors, scores)
        store.settle(batch, first, last, twins, survivors, scores, stored)
        step(last - given, store.counts)
    gone = survivors >= 0
    survivors[gone] = np.flatnonzero(stored >= 0)[survivors[gone]]
    return Stays(survivors, scores, store.counts)


def nearest_others(
    texts: Iterable[Tokens],
    sample: Iterable[int] | None = None,
    *,
    threads: int | None = None,
    step: Step = lambda done, counts: None,
) -> tuple[Ints, Floats]:
    """For each position in `sample` (None: all) its most similar other text, and their F1.

    Of equally similar ones the first; -1 and 0 where no other text has a word in common.
    """
    batch = _by_frequency(Words().read(texts))
    total = len(batch.starts) - 1
    store = TextStore(0.0, threads)
    store.add(batch, 0, total)
    wanted = np.arange(total) if sample is None else np.fromiter(sample, np.int64)
    positions, scores = np.full(total, -1), np.zeros(total)
    for first in range(0, len(wanted), _BLOCK):
        queries = wanted[first : first + _BLOCK]
        store.nearest(batch, queries, positions, scores, others=True)
        step(first + len(queries), store.counts)
    return positions[wanted], scores[wanted]


def nearest_among(
    texts: Iterable[Tokens],
    against: Sequence[Tokens],
    *,
    threads: int | None = None,
    step: Step = lambda done, counts: None,
) -> tuple[Ints, Floats]:
    """For each text the most similar one of `against`, and their F1.

    Of equally similar ones the first; -1 and 0 where none has a word in common.
    """
    batch = _by_frequency(Words().read(chain(against, texts)))
    given, total = len(against), len(batch.starts) - 1
    store = TextStore(0.0, threads)
    store.add(batch, 0, given)
    positions, scores = np.full(total, -1), np.zeros(total)
    for first in range(given, total, _BLOCK):
        queries = np.arange(first, min(total, first + _BLOCK))
        store.nearest(batch, queries, positions, scores)
        step(int(queries[-1]) + 1 - given, store.counts)
    return positions[given:], scores[given:]


def similar_pairs(
    texts: Iterable[Tokens], threshold: float, *, threads: int | None = None
) -> Iterator[tuple[Ints, Floats]]:
    """All pairs whose F1 exceeds the threshold, some thousands at a time.

    Yields:
        int64 [2, n]: the earlier text of each pair and the later one; float64 [n]: their F1.
    """
    yield from PairIndex(_by_frequency(Words().read(texts)), threshold, threads=threads).within()


class PairIndex:
    """Texts that are numbers already, and all those similar to them; see `similar_pairs`.

    The numbers of words must mean the same in every batch; the rarer a word, the higher.
    """

    def __init__(
        self, batch: kernels.Batch, threshold: float, *, threads: int | None = None
    ) -> None:
        self._batch = batch
        self._texts = TextStore(threshold, threads)
        self._texts.add(batch, 0, len(batch.starts) - 1)

    def within(self) -> Iterator[tuple[Ints, Floats]]:
        """Pairs of texts of the index: the earlier and the later one, and their F1."""
        yield from self._pairs(self._batch, later=True)

    def between(self, others: kernels.Batch) -> Iterator[tuple[Ints, Floats]]:
        """Pairs of a text of `others` and one of the index, and their F1."""
        yield from self._pairs(others, later=False)

    def _pairs(self, batch: kernels.Batch, *, later: bool) -> Iterator[tuple[Ints, Floats]]:
        total = len(batch.starts) - 1
        for first in range(0, total, _BLOCK):
            yield from self._texts.pairs(batch, first, min(total, first + _BLOCK), later=later)


def stays_by_pairs(first: Ints, pairs: Ints, scores: Floats, given: int) -> Stays:
    """`first_stays`, from the similar pairs alone.

    Args:
        first: for each text the first one with the same tokens; itself when it is that, or has
            no tokens.
        pairs: int64 [2, n], the similar pairs of texts that are the first with their tokens.
        scores: their F1.
        given: so many texts at the beginning stay, whatever they are like.
    """
    texts = np.concatenate((pairs[0], pairs[1]))
    order = np.argsort(texts, kind="stable")
    starts = np.searchsorted(texts[order], np.arange(len(first) + 1))
    neighbours = np.concatenate((pairs[1], pairs[0]))[order]
    survivors, found = np.full(len(first), -1), np.zeros(len(first))
    kernels.keep_first(
        first, starts, neighbours, np.concatenate((scores, scores))[order], given, survivors, found
    )
    return Stays(survivors, found, {})


class Words:
    """The numbers of words, and of their repetitions within a text, in the order they come in."""

    def __init__(self) -> None:
        # Tokens, and (token number, n) for the n-th repetition of a token within a text.
        self._numbers: defaultdict[str | tuple[int, int], int] = defaultdict(count().__next__)
        self._times = np.zeros(256, np.int32)

    def names(self) -> list[str]:
        """The name of each number: the word, and after a tab which repetition it is, if any."""
        names: list[str] = []
        for key in self._numbers:
            names.append(key if isinstance(key, str) else f"{names[key[0]]}\t{key[1]}")
        return names

    def read(self, texts: Iterable[Tokens]) -> kernels.Batch:
        """Token lists as numbers, elements in the order of the tokens."""
        number = self._numbers.__getitem__
        words, ends = array("i"), array("q", [0])
        for text in texts:
            words.extend(map(number, text))
            ends.append(len(words))
        tokens, starts = np.array(words), np.array(ends)
        self._times = at_least(self._times, len(self._numbers))
        occurrence = kernels.occurrences(tokens, starts, self._times)
        elements = tokens.copy()
        for place in np.flatnonzero(occurrence).tolist():
            elements[place] = number((int(tokens[place]), int(occurrence[place])))
        return kernels.Batch(tokens, elements, starts)


def _by_frequency(batch: kernels.Batch) -> kernels.Batch:
    """The batch in index order with other numbers: the most frequent word is 0."""
    frequencies = np.bincount(batch.elements)
    ranks = np.empty(len(frequencies), np.int32)
    ranks[np.argsort(-frequencies, kind="stable")] = np.arange(len(ranks), dtype=np.int32)
    return in_index_order(kernels.Batch(ranks[batch.tokens], ranks[batch.elements], batch.starts))


def in_index_order(batch: kernels.Batch) -> kernels.Batch:
    """The batch with the elements of each text in index order: highest number first."""
    text = np.repeat(np.arange(len(batch.starts) - 1), np.diff(batch.starts))
    keys = text << 32 | (0x7FFFFFFF - batch.elements)
    keys.sort()
    return batch._replace(elements=(0x7FFFFFFF - (keys & 0x7FFFFFFF)).astype(np.int32))


def _twins(batch: kernels.Batch, given: int) -> Ints:
    """For each text the first one with the same tokens; -1 when it is that, or has none.

    For given texts -1.
    """
    first: dict[bytes, int] = {}
    twins = np.full(len(batch.starts) - 1, -1)
    for position, (begin, end) in enumerate(pairwise(batch.starts.tolist())):
        twin = first.setdefault(batch.tokens[begin:end].tobytes(), position)
        if begin < end and twin < position >= given:
            twins[position] = twin
    return twins
