"""The rules that a whole candidate must pass: is it worth keeping, as it stands?

Two kinds: bounds and word lists from the recipe (`generate.filters`), and the rules for single
rows that `alpaca seed` lints with (`alpaca_cli.data.lint`), which are always on. Whether a
candidate is new is not asked here (`alpaca_cli.data.pool`), nor whether its answer is true.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import Filters
from alpaca_cli.data.lint import row_findings

# The recipe has its own bounds on length.
_LENGTH_RULES = frozenset({"short-instruction", "long-instruction", "long-output"})

Verdict = tuple[str, str]


def make_filter(settings: Filters) -> Callable[[Example], Verdict | None]:
    """A function from an example to (reason, detail) of the first rule it breaks, else None."""
    keywords = _any_of(settings.keywords)
    openings = _any_of(settings.openings)

    def check(example: Example) -> Verdict | None:
        words = len(example.instruction.split())
        answer_words = len(example.output.split())
        if words < settings.min_words:
            return "too_short", f"the instruction has {words} words"
        if words > settings.max_words:
            return "too_long", f"the instruction has {words} words"
        if answer_words > settings.max_output_words:
            return "output_too_long", f"the output has {answer_words} words"
        if openings and (found := openings.match(example.instruction)):
            return "opening", found[0]
        if keywords and (found := keywords.search(example.instruction)):
            return "keyword", found[0]
        first = example.instruction[:1]
        if first in _DEBRIS or (settings.ascii_start and not (first.isascii() and first.isalnum())):
            return "bad_start", f"the instruction begins with {first!r}"
        for rule, reason in row_findings(example):
            if rule not in _LENGTH_RULES:
                return rule.replace("-", "_"), reason
        return None

    return check


# No sentence begins with these; a list or a template that was cut does.
_DEBRIS = frozenset("!),.:;?]}|>*#-+=_~\\/")


def _any_of(phrases: list[str]) -> re.Pattern[str] | None:
    """Matches any of the phrases as whole words, whatever their case; None for no phrases."""
    if not phrases:
        return None
    listed = "|".join(re.escape(phrase) for phrase in phrases)
    return re.compile(rf"(?<!\w)(?:{listed})(?!\w)", re.IGNORECASE)
