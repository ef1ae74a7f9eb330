"""What `alpaca chat` can be asked for, which flags go together, and who carries it out."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from alpaca_cli.cli.options import SafeConsole, print_json, runs_folder, stderr
from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.progress import Progress

if TYPE_CHECKING:
    from alpaca_cli.stages.speaker import Speaker

HERE = "127.0.0.1"
MODES = ("serve", "parity", "web", "blind", "vs")  # the first that is given names the mode


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The flags as given; names are theirs, with `_` for `-`."""

    model: str | None
    prompt: str | None
    input: str | None
    system: str
    base_url: str | None
    api_key_env: str | None
    sampling: Mapping[str, object]
    plain: bool
    json: bool
    parity: Path | None
    vs: str | None
    vs_base_url: str | None
    blind: bool
    votes: Path | None
    data: str | None
    web: bool
    open: bool
    auth: str | None
    serve: bool
    engine: str | None
    address: str | None
    port: int | None


# What a flag goes with; the empty name is a conversation, or one answer for a script.
_GOES_WITH = {
    "prompt": {""},
    "plain": {""},
    "json": {"", "parity"},
    "input": {"", "vs", "blind"},
    "system": {"", "vs", "blind", "web"},
    "base_url": {"", "vs", "blind", "web"},
    "api_key_env": {"", "vs", "blind", "web"},
    "sampling": {"", "vs", "blind", "web"},
    "vs": {"vs", "blind", "web"},
    "vs_base_url": {"vs", "blind", "web"},
    "blind": {"blind", "web"},
    "votes": {"blind", "web"},
    "data": {"blind"},
    "open": {"web"},
    "auth": {"web"},
    "address": {"web", "serve"},
    "port": {"web", "serve"},
    "engine": {"serve"},
}
_NEEDS = {"blind": "vs", "vs_base_url": "vs", "votes": "blind", "data": "blind"}


def carry_out(wish: Wish, *, quiet: bool) -> None:
    """Do what the flags say.

    Raises:
        UsageError: they do not go together.
    """
    mode, progress = mode_of(wish), Progress(stderr(), quiet=quiet)
    if mode == "serve":
        _serve(wish, progress)
    elif wish.parity is not None:
        _prove(wish, wish.parity, progress)
    elif mode == "web":
        _web(wish, progress)
    elif wish.vs is not None:
        _two(wish, wish.vs, progress)
    else:
        _one(wish, progress)


def mode_of(wish: Wish) -> str:
    """The flag that says what is to be done; empty for a conversation or one answer.

    Raises:
        UsageError: names two flags that do not go together, or one that is missing.
    """
    values = {each.name: getattr(wish, each.name) for each in fields(wish) if each.name != "model"}
    # Zero is a port; only what is not there counts as not given.
    given = {name for name, value in values.items() if value or type(value) is int}
    mode = next((name for name in MODES if name in given), "")
    for name, other in _NEEDS.items():
        if name in given and other not in given:
            raise UsageError(f"{_flag(name)} needs {_flag(other)}")
    for name in sorted(given - {mode}):
        modes = _GOES_WITH.get(name, set())
        if mode not in modes:
            if mode:
                raise UsageError(f"{_flag(name)} does not go with {_flag(mode)}")
            raise UsageError(f"{_flag(name)} needs {' or '.join(map(_flag, sorted(modes)))}")
    return mode


def _flag(name: str) -> str:
    if name == "sampling":
        return "a sampling flag"
    return f"--{name.replace('_', '-')}"


def _open(wish: Wish, progress: Progress, name: str | None, base_url: str | None) -> Speaker:
    from alpaca_cli.stages.speakers import open_speaker

    return open_speaker(
        name,
        runs_folder(),
        progress,
        base_url=base_url,
        api_key_env=wish.api_key_env or "OPENAI_API_KEY",
        flags=wish.sampling,
    )


def _one(wish: Wish, progress: Progress) -> None:
    """A conversation at a terminal, or one answer on stdout."""
    from alpaca_cli.stages.speakers import begin

    prompt, input = _asked(wish.prompt, wish.input)
    if prompt is None and (wish.json or not sys.stdout.isatty()):
        raise _no_prompt()
    speaker = _open(wish, progress, wish.model, wish.base_url)
    session = begin(speaker, system=wish.system, input=input)
    if prompt is None:
        from alpaca_cli.stages import chat

        console = Console()
        chat.converse(
            speaker,
            session,
            chat.line_reader(console, session),
            console,
            open_other=lambda name, url: _open(wish, progress, name, url),
            plain=wish.plain,
        )
        return

    def write(text: str) -> None:
        if not wish.json:
            sys.stdout.write(text)
            sys.stdout.flush()

    reply, _ = speaker.ask(session, prompt, input, write=write)
    write("\n")
    if wish.json:
        print_json(asdict(reply))
    if reply.finish_reason == "length":
        tokens = reply.usage.get("completion_tokens")
        at = f"at {tokens:,} tokens" if tokens else "by the endpoint"
        progress.warn(f"the reply was cut {at} (--max-new-tokens)")


def _two(wish: Wish, other: str, progress: Progress) -> None:
    """Two models side by side, or blind."""
    from alpaca_cli.stages import versus
    from alpaca_cli.stages.chat import line_reader
    from alpaca_cli.stages.speakers import begin

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError("--vs needs a terminal", hint="alpaca eval --against compares on a file")
    questions = None if wish.data is None else _questions(wish.data)
    speakers = (
        _open(wish, progress, wish.model, wish.base_url),
        _open(wish, progress, other, wish.vs_base_url),
    )
    one, two = (begin(speaker, system=wish.system, input=wish.input or "") for speaker in speakers)
    console = Console()
    read_line = line_reader(console, one)
    if wish.blind:
        versus.blind(speakers, one, read_line, console, _votes(wish), questions)
    else:
        versus.side_by_side(speakers, (one, two), read_line, console)


def _web(wish: Wish, progress: Progress) -> None:
    from alpaca_cli.stages import web
    from alpaca_cli.stages.speakers import begin

    named = [(wish.model, wish.base_url)]
    if wish.vs is not None:
        named.append((wish.vs, wish.vs_base_url))
    where: dict[str, Any] = {
        "address": wish.address or HERE,
        "auth": _who(wish.auth or os.environ.get("ALPACA_AUTH")),
        "votes": _votes(wish) if wish.blind else None,
    }
    web.check(named, **where)
    speakers = [_open(wish, progress, *each) for each in named]
    session = begin(speakers[0], system=wish.system)
    web.run(speakers, session, port=wish.port, open_page=wish.open, **where)


def _serve(wish: Wish, progress: Progress) -> None:
    from alpaca_cli.stages import serve

    engine, address = wish.engine or "auto", wish.address or HERE
    serve.run(wish.model, runs_folder(), progress, address=address, port=wish.port, engine=engine)


def _prove(wish: Wish, data: Path, progress: Progress) -> None:
    from alpaca_cli.core.runfolder import newest_model
    from alpaca_cli.stages import parity

    if wish.json:
        progress = Progress(progress.console, quiet=True)
    model = wish.model
    if model is None:
        model = str(newest_model(runs_folder()))
        progress.info(f"model: {model} (the newest finished run)")
    found = parity.run(model, str(data), progress)
    if wish.json:
        print_json(asdict(found))
    elif found.difference is None:
        count = f"{found.compared:,} of {found.examples:,} examples"
        SafeConsole(highlight=False, soft_wrap=True).print(
            f"{count}: prompt and answer in chat are the ids {found.ids}, EOS included"
        )
    parity.check(found)


def _questions(source: str) -> list[Any]:
    """What is voted on, each question once."""
    from alpaca_cli.stages.questions import read_questions
    from alpaca_cli.stages.versus import Question

    asked = [Question(each.instruction, each.input) for each in read_questions(source)]
    return list(dict.fromkeys(asked))


def _votes(wish: Wish) -> Path:
    return wish.votes or runs_folder() / "votes.jsonl"


def _who(auth: str | None) -> tuple[str, str] | None:
    """Name and password."""
    if auth is None:
        return None
    name, colon, password = auth.partition(":")
    if not colon:
        raise UsageError("--auth: USER:PASSWORD, with a colon between")
    return name, password


def _asked(prompt: str | None, input: str | None) -> tuple[str | None, str]:
    """Prompt and input field with what is piped in; the prompt is None for a conversation.

    Raises:
        UsageError: nothing to ask, or no text on stdin.
    """
    # No stdin at all (`<&-`) is as good as an empty one.
    terminal = sys.stdin is not None and sys.stdin.isatty()
    piped = ""
    if sys.stdin is not None and not terminal and (prompt is None or input is None):
        try:
            piped = sys.stdin.buffer.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"stdin is not UTF-8 text: {error}") from error
    if prompt is not None:
        if not prompt.strip():
            raise UsageError("the prompt is empty")
        return prompt, input or piped
    if not piped and not terminal:
        raise _no_prompt()
    return piped or None, input or ""


def _no_prompt() -> Exception:
    return UsageError("no prompt", hint='alpaca chat -p "…", or pipe the prompt in')
