"""Reading messages from a terminal: line editing, history, completion, longer texts.

The standard library's readline does the editing (GNU readline, or libedit where Python was built
with it). What a message means is not known here.
"""

from __future__ import annotations

import os
import readline
from collections.abc import Callable, Iterable
from pathlib import Path

PROMPT, MORE = "> ", "… "
FENCE = '"""'
HISTORY_LINES = 2000


def read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, lines that each end in a backslash, or lines between two `\"\"\"`.

    Args:
        read_line: takes a prompt, gives a line without its newline (`input`).

    Raises:
        EOFError: the person is done (Ctrl-D).
    """
    line = read_line(PROMPT)
    if line.lstrip().startswith(FENCE):
        return _fenced(line.lstrip().removeprefix(FENCE), read_line)
    lines = []
    while line.endswith("\\"):
        lines.append(line[:-1])
        line = read_line(MORE)
    return "\n".join([*lines, line]).strip()


def _fenced(line: str, read_line: Callable[[str], str]) -> str:
    lines = []
    while not line.rstrip().endswith(FENCE):
        lines.append(line)
        line = read_line(MORE)
    return "\n".join([*lines, line.rstrip().removesuffix(FENCE)]).strip()


def history_file() -> Path:
    """Where earlier lines are kept: `$XDG_STATE_HOME/alpaca/chat_history`."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "alpaca" / "chat_history"


class LineReader:
    """`input` with a history that outlives the process and completion of the given words.

    Attributes:
        problem: why the history cannot be kept, or an empty string.
    """

    def __init__(self, path: Path, words: Iterable[str]) -> None:
        self._path, self._words = path, sorted(words)
        self.problem = ""
        readline.set_history_length(HISTORY_LINES)
        readline.set_completer(self._complete)
        readline.set_completer_delims(" ")
        libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if libedit else "tab: complete")
        if not libedit:
            # A pasted text of several lines is one message, not one for each line.
            readline.parse_and_bind("set enable-bracketed-paste on")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Messages may be private: readable by the owner only.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            readline.read_history_file(path)
        except OSError as error:
            self.problem = f"{path}: no history: {error.strerror or error}"

    def __call__(self, prompt: str) -> str:
        line = input(prompt)
        if line.strip() and not self.problem:
            try:
                readline.write_history_file(self._path)
            except OSError as error:
                self.problem = f"{self._path}: no history: {error.strerror or error}"
        return line

    def _complete(self, text: str, state: int) -> str | None:
        fitting = [f"{word} " for word in self._words if text and word.startswith(text)]
        return fitting[state] if state < len(fitting) else None
