"""The screen and the keys of `alpaca stats --browse`, made with textual.

A list of rows and the example that the cursor is on, beside each other or, on a narrow terminal,
one above the other. Colours are the terminal's own sixteen: light and dark ones stay as they are.

Importing this needs the extra [browse]; only `alpaca_cli.stages.browsing` does.
"""

from __future__ import annotations

import asyncio
import signal
from bisect import bisect_left, insort
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Horizontal
from textual.message import Message
from textual.timer import Timer
from textual.widgets import Input, Static

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.data.reviews import Mark
from alpaca_cli.stages.browsing_desk import Desk, Neighbour
from alpaca_cli.stages.browsing_query import row_filter, search_pattern
from alpaca_cli.stages.browsing_view import (
    help_text,
    title,
    visible,
    whole_example,
)
from alpaca_cli.stages.browsing_widgets import Detail, Help, RowList

HINTS = "? help  q quit  / search  f filter  g good  b bad  u clear  e note  d nearest"
SETTLED = 0.15  # seconds on one row before its neighbours are looked for


class NeighboursFound(Message):
    """What the thread beside the screen's has found."""

    def __init__(self, row: int, neighbours: list[Neighbour]) -> None:
        super().__init__()
        self.row, self.neighbours = row, neighbours


class BrowserApp(App[None]):
    """The browser of a desk of examples.

    Attributes:
        failure: the bug that ended it, if one did.
        terminated: whether SIGTERM ended it.
    """

    CSS_PATH = Path(__file__).with_name("browsing.tcss")
    ENABLE_COMMAND_PALETTE = False
    # textual declares it for instances, and means classes.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (72, "-wide")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c,ctrl+q", "quit"),
        Binding("slash", "ask('search')"),
        Binding("f", "ask('filter')"),
        Binding("e", "ask('note')"),
        Binding("n", "match(1)"),
        Binding("N", "match(-1)"),
        Binding("g", "mark('good')"),
        Binding("b", "mark('bad')"),
        Binding("u", "mark('none')"),
        Binding("G", "mark('good', True)"),
        Binding("B", "mark('bad', True)"),
        Binding("d", "jump(0)"),
        *(Binding(str(digit), f"jump({digit})") for digit in range(1, 6)),
        Binding("backspace", "return"),
        Binding("space", "read_on"),
        Binding("tab,shift+tab,enter", "other_pane"),
        Binding("escape", "leave_prompt"),
        Binding("question_mark", "help"),
    ]

    def __init__(self, desk: Desk) -> None:
        super().__init__(ansi_color=True)
        self.desk = desk
        self.list = RowList(desk)
        self.detail = Detail()
        self.prompt = Input(id="prompt", compact=True)
        self._asked = ""  # what the prompt is open for
        self._asked_of = 0  # the row that it is open for
        self._filter = self._typed = ""  # the one that holds, and the last one, wrong or not
        self._came_from: list[int] = []
        self._neighbours: dict[int, list[Neighbour]] = {}
        self._settling: Timer | None = None
        self._example = Text()
        self._to_match = False
        self.terminated = False

    @property
    def failure(self) -> Exception | None:
        return self._exception

    def _fatal_error(self) -> None:
        """Leave for `alpaca` to report: textual's own traceback shows variables, and so data."""
        self._close_messages_no_wait()

    def compose(self) -> ComposeResult:
        yield Static(id="title")
        with Container(id="panes"):
            yield self.list
            yield self.detail
        with Horizontal(id="bottom"):
            yield Static(id="status")
            yield self.prompt

    def on_mount(self) -> None:
        # Raised in the middle of a callback, an exception may end up where nobody hears it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._terminate)
        self.theme = "ansi-dark"
        self.list.focus()
        self._say(HINTS)

    def _terminate(self) -> None:
        self.terminated = True
        self.exit()

    def _say(self, text: str, style: str = "dim") -> None:
        # Hints may be cut off, what went wrong may not.
        status = self.query_one("#status", Static)
        status.set_class(text == HINTS, "-hints")
        status.update(Text(visible(text), style))

    # --- what is shown

    @on(RowList.Moved)
    def _show_example(self) -> None:
        self._redraw()
        self.detail.scroll_to(y=self._line_of_match(), animate=False)
        row = self.list.row
        self.desk.seen.add(row)
        if self._settling is not None:
            self._settling.stop()
        if row not in self._neighbours:
            self._settling = self.set_timer(SETTLED, lambda: self._look_for_neighbours(row))

    def _line_of_match(self) -> int:
        """The line that the example is shown from: the first, or before what was searched for."""
        pattern, self._to_match = self.list.pattern if self._to_match else None, False
        found = pattern.search(self._example.plain) if pattern is not None else None
        if found is None:
            return 0
        width, height = self.detail.scrollable_content_region.size
        lines = self._example[: found.end()].wrap(self.console, max(1, width))
        return 0 if len(lines) < height else len(lines) - height // 3

    def _redraw(self) -> None:
        rows, near = self.list, self._neighbours.get(self.list.row)
        self._example = whole_example(self.desk, rows.row, near, rows.pattern)
        self.query_one("#example", Static).update(self._example)
        line = title(self.desk, rows.place, len(rows.rows), self._filter)
        self.query_one("#title", Static).update(line, layout=False)
        rows.refresh()

    @work(thread=True, exclusive=True)
    def _look_for_neighbours(self, row: int) -> None:
        self.post_message(NeighboursFound(row, self.desk.neighbours(row)))

    @on(NeighboursFound)
    def _show_neighbours(self, found: NeighboursFound) -> None:
        self._neighbours[found.row] = found.neighbours
        if found.row == self.list.row:
            self._redraw()

    # --- moving

    def action_other_pane(self) -> None:
        if not self._asked:
            (self.detail if self.list.has_focus else self.list).focus()

    def action_read_on(self) -> None:
        if self.detail.scroll_offset.y >= self.detail.max_scroll_y:
            self.list.action_move(1)
        else:
            self.detail.scroll_page_down(animate=False)

    def action_jump(self, digit: int) -> None:
        """To a neighbour; 0: to what the row repeats, or else the nearest."""
        row = self.list.row
        target = self.desk.other_row(row) if digit == 0 else None
        if target is None:
            near = self._neighbours.get(row)
            if near is None:
                near = self._neighbours[row] = self.desk.neighbours(row)
            if len(near) < max(1, digit):
                self._say("there is no such neighbour")
                return
            target = near[max(1, digit) - 1].row
        self._came_from.append(row)
        self._go_to(target)

    def action_return(self) -> None:
        if self._came_from:
            self._go_to(self._came_from.pop())
        else:
            self._say("you have not jumped anywhere")

    def _go_to(self, row: int) -> None:
        """Put the cursor on a row; one that the filter hides is shown all the same."""
        rows = self.list.rows
        place = bisect_left(rows, row)
        said = HINTS
        if place == len(rows) or rows[place] != row:
            rows = [*rows]
            insort(rows, row)
            said = f"row {row + 1:,} does not pass the filter; it is shown all the same"
        self.list.show(rows, row)
        self._say(said)

    # --- marks

    def action_mark(self, mark: Mark, onward: bool = False) -> None:
        row = self.list.row
        if self._written(lambda: self.desk.set_mark(row, mark)):
            said = "mark cleared" if mark == "none" else f"marked {mark}"
            self._say(f"row {row + 1:,} {said}{self._with_twins(row)}", "bold")
            if onward:
                self.list.action_move(1)

    def _written(self, write: Callable[[], None]) -> bool:
        """Whether something could be written; else it is said why not."""
        try:
            write()
        except AlpacaError as error:
            self.bell()
            self._say(f"not saved: {error}", "bold red")
            return False
        self._redraw()
        return True

    def _with_twins(self, row: int) -> str:
        twins = self.desk.twins(row)
        return f", and {twins:,} with the same texts" if twins else ""

    # --- the prompt

    def action_ask(self, what: str) -> None:
        begun = {"filter": self._typed, "note": self.desk.note(self.list.row)}
        self._asked, self._asked_of = what, self.list.row
        label = "/" if what == "search" else f"{what}: "
        self._say(label, "bold")
        self.query_one("#bottom").add_class("-asking")
        self.prompt.value = begun.get(what, "")
        self.prompt.focus()

    def action_leave_prompt(self) -> None:
        if self._asked:
            self._close_prompt()
            self._say(HINTS)
        else:
            self.list.focus()

    def _close_prompt(self) -> None:
        self._asked = ""
        self.query_one("#bottom").remove_class("-asking")
        self.list.focus()

    @on(Input.Submitted)
    def _answer(self, submitted: Input.Submitted) -> None:
        asked, row, value = self._asked, self._asked_of, submitted.value
        self._close_prompt()
        try:
            if asked == "search":
                self._search(value)
            elif asked == "filter":
                self._apply_filter(value.strip())
            elif asked and self._written(lambda: self.desk.set_note(row, value.strip())):
                self._say(f"note saved{self._with_twins(row)}", "bold")
        except AlpacaError as error:
            self._say(f"{error}\n{error.hint}".strip(), "bold red")

    def _apply_filter(self, text: str) -> None:
        self._typed = text
        passes = row_filter(text, self.desk)
        rows = [row for row in range(len(self.desk)) if passes(row)]
        if not rows:
            self._say(f"nothing passes {text}; the filter is as it was", "bold red")
            return
        self._filter = text
        self.list.show(rows, self.list.row)
        self._say(f"{len(rows):,} of {len(self.desk):,} rows pass" if text else HINTS)

    def _search(self, text: str) -> None:
        self.list.pattern = search_pattern(text) if text else None
        if text:
            self._next_match(0, 1)
        else:
            self._redraw()
            self._say(HINTS)

    def action_match(self, direction: int) -> None:
        if self.list.pattern is None:
            self._say("search first: /")
        else:
            self._next_match(1, direction)

    def _next_match(self, least: int, direction: int) -> None:
        """Go to the next row that matches, at least so many away, round the end if need be."""
        pattern, rows = self.list.pattern, self.list.rows
        assert pattern is not None
        for away in range(least, len(rows) + 1):
            place = (self.list.place + direction * away) % len(rows)
            if pattern.search(self.desk.text(rows[place])):
                over = not 0 <= self.list.place + direction * away < len(rows)
                self._to_match = True
                self.list.move_to(place)
                self._say("round the end" if over else HINTS)
                return
        self._redraw()
        self._say("found in none of these rows", "bold red")

    def action_help(self) -> None:
        found = {one.rule for findings in self.desk.findings.values() for one in findings}
        self.push_screen(Help(help_text(sorted(found), self.size.width)))
