"""The chat template of an export: servers prompt the model with the tokens of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from alpaca_cli.core.template import ALPACA, PromptTemplate
from alpaca_cli.model.chat_template import FILE_NAME, chat_template, joined_input
from alpaca_cli.model.export import write_chat_template
from alpaca_cli.model.tokenizer import encode_prompts, train_tokenizer
from tests.tiny import TEXTS
from tests.tokenizers import CHATML, byte_level, llama_like

ASKED = [
    ("List three animals that live in the sea.", ""),
    ("Sort these numbers: 4 1 9.", "4\n\n1 {9} 'é' \\n {{ x }}"),
    ("Say {instruction} and {{ messages }} and ''' twice\nover", ""),
    ("Translate.\n\n### Response:\nno", "### Instruction:\nyes"),
]
QUOTED = PromptTemplate(
    name="quoted",
    with_input="<<'{input}'>>\n\\Q: {instruction}\nA:",
    without_input="It's {{ a }}\n\\Q: {instruction}\nA:",
    turn="\nQ: {instruction}\nA:",
)


def ours() -> Any:
    return train_tokenizer(TEXTS, ALPACA, 320)


def with_bos() -> Any:
    """As LLaMA-3's: byte-level, BOS before every text."""
    from tokenizers import processors

    tokenizer = byte_level(bos_token="<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|im_start|> $A", None, [("<|im_start|>", tokenizer.bos_token_id)]
    )
    return tokenizer


TOKENIZERS = {
    "from scratch": ours,
    "byte level": byte_level,
    "byte level with BOS": with_bos,
    "SentencePiece": llama_like,
}


def saved(folder: Path, tokenizer: Any, template: PromptTemplate) -> Any:
    """The tokenizer as an export leaves it, loaded again."""
    folder.mkdir()
    tokenizer.save_pretrained(folder)
    template.save(folder)
    assert write_chat_template(folder, folder, template) == ""
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_single_exchange_is_token_for_token_that_of_training(tmp_path: Path, kind: str) -> None:
    tokenizer = saved(tmp_path / "model", TOKENIZERS[kind](), ALPACA)
    trained = encode_prompts(tokenizer, ALPACA, ASKED)
    for (instruction, input), ids in zip(ASKED, trained, strict=True):
        content = joined_input(ALPACA, instruction, input)
        messages = [{"role": "user", "content": content}]
        for more in (True, False):
            found = tokenizer.apply_chat_template(
                messages, add_generation_prompt=more, return_dict=False
            )
            assert found == ids
    assert joined_input(ALPACA, "a", "b") == "a\n\n### Input:\nb"


def test_system_prompts_and_turns_stand_where_chat_puts_them(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path / "model", byte_level(), ALPACA)
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Two?"},
    ]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    eos = tokenizer.eos_token
    assert text == ALPACA.prompt("Be brief.\n\nOne?") + f"Yes.{eos}" + ALPACA.further_turn("Two?")


def test_other_templates_with_quotes_and_braces(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path / "model", byte_level(), QUOTED)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x 'y'"}], tokenize=False)
    assert text == QUOTED.prompt("x 'y'")
    assert joined_input(QUOTED, "a", "b") == "ab"  # its input comes first: no place for it


def test_a_chat_template_that_is_there_stays(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(tmp_path)
    before = (tmp_path / FILE_NAME).read_text()
    assert "brings a chat template of its own" in write_chat_template(tmp_path, tmp_path, ALPACA)
    assert (tmp_path / FILE_NAME).read_text() == before
    assert (
        write_chat_template(tmp_path, tmp_path, PromptTemplate("tokenizer", chat_template=True))
        == ""
    )
    assert "stores no prompt template" in write_chat_template(tmp_path, tmp_path, None)


def test_bos_is_written_where_the_tokenizer_puts_it() -> None:
    assert "bos_token" in chat_template(ALPACA, llama_like())
    assert "bos_token" in chat_template(ALPACA, with_bos())
    assert "bos_token" not in chat_template(ALPACA, byte_level())
    assert "bos_token" not in chat_template(ALPACA, byte_level(bos_token="<|im_start|>"))
