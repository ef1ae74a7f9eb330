"""The web page's conversations: who is answered when, and what a visitor has said and been told.

A model answers one visitor at a time, in the order of asking; the others are told how many are
before them. A visitor is one open page. How a page looks, and that it is made with gradio, is not
known here.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from alpaca_cli.core.errors import AlpacaError, TryAgain, UsageError
from alpaca_cli.model.dialogue import joined
from alpaca_cli.stages.chat_session import Session, Turn, change
from alpaca_cli.stages.speaker import Reply, Speaker

TICK = 0.05  # seconds between two looks at answers in the making
ALIVE = 0.5  # seconds between two signs of life while nothing new is said
LONGEST = 20_000  # characters of a message, an input field or a system prompt
MOST_NEW_TOKENS = 4096  # that a visitor may ask for
LINE = 32  # visitors that may wait for one model
BUG = "the answer failed; the terminal says why"


@dataclass(eq=False)  # two visitors may ask the same
class Ticket:
    """A visitor's wish for one answer, and the answer as far as it is.

    Attributes:
        stop: set by the visitor (or the end of the server): no further token.
        reply: None until it is whole, and for good when the model was never asked or failed.
    """

    session: Session
    message: str
    input: str
    text: str = ""
    began: bool = False
    ended: bool = False
    stop: bool = False
    reply: Reply | None = None
    seen: int = 0
    problem: str = ""

    def write(self, text: str) -> None:
        """What the model says next."""
        self.text += text


class Desk:
    """A model and the line of those who wait for its answers."""

    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self._line: list[Ticket] = []
        self._changing = threading.Lock()
        self._closed = False

    def ask(self, session: Session, message: str, input: str) -> Ticket:
        """Queue for an answer.

        Raises:
            TryAgain: the line is too long.
        """
        ticket = Ticket(session, message, input)
        with self._changing:
            if len(self._line) >= LINE or self._closed:
                raise TryAgain("too many are waiting; try again later")
            self._line.append(ticket)
            if len(self._line) == 1:
                self._serve(ticket)
        return ticket

    def before(self, ticket: Ticket) -> int:
        """How many are answered first."""
        with self._changing:
            return self._line.index(ticket) if ticket in self._line else 0

    def close(self, patience: float = 5.0) -> None:
        """Stop the answer that is being written and refuse further ones.

        Args:
            patience: seconds to wait for a model that is slow to stop.
        """
        with self._changing:
            self._closed = True
            for ticket in self._line:
                ticket.stop = True
            running = self._thread if self._line else None
        if running is not None:
            running.join(patience)

    def _serve(self, ticket: Ticket) -> None:
        """Answer on a thread of its own, which does not keep the process from ending."""
        self._thread = threading.Thread(target=self._answer, args=(ticket,), daemon=True)
        self._thread.start()

    def _answer(self, ticket: Ticket) -> None:
        try:
            if not ticket.stop:
                ticket.began = True
                ticket.reply, ticket.seen = self.speaker.ask(
                    ticket.session,
                    ticket.message,
                    ticket.input,
                    write=ticket.write,
                    stop=lambda: ticket.stop,
                )
        except AlpacaError as error:
            ticket.problem = f"{error} ({error.hint})" if error.hint else str(error)
        finally:
            if ticket.began and ticket.reply is None and not ticket.problem:
                ticket.problem = BUG
            ticket.ended = True
            with self._changing:
                self._line.remove(ticket)
                if self._line:
                    self._serve(self._line[0])


@dataclass
class Visitor:
    """One open page: a conversation with each model, and what is going on now.

    Attributes:
        sessions: one for each model, of the same messages.
        tickets: of the message that is being answered now; empty when none is.
    """

    sessions: list[Session]
    tickets: list[Ticket] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        return bool(self.tickets)

    def stop(self) -> None:
        """End the answers that are being written; what was said stays."""
        for ticket in self.tickets:
            ticket.stop = True


def with_settings(session: Session, values: Mapping[str, object], system: str) -> Session:
    """The session with what a visitor set.

    Args:
        values: setting -> value, as `alpaca_cli.stages.chat_session.change` knows them; None and
            an empty text are off.

    Raises:
        UsageError: a value is outside its range.
    """
    check_length("the system prompt", system)
    for name, value in values.items():
        session = change(session, name, _written(value))
    if session.sampling.max_new_tokens > MOST_NEW_TOKENS:
        raise UsageError(f"max_new_tokens: at most {MOST_NEW_TOKENS:,} here")
    return replace(session, system=system.strip())


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return "off" if value is None else str(value).strip() or "off"


def check_length(what: str, text: str) -> None:
    """Refuse texts that no conversation needs.

    Raises:
        UsageError: says how long it may be.
    """
    if len(text) > LONGEST:
        raise UsageError(f"{what} has {len(text):,} characters; at most {LONGEST:,} here")


async def answers(
    desks: Sequence[Desk], visitor: Visitor, message: str, input: str
) -> AsyncGenerator[str, None]:
    """Ask every model and take the exchange into the visitor's sessions.

    Nothing is kept when a model fails, or when all were stopped before they began.

    Yields:
        What is going on, in words, whenever there is something new in `visitor.tickets`, and now
        and then when there is not: that a page was closed shows when it is told something.

    Raises:
        UsageError: the message is empty or too long, or another one is being answered.
        TryAgain: too many are waiting.
        AlpacaError: a model failed.
    """
    _between(visitor)
    message = message.strip()
    if not message:
        raise UsageError("the message is empty")
    check_length("the message", message)
    check_length("the input", input)
    try:
        for desk, session in zip(desks, visitor.sessions, strict=True):
            visitor.tickets.append(desk.ask(session, message, input.strip()))
        told, at = None, 0.0
        while not all(_settled(ticket) for ticket in visitor.tickets):
            now = _going_on(desks, visitor.tickets)
            seen = (now, *(len(ticket.text) for ticket in visitor.tickets))
            if seen != told or time.monotonic() > at + ALIVE:
                told, at = seen, time.monotonic()
                yield now
            await asyncio.sleep(TICK)
        yield _taken(visitor)
    finally:
        # Also when the page was closed meanwhile: nobody waits for the answer any more.
        visitor.stop()
        visitor.tickets = []


def _settled(ticket: Ticket) -> bool:
    """Whether nothing more will come of it: those who stop while they wait leave the line."""
    return ticket.ended or (ticket.stop and not ticket.began)


def _going_on(desks: Sequence[Desk], tickets: Sequence[Ticket]) -> str:
    before = 0
    for desk, ticket in zip(desks, tickets, strict=True):
        if not ticket.began:
            before = max(before, desk.before(ticket))
    if not before:
        return "Answering …"
    others = "somebody else is" if before == 1 else f"{before} others are"
    return f"Waiting: {others} being answered first"


def _taken(visitor: Visitor) -> str:
    """Take finished answers into the sessions; says how they ended."""
    tickets = visitor.tickets
    for ticket in tickets:
        if ticket.problem:
            raise AlpacaError(ticket.problem)
    if not any(ticket.reply for ticket in tickets):
        return "Stopped before the answer began"
    visitor.tickets = []
    visitor.sessions = [
        session.answered(
            ticket.message,
            ticket.input,
            ticket.reply.response if ticket.reply else "",
            follows=ticket.seen > 0,
            whole=ticket.reply is not None and ticket.reply.finish_reason == "stop",
        )
        for session, ticket in zip(visitor.sessions, tickets, strict=True)
    ]
    return _ending(tickets)


def _ending(tickets: Sequence[Ticket]) -> str:
    """What a person should know about how answers ended; empty when all is as it should be."""
    reasons = [ticket.reply.finish_reason if ticket.reply else "interrupted" for ticket in tickets]
    said = []
    left_out = max(_unseen(ticket) for ticket in tickets)
    if left_out > 0:
        said.append(f"{left_out} earlier messages did not fit and were not seen")
    if "interrupted" in reasons:
        said.append("stopped; what was said stays")
    elif "length" in reasons:
        said.append("cut at the longest reply (Settings: longest reply)")
    elif any(ticket.reply and not ticket.reply.response for ticket in tickets):
        said.append("an empty reply")
    text = "; ".join(said)
    return text[:1].upper() + text[1:]


def _unseen(ticket: Ticket) -> int:
    """How many earlier messages the model was meant to see and did not."""
    return len(ticket.session.exchanges()) - ticket.seen if ticket.reply else 0


def take_back(visitor: Visitor) -> Turn:
    """Forget the last message and its answers.

    Raises:
        UsageError: there is none, or one is being answered.
    """
    _between(visitor)
    if not visitor.sessions[0].turns:
        raise UsageError("nothing has been said yet")
    last = visitor.sessions[0].turns[-1]
    visitor.sessions = [replace(each, turns=each.turns[:-1]) for each in visitor.sessions]
    return last


def forget(visitor: Visitor) -> None:
    """Begin a new conversation.

    Raises:
        UsageError: a message is being answered.
    """
    _between(visitor)
    visitor.sessions = [replace(each, turns=()) for each in visitor.sessions]


def _between(visitor: Visitor) -> None:
    if visitor.busy:
        raise UsageError("stop the answer first")


def spoken(visitor: Visitor, place: int) -> list[tuple[str, str]]:
    """(who, text) of all that is to be seen of one conversation, the answer in the making too."""
    said = turns(visitor.sessions[place].turns)
    if visitor.tickets:
        ticket = visitor.tickets[place]
        said += [("user", joined(ticket.message, ticket.input)), ("assistant", ticket.text)]
    return said


def turns(of: Sequence[Turn]) -> list[tuple[str, str]]:
    """(who, text) of what was said."""
    said = []
    for turn in of:
        said += [("user", joined(turn.message, turn.input)), ("assistant", turn.reply)]
    return said
