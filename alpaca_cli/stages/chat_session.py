"""A conversation as plain data: its exchanges, its settings, its commands, its transcript.

Pure functions from one session to the next; only `/save` and `/load` touch files. How a reply
is made, and how a terminal is read, is not known here, so that commands which need a model or an
editor are carried out by others (`alpaca_cli.stages.chat`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError, did_you_mean
from alpaca_cli.core.files import read_jsonl, write_jsonl
from alpaca_cli.model.dialogue import Exchange, Sampling, joined

COMMANDS = {
    "help": ("", "this list"),
    "new": ("", "forget the conversation; settings stay"),
    "system": ("[TEXT|off]", "set, drop or show the system prompt"),
    "input": ("[TEXT|off]", "set, drop or show the input field of the next message"),
    "set": ("[NAME VALUE]", "show the settings, or change one"),
    "retry": ("", "ask the last message again"),
    "undo": ("", "take back the last message and its reply"),
    "edit": ("", "change the last message and ask it again"),
    "save": ("FILE", "write the conversation as JSONL of chat messages"),
    "load": ("FILE", "read a saved conversation and go on with it"),
    "tokens": ("", "how full the model's context is"),
    "model": ("[NAME [URL]]", "show the model, or go on with another one"),
    "compare": ("[NAME [URL]|off]", "also show what another model answers"),
    "quit": ("", "leave (also Ctrl-D)"),
}
KEYS = (
    'Alt-Enter, or \\ at the end of a line, goes on in a new one; """ starts and ends a longer\n'
    "text. What is pasted is one message. Tab completes, Ctrl-R searches what was typed before."
)
OFF = "off"
NO_LIMIT = 1 << 30
"""`max_new_tokens` that leaves the end of a reply to the model and its context."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message and its reply, with what else the model was shown."""

    message: str
    input: str
    system: str
    reply: str
    follows: bool
    """The model saw the turn before this one."""
    whole: bool = True
    """The model ended the reply, not a limit or the person."""


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a conversation."""

    sampling: Sampling
    history: bool = True
    """Earlier turns are shown to the model."""
    system: str = ""
    input: str = ""
    """The input field of the next message."""
    turns: tuple[Turn, ...] = ()

    def exchanges(self) -> tuple[Exchange, ...]:
        """The earlier turns that the model is to see."""
        if not self.history:
            return ()
        return tuple(Exchange(turn.message, turn.input, turn.reply) for turn in self.turns)

    def answered(
        self, message: str, input: str, reply: str, *, follows: bool, whole: bool
    ) -> Session:
        """The session after a reply; the input field is used up."""
        turn = Turn(message, input, self.system, reply, follows, whole)
        return replace(self, turns=(*self.turns, turn), input="")


@dataclass(frozen=True, slots=True)
class Command:
    """A line that starts with a slash."""

    name: str
    argument: str


@dataclass(frozen=True, slots=True)
class Step:
    """What a command leads to: the next session, something to say, a message to ask, the end."""

    session: Session
    say: str = ""
    ask: tuple[str, str] | None = None
    """(message, input) to send now."""
    quit: bool = False


def parse(text: str) -> str | Command:
    """A message, or a command when the text starts with one slash (`//` is a message's slash).

    Raises:
        UsageError: no such command, which suggests the closest, or one that takes no argument.
    """
    text = text.strip()
    if text.startswith("//"):
        return text[1:]
    if not text.startswith("/"):
        return text
    name, _, argument = text[1:].partition(" ")
    if name not in COMMANDS:
        raise UsageError(
            f"no command /{name}{_slashed(did_you_mean(name, COMMANDS))}",
            hint="/help lists them; a message that starts with a slash is written with two",
        )
    if argument.strip() and not COMMANDS[name][0]:
        raise UsageError(f"/{name} takes nothing after it")
    return Command(name, argument.strip())


def apply(session: Session, command: Command) -> Step:
    """Carry out a command that needs nothing but the conversation.

    Raises:
        UsageError: its argument is missing or wrong; the session stays as it was.
        DataError: the file to load is not a conversation.
    """
    name, argument = command.name, command.argument
    match name:
        case "help":
            return Step(session, _help())
        case "new":
            return Step(replace(session, turns=(), input=""), "a new conversation")
        case "system" | "input":
            return _set_text(session, name, argument)
        case "set":
            return _set(session, argument)
        case "retry":
            before, last = without_last(session, "retry")
            return Step(before, _again(session, last), ask=(last.message, last.input))
        case "undo":
            before, last = without_last(session, "take back")
            return Step(before, f"taken back: {short(last.message)}")
        case "save":
            return Step(session, save(session, _path(command)))
        case "load":
            turns = load(_path(command))
            loaded = replace(session, turns=turns, system=turns[-1].system, input="")
            return Step(loaded, f"{_count(turns)} loaded, the last: {short(turns[-1].message)}")
        case "quit":
            return Step(session, quit=True)
    raise ValueError(f"/{name} is not the conversation's business")


def save(session: Session, path: Path) -> str:
    """Write the conversation; says what was written.

    One line per conversation: `{"messages": [...]}`. A turn asked without the earlier ones is a
    conversation of its own, an example that alpaca trains on; an input field follows its message
    after a blank line.

    Raises:
        UsageError: nothing to save, the file exists, or it cannot be written.
    """
    if not session.turns:
        raise UsageError("nothing to save yet")
    if path.exists():
        raise UsageError(f"{path} exists and stays as it is", hint="save under another name")
    rows = list(_rows(session.turns))
    write_jsonl(path, rows)
    said = f"{_count(session.turns)} saved to {path}"
    if broken := sum(not turn.whole for turn in session.turns):
        said += f", {broken} with a reply that was cut short"
    if several := sum(len(row["messages"]) > 3 for row in rows):
        lines = "line is" if several == 1 else "lines are"
        said += (
            f"\n{several} of {len(rows)} {lines} a conversation of several exchanges, which alpaca "
            "train does not read; single ones (/set history off) it does"
        )
    return said


def load(path: Path) -> tuple[Turn, ...]:
    """The turns of a saved conversation; several lines follow each other.

    Raises:
        DataError: the file is missing or a line is not a conversation; names the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    turns: list[Turn] = []
    for number, row in read_jsonl(path):
        try:
            turns += _turns(row)
        except ValueError as error:
            raise DataError(f"{path}:{number}: {error}") from error
    if not turns:
        raise DataError(f"{path}: holds no conversation")
    return tuple(turns)


def settings(session: Session) -> dict[str, str]:
    """Name -> value of everything `/set` can change, as a person writes it."""
    sampling = session.sampling
    return {
        "temperature": f"{sampling.temperature:g}",
        "top_p": OFF if sampling.top_p == 1 else f"{sampling.top_p:g}",
        "top_k": str(sampling.top_k or OFF),
        "max_new_tokens": OFF
        if sampling.max_new_tokens >= NO_LIMIT
        else str(sampling.max_new_tokens),
        "seed": OFF if sampling.seed is None else str(sampling.seed),
        "history": "on" if session.history else OFF,
    }


def change(session: Session, name: str, value: str) -> Session:
    """The session with one setting changed.

    Raises:
        UsageError: no such setting, or a value outside its range.
    """
    name = _full_name(session, name)
    if name == "history":
        if value not in ("on", OFF):
            raise UsageError(f"history: on or off, not {value}")
        return replace(session, history=value == "on")
    kind, allowed, said, off = _RULES[name]
    if value == OFF and off:
        return replace(session, sampling=replace(session.sampling, **{name: off[0]}))
    try:
        parsed = kind(value)
    except ValueError:
        parsed = None
    if parsed is None or not allowed(parsed):
        raise UsageError(f"{name}: {said}, not {value}")
    return replace(session, sampling=replace(session.sampling, **{name: parsed}))


# Name -> type, what is allowed, the same in words, and what "off" stands for, where it may be off.
_RULES: Mapping[str, tuple[type, Callable[[Any], bool], str, tuple[Any, ...]]] = {
    "temperature": (float, lambda v: 0 <= v <= 5, "a number from 0 (the likeliest token) to 5", ()),
    "top_p": (float, lambda v: 0 < v <= 1, "a number above 0, at most 1 (1: off)", (1.0,)),
    "top_k": (int, lambda v: v >= 0, "a whole number (0: off)", (0,)),
    "max_new_tokens": (int, lambda v: v >= 1, "a whole number from 1, or off", (NO_LIMIT,)),
    "seed": (int, lambda v: 0 <= v < 1 << 63, "a whole number from 0, or off", (None,)),
}


def _full_name(session: Session, name: str) -> str:
    """The setting that a name or the beginning of one stands for."""
    known = settings(session)
    fitting = [each for each in known if each == name] or [
        each for each in known if name and each.startswith(name)
    ]
    if len(fitting) != 1:
        raise UsageError(
            f'no setting "{name}"{did_you_mean(name, known)}', hint=f"known: {', '.join(known)}"
        )
    return fitting[0]


def _set(session: Session, argument: str) -> Step:
    now = settings(session)
    if not argument:
        width = max(map(len, now))
        return Step(session, "\n".join(f"{key:<{width}}  {value}" for key, value in now.items()))
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    name = _full_name(session, name)
    if not value.strip():
        return Step(session, f"{name} = {now[name]}")
    changed = change(session, name, value.strip().lower())
    return Step(changed, f"{name} = {settings(changed)[name]}")


def _set_text(session: Session, name: str, argument: str) -> Step:
    """`/system` and `/input`: show, drop or set."""
    now = session.system if name == "system" else session.input
    if not argument:
        return Step(session, f"{name}: {now}" if now else f"no {name}; /{name} TEXT sets one")
    text = "" if argument == OFF else argument
    if name == "system":
        return Step(
            replace(session, system=text), "system prompt set" if text else "no system prompt"
        )
    said = "the next message has this input" if text else "no input"
    return Step(replace(session, input=text), said)


def without_last(session: Session, what: str) -> tuple[Session, Turn]:
    """The session before its last turn, and that turn.

    Raises:
        UsageError: there is none to `what`.
    """
    if not session.turns:
        raise UsageError(f"nothing to {what} yet")
    return replace(session, turns=session.turns[:-1]), session.turns[-1]


def _again(session: Session, last: Turn) -> str:
    said = f"again: {short(last.message)}"
    if session.sampling.temperature == 0:
        return f"{said}\nat temperature 0 the reply will be the same (/set temperature 0.7)"
    if session.sampling.seed is not None:
        return f"{said}\nwith a fixed seed the reply will be the same (/set seed off)"
    return said


def _path(command: Command) -> Path:
    if not command.argument:
        raise UsageError(f"/{command.name} needs a file name")
    return Path(command.argument).expanduser()


def _help() -> str:
    forms = {f"/{name} {form}".rstrip(): text for name, (form, text) in COMMANDS.items()}
    width = max(map(len, forms))
    lines = [f"{form:<{width}}  {text}" for form, text in forms.items()]
    return "\n".join([*lines, "", KEYS])


def _slashed(suggestion: str) -> str:
    return suggestion.replace('"', "/", 1).replace('"', "", 1)


def short(text: str) -> str:
    """The text in one line of at most 60 characters."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _count(turns: tuple[Turn, ...]) -> str:
    return f"{len(turns)} exchange{'s' * (len(turns) != 1)}"


def _rows(turns: tuple[Turn, ...]) -> Iterator[dict[str, list[dict[str, str]]]]:
    """One row per conversation: it starts with a turn that follows no other."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        if messages and not turn.follows:
            yield {"messages": messages}
            messages = []
        if not messages and turn.system:
            messages.append({"role": "system", "content": turn.system})
        messages.append({"role": "user", "content": joined(turn.message, turn.input)})
        messages.append({"role": "assistant", "content": turn.reply})
    yield {"messages": messages}


def _turns(row: Any) -> list[Turn]:
    """The turns of one row; ValueError says what is wrong with it."""
    messages = row.get("messages") if isinstance(row, dict) else None
    if not isinstance(messages, list) or not messages:
        raise ValueError('a conversation needs a list "messages"')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise ValueError('every message needs text in "content"')
        message["content"].encode()  # half a surrogate pair is not text: UnicodeEncodeError
    has_system = messages[0].get("role") == "system"
    system = messages[0]["content"] if has_system else ""
    rest = messages[1:] if has_system else messages
    roles = [message.get("role") for message in rest]
    if roles != ["user", "assistant"] * (len(rest) // 2) or not rest:
        raise ValueError(f"messages must be user and assistant in turn, not {json.dumps(roles)}")
    pairs = zip(rest[::2], rest[1::2], strict=True)
    return [
        Turn(user["content"], "", system, assistant["content"], follows=number > 0)
        for number, (user, assistant) in enumerate(pairs)
    ]
