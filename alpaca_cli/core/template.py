"""The student prompt: the text a model is trained on and asked with.

The Alpaca template is a wire format: every existing Alpaca checkpoint expects these bytes
(source: Stanford Alpaca, train.py, PROMPT_DICT). A template is stored beside every model we
write (`prompt_template.json`), and `chat`, `eval` and `export` read it from there, so that the
prompt at inference is the prompt of training.

Tokenisation is not known here.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from alpaca_cli.core.errors import DataError, UsageError, did_you_mean

FILE_NAME = "prompt_template.json"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """Two prompt forms; the answer follows the prompt directly, then the EOS token.

    `turn` is what a further user message adds to a conversation; `{instruction}` and `{input}`
    are the only placeholders. With `chat_template` the tokenizer's own chat template is used
    instead, and the three texts are empty.
    """

    name: str
    with_input: str = ""
    without_input: str = ""
    turn: str = ""
    chat_template: bool = False

    def prompt(self, instruction: str, input: str = "") -> str:
        """The prompt text for one example, up to where the answer starts."""
        text = self.with_input if input else self.without_input
        return _fill(text, instruction, input)

    def further_turn(self, instruction: str) -> str:
        """The text that a follow-up message adds after the previous answer."""
        return _fill(self.turn, instruction, "")

    def save(self, folder: Path) -> None:
        """Write `prompt_template.json` into a model folder."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=2)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _fill(text: str, instruction: str, input: str) -> str:
    # One pass over the template: braces inside the user's own text stay what they are.
    values = {"{instruction}": instruction, "{input}": input}
    return re.sub(r"\{instruction\}|\{input\}", lambda match: values[match[0]], text)


ALPACA = PromptTemplate(
    name="alpaca",
    with_input=(
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    ),
    without_input=(
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
    ),
    turn="\n\n### Instruction:\n{instruction}\n\n### Response:",
)
TOKENIZER = PromptTemplate(name="tokenizer", chat_template=True)
TEMPLATES = {template.name: template for template in (ALPACA, TOKENIZER)}


def load_template(name_or_path: str) -> PromptTemplate:
    """A template by name, or from a JSON file with the fields of `PromptTemplate`.

    Raises:
        UsageError: neither a known name nor an existing file.
        DataError: the file is not a template.
    """
    if name_or_path in TEMPLATES:
        return TEMPLATES[name_or_path]
    path = Path(name_or_path)
    if not path.is_file():
        raise UsageError(
            f'no prompt template "{name_or_path}"{did_you_mean(name_or_path, TEMPLATES)}',
            hint=f"known: {', '.join(TEMPLATES)}, or a path to a JSON file",
        )
    try:
        template = PromptTemplate(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: not a prompt template: {error}") from error
    if not template.chat_template:
        for field, places in (
            ("with_input", ("{instruction}", "{input}")),
            ("without_input", ("{instruction}",)),
        ):
            for place in places:
                if getattr(template, field).count(place) != 1:
                    raise DataError(f"{path}: {field}: must hold {place} exactly once")
    return template


def stored_template(folder: Path) -> PromptTemplate | None:
    """The template stored with a model, or None when the folder has none."""
    path = folder / FILE_NAME
    return load_template(str(path)) if path.is_file() else None
