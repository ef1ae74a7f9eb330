"""What is the same for every speaker: which texts are refused, and how a reply is kept."""

from __future__ import annotations

from alpaca_cli.core.errors import UsageError
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.speaker import Reply


class Trimmer:
    """Takes the white space before and after a text off, while the text arrives in pieces."""

    def __init__(self) -> None:
        self._held, self._started = "", False

    def add(self, text: str) -> str:
        """What is certain to belong to the trimmed text by now."""
        held = self._held + text
        body = held if self._started else held.lstrip()
        solid = body.rstrip()
        self._started = self._started or bool(solid)
        self._held = body[len(solid) :]
        return solid


def check_texts(message: str, *others: str) -> None:
    """UsageError when there is no message, or when what is asked is not text."""
    if not message.strip():
        raise UsageError("the prompt is empty")
    for text in (message, *others):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UsageError("the prompt is not UTF-8 text") from error


def after_reply(session: Session, input: str, reply: Reply, seen: int) -> Session:
    """The session with a reply in it, to which so many earlier turns were shown."""
    whole = reply.finish_reason == "stop"
    return session.answered(reply.prompt, input, reply.response, follows=seen > 0, whole=whole)
