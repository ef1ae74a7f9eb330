"""Who can be talked to: a model on this machine, or one behind an OpenAI-compatible endpoint.

Terminal, web page, side-by-side view and blind comparison know a `Speaker` and nothing else, so
student and teacher are asked in the same way. What a conversation is stands in
`alpaca_cli.stages.chat_session`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.stages.chat_session import Session


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's answer. `response` is what it wrote, without white space around it."""

    model: str
    prompt: str
    response: str
    finish_reason: str
    """`stop`: the model ended it; `length`: max_new_tokens or the context did; `interrupted`."""
    usage: Mapping[str, int]
    """Tokens: `prompt_tokens`, `completion_tokens` (EOS not counted), `total_tokens`; an endpoint
    that tells none has an empty one."""


@dataclass(frozen=True, slots=True)
class Room:
    """How full the context is before a message is sent."""

    tokens: int
    """Of the prompt as it would be sent now, the oldest turns left out where they do not fit."""
    context: int | None
    """Most tokens of prompt and answer together; None when the endpoint does not say."""
    left_out: int
    """Earlier turns that do not fit."""


class Speaker(Protocol):
    """A model that answers.

    Attributes:
        name: what the person calls it.
        about: a few words for people: size, device and prompt template, or the endpoint's address.
        sampling: its own defaults.
        history: whether it learned to see earlier turns (a chat template), so that they are shown
            unless the person says otherwise.
        notes: what the person should be told before the first message.
    """

    @property
    def name(self) -> str: ...
    @property
    def about(self) -> str: ...
    @property
    def sampling(self) -> Sampling: ...
    @property
    def history(self) -> bool: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def ask(
        self,
        session: Session,
        message: str,
        input: str = "",
        *,
        write: Callable[[str], None] = ...,
        stop: Callable[[], bool] = ...,
    ) -> tuple[Reply, int]:
        """One reply, and how many of the earlier turns it saw.

        When the conversation outgrows the context the oldest turns are left out first; the system
        prompt and the message never are.

        Args:
            write: gets the reply as it appears, free of control characters.
            stop: asked before each token; True ends the reply, what was said stays.

        Raises:
            UsageError: the message is empty or not text.
            DataError: the message alone fills the context.
            TeacherError: the endpoint refuses (key, quota, model).
            TryAgain: the endpoint is too busy or cannot be reached.
        """

    def room(self, session: Session, message: str = "", input: str = "") -> Room | None:
        """How full the context is; None when tokens cannot be counted here."""

    def close(self) -> None:
        """Give back memory and connections."""
