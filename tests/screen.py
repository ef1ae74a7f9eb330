"""A terminal for tests: a process behind a pseudo-terminal, and the screen that it draws on.

`Screen` keeps the text that a person would see, with what has scrolled away above it. It knows the
control sequences that rich and prompt_toolkit write (ECMA-48, xterm), wraps long lines as xterm
does, and answers when it is asked where the cursor is.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from codecs import getincrementaldecoder
from collections.abc import Callable
from pathlib import Path

from rich.cells import cell_len

from tests.processes import COMMAND, environment

PATIENCE = 60.0  # seconds until what is waited for must be there
TICK = 0.5  # seconds between two looks whether the process has ended
_TOKEN = re.compile(
    r"\x1b\[([?>=]?)([0-9;]*)([@-~])|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[78=>]|[\r\n\b\t\x07]|[^\x00-\x1f\x7f]",
    re.DOTALL,
)
_PARTIAL = re.compile(r"\x1b(?:\[[?>=]?[0-9;]*|\][^\x07\x1b]*\x1b?)?$")


class Screen:
    """Rows and columns of text, and a cursor.

    Attributes:
        above: lines that have scrolled away, oldest first.
        cursor_shown: whether the cursor is visible.
        answers: what the terminal wants to send back.
    """

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.above: list[str] = []
        self.lines: list[list[str]] = [[] for _ in range(rows)]
        self.row = self.column = 0
        self.cursor_shown = True
        self.answers = ""
        self._rest = ""

    @property
    def text(self) -> str:
        """All lines without spaces at their ends, those that have scrolled away first."""
        shown = [_line(line) for line in self.lines]
        while shown and not shown[-1]:
            shown.pop()
        return "\n".join([*self.above, *shown])

    @property
    def cursor_line(self) -> str:
        return _line(self.lines[self.row])

    def resize(self, columns: int, rows: int) -> None:
        """Another size; as in xterm, lines are cut and not wrapped anew."""
        while len(self.lines) > rows:
            if self.row == len(self.lines) - 1:
                self.above.append(_line(self.lines.pop(0)))
                self.row -= 1
            else:
                self.lines.pop()
        self.lines += [[] for _ in range(rows - len(self.lines))]
        self.lines = [line[:columns] for line in self.lines]
        self.columns, self.rows = columns, rows
        self.column = min(self.column, columns)

    def feed(self, text: str) -> None:
        """Draw what a process has written."""
        text = self._rest + text
        rest = _PARTIAL.search(text)
        self._rest = rest[0] if rest else ""
        text = text[: len(text) - len(self._rest)]
        for token in _TOKEN.finditer(text):
            if token[3]:
                self._control(token[1], token[2], token[3])
            elif token[0][0] == "\x1b" or token[0] == "\x07":
                continue
            elif token[0] == "\r":
                self.column = 0
            elif token[0] == "\n":
                self._next_line()
            elif token[0] == "\b":
                self.column = max(0, self.column - 1)
            elif token[0] == "\t":
                self.column = min(self.columns - 1, self.column // 8 * 8 + 8)
            else:
                self._put(token[0])

    def _put(self, character: str) -> None:
        width = cell_len(character)
        if self.column + width > self.columns:
            self.column = 0
            self._next_line()
        line = self.lines[self.row]
        line += [" "] * (self.column + width - len(line))
        line[self.column : self.column + width] = [character] + [""] * (width - 1)
        self.column += width

    def _next_line(self) -> None:
        if self.row < self.rows - 1:
            self.row += 1
        else:
            self.above.append(_line(self.lines.pop(0)))
            self.lines.append([])

    def _control(self, private: str, numbers: str, kind: str) -> None:
        values = [int(number) if number else 0 for number in numbers.split(";")]
        count = max(1, values[0])
        # After the last column the cursor waits there for the next character.
        at = min(self.column, self.columns - 1)
        if private:
            if values[0] == 25:
                self.cursor_shown = kind == "h"
        elif kind == "A":
            self.row = max(0, self.row - count)
        elif kind == "B":
            self.row = min(self.rows - 1, self.row + count)
        elif kind == "C":
            self.column = min(self.columns - 1, at + count)
        elif kind == "D":
            self.column = max(0, at - count)
        elif kind == "G":
            self.column = min(self.columns, count) - 1
        elif kind == "H":
            place = [*values, 0][:2]
            self.row = min(self.rows, max(1, place[0])) - 1
            self.column = min(self.columns, max(1, place[1])) - 1
        elif kind in "JK":
            self._erase(kind, values[0], at)
        elif kind == "n" and values[0] == 6:
            self.answers += f"\x1b[{self.row + 1};{at + 1}R"
        elif kind not in "mhlnctq":
            raise AssertionError(f"a control sequence that this screen does not know: {kind}")

    def _erase(self, kind: str, how: int, at: int) -> None:
        line = self.lines[self.row]
        if how == 0:
            del line[at:]
        elif how == 1:
            line[: at + 1] = [" "] * min(at + 1, len(line))
        else:
            line.clear()
        if kind == "J":
            rows = {0: range(self.row + 1, self.rows), 1: range(self.row)}.get(
                how, range(self.rows)
            )
            for row in rows:
                self.lines[row].clear()


def _line(cells: list[str]) -> str:
    return "".join(cells).rstrip()


class Terminal:
    """`alpaca …` behind a pseudo-terminal.

    Attributes:
        raw: everything that was written, as it was.
    """

    def __init__(
        self, *arguments: object, cwd: Path, columns: int = 100, rows: int = 30, **extra: str
    ) -> None:
        self.screen = Screen(columns, rows)
        self.raw = ""
        self._mark = (0, 0)  # line and column
        self._decoder = getincrementaldecoder("utf-8")()
        self._master, slave = pty.openpty()
        self._size(columns, rows)
        self.before = termios.tcgetattr(slave)
        fixed = {"TERM": "xterm", "XDG_STATE_HOME": str(cwd / "state")}
        kept = environment(**fixed | extra)
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env={name: value for name, value in kept.items() if name not in UNSET - extra.keys()},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        self._slave = slave

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)

    @property
    def modes(self) -> list[object]:
        """The terminal's settings (termios) now."""
        return list(termios.tcgetattr(self._slave))

    def type(self, text: str) -> None:
        """Press keys; Enter is `\\r`."""
        os.write(self._master, text.encode())

    def paste(self, text: str) -> None:
        """Paste text, as terminals do that mark what is pasted."""
        self.type(f"\x1b[200~{text.replace(chr(10), chr(13))}\x1b[201~")

    def resize(self, columns: int, rows: int) -> None:
        """Another size of the window; the process is told by SIGWINCH."""
        self.screen.resize(columns, rows)
        self._size(columns, rows)
        self._mark = (0, 0)

    def expect(self, pattern: str) -> re.Match[str]:
        """Wait until the pattern is on the screen, below what was expected before."""
        found = None

        def there() -> bool:
            nonlocal found
            found = re.compile(pattern, re.DOTALL).search(self.screen.text, self._from())
            return found is not None

        self.wait(there, pattern)
        assert found is not None
        before = self.screen.text[: found.end()].split("\n")
        self._mark = (len(before) - 1, len(before[-1]))
        return found

    def _from(self) -> int:
        """Where in the text what was expected last ends; its line may be another one by now."""
        lines, (row, column) = self.screen.text.split("\n"), self._mark
        above = sum(len(line) + 1 for line in lines[:row])
        return above + (column if row < len(lines) and len(lines[row]) >= column else 0)

    def prompt(self) -> None:
        """Wait until a message can be typed."""
        self.wait(
            lambda: (
                self.screen.cursor_line == ">"
                and self.screen.column == 2
                and self.screen.cursor_shown
            ),
            "the prompt",
        )
        self._mark = (self.screen.text.count("\n"), 0)

    def say(self, text: str) -> None:
        """Type a line at the prompt."""
        self.prompt()
        self.type(f"{text}\r")

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Read what the process writes until the condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            # Ours is a way into the terminal, too: that it has no other is not told by a read.
            ended = self.process.poll() is not None
            if select.select([self._master], [], [], 0 if ended else TICK)[0]:
                self._take(os.read(self._master, 1 << 16))
                continue
            assert not ended, f"ended without {what!r}:\n{self.screen.text}"
            assert time.monotonic() < deadline, f"no {what!r} on\n{self.screen.text}"

    def leave(self, code: int = 0) -> None:
        """Read to the end; the process ends with this exit code."""
        self.wait(lambda: self.process.poll() is not None, "its end")
        while select.select([self._master], [], [], 0)[0]:
            self._take(os.read(self._master, 1 << 16))
        assert self.process.returncode == code, self.screen.text

    def _take(self, more: bytes) -> None:
        text = self._decoder.decode(more)
        self.raw += text
        self.screen.feed(text)
        if self.screen.answers:
            self.type(self.screen.answers)
            self.screen.answers = ""

    def _size(self, columns: int, rows: int) -> None:
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)


# Sizes come from the terminal, and editors from the test.
UNSET = {"COLUMNS", "LINES", "EDITOR", "VISUAL"}


def _take_terminal() -> None:
    """Make the new session's terminal its controlling one, so that Ctrl-C reaches it."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))
