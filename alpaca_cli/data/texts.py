"""What of an example is compared, and when two texts count as the same one."""

from __future__ import annotations

from alpaca_cli.core.records import Example


def key_text(example: Example, key: str) -> str:
    """The text of an example that is compared: `instruction`, `instruction+input` or `output`."""
    if key == "output":
        return example.output
    if key == "instruction+input" and example.input:
        return f"{example.instruction}\n{example.input}"
    return example.instruction


def plain(text: str) -> str:
    """The text without what does not make it another one: case and white space."""
    return " ".join(text.casefold().split())
