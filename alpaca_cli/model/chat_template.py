"""Our prompt as a chat template (Jinja), for servers that know no other form of prompt.

vLLM, `transformers serve` and llama.cpp ask a model through the chat template of its tokenizer.
A model trained with the Alpaca template has none, and would be asked with a prompt that it never
saw. The one made here renders a single exchange token for token as training does; a system
prompt and further messages are placed as `alpaca_cli.model.sampling.prompt_ids` places them.

A chat message has no input field: what follows the template's own words between instruction and
input (`\\n\\n### Input:\\n` for Alpaca) in the first message is its input.
"""

from __future__ import annotations

from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.tokenizer import Tokenizer

FILE_NAME = "chat_template.jinja"


def chat_template(template: PromptTemplate, tokenizer: Tokenizer) -> str:
    """The Jinja text that renders a `PromptTemplate`.

    Tokenizers that put BOS before every text are not asked to by those who render a chat
    template, so the text has it.
    """
    before, after = template.without_input.split("{instruction}")
    lines = [
        f"{{%- set ns = namespace(first=true, system='') -%}}{_bos(tokenizer)}",
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'system' -%}",
        "{%- set ns.system = message['content'] + '\\n\\n' -%}",
        "{%- elif message['role'] == 'assistant' -%}",
        "{{- message['content'] + eos_token -}}",
        "{%- elif ns.first -%}",
        "{%- set ns.first = false -%}",
        *_first_with_input(template),
        f"{{{{- {_text(before)} + ns.system + message['content'] + {_text(after)} -}}}}",
        *(["{%- endif -%}"] if _separator(template) else []),
        "{%- else -%}",
        *_further(template),
        "{%- endif -%}",
        "{%- endfor -%}",
    ]
    return "\n".join(lines) + "\n"


def joined_input(template: PromptTemplate, instruction: str, input: str) -> str:
    """Instruction and input as the one message that the chat template reads them from."""
    return f"{instruction}{_separator(template)}{input}" if input else instruction


def _separator(template: PromptTemplate) -> str:
    """The template's words between instruction and input; empty when the input comes first."""
    _, _, rest = template.with_input.partition("{instruction}")
    between, found, _ = rest.partition("{input}")
    return between if found and between.strip() else ""


def _first_with_input(template: PromptTemplate) -> list[str]:
    """Lines for a first message that brings an input; it opens a block that the caller closes."""
    separator = _separator(template)
    if not separator:
        return []
    before, rest = template.with_input.split("{instruction}")
    after = rest.partition("{input}")[2]
    return [
        f"{{%- if {_text(separator)} in message['content'] -%}}",
        f"{{{{- {_text(before)} + ns.system + message['content'] + {_text(after)} -}}}}",
        "{%- else -%}",
    ]


def _further(template: PromptTemplate) -> list[str]:
    text = template.turn or template.without_input
    before, after = text.split("{instruction}")
    return [f"{{{{- {_text(before)} + message['content'] + {_text(after)} -}}}}"]


def _bos(tokenizer: Tokenizer) -> str:
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("a").input_ids[:1] != [bos]:
        return ""
    return "{{- bos_token -}}"


def _text(text: str) -> str:
    """A Jinja string; only the escapes that llama.cpp's Jinja knows, too."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
