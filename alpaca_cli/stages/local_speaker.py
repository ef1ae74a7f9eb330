"""A model on this machine as a speaker.

What it has read is remembered from one reply to the next (`alpaca_cli.model.reading`), so that
only the new part of a conversation is computed. torch is imported when a model is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from threading import Lock
from typing import TYPE_CHECKING

from rich.markup import escape

from alpaca_cli.core.progress import CONTROL, Progress
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.locate import find_model
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.speaker import Reply, Room
from alpaca_cli.stages.speaking import Trimmer, check_texts

if TYPE_CHECKING:
    from alpaca_cli.model.loading import Student
    from alpaca_cli.model.reading import Memory


@dataclass(slots=True)
class LocalSpeaker:
    """See `Speaker`. Threads may share it; one of them is answered at a time."""

    student: Student
    memory: Memory
    sampling: Sampling
    _speaking: Lock = field(default_factory=Lock, init=False, repr=False)

    @property
    def name(self) -> str:
        return self.student.name

    @property
    def about(self) -> str:
        size = f"{self.student.parameters / 1e6:,.1f}M parameters on {self.student.device.type}"
        return f"{size}, {self.student.template.name} template"

    @property
    def history(self) -> bool:
        # A model of the Alpaca template has learned single exchanges.
        return self.student.template.chat_template

    @property
    def notes(self) -> tuple[str, ...]:
        return () if self.history else ("every message stands alone, as in training",)

    def ask(
        self,
        session: Session,
        message: str,
        input: str = "",
        *,
        write: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Reply, int]:
        """See `Speaker.ask`."""
        from alpaca_cli.model.sampling import stream

        check_texts(message, input, session.system)
        with self._speaking:
            ids, seen = self._fitted(session, message, input)
            pieces, trimmer = [], Trimmer()
            for piece in stream(self.student, ids, session.sampling, stop, self.memory):
                pieces.append(trimmer.add(piece.text))
                write(pieces[-1].translate(CONTROL))
        usage = {"prompt_tokens": len(ids), "completion_tokens": piece.tokens}
        usage["total_tokens"] = sum(usage.values())
        reason = piece.finish_reason or "interrupted"
        return Reply(self.name, message, "".join(pieces), reason, usage), seen

    def room(self, session: Session, message: str = "", input: str = "") -> Room:
        """See `Speaker.room`."""
        ids, seen = self._fitted(session, message, input)
        return Room(len(ids), self.student.context, len(session.exchanges()) - seen)

    def close(self) -> None:
        """Give the model's memory back; the model itself goes with the last who knows it."""
        self.memory.forget()

    def _fitted(self, session: Session, message: str, input: str) -> tuple[list[int], int]:
        """The prompt's ids, and how many earlier turns are in it: see `starts`."""
        from alpaca_cli.model.sampling import exchange_sizes, prompt_ids

        exchanges, context = session.exchanges(), self.student.context
        room = min(session.sampling.max_new_tokens, context // 4)

        def prompt(first: int) -> list[int]:
            return prompt_ids(
                self.student, message, input, history=exchanges[first:], system=session.system
            )

        ids = prompt(0)
        if len(ids) + room <= context:
            return ids, len(exchanges)
        for first in starts(exchange_sizes(self.student, exchanges), context // 2):
            ids = prompt(first)
            if len(ids) + room <= context:
                break
        return ids, len(exchanges) - first


def open_local(name: str, progress: Progress) -> LocalSpeaker:
    """Find and load a model; a wrong name fails before torch is imported.

    Raises:
        DataError: there is no such model, or it cannot be loaded.
        ResourceError: it does not fit into memory.
    """
    folder = find_model(name)
    from alpaca_cli.model.loading import load_student
    from alpaca_cli.model.reading import Memory

    if progress.quiet or not progress.console.is_terminal:
        student = load_student(folder, name)
    else:
        with progress.console.status(f"loading {escape(name)}"):
            student = load_student(folder, name)
    for warning in student.warnings:
        progress.warn(warning)
    return LocalSpeaker(student, Memory(), student.sampling)


def starts(sizes: Sequence[int], block: int) -> list[int]:
    """The turns at which a conversation may begin when it has outgrown the context.

    Turns are left out a block of tokens at a time, so that the prompts that follow begin alike and
    only what is new in them is computed. Which turns these are depends on the turns before them
    alone: a reply taken back, or a conversation loaded, is shown the same.

    Args:
        sizes: tokens of each turn, oldest first.

    Returns:
        Ascending indices; the last one, `len(sizes)`, leaves all turns out.
    """
    found, limit = [], block
    for index, before in enumerate(accumulate(sizes, initial=0)):
        if before >= limit:
            found.append(index)
            limit = (before // block + 1) * block
    return found if found[-1:] == [len(sizes)] else [*found, len(sizes)]
