"""Text of the data inside Markdown: of dataset cards and of the summaries of CI pages.

Data is model output and may hold anything: tables, HTML, links, mentions, control characters. Here
it becomes text that shows as what it is, in any renderer of CommonMark or GitHub's Markdown.
"""

from __future__ import annotations

import re
import unicodedata

# What has a meaning inside a line in CommonMark, in GitHub's Markdown (tables, ~~, @names, links
# without brackets) or as mathematics; and what has one where a line begins.
_INLINE = re.compile(r"[\\`*\[\]<>&|~^$@:!#{}]|(?<![a-z\d])_|_(?![a-z\d])|(?<=www)\.", re.I)
_FIRST = re.compile(r"^(\d+(?=[.)])|(?=[-+=]))(.)")

_DIRECTIONS = re.compile("[\u202a-\u202e\u2066-\u2069]")


def literal(text: str) -> str:
    """One line of text in which nothing is markup, also inside a cell of a table.

    Character references never begin or end a structure (CommonMark 0.31, section 2.5).
    """
    line = " ".join(printable(text).split())
    line = _INLINE.sub(lambda found: f"&#{ord(found[0])};", line)
    return _FIRST.sub(lambda found: f"{found[1]}&#{ord(found[2])};", line)


def code(text: str) -> str:
    """The same in the font of code, where no @name becomes a mention and no address a link."""
    return f"<code>{literal(text)}</code>"


def fenced(text: str) -> str:
    """A block of code that shows the text; its fence is longer than any that the text holds."""
    runs = [len(run) for run in re.findall(r"`+", text)]
    fence = "`" * max(3, max(runs, default=0) + 1)
    return f"{fence}text\n{printable(text)}\n{fence}"


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are Markdown already; a head that ends in > is aligned right."""
    marks = ["---:" if head.endswith(">") else "---" for head in heads]
    lines = [[head.removesuffix(">") for head in heads], marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def printable(text: str) -> str:
    """The text without control characters (but for line breaks and tabs), lone surrogates, and
    marks that would turn the direction of what stands around it."""
    return "".join(
        character
        for character in _DIRECTIONS.sub("", text)
        if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cs")
    )
