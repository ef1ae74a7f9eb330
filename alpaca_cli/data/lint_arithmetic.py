"""Sums in an answer that do not compute: `17 + 25 = 43`.

Only what can be computed exactly is judged: numbers, + - × ÷ / ^, parentheses, percentages, money
and units, on both sides of an equals sign. A finding needs every reading of the line to be wrong:
a decimal stands for all numbers that round to it, a result may be rounded or cut to the digits that
it shows, `%` may be a hundredth or a unit, and a dash at the start of a line may be a bullet. An
equation with a letter for a number, with two units that would have to be converted, or with
something beside it that is not understood here (√, !, scales such as "million", mixed fractions,
decimal commas) is left alone. Word problems are not solved, nor is it known whether the right
numbers were used.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import product

from alpaca_cli.core.records import Example
from alpaca_cli.data.lint_sums import (
    NotUnderstoodError,
    Span,
    Token,
    digits_of,
    read_tokens,
    value_of,
)

_MAX_LINE = 2000  # characters of a line that are read


# Written in other ways; LaTeX and typographic forms become what _TOKEN reads.
_FORMS = (
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\[dt]?frac\{(\d+(?:\.\d+)?)\}\{(\d+(?:\.\d+)?)\}"), r"((\1)/(\2))"),
    (re.compile(r"(?<!\d)\*\*|\*\*(?![\d(])|\\[()\[\],]|\\(?=[%$])|__"), ""),
    (re.compile(r"(?<=\d)\s*[xX]\s*(?=[\d($€£])"), " * "),
    (re.compile(r"(?<=[\d)])²"), "^2"),
    (re.compile(r"(?<=[\d)])³"), "^3"),
    (re.compile(r"＝"), "="),
)
_ITEM = re.compile(r"^\s*(?:\d{1,3}[.)、](?!\d)|[•*+](?=\s))\s*")
_HAS_SUM = re.compile(r"[-+*/×÷−–^xX%·²³\\][^=\n]{0,60}?[=＝]\s*[-−(]?\s*[$€£¥]?\s*[\d(.]|\\frac")
# Whole lines that are not meant to compute, or not to the digit.
_INEXACT = re.compile(
    r"round|approx|about|roughly|estimat|nearest|almost|nearly|≈|~|约|左右|四舍五入|取整|"
    r"remainder|余|floor|integer division|\bmod\b|false|incorrect|wrong|mistake|invalid|not equal|"
    r"错误|不等",
    re.I,
)
# Tasks in which signs and digits mean something else.
_OTHER_SUMS = re.compile(
    r"binary|hexadec|octal|\bbase[- ]?\d|modul|\bmod\b|bitwise|\bxor\b|\bstring|concat|riddle|"
    r"puzzle|clock|\berrors?\b|mistake|incorrect|wrong|matrix|matrices|vector|complex number|"
    r"二进制|十六进制|谜|错误|矩阵",
    re.I,
)
_SCALES = re.compile(
    r"(?:thousands?|millions?|billions?|trillions?|hundreds?|dozens?|[kmb]n?|percent|r|"
    r"remainder|degrees?|squared|cubed|mod|e|pi|i|half|halves|thirds?|quarters?)\.?$|[万亿千百折成倍次]",
    re.I,
)
# Before a number they make it another one, or say which of several things is meant.
_FUNCTIONS = frozenset(
    {
        "sin", "cos", "tan", "log", "ln", "lg", "sqrt", "root", "exp", "abs", "of", "by", "per",
        "plus", "minus", "times", "divided", "over", "mod", "squared", "cubed", "twice", "double",
        "half", "triple", "thrice", "quarter", "third", "negative", "square", "cube", "less",
        "more", "than", "week", "weeks", "day", "days", "hour", "hours", "year", "years", "page",
        "pages", "chapter", "chapters", "step", "steps", "question", "questions", "problem",
        "problems",
    }
)  # fmt: skip
# May stand right after a number; one letter would be a variable.
_UNITS = frozenset(
    {
        "cm", "mm", "km", "kg", "mg", "lb", "lbs", "oz", "ft", "yd", "mi", "ml", "cl", "hr",
        "hrs", "min", "mins", "sec", "secs", "mph", "kmh", "kw", "kwh", "hz", "usd", "eur", "gb",
        "mb", "kb",
    }
)  # fmt: skip
# Between a number and a sign, but no unit: "she is 9 because - 18 / -2 = 9".
_NO_UNITS = frozenset(
    {
        "because", "and", "so", "is", "as", "then", "or", "since", "if", "but", "minus", "plus",
        "times", "of",
    }
)  # fmt: skip
_CLOSING = frozenset(".,;:!?)]}\"'”’»。，；：！？）】|*_…、")


def wrong_sum(example: Example) -> str:
    """The first equation of an output that does not compute; empty when there is none."""
    output = example.output
    if not ("=" in output or "＝" in output) or not _HAS_SUM.search(output):
        return ""
    question = f"{example.instruction}\n{example.input}"
    if _OTHER_SUMS.search(question):
        return ""
    asked = "".join(question.split())
    for line in output.splitlines():
        if not ("=" in line or "＝" in line) or _INEXACT.search(line):
            continue
        for equation, value in _wrong_in(line[:_MAX_LINE]):
            if "".join(equation.split()) not in asked:
                return f"{equation}, and it is {value}"
    return ""


def _wrong_in(line: str) -> Iterator[tuple[str, str]]:
    """Equations of a line that do not compute, with what their left side is."""
    line = _ITEM.sub("", line)
    for form, plain in _FORMS:
        line = form.sub(plain, line)
    tokens = read_tokens(line)
    signs = [place for place, token in enumerate(tokens) if token.kind == "equals"]
    if any(_compares(tokens, place) for place in signs):
        return  # a program's line
    for begin, place, end in zip([-1, *signs], signs, [*signs[1:], len(tokens)], strict=False):
        left, right = _left(tokens, begin + 1, place), _right(tokens, place + 1, end)
        computes = any(token.kind in ("op", "power") or token.text == "of" for token in left[1:])
        if not left or not right or not computes:
            continue
        if _one_unit(left, right) and (value := _differs(left, right)):
            yield f"{_write(left)} = {_write(right)}", value


def _compares(tokens: Sequence[Token], place: int) -> bool:
    """Whether the equals sign is part of another sign, such as ==, != or +=, or has no sides."""
    if place in (0, len(tokens) - 1):
        return False
    before, after = tokens[place - 1], tokens[place + 1]
    joined = before.text in "<>!:~≠" or before.kind in ("op", "power")
    return joined or (not after.spaced and after.text in ">=~")


def _is_unit(tokens: Sequence[Token], place: int) -> bool:
    """Whether the word at a place is the unit of a number just before it."""
    token, before = tokens[place], tokens[place - 1] if place else None
    if before is None or before.kind not in ("number", "percent"):
        return False
    if token.kind == "word":
        word = token.text.lower()
        return word in _UNITS or (token.spaced and len(word) > 1 and word not in _NO_UNITS)
    return token.kind == "han" and len(token.text) <= 3


_PARTS = frozenset(("number", "op", "power", "open", "close", "money", "percent"))


def _left(tokens: Sequence[Token], begin: int, end: int) -> list[Token]:
    """The longest run before an equals sign that is a sum; nothing when something is in the way."""
    start = end
    while start > begin:
        token = tokens[start - 1]
        follows = tokens[start] if start < len(tokens) else None
        percent_of = (
            token.text == "of" and start - 2 >= begin and tokens[start - 2].kind == "percent"
        )
        unit = _is_unit(tokens, start - 1) and (
            follows is None or follows.kind in ("op", "equals", "close")
        )
        if token.kind not in _PARTS and not percent_of and not unit:
            break
        start -= 1
    run = list(tokens[start:end])
    if not run or not _may_begin(tokens, start, begin):
        return []
    return run


def _may_begin(tokens: Sequence[Token], start: int, begin: int) -> bool:
    """Whether a sum can begin here: nothing before it belongs to it."""
    first = tokens[start]
    if start == begin:
        # After an equals sign, or at the start of the line, where a dash may be a bullet.
        return first.kind != "op" or first.text in "-−–"
    before = tokens[start - 1]
    if first.kind in ("op", "power", "close", "percent"):
        return False
    if before.kind == "han":
        return not (start - 2 >= begin and tokens[start - 2].kind == "number")
    if before.kind == "word":
        word = before.text.lower().rstrip(".")
        mixed = word == "and" and start - 2 >= begin and tokens[start - 2].kind == "number"
        return first.spaced and len(word) > 1 and word not in _FUNCTIONS and not mixed
    if before.text == ":" and start - 2 >= begin and len(tokens[start - 2].text) == 1:
        return False  # a header of a notation: "Q: 1/4 = 68"
    if before.text == "." and before.spaced:
        return False  # a torn decimal: ". 84"
    if before.text in ",.:" and start - 2 >= begin and not first.spaced:
        return tokens[start - 2].kind != "number"
    return before.text in ":;,.?!\"'“‘(（[|>。，；：、？！" and (
        first.spaced or before.text not in ">."
    )


def _right(tokens: Sequence[Token], begin: int, end: int) -> list[Token]:
    """The sum after an equals sign; nothing when what follows belongs to it or is not clear."""
    stop = begin
    while stop < end and (tokens[stop].kind in _PARTS or _is_unit(tokens, stop)):
        token = tokens[stop]
        if token.kind == "open" and stop > begin and token.spaced:
            break
        if tokens[stop].kind in ("word", "han"):
            stop += 1
            break
        stop += 1
    run = list(tokens[begin:stop])
    while run and run[-1].kind == "close" and _depth(run) < 0:
        run.pop()
        stop -= 1
    follows = tokens[stop] if stop < len(tokens) else None
    if run and run[-1].kind == "op" and run[-1].text in "-–−" and run[-1].spaced:
        if follows is None or follows.kind != "word" or len(follows.text) < 2 or not follows.spaced:
            return []
        return run[:-1]
    if not run or run[-1].kind in ("op", "power", "open", "money") or _depth(run):
        return []
    if follows is None or follows.kind in ("equals", "han"):
        return run
    if follows.kind == "word":
        return run if follows.spaced and not _SCALES.match(follows.text) else []
    if follows.kind in ("open", "close", "money"):
        return run if follows.spaced or follows.kind == "close" else []
    if follows.kind == "other" and not follows.spaced:
        after = tokens[stop + 1] if stop + 1 < len(tokens) else None
        return run if follows.text in _CLOSING and (after is None or after.kind != "number") else []
    return run if follows.kind == "other" and follows.text in "|;,→⇒#&<" else []


def _depth(run: Sequence[Token]) -> int:
    return sum((token.kind == "open") - (token.kind == "close") for token in run)


def _one_unit(left: Sequence[Token], right: Sequence[Token]) -> bool:
    """Whether nothing has to be converted: one unit, or one of the factors' in the product."""
    names = [
        {
            token.text.lower().rstrip(".s²³") or token.text
            for token in side
            if token.kind in ("word", "han", "money") and token.text != "of"
        }
        for side in (left, right)
    ]
    if any(_SCALES.match(token.text) for token in (*left, *right) if token.kind in ("word", "han")):
        return False
    if not names[1] <= names[0] and names[0]:
        return False
    adds = any(token.kind == "op" and token.text in "+-−–" for token in left)
    return len(names[0] | names[1]) < 2 or not adds


def _differs(left: Sequence[Token], right: Sequence[Token]) -> str:
    """What the left side is when no reading of both sides makes them equal, else nothing."""
    first = ""
    hundredth, unit = Fraction(1, 100), Fraction(1)
    parts = [left]
    if left[0].kind == "op":  # a dash at the start of a line: a bullet, or a minus
        parts.insert(0 if left[1].spaced else 1, left[1:])
    for part in parts:
        for percent, share in product((hundredth, unit), repeat=2):
            try:
                value, wanted = value_of(part, percent), value_of(right, share)
            except NotUnderstoodError:
                return ""
            if _same(value, wanted, right, share) or _other_scale(value, wanted):
                return ""
            first = first or _decimal((value.low + value.high) / 2)
    return first


def _same(value: Span, wanted: Span, right: Sequence[Token], share: Fraction) -> bool:
    """Whether the spans meet; a result may be rounded, or cut, to the digits that it shows.

    Args:
        share: what a percent sign on the right side stands for.
    """
    shown = [digits_of(token.text) for token in right if token.kind == "number"]
    place = Fraction(1, 10 ** max(shown, default=0))
    if any(token.kind == "percent" for token in right):
        place *= share
    exact = value.low == value.high and (value.low / place).denominator == 1
    computed = any(token.kind in ("op", "power") for token in right[1:])
    if exact or (computed and value.low == value.high):
        place = Fraction(0)
    value = value.shifted(place)
    return value.low <= wanted.high and wanted.low <= value.high


def _other_scale(value: Span, wanted: Span) -> bool:
    """Whether the two are in units of one thing: cents and dollars, thousands and ones."""
    return any(
        value.low * scale == wanted.low or wanted.low * scale == value.low
        for scale in (100, 1000, 1_000_000)
    ) and bool(value.low)


def _decimal(value: Fraction) -> str:
    """A number for people: at most four decimals, without zeros at the end."""
    return f"{float(value):,.4f}".rstrip("0").rstrip(".")


def _write(run: Sequence[Token]) -> str:
    """The tokens as a text, without the full stop after a unit."""
    pieces = (" " * (token.spaced and place > 0) + token.text for place, token in enumerate(run))
    return "".join(pieces).rstrip(".")
