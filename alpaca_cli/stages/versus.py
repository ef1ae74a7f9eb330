"""Two models side by side: every message goes to both; blind, a person votes before names are told.

Side by side each model goes on with its own conversation. Blind, every message stands alone, so
that both models were asked the same and a vote is a preference that can be trained on; answers
are shown when both are complete, in an order drawn anew each time, for speed and place must not
tell who is who. Who the models are is not known here but for their names; votes are kept by
`alpaca_cli.data.votes`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from alpaca_cli.core.errors import AlpacaError, Terminated, UsageError
from alpaca_cli.data.votes import Said, Side, Standing, Vote, VoteFile, cast
from alpaca_cli.model.dialogue import joined
from alpaca_cli.stages.chat_input import read_message
from alpaca_cli.stages.chat_screen import (
    Pace,
    Region,
    lines_of,
    markdown,
    note,
    show_error,
    shown,
    undisturbed,
)
from alpaca_cli.stages.chat_session import Command, Session, apply, parse
from alpaca_cli.stages.interrupts import ctrl_c_stops
from alpaca_cli.stages.speaker import Reply, Speaker
from alpaca_cli.stages.speaking import after_reply

HERE = ("help", "new", "system", "input", "set", "undo", "quit")
NARROW = 72  # columns below which answers stand one above the other
_VOTES: dict[str, Said | Literal["skip"]] = {
    "a": "left", "b": "right", "t": "tie", "tie": "tie", "s": "skip", "skip": "skip",
}  # fmt: skip
_ASK = "which is better? a, b, tie, or skip: "


@dataclass(frozen=True, slots=True)
class Question:
    """A message and its input."""

    message: str
    input: str = ""


def side_by_side(
    speakers: tuple[Speaker, Speaker],
    sessions: tuple[Session, Session],
    read_line: Callable[[str], str],
    console: Console,
) -> None:
    """Talk to both until the person leaves; Ctrl-C ends the answer that is being written."""
    names = tuple(escape(each.name) for each in speakers)
    console.print(f"[bold]{names[0]}[/] · [bold]{names[1]}[/]", highlight=False)
    note(console, "every message goes to both · /help lists the commands · Ctrl-D leaves")
    while True:
        try:
            heard = parse(read_message(read_line))
            if isinstance(heard, Command):
                _refuse_elsewhere(heard)
                steps = [apply(session, heard) for session in sessions]
                if steps[0].say:
                    note(console, steps[0].say)
                if steps[0].quit:
                    return
                sessions = (steps[0].session, steps[1].session)
            elif heard:
                given = sessions[0].input
                replies = answer_both(speakers, sessions, heard, given, console)
                one, other = (
                    after_reply(session, given, reply, seen)
                    for session, (reply, seen) in zip(sessions, replies, strict=True)
                )
                sessions = (one, other)
        except Terminated:
            raise
        except KeyboardInterrupt:
            note(console, "Ctrl-D or /quit leaves")
        except EOFError:
            return
        except AlpacaError as error:
            show_error(console, error)


def answer_both(
    speakers: tuple[Speaker, Speaker],
    sessions: tuple[Session, Session],
    message: str,
    input: str,
    console: Console,
) -> list[tuple[Reply, int]]:
    """Ask one after the other, showing both columns as they fill; what `Speaker.ask` returns.

    Ctrl-C ends the answer that is being written.
    """
    texts = ["", ""]
    names = [each.name for each in speakers]

    def view(waiting: str) -> list[str]:
        return lines_of(console, columns(names, [text or waiting for text in texts], console.width))

    region, pace = Region(console), Pace()
    replies = []

    def draw() -> None:
        if pace.due():
            with pace.drawing():
                region.draw(view("…"))

    with undisturbed(console):
        try:
            for place, (speaker, session) in enumerate(zip(speakers, sessions, strict=True)):

                def write(text: str, place: int = place) -> None:
                    texts[place] += text
                    draw()

                with ctrl_c_stops() as pressed:
                    replies.append(
                        speaker.ask(
                            session, message, input, write=write, stop=_drawing(draw, pressed)
                        )
                    )
        finally:
            # Once more, whole: what moves on the screen is cut to its height.
            region.draw((), settled=view(""))
    return replies


def _drawing(draw: Callable[[], None], pressed: Callable[[], bool]) -> Callable[[], bool]:
    """Looks whether to stop, and draws what has come meanwhile."""

    def stop() -> bool:
        draw()
        return pressed()

    return stop


def columns(names: Sequence[str], texts: Sequence[str], width: int) -> RenderableType:
    """Two answers beside each other, or one above the other where the terminal is narrow."""
    panels = [
        Panel(markdown(text), title=Text(shown(name)), title_align="left", border_style="dim")
        for name, text in zip(names, texts, strict=True)
    ]
    table = Table.grid(expand=True)
    if width < NARROW:
        table.add_column()
        for panel in panels:
            table.add_row(panel)
    else:
        table.add_column(ratio=1)
        table.add_column(ratio=1)
        table.add_row(*panels)
    return table


def blind(
    speakers: tuple[Speaker, Speaker],
    session: Session,
    read_line: Callable[[str], str],
    console: Console,
    votes: Path,
    questions: Sequence[Question] | None = None,
    seed: int | None = None,
) -> None:
    """Ask, show in hidden order, vote; names and win rate are told at the end.

    Every vote is on disk before the next message. Questions that these two models have a vote on
    in the file are not asked again.

    Args:
        questions: what is asked, one after the other; what the person types when None.
        seed: of the order in which answers are shown; None for another one each time.

    Raises:
        UsageError: both are the same model.
        DataError: the file of votes is damaged.
    """
    order = random.Random(seed)
    with VoteFile(votes, (speakers[0].name, speakers[1].name)) as file:
        note(console, "which is which is told at the end · Ctrl-C stops an answer · Ctrl-D ends")
        left = None
        if questions is not None:
            known = {(vote.instruction, vote.input) for vote in file.votes()}
            left = [each for each in questions if (each.message, each.input) not in known]
        while left is None or left:
            try:
                if left is None:
                    session, question = _typed(session, read_line, console)
                else:
                    question = left[0]
                    console.print(f"[dim]{len(left):,} left[/]", highlight=False)
                    console.print(Panel(Text(shown(joined(question.message, question.input)))))
                vote = _vote(speakers, session, question, order, read_line, console)
            except Terminated:
                raise
            except KeyboardInterrupt:
                note(console, "Ctrl-D or /quit leaves")
                continue
            except EOFError:
                break
            except AlpacaError as error:
                show_error(console, error)
                if left is not None:
                    raise  # the next question would only meet the same
                continue
            if vote is not None:
                file.add(vote)
            if left is not None:
                left = left[1:]
        _reveal(file, console)


def _typed(
    session: Session, read_line: Callable[[str], str], console: Console
) -> tuple[Session, Question]:
    """The next message of the person, and the session after the commands before it.

    Raises:
        EOFError: the person leaves.
    """
    while True:
        heard = parse(read_message(read_line))
        if isinstance(heard, Command):
            _refuse_elsewhere(heard)
            step = apply(session, heard)
            if step.say:
                note(console, step.say)
            if step.quit:
                raise EOFError
            session = step.session
        elif heard:
            return replace(session, input=""), Question(heard, session.input)


def _vote(
    speakers: tuple[Speaker, Speaker],
    session: Session,
    question: Question,
    order: random.Random,
    read_line: Callable[[str], str],
    console: Console,
) -> Vote | None:
    """Ask both, show, and take a vote; None when the person skips."""
    alone = replace(session, turns=(), history=False)
    replies: list[Reply] = []
    with console.status("both are answering …"):
        for speaker in speakers:
            with ctrl_c_stops() as stop:
                replies.append(speaker.ask(alone, question.message, question.input, stop=stop)[0])
    first: Side = order.choice(("a", "b"))
    placed = replies if first == "a" else replies[::-1]
    console.print(columns(["a", "b"], [each.response for each in placed], console.width))
    choice = _choice(read_line, console)
    if choice == "skip":
        return None
    return cast(
        choice,
        first,
        asked=(question.message, question.input),
        system=session.system,
        models=(speakers[0].name, speakers[1].name),
        answers=(replies[0].response, replies[1].response),
    )


def _choice(read_line: Callable[[str], str], console: Console) -> Said | Literal["skip"]:
    """What the person says of the two answers.

    Raises:
        EOFError: they leave without a vote.
    """
    while True:
        try:
            said = read_line(_ASK).strip().lower()
        except Terminated:
            raise
        except KeyboardInterrupt:
            note(console, "skip passes this one over, Ctrl-D ends")
            continue
        if said in ("/quit", "/q"):
            raise EOFError
        if said in _VOTES:
            return _VOTES[said]


def _reveal(file: VoteFile, console: Console) -> None:
    """The names, and what all votes of the file on these two say."""
    standing = file.standing()
    if standing is None:
        note(console, "no votes yet")
        return
    console.print(show_standing(standing), highlight=False)
    note(console, f"votes: {file.path} · for preference trainers: {file.preferences}")


def show_standing(standing: Standing) -> str:
    """Two models and what people said, in rich markup."""
    votes = standing.wins_a + standing.wins_b + standing.ties
    lines = [
        f"[bold]{escape(standing.model_a)}[/] {standing.wins_a:,} · "
        f"[bold]{escape(standing.model_b)}[/] {standing.wins_b:,} · ties {standing.ties:,}",
        f"{escape(standing.model_a)} wins {standing.win_rate:.1%} of {votes:,} votes, "
        "a tie being half a win",
    ]
    if standing.interval is not None and standing.decisive_rate is not None:
        low, high = standing.interval
        lines.append(
            f"without ties {standing.decisive_rate:.1%} (95 % interval {low:.1%} to {high:.1%})"
        )
    return "\n".join(lines)


def _refuse_elsewhere(command: Command) -> None:
    if command.name not in HERE:
        raise UsageError(
            f"/{command.name} does not go with two models",
            hint=f"here: {' '.join(f'/{name}' for name in HERE)}",
        )
