"""The parts of the browser's screen: the list of rows, the example, the help.

Of the list only what is visible is drawn, so that a million rows scroll like a hundred. What the
keys that are not for moving do is the business of `alpaca_cli.stages.browsing_app`.

Importing this needs the extra [browse].
"""

from __future__ import annotations

import re
from bisect import bisect_left
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.events import Click
from textual.geometry import Size
from textual.message import Message
from textual.screen import ModalScreen
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Static

from alpaca_cli.stages.browsing_desk import Desk
from alpaca_cli.stages.browsing_view import list_line


class RowList(ScrollView, can_focus=True):
    """The rows that pass the filter, and a cursor on one of them."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home", "to_end(False)"),
        Binding("end", "to_end(True)"),
    ]

    class Moved(Message):
        """The cursor is on another row."""

        def can_replace(self, message: Message) -> bool:
            """While a key is held, the example is drawn as often as there is time for it."""
            return isinstance(message, RowList.Moved)

    def __init__(self, desk: Desk) -> None:
        super().__init__()
        self._desk = desk
        self.rows = list(range(len(desk)))
        self.place = 0  # of the cursor in `rows`
        self.pattern: re.Pattern[str] | None = None

    @property
    def row(self) -> int:
        return self.rows[self.place]

    def show(self, rows: list[int], row: int) -> None:
        """Show these rows, with the cursor on `row` or the next one after it."""
        self.rows = rows
        self._resize()
        self.move_to(min(bisect_left(rows, row), len(rows) - 1))

    def move_to(self, place: int) -> None:
        self.place = max(0, min(place, len(self.rows) - 1))
        height = self.size.height
        top = self.scroll_offset.y
        if not top <= self.place < top + height:
            # A step scrolls by a row; a jump puts the row in the middle.
            near = -2 < self.place - top <= height + 1
            wanted = self.place if self.place < top else self.place - height + 1
            self.scroll_to(
                y=wanted if near else self.place - height // 2, animate=False, immediate=True
            )
        self.refresh()
        self.post_message(self.Moved())

    def action_move(self, by: int) -> None:
        self.move_to(self.place + by)

    def action_page(self, by: int) -> None:
        self.move_to(self.place + by * max(1, self.size.height - 1))

    def action_to_end(self, last: bool) -> None:
        self.move_to(len(self.rows) - 1 if last else 0)

    def _resize(self) -> None:
        self.virtual_size = Size(self.scrollable_content_region.width, len(self.rows))

    def on_mount(self) -> None:
        self._resize()

    def on_resize(self) -> None:
        self._resize()
        # A key that comes before this is done may have moved the cursor.
        self.call_after_refresh(lambda: self.move_to(self.place))

    def on_click(self, event: Click) -> None:
        self.move_to(self.scroll_offset.y + event.y)

    def render_line(self, y: int) -> Strip:
        place, width = self.scroll_offset.y + y, self.scrollable_content_region.width
        if place >= len(self.rows):
            return Strip.blank(width)
        line = list_line(self._desk, self.rows[place], width - 1, self.pattern)
        here = place == self.place
        line = Text("›" if here else " ", no_wrap=True).append_text(line)
        if here:
            line.stylize("reverse" if self.has_focus else "bold")
        strip = Strip(line.render(self.app.console), line.cell_len)
        return strip.adjust_cell_length(width)


class Detail(VerticalScroll, can_focus=True):
    """The example that the cursor is on, whole."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("k", "scroll_up"),
        Binding("j", "scroll_down"),
    ]

    def compose(self) -> ComposeResult:
        yield Static(id="example")


class Help(ModalScreen[None]):
    """Keys and filters."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss"),
        Binding("j", "down"),
        Binding("k", "up"),
    ]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help"):
            yield Static(self._text)

    def action_down(self) -> None:
        self.query_one("#help").scroll_down(animate=False)

    def action_up(self) -> None:
        self.query_one("#help").scroll_up(animate=False)
