"""Teachers: who turns a request into the text of a reply.

A teacher is one attempt, no more: it sends the request, and returns the reply or raises what went
wrong in one of three kinds, which tell the caller what to do: `Busy` (try again), `Refused` (this
request will not be answered), `TeacherError` (no request will be). How often and how many at a
time is decided in `alpaca_cli.data.dispatch`; what the reply means, in `alpaca_cli.data.parsing`.

The key is read from the environment, travels in one header, and is cut out of every message.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import os
import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alpaca_cli.core.errors import TeacherError
from alpaca_cli.core.settings_generate import OpenAITeacher, ProceduralTeacher
from alpaca_cli.data.prompts import Request

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True, slots=True)
class Reply:
    """A teacher's reply.

    Attributes:
        model: the model that answered, as the endpoint names it.
        usage: tokens: `prompt_tokens`, `completion_tokens` and, where told, `cached_tokens` and
            `reasoning_tokens`, which are parts of these two; None when the endpoint tells nothing.
    """

    text: str
    finish_reason: str | None
    model: str
    usage: Mapping[str, int] | None = None


Teacher = Callable[[Request], Coroutine[Any, Any, Reply]]


@dataclass
class Busy(Exception):
    """This attempt failed; a later one can succeed.

    Attributes:
        wait: seconds that the endpoint asked for.
        maybe_billed: the endpoint may have done the work, as after a timeout.
    """

    message: str
    wait: float | None = None
    maybe_billed: bool = False


@dataclass
class Refused(Exception):
    """The endpoint will not answer this request; it may well answer others."""

    message: str


@asynccontextmanager
async def open_teacher(
    settings: OpenAITeacher | ProceduralTeacher, concurrency: int
) -> AsyncIterator[Teacher]:
    """The teacher of a recipe, ready for `concurrency` requests at once.

    Raises:
        TeacherError: the variable that should hold the key is not set.
        UsageError: the embedded teacher has no such family.
    """
    if isinstance(settings, ProceduralTeacher):
        from alpaca_cli.data.procedural import family_names
        from alpaca_cli.data.procedural_teacher import reply

        known = family_names(settings.families)

        async def procedural(request: Request) -> Reply:
            return reply(request.text, settings.mistakes, known)

        yield procedural
    else:
        async with _client(settings, concurrency) as (client, key):
            yield _Endpoint(settings, client, key)


@asynccontextmanager
async def _client(
    settings: OpenAITeacher, concurrency: int
) -> AsyncIterator[tuple[openai.AsyncOpenAI, str]]:
    """An SDK client that keeps a connection for each request in flight, and its key."""
    import httpx2
    import openai

    base_url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or None
    local = base_url is not None and is_loopback(base_url)
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and not local:
        raise TeacherError(
            f"generate.teacher.api_key_env: the environment variable {settings.api_key_env} "
            "is not set",
            hint=f"export {settings.api_key_env}=…, or --set generate.teacher.kind=procedural",
        )
    http_client = openai.DefaultAsyncHttpxClient(
        limits=httpx2.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        trust_env=not local,  # a proxy cannot reach this machine's loopback
    )
    async with openai.AsyncOpenAI(
        api_key=key or "none",
        base_url=base_url,
        max_retries=0,  # retries are counted, budgeted and journalled by us
        timeout=httpx2.Timeout(settings.timeout, connect=30.0),
        http_client=http_client,
    ) as client:
        yield client, key


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class _Endpoint:
    """One OpenAI-compatible endpoint; calling it is one attempt."""

    settings: OpenAITeacher
    client: openai.AsyncOpenAI
    key: str
    # OpenAI's chat models want the newer name, many servers know the older one only.
    limit_field: str = field(init=False)
    switched: bool = False

    def __post_init__(self) -> None:
        official = self.client.base_url.host == "api.openai.com"
        chat = self.settings.protocol != "completion"
        self.limit_field = "max_completion_tokens" if official and chat else "max_tokens"

    async def __call__(self, request: Request) -> Reply:
        import openai

        limit_field = self.limit_field
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw = await self._send(request, limit_field)
        except (TimeoutError, openai.APITimeoutError) as error:
            seconds = f"{self.settings.timeout:g} seconds"
            raise Busy(f"no reply within {seconds}", maybe_billed=True) from error
        except openai.APIStatusError as error:
            if self._misnamed_limit(error, limit_field):
                return await self(request)
            raise self._classified(error) from error
        except openai.APIConnectionError as error:
            raise self._unconnected(error) from error
        return self._read(request, raw)

    async def _send(self, request: Request, limit_field: str) -> bytes:
        body = wire_body(request.body, limit_field)
        # The raw response, because the SDK takes HTML for a reply and fails on cut JSON.
        if "prompt" in body:
            completion = await self.client.completions.with_raw_response.create(**body)
            return bytes(completion.content)
        chat = await self.client.chat.completions.with_raw_response.create(**body)
        return bytes(chat.content)

    def _misnamed_limit(self, error: openai.APIStatusError, used: str) -> bool:
        """Whether to try the other name of the length limit, which is then used from now on."""
        told = error.response.text
        if error.status_code not in (400, 422) or not _UNKNOWN_FIELD.search(told):
            return False
        if used not in told or (self.switched and self.limit_field == used):
            return False
        if not self.switched:  # else another request in flight found out meanwhile
            self.limit_field = "max_tokens" if used != "max_tokens" else "max_completion_tokens"
            self.switched = True
        return True

    def _read(self, request: Request, raw: bytes) -> Reply:
        """The reply in the body of a 200."""
        try:
            data = json.loads(raw)
            choice = data["choices"][0]
            text = choice["text"] if "prompt" in request.body else _content(choice["message"])
            finish_reason = choice.get("finish_reason")
            model = str(data.get("model") or self.settings.model)
            usage = _usage(data.get("usage"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            shown = self._redacted(raw[:200].decode("utf-8", "replace"))
            raise Busy(f"200, but not a completion: {shown}", maybe_billed=True) from error
        if not isinstance(text, str):
            raise Busy("200, but the content is not text", maybe_billed=True)
        for stop in request.body.get("stop", ()):
            text = text.partition(stop)[0]  # some servers leave it in
        # Half a character pair may come out of JSON, but never goes into UTF-8.
        text = text.encode("utf-8", "replace").decode()
        return Reply(text, None if finish_reason is None else str(finish_reason), model, usage)

    def _classified(self, error: openai.APIStatusError) -> Exception:
        status, code, kind = error.status_code, error.code, error.type
        message = f"{status}: {self._redacted(_told(error))}"
        if status == 429 and "insufficient_quota" in (code, kind):
            return TeacherError(f"the teacher refused: {message}", hint="check plan and billing")
        if status in (408, 409, 425, 429) or status >= 500:
            lost = status in (502, 504)  # a gateway gave up, the work behind it may go on
            return Busy(message, wait_time(error.response.headers), maybe_billed=lost)
        if status in (401, 402, 403, 404, 405):
            return TeacherError(f"the teacher refused: {message}", hint=self._hint(status))
        return Refused(message)

    def _hint(self, status: int) -> str:
        if status in (401, 403):
            return f"is the key in {self.settings.api_key_env} valid for this endpoint?"
        if status in (404, 405):
            return f"check generate.teacher.model and base_url ({self.client.base_url.host})"
        return "check plan and billing"

    def _unconnected(self, error: openai.APIConnectionError) -> Busy:
        import httpx2

        cause = error.__cause__
        never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
        url = self.client.base_url
        place = url.host if url.port is None else f"{url.host}:{url.port}"
        message = f"cannot reach {place}: {self._redacted(str(cause or error))}"
        return Busy(message, maybe_billed=not never_sent)

    def _redacted(self, text: str) -> str:
        return redacted(text, self.key)


_UNKNOWN_FIELD = re.compile(
    "unsupported|not supported|unknown|unrecogni[sz]ed|extra|unexpected|not permitted", re.I
)


def wire_body(body: Mapping[str, Any], limit_field: str) -> dict[str, Any]:
    """The request in the protocol's own fields; what equals the default is not sent.

    Defaults are left out because reasoning models refuse sampling parameters, whatever their
    value.
    """
    sent: dict[str, Any] = {"model": body["model"], limit_field: body["max_output_tokens"]}
    sent |= {name: body[name] for name in ("messages", "prompt", "stop") if name in body}
    sent |= {name: body[name] for name in ("temperature", "top_p") if body[name] != 1}
    if body["protocol"] == "chat-json":
        sent["response_format"] = {"type": "json_object"}
    if body["extra_body"]:
        sent["extra_body"] = body["extra_body"]
    return sent


def redacted(text: str, key: str) -> str:
    """The text without the key, nor anything else that looks like one."""
    if key:
        text = text.replace(key, "[key]")
    return re.sub(r"\bsk-[A-Za-z0-9_*.-]{6,}|(?<=Bearer )\S+", "[key]", text)


def wait_time(headers: Mapping[str, str]) -> float | None:
    """Seconds until the next attempt, from `retry-after-ms` or `retry-after`; None when not told.

    Source: RFC 9110, 10.2.3: seconds or an HTTP date.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return float(value) * unit
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())


def _told(error: openai.APIStatusError) -> str:
    """What the endpoint said, in one short line: its message, else its body."""
    body = error.body
    for name in ("message", "detail", "error"):
        if isinstance(body, Mapping) and isinstance(body.get(name), str):
            return " ".join(str(body[name]).split())[:300]
    return " ".join(error.response.text.split())[:300] or error.response.reason_phrase


def _content(message: Mapping[str, Any]) -> str:
    """The text of a chat message; a refusal counts as one, nothing as an empty text."""
    content = message.get("content")
    return (message.get("refusal") or "") if content is None else content


def _usage(usage: Mapping[str, Any] | None) -> dict[str, int] | None:
    if not usage:
        return None
    found = {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage.get("completion_tokens") or 0,
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        "reasoning_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
    }
    return {name: int(value) for name, value in found.items() if value is not None}
