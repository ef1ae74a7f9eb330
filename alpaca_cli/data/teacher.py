"""Teachers: who turns a request into the text of a reply.

A teacher is one attempt, no more: it sends the request, and returns the reply or raises what went
wrong, which tells the caller what to do:

    Busy           try again
    Refused        this request will not be answered; a smaller one may be, if it was too long
    Unsupported    this mode of asking is not known here; another may be
    TeacherError   no request will be answered

How often and how many at a time is decided in `alpaca_cli.data.dispatch`; what the reply means,
in `alpaca_cli.data.parsing`; the wire, in `alpaca_cli.data.endpoint`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from alpaca_cli.core.errors import TeacherError, UsageError
from alpaca_cli.core.settings_generate import OpenAITeacher, ProceduralTeacher
from alpaca_cli.data.limits import Told
from alpaca_cli.data.prompts import Request

if TYPE_CHECKING:
    import openai


@dataclass(frozen=True, slots=True)
class Reply:
    """A teacher's reply.

    Attributes:
        model: the model that answered, as the endpoint names it.
        usage: tokens: `prompt_tokens`, `completion_tokens` and, where told, `cached_tokens`,
            `cache_write_tokens` and `reasoning_tokens`, which are parts of these two; None when
            the endpoint tells nothing.
        tier: the service tier that it names.
        limits: the quotas that it told with the reply.
        limit_field: the name of the length limit with which it was asked.
    """

    text: str
    finish_reason: str | None
    model: str
    usage: Mapping[str, int] | None = None
    tier: str | None = None
    limits: Mapping[str, Told] = field(default_factory=dict)
    limit_field: str | None = None

    def told(self, limits: Mapping[str, Told], limit_field: str) -> Reply:
        """The reply with what came with it."""
        return replace(self, limits=limits, limit_field=limit_field)


Teacher = Callable[[Request], Coroutine[Any, Any, Reply]]


@dataclass
class Busy(Exception):
    """This attempt failed; a later one can succeed.

    Attributes:
        wait: seconds that the endpoint asked for.
        maybe_billed: the endpoint may have done the work, as after a timeout.
        overload: it has no room for so many requests, and has not worked on this one.
        limits: the quotas that it told.
    """

    message: str
    wait: float | None = None
    maybe_billed: bool = False
    overload: bool = False
    limits: Mapping[str, Told] = field(default_factory=dict)


@dataclass
class Refused(Exception):
    """The endpoint will not answer this request; it may well answer others.

    Attributes:
        too_long: prompt and room for the reply do not fit its context.
    """

    message: str
    too_long: bool = False


@dataclass
class Unsupported(Exception):
    """The endpoint does not know this mode of asking (`response_format`)."""

    message: str


@asynccontextmanager
async def open_teacher(
    settings: OpenAITeacher | ProceduralTeacher, concurrency: int, limit_field: str | None = None
) -> AsyncIterator[Teacher]:
    """The teacher of a recipe, ready for `concurrency` requests at once.

    Args:
        limit_field: the name of the length limit, when an earlier run has found it out.

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
        from alpaca_cli.data.endpoint import Endpoint

        async with open_client(settings, concurrency) as (client, key):
            official = client.base_url.host == "api.openai.com"
            chat = settings.protocol != "completion"
            usual = "max_completion_tokens" if official and chat else "max_tokens"
            yield Endpoint(settings, client, key, limit_field or usual)


@asynccontextmanager
async def open_client(
    settings: OpenAITeacher, concurrency: int
) -> AsyncIterator[tuple[openai.AsyncOpenAI, str]]:
    """An SDK client that keeps a connection for each request in flight, and its key.

    Raises:
        UsageError: the address is none.
        TeacherError: the variable that should hold the key is not set, or holds none.
    """
    import httpx2
    import openai

    base_url = (settings.base_url or os.environ.get("OPENAI_BASE_URL") or "").strip() or None
    if base_url is not None and not _is_address(base_url):
        raise UsageError(
            f"generate.teacher.base_url: {base_url}: not the address of an endpoint",
            hint="e.g. http://127.0.0.1:8000/v1",
        )
    local = base_url is not None and is_loopback(base_url)
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key and not local:
        raise TeacherError(
            f"generate.teacher.api_key_env: the environment variable {settings.api_key_env} "
            "is not set",
            hint=f"export {settings.api_key_env}=…",
        )
    if not (key.isascii() and key.isprintable()):  # a header holds nothing else
        raise TeacherError(
            f"generate.teacher.api_key_env: what {settings.api_key_env} holds is no key: it has "
            "letters beyond ASCII, or a line break",
            hint="copy the key anew, without typographic quotes",
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


def _is_address(url: str) -> bool:
    """Whether requests can be sent to a URL."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of brackets and ports
        return False


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
