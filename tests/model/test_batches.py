"""The order of steps, how their rows are dealt and packed, and the tensors made of them."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.model.batches import IGNORE, MicroBatch, Schedule, collate, deal, positions
from alpaca_cli.model.rows import Row

X = IGNORE
LONGEST = 40


def test_a_packed_row_as_tensors() -> None:
    batch = collate([[Row([1, 2, 3, 4], 2), Row([5, 6, 7], 1)]])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    # Position 1 predicts 3, position 2 predicts 4, nothing predicts 5, position 4 predicts 6, …
    assert batch.columns.tolist() == [1, 2, 4, 5]
    assert batch.labels.tolist() == [[3, 4, 6, 7]]
    assert batch.lengths == [4, 3]


def test_padded_rows_as_tensors() -> None:
    batch = collate([[Row([1, 2, 3, 4], 2)], [Row([5, 6], 1)]])
    assert batch.input_ids.tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3]]
    assert batch.columns.tolist() == [0, 1, 2]
    assert batch.labels.tolist() == [[X, 3, 4], [6, X, X]]


def test_rows_mapped_from_a_file_make_the_same_tensors() -> None:
    plain = collate([[Row([1, 2, 3, 4], 2), Row([5, 6, 7], 1)]])
    mapped = collate(
        [[Row(np.array([1, 2, 3, 4], np.int32), 2), Row(np.array([5, 6, 7], np.int32), 1)]]
    )
    for name in ("input_ids", "position_ids", "columns", "labels"):
        assert torch.equal(getattr(plain, name), getattr(mapped, name))
        assert getattr(mapped, name).dtype == torch.int64


def test_the_first_token_of_an_example_is_never_predicted() -> None:
    batch = collate([[Row([1, 2, 3], 2), Row([4, 5, 6], 0)]])
    assert batch.columns.tolist() == [1, 3, 4]
    assert batch.labels.tolist() == [[3, 5, 6]]


def test_a_row_without_trained_tokens_has_no_columns() -> None:
    batch = collate([[Row([1, 2, 3], 3)]])
    assert batch.columns.tolist() == []
    assert batch.labels.shape == (1, 0)


def test_positions_count_padding() -> None:
    short, long = Row([1, 2], 1), Row([1, 2, 3, 4], 1)
    assert positions([[short], [long]]) == 8
    assert positions([[long, short]]) == 6


def drawn(count: int, seed: int) -> list[Row]:
    """Rows of all lengths; hypothesis on its own draws few and short ones."""
    generator = np.random.default_rng(seed)
    found = []
    for number in range(1, count + 1):
        length = int(generator.integers(2, LONGEST + 1))
        prompt = int(generator.integers(1, length))
        found.append(Row(list(range(1, length + 1)), prompt, number))
    return found


rows = st.builds(drawn, st.integers(1, 60), st.integers(0, 1 << 30))
worlds, micro_batches = st.integers(1, 5), st.integers(1, 5)


def in_turn(dealt: list[list[MicroBatch]]) -> list[list[MicroBatch]]:
    """The micro-batches that the ranks compute at the same time."""
    return [list(turn) for turn in zip(*dealt, strict=True)]


def first_fit(data: list[Row], capacity: int) -> int:
    """How many bins first-fit-decreasing needs, written down once more."""
    bins: list[int] = []
    for length in sorted((len(row.ids) for row in data), reverse=True):
        for at, filled in enumerate(bins):
            if filled + length <= capacity:
                bins[at] += length
                break
        else:
            bins.append(length)
    return len(bins)


class TestDeal:
    """A step's rows over ranks and micro-batches."""

    @given(rows, worlds, micro_batches, st.booleans())
    def test_every_example_is_computed_once(
        self, data: list[Row], world: int, micro_batch: int, packing: bool
    ) -> None:
        dealt = deal(data, world, micro_batch, LONGEST, packing)
        found: Counter[int] = Counter()
        trained = 0
        for batch in (batch for batches in dealt for batch in batches):
            found.update(row.number for packed in batch for row in packed if row.trained)
            trained += int((collate(batch).labels != IGNORE).sum())
        assert found == Counter(row.number for row in data)
        assert trained == sum(row.trained for row in data)

    @given(rows, worlds, micro_batches, st.booleans())
    def test_nothing_is_larger_than_allowed(
        self, data: list[Row], world: int, micro_batch: int, packing: bool
    ) -> None:
        for batches in deal(data, world, micro_batch, LONGEST, packing):
            for batch in batches:
                assert positions(batch) <= micro_batch * LONGEST
                if packing:
                    assert len(batch) == 1
                else:
                    assert len(batch) <= micro_batch
                    assert all(len(packed) == 1 for packed in batch)

    @given(rows, worlds, micro_batches, st.booleans())
    def test_ranks_get_equally_many_and_one_more_than_needed_at_most(
        self, data: list[Row], world: int, micro_batch: int, packing: bool
    ) -> None:
        dealt = deal(data, world, micro_batch, LONGEST, packing)
        capacity = micro_batch * LONGEST
        needed = first_fit(data, capacity) if packing else math.ceil(len(data) / micro_batch)
        assert len(dealt) == world
        [each] = {len(batches) for batches in dealt}
        # One more where it lets neighbours in length stay together.
        assert each - math.ceil(needed / world) in ((0, 1) if packing else (0,))

    @given(rows, worlds, micro_batches, st.booleans())
    def test_ranks_compute_about_the_same_at_every_turn(
        self, data: list[Row], world: int, micro_batch: int, packing: bool
    ) -> None:
        turns = in_turn(deal(data, world, micro_batch, LONGEST, packing))
        for now, later in pairwise(turns):
            assert min(map(positions, now)) >= max(map(positions, later))

    @given(rows, worlds, micro_batches)
    def test_packed_rows_are_about_equally_full(
        self, data: list[Row], world: int, micro_batch: int
    ) -> None:
        dealt = deal(data, world, micro_batch, LONGEST, packing=True)
        filled = [
            sum(len(row.ids) for row in batch[0] if row.trained)
            for batches in dealt
            for batch in batches
        ]
        longest = max(len(row.ids) for row in data)
        if sum(filled) / len(filled) + longest <= micro_batch * LONGEST:
            assert max(filled) - min(filled) <= longest

    @given(rows, worlds, micro_batches, st.booleans())
    def test_the_longest_example_comes_first(
        self, data: list[Row], world: int, micro_batch: int, packing: bool
    ) -> None:
        for batches in deal(data, world, micro_batch, LONGEST, packing):
            for batch in batches:
                lengths = [len(row.ids) for packed in batch for row in packed]
                assert lengths == sorted(lengths, reverse=True)

    @given(rows, worlds, micro_batches)
    def test_sizes_differ_by_one_at_most_without_packing(
        self, data: list[Row], world: int, micro_batch: int
    ) -> None:
        dealt = deal(data, world, micro_batch, LONGEST, packing=False)
        sizes = [
            sum(1 for packed in batch if packed[0].trained)
            for batches in dealt
            for batch in batches
        ]
        assert max(sizes) - min(sizes) <= 1

    @given(rows, worlds, st.booleans())
    def test_it_is_the_same_each_time(self, data: list[Row], world: int, packing: bool) -> None:
        numbers = [
            [
                [[row.number for row in packed] for batch in batches for packed in batch]
                for batches in deal(data, world, 2, LONGEST, packing)
            ]
            for _ in range(2)
        ]
        assert numbers[0] == numbers[1]

    def test_where_even_bins_overflow_first_fit_decreasing_holds(self) -> None:
        # Longest first into the emptiest of two bins: 6+3 and 4+4+3, which is too much for 10.
        data = [Row(list(range(n)), 1, at) for at, n in enumerate((6, 4, 4, 3, 3), 1)]
        [[one], [two]] = deal(data, 2, 1, 10, packing=True)
        assert sorted([positions(one), positions(two)]) == [10, 10]

    def test_a_rank_without_an_example_computes_one_that_is_not_trained(self) -> None:
        data = [Row([1, 2, 3], 1, 1), Row([4, 5], 1, 2)]
        for packing in (True, False):
            dealt = deal(data, 3, 4, LONGEST, packing)
            first = [batches[0][0][0] for batches in dealt]
            assert sorted(row.trained for row in first) == [0, 1, 2]
            [spare] = [row for row in first if not row.trained]
            assert (list(spare.ids), spare.prompt) == ([4, 5], 2)

    @pytest.mark.parametrize("world", [1, 4])
    def test_packing_leaves_little_room(self, world: int) -> None:
        generator = np.random.default_rng(0)
        data = [Row(list(range(n)), 1) for n in generator.integers(20, 400, 128)]
        dealt = deal(data, world, 4, 512, packing=True)
        used, bins = sum(len(row.ids) for row in data), len(dealt[0]) * world
        # Rounding up to the ranks is all that is lost.
        assert bins - used / (4 * 512) < world + 0.1 * bins
        for turn in in_turn(dealt):
            sizes = list(map(positions, turn))
            assert max(sizes) <= 1.1 * min(sizes)

    @pytest.mark.parametrize("world", [1, 4])
    def test_neighbours_in_length_are_packed_together(self, world: int) -> None:
        """What attention computes, each example padded to the longest beside it."""
        generator = np.random.default_rng(0)
        data = [Row(list(range(n)), 1) for n in generator.integers(20, 400, 128)]
        packed = [row for batches in deal(data, world, 4, 512, packing=True) for row in batches]
        lengths = [[len(row.ids) for row in rows] for [rows] in packed]
        computed = sum(len(each) * max(each) ** 2 for each in lengths)
        assert computed < 1.25 * sum(n**2 for each in lengths for n in each)


class TestSchedule:
    def test_each_epoch_has_every_example_once(self) -> None:
        schedule = Schedule(examples=10, global_batch=4, epochs=3, seed=1)
        order = [i for step in range(schedule.steps) for i in schedule.indices(step)]
        assert schedule.steps == 8
        assert len(order) == 30
        epochs = [order[n : n + 10] for n in (0, 10, 20)]
        assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
        assert epochs[0] != epochs[1] != epochs[2]

    def test_part_of_an_epoch(self) -> None:
        schedule = Schedule(examples=10, global_batch=4, epochs=0.5, seed=1)
        assert [len(schedule.indices(step)) for step in range(schedule.steps)] == [4, 1]

    def test_only_the_seed_changes_the_order(self) -> None:
        one, same, other = (Schedule(100, 8, 1, seed) for seed in (1, 1, 2))
        assert one.indices(3) == same.indices(3)
        assert one.indices(3) != other.indices(3)

    def test_the_order_is_the_same_on_every_machine(self) -> None:
        assert Schedule(8, 8, 1, 42).indices(0) == [1, 2, 5, 7, 6, 0, 3, 4]
