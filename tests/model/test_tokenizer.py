"""Text to ids and back: nothing is lost, and prompts are what training and chat agree on."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.template import ALPACA, TOKENIZER
from alpaca_cli.model.tokenizer import (
    EOS,
    decode_response,
    encode_prompts,
    encode_responses,
    make_usable,
    train_tokenizer,
)

TEXTS = ["Name the capital of France.", "The capital of France is Paris.", "Add 12 and 30.", "42"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, ALPACA, 400)


@given(st.text())
def test_any_text_survives_a_round_trip(text: str) -> None:
    [ids] = encode_responses(ROUND_TRIP, [text])
    assert ids[-1] == ROUND_TRIP.eos_token_id
    assert ROUND_TRIP.eos_token_id not in ids[:-1]
    assert decode_response(ROUND_TRIP, ids) == text


ROUND_TRIP = train_tokenizer(TEXTS, ALPACA, 400)


@pytest.mark.parametrize(
    "text", [" leading", "  two", "a , b .", "don 't", "\n\n### Response:", EOS, "é 日本", ""]
)
def test_texts_that_tokenizers_like_to_clean_up_stay_as_they_are(text: str) -> None:
    [ids] = encode_responses(ROUND_TRIP, [text])
    assert decode_response(ROUND_TRIP, ids) == text


def test_the_fixed_parts_of_the_alpaca_prompt_cost_three_tokens(tokenizer: Any) -> None:
    with_input, without = encode_prompts(tokenizer, ALPACA, [("Add.", "1 2"), ("Add.", "")])
    words = tokenizer("Add.")["input_ids"] + tokenizer("1 2")["input_ids"]
    assert len(with_input) == len(words) + 3
    assert len(without) == len(tokenizer("Add.")["input_ids"]) + 2
    pieces = [tokenizer.convert_ids_to_tokens(with_input[i]) for i in (0, -1)]
    assert pieces[0].startswith("Below is an instruction")
    assert pieces[1] == "\n\n### Response:"


def test_a_word_is_one_token_at_the_start_and_in_the_middle(tokenizer: Any) -> None:
    first, middle = tokenizer("capital")["input_ids"], tokenizer("the capital")["input_ids"]
    assert first == middle[-len(first) :]


def test_every_digit_is_a_token(tokenizer: Any) -> None:
    assert len(tokenizer("12345")["input_ids"]) == 6  # the implied space, and five digits


def test_the_end_token_in_a_text_does_not_end_it(tokenizer: Any) -> None:
    [prompt] = encode_prompts(tokenizer, ALPACA, [(f"Say {EOS} now", EOS)])
    assert tokenizer.eos_token_id not in prompt


def test_equal_texts_give_an_equal_tokenizer(tokenizer: Any) -> None:
    again = train_tokenizer(TEXTS, ALPACA, 400)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_a_new_tokenizer_has_no_chat_template() -> None:
    with pytest.raises(UsageError, match="no chat template"):
        train_tokenizer(TEXTS, TOKENIZER, 400)


def test_the_chat_template_ends_where_the_answer_starts(tokenizer: Any) -> None:
    own = train_tokenizer(TEXTS, ALPACA, 400)
    own.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    [both, alone] = encode_prompts(own, TOKENIZER, [("Add.", "1 2"), ("Add.", "")])
    assert decode_response(own, both) == "<user>Add.\n\n1 2<assistant>"
    assert decode_response(own, alone) == "<user>Add.<assistant>"


class TestMakeUsable:
    """Pretrained tokenizers come without EOS or padding, or with empty ones."""

    def test_padding_becomes_eos(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.pad_token = None
        assert make_usable(tokenizer, None) == [
            "the tokenizer has no padding token: using EOS, '</s>'"
        ]
        assert tokenizer.pad_token_id == tokenizer.eos_token_id

    def test_an_empty_eos_is_taken_from_the_model(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.eos_token = ""
        notes = make_usable(tokenizer, [1])
        assert tokenizer.eos_token == EOS
        assert "using the model's" in notes[0]

    def test_without_any_a_new_one_is_added(self) -> None:
        tokenizer = train_tokenizer(TEXTS, ALPACA, 400)
        tokenizer.eos_token = None
        notes = make_usable(tokenizer, None)
        assert tokenizer.eos_token_id is not None
        assert "added" in notes[0]

    def test_a_whole_one_stays(self, tokenizer: Any) -> None:
        assert make_usable(tokenizer, 7) == []
