"""Ollama's Modelfile: which weights, how they are prompted, and when an answer ends.

Ollama renders a Go template with `.System`, `.Prompt` and `.Response`. It knows no input field:
the form without input is used, and what a task is about stands in the prompt. Which weights
Ollama can read is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.template import PromptTemplate

FILE_NAME = "Modelfile"
CONTEXT_LIMIT = 8192  # tokens; Ollama takes memory for all of them at once


def modelfile(
    weights: str,
    template: PromptTemplate | None,
    *,
    stops: Sequence[str],
    context: int | None,
    sampling: Mapping[str, Any],
) -> str:
    """The text of a Modelfile.

    Args:
        weights: a GGUF file, or `.` for the folder of the Modelfile.
        template: None, and one that is the tokenizer's own chat template, are left to Ollama.
        stops: texts of the tokens that end an answer.
        context: most tokens that the model was made for.
        sampling: Ollama's parameter -> value.

    Raises:
        UsageError: the template cannot be written in a Modelfile.
    """
    lines = [f"FROM {weights}"]
    if template is not None and not template.chat_template:
        lines.append(f'TEMPLATE """{go_template(template)}"""')
    else:
        lines.append("# No TEMPLATE: Ollama takes the one that comes with the weights.")
    lines += [f"PARAMETER stop {_quoted(stop)}" for stop in stops]
    if context:
        lines.append(f"PARAMETER num_ctx {min(context, CONTEXT_LIMIT)}")
    lines += [f"PARAMETER {name} {value}" for name, value in sampling.items()]
    return "\n".join(lines) + "\n"


def go_template(template: PromptTemplate) -> str:
    """The prompt without input in Go's template syntax; a system prompt goes before the message.

    Raises:
        UsageError: the prompt holds three quotes, which end a text in a Modelfile.
    """
    if '"""' in template.without_input:
        raise UsageError(f'--ollama: the template {template.name} holds """')
    before, after = (_literal(part) for part in template.without_input.split("{instruction}"))
    system = "{{ if .System }}{{ .System }}\n\n{{ end }}"
    return f"{before}{system}{{{{ .Prompt }}}}{after}{{{{ .Response }}}}"


def _literal(text: str) -> str:
    return text.replace("{{", '{{ "{{" }}')


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
