"""Votes of people on two answers: the file they are kept in, and what they add up to.

    votes.jsonl                  one line per vote, append-only, on disk before the next message
    votes.preferences.jsonl      made from it after each vote: those that prefer an answer

The second has `prompt`, `chosen` and `rejected` as lists of messages and nothing else, the
conversational preference format that TRL's DPOTrainer reads. A tie stands in the first only: a
row without them ends a training. Who votes, and how answers are shown, is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import read_jsonl, write_jsonl
from alpaca_cli.core.intervals import wilson_interval
from alpaca_cli.core.journal import Journal, hold

_BEGINNING = b'{"instruction":'  # of every line
Side = Literal["a", "b"]
Choice = Literal["a", "b", "tie"]
Said = Literal["left", "right", "tie"]


@dataclass(frozen=True, slots=True)
class Vote:
    """What one person said of two answers to one message.

    Attributes:
        first: whose answer was shown first, on the left.
        at: when, ISO 8601 in UTC.
    """

    instruction: str
    input: str
    system: str
    model_a: str
    model_b: str
    answer_a: str
    answer_b: str
    first: Side
    vote: Choice
    at: str

    def preference(self) -> dict[str, list[dict[str, str]]] | None:
        """What a preference trainer reads; None for a tie, or when both answers are the same."""
        if self.vote == "tie" or self.answer_a == self.answer_b:
            return None
        better, worse = (
            (self.answer_a, self.answer_b) if self.vote == "a" else (self.answer_b, self.answer_a)
        )
        asked = f"{self.instruction}\n\n{self.input}" if self.input else self.instruction
        system = [_message("system", self.system)] if self.system else []
        return {
            "prompt": [*system, _message("user", asked)],
            "chosen": [_message("assistant", better)],
            "rejected": [_message("assistant", worse)],
        }


def cast(
    said: Said,
    first: Side,
    *,
    asked: tuple[str, str],
    system: str,
    models: tuple[str, str],
    answers: tuple[str, str],
) -> Vote:
    """The vote that somebody casts now, who saw the answer of `first` on the left.

    Args:
        asked: instruction and input.
        models: who a and b are.
        answers: theirs.
    """
    other: Side = "b" if first == "a" else "a"
    choices: dict[Said, Choice] = {"left": first, "right": other, "tie": "tie"}
    return Vote(
        *asked,
        system,
        *models,
        *answers,
        first=first,
        vote=choices[said],
        at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@dataclass(frozen=True, slots=True)
class Standing:
    """Two models and the votes on them.

    Attributes:
        win_rate: of model_a, a tie counting as half a win.
        decisive_rate: model_a's share of the votes that are no ties; None without any.
        interval: Wilson's at 95 % of `decisive_rate`.
        first_rate: how often the answer that was shown first won, of the votes that are no ties.
    """

    model_a: str
    model_b: str
    wins_a: int
    wins_b: int
    ties: int
    win_rate: float
    decisive_rate: float | None
    interval: tuple[float, float] | None
    first_rate: float | None
    first_interval: tuple[float, float] | None


class VoteFile:
    """The votes on two models, in a file that may hold those on others, open for more.

    Raises:
        UsageError: both are the same model.
        DataError: the file is damaged, or none of votes; a vote that a crash has left half
            written is cut off.
        TryAgain: another process is writing votes there.
    """

    def __init__(self, path: Path, models: tuple[str, str]) -> None:
        if models[0] == models[1]:
            raise UsageError(f"{models[0]}: a blind comparison needs two models")
        self.path, self.models = path, models
        self.preferences = path.with_name(f"{path.stem}.preferences.jsonl")
        self._lock = hold(path, "votes", _BEGINNING, _vote)
        try:
            self._journal = Journal(path)
        except BaseException:
            os.close(self._lock)
            raise
        try:
            read_votes(path)
        except DataError:
            self.close()
            raise

    def add(self, vote: Vote) -> None:
        """Keep a vote; it is on disk when this returns."""
        self._journal.append([asdict(vote)])
        preferences = (each.preference() for each in read_votes(self.path))
        write_jsonl(self.preferences, (row for row in preferences if row is not None))

    def votes(self) -> list[Vote]:
        """Those on these two, whichever of them was called a."""
        models = set(self.models)
        return [vote for vote in read_votes(self.path) if {vote.model_a, vote.model_b} == models]

    def standing(self) -> Standing | None:
        """What they say; None when there are none."""
        return next(iter(standings(self.votes())), None)

    def close(self) -> None:
        """Give the file back."""
        self._journal.close()
        os.close(self._lock)

    def __enter__(self) -> VoteFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_votes(path: Path) -> list[Vote]:
    """The votes of a file, oldest first.

    Raises:
        DataError: there is no such file, or a line is not a vote; names the line.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    votes = []
    for number, row in read_jsonl(path):
        try:
            votes.append(_vote(row))
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a vote: {error}") from error
    return votes


def _vote(row: Any) -> Vote:
    if not isinstance(row, Mapping):
        raise ValueError("not an object")
    values: dict[str, Any] = {name: row.get(name) for name in Vote.__dataclass_fields__}
    for name, value in values.items():
        if not isinstance(value, str):
            raise ValueError(f'"{name}" must be a string')
    for name, kind in (("first", Side), ("vote", Choice)):
        if values[name] not in get_args(kind):
            raise ValueError(f'"{name}" must be one of {", ".join(get_args(kind))}')
    return Vote(**values)


def standings(votes: Iterable[Vote]) -> list[Standing]:
    """For each pair of models, whichever of them is called a, in the order of their first vote."""
    pairs: dict[tuple[str, str], list[Vote]] = {}
    for vote in votes:
        key = (vote.model_a, vote.model_b)
        pairs.setdefault(key[::-1] if key[::-1] in pairs else key, []).append(vote)
    return [_standing(*names, found) for names, found in pairs.items()]


def _standing(model_a: str, model_b: str, votes: Sequence[Vote]) -> Standing:
    winners = [
        None if vote.vote == "tie" else vote.model_a if vote.vote == "a" else vote.model_b
        for vote in votes
    ]
    wins_a, wins_b, ties = winners.count(model_a), winners.count(model_b), winners.count(None)
    decisive = wins_a + wins_b
    first = sum(vote.vote == vote.first for vote in votes)
    return Standing(
        model_a=model_a,
        model_b=model_b,
        wins_a=wins_a,
        wins_b=wins_b,
        ties=ties,
        win_rate=(wins_a + ties / 2) / len(votes),
        decisive_rate=wins_a / decisive if decisive else None,
        interval=wilson_interval(wins_a, decisive) if decisive else None,
        first_rate=first / decisive if decisive else None,
        first_interval=wilson_interval(first, decisive) if decisive else None,
    )
