"""A prompt of the user's own: a text file with named places that are filled in for each request.

    You write tasks for an assistant. …                        the system message, static
    ---
    Examples:
    {{demonstrations}}
    Write {{tasks}} new ones. {{form}}                         the user message

A line `---` parts the two; without one, all is the user message. For the endpoint of base models
both are one text, which may end in `{{next}}. Instruction:` for the model to go on with. Braces
stand doubled only where something is filled in, so JSON needs no escaping.

Everything is checked when the file is read, before any request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from alpaca_cli.core.errors import UsageError, did_you_mean

PLACES = {
    "tasks": "how many new tasks to write",
    "demonstrations": "the tasks shown, in the form that is asked for",
    "form": "how the reply must look (JSON or numbered text)",
    "next": "the number of the first new task, for numbered text",
    "total": "demonstrations and new tasks together",
}
_PLACE = re.compile(r"\{\{[ \t]*([^{}\n]*?)[ \t]*\}\}")


@dataclass(frozen=True, slots=True)
class PromptText:
    """The texts of a prompt, with places still to be filled in."""

    system: str
    user: str


def load_prompt(path: Path, demonstrations: bool) -> PromptText:
    """Read a prompt file.

    Args:
        demonstrations: whether any are to be shown, so that the file must have a place for them.

    Raises:
        UsageError: the file cannot be read, or names an unknown place (with file and line), or
            has none for what must be told, or no user message.
    """
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{number}: not UTF-8 text: {error.reason}") from error
    except OSError as error:
        raise UsageError(f"generate.prompt: {path}: {error.strerror or error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        for name in _PLACE.findall(line):
            if name not in PLACES:
                raise UsageError(
                    f"{path}:{number}: {{{{{name}}}}} is not a place that is filled in"
                    f"{did_you_mean(name, PLACES)}",
                    hint="known: " + ", ".join(f"{{{{{known}}}}}" for known in PLACES),
                )
    found = set(_PLACE.findall(text))
    for name in ("tasks", *(["demonstrations"] if demonstrations else [])):
        if name not in found and not (name == "tasks" and "total" in found):
            raise UsageError(
                f"{path}: there is no {{{{{name}}}}}: {PLACES[name]}",
                hint="set generate.demonstrations to 0 to show none"
                if name == "demonstrations"
                else "the prompt must say how many tasks to write",
            )
    parts = re.split(r"^---[ \t]*(?:\n|\Z)", text, maxsplit=1, flags=re.MULTILINE)
    system, user = parts if len(parts) == 2 else ("", text)
    if not user.strip():
        number = text[: len(system)].count("\n") + 1
        raise UsageError(f"{path}:{number}: after `---` there is no user message")
    return PromptText(system.strip(), user.strip())


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its places filled in; what is filled in is not looked at again."""
    return _PLACE.sub(lambda place: values[place[1]], text)
