"""The chat page without a browser: who is answered when, who may ask, what a model may write."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import asdict, replace
from html import unescape
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, DataError, TryAgain, UsageError
from alpaca_cli.data.votes import Said, read_votes
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.stages import versus, web, web_chat
from alpaca_cli.stages.chat_session import Session, Turn
from alpaca_cli.stages.listening import is_loopback, listen, url
from alpaca_cli.stages.web_chat import Desk, Visitor, answers, forget, spoken, take_back
from alpaca_cli.stages.web_guard import LARGEST, Guard
from alpaca_cli.stages.web_markdown import harmless
from alpaca_cli.stages.web_vote import Ballot, alone
from tests.pages import Puppet, until

SESSION = Session(Sampling())


def puppets(folder: Path, *names: str) -> list[Puppet]:
    (folder / "gate").touch()
    return [Puppet(name, folder) for name in names]


def visitor(models: int = 1) -> Visitor:
    return Visitor([SESSION] * models)


async def told(
    desks: Sequence[Desk], who: Visitor, message: str, input: str = ""
) -> AsyncGenerator[str, None]:
    """What the visitor is told, each thing once."""
    last = None
    async for now in answers(desks, who, message, input):
        if now != last:
            last = now
            yield now


async def ask(desks: Sequence[Desk], who: Visitor, message: str, input: str = "") -> list[str]:
    return [now async for now in told(desks, who, message, input)]


# --- conversations --------------------------------------------------------------------------------


def test_an_exchange_is_kept_for_each_model(tmp_path: Path) -> None:
    desks, who = [Desk(each) for each in puppets(tmp_path, "a", "b")], visitor(2)
    for message in ("one", "two"):
        assert asyncio.run(ask(desks, who, message, " with "))[-1] == ""
    assert not who.busy
    for session, name in zip(who.sessions, "ab", strict=True):
        assert [turn.message for turn in session.turns] == ["one", "two"]
        assert [turn.follows for turn in session.turns] == [False, True]
        assert session.turns[1].reply.startswith(f"{name} heard 'two' with 'with'")
        assert session.turns[1].reply.endswith("after ['one']")
    assert spoken(who, 0)[0] == ("user", "one\n\nwith")
    assert take_back(who).message == "two"
    assert [len(session.turns) for session in who.sessions] == [1, 1]
    forget(who)
    assert spoken(who, 1) == []
    with pytest.raises(UsageError, match="nothing has been said"):
        take_back(who)


def test_a_stop_ends_the_model_and_keeps_what_was_said(tmp_path: Path) -> None:
    desk, who = Desk(puppets(tmp_path, "a")[0]), visitor()
    (tmp_path / "gate").write_text("xx")

    async def stop() -> list[str]:
        going_on = answers([desk], who, "count", "")
        first = await anext(going_on)
        while spoken(who, 0)[-1][1] != "word1 word2":
            await anext(going_on)
        with pytest.raises(UsageError, match="stop the answer first"):
            take_back(who)
        with pytest.raises(UsageError, match="stop the answer first"):
            await anext(answers([desk], who, "another", ""))
        who.stop()
        return [first, *[now async for now in going_on][-1:]]

    assert asyncio.run(stop()) == ["Answering …", "Stopped; what was said stays"]
    [turn] = who.sessions[0].turns
    assert (turn.reply, turn.whole) == ("word1 word2", False)
    assert (tmp_path / "stopped").read_text() == "a\n"


def test_one_at_a_time_in_the_order_of_asking(tmp_path: Path) -> None:
    desk = Desk(puppets(tmp_path, "a")[0])
    first, second, third = visitor(), visitor(), visitor()

    async def talk() -> list[list[str]]:
        began = asyncio.create_task(ask([desk], first, "count"))
        while not (tmp_path / "asked").exists():
            await asyncio.sleep(0.01)
        others = []
        for who, before in ((second, 1), (third, 2)):
            others.append(asyncio.create_task(ask([desk], who, "hello")))
            while not who.busy or desk.before(who.tickets[0]) != before:
                await asyncio.sleep(0.01)
        third.stop()  # leaves the line
        last = await others[1]
        assert not second.tickets[0].began
        (tmp_path / "gate").write_text("x.")
        return [await began, await others[0], last]

    said = asyncio.run(talk())
    assert said[0] == ["Answering …", ""]
    assert said[1][0] == "Waiting: somebody else is being answered first"
    assert said[2] == [
        "Waiting: 2 others are being answered first",
        "Stopped before the answer began",
    ]
    assert [len(who.sessions[0].turns) for who in (first, second, third)] == [1, 1, 0]


def test_a_line_that_is_too_long_is_refused(tmp_path: Path) -> None:
    desk = Desk(puppets(tmp_path, "a")[0])
    tickets = [desk.ask(SESSION, "count", "") for _ in range(web_chat.LINE)]
    with pytest.raises(TryAgain, match="too many are waiting"):
        asyncio.run(ask([desk], visitor(), "hello"))
    desk.close()
    assert all(ticket.ended or not ticket.began for ticket in tickets)
    with pytest.raises(TryAgain):
        desk.ask(SESSION, "hello", "")


def test_a_page_that_is_closed_ends_its_answer(tmp_path: Path) -> None:
    desk, who = Desk(puppets(tmp_path, "a")[0]), visitor()

    async def leave() -> None:
        going_on = answers([desk], who, "count", "")
        await anext(going_on)
        await going_on.aclose()

    asyncio.run(leave())
    until((tmp_path / "stopped").exists)
    assert not who.busy


def test_nothing_is_kept_when_a_model_fails(tmp_path: Path) -> None:
    desks, who = [Desk(each) for each in puppets(tmp_path, "a", "b")], visitor(2)
    with pytest.raises(AlpacaError, match=r"the puppet is tired \(come back\)"):
        asyncio.run(ask(desks, who, "busy"))
    assert [session.turns for session in who.sessions] == [(), ()]
    assert not who.busy
    assert asyncio.run(ask(desks, who, "hello"))[-1] == "", "the line goes on"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_model_does_not_block_the_line(tmp_path: Path) -> None:
    class Broken(Puppet):
        def ask(self, *arguments: Any, **more: Any) -> Any:
            raise ZeroDivisionError

    desk = Desk(Broken("a", tmp_path))
    for _ in range(2):
        with pytest.raises(AlpacaError, match="the terminal says why"):
            asyncio.run(ask([desk], visitor(), "hello"))
    for thread in threading.enumerate():
        if thread.name.endswith("(_answer)"):
            thread.join()  # what the terminal says is said in this test, not in the next one


@pytest.mark.parametrize(
    ("message", "input", "what"),
    [
        ("  ", "", "the message is empty"),
        ("x" * (web_chat.LONGEST + 1), "", "the message has 20,001 characters"),
        ("x", "y" * (web_chat.LONGEST + 1), "the input has 20,001 characters"),
    ],
)
def test_messages_have_a_length(tmp_path: Path, message: str, input: str, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        asyncio.run(ask([Desk(puppets(tmp_path, "a")[0])], visitor(), message, input))


def test_settings_of_a_visitor() -> None:
    values = {"temperature": 0.25, "top_p": 1, "top_k": 0, "max_new_tokens": 9, "seed": "7"}
    session = web_chat.with_settings(SESSION, {**values, "history": False}, " be brief ")
    assert session == Session(Sampling(0.25, max_new_tokens=9, seed=7), False, "be brief")
    assert web_chat.with_settings(session, {"seed": " "}, "").sampling.seed is None
    assert web_chat.with_settings(SESSION, {"top_k": None}, "").sampling.top_k == 0
    for name, value in (("top_p", 0.0), ("max_new_tokens", 4097), ("seed", "x")):
        with pytest.raises(UsageError, match=name):
            web_chat.with_settings(SESSION, {name: value}, "")
    with pytest.raises(UsageError, match="the system prompt"):
        web_chat.with_settings(SESSION, {}, "x" * (web_chat.LONGEST + 1))


# --- votes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("said", "typed"), [("left", "a"), ("right", "b"), ("tie", "t")])
def test_a_vote_is_what_the_terminal_writes(
    said: Said, typed: str, seed: int, tmp_path: Path
) -> None:
    """The same message, seed and choice, once at the terminal and once on the page."""
    speakers = puppets(tmp_path, "alpha", "beta")
    lines = iter(["hello", typed])

    def read_line(prompt: str) -> str:
        for line in lines:
            return line
        raise EOFError

    session = replace(SESSION, system="be brief")
    there, here = tmp_path / "there.jsonl", tmp_path / "here.jsonl"
    console = Console(file=StringIO())
    versus.blind((speakers[0], speakers[1]), session, read_line, console, there, seed=seed)

    ballot = Ballot(["alpha", "beta"], here, seed)
    assert ballot.standing() == "No votes yet"
    who = Visitor([alone(session)] * 2)
    asyncio.run(ask([Desk(each) for each in speakers], who, "hello"))
    pair = ballot.draw(who)
    assert who.sessions[0].turns == ()
    ballot.vote(pair, said)
    ballot.close()
    [one], [other] = read_votes(there), read_votes(here)
    assert asdict(one) | {"at": ""} == asdict(other) | {"at": ""}
    assert json.loads(there.read_text()).keys() == json.loads(here.read_text()).keys()
    assert "alpha" in ballot.standing()


def test_the_order_is_drawn_anew(tmp_path: Path) -> None:
    ballot = Ballot(["a", "b"], tmp_path / "votes.jsonl", 0)
    turns = [Turn("m", "", "", name, False) for name in "ab"]
    shown = set()
    for _ in range(20):
        pair = ballot.draw(Visitor([replace(SESSION, turns=(turn,)) for turn in turns]))
        shown.add("".join(turn.reply for turn in pair.shown))
    ballot.close()
    assert shown == {"ab", "ba"}


def test_a_ballot_needs_two_models_and_a_whole_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs two models"):
        Ballot(["a", "a"], tmp_path / "votes.jsonl")
    (tmp_path / "damaged.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"damaged.jsonl:1: not a vote"):
        Ballot(["a", "b"], tmp_path / "damaged.jsonl")


# --- Markdown -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a <b>c</b> & 1 < 2 <3", "a &lt;b>c&lt;/b> & 1 < 2 <3"),
        ("<!-- x --><?php", "&lt;!-- x -->&lt;?php"),
        (r"\<img>", r"\&lt;img>"),
        ("![x](y) [x](y) !x", "&#33;[x](y) [x](y) !x"),
        ("`<b>` and ``<i> ` ![`` <u>", "`<b>` and ``<i> ` ![`` &lt;u>"),
        ("`<b>\n\n<i>`", "`&lt;b>\n\n&lt;i>`"),
        ("`<b>``", "`&lt;b>``"),
        ("```html\n<b>\n```\n<i>", "```html\n<b>\n```\n&lt;i>"),
        ("~~~\n<b>\n```\n~~~~\n<i>", "~~~\n<b>\n```\n~~~~\n&lt;i>"),
        ("```\n<b>", "```\n<b>"),
        ("``` a`b\n<b>", "``` a`b\n&lt;b>"),
        ("  ```mermaid\ngraph\n```", "  ```\ngraph\n```"),
        ("```Mermaid {x}\ngraph\n```", "```\ngraph\n```"),
        ("\n\n<b>\n\n", "\n\n&lt;b>\n\n"),
        ("", ""),
    ],
)
def test_html_and_images_become_text_outside_of_code(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text("<b>`!\\[]()~ \n&;m", max_size=40))
def test_text_without_code_keeps_no_tag(text: str) -> None:
    shown = harmless(text)
    assert unescape(shown) == text
    without = text.replace("`", "").replace("~", "")
    assert not re.search(r"<[A-Za-z/!?]|!\[", harmless(without))


# --- the door -------------------------------------------------------------------------------------


def through(
    path: str = "/",
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    *,
    any_host: bool = False,
) -> tuple[int, dict[str, str], str]:
    """What the guard answers before an application that says a page with two scripts."""
    page = b"<html><script>1</script><script src=x></script></html>"
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] != "/" or b"accept-encoding" not in dict(scope["headers"])
        start = [(b"content-length", str(len(page)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": page[:20], "more_body": True})
        await send({"type": "http.response.body", "body": page[20:]})

    async def go() -> None:
        given = {"host": "127.0.0.1:7860", "accept-encoding": "br", **(headers or {})}
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in given.items()]
        scope = {"type": "http", "path": path, "method": method, "headers": pairs}

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError

        await Guard(app, any_host=any_host)(scope, receive, send)

    asyncio.run(go())
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    body = b"".join(each.get("body", b"") for each in sent[1:]).decode()
    return sent[0]["status"], found, body


def test_the_page_is_marked_and_its_policy_allows_only_what_is_marked() -> None:
    status, headers, body = through()
    assert status == 200
    [nonce] = {part.split('"')[1] for part in body.split("<script nonce=")[1:]}
    assert body.count("<script") == body.count("nonce=") == 2
    assert int(headers["content-length"]) == len(body)
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'self' 'nonce-{nonce}'"
    assert policy["img-src"] == "'self' data:"
    assert policy["connect-src"] == "'self'"
    assert headers["referrer-policy"] == "no-referrer"
    assert nonce not in through()[2], "another one each time"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:7860", 200), ("localhost:1", 200), ("[::1]:7860", 200), ("127.0.0.2", 200),
        ("evil.example:7860", 403), ("127.0.0.1.evil.example", 403), ("", 403), ("0.0.0.0", 403),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_without_a_password(host: str, status: int) -> None:
    assert through(headers={"host": host})[0] == status
    assert through(headers={"host": host}, any_host=True)[0] == 200


@pytest.mark.parametrize(
    ("path", "method", "headers", "status"),
    [
        ("/assets/x.js", "GET", {}, 200),
        ("/assets/x.js", "POST", {"content_length": "1"}, 404),
        ("/assets/../secret", "GET", {}, 404),
        ("/gradio_api/upload", "POST", {"content_length": "1"}, 404),
        ("/gradio_api/queue/join", "GET", {}, 404),
        ("/gradio_api/queue/join", "POST", {"content_length": "1"}, 200),
        ("/gradio_api/queue/join", "POST", {}, 413),
        ("/gradio_api/queue/join", "POST", {"content_length": str(LARGEST + 1)}, 413),
        ("/", "GET", {"origin": "http://127.0.0.1:7860"}, 200),
        ("/", "GET", {"origin": "http://127.0.0.1:7861"}, 403),
        ("/", "GET", {"origin": "null"}, 403),
        ("/", "HEAD", {}, 200),
        ("/", "OPTIONS", {}, 404),
    ],
)
def test_what_may_be_asked(path: str, method: str, headers: dict[str, str], status: int) -> None:
    found, sent, _ = through(path, method, headers)
    assert found == status
    assert "script-src" in sent["content-security-policy"]


# --- where it listens -----------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "localhost", "127.9.9.9"])
def test_addresses_of_this_machine(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.1", "example.org", ""])
def test_addresses_of_others_need_a_password(address: str) -> None:
    assert not is_loopback(address)
    with pytest.raises(UsageError, match=r"other machines could use the page") as caught:
        web.check([1], address=address, auth=None)
    assert "--auth" in caught.value.hint
    web.check([1], address=address, auth=("ann", "secret"))
    with pytest.raises(UsageError, match="none of them empty"):
        web.check([1], address=address, auth=("ann", ""))


def test_ports() -> None:
    with listen("127.0.0.1", 0, 1) as one:
        used = one.getsockname()[1]
        with pytest.raises(
            UsageError, match=f"127.0.0.1:{used}: cannot listen: somebody"
        ) as caught:
            listen("127.0.0.1", used, 1)
        assert "0 takes a free one" in caught.value.hint
        with listen("127.0.0.1", None, used) as other:
            assert other.getsockname()[1] != used
    with pytest.raises(UsageError, match="a number from 0 to 65535"):
        listen("127.0.0.1", 70000, 1)
    with pytest.raises(UsageError, match="cannot listen"):
        listen("203.0.113.1", 0, 1)
    assert url("::1", 80) == "http://[::1]:80"


def test_without_gradio_it_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['gradio'] = None\n"
        "from alpaca_cli.stages import web\n"
        "try: web.check([1], address='127.0.0.1', auth=None)\n"
        "except Exception as error: print(type(error).__name__, error, error.hint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "UsageError this needs gradio" in done.stdout
    assert "[web]" in done.stdout
