"""The order of steps, packing, dealing to ranks, and the tensors of a micro-batch.

The order is a pure function of (seed, examples, global batch, step): nothing has to be stored to
resume, and every rank knows what the others compute. A step's examples may be split over ranks
and micro-batches in any way; the loss is a sum over them all, so the split does not change it.

A packed row holds several examples one after the other; `position_ids` restart with each.

The model is not known here, nor how examples become ids (`alpaca_cli.model.rows`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch

from alpaca_cli.model.rows import Row

IGNORE = -100  # the label of positions that are not trained; torch's default ignore_index

# A row of the tensors is a list of the examples in it, and a micro-batch a list of rows.
MicroBatch = list[list[Row]]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which examples each optimizer step is taken over.

    Epochs follow each other without a gap: a step may hold the end of one and the start of the
    next, and only the last step may be smaller than `global_batch`.
    """

    examples: int
    global_batch: int
    epochs: float
    seed: int

    @property
    def visits(self) -> int:
        """Examples seen in all, repeats included."""
        return max(1, round(self.examples * self.epochs))

    @property
    def steps(self) -> int:
        return math.ceil(self.visits / self.global_batch)

    def indices(self, step: int) -> list[int]:
        """The examples of step `step` (from 0), in seeded order, each epoch its own."""
        start = step * self.global_batch
        return [
            _permutation(self.examples, self.seed, visit // self.examples)[visit % self.examples]
            for visit in range(start, min(start + self.global_batch, self.visits))
        ]


@lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> list[int]:
    order = list(range(examples))
    # A text seed is hashed by random itself: the same order in every process and version.
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def deal(
    rows: Sequence[Row], world: int, micro_batch: int, max_length: int, packing: bool
) -> list[list[MicroBatch]]:
    """For each rank its micro-batches of one step; every rank gets equally many.

    Packed: a micro-batch is one row of at most `micro_batch * max_length` tokens. Not packed:
    up to `micro_batch` rows of one example, of about one length. Within a micro-batch and within
    a packed row the longest example comes first.

    Under FSDP every forward and backward pass is a meeting of all ranks: the n-th micro-batches
    of the ranks are about equally large, the largest come first, so that memory runs out at once
    or not at all. Where there are too few examples, a rank gets one without trained tokens.

    Equal arguments give equal results, on every rank.
    """
    longest_first = sorted(rows, key=lambda row: -len(row.ids))
    if packing:
        found = [[packed] for packed in _bins(longest_first, world, micro_batch * max_length)]
    else:
        found = _chunks(longest_first, world, micro_batch)
    # The shortest example, as nothing but a prompt.
    spare = Row(longest_first[-1].ids, len(longest_first[-1].ids), longest_first[-1].number)
    found = [batch if batch and batch[0] else [[spare]] for batch in found]
    found.sort(key=positions, reverse=True)
    dealt: list[list[MicroBatch]] = [[] for _ in range(world)]
    for number, batch in enumerate(found):
        turn, rank = divmod(number, world)
        # Dealt back and forth, so that no rank gets the largest of every turn.
        dealt[rank if turn % 2 == 0 else world - 1 - rank].append(batch)
    return dealt


def _bins(longest_first: Sequence[Row], world: int, capacity: int) -> list[list[Row]]:
    """Rows of at most `capacity` tokens, a multiple of `world` of them.

    Examples of about one length go together, for attention pads each to the longest beside it
    (measured on CPU: a step with bins of mixed lengths takes 1.3 times as long); the rows are about
    equally full, for memory the fullest counts. That takes as many rows as first-fit-decreasing
    needs, or a few more; where it would take many more, those of first-fit-decreasing are taken.
    """
    fewest = _first_fit(longest_first, capacity)
    count = _multiple(len(fewest), world)
    bins = next(
        (
            bins
            for bins in (_in_order(longest_first, count), _in_order(longest_first, count + world))
            if max(map(_tokens, bins)) <= capacity
        ),
        fewest,
    )
    while len(bins) < _multiple(len(bins), world):
        fullest = max(range(len(bins)), key=lambda at: (len(bins[at]) > 1, _tokens(bins[at])))
        half = _in_order(bins[fullest], 2) if bins[fullest] else []
        bins[fullest : fullest + 1] = [*half, *([[]] * (2 - len(half)))]
    return bins


def _multiple(count: int, world: int) -> int:
    return math.ceil(count / world) * world


def _in_order(longest_first: Sequence[Row], count: int) -> list[list[Row]]:
    """At most `count` runs of neighbours, the fullest of them as small as it can be."""
    lengths = [len(row.ids) for row in longest_first]

    def needed(limit: int) -> int:
        runs, free = 1, limit
        for length in lengths:
            if length > free:
                runs, free = runs + 1, limit
            free -= length
        return runs

    low, high = max(lengths), sum(lengths)
    while low < high:
        limit = (low + high) // 2
        low, high = (low, limit) if needed(limit) <= count else (limit + 1, high)
    bins: list[list[Row]] = [[]]
    for row in longest_first:
        if bins[-1] and _tokens(bins[-1]) + len(row.ids) > low:
            bins.append([])
        bins[-1].append(row)
    return bins


def _first_fit(longest_first: Sequence[Row], capacity: int) -> list[list[Row]]:
    """First-fit-decreasing: each row goes into the first bin that has room (Johnson, 1973: at
    most 11/9 of the fewest possible bins, plus 6/9).
    """
    bins: list[list[Row]] = []
    room: list[int] = []
    for row in longest_first:
        length = len(row.ids)
        at = next((at for at, free in enumerate(room) if free >= length), len(bins))
        if at == len(bins):
            bins.append([])
            room.append(capacity)
        bins[at].append(row)
        room[at] -= length
    return bins


def _chunks(longest_first: Sequence[Row], world: int, micro_batch: int) -> list[MicroBatch]:
    """Neighbours in length, at most `micro_batch` together; a multiple of `world` of chunks, whose
    sizes differ by one at most, the chunks of short examples being the larger ones.
    """
    count = _multiple(math.ceil(len(longest_first) / micro_batch), world)
    size, larger = divmod(len(longest_first), count)
    left = iter(longest_first)
    sizes = [size] * (count - larger) + [size + 1] * larger
    return [[[row] for row in islice(left, size)] for size in sizes]


def _tokens(rows: Sequence[Row]) -> int:
    return sum(len(row.ids) for row in rows)


def positions(batch: Sequence[Sequence[Row]]) -> int:
    """Positions that a micro-batch computes, padding included: rows times the longest row."""
    return len(batch) * max(map(_tokens, batch))


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids, position_ids: (B, T) int64, T the longest row in tokens. Right-padded; padding
            goes on counting, as the untrained end of the last example: a row of one example then
            needs no mask but the causal one, which is the fast path.
        columns: (C,) int64, the positions at which some row has a trained next token.
        labels: (B, C) int64, the next token at those positions, IGNORE where it is not trained.
        lengths: of the examples in the first row, in tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.columns.to(device),
            self.labels.to(device),
            self.lengths,
        )


def collate(packed: Sequence[Sequence[Row]]) -> Batch:
    """Tensors of one micro-batch; see `Batch` for shapes.

    Only positions whose next token is trained are listed in `columns`: the output layer, the
    largest of a small model, is computed for no others.
    """
    width = max(map(_tokens, packed))
    # Which id pads does not matter: nothing looks at it, and it is not trained.
    ids = np.zeros((len(packed), width), dtype=np.int64)
    labels = np.full((len(packed), width), IGNORE, dtype=np.int64)
    places = np.tile(np.arange(width), (len(packed), 1))
    for line, rows in enumerate(packed):
        start = 0
        for row in rows:
            end = start + len(row.ids)
            ids[line, start:end] = row.ids
            # Position i predicts token i + 1, and the first token of an example nobody does.
            trained = start + max(row.prompt, 1)
            labels[line, trained - 1 : end - 1] = ids[line, trained:end]
            # To the end of the line: the last example's positions run on through the padding.
            places[line, start:] = np.arange(width - start)
            start = end
    columns = np.flatnonzero((labels != IGNORE).any(axis=0))
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(places),
        torch.from_numpy(columns),
        torch.from_numpy(labels[:, columns]),
        [len(row.ids) for row in packed[0]],
    )
