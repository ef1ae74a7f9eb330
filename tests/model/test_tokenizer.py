"""Text to ids and back: nothing is lost, and prompts are what training and chat agree on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.template import ALPACA, TOKENIZER
from alpaca_cli.model.tokenizer import (
    EOS,
    Turn,
    decode_response,
    encode_prompts,
    encode_responses,
    load_config,
    load_tokenizer,
    special_ids,
    token_texts,
    train_tokenizer,
    turn_of,
)
from tests.tokenizers import CHATML, LLAMA2, ZEPHYR, byte_level, llama_like

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


class TestTurn:
    """How a chat template ends an answer, found out from the template itself."""

    def test_the_token_after_the_answer_ends_it(self) -> None:
        tokenizer = byte_level()
        tokenizer.chat_template = CHATML
        end = tokenizer.convert_tokens_to_ids("<|im_end|>")
        assert tokenizer.eos_token_id != end
        assert turn_of(tokenizer, TOKENIZER) == Turn((), "", (end,))
        assert turn_of(tokenizer, ALPACA) == Turn((), "", (tokenizer.eos_token_id,))
        [ids] = encode_responses(tokenizer, ["Blue."], TOKENIZER)
        assert tokenizer.decode(ids) == "Blue.<|im_end|>"

    def test_what_stands_before_the_answer_is_part_of_the_response(self) -> None:
        tokenizer = byte_level()
        tokenizer.chat_template = CHATML.replace(
            "{{ m.content }}<|im_end|>",
            "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
            "{{ m.content }}<|im_end|>",
        )
        [prompt] = encode_prompts(tokenizer, TOKENIZER, [("Name a color.", "")])
        [ids] = encode_responses(tokenizer, ["Blue."], TOKENIZER)
        assert tokenizer.decode(prompt).endswith("assistant\n")
        assert tokenizer.decode(ids) == "<think>\n\n</think>\n\nBlue.<|im_end|>"

    @pytest.mark.parametrize(
        "template",
        [
            CHATML.replace("<|im_end|>", ""),  # an end in plain text, or none
            "{% for m in messages %}{% if m.role != 'user' %}{{ raise_exception('no') }}{% endif %}"
            "<{{ m.role }}>{{ m.content }}{% endfor %}",
            "{% for m in messages %}{{ m.role }}{% endfor %}",  # answers are not rendered
        ],
    )
    def test_where_a_template_says_nothing_answers_end_in_eos(self, template: str) -> None:
        tokenizer = byte_level()
        tokenizer.chat_template = template
        assert turn_of(tokenizer, TOKENIZER) == Turn((), "", (tokenizer.eos_token_id,))

    @pytest.mark.parametrize("answer", ["Blue is the answer.", "blue", "3", "a sea\nand"])
    @pytest.mark.parametrize(
        ("kind", "template"),
        [
            (llama_like, LLAMA2),
            (llama_like, ZEPHYR),
            (byte_level, LLAMA2),
            (byte_level, ZEPHYR),
            (byte_level, CHATML),
        ],
    )
    def test_the_ids_are_those_of_the_whole_conversation(
        self, kind: Callable[..., Any], template: str, answer: str
    ) -> None:
        """SentencePiece implies a space at the start of a text; in a conversation there is none,
        or one that the template writes: never both.
        """
        tokenizer = kind(bos_token="<s>")
        tokenizer.chat_template = template
        [prompt] = encode_prompts(tokenizer, TOKENIZER, [("Name a color.", "")])
        [response] = encode_responses(tokenizer, [answer], TOKENIZER)
        asked = {"role": "user", "content": "Name a color."}
        answered = {"role": "assistant", "content": answer}
        whole = tokenizer.apply_chat_template([asked, answered], return_dict=False)
        assert prompt + response == whole[: len(prompt + response)]
        assert decode_response(tokenizer, response).strip() == answer


def test_after_the_alpaca_prompt_a_word_keeps_the_space_that_sentencepiece_implies() -> None:
    tokenizer = llama_like()
    [ids] = encode_responses(tokenizer, ["blue"])
    assert tokenizer.convert_ids_to_tokens(ids)[0].startswith("▁")
    assert decode_response(tokenizer, ids) == "blue"


@given(st.text())
def test_the_texts_of_tokens_join_to_the_text(text: str) -> None:
    for tokenizer in (ROUND_TRIP, BYTES, PIECES):
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        found = token_texts(tokenizer, ids)
        assert len(found) == len(ids)
        assert "".join(found) == decode_response(tokenizer, ids)


BYTES, PIECES = byte_level(), llama_like()


def test_special_tokens_are_shown_by_name() -> None:
    tokenizer = llama_like()
    ids = [*tokenizer("blue sea")["input_ids"], tokenizer.eos_token_id]
    texts = token_texts(tokenizer, ids)
    assert (texts[0], texts[-1]) == ("<s>", "</s>")
    assert "".join(texts[1:-1]) == "blue sea"
    assert {ids[0], ids[-1]} <= special_ids(tokenizer)
    assert not {*ids[1:-1]} & special_ids(tokenizer)


def test_a_character_cut_off_is_shown_with_its_last_token() -> None:
    ids = BYTES("日")["input_ids"]
    assert len(ids) == 3
    assert token_texts(BYTES, ids) == ["", "", "日"]
    assert token_texts(BYTES, ids[:2])[0] == ""
    assert "\ufffd" in token_texts(BYTES, ids[:2])[1]


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"train.model: {tmp_path}: cannot load its tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="cannot load its configuration"):
        load_config(tmp_path)
