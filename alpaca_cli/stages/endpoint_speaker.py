"""A model behind an OpenAI-compatible endpoint as a speaker.

One message is one streamed chat completion, with the system prompt and the earlier turns as
messages. What equals the protocol's own default is not sent, for reasoning models refuse sampling
parameters; their reasoning is not shown. The wire, and what its errors mean, is shared with
`alpaca_cli.data.endpoint`.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alpaca_cli.core.errors import AlpacaError, DataError, TeacherError, TryAgain, UsageError
from alpaca_cli.core.progress import CONTROL
from alpaca_cli.model.dialogue import Exchange, Sampling, joined
from alpaca_cli.stages.chat_session import NO_LIMIT, Session
from alpaca_cli.stages.speaker import Reply, Room
from alpaca_cli.stages.speaking import Trimmer, check_texts

if TYPE_CHECKING:
    import openai
    from openai.types.chat import ChatCompletionChunk

    from alpaca_cli.core.settings_generate import OpenAITeacher

TICK = 0.05  # seconds between two looks whether the person wants it to stop
# The protocol's defaults: an endpoint asked with these gets none of the fields.
DEFAULTS = Sampling(temperature=1.0, max_new_tokens=NO_LIMIT)
NEWER, OLDER = "max_completion_tokens", "max_tokens"


@dataclass(frozen=True, slots=True)
class EndpointSpeaker:
    """See `Speaker`. Threads may share it, and are answered side by side."""

    settings: OpenAITeacher
    key: str
    sampling: Sampling = DEFAULTS
    history: bool = True
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.settings.model

    @property
    def about(self) -> str:
        return f"at {self.place}"

    @property
    def place(self) -> str:
        """Host and port."""
        return urlsplit(self.settings.base_url or "").netloc.rpartition("@")[2]

    def ask(
        self,
        session: Session,
        message: str,
        input: str = "",
        *,
        write: Callable[[str], None] = lambda text: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> tuple[Reply, int]:
        """See `Speaker.ask`. Not to be called where an event loop runs.

        `stop` is asked several times a second, for an endpoint may be silent for long.
        """
        check_texts(message, input, session.system)
        return asyncio.run(self._ask(session, message, input, write, stop))

    def room(self, session: Session, message: str = "", input: str = "") -> Room | None:
        """None: an endpoint counts its tokens itself, and only when it answers."""
        return None

    def close(self) -> None:
        """Nothing is kept open between messages."""

    async def _ask(
        self,
        session: Session,
        message: str,
        input: str,
        write: Callable[[str], None],
        stop: Callable[[], bool],
    ) -> tuple[Reply, int]:
        reply = _Incoming(write)
        receiving = asyncio.ensure_future(self._receive(session, message, input, reply))
        # A signal that ends it ends the loop, too; nobody is left to ask for its exception.
        receiving.add_done_callback(lambda task: task.cancelled() or task.exception())
        while not receiving.done():
            if stop():
                receiving.cancel()
                await asyncio.wait({receiving})
                reply.reason = "interrupted"
                break
            await asyncio.wait({receiving}, timeout=TICK)
        else:
            receiving.result()
            reply.check(self.place)
        return Reply(self.name, message, reply.text, reply.reason, reply.usage), reply.seen

    async def _receive(self, session: Session, message: str, input: str, reply: _Incoming) -> None:
        """Ask until the conversation is short enough, and take the reply in."""
        from alpaca_cli.data.teacher import Refused, open_client

        exchanges = session.exchanges()
        async with open_client(self.settings, 1) as (client, _):
            while True:
                reply.seen = len(exchanges)
                try:
                    body = self._body(session, exchanges, message, input)
                    async with self._stream(client, body) as chunks:
                        async for chunk in chunks:
                            reply.take(chunk)
                    return
                except Refused as refused:
                    if not refused.too_long:
                        raise TeacherError(f"{self.place} refused: {refused.message}") from refused
                    if not exchanges:
                        raise DataError(f"{self.place}: {refused.message}") from refused
                    # Its context is not known beforehand: the older half is left out, and again.
                    exchanges = exchanges[(len(exchanges) + 1) // 2 :]

    def _body(
        self, session: Session, exchanges: Sequence[Exchange], message: str, input: str
    ) -> dict[str, Any]:
        sampling = session.sampling
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages(session.system, exchanges, message, input),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if sampling.max_new_tokens < NO_LIMIT:
            official = self.place == "api.openai.com"
            body[NEWER if official else OLDER] = sampling.max_new_tokens
        for name in ("temperature", "top_p"):
            if getattr(sampling, name) != getattr(DEFAULTS, name):
                body[name] = getattr(sampling, name)
        if sampling.seed is not None:
            body["seed"] = sampling.seed
        if sampling.top_k:  # no field of OpenAI's, but of most servers
            body["extra_body"] = {"top_k": sampling.top_k}
        return body

    @asynccontextmanager
    async def _stream(
        self, client: openai.AsyncOpenAI, body: dict[str, Any]
    ) -> AsyncIterator[AsyncIterator[ChatCompletionChunk]]:
        """The chunks of a completion; closing it in the middle ends the work on the other side.

        Raises:
            Refused: the endpoint does not take this request.
            TeacherError, TryAgain: see `Speaker.ask`.
        """
        import httpx2
        import openai

        try:
            stream = await self._create(client, body)
        except openai.APIStatusError as error:
            raise self._meant(error, body) from error
        except openai.APIConnectionError as error:
            told = self._redacted(error.__cause__ or error)
            raise TryAgain(f"cannot reach {self.place}: {told}") from error
        try:
            async with stream:
                yield aiter(stream)
        except (openai.APIError, httpx2.HTTPError) as error:
            raise self._broke_off(self._redacted(error.__cause__ or error)) from error
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._broke_off("it sent what is no completion") from error

    async def _create(
        self, client: openai.AsyncOpenAI, body: dict[str, Any]
    ) -> openai.AsyncStream[ChatCompletionChunk]:
        """Send the request, again without what an error says the endpoint does not know."""
        import openai

        stream: openai.AsyncStream[ChatCompletionChunk]
        for _ in range(2):
            try:
                stream = await client.chat.completions.create(**body)
            except openai.APIStatusError as error:
                told = error.response.text if error.status_code in (400, 422) else ""
                if "stream_options" in told:
                    del body["stream_options"]
                elif NEWER in told and OLDER in body:
                    body[NEWER] = body.pop(OLDER)
                else:
                    raise
            else:
                return stream
        stream = await client.chat.completions.create(**body)
        return stream

    def _meant(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> Exception:
        """What an HTTP error means to who asked."""
        from alpaca_cli.data.endpoint import classified
        from alpaca_cli.data.teacher import Busy, Refused

        found = classified(error, self.settings, self.key, body)
        if isinstance(found, Refused):
            return Refused(clean(found.message), found.too_long)
        if isinstance(found, Busy):
            wait = f"it asks to wait {found.wait:.0f} seconds" if found.wait else ""
            return TryAgain(f"{self.place} is busy: {clean(found.message)}", hint=wait)
        told = clean(str(found)).replace("the teacher", self.place, 1)
        return TeacherError(told, hint=self._hint(error.status_code, str(found)))

    def _hint(self, status: int, told: str) -> str:
        if status in (401, 403):
            return f"is the key in {self.settings.api_key_env} valid for this endpoint?"
        if status in (404, 405):
            return f"is {self.name} a model of this endpoint, and does --base-url end as it should?"
        if "does not take" in told:
            return "what equals the default is not sent: temperature 1, top_p 1, others off"
        return "check plan and billing"

    def _broke_off(self, told: str) -> AlpacaError:
        return TryAgain(f"{self.place} broke off in the middle of the reply: {told}")

    def _redacted(self, error: BaseException) -> str:
        from alpaca_cli.data.endpoint import redacted

        return redacted(clean(str(error) or type(error).__name__), self.key)


class _Incoming:
    """A reply that is being received.

    Attributes:
        seen: earlier turns that it was shown.
        reason: why it ended, in the endpoint's words; empty before its end.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self.seen = 0
        self.reason = ""
        self.usage: dict[str, int] = {}
        self._write = write
        self._pieces: list[str] = []
        self._trimmer = Trimmer()
        self._chunks = 0

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self, chunk: ChatCompletionChunk) -> None:
        """One more part of it; the last one has the usage, where the endpoint tells it."""
        self._chunks += 1
        if chunk.usage is not None:
            names = ("prompt_tokens", "completion_tokens", "total_tokens")
            self.usage = {name: getattr(chunk.usage, name) or 0 for name in names}
        for choice in (chunk.choices or [])[:1]:
            delta = choice.delta
            text = (delta.content or delta.refusal or "") if delta else ""
            # Half a character pair may come out of JSON, but never goes into UTF-8.
            self._pieces.append(self._trimmer.add(text.encode("utf-8", "replace").decode()))
            self._write(self._pieces[-1].translate(CONTROL))
            self.reason = choice.finish_reason or self.reason

    def check(self, place: str) -> None:
        """See to it that this is a whole completion.

        Raises:
            TeacherError: it is none.
            TryAgain: the connection was closed before its end.
        """
        if not self._chunks:
            raise TeacherError(
                f"{place} answered with something that is no streamed completion",
                hint="does --base-url end as it should, in /v1 for most servers?",
            )
        if not self.reason:
            raise TryAgain(f"{place} broke off in the middle of the reply")


def open_endpoint(model: str | None, base_url: str, api_key_env: str) -> EndpointSpeaker:
    """A model of an endpoint; nothing is sent before the first message.

    Raises:
        UsageError: no model is named, or the address is none.
        TeacherError: the variable that should hold the key is not set; this machine's own
            servers need none.
    """
    import openai  # noqa: F401  # takes seconds, which are not to be those of the first reply

    from alpaca_cli.core.settings_generate import OpenAITeacher
    from alpaca_cli.data.teacher import is_loopback

    if not model:
        raise UsageError(
            "which model of the endpoint?", hint=f"alpaca chat MODEL --base-url {base_url}"
        )
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(
            f"{base_url}: not the address of an endpoint", hint="e.g. http://127.0.0.1:8000/v1"
        )
    key = os.environ.get(api_key_env, "").strip()
    if not key and not is_loopback(base_url):
        raise TeacherError(
            f"{parts.hostname} needs a key: the environment variable {api_key_env} is not set",
            hint=f"export {api_key_env}=…, or name another variable with --api-key-env",
        )
    settings = OpenAITeacher(kind="openai", model=model, base_url=base_url, api_key_env=api_key_env)
    return EndpointSpeaker(settings, key)


def messages(
    system: str, exchanges: Sequence[Exchange], message: str, input: str
) -> list[dict[str, str]]:
    """A conversation in the protocol's form; an input follows its message after a blank line."""
    found = [{"role": "system", "content": system}] if system else []
    for each in exchanges:
        found.append({"role": "user", "content": joined(each.instruction, each.input)})
        found.append({"role": "assistant", "content": each.answer})
    return [*found, {"role": "user", "content": joined(message, input)}]


def clean(text: str) -> str:
    """What a server says, in one line that cannot steer a terminal."""
    return " ".join(text.translate(CONTROL).split())
