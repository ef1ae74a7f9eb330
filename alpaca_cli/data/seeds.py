"""The seed tasks: the built-in set, or a file of the user's.

The built-in set was written for this project by hand (`seeds/builtin.jsonl`, one example a line,
`meta.category` names its kind). Whether seeds are any good is lint's business.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples

GENERATED_ID = re.compile(r"g-(\d+)-(\d+)")  # request and item; see `alpaca_cli.data.pool`
BUILTIN = Path(__file__).parent / "seeds" / "builtin.jsonl"


def load_seeds(source: str) -> list[Example]:
    """The seed tasks of `builtin` or of a file, each with an id that is its own.

    Raises:
        DataError: the file is missing or malformed.
    """
    examples = read_examples([BUILTIN if source == "builtin" else source])
    taken: set[str] = set()
    named = []
    for number, example in enumerate(examples, 1):
        name = example.id or f"seed-{number}"
        if GENERATED_ID.fullmatch(name):  # an earlier run's: this run writes such ids itself
            name = f"seed-{name}"
        while name in taken:
            name = f"{name}-{number}"
        taken.add(name)
        named.append(replace(example, id=name))
    return named
