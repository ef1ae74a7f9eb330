"""What a written sum is: its tokens, and all the numbers that it may stand for.

Exact fractions throughout; a decimal stands for every number that rounds to it. Which sums of a
text are to be computed, and when two sides differ, is known to `alpaca_cli.data.lint_arithmetic`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

_MAX_EXPONENT, _MAX_TOKENS = 64, 60


@dataclass(frozen=True, slots=True)
class Span:
    """All that a written number may stand for; exact when both ends are the same."""

    low: Fraction
    high: Fraction

    def shifted(self, by: Fraction) -> Span:
        """The span with `by` more on either side."""
        return Span(self.low - by, self.high + by)


class Token(NamedTuple):
    """A piece of a line: its kind, its text, and whether white space stands before it."""

    kind: str
    text: str
    spaced: bool


class NotUnderstoodError(Exception):
    """An expression that cannot be computed here."""


_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)
      | (?P<equals>=)
      | (?P<power>\^|(?<=\d)\*\*(?=[\d(]))
      | (?P<op>[-+*/×÷·−–])
      | (?P<open>\()
      | (?P<close>\))
      | (?P<money>[$€£¥])
      | (?P<percent>%|％)
      | (?P<word>[A-Za-z°µ][A-Za-z'.°]*[²³]?)
      | (?P<han>[\u3400-\u9fff]+)
      | (?P<other>.)""",
    re.VERBOSE,
)


def read_tokens(line: str) -> list[Token]:
    """The pieces of a line; white space is remembered by what follows it."""
    tokens, spaced = [], True
    for match in _TOKEN.finditer(line):
        kind = match.lastgroup or "other"
        if kind == "space":
            spaced = True
            continue
        tokens.append(Token(kind, match[0], spaced))
        spaced = False
    return tokens


def digits_of(number: str) -> int:
    """Decimals that a number shows."""
    return len(number.partition(".")[2])


def value_of(run: Sequence[Token], percent: Fraction) -> Span:
    """What an expression is.

    Raises:
        NotUnderstoodError: it is none, or takes too long.
    """
    tokens = [
        Token("op", "*", True) if token.text == "of" else token
        for token in run
        if token.kind not in ("word", "han", "money") or token.text == "of"
    ]
    if len(tokens) > _MAX_TOKENS:
        raise NotUnderstoodError
    reader = _Reader(tokens, percent)
    value = reader.sum()
    if reader.place != len(tokens):
        raise NotUnderstoodError
    return value


class _Reader:
    """A recursive descent over the tokens of one expression."""

    def __init__(self, tokens: Sequence[Token], percent: Fraction) -> None:
        self.tokens, self.percent, self.place = tokens, percent, 0

    def next(self, kind: str, texts: str = "") -> str:
        """The next token's text when it is of a kind (and one of these), which is then read."""
        if self.place < len(self.tokens):
            token = self.tokens[self.place]
            if token.kind == kind and (not texts or token.text in texts):
                self.place += 1
                return token.text
        return ""

    def sum(self) -> Span:
        """Products, added and subtracted."""
        value = self.product()
        while sign := self.next("op", "+-−–"):
            other = self.product()
            if sign == "+":
                value = Span(value.low + other.low, value.high + other.high)
            else:
                value = Span(value.low - other.high, value.high - other.low)
        return value

    def product(self) -> Span:
        """Powers, multiplied and divided; a number and a parenthesis side by side, too."""
        value = self.signed()
        while True:
            if sign := self.next("op", "*/×÷·"):
                other = self.signed()
                if (
                    sign in "/÷"
                    and self.place < len(self.tokens)
                    and (self.tokens[self.place].text in "/÷")
                ):
                    raise NotUnderstoodError  # a / 1/3 is written for a / (1/3), too
                value = _times(value, other) if sign in "*×·" else _over(value, other)
            elif self.place < len(self.tokens) and self._opens():
                value = _times(value, self.signed())
            else:
                return value

    def _opens(self) -> bool:
        token = self.tokens[self.place]
        return token.kind == "open" and not token.spaced

    def signed(self) -> Span:
        """A power with or without a minus."""
        if self.next("op", "-−–"):
            value = self.power()
            return Span(-value.high, -value.low)
        return self.power()

    def power(self) -> Span:
        """A number, a parenthesis or a percentage, to a whole power."""
        value = self.atom()
        if self.next("power"):
            exponent = self.signed()
            count = exponent.low
            if exponent.low != exponent.high or count.denominator != 1:
                raise NotUnderstoodError
            if abs(count) > _MAX_EXPONENT or (count < 0 and value.low <= 0 <= value.high):
                raise NotUnderstoodError
            ends = value.low ** int(count), value.high ** int(count)
            value = Span(min(ends), max(ends))
        return value

    def atom(self) -> Span:
        """A number or a parenthesis, perhaps with a percent sign."""
        if self.next("open"):
            value = self.sum()
            if not self.next("close"):
                raise NotUnderstoodError
        elif text := self.next("number"):
            if len(text) > 1 and text[0] == "0" and text[1].isdigit():
                raise NotUnderstoodError  # a code, or a time of day
            number, digits = Fraction(text.replace(",", "")), digits_of(text)
            value = Span(number, number)
            if digits and "." in text:
                value = value.shifted(Fraction(1, 2 * 10**digits))
        else:
            raise NotUnderstoodError
        if self.next("percent"):
            value = _times(value, Span(self.percent, self.percent))
        return value


def _times(a: Span, b: Span) -> Span:
    ends = (a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high)
    return Span(min(ends), max(ends))


def _over(a: Span, b: Span) -> Span:
    if b.low <= 0 <= b.high:
        raise NotUnderstoodError
    return _times(a, Span(1 / b.high, 1 / b.low))
