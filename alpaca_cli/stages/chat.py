"""The chat stage: a conversation with a model at a terminal.

It needs no run folder and leaves nothing behind but what `/save` writes. The conversation as data
is `alpaca_cli.stages.chat_session`; how a model is asked, `alpaca_cli.stages.speaker`; how a reply
is shown, `alpaca_cli.stages.chat_screen`; two models at once, `alpaca_cli.stages.versus`.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from alpaca_cli.core.errors import AlpacaError, Terminated, UsageError
from alpaca_cli.stages.chat_input import (
    LineEditor,
    PlainReader,
    Reader,
    history_file,
    read_message,
)
from alpaca_cli.stages.chat_screen import (
    MarkdownStream,
    PlainStream,
    note,
    show_error,
    shown,
    undisturbed,
)
from alpaca_cli.stages.chat_session import (
    COMMANDS,
    OFF,
    Command,
    Session,
    apply,
    parse,
    settings,
    short,
    without_last,
)
from alpaca_cli.stages.interrupts import ctrl_c_stops
from alpaca_cli.stages.speaker import Reply, Speaker
from alpaca_cli.stages.speakers import passed_on
from alpaca_cli.stages.speaking import after_reply
from alpaca_cli.stages.versus import answer_both

Opener = Callable[[str, str | None], Speaker]
"""A speaker by its name, and the address of the endpoint that has it."""


@dataclass(slots=True)
class Talk:
    """A conversation at a terminal, and who takes part in it.

    Attributes:
        other: a model whose answers are shown beside those that the conversation goes on with.
        last: the last reply.
    """

    speaker: Speaker
    session: Session
    read_line: Reader
    console: Console
    open: Opener
    plain: bool
    other: Speaker | None = None
    last: Reply | None = None


def line_reader(console: Console, session: Session) -> Reader:
    """What reads from this terminal: an editor of lines where it can show one."""
    if console.is_dumb_terminal:
        return PlainReader()
    files: list[str] = []
    arguments = {
        "/set": [f"{name} " for name in settings(session)],
        **{f"/{name}": files for name in ("save", "load", "model", "compare")},
    }
    return LineEditor(history_file(), [f"/{name}" for name in COMMANDS], arguments)


def converse(
    speaker: Speaker,
    session: Session,
    read_line: Reader,
    console: Console,
    *,
    open_other: Opener,
    plain: bool = False,
) -> Session:
    """Talk until the person leaves (Ctrl-D, `/quit`); returns the session as it ended.

    Ctrl-C ends a reply, which stays in the conversation as far as it came. At the prompt it
    drops the line. Errors are shown and the conversation goes on.

    Args:
        open_other: for `/model` and `/compare`.
        plain: show replies as the text that they are, not as Markdown.
    """
    plain = plain or console.is_dumb_terminal
    talk = Talk(speaker, session, read_line, console, open_other, plain)
    _introduce(talk)
    while True:
        try:
            heard = parse(read_message(read_line))
            if isinstance(heard, Command):
                if _command(talk, heard):
                    return talk.session
            elif heard:
                _exchange(talk, talk.session, heard, talk.session.input)
        except Terminated:
            raise
        except KeyboardInterrupt:
            note(console, "Ctrl-D or /quit leaves")
        except EOFError:
            return talk.session
        except AlpacaError as error:
            show_error(console, error)


def _command(talk: Talk, command: Command) -> bool:
    """Carry out a command; whether it is the last one."""
    match command.name:
        case "edit":
            _edit(talk)
        case "tokens":
            note(talk.console, _tokens(talk))
        case "model":
            _model(talk, command.argument)
        case "compare":
            _compare(talk, command.argument)
        case _:
            step = apply(talk.session, command)
            if step.say:
                note(talk.console, step.say)
            if step.ask is not None:
                _exchange(talk, step.session, *step.ask)
            else:
                talk.session = step.session
            return step.quit
    return False


def _exchange(talk: Talk, session: Session, message: str, input: str) -> None:
    """Ask, show the reply as it comes, and go on with it."""
    if talk.other is None:
        reply, seen = _answer(talk, session, message, input)
    else:
        speakers = (talk.speaker, talk.other)
        sessions = (session, passed_on(session, *speakers))
        [(reply, seen), _] = answer_both(speakers, sessions, message, input, talk.console)
    _remark(talk, reply, len(session.exchanges()) - seen)
    talk.console.print()
    talk.session, talk.last = after_reply(session, input, reply, seen), reply


def _answer(talk: Talk, session: Session, message: str, input: str) -> tuple[Reply, int]:
    with undisturbed(talk.console), ctrl_c_stops() as pressed:
        screen = PlainStream(talk.console) if talk.plain else MarkdownStream(talk.console)

        def stop() -> bool:
            screen.refresh()
            return pressed()

        try:
            return talk.speaker.ask(session, message, input, write=screen.write, stop=stop)
        finally:  # after an error, too: what has come is told, though it is not kept
            screen.close()


def _remark(talk: Talk, reply: Reply, left_out: int) -> None:
    """What a person should know of a reply beside its text."""
    if left_out:
        turns = "turn is" if left_out == 1 else "turns are"
        note(talk.console, f"[the context is full: {left_out} earlier {turns} left out]")
    if reply.finish_reason == "length":
        tokens = reply.usage.get("completion_tokens")
        note(talk.console, f"[cut at {tokens:,} tokens]" if tokens else "[cut at its limit]")
    elif reply.finish_reason == "interrupted":
        note(talk.console, "[stopped; what was said stays in the conversation]")
    elif not reply.response:
        note(talk.console, "[an empty reply]")
    elif reply.finish_reason != "stop":
        note(talk.console, f"[ended: {reply.finish_reason}]")


def _edit(talk: Talk) -> None:
    """Let the person change the last message, and ask it."""
    before, last = without_last(talk.session, "edit")
    changed = edited(last.message, talk.read_line).strip()
    if not changed:
        raise UsageError("the message is empty: the conversation stays as it was")
    note(talk.console, f"changed: {short(changed)}")
    _exchange(talk, before, changed, last.input)


def edited(text: str, read_line: Reader) -> str:
    """A text as the person has changed it, in `$VISUAL` or `$EDITOR` or else where they type.

    Raises:
        UsageError: there is no editor, or it failed.
    """
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    if not editor:
        if (changed := read_line.edit(text)) is None:
            raise UsageError("this terminal cannot edit lines", hint="export EDITOR=…")
        return changed
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "message.md"
        path.write_text(f"{text}\n", "utf-8")
        try:
            code = subprocess.run([*shlex.split(editor), str(path)], check=False).returncode
            changed = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise UsageError(f"EDITOR={editor}: {error}") from error
    if code:
        raise UsageError(f"EDITOR={editor}: ended with {code}: nothing was changed")
    return changed


def _tokens(talk: Talk) -> str:
    room = talk.speaker.room(talk.session, "", talk.session.input)
    if room is None:
        usage = talk.last.usage if talk.last is not None else {}
        if not usage:
            return f"{talk.speaker.name} counts tokens only when it answers"
        return (
            f"the last exchange: {usage.get('prompt_tokens', 0):,} tokens asked, "
            f"{usage.get('completion_tokens', 0):,} answered"
        )
    said = f"{room.tokens:,} tokens before the next message"
    if room.context is not None:
        said += f", {room.tokens / room.context:.0%} of {room.context:,}"
    if room.left_out:
        said += f"; {room.left_out:,} of {len(talk.session.exchanges()):,} earlier turns left out"
    return said


def _model(talk: Talk, argument: str) -> None:
    """Say who answers, or let another model go on with the conversation."""
    if argument:
        other = talk.open(*_named(argument))
        talk.session = passed_on(talk.session, talk.speaker, other)
        talk.speaker.close()
        talk.speaker, talk.last = other, None
    _name(talk)


def _compare(talk: Talk, argument: str) -> None:
    """Begin, end or tell the comparison with another model."""
    if argument:
        other = None if argument == OFF else talk.open(*_named(argument))
        if talk.other is not None:
            talk.other.close()
        talk.other = other
    if talk.other is None:
        note(talk.console, "no comparison; /compare NAME shows what another model answers")
    else:
        names = f"{talk.speaker.name} and {talk.other.name}"
        note(talk.console, f"{names} answer; the conversation goes on with {talk.speaker.name}")


def _named(argument: str) -> tuple[str, str | None]:
    """A model's name and, behind it, the address of its endpoint."""
    name, _, last = argument.rpartition(" ")
    if name and last.startswith(("http://", "https://")):
        return name.strip(), last
    return argument, None


def _introduce(talk: Talk) -> None:
    _name(talk)
    note(talk.console, "/help lists the commands · Ctrl-C stops a reply · Ctrl-D leaves")
    talk.console.print()


def _name(talk: Talk) -> None:
    name = Text(shown(talk.speaker.name), style="bold")
    about = Text(f" · {shown(talk.speaker.about)}", style="not bold")
    talk.console.print(name + about, highlight=False, soft_wrap=True)
    for line in talk.speaker.notes:
        note(talk.console, line)
    if not talk.session.history:
        note(talk.console, "(/set history on: earlier messages count)")
