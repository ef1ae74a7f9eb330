"""`alpaca eval --votes`: what people's votes add up to, from the files of `alpaca chat --blind`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.data.votes import read_votes, standings


@dataclass(frozen=True, slots=True)
class Votes:
    """Votes of one or more files.

    Attributes:
        pairs: one entry for each two models, with the fields of `data.votes.Standing`.
    """

    files: Sequence[str]
    votes: int
    pairs: Sequence[dict[str, Any]]


def run(files: Sequence[Path]) -> Votes:
    """Count the votes of some files together.

    Raises:
        DataError: a file is missing, holds no votes, or a line is not a vote.
    """
    votes = [vote for file in files for vote in read_votes(file)]
    if not votes:
        raise DataError(f"{', '.join(map(str, files))}: no votes")
    return Votes(list(map(str, files)), len(votes), [asdict(each) for each in standings(votes)])
