"""The chat stage: one answer for a script, or a conversation at a terminal.

It needs no run folder and leaves nothing behind but what `/save` writes. The conversation as
data is `alpaca_cli.stages.chat_session`; how the model is asked, `alpaca_cli.model.sampling`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from alpaca_cli.core.errors import AlpacaError, Terminated, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import newest_model
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.locate import find_model
from alpaca_cli.stages.chat_input import LineReader, history_file, read_message
from alpaca_cli.stages.chat_session import COMMANDS, Command, Session, apply, change, parse

if TYPE_CHECKING:
    from alpaca_cli.model.loading import Student

# What a model writes may steer a terminal (escape sequences start with a control character):
# only newline and tab get through.
CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer. `response` is what it wrote, without white space around it."""

    model: str
    prompt: str
    response: str
    finish_reason: str
    """`stop`: the model ended it; `length`: max_new_tokens or the context did; `interrupted`."""
    usage: Mapping[str, int]
    """Tokens: `prompt_tokens`, `completion_tokens` (EOS not counted), `total_tokens`."""


def open_chat(
    model: str | None, runs: Path, progress: Progress, *, system: str, flags: Mapping[str, object]
) -> tuple[Student, Session]:
    """Load a model, the newest finished run's when none is named, and begin a session with it.

    Earlier turns are shown to models with a chat template only: a model of the Alpaca template
    has learned single exchanges. Sampling is the model's own default but for what flags say.

    Args:
        runs: the folder in which the newest run is looked for.
        flags: setting -> value, None where not given.

    Raises:
        UsageError: a flag's value is outside its range.
        DataError: there is no such model, or it cannot be loaded.
    """
    _with_flags(Session(Sampling()), flags)  # before the model is loaded
    name = model
    if name is None:
        name = str(newest_model(runs))
        progress.info(f"model: {name} (the newest finished run)")
    student = load(name, progress)
    session = Session(student.sampling, history=student.template.chat_template, system=system)
    return student, _with_flags(session, flags)


def ask(
    student: Student,
    session: Session,
    message: str,
    input: str = "",
    *,
    write: Callable[[str], None] = lambda text: None,
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Reply, int]:
    """One reply and how many of the earlier turns it saw.

    When the conversation outgrows the model's context the oldest turns are left out first; the
    system prompt and the message never are.

    Args:
        write: gets the reply as it appears, free of control characters.
        stop: asked before each token; True ends the reply, what was said stays.

    Raises:
        UsageError: the message is empty or not text.
        DataError: the message alone fills the context.
    """
    from alpaca_cli.model.sampling import stream

    if not message.strip():
        raise UsageError("the prompt is empty")
    _check_text(message, input, session.system)
    ids, seen = _fitted(student, session, message, input)
    pieces, trimmer = [], Trimmer()
    for piece in stream(student, ids, session.sampling, stop):
        pieces.append(trimmer.add(piece.text))
        write(pieces[-1].translate(CONTROL))
    usage = {"prompt_tokens": len(ids), "completion_tokens": piece.tokens}
    usage["total_tokens"] = sum(usage.values())
    reason = piece.finish_reason or "interrupted"
    return Reply(student.name, message, "".join(pieces), reason, usage), seen


def line_reader() -> Callable[[str], str]:
    """A reader of lines from the terminal, with history and completion of the commands."""
    return LineReader(history_file(), [f"/{name}" for name in COMMANDS])


def converse(
    student: Student, session: Session, read_line: Callable[[str], str], console: Console
) -> Session:
    """Talk until the person leaves (Ctrl-D, `/quit`); returns the session as it ended.

    Ctrl-C ends a reply, which stays in the conversation as far as it came. At the prompt it
    drops the line. Errors are shown and the conversation goes on.
    """
    _introduce(student, session, console)
    while True:
        try:
            heard = parse(read_message(read_line))
            if isinstance(heard, Command):
                step = apply(session, heard)
                if step.say:
                    _note(console, step.say)
                if step.quit:
                    return session
                if step.ask is None:
                    session = step.session
                else:
                    session = _exchange(student, step.session, *step.ask, console)
            elif heard:
                session = _exchange(student, session, heard, session.input, console)
        except Terminated:
            raise
        except KeyboardInterrupt:
            console.print()
            _note(console, "Ctrl-D or /quit leaves")
        except EOFError:
            console.print()
            return session
        except AlpacaError as error:
            console.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
            if error.hint:
                _note(console, error.hint)


class Trimmer:
    """Takes the white space before and after a text off, while the text arrives in pieces."""

    def __init__(self) -> None:
        self._held, self._started = "", False

    def add(self, text: str) -> str:
        """What is certain to belong to the trimmed text by now."""
        held = self._held + text
        body = held if self._started else held.lstrip()
        solid = body.rstrip()
        self._started = self._started or bool(solid)
        self._held = body[len(solid) :]
        return solid


def load(name: str, progress: Progress) -> Student:
    """Find and load a model; a wrong name fails before torch is imported."""
    folder = find_model(name)
    from alpaca_cli.model.loading import load_student

    if progress.quiet or not progress.console.is_terminal:
        student = load_student(folder, name)
    else:
        with progress.console.status(f"loading {escape(name)}"):
            student = load_student(folder, name)
    for warning in student.warnings:
        progress.warn(warning)
    return student


def _with_flags(session: Session, flags: Mapping[str, object]) -> Session:
    for name, value in flags.items():
        if value is not None:
            session = change(session, name, str(value))
    return session


def _exchange(
    student: Student, session: Session, message: str, input: str, console: Console
) -> Session:
    """Ask, show the reply as it comes, and take it into the session."""

    def write(text: str) -> None:
        console.file.write(text)
        console.file.flush()

    with _ctrl_c_stops() as stop:
        reply, seen = ask(student, session, message, input, write=write, stop=stop)
    console.print()
    left_out = len(session.exchanges()) - seen
    if left_out:
        _note(console, f"[{left_out} earlier turns did not fit into {student.context:,} tokens]")
    if reply.finish_reason == "length":
        _note(console, f"[cut at {reply.usage['completion_tokens']:,} tokens]")
    elif reply.finish_reason == "interrupted":
        _note(console, "[stopped; what was said stays in the conversation]")
    elif not reply.response:
        _note(console, "[an empty reply]")
    console.print()
    whole = reply.finish_reason == "stop"
    return session.answered(message, input, reply.response, follows=seen > 0, whole=whole)


def _fitted(student: Student, session: Session, message: str, input: str) -> tuple[list[int], int]:
    """The prompt's ids, and how many earlier turns are in it: as many as leave room to answer."""
    from alpaca_cli.model.sampling import prompt_ids

    exchanges = session.exchanges()
    room = min(session.sampling.max_new_tokens, student.context // 4)
    for first in range(len(exchanges) + 1):
        seen = exchanges[first:]
        ids = prompt_ids(student, message, input, history=seen, system=session.system)
        if len(ids) + room <= student.context:
            break
    return ids, len(seen)


def _check_text(*texts: str) -> None:
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the prompt is not UTF-8 text") from error


@contextmanager
def _ctrl_c_stops() -> Iterator[Callable[[], bool]]:
    """Ctrl-C sets a flag inside the block; a second one interrupts as always."""
    pressed = False

    def press(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _introduce(student: Student, session: Session, console: Console) -> None:
    size = f"{student.parameters / 1e6:,.1f}M parameters on {student.device.type}"
    console.print(f"[bold]{escape(student.name)}[/] · {size}", highlight=False)
    if not session.history:
        _note(
            console,
            "every message stands alone, as in training (/set history on: earlier ones count)",
        )
    _note(console, "/help lists the commands · Ctrl-C stops a reply · Ctrl-D leaves")
    console.print()


def _note(console: Console, text: str) -> None:
    console.print(escape(text), style="dim", highlight=False)
