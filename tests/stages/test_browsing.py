"""The browser of examples: the real app driven by keys, and the real command in a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import read_jsonl
from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import Finding, lint
from alpaca_cli.data.reviews import Review, ReviewFile, read_reviews
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import nearest_others
from alpaca_cli.stages.browsing_desk import Desk
from alpaca_cli.stages.browsing_query import row_filter, search_pattern
from alpaca_cli.stages.browsing_view import visible, whole_example
from tests.processes import COMMAND, environment, run

pytest.importorskip("textual")

from textual.containers import VerticalScroll
from textual.pilot import Pilot
from textual.widgets import Static

from alpaca_cli.stages.browsing_app import BrowserApp

Keys = Pilot[None]

TASKS = [
    Example("Sort the numbers.", "3 1 2", "1 2 3", "a-1", {"family": "sort", "request": 7}),
    Example("Name a large bird.", "", "Ostrich.", "a-2", {"family": "list", "tags": ["x", "Y"]}),
    Example("Sort the letters.", "c a", "a c", "a-3", {"family": "sort"}),
    Example("Write Python code.", "", "print('Zebra')", None, {}, {"language": "English"}),
    Example("Sort the numbers.", "3 1 2", "1 2 3", "a-5"),
    Example("Tell a joke about a zebra.", "", "I'm sorry, I cannot do that.", "a-6"),
]
FOUND = [
    Finding(5, "a-5", "duplicate-instruction", "warning", "the same instruction as row 1", 1),
    Finding(6, "a-6", "refusal", "warning", 'the output begins with "I\'m sorry"'),
    Finding(6, "a-6", "empty-output", "error", "just to have an error"),
]


def desk_of(
    folder: Path, examples: Sequence[Example] = TASKS, findings: Sequence[Finding] = FOUND
) -> Desk:
    return Desk(["data.json"], examples, findings, folder / "review.jsonl")


def drive(
    desk: Desk,
    keys: Callable[[BrowserApp, Keys], Awaitable[None]],
    size: tuple[int, int] = (100, 30),
) -> BrowserApp:
    """Run the app without a terminal of its own, and press keys."""
    app = BrowserApp(desk)

    async def session() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            await keys(app, pilot)

    try:
        asyncio.run(session())
    finally:
        desk.close()
    return app


async def type_in(pilot: Keys, key: str, text: str) -> None:
    """Open the prompt, type, and press Enter."""
    await pilot.press(key)
    names = {" ": "space", "/": "slash", ":": "colon", "-": "minus", '"': "quotation_mark",
             "*": "asterisk", ".": "full_stop", "(": "left_parenthesis"}  # fmt: skip
    await pilot.press(*(names.get(letter, letter) for letter in text), "enter")
    await pilot.pause()


def said(app: BrowserApp) -> str:
    return str(app.query_one("#status", Static).content)


def example_shown(app: BrowserApp) -> str:
    return str(app.query_one("#example", Static).content)


def listed(app: BrowserApp) -> list[str]:
    """The lines of the list as they are on the screen."""
    return [app.list.render_line(y).text for y in range(app.list.size.height)]


# --- what is known of the examples


def test_conditions(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)
    desk.set_mark(1, "good")
    desk.set_mark(0, "bad")
    desk.set_note(3, "Look AGAIN")
    for text, rows in {
        "": [1, 2, 3, 4, 5, 6],
        "sort": [1, 3, 5],
        "zebra": [4, 6],
        "Zebra": [4],  # a capital counts
        "zebra joke": [6],
        '"a zebra"': [6],
        "/z.*a'/": [4],
        r"/^\S+ a/": [2, 6],
        '"/z.*a/"': [],
        "-sort": [2, 4, 6],
        "again": [4],  # notes, ids and meta are searched, too
        "a-6": [6],
        '"request"': [1],
        "rule:refusal": [6],
        "rule:*": [5, 6],
        "-rule:dupl* has:finding": [6],
        "severity:error": [6],
        "mark:bad": [1, 5],  # rows of the same texts share it
        "mark:good": [2],
        "mark:none": [3, 4, 6],
        "has:input": [1, 3, 5],
        "no:input has:id": [2, 6],
        "has:note": [4],
        "row:2-4": [2, 3, 4],
        "row:3": [3],
        "row:5-": [5, 6],
        "family:sort": [1, 3],
        "family:SO?T -row:1": [3],
        "tags:y": [2],
        "request:7": [1],
        "language:engl*": [4],
        "https://x": [],
    }.items():
        passes = row_filter(text, desk)
        assert [row + 1 for row in range(len(desk)) if passes(row)] == rows, text
    desk.close()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rule:refusl", 'lint found none here, did you mean "refusal"?'),
        ("mark:god", 'one of good, bad, none, did you mean "good"?'),
        ("has:inptu", 'did you mean "input"?'),
        ("row:x", "write row:17"),
        ("famly:sort", 'no field of this name, did you mean "family"?'),
        ("/(/", "not a regular expression"),
    ],
)
def test_a_filter_without_meaning_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        row_filter(text, desk_of(tmp_path))


def test_a_class_of_letters_is_no_capital() -> None:
    assert search_pattern(r"/\Sebra\W/").search("a zebra.")
    assert not search_pattern("/Zebra/").search("a zebra.")


def test_neighbours_are_exact(tmp_path: Path, real_data: Path) -> None:
    examples = read_examples([real_data / "alpaca_en_demo.json", real_data / "alpaca_zh_demo.json"])
    tokens = [tokenize(example.instruction, "unicode") for example in examples]
    rows = list(range(0, len(examples), 61))
    positions, scores = nearest_others(tokens, rows)
    desk = desk_of(tmp_path, examples, [])
    for row, position, score in zip(rows, positions.tolist(), scores.tolist(), strict=True):
        found = desk.neighbours(row)
        assert (found[0].row, found[0].score) == (position, score)
        assert row not in {near.row for near in found}
        assert [-near.score for near in found] == sorted(-near.score for near in found)
        assert len(found) == 5
    lonely = desk_of(tmp_path, [*TASKS, Example("…", "", "")], [])
    assert lonely.neighbours(6) == []


def test_data_cannot_reach_the_terminal(tmp_path: Path) -> None:
    nasty = "\x1b]0;owned\x07 [bold red]x[/] \x9b2J \r \u202eback\u2066 a\u200bb\tc"
    seen = visible(nasty)
    words = [r"\x1b]0;owned\x07", "[bold", "red]x[/]", r"\x9b2J", r"\x0d", r"\u202eback\u2066"]
    assert seen.split() == [*words, r"a\u200bb", "c"]
    finding = Finding(1, None, "damaged-text", "warning", f"it holds {nasty}")
    example = Example(nasty, nasty, nasty, nasty, {nasty: nasty, "list": [nasty]})
    desk = desk_of(tmp_path, [example, TASKS[0]], [finding])
    desk.set_note(0, nasty)
    text = whole_example(desk, 0, desk.neighbours(0)).plain
    assert (
        text.count("[bold red]x[/]") == 9
    )  # id, note, finding, texts, and name and values in meta
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)

    async def look(app: BrowserApp, pilot: Keys) -> None:
        assert r"\x1b]0;owned\x07 [bold red]" in listed(app)[0]
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", "".join(listed(app)))

    drive(desk, look)


# --- keys


def test_every_mark_is_on_the_disk_at_once(tmp_path: Path) -> None:
    desk, path = desk_of(tmp_path), tmp_path / "review.jsonl"

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        assert not path.exists()  # looking leaves no file behind
        await pilot.press("b")
        [review] = read_reviews(path).values()
        assert (review.mark, review.row, review.id, review.source) == ("bad", 1, "a-1", "data.json")
        assert said(app) == "row 1 marked bad, and 1 with the same texts"
        assert [line[3] for line in listed(app)[:6]] == list("✗   ✗ ")
        await type_in(pilot, "e", "wrong [sum]")
        assert "note: wrong [sum]" in example_shown(app)
        assert read_reviews(path)[review.key].note == "wrong [sum]"
        await pilot.press("j", "G")  # good, and on
        assert app.list.row == 2
        await pilot.press("g", "u")
        await pilot.press("end", "b", "g")
        marks = [review.mark for review in read_reviews(path).values()]
        assert marks == ["bad", "good", "none", "good"]
        await pilot.press("home", "u", "q")

    drive(desk, keys)
    # What was changed and changed back is none: rows 1 and 5, and row 3.
    assert desk.changes() == (2, 0, 0)
    assert desk.seen == {0, 1, 2, 5}
    again = desk_of(tmp_path)
    assert [again.mark(row) for row in range(6)] == ["none", "good", "none", "none", "none", "good"]
    assert again.note(4) == "wrong [sum]"
    again.set_mark(5, "none")
    assert again.changes() == (0, 0, 1)
    again.close()


def test_search_goes_round(tmp_path: Path) -> None:
    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await type_in(pilot, "/", "zebra")
        assert app.list.row == 3
        example = app.query_one("#example", Static).content
        spans = getattr(example, "spans", [])
        assert any(str(span.style) == "reverse" for span in spans)
        await pilot.press("n")
        assert app.list.row == 5
        await pilot.press("n")
        assert (app.list.row, said(app)) == (3, "round the end")
        await pilot.press("N")
        assert (app.list.row, said(app)) == (5, "round the end")
        await type_in(pilot, "/", "no such text")
        assert (app.list.row, said(app)) == (5, "found in none of these rows")
        await type_in(pilot, "/", "/(/")
        assert said(app).startswith("not a regular expression")
        await pilot.press("slash", "x", "escape", "n")
        assert said(app) == "found in none of these rows"  # the last one that was searched for

    drive(desk_of(tmp_path), keys)


def test_a_match_far_down_is_scrolled_to(tmp_path: Path) -> None:
    long = Example("Tell it all.", "", "one line\n" * 300 + "the needle\n" + "one line\n" * 99)

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await type_in(pilot, "/", "needle")
        top, height = app.detail.scroll_offset.y, app.detail.size.height
        assert top < 300 + 5 < top + height
        await pilot.press("k", "j")  # looked at without searching: from the top
        assert app.detail.scroll_offset.y == 0

    drive(desk_of(tmp_path, [TASKS[0], long], []), keys)


def test_filters_hold_until_they_are_changed(tmp_path: Path) -> None:
    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await pilot.press("j", "j", "j")
        await type_in(pilot, "f", "has:input")
        assert app.list.rows == [0, 2, 4]
        assert app.list.row == 4  # the next one of those that pass
        assert said(app) == "3 of 6 rows pass"
        assert "filter: has:input (of 6)" in str(app.query_one("#title", Static).content)
        await type_in(pilot, "f", "mark:god")
        assert 'did you mean "good"?' in said(app)
        assert app.list.rows == [0, 2, 4]
        await type_in(pilot, "f", "mark:good")
        assert said(app) == "nothing passes mark:good; the filter is as it was"
        await pilot.press("b")  # what no longer passes stays until the next filter
        assert app.list.rows == [0, 2, 4]
        await type_in(pilot, "/", "numbers")
        await pilot.press("n", "n")
        assert app.list.row in (0, 4)
        await pilot.press("f", "delete", "enter")
        await pilot.pause()
        assert len(app.list.rows) == 6

    drive(desk_of(tmp_path), keys)


def test_jumps_lead_there_and_back(tmp_path: Path) -> None:
    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await type_in(pilot, "f", "row:3-")
        await pilot.press("end", "k")
        assert app.list.row == 4
        await pilot.press("d")  # to the row that it repeats, which the filter hides
        assert app.list.row == 0
        assert said(app) == "row 1 does not pass the filter; it is shown all the same"
        assert app.list.rows == [0, 2, 3, 4, 5]
        await pilot.press("backspace")
        assert app.list.row == 4
        await pilot.press("home", "d")  # row 1 has no such finding: the nearest
        assert app.list.row == 4
        await pilot.press("backspace", "2")
        assert app.list.row == 2
        await pilot.press("backspace", "backspace", "backspace")
        assert said(app) == "you have not jumped anywhere"
        await pilot.press("5")
        assert said(app) == "there is no such neighbour"
        await type_in(pilot, "f", "")
        await pilot.press("end", "k")
        assert app.list.row == 4
        while "1  1.000    row 1  Sort the numbers." not in example_shown(app):
            await pilot.pause(0.05)  # found beside the screen; the test's time limit is the limit

    drive(desk_of(tmp_path), keys)


def test_panes_and_help(tmp_path: Path) -> None:
    long = Example("Tell it all.", "", "one line\n" * 300)

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await pilot.press("enter")
        assert app.detail.has_focus
        await pilot.press("pagedown", "j")
        assert app.list.row == 0
        assert app.detail.scroll_offset.y > 10
        await pilot.press("tab")
        assert app.list.has_focus
        await pilot.press("end", "home")
        assert app.detail.scroll_offset.y == 0
        pages = 0
        while app.list.row == 0:  # until row 1 is read to its end
            await pilot.press("space")
            pages += 1
        assert 300 / app.detail.size.height < pages < 310 / app.detail.size.height + 2
        await pilot.press("question_mark")
        await pilot.pause()
        text = str(app.screen.query_one("#help", VerticalScroll).query_one(Static).content)
        assert "duplicate-instruction, empty-output, refusal" in text
        await pilot.press("g", "escape")  # the help takes the key
        assert desk.mark(1) == "none"
        await pilot.click(app.list, offset=(3, 4))
        assert app.list.row == 4

    desk = desk_of(tmp_path, [long, *TASKS])
    drive(desk, keys)


def test_it_fits_every_terminal(tmp_path: Path, real_data: Path) -> None:
    chinese = read_examples([real_data / "alpaca_zh_demo.json"])[:60]
    findings = lint(chinese)

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        await pilot.press("end")
        for width, height in ((120, 40), (80, 24), (40, 20), (20, 8), (200, 60), (40, 20)):
            await pilot.resize_terminal(width, height)
            await pilot.pause()
            place, top = app.list.place, app.list.scroll_offset.y
            assert place == 59
            assert top <= place < top + app.list.size.height
            beside = app.list.region.y == app.detail.region.y
            assert beside == (width >= 72)
            inside = app.list.scrollable_content_region.width
            assert all(app.list.render_line(y).cell_length == inside
                       for y in range(app.list.size.height))  # fmt: skip
            assert listed(app)[place - top].startswith("›60 ")
            assert app.query_one("#status").region.bottom == height
        await pilot.press("g")

    desk = desk_of(tmp_path, chinese, findings)
    drive(desk, keys, size=(60, 20))
    assert desk.marked("good") == 1


def test_52k_rows_open_and_scroll_at_once(tmp_path: Path, real_data: Path) -> None:
    rows = read_examples([real_data / "alpaca_en_demo.json"])
    copies = ((number, one) for number in range(53) for one in rows)
    many = [replace(one, instruction=f"{one.instruction} {number}") for number, one in copies]
    many = many[:52_000]
    findings = [Finding(row, None, "refusal", "warning", "") for row in range(1, 52_000, 7)]
    started = time.process_time()
    desk = desk_of(tmp_path, many, findings)
    spent = {}

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        spent["open"] = time.process_time() - started
        for name, press in {
            "scroll": ["end", "pageup", "pageup", "home", "pagedown", "j"],
            "mark": ["b"],
            "jump": ["d"],
        }.items():
            before = time.process_time()
            await pilot.press(*press)
            await pilot.pause()
            spent[name] = time.process_time() - before
        before = time.process_time()
        await type_in(pilot, "f", "rule:refusal crepes")
        await type_in(pilot, "/", "zebra")
        spent["search"] = time.process_time() - before
        assert 0 < len(app.list.rows) < 52

    drive(desk, keys, (120, 40))
    # Several times what it takes; drawing all rows, or comparing all pairs, takes minutes.
    assert spent["open"] < 6
    assert spent["scroll"] < 3
    assert spent["mark"] < 1
    assert spent["jump"] < 6  # reads all instructions once
    assert spent["search"] < 6


def test_a_mark_that_cannot_be_written_is_not_taken(tmp_path: Path) -> None:
    desk = desk_of(tmp_path)

    async def keys(app: BrowserApp, pilot: Keys) -> None:
        other = ReviewFile(tmp_path / "review.jsonl")
        await pilot.press("b")
        assert "another process is writing" in said(app)
        assert desk.mark(0) == "none"
        other.add(Review("0" * 64, "bad"))
        other.close()
        await pilot.press("b")
        assert said(app).startswith("row 1 marked bad")
        assert len(read_reviews(tmp_path / "review.jsonl")) == 2

    drive(desk, keys)


def test_a_broken_review_is_told_before_anything_is_shown(tmp_path: Path) -> None:
    (tmp_path / "review.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"review\.jsonl:1: not a review"):
        desk_of(tmp_path)


def test_a_bug_is_left_to_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Broken(BrowserApp):
        def action_help(self) -> None:
            secret = "texts of the data"
            raise ZeroDivisionError(len(secret))

    app = Broken(desk_of(tmp_path))

    async def session() -> None:
        with pytest.raises(ZeroDivisionError):
            async with app.run_test() as pilot:
                await pilot.press("question_mark")

    asyncio.run(session())
    assert isinstance(app.failure, ZeroDivisionError)
    assert "secret" not in "".join(capfd.readouterr())


# --- the command in a terminal


class Terminal:
    """A pseudo-terminal with `alpaca …` in it."""

    def __init__(self, folder: Path, *arguments: object, kind: str = "xterm-256color") -> None:
        self.side, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=folder,
            env=environment(TERM=kind),
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        self.written = b""

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Read what is drawn until the condition holds; at most a minute, and not past the end."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, self.written[-2000:]
            if select.select([self.side], [], [], 0.05)[0]:
                self.written += os.read(self.side, 1 << 16)
            else:
                assert self.process.poll() is None or condition(), self.written[-2000:]

    def press(self, keys: str) -> None:
        os.write(self.side, keys.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.inner)
        os.close(self.side)


def test_kill_9_after_a_mark_and_dedup_without_the_row(tmp_path: Path, real_data: Path) -> None:
    rows = json.loads((real_data / "alpaca_en_demo.json").read_text())[:150]
    rows[0]["output"] += "\x1b]0;owned\x07"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    review = tmp_path / "data.json.review.jsonl"
    terminal = Terminal(tmp_path, "stats", "data.json", "--browse")
    terminal.wait_for(lambda: b"1/150" in terminal.written)
    terminal.press("jjb")
    terminal.wait_for(lambda: review.is_file() and review.read_bytes().endswith(b"\n"))
    terminal.process.kill()
    terminal.process.wait()
    assert b"\x1b]0;owned" not in terminal.written
    terminal.close()
    [marked] = read_reviews(review).values()
    assert (marked.row, marked.mark, marked.source) == (3, "bad", "data.json")

    options = ["--threshold", 1, "--exclude", review, "-o", "out.jsonl"]
    done = run("dedup", "data.json", *options, cwd=tmp_path)
    assert "kept 149 of 150, dropped 1" in done.stdout
    kept = [row["instruction"] for _, row in read_jsonl(tmp_path / "out.jsonl")]
    assert kept == [row["instruction"] for number, row in enumerate(rows) if number != 2]


@pytest.mark.parametrize(("way", "code"), [(signal.SIGTERM, 143), ("\x03", 0)])
def test_the_terminal_is_left_as_it_was(
    tmp_path: Path, way: str | signal.Signals, code: int
) -> None:
    (tmp_path / "data.json").write_text(json.dumps([task.to_row() for task in TASKS]))
    terminal = Terminal(tmp_path, "stats", "data.json", "--browse", "--review", "marks.jsonl")
    terminal.wait_for(lambda: b"1/6" in terminal.written)
    assert termios.tcgetattr(terminal.inner) != terminal.before
    if isinstance(way, str):
        terminal.press(way)
    else:
        terminal.process.send_signal(way)
    terminal.wait_for(lambda: terminal.process.poll() is not None)
    assert terminal.process.returncode == code
    assert termios.tcgetattr(terminal.inner) == terminal.before
    assert b"\x1b[?1049l" in terminal.written  # the screen before it is back
    terminal.close()
    assert not (tmp_path / "marks.jsonl").exists()


def test_without_a_terminal_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps([task.to_row() for task in TASKS]))
    refused = run("stats", "data.json", "--browse", cwd=tmp_path, code=2)
    assert "--browse needs a terminal" in refused.stderr
    terminal = Terminal(tmp_path, "stats", "data.json", "--browse", kind="dumb")
    terminal.wait_for(lambda: terminal.process.poll() is not None)
    terminal.close()
    assert terminal.process.returncode == 2
    assert b"TERM names none" in terminal.written
    assert b"\x1b[?1049h" not in terminal.written
