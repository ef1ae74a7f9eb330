"""Showing replies on a terminal while they are being written.

A reply is Markdown. Its finished blocks are printed once and stay; only the last block, which may
still change, is drawn again, line by line where a line has changed, so that nothing flickers. What
is shown at the end is the whole reply, the same as if it had come at once.

Who writes is not known here. Texts come free of control characters, or are freed of them here.
"""

from __future__ import annotations

import re
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown, MarkdownElement
from rich.syntax import Syntax
from rich.text import Text
from rich.theme import Theme

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.core.progress import CONTROL

REDRAWS = 20  # a second, at most
SHARE = 4  # times as long as drawing took is waited until the next: a fifth of a core at most
_STYLES = re.compile(r"\x1b\[[0-9;]*m")
_THEME = Theme({"markdown.code": "cyan"})  # rich's has a black background
# DEC mode 2026: terminals that know it show what is between the two at once; others ignore it.
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"
NEXT = "\r\n"


class Region:
    """The last lines of a terminal, drawn again and again; a line that is the same stays."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: list[str] = []
        self._width = console.width

    def draw(self, lines: Sequence[str], settled: Sequence[str] = ()) -> None:
        """Show these lines, only the last of them where the terminal is too low for all.

        Args:
            settled: lines before them, all of which are printed and stay.
        """
        low = lines[-max(1, self._console.height - 1) :]
        self._replace([*settled, *low], end=NEXT if settled and not low else "")
        self._shown = list(low)

    def _replace(self, lines: Sequence[str], end: str) -> None:
        width, top = self._console.width, self._to_top()
        if len(lines) < len(self._shown) or width != self._width:
            # After another width the terminal has wrapped what is shown anew, or cut it.
            top, self._shown = f"{top}\x1b[J", []
        out = []
        for number, line in enumerate(lines):
            if number < len(self._shown) and self._shown[number] == line:
                out.append("")
            else:
                # After a full line the cursor still stands on its last character.
                out.append(line if cell_len(plain(line)) >= width else f"{line}\x1b[K")
        self._width = width
        self._console.file.write(f"{_BEGIN}{top}{NEXT.join(out)}{end}{_END}")
        self._console.file.flush()

    def _to_top(self) -> str:
        """Moves to the start of the first line that is shown."""
        width = self._console.width
        rows = sum(max(1, -(-cell_len(plain(line)) // width)) for line in self._shown)
        up = min(rows, self._console.height) - 1
        return f"\r\x1b[{up}A" if up > 0 else "\r"


class Pace:
    """Says when drawing is due: not too often, and never for most of the time."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self) -> bool:
        return time.monotonic() >= self._next

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Around one drawing."""
        began = time.monotonic()
        yield
        ended = time.monotonic()
        self._next = ended + max(1 / REDRAWS, SHARE * (ended - began))


class MarkdownStream:
    """A reply in Markdown as it is being written."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._region = Region(console)
        self._pace = Pace()
        self._text = ""
        self._changed = self._printed = False
        self._region.draw(["…"])

    def write(self, text: str) -> None:
        """Take in more of the reply, which is drawn when that is due."""
        self._text += text
        self._changed = self._changed or bool(text)
        self.refresh()

    def refresh(self) -> None:
        """Draw what has come since the last drawing, if that is due."""
        if self._changed and self._pace.due():
            with self._pace.drawing():
                self._draw(finished(self._text))
            self._changed = False

    def close(self) -> None:
        """Print the end of the reply, or as much of it as there is."""
        self._draw(len(self._text))

    def _draw(self, length: int) -> None:
        """Print so much of the text for good, and show the rest."""
        settled = self._lines(self._text[:length])
        self._text, self._printed = self._text[length:], self._printed or bool(settled)
        self._region.draw(self._lines(self._text), settled)

    def _lines(self, text: str) -> list[str]:
        lines = rendered(self._console, text)
        return ["", *lines] if lines and self._printed else lines


class PlainStream:
    """The same, as the text that it is."""

    def __init__(self, console: Console) -> None:
        self._file = console.file

    def write(self, text: str) -> None:
        """Show more of the reply."""
        self._file.write(text)
        self._file.flush()

    def refresh(self) -> None:
        """Everything is shown already."""

    def close(self) -> None:
        """End the last line."""
        self.write("\n")


def finished(text: str) -> int:
    """How many characters of a Markdown text are blocks that nothing after them can change.

    That is all before the last block, and of that whole lines only: a line that goes on may turn
    out to belong to the block before it.
    """
    whole = text[: text.rfind("\n") + 1]
    starts = [token.map[0] for token in parsed(whole) if token.level == 0 and token.map]
    before = whole.split("\n")[: starts[-1]] if starts else []
    return sum(len(line) + 1 for line in before)


def rendered(console: Console, text: str) -> list[str]:
    """A Markdown text as lines with their styles: one empty line between blocks, none around."""
    lines: list[str] = []
    for block in _blocks(parsed(text)):
        found = lines_of(console, _Block(block))
        while found and not plain(found[-1]):
            found.pop()
        while found and not plain(found[0]):
            found.pop(0)
        if found:
            lines += ["", *found] if lines else found
    return lines


def lines_of(console: Console, renderable: RenderableType) -> list[str]:
    """What the console would print, as lines with their styles."""
    with console.use_theme(_THEME), console.capture() as captured:
        console.print(renderable, highlight=False)
    return [_without_end(line) for line in captured.get().removesuffix("\n").split("\n")]


def parsed(text: str) -> list[Token]:
    """A Markdown text as markdown-it's tokens, read as the replies of models are meant.

    HTML stays the text that it is, for it would be left out; so do definitions of links, which
    could change what was printed long before. An image is a link with an exclamation mark. A line
    break is one.
    """
    parser = MarkdownIt().enable(["strikethrough", "table"])
    parser.disable(["html_block", "html_inline", "reference", "image"])
    tokens = parser.parse(text)
    for token in tokens:
        if token.children:
            token.children = _inline(token.children)
    return tokens


def _inline(tokens: list[Token]) -> list[Token]:
    """The parts of a line, an address that is its own text told once."""
    found: list[Token] = []
    for token in tokens:
        if token.type == "softbreak":
            token.type = "hardbreak"
        found.append(token)
        link = found[-3:]
        if token.type == "link_close" and link[0].attrs.get("href") == link[1].content:
            found[-3:] = [link[1]]
    return found


def _blocks(tokens: Sequence[Token]) -> Iterator[list[Token]]:
    block: list[Token] = []
    for token in tokens:
        block.append(token)
        if token.level == 0 and token.nesting <= 0:
            yield block
            block = []


class _Heading(Heading):
    """A heading at the left, as all the rest."""

    LEVEL_ALIGN: ClassVar[dict[str, JustifyMethod]] = {}


class _Code(CodeBlock):
    """Code in the terminal's own colours."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Syntax(
            str(self.text).rstrip(),
            self.lexer_name,
            theme="ansi_dark",
            background_color="default",
            word_wrap=True,
            padding=(0, 2),
        )


class _Block(Markdown):
    """One block of a reply, from its tokens. A link shows where it leads."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _Code,
        "code_block": _Code,
    }

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__("", hyperlinks=False)
        self.parsed = tokens


def _without_end(line: str) -> str:
    """The line without the spaces that only fill it up."""
    return re.sub(r"(?:\x1b\[[0-9;]*m| )+$", _keep_reset, line)


def _keep_reset(match: re.Match[str]) -> str:
    return "\x1b[0m" if "\x1b" in match[0] else ""


def markdown(text: str) -> Markdown:
    """A whole reply, for where it is one of several things on a screen."""
    return _Block(parsed(shown(text)))


def plain(line: str) -> str:
    """A line without its styles."""
    return _STYLES.sub("", line)


@contextmanager
def undisturbed(console: Console) -> Iterator[None]:
    """Hide the cursor, and do not show keys that are pressed, while something is being drawn.

    What is typed meanwhile is not lost: it is read afterwards.
    """
    if not sys.stdin.isatty():
        yield
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    console.show_cursor(False)
    termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        console.show_cursor(True)


def shown(text: str) -> str:
    """The text without what would steer a terminal."""
    return text.translate(CONTROL)


def note(console: Console, text: str) -> None:
    """Say something beside the conversation."""
    console.print(Text(shown(text), style="dim"), highlight=False)


def show_error(console: Console, error: AlpacaError) -> None:
    """Say what went wrong, and what to do."""
    message = Text(shown(str(error)), style="red")
    console.print(message, highlight=False)
    if error.hint:
        note(console, error.hint)
