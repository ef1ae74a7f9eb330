"""`alpaca chat --web` in a real browser: what a person sees, and what a hostile answer does."""

from __future__ import annotations

import http.client
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from alpaca_cli.data.votes import read_votes
from tests.browser import open_browser, requested, said
from tests.pages import Pages, until

pytestmark = [
    pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed"),
    pytest.mark.xdist_group("web"),  # one helper and one browser for all
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with Pages(tmp_path_factory.mktemp("pages")) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser(
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--window-size=1280,900"
    ) as found:
        yield found


@pytest.fixture(scope="module")
def one(pages: Pages) -> str:
    return pages.serve("one", names=["alpha"])


@pytest.fixture(autouse=True)
def _closed_gate(pages: Pages) -> None:
    (pages.folder / "gate").write_text("")


class Screen:
    """An open page, as a person uses it."""

    def __init__(self, browser: Any, url: str) -> None:
        self._browser = browser
        browser.get("about:blank")  # the page before this one says that its streams were cut
        said(browser)
        requested(browser)
        browser.get(url)
        self.wait(lambda: self._all("#message textarea"))

    def wait(self, condition: Callable[[], object]) -> None:
        until(condition, lambda: str(self._browser.find_element("css selector", "body").text))

    def _all(self, selector: str) -> Any:
        return self._browser.find_elements("css selector", selector)

    def send(self, message: str) -> None:
        self.type("message", message + "\n")

    def type(self, box: str, text: str) -> None:
        self.wait(lambda: self._all(f"#{box} textarea"))
        [found] = self._all(f"#{box} textarea")
        found.clear()
        found.send_keys(text)

    def open(self, accordion: str) -> None:
        [found] = self._all(f"#{accordion} > button")
        found.click()

    def press(self, button: str) -> None:
        self.wait(lambda: self.can(button))
        self._browser.find_element("id", button).click()

    def can(self, button: str) -> bool:
        """Whether a button is there to be pressed."""
        script = "const b = document.getElementById(arguments[0]);"
        return bool(self.run(script + "return b && b.offsetParent !== null && !b.disabled", button))

    def box(self, name: str) -> str:
        script = "return document.querySelector(arguments[0])?.value ?? ''"
        return str(self.run(script, f"#{name} textarea"))

    def status(self) -> str:
        return str(self.run("return document.getElementById('status')?.innerText.trim() ?? ''"))

    def chat(self, place: int = 0) -> list[str]:
        """What was said, one text for each message."""
        # In one script: the page may draw anew between two questions.
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText.trim())"
        each = f"#chat-{place} [data-testid=user], #chat-{place} [data-testid=bot]"
        found: list[str] = self.run(script, each)
        return found

    def shows(self, *texts: str, place: int = 0) -> None:
        """Wait until the conversation is this, and no answer is being written."""
        self.wait(lambda: self.chat(place) == list(texts))

    def run(self, script: str, *arguments: str) -> Any:
        return self._browser.execute_script(script, *arguments)


def let(pages: Pages, words: int, *, end: bool = False) -> None:
    """Let the puppet say so many words, and end there."""
    (pages.folder / "gate").write_text("x" * (words - end) + "." * end)


def test_a_reply_streams_and_stops_and_comes_again(browser: Any, one: str, pages: Pages) -> None:
    screen = Screen(browser, one)
    screen.send("count")
    screen.shows("count", "")
    for words in (2, 5):
        let(pages, words)
        screen.shows("count", " ".join(f"word{n}" for n in range(1, words + 1)))
    assert screen.box("message") == ""
    assert not screen.can("retry")
    screen.press("stop")
    screen.wait(lambda: screen.status() == "Stopped; what was said stays")
    screen.shows("count", "word1 word2 word3 word4 word5")
    let(pages, 3, end=True)
    screen.press("retry")
    screen.shows("count", "word1 word2 word3")
    screen.press("undo")
    screen.shows()
    assert not screen.can("retry")


def test_messages_can_be_edited_and_settings_reach_the_model(browser: Any, one: str) -> None:
    screen = Screen(browser, one)
    browser.find_elements("css selector", "#examples button")[2].click()
    screen.wait(lambda: screen.box("message"))
    screen.open("settings")
    screen.type("system", "be brief")
    screen.type("seed", "7")
    screen.press("send")
    screen.wait(lambda: len(screen.chat()) == 2 and screen.can("edit"))
    asked, answer = screen.chat()
    assert asked.endswith("She walks to the market and buys some bread.")
    assert "'Rewrite the sentence in the past tense.' with 'She walks" in answer
    assert "system 'be brief', temperature 0.5, seed 7, after []" in answer
    screen.press("edit")
    screen.shows()
    assert screen.box("message") == "Rewrite the sentence in the past tense."
    screen.open("with-input")
    screen.wait(lambda: screen.box("input").startswith("She walks"))
    screen.send(" now")
    screen.wait(lambda: len(screen.chat()) == 2 and screen.can("edit"))
    screen.send("second")
    screen.wait(lambda: len(screen.chat()) == 4 and screen.can("clear"))
    assert screen.chat()[-1].endswith("after [' now']") or "after ['now']" in screen.chat()[-1]
    screen.type("seed", "many")
    screen.send("third")
    screen.wait(lambda: screen.status() == "seed: a whole number from 0, or off, not many")
    assert screen.box("message") == "third"
    screen.press("clear")
    screen.shows()


def test_a_failure_is_told_and_the_message_given_back(browser: Any, one: str) -> None:
    screen = Screen(browser, one)
    screen.send("busy")
    screen.wait(lambda: screen.status() == "the puppet is tired (come back)")
    screen.shows()
    assert screen.box("message") == "busy"


def test_others_wait_and_are_told_so(browser: Any, one: str, pages: Pages) -> None:
    first = Screen(browser, one)
    first.send("count")
    let(pages, 1)
    first.shows("count", "word1")
    mine = browser.current_window_handle
    browser.switch_to.new_window("tab")
    second = Screen(browser, one)
    second.send("hello")
    second.wait(lambda: second.status() == "Waiting: somebody else is being answered first")
    theirs = browser.current_window_handle
    browser.switch_to.window(mine)
    browser.close()  # nobody waits for the first answer any more: it ends
    browser.switch_to.window(theirs)
    second.wait(lambda: len(second.chat()) == 2 and "heard 'hello'" in second.chat()[1])


def test_two_models_side_by_side(browser: Any, pages: Pages) -> None:
    screen = Screen(browser, pages.serve("two", names=["alpha", "beta"]))
    heads = [browser.find_element("id", f"head-{place}").text for place in (0, 1)]
    assert heads == ["alpha\na puppet\nIt has strings.", "beta\na puppet\nIt has strings."]
    screen.send("hello")
    for place, name in enumerate(("alpha", "beta")):
        screen.wait(lambda place=place: len(screen.chat(place)) == 2)  # type: ignore[misc]
        assert screen.chat(place)[1].startswith(f"{name} heard 'hello'")
    screen.press("undo")
    for place in (0, 1):
        screen.shows(place=place)


def test_a_blind_vote_behind_a_password(browser: Any, pages: Pages) -> None:
    votes = pages.folder / "votes.jsonl"
    url = pages.serve("blind", names=["alpha", "beta"], votes=str(votes), auth=["ann", "secret"])
    assert answer(url, "GET", "/config") == 401
    assert answer(url, "POST", "/gradio_api/queue/join", b'{"data": [], "fn_index": 0}') == 401
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert answer(url, "POST", "/login", b"username=ann&password=wrong", **form) == 400
    browser.get(url)
    until(lambda: browser.find_elements("css selector", "input[type=password]"))
    assert not browser.find_elements("id", "page")
    name, password = browser.find_elements("css selector", "input, textarea")
    name.send_keys("ann")
    password.send_keys("secret\n")
    until(lambda: browser.find_elements("css selector", "#message textarea"))

    screen = Screen(browser, url)
    for number, pressed in enumerate(("left", "tie", "right"), 1):
        screen.send(f"question {number}")
        screen.wait(lambda: screen.can("left"))
        shown = [screen.chat(place)[1] for place in (0, 1)]
        assert {text.split()[0] for text in shown} == {"alpha", "beta"}
        screen.send("impatient")
        screen.wait(lambda: "vote on these answers first" in screen.status())
        screen.press(pressed)
        screen.wait(lambda: not screen.can("left"))
        vote = read_votes(votes)[-1]
        left = "a" if shown[0].startswith("alpha") else "b"
        expected = {"left": left, "tie": "tie", "right": "b" if left == "a" else "a"}[pressed]
        assert (vote.vote, vote.first, vote.instruction) == (expected, left, f"question {number}")
        assert vote.answer_a.startswith("alpha")
    assert len((votes.parent / "votes.preferences.jsonl").read_text().splitlines()) == 2
    names = ("alpha ", " beta ")
    assert not any(name in browser.page_source for name in names)
    screen.press("reveal")
    screen.wait(lambda: "95 % interval" in screen.status())
    assert all(name in screen.status() for name in names)


HOSTILE = """
<script>window.hacked = 1</script>
<img src="x" onerror="window.hacked = 2">
<a href="javascript:window.hacked=3">click</a> [md](javascript:window.hacked=4)
<iframe src="{evil}/frame"></iframe> ![picture]({evil}/markdown.png)
<img src="{evil}/image.png"><svg><script>window.hacked = 5</script></svg>
<style>@import url({evil}/style.css); #page {{ display: none }}</style>
<div style="background: url({evil}/background.png)">x</div>
<link rel="stylesheet" href="{evil}/link.css"><base href="{evil}/">
<meta http-equiv="refresh" content="0; url={evil}/meta"><form action="{evil}/form"></form>
$$\\href{{javascript:window.hacked=6}}{{x}}$$
\\<img src="{evil}/escaped.png" onerror=window.hacked=7>

```mermaid
graph TD; A["<img src={evil}/diagram.png onerror=window.hacked=8>"] --> B
```

```html
<b>code stays code</b> ![x]({evil}/x.png)
```
{more}
The end.
"""
# In a quotation the fence ends with the quotation; whoever thinks that it goes on lets this pass.
PASSES = """
> ```
> code

<img src="{evil}/passed.png" onerror="window.hacked = 9"><iframe src="{evil}/passed"></iframe>
![p]({evil}/passed-markdown.png) <script>window.hacked = 10</script>
"""


@pytest.fixture
def evil() -> Iterator[tuple[str, list[str]]]:
    """Another machine, which browsers can reach, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hostile_answer_is_harmless(
    browser: Any, one: str, pages: Pages, evil: tuple[str, list[str]]
) -> None:
    address, asked = evil
    text = HOSTILE.format(evil=address, more="")
    (pages.folder / "hostile").write_text(text)
    screen = Screen(browser, one)
    screen.send("hostile")
    screen.wait(lambda: len(screen.chat()) == 2 and "The end." in screen.chat()[1])
    shown = screen.chat()[1]
    assert "<script>window.hacked = 1</script>" in shown, "HTML is shown as text"
    assert "<b>code stays code</b> ![x](" in shown
    links = screen.run("return [...document.querySelectorAll('#chat-0 a')].map(a => a.href)")
    assert not [link for link in links if link.startswith("javascript:")]
    for link in browser.find_elements("css selector", "#chat-0 a:not([href])"):
        link.click()
    assert said(browser) == []
    assert not [url for url in requested(browser) if not url.startswith((one, "data:"))]
    _unharmed(screen, asked)


def test_what_gets_past_us_is_stopped_by_the_policy(
    browser: Any, one: str, pages: Pages, evil: tuple[str, list[str]]
) -> None:
    address, asked = evil
    (pages.folder / "passes").write_text(
        HOSTILE.format(evil=address, more=PASSES.format(evil=address))
    )
    screen = Screen(browser, one)
    screen.send("passes")
    screen.wait(lambda: len(screen.chat()) == 2 and "The end." in screen.chat()[1])
    screen.wait(lambda: any("Content Security Policy" in line for line in said(browser)))
    # What no sanitiser looked at.
    screen.run(
        "document.body.insertAdjacentHTML('beforeend', arguments[0]);"
        "document.getElementById('planted').addEventListener('error', () => window.failed = 1)",
        '<img id="planted" src="/missing" onerror="window.hacked = 11">'
        f'<iframe hidden src="{address}/planted"></iframe>',
    )
    screen.wait(lambda: screen.run("return window.failed"))
    screen.run("document.querySelector('iframe').remove()")
    _unharmed(screen, asked)


def _unharmed(screen: Screen, asked: list[str]) -> None:
    assert screen.run("return window.hacked") is None
    assert screen.run("return document.querySelectorAll('iframe').length") == 0
    assert asked == []


def test_the_page_fits_and_asks_nobody_else(browser: Any, one: str) -> None:
    screen = Screen(browser, one)
    screen.send("a long message " * 40 + "x" * 200)
    screen.wait(lambda: len(screen.chat()) == 2)
    screen.open("settings")
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": False}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            dark = "return document.body.classList.contains('dark')"
            screen.wait(lambda dark=dark, scheme=scheme: screen.run(dark) == (scheme == "dark"))  # type: ignore[misc]
            assert screen.run("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert said(browser) == []
    assert not [url for url in requested(browser) if not url.startswith((one, "data:"))]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/gradio_api/info", 404),
        ("GET", "/gradio_api/openapi.json", 404),
        ("GET", "/docs", 404),
        ("GET", "/gradio_api/file=/etc/passwd", 404),
        ("GET", "/gradio_api/proxy=http://127.0.0.1/", 404),
        ("GET", "/monitoring", 404),
        ("GET", "/gradio_api/runs", 404),
        ("GET", "/assets/../../../etc/passwd", 404),
        ("POST", "/gradio_api/upload", 404),
        ("POST", "/gradio_api/run/predict", 404),
        ("POST", "/gradio_api/call/send", 404),
        ("POST", "/gradio_api/cancel", 404),
    ],
)
def test_only_what_the_page_needs_is_there(one: str, method: str, path: str, status: int) -> None:
    assert answer(one, method, path) == status


def test_other_sites_may_not_ask(one: str) -> None:
    assert answer(one, "GET", "/", Host="evil.example") == 403
    join = ("POST", "/gradio_api/queue/join", b"{}")
    assert answer(one, *join, Origin="http://evil.example") == 403
    assert answer(one, *join, Origin=one) == 422, "it is looked at"
    assert answer(one, "POST", "/gradio_api/queue/join", b"x" * (1 << 20 | 1)) == 413


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_while_it_answers(
    browser: Any, pages: Pages, number: signal.Signals, code: int
) -> None:
    name = number.name
    screen = Screen(browser, pages.serve(name, names=[name]))
    screen.send("count")
    screen.wait(lambda: name in Path(pages.folder, "asked").read_text())
    assert pages.signal(name, number) == code
    assert name in Path(pages.folder, "stopped").read_text()
    assert "Traceback" not in (pages.folder / "log.txt").read_text()


def answer(url: str, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
    """The status of one request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        kind = {"Content-Type": "application/json"}
        body = body if body is not None or method == "GET" else b"{}"
        connection.request(method, path, body, kind | headers)
        return connection.getresponse().status
    finally:
        connection.close()
