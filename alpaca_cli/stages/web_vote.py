"""Blind votes on the web page: two answers in hidden order, one vote, names at the end.

The same rules and the same file as in the terminal (`alpaca_cli.stages.versus`): every message
stands alone, both answers are shown when both are whole, and which one stands on the left is
drawn anew each time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.text import Text

from alpaca_cli.data.votes import Said, Side, VoteFile, cast
from alpaca_cli.stages.chat_session import Session, Turn
from alpaca_cli.stages.versus import show_standing
from alpaca_cli.stages.web_chat import Visitor


@dataclass(frozen=True, slots=True)
class Pair:
    """What two models answered to one message; the model called a is the first one named."""

    answers: tuple[Turn, Turn]
    first: Side

    @property
    def shown(self) -> tuple[Turn, Turn]:
        """Left and right."""
        a, b = self.answers
        return (a, b) if self.first == "a" else (b, a)


class Ballot:
    """Two models to vote on, and the file of the votes.

    Raises:
        UsageError: both are the same model.
        DataError: the file is damaged.
    """

    def __init__(self, names: Sequence[str], path: Path, seed: int | None = None) -> None:
        self._file = VoteFile(path, (names[0], names[1]))
        self._order = random.Random(seed)

    def draw(self, visitor: Visitor) -> Pair:
        """The pair to vote on, out of the last answers, which the conversation forgets."""
        a, b = (session.turns[-1] for session in visitor.sessions)
        visitor.sessions = [replace(each, turns=()) for each in visitor.sessions]
        return Pair((a, b), self._order.choice(("a", "b")))

    def vote(self, pair: Pair, said: Said) -> None:
        """Keep a vote; it is on disk when this returns."""
        a, b = pair.answers
        vote = cast(
            said,
            pair.first,
            asked=(a.message, a.input),
            system=a.system,
            models=self._file.models,
            answers=(a.reply, b.reply),
        )
        self._file.add(vote)

    def close(self) -> None:
        """Give the file back."""
        self._file.close()

    def standing(self) -> str:
        """The names, and what all votes of the file on these two say."""
        found = self._file.standing()
        return "No votes yet" if found is None else Text.from_markup(show_standing(found)).plain


def alone(session: Session) -> Session:
    """A session whose messages stand alone, so that both models are asked the same."""
    return replace(session, turns=(), history=False)
