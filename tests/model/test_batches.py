"""Rows, their order, and the tensors made of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.batches import (
    IGNORE,
    Overlong,
    Row,
    Schedule,
    collate,
    encode_rows,
    micro_batches,
    share,
)
from alpaca_cli.model.tokenizer import train_tokenizer

X = IGNORE
EXAMPLES = [
    Example("Name a color.", "", "Blue."),
    Example("Repeat.", "one two three", "one two three"),
    Example("Say it often.", "", "again and again " * 20),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer([each.output for each in EXAMPLES], ALPACA, 300)


def encode(tokenizer: Any, max_length: int, overlong: Overlong) -> Any:
    return encode_rows(EXAMPLES, tokenizer, ALPACA, max_length, overlong)


def test_the_response_and_its_end_are_trained_and_nothing_else(tokenizer: Any) -> None:
    for row, example in zip(encode(tokenizer, 512, "drop").rows, EXAMPLES, strict=True):
        assert tokenizer.decode(row.ids[row.prompt : -1]) == example.output
        assert row.ids[-1] == tokenizer.eos_token_id
        assert row.trained == len(row.ids) - row.prompt


def test_rows_too_long_are_dropped_and_counted(tokenizer: Any) -> None:
    encoded = encode(tokenizer, 40, "drop")
    assert (len(encoded.rows), encoded.dropped, encoded.truncated) == (2, 1, 0)


def test_a_truncated_response_keeps_its_prompt_and_its_end(tokenizer: Any) -> None:
    whole = encode(tokenizer, 512, "drop").rows[2]
    encoded = encode(tokenizer, 40, "truncate_response")
    assert (len(encoded.rows), encoded.dropped, encoded.truncated) == (3, 0, 1)
    cut = encoded.rows[2]
    assert len(cut.ids) == 40
    assert cut.prompt == whole.prompt
    assert cut.ids[:-1] == whole.ids[:39]
    assert cut.ids[-1] == tokenizer.eos_token_id


def test_a_prompt_without_room_for_an_answer_is_dropped(tokenizer: Any) -> None:
    room = encode(tokenizer, 512, "drop").rows[2].prompt
    assert encode(tokenizer, room + 2, "truncate_response").truncated == 1
    assert encode(tokenizer, room + 1, "truncate_response").dropped >= 1


def test_too_long_can_be_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"example 3: .* tokens, train.max_length is 40"):
        encode(tokenizer, 40, "error")


def test_nothing_left_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no example fits"):
        encode(tokenizer, 8, "drop")


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


rows = st.lists(
    st.integers(2, 40).flatmap(
        lambda n: st.integers(1, n - 1).map(lambda p: Row(list(range(1, n + 1)), p))
    ),
    min_size=1,
    max_size=40,
)


@given(rows, st.integers(1, 5), st.integers(1, 8), st.booleans())
def test_every_row_is_computed_once_whatever_the_split(
    data: list[Row], world: int, micro_batch: int, packing: bool
) -> None:
    found: Counter[tuple[int, int]] = Counter()
    trained = 0
    for rank in range(world):
        for batch in micro_batches(share(data, rank, world), micro_batch, 40, packing):
            for packed in batch:
                assert len(packed) == 1 or packing
                assert sum(len(row.ids) for row in packed) <= 40 * micro_batch
                found.update((len(row.ids), row.prompt) for row in packed)
            assert len(batch) <= micro_batch
            trained += int((collate(batch).labels != IGNORE).sum())
    assert found == Counter((len(row.ids), row.prompt) for row in data)
    assert trained == sum(row.trained for row in data)


@given(rows, st.integers(2, 4))
def test_shares_differ_by_one_row_at_most(data: list[Row], world: int) -> None:
    sizes = [len(share(data, rank, world)) for rank in range(world)]
    assert max(sizes) - min(sizes) <= 1


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
