"""Examples as ids: what is trained, what is too long, and rows in memory and in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import ALPACA, TOKENIZER
from alpaca_cli.data.formats import read_examples
from alpaca_cli.model.batches import IGNORE, collate
from alpaca_cli.model.rows import CHUNK, Overlong, Rows, encode_rows, load_rows, save_rows
from alpaca_cli.model.tokenizer import decode_response, train_tokenizer
from tests.tokenizers import CHATML, LLAMA2, byte_level, llama_like

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
    assert [row.number for row in encoded.rows] == [1, 2]


def test_a_truncated_response_keeps_its_prompt_and_its_end(tokenizer: Any) -> None:
    whole = encode(tokenizer, 512, "drop").rows[2]
    encoded = encode(tokenizer, 40, "truncate_response")
    assert (len(encoded.rows), encoded.dropped, encoded.truncated) == (3, 0, 1)
    cut = encoded.rows[2]
    assert len(cut.ids) == 40
    assert cut.prompt == whole.prompt
    assert list(cut.ids[:-1]) == list(whole.ids[:39])
    assert cut.ids[-1] == tokenizer.eos_token_id


def test_a_prompt_without_room_for_an_answer_is_dropped(tokenizer: Any) -> None:
    room = encode(tokenizer, 512, "drop").rows[2].prompt
    assert encode(tokenizer, room + 2, "truncate_response").truncated == 1
    assert encode(tokenizer, room + 1, "truncate_response").dropped >= 1


@given(st.integers(10, 120), st.sampled_from(["drop", "truncate_response"]))
def test_every_kept_row_fits_and_is_taught_to_end(max_length: int, overlong: Overlong) -> None:
    tokenizer = ENDS
    try:
        encoded = encode_rows(EXAMPLES, tokenizer, ALPACA, max_length, overlong)
    except DataError:
        return
    for row in encoded.rows:
        assert len(row.ids) <= max_length
        assert row.trained >= 2
        labels = collate([[row]]).labels[0].tolist()
        assert labels[-1] == tokenizer.eos_token_id
        assert labels.count(tokenizer.eos_token_id) == 1


ENDS = train_tokenizer([each.output for each in EXAMPLES], ALPACA, 300)


def test_too_long_can_be_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"example 3: .* tokens, train.max_length is 40"):
        encode(tokenizer, 40, "error")


def test_nothing_left_is_an_error(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="no example fits"):
        encode(tokenizer, 8, "drop")


def test_labels_are_masked_by_position_where_padding_is_eos() -> None:
    """With labels masked by id, padding = EOS takes the end of every answer out of the loss."""
    tokenizer = byte_level(pad_token="<|endoftext|>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    rows = encode_rows(EXAMPLES, tokenizer, ALPACA, 512, "drop").rows
    batch = collate([[row] for row in rows])
    for line, row in enumerate(rows):
        labels = dict(zip(batch.columns.tolist(), batch.labels[line].tolist(), strict=True))
        for place in range(batch.input_ids.shape[1]):
            expected = IGNORE
            if row.prompt - 1 <= place < len(row.ids) - 1:
                expected = int(row.ids[place + 1])
            assert labels.get(place, IGNORE) == expected
        assert labels[len(row.ids) - 2] == tokenizer.eos_token_id


def test_a_merge_across_the_border_does_not_leak() -> None:
    """Tokenised as one text, ":B" is one token, half prompt and half response."""
    tokenizer = byte_level(["### Response:Blue"] * 9, size=280, split=False)
    prompt = ALPACA.prompt("Name a color.")
    joined = tokenizer(prompt + "Blue")["input_ids"]
    alone = tokenizer(prompt)["input_ids"]
    assert joined[: len(alone)] != alone, "this tokenizer does not merge across the border"
    [row] = encode_rows(
        [Example("Name a color.", "", "Blue")], tokenizer, ALPACA, 512, "error"
    ).rows
    assert list(row.ids[: row.prompt]) == alone
    assert tokenizer.decode(row.ids[row.prompt : -1]) == "Blue"


def test_a_blank_output_is_kept_and_counted(tokenizer: Any) -> None:
    examples = [*EXAMPLES, Example("Say nothing.", "", ""), Example("Say nothing.", "", " \n")]
    encoded = encode_rows(examples, tokenizer, ALPACA, 512, "drop")
    assert (len(encoded.rows), encoded.empty) == (5, 2)
    assert encoded.rows[3].trained == 1
    assert encoded.rows[3].ids[-1] == tokenizer.eos_token_id


def test_an_output_that_becomes_no_token_is_an_error() -> None:
    from tokenizers import normalizers

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("\u200b", "")
    examples = [*EXAMPLES, Example("Say it.", "", "\u200b")]
    with pytest.raises(DataError, match="example 4: the tokenizer makes no token of its output"):
        encode_rows(examples, tokenizer, ALPACA, 512, "drop")


def test_a_turn_cut_short_ends_as_the_template_ends_it() -> None:
    tokenizer = llama_like()
    tokenizer.chat_template = LLAMA2
    whole = encode_rows(EXAMPLES, tokenizer, TOKENIZER, 512, "drop").rows[2]
    cut = encode_rows(EXAMPLES, tokenizer, TOKENIZER, 60, "truncate_response").rows[2]
    assert len(cut.ids) == 60 < len(whole.ids)
    assert list(cut.ids[-2:]) == list(whole.ids[-2:])
    assert list(cut.ids[:58]) == list(whole.ids[:58])


def test_numbers_go_on_across_chunks(tokenizer: Any) -> None:
    examples = [EXAMPLES[number % 2] for number in range(CHUNK + 3)]
    rows = encode_rows(examples, tokenizer, ALPACA, 512, "drop").rows
    assert rows.numbers.tolist() == list(range(1, CHUNK + 4))
    for at in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        assert list(rows[at].ids) == list(rows[at % 2].ids)


@pytest.fixture(scope="module")
def rows(tokenizer: Any) -> Rows:
    found = encode(tokenizer, 512, "drop").rows
    assert isinstance(found, Rows)
    return found


class TestRows:
    """A sequence over one flat array."""

    def test_is_a_sequence(self, rows: Rows) -> None:
        assert len(rows) == 3
        assert [row.number for row in rows] == [1, 2, 3]
        assert rows[-1].number == 3
        assert [row.number for row in rows[1:]] == [2, 3]
        assert rows.lengths.tolist() == [len(row.ids) for row in rows]
        assert rows.trained.tolist() == [row.trained for row in rows]
        with pytest.raises(IndexError):
            rows[3]

    def test_what_is_taken_shares_the_ids(self, rows: Rows) -> None:
        taken = rows.take([2, 0, 2])
        assert [row.number for row in taken] == [3, 1, 3]
        assert taken.ids is rows.ids
        assert [list(row.ids) for row in taken] == [list(rows[at].ids) for at in (2, 0, 2)]
        assert np.shares_memory(taken[0].ids, rows.ids)
        assert len(rows.take([])) == 0

    def test_comes_back_from_files_mapped_into_memory(self, rows: Rows, tmp_path: Path) -> None:
        save_rows(rows, tmp_path)
        found = load_rows(tmp_path)
        assert isinstance(found.ids, np.memmap)
        assert isinstance(found[1].ids, np.memmap)
        assert not found.ids.flags.writeable
        for ours, theirs in zip(rows, found, strict=True):
            assert list(ours.ids) == list(theirs.ids)
            assert (ours.prompt, ours.number) == (theirs.prompt, theirs.number)

    def test_a_selection_is_saved_without_the_rest(self, rows: Rows, tmp_path: Path) -> None:
        save_rows(rows.take([1, 0]), tmp_path)
        found = load_rows(tmp_path)
        assert [row.number for row in found] == [2, 1]
        assert len(found.ids) == rows.lengths[:2].sum()
        assert list(found[1].ids) == list(rows[0].ids)

    @pytest.mark.parametrize("name", ["ids", "offsets", "prompts", "numbers"])
    def test_a_torn_or_missing_file_is_an_error(
        self, rows: Rows, tmp_path: Path, name: str
    ) -> None:
        save_rows(rows, tmp_path)
        path = tmp_path / f"{name}.npy"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(DataError, match=f"{name}.npy"):
            load_rows(tmp_path)
        path.unlink()
        with pytest.raises(DataError, match=f"{name}.npy"):
            load_rows(tmp_path)

    @pytest.mark.parametrize(
        ("name", "change"),
        [("offsets", 1), ("prompts", -1000), ("prompts", 1000)],
    )
    def test_files_that_do_not_fit_are_an_error(
        self, rows: Rows, tmp_path: Path, name: str, change: int
    ) -> None:
        save_rows(rows, tmp_path)
        array = np.load(tmp_path / f"{name}.npy")
        array[-1] += change
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(DataError, match="do not fit"):
            load_rows(tmp_path)


def test_real_data_comes_back_as_it_was(real_data: Path) -> None:
    examples = read_examples([real_data / "alpaca_en_demo.json"])
    tokenizer = byte_level([each.output for each in examples], size=1000)
    encoded = encode_rows(examples, tokenizer, ALPACA, 1 << 20, "error")
    assert len(encoded.rows) == len(examples)
    for row, example in zip(encoded.rows, examples, strict=True):
        prompt, response = row.ids[: row.prompt], row.ids[row.prompt :]
        assert tokenizer.decode(prompt) == ALPACA.prompt(example.instruction, example.input)
        assert decode_response(tokenizer, response) == example.output
        assert response[-1] == tokenizer.eos_token_id


def test_real_chats_come_back_as_they_were(real_data: Path) -> None:
    examples = read_examples([real_data / "alpaca_en_demo.json"])
    tokenizer = byte_level([each.output for each in examples], size=1000, eos_token="<|im_end|>")
    tokenizer.chat_template = CHATML
    for row, example in zip(
        encode_rows(examples, tokenizer, TOKENIZER, 1 << 20, "error").rows, examples, strict=True
    ):
        asked = f"{example.instruction}\n\n{example.input}".rstrip()
        assert tokenizer.decode(row.ids) == (
            f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n{example.output}<|im_end|>"
        )
        assert decode_response(tokenizer, row.ids[row.prompt :]) == example.output
