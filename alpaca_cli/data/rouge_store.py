"""The arrays of a ROUGE-L index: they grow here, and threads share the searches.

What is in them, and how it is searched, is the business of `alpaca_cli.data.rouge_kernels`; what
the numbers mean that of `alpaca_cli.data.rouge_index`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from alpaca_cli.core.machine import cores
from alpaca_cli.data import rouge_kernels as kernels

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class TextStore:
    """Texts in arrays, with room for more, and the searches for similar ones.

    Args:
        threads: None for as many as there are cores.
    """

    def __init__(self, threshold: float, threads: int | None) -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must be between 0 and 1, not {threshold}")
        self._threshold = threshold
        self._store = kernels.Store(
            tokens=np.zeros(256, np.int32),
            starts=np.zeros(65, np.int64),
            signatures=np.zeros((64, kernels.WORDS), np.uint64),
            lists=np.zeros((256, 4), np.int64),
            free=np.full(64, -1, np.int64),
            entries=np.zeros(1024, np.int64),
            marks=np.zeros((1024, 2), np.uint64),
            sizes=np.zeros(4, np.int64),
        )
        self._scratch = [
            kernels.Scratch(
                seen=np.zeros(64, np.int32),
                slots=np.zeros(256, np.int32),
                need=np.zeros(kernels.LONGEST + 1, np.int32),
                hits=np.zeros(1024, np.int64),
                counts=np.zeros(4, np.int64),
            )
            for _ in range(threads or cores())
        ]

    def __len__(self) -> int:
        return int(self._store.sizes[0])

    @property
    def counts(self) -> dict[str, int]:
        """What the searches so far cost, see `Stays`."""
        totals = sum(scratch.counts for scratch in self._scratch)
        return dict(
            zip(("searches", "scanned", "bounded", "compared"), totals.tolist(), strict=True)
        )

    def add(self, batch: kernels.Batch, first: int, last: int) -> None:
        """Store texts first..last-1 of the batch."""
        self._make_room(batch)
        while True:
            need = self._scratch[0].need
            first = kernels.insert(self._store, self._threshold, batch, first, last, need)
            if first == last:
                return
            self._grow(batch, first)

    def nearest(
        self,
        batch: kernels.Batch,
        queries: Ints,
        positions: Ints,
        scores: Floats,
        *,
        others: bool = False,
    ) -> None:
        """`kernels.search_nearest`, on all threads."""
        self._make_room(batch)

        def search(part: Ints, scratch: kernels.Scratch) -> None:
            kernels.search_nearest(
                self._store, self._threshold, batch, part, others, scratch, positions, scores
            )

        if len(self._scratch) == 1:
            search(queries, self._scratch[0])
        else:
            parts = np.array_split(queries, len(self._scratch))
            with ThreadPoolExecutor(len(parts)) as threads:
                list(threads.map(search, parts, self._scratch))

    def settle(
        self,
        batch: kernels.Batch,
        first: int,
        last: int,
        twins: Ints,
        positions: Ints,
        scores: Floats,
        stored: Ints,
    ) -> None:
        """`kernels.settle` for texts first..last-1, all texts stored until now being searched."""
        since = len(self)
        while True:
            first = kernels.settle(
                self._store,
                self._threshold,
                batch,
                first,
                last,
                since,
                twins,
                self._scratch[0],
                positions,
                scores,
                stored,
            )
            if first == last:
                return
            self._grow(batch, first)

    def pairs(
        self, batch: kernels.Batch, first: int, last: int, *, later: bool
    ) -> Iterator[tuple[Ints, Floats]]:
        """`kernels.search_all` for texts first..last-1 of the batch, on all threads."""
        self._make_room(batch)

        def search(begin: int, end: int, scratch: kernels.Scratch) -> Iterator[tuple[Ints, Floats]]:
            size = 4096
            while begin < end:
                pairs, scores = np.empty((2, size), np.int64), np.empty(size)
                count, begin = kernels.search_all(
                    self._store,
                    self._threshold,
                    batch,
                    begin,
                    end,
                    later,
                    scratch,
                    pairs,
                    scores,
                )
                yield pairs[:, :count], scores[:count]
                if not count:  # the pairs of one text alone did not fit
                    size *= 2

        if len(self._scratch) == 1:
            yield from search(first, last, self._scratch[0])
            return
        cuts = np.linspace(first, last, len(self._scratch) + 1).astype(int).tolist()
        with ThreadPoolExecutor(len(self._scratch)) as threads:
            parts = threads.map(lambda *share: list(search(*share)), cuts, cuts[1:], self._scratch)
            for part in parts:
                yield from part

    def _make_room(self, batch: kernels.Batch) -> None:
        """Room for the words of the batch."""
        words = int(batch.elements.max()) + 1 if len(batch.elements) else 0
        self._store = self._store._replace(lists=at_least(self._store.lists, 2 * words))
        self._scratch = [
            scratch._replace(slots=at_least(scratch.slots, words)) for scratch in self._scratch
        ]

    def _grow(self, batch: kernels.Batch, text: int) -> None:
        """Longer arrays, where they were too short for this text."""
        store, short = self._store, int(self._store.sizes[3])
        if short & kernels.TEXTS:
            signatures = at_least(store.signatures, len(self) + 1)
            store = store._replace(
                signatures=signatures, starts=at_least(store.starts, len(signatures) + 1)
            )
            self._scratch = [
                scratch._replace(seen=at_least(scratch.seen, len(signatures)))
                for scratch in self._scratch
            ]
        if short & kernels.TOKENS:
            tokens = int(store.starts[len(self)] + batch.starts[text + 1] - batch.starts[text])
            store = store._replace(tokens=at_least(store.tokens, tokens))
        if short & kernels.ENTRIES:
            room = len(store.entries) + 1
            store = store._replace(
                entries=at_least(store.entries, room), marks=at_least(store.marks, room)
            )
        self._store = store


def at_least(values: Any, size: int) -> Any:
    """The array itself if it is that long, else a copy of at least twice its length, then zeros."""
    if len(values) >= size:
        return values
    longer = np.zeros((max(size, 2 * len(values)), *values.shape[1:]), values.dtype)
    longer[: len(values)] = values
    return longer
