"""Reading messages from a terminal: line editing, history, completion, longer texts.

prompt_toolkit does the editing; a terminal that can do nothing (`TERM=dumb`) is read line by line.
What a message means is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.history import History
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PROMPT, MORE = "> ", "… "
FENCE = '"""'
LONGEST = 10_000  # characters of a message that the history keeps


def read_message(read_line: Callable[[str], str]) -> str:
    """One message: a line, lines that each end in a backslash, or lines between two `\"\"\"`.

    Args:
        read_line: takes a prompt, gives a line without its newline (`input`), or several that
            were pasted.

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
    """Where earlier messages are kept: `$XDG_STATE_HOME/alpaca/chat_history`."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "alpaca" / "chat_history"


class Reader(Protocol):
    """Reads lines from a person."""

    def __call__(self, prompt: str) -> str:
        """A line, or several that are one message.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C; the line is dropped.
        """

    def edit(self, text: str) -> str | None:
        """A text as the person has changed it; None where lines cannot be changed here."""


class PlainReader:
    """Lines as the terminal gives them."""

    def __call__(self, prompt: str) -> str:
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()  # noqa: T201 - the cursor still stands behind the prompt
            raise

    def edit(self, text: str) -> str | None:
        return None


class LineEditor:
    """Lines that are edited with prompt_toolkit, with a history that outlives the process.

    Args:
        path: the file of the history.
        words: the commands.
        arguments: command -> what may follow it; an empty list stands for names of files.

    Attributes:
        problem: why the history cannot be kept, or an empty string.
    """

    def __init__(
        self, path: Path, words: Iterable[str], arguments: Mapping[str, Iterable[str]]
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.shortcuts import CompleteStyle

        self.problem = ""
        # A menu of the commands opens by itself; all else is completed with Tab.
        typing = Condition(lambda: _is_command_name(self._messages.default_buffer.text))
        self._messages: PromptSession[str] = PromptSession(
            history=self._history(path),
            completer=_completer(sorted(words), arguments),
            complete_while_typing=typing,
            complete_style=CompleteStyle.COLUMN,
            key_bindings=_keys(),
            prompt_continuation=MORE,
            enable_open_in_editor=True,
            reserve_space_for_menu=6,
        )
        # Votes and continued lines are not messages.
        self._others: PromptSession[str] = PromptSession()

    def __call__(self, prompt: str) -> str:
        if prompt != PROMPT:
            return self._others.prompt(prompt)
        return self._messages.prompt(prompt)

    def edit(self, text: str) -> str | None:
        return self._messages.prompt(PROMPT, default=text)

    def _history(self, path: Path) -> History:
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        reader = self

        class Kept(FileHistory):
            def store_string(self, string: str) -> None:
                if not reader.problem and len(string) <= LONGEST:
                    try:
                        super().store_string(string)
                    except OSError as error:
                        reader.problem = _no_history(path, error)

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Messages may be private: readable by the owner only.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            self.problem = _no_history(path, error)
            return InMemoryHistory()
        return Kept(str(path))


def _no_history(path: Path, error: OSError) -> str:
    return f"{path}: no history: {error.strerror or error}"


def _is_command_name(text: str) -> bool:
    return text.startswith("/") and not text.startswith("//") and not set(text) & set(" \n")


def _keys() -> KeyBindings:
    """Enter sends a message that is complete; Alt-Enter starts a new line."""
    from prompt_toolkit.enums import DEFAULT_BUFFER
    from prompt_toolkit.filters import has_focus
    from prompt_toolkit.key_binding import KeyBindings
    from prompt_toolkit.keys import Keys

    keys = KeyBindings()
    typing = has_focus(DEFAULT_BUFFER)  # and not what is searched for

    @keys.add("enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        before = buffer.document.text_before_cursor
        at_end = not buffer.document.text_after_cursor.strip()
        if at_end and before.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.insert_text("\n")
        elif at_end and _is_open(buffer.text):
            buffer.insert_text("\n")
        else:
            buffer.validate_and_handle()

    @keys.add("escape", "enter", filter=typing)
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add(Keys.BracketedPaste, filter=typing)
    def _(event: KeyPressEvent) -> None:
        # What was copied with its last line end would show an empty line below itself.
        pasted = event.data.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
        event.current_buffer.insert_text(pasted)

    return keys


def _is_open(text: str) -> bool:
    """Whether a text between two `\"\"\"` has begun and not ended."""
    text = text.strip()
    return text.startswith(FENCE) and not text.removeprefix(FENCE).endswith(FENCE)


def _completer(words: Iterable[str], arguments: Mapping[str, Iterable[str]]) -> Completer:
    from prompt_toolkit.completion import Completer, Completion, PathCompleter, WordCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)
    commands = WordCompleter(list(words), sentence=True)

    class Completions(Completer):
        def get_completions(
            self, document: Document, complete_event: CompleteEvent
        ) -> Iterable[Completion]:
            text = document.text_before_cursor
            name, space, rest = text.partition(" ")
            if not space:
                if _is_command_name(text):
                    yield from commands.get_completions(document, complete_event)
            elif name in arguments and "\n" not in rest:
                after = Document(rest.lstrip())
                if known := list(arguments[name]):
                    for word in known:
                        if word.startswith(after.text):
                            yield Completion(word, -len(after.text))
                else:
                    yield from paths.get_completions(after, complete_event)

    return Completions()
