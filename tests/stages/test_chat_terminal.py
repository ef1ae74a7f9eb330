"""`alpaca chat` as a person sees it: a real process on a real pseudo-terminal, and its screen."""

from __future__ import annotations

import io
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.data.formats import read_examples
from alpaca_cli.stages.chat_screen import rendered
from tests.screen import Screen, Terminal
from tests.serving.chat_server import Body, ChatServer, Manner

REPLY = """# Whales

The blue whale is the largest.

```python
def weight(whale):
    return whale.tons * 1000
```

- it *sings*
- it dives

That is all.
"""


def echo(body: Body) -> str:
    """A reply that tells how much of the conversation was sent."""
    return f"{len(body['messages'])}: {body['messages'][-1]['content']}"


def chat(server: ChatServer, folder: Path, *more: object, **extra: Any) -> Terminal:
    return Terminal("chat", "m", "--base-url", server.url, *more, cwd=folder, **extra)


def lines_of(text: str, width: int) -> str:
    """What a reply looks like when it comes at once."""
    return "\n".join(rendered(Console(file=io.StringIO(), width=width), text))


def test_a_reply_streams_and_what_is_finished_stays(tmp_path: Path) -> None:
    with (
        ChatServer(lambda body: REPLY, Manner(pace=1, size=3)) as server,
        chat(server, tmp_path) as terminal,
    ):
        terminal.expect(r"m · at 127.0.0.1:\d+\n/help")
        terminal.say("Tell me about whales")
        first = REPLY.index("```")
        server.step(-(-first // 3) + 1)
        terminal.expect(r"Whales\n\nThe blue whale is the largest\.")
        cursor = [terminal.screen.cursor_shown]
        server.step(6)
        terminal.expect("def weight")
        printed = terminal.raw.count("largest")
        server.step(len(REPLY))
        terminal.expect(r"That is all\.\n\n>")
        assert terminal.raw.count("largest") == printed  # it was not drawn again
        assert lines_of(REPLY, 100) in terminal.screen.text
        assert "**" not in terminal.screen.text
        assert "…" not in terminal.screen.text
        assert [*cursor, terminal.screen.cursor_shown] == [False, True]

        # What is typed during a reply is not shown in the middle of it, and not lost.
        terminal.say("Again")
        server.step(-(-first // 3) + 1)
        terminal.expect("The blue whale")
        before = len(terminal.raw)
        terminal.type("and then?\r")
        server.step(len(REPLY))
        terminal.expect(r"That is all\.\n\n> and then\?\n")
        since = terminal.raw[before:]
        assert since.index("That is all.") < since.index("and then?")
        server.step(len(REPLY))
        terminal.expect(r"That is all\.\n\n>")
        terminal.type("\x04")
        terminal.leave()
        assert terminal.modes == terminal.before
    assert [body["messages"][-1]["content"] for body in server.asked] == [
        "Tell me about whales", "Again", "and then?",
    ]  # fmt: skip
    assert len(server.asked[2]["messages"]) == 5


def test_ctrl_c_stops_a_reply_and_keeps_it(tmp_path: Path) -> None:
    with (
        ChatServer(lambda body: "one two three " * 99, Manner(pace=3, size=14)) as server,
        chat(server, tmp_path) as terminal,
    ):
        terminal.say("Count")
        terminal.expect("one two three one two three")
        terminal.type("\x03")
        terminal.expect(r"\[stopped; what was said stays in the conversation\]\n\n>")
        assert server.hung_up.wait(30)  # the endpoint works on it no longer
        terminal.prompt()
        terminal.type("half a line")
        terminal.expect("> half a line")
        terminal.type("\x03")
        terminal.expect("Ctrl-D or /quit leaves\n>")
        terminal.say("Go on")
        terminal.expect(r"one two three one two three")
        terminal.type("\x03")
        terminal.expect(r"\[stopped")
        terminal.prompt()
        # SIGTERM ends the session and leaves the terminal as it was.
        terminal.process.send_signal(signal.SIGTERM)
        terminal.leave(143)
        assert terminal.modes == terminal.before
    told = server.asked[1]["messages"]
    assert [message["content"] for message in told] == [
        "Count", "one two three one two three", "Go on",
    ]  # fmt: skip


def test_the_window_changes_its_size_during_a_reply(tmp_path: Path) -> None:
    words = " ".join(f"word{number}" for number in range(60))
    reply = f"First block.\n\n{words}\n\n- last"
    with (
        ChatServer(lambda body: reply, Manner(pace=20, size=8)) as server,
        chat(server, tmp_path) as terminal,
    ):
        terminal.say("Go")
        terminal.expect("First block.*word10")
        terminal.resize(60, 20)
        server.step(20)
        terminal.expect(r"word3\d")
        terminal.resize(70, 12)
        server.step(len(reply))
        terminal.expect("• last\n\n>")
        assert lines_of(f"{words}\n\n- last", 70) in terminal.screen.text
        terminal.say("/quit")
        terminal.leave()


def test_what_is_too_high_or_evil_ends_up_on_the_screen_as_text(tmp_path: Path) -> None:
    code = "\n".join(f"x{number} = {number}" for number in range(40))
    high = f"Look:\n\n```python\n{code}\n```\n\nDone."
    evil = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd [link](http://x/\x1b[2J)"
    with (
        ChatServer(
            lambda body: evil if len(body["messages"]) > 1 else high, Manner(size=6)
        ) as server,
        chat(server, tmp_path, columns=40, rows=10) as terminal,
    ):
        terminal.say("Go")
        terminal.expect("Done.\n\n>")
        shown = terminal.screen.text
        assert shown[shown.index("Look") :].startswith(lines_of(high, 40))
        assert shown.count("x0 = 0") == shown.count("x39 = 39") == 1
        terminal.say("Now")
        terminal.expect(r"a\[31mb\]0;titlec2Jd link")
        for sequence in ("\x1b[31m", "\x1b]", "\x9b", "\x07"):
            assert sequence not in terminal.raw.partition("Now")[2]
        terminal.prompt()
        terminal.type("\x04")
        terminal.leave()


def test_messages_of_several_lines_and_a_history(tmp_path: Path) -> None:
    with ChatServer(echo) as server:
        with chat(server, tmp_path) as terminal:
            terminal.prompt()
            terminal.paste("def f(x):\n    return x \\\n        + 1\n")
            terminal.expect(r"\+ 1")
            terminal.type("\r")
            terminal.expect("\n1: def")
            terminal.prompt()
            terminal.type("first\x1b\rsecond\\\rthird\r")  # Alt-Enter, a backslash, Enter
            terminal.expect("3: first\nsecond\nthird")
            terminal.say('"""one\r\rtwo"""')
            terminal.expect("5: one")
            terminal.prompt()
            terminal.type("/sa")
            terminal.wait(lambda: terminal.screen.text.endswith("/save"), "the menu")
            terminal.type("\t")
            terminal.wait(lambda: terminal.screen.cursor_line == "> /save", "/save")
            terminal.type(" x.jsonl\r")
            terminal.expect("3 exchanges saved to x.jsonl")
            terminal.prompt()
            terminal.type("/load ")
            terminal.wait(lambda: terminal.screen.cursor_line == "> /load", "/load")
            terminal.type("x.js\t")
            terminal.wait(lambda: terminal.screen.cursor_line == "> /load x.jsonl", "the file")
            terminal.type("\x15\x04")
            terminal.leave()
        asked = [body["messages"][-1]["content"] for body in server.asked]
        assert asked == [
            "def f(x):\n    return x \\\n        + 1", "first\nsecond\nthird", "one\n\ntwo",
        ]  # fmt: skip
        history = tmp_path / "state" / "alpaca" / "chat_history"
        assert history.stat().st_mode & 0o077 == 0
        with chat(server, tmp_path) as terminal:
            terminal.prompt()
            terminal.type("\x1b[A")
            terminal.expect(r"> /save x.jsonl")
            terminal.type("\x15\x12first")  # Ctrl-U, Ctrl-R
            terminal.expect("`first': first")
            terminal.type("\r")
            terminal.wait(lambda: terminal.screen.text.endswith("… third"), "the message")
            terminal.type("\r")
            terminal.expect("1: first\nsecond\nthird")
            terminal.prompt()
            terminal.type("\x04")
            terminal.leave()


def test_commands_around_a_conversation(tmp_path: Path) -> None:
    editor = tmp_path / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i "s/whales/sharks/" "$1"\n')
    editor.chmod(0o755)

    def manner(body: Body) -> Manner:
        return Manner(drop=3) if body["messages"][-1]["content"] == "Drop" else Manner()

    with (
        ChatServer(echo, manner) as server,
        ChatServer(lambda body: "I am the other one.") as other,
        chat(server, tmp_path, EDITOR=str(editor)) as terminal,
    ):
        terminal.say("/tokens")
        terminal.expect("m counts tokens only when it answers")
        terminal.say("/system Be kind.")
        terminal.expect("system prompt set")
        terminal.say("All about whales")
        terminal.expect("2: All about whales")
        terminal.say("/tokens")
        terminal.expect("the last exchange: 5 tokens asked, 4 answered")
        terminal.say("Drop")
        terminal.expect(r"127.0.0.1:\d+ broke off in the middle of the reply")
        terminal.say("/edit")
        terminal.expect("changed: All about sharks\n2: All about sharks")
        terminal.say("More")
        terminal.expect("4: More")
        terminal.say("/save talk.jsonl")
        terminal.expect("2 exchanges saved.*1 of 1 line is a conversation of several exchanges")
        terminal.say("/undo")
        terminal.expect("taken back: More")
        terminal.say("/sett")
        terminal.expect(r"no command /sett, did you mean /set\?")
        terminal.say("/load talk.jsonl")
        terminal.expect("2 exchanges loaded, the last: More")

        terminal.say(f"/compare n {other.url}")
        terminal.expect("m and n answer; the conversation goes on with m")
        terminal.say("Both?")
        terminal.expect("─ m ─.*─ n ─.*6: Both\\?.*I am the other one")
        terminal.say("/compare off")
        terminal.expect("no comparison")
        terminal.say(f"/model n {other.url}")
        terminal.expect("n · at 127")
        terminal.say("Who?")
        terminal.expect("I am the other one")
        terminal.say("/model runs/nothing")
        terminal.expect("runs/nothing: no such folder")
        terminal.say("/model")
        terminal.expect("n · at 127")
        terminal.say("/quit")
        terminal.leave()
    saved = json.loads((tmp_path / "talk.jsonl").read_text())["messages"]
    assert [message["role"] for message in saved] == ["system", *["user", "assistant"] * 2]
    assert saved[1]["content"] == "All about sharks"
    told = [message["content"] for message in other.asked[1]["messages"]]
    assert told[-3:] == ["Both?", "6: Both?", "Who?"]  # what the first one said


def test_a_message_is_changed_where_it_was_typed(tmp_path: Path) -> None:
    with ChatServer(echo) as server, chat(server, tmp_path) as terminal:
        terminal.say("/edit")
        terminal.expect("nothing to edit yet")
        terminal.say("All about whales")
        terminal.expect("1: All about whales")
        terminal.say("/edit")
        terminal.expect("> All about whales")
        terminal.type("\x7f" * 6 + "sharks\r")
        terminal.expect("1: All about sharks")
        terminal.say("/set history off")
        terminal.expect("history = off")
        terminal.say("Once more")
        terminal.expect("1: Once more")
        terminal.say("/save talk.jsonl")
        terminal.expect("2 exchanges saved to talk.jsonl\n")
        terminal.prompt()
        terminal.type("\x04")
        terminal.leave()
    examples = read_examples([tmp_path / "talk.jsonl"])
    assert [each.instruction for each in examples] == ["All about sharks", "Once more"]


@pytest.mark.parametrize("how", ["dumb", "--plain"])
def test_plain_text_where_nothing_else_is_wanted(tmp_path: Path, how: str) -> None:
    more: tuple[str, ...] = ("--plain",) if how == "--plain" else ()
    extra = {"TERM": "dumb"} if how == "dumb" else {}
    with (
        ChatServer(lambda body: "Some *text*\n\n- and so") as server,
        chat(server, tmp_path, *more, **extra) as terminal,
    ):
        terminal.expect("Ctrl-D leaves\n\n>")
        terminal.type("Go\r")
        terminal.expect(r"Some \*text\*\n\n- and so\n\n>")
        if how == "dumb":
            assert "\x1b" not in re.sub(r"\x1b\[\?25[lh]", "", terminal.raw)
            # A signal that comes just before input() reads is seen by it at the next key only.
            terminal.type("lost\x03\r")
            terminal.expect("Ctrl-D or /quit leaves\n>")
        terminal.type("\x04")
        terminal.leave()


def test_the_screen_of_these_tests_is_one() -> None:
    screen = Screen(5, 2)
    screen.feed("ab\r\ncdefgh\x1b[2D")
    assert screen.text == "ab\ncdefg\nh"
    screen.feed("\x1b[1A\x1b[2Kx\x1b[6n\r\x1b[")
    screen.feed("Jé🦙\n\n")
    assert screen.text == "ab\né🦙"
    assert screen.answers == "\x1b[1;2R"
