"""Errors a person can act on, and the exit code each ends with.

    AlpacaError                1    a bug of ours, unless a subclass says otherwise
    ├── UsageError             2    a flag, a recipe or the state of a run folder is wrong
    ├── DataError              3    an input file is missing or malformed
    ├── BudgetStop             4    stopped by a budget before the target
    ├── GateFailed             5    a gate or verification failed
    ├── TeacherError           6    the teacher refused: key, quota, model
    ├── ResourceError          7    disk, memory or GPU ran out
    └── TryAgain              75    busy now; the same command later can succeed

Interrupts are not errors: `KeyboardInterrupt` ends in 130, `Terminated` (SIGTERM) in 143, and
both leave work that the same command resumes.

No CLI library is known here: `alpaca_cli.cli.main` turns these into a message and a code.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AlpacaError(Exception):
    """Something the user can act on: printed as one message, without a traceback.

    Args:
        message: what is wrong and where (file:line, recipe key, row id).
        hint: what to do next; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(AlpacaError):
    """A flag, a recipe key or the state of a run folder is wrong."""

    exit_code = 2


class DataError(AlpacaError):
    """An input file is missing, unreadable or malformed."""

    exit_code = 3


class BudgetStop(AlpacaError):
    """A budget ended the work before the target; what was made is kept."""

    exit_code = 4


class GateFailed(AlpacaError):
    """A gate or a verification did not hold."""

    exit_code = 5


class TeacherError(AlpacaError):
    """The teacher refused for a reason that waiting does not cure."""

    exit_code = 6


class ResourceError(AlpacaError):
    """The machine ran out of disk, memory or GPU."""

    exit_code = 7


class TryAgain(AlpacaError):
    """Nothing is wrong; the same command later can succeed."""

    exit_code = 75


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised where Ctrl-C would raise KeyboardInterrupt, so that both clean up alike."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean "x"?` for the closest of `known`, or an empty string when none is close."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f', did you mean "{close[0]}"?' if close else ""


def missing_extra(module: str, extra: str) -> UsageError:
    """The one-line error for a feature whose optional library is not installed."""
    return UsageError(
        f"this needs {module}, which is not installed",
        hint=f'in the checkout: pip install -c constraints.txt -e ".[{extra}]"',
    )
