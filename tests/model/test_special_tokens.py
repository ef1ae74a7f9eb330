"""Special tokens of pretrained models: what is mended, what is said, what is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import ALPACA, TOKENIZER
from alpaca_cli.model.rows import encode_rows
from alpaca_cli.model.special_tokens import (
    check_eos,
    check_vocabulary,
    compare_special_tokens,
    end_as_the_template_does,
    make_usable,
)
from alpaca_cli.model.tokenizer import EOS, train_tokenizer
from tests.tokenizers import CHATML, byte_level, llama_like

TEXTS = ["Name the capital of France.", "The capital of France is Paris.", "Add 12 and 30.", "42"]

NOTHING = SimpleNamespace()  # a configuration that names no tokens


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, ALPACA, 400)


class TestMakeUsable:
    """Pretrained tokenizers come without EOS or padding, or with empty ones."""

    def test_padding_becomes_eos(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.pad_token = None
        assert make_usable(tokenizer, NOTHING, []) == [
            "the tokenizer has no padding token: using EOS, '</s>'"
        ]
        assert tokenizer.pad_token_id == tokenizer.eos_token_id

    def test_an_empty_eos_is_taken_from_the_model(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.eos_token = ""
        notes = make_usable(tokenizer, NOTHING, [1])
        assert tokenizer.eos_token == EOS
        assert "using the model's" in notes[0]

    def test_without_any_a_new_one_is_added(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.eos_token = None
        notes = make_usable(tokenizer, NOTHING, [])
        assert tokenizer.eos_token_id is not None
        assert "added" in notes[0]

    def test_a_whole_one_stays(self, tokenizer: Any) -> None:
        assert make_usable(tokenizer, NOTHING, [7]) == []

    @pytest.mark.parametrize("stops", [[-1], [10**6], []])
    def test_an_eos_that_no_token_has_is_none(self, stops: list[int]) -> None:
        tokenizer = llama_like(eos_token="")
        assert "added" in make_usable(tokenizer, NOTHING, stops)[0]
        assert tokenizer.convert_ids_to_tokens(tokenizer.eos_token_id) == EOS

    def test_an_eos_that_the_vocabulary_lacks_is_none(self) -> None:
        for tokenizer, unknown in ((byte_level(), None), (llama_like(), 0)):
            tokenizer.eos_token = "<|nowhere|>"
            assert tokenizer.eos_token_id == unknown
            own = tokenizer.convert_ids_to_tokens(2)
            assert f"using the model's, {own!r}" in make_usable(tokenizer, NOTHING, [2])[0]
            assert tokenizer.eos_token_id == 2

    def test_an_eos_that_is_the_unknown_token_by_name_stays(self) -> None:
        tokenizer = byte_level(unk_token="<|endoftext|>", pad_token="<|endoftext|>")
        assert make_usable(tokenizer, NOTHING, [2]) == []
        assert tokenizer.eos_token_id == 0

    def test_empty_tokens_are_taken_from_the_model_or_are_none(self) -> None:
        tokenizer = llama_like(bos_token="", unk_token="", eos_token="")
        make_usable(tokenizer, SimpleNamespace(bos_token_id=1), [2])
        assert (tokenizer.bos_token, tokenizer.unk_token, tokenizer.eos_token) == (
            "<s>",
            None,
            "</s>",
        )

    def test_padding_is_taken_from_the_model_when_it_names_one(self) -> None:
        tokenizer = byte_level()
        assert make_usable(tokenizer, SimpleNamespace(pad_token_id=1), [0]) == [
            "the tokenizer has no padding token: using the model's, '<|im_start|>'"
        ]
        assert tokenizer.pad_token_id == 1


def test_eos_becomes_what_the_chat_template_ends_an_answer_with() -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    [note] = end_as_the_template_does(tokenizer, TOKENIZER)
    assert "answers end in '<|im_end|>'" in note
    assert tokenizer.eos_token == "<|im_end|>"
    assert end_as_the_template_does(tokenizer, TOKENIZER) == []
    assert end_as_the_template_does(byte_level(), ALPACA) == []


class TestCompare:
    """Differences between tokenizer and configuration that people stumble over."""

    def notes(self, tokenizer: Any, stops: list[int], **config: Any) -> list[str]:
        row = encode_rows([Example("Add.", "", "1")], tokenizer, ALPACA, 512, "drop").rows[0]
        return compare_special_tokens(tokenizer, SimpleNamespace(**config), stops, row.ids)

    def test_nothing_is_said_of_what_agrees(self) -> None:
        assert self.notes(llama_like(), [2], bos_token_id=1, pad_token_id=7, unk_token_id=0) == []
        assert self.notes(byte_level(), [2, 0], bos_token_id=None) == []

    def test_another_eos(self) -> None:
        [note] = self.notes(byte_level(eos_token="<|im_end|>"), [0, 1], bos_token_id=None)
        assert "'<|im_end|>' (2), the tokenizer's EOS" in note
        assert "'<|endoftext|>' (0), '<|im_start|>' (1)" in note

    def test_another_bos(self) -> None:
        [note] = self.notes(llama_like(), [2], bos_token_id=5)
        assert note.startswith("BOS is '<s>' (1) in the tokenizer")

    def test_a_bos_that_no_prompt_starts_with(self) -> None:
        [note] = self.notes(byte_level(bos_token="<|im_start|>"), [0], bos_token_id=1)
        assert "without BOS, '<|im_start|>'" in note

    def test_gpt2_names_one_token_for_both_ends_and_adds_none(self) -> None:
        assert self.notes(byte_level(bos_token="<|endoftext|>"), [0], bos_token_id=0) == []

    def test_a_bos_twice(self) -> None:
        notes = compare_special_tokens(
            llama_like(), SimpleNamespace(bos_token_id=1), [2], [1, 1, 9]
        )
        assert notes == ["prompts start with BOS, '<s>', twice"]


def test_a_token_beyond_the_vocabulary_is_refused() -> None:
    examples = [Example("Add.", "", "1"), Example("Name it.", "", "zz")]
    tokenizer = byte_level()
    rows = encode_rows(examples, tokenizer, ALPACA, 512, "drop").rows
    check_vocabulary(rows, int(rows.ids.max()) + 1)
    with pytest.raises(DataError, match=r"example \d: the tokenizer makes token"):
        check_vocabulary(rows, int(rows.ids.max()))


class TestEosInside:
    """EOS in the middle of an answer."""

    def test_a_few_are_said(self) -> None:
        tokenizer = byte_level(eos_token="Z")
        examples = [Example("Say a letter.", "", letter) for letter in "aZbcdefghi"]
        rows = encode_rows(examples, tokenizer, ALPACA, 512, "drop").rows
        [note] = check_eos(rows, tokenizer)
        assert "stands inside 1 of 10 responses, first in example 2" in note

    def test_ordinary_text_for_eos_is_refused(self) -> None:
        tokenizer = byte_level(eos_token=".")
        examples = [Example("Say it.", "", "This is it. That was it.")] * 3
        rows = encode_rows(examples, tokenizer, ALPACA, 512, "drop").rows
        with pytest.raises(DataError, match="inside 3 of 3 responses: it is ordinary text"):
            check_eos(rows, tokenizer)

    def test_eos_in_prompts_is_no_matter(self) -> None:
        tokenizer = byte_level(eos_token=":")
        rows = encode_rows([Example("Say it:", "", "it")], tokenizer, ALPACA, 512, "drop").rows
        assert tokenizer.eos_token_id in rows[0].ids[: rows[0].prompt]
        assert check_eos(rows, tokenizer) == []
