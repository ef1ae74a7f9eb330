"""An endpoint that speaks the OpenAI protocol: the wire form of requests, and what replies mean.

One call is one HTTP request: the SDK's own retries are off, because attempts are counted, paid
for and journalled by us. Everything that can come back (errors, HTML, cut JSON, no choices, no
usage) becomes a `Reply` or one of the few exceptions of `alpaca_cli.data.teacher`.

The key travels in one header, and is cut out of every message.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import TeacherError
from alpaca_cli.core.settings_generate import OpenAITeacher
from alpaca_cli.data.limits import told_limits
from alpaca_cli.data.prompts import SCHEMA, Request
from alpaca_cli.data.teacher import Busy, Refused, Reply, Unsupported

if TYPE_CHECKING:
    import openai

OVERLOADED = frozenset({429, 498, 503, 529})  # 498: Groq; 529: Anthropic
LIMIT_FIELDS = ("max_completion_tokens", "max_tokens")


@dataclass
class Endpoint:
    """One endpoint; calling it is one attempt.

    Attributes:
        limit_field: what it calls the bound on a reply's length. OpenAI's chat models want the
            newer name, many servers know the older one only; an error tells.
    """

    settings: OpenAITeacher
    client: openai.AsyncOpenAI
    key: str
    limit_field: str
    switched: bool = False

    async def __call__(self, request: Request) -> Reply:
        import openai

        limit_field = self.limit_field
        body = wire_body(request, limit_field, self.settings.service_tier)
        try:
            async with asyncio.timeout(self.settings.timeout):
                raw, headers = await self._send(body)
        except (TimeoutError, openai.APITimeoutError) as error:
            seconds = f"{self.settings.timeout:g} seconds"
            raise Busy(f"no reply within {seconds}", maybe_billed=True) from error
        except openai.APIStatusError as error:
            if self._misnamed_limit(error, limit_field):
                return await self(request)
            raise classified(error, self.settings, self.key, body) from error
        except openai.APIConnectionError as error:
            raise self._unconnected(error) from error
        try:
            reply = read_reply(request, json.loads(raw), self.settings.model)
        except (ValueError, RecursionError) as error:
            shown = redacted(raw[:200].decode("utf-8", "replace"), self.key)
            raise Busy(f"200, but not a completion: {shown}", maybe_billed=True) from error
        return reply.told(told_limits(headers), limit_field)

    async def _send(self, body: dict[str, Any]) -> tuple[bytes, Mapping[str, str]]:
        # The raw response, because the SDK takes HTML for a reply and fails on cut JSON.
        if "prompt" in body:
            completion = await self.client.completions.with_raw_response.create(**body)
            return bytes(completion.content), completion.headers
        # As an extra field, because the SDK walks through every corner of a schema it knows of: a
        # millisecond for each request.
        form = {name: body[name] for name in ("response_format",) if name in body}
        known = {name: value for name, value in body.items() if name not in form}
        known["extra_body"] = form | body.get("extra_body", {})
        chat = await self.client.chat.completions.with_raw_response.create(**known)
        return bytes(chat.content), chat.headers

    def _misnamed_limit(self, error: openai.APIStatusError, used: str) -> bool:
        """Whether to try the other name of the length limit, which is then used from now on."""
        if error.status_code not in (400, 422) or not _names(error.response.text, used):
            return False
        if self.switched and self.limit_field == used:
            return False
        if not self.switched:  # else another request in flight found out meanwhile
            self.limit_field = LIMIT_FIELDS[LIMIT_FIELDS.index(used) - 1]
            self.switched = True
        return True

    def _unconnected(self, error: openai.APIConnectionError) -> Busy:
        import httpx2

        cause = error.__cause__
        never_sent = isinstance(cause, httpx2.ConnectError | httpx2.ConnectTimeout)
        url = self.client.base_url
        place = url.host if url.port is None else f"{url.host}:{url.port}"
        message = f"cannot reach {place}: {redacted(str(cause or error), self.key)}"
        return Busy(message, maybe_billed=not never_sent)


def wire_body(request: Request, limit_field: str, service_tier: str | None) -> dict[str, Any]:
    """The request in the protocol's own fields; what equals the default is not sent.

    Defaults are left out because reasoning models refuse sampling parameters, whatever their
    value.
    """
    body = request.body
    sent: dict[str, Any] = {"model": body["model"], limit_field: body["max_output_tokens"]}
    sent |= {name: body[name] for name in ("messages", "prompt", "stop") if name in body}
    sent |= {name: body[name] for name in ("temperature", "top_p") if body[name] != 1}
    if request.mode == "json_schema":
        schema = {"name": "tasks", "strict": True, "schema": body.get("schema", SCHEMA)}
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif request.mode == "json_object":
        sent["response_format"] = {"type": "json_object"}
    if service_tier is not None:
        sent["service_tier"] = service_tier
    if body["extra_body"]:
        sent["extra_body"] = body["extra_body"]
    return sent


def read_reply(request: Request, data: Any, model: str) -> Reply:
    """The reply in the body of a 200, decoded from JSON.

    Args:
        model: its name when the endpoint tells none.

    Raises:
        ValueError: it is not a completion.
    """
    try:
        choice = data["choices"][0]
        text = choice["text"] if "prompt" in request.body else _content(choice["message"])
        finish_reason = choice.get("finish_reason")
        named = str(data.get("model") or model)
        usage = _usage(data.get("usage"))
        tier = data.get("service_tier")
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError("not a completion") from error
    if not isinstance(text, str):
        raise ValueError("the content is not text")
    for stop in request.body.get("stop", ()):
        text = text.partition(stop)[0]  # some servers leave it in
    reason = None if finish_reason is None else _encodable(str(finish_reason))
    tier = None if tier is None else _encodable(str(tier))
    return Reply(_encodable(text), reason, _encodable(named), usage, tier)


def _encodable(text: str) -> str:
    """The text without half character pairs, which may come out of JSON but not go into UTF-8."""
    return text.encode("utf-8", "replace").decode()


def classified(
    error: openai.APIStatusError, settings: OpenAITeacher, key: str, body: Mapping[str, Any]
) -> Exception:
    """What an HTTP error means for the caller: see `alpaca_cli.data.teacher`."""
    headers = error.response.headers
    told = redacted(_told(error), key)
    return judged_status(error.status_code, error.body, told, headers, settings, body)


def judged_status(
    status: int,
    error: object,
    told: str,
    headers: Mapping[str, str],
    settings: OpenAITeacher,
    body: Mapping[str, Any],
) -> Exception:
    """The same from its parts; lines of a batch have no response of their own.

    Args:
        error: the `error` object of the body, when it has one.
        told: what to show of it.
        body: the request as sent.
    """
    fields = error if isinstance(error, Mapping) else {}
    codes = {fields.get("code"), fields.get("type")}
    message = f"{status}: {told}"
    if status == 429 and "insufficient_quota" in codes:
        return TeacherError(f"the teacher refused: {message}", hint="check plan and billing")
    if "response_format" in body and status in (400, 422, 500, 501) and _FORM.search(told):
        return Unsupported(message)
    if status in (408, 409, 425) or status >= 429:
        # After a gateway has given up, the work behind it may go on.
        return Busy(
            message,
            wait_time(headers),
            maybe_billed=status in (502, 504),
            overload=status in OVERLOADED,
            limits=told_limits(headers),
        )
    if status in (401, 402, 403, 404, 405):
        return TeacherError(f"the teacher refused: {message}", hint=_hint(status, settings))
    if "context_length_exceeded" in codes or _TOO_LONG.search(told):
        return Refused(message, too_long=True)
    if status in (400, 422) and (name := _unsupported(str(fields.get("param") or ""), told, body)):
        return TeacherError(
            f"the teacher does not take {name}: {message}", hint=_cure(name, settings)
        )
    return Refused(message)


# vLLM, llama.cpp, OpenAI, transformers: each in words of its own.
_TOO_LONG = re.compile(
    r"context[ _-](?:length|size|window)|maximum (?:context|sequence)|too many tokens|"
    r"exceeds? the available context|input is too long|prompt is too long",
    re.I,
)
_FORM = re.compile(r"response_format|json_schema|json_object|grammar|guided", re.I)
_UNKNOWN_FIELD = re.compile(
    "unsupported|not support|unknown|unrecogni[sz]ed|extra|unexpected|not permitted|not allowed|"
    "does not accept|invalid (?:value|parameter|type)|only the default",
    re.I,
)


def _names(told: str, field: str) -> bool:
    """Whether an error says that a field is not known."""
    return bool(_UNKNOWN_FIELD.search(told)) and field in told


def _unsupported(param: str, told: str, body: Mapping[str, Any]) -> str:
    """The field of the request that an error is about; empty when it names none."""
    extra = body.get("extra_body", {})
    fields: list[str] = [
        name for name in (*body, *extra) if name not in ("model", "messages", "extra_body")
    ]
    for name in fields:
        if param.split(".")[0] == name and name != "prompt":
            return name
    if _UNKNOWN_FIELD.search(told):
        for name in fields:
            if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", told) and name != "prompt":
                return name
    return ""


def _cure(name: str, settings: OpenAITeacher) -> str:
    """The recipe key to change for a field that is not supported."""
    at = "generate.teacher"
    if name in ("temperature", "top_p"):
        return f"set {at}.{name} to 1: then it is not sent"
    if name == "stop":
        return f"set {at}.protocol to chat-text: only `completion` sends stop texts"
    if name in LIMIT_FIELDS:
        return f"lower {at}.max_output_tokens"
    if name == "service_tier":
        return f"set {at}.service_tier to null"
    if name in settings.extra_body:
        return f"set {at}.extra_body.{name} to null: then it is not sent"
    return f"see {at}"


def _hint(status: int, settings: OpenAITeacher) -> str:
    if status in (401, 403):
        return f"is the key in {settings.api_key_env} valid for this endpoint?"
    if status in (404, 405):
        return "check generate.teacher.model, base_url and protocol"
    return "check plan and billing"


def redacted(text: str, key: str) -> str:
    """The text without the key, nor anything else that looks like one; UTF-8 can hold it."""
    text = _encodable(text)
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


def _content(message: Mapping[str, Any]) -> Any:
    """The text of a chat message; a refusal counts as one, nothing as an empty text."""
    content = message.get("content")
    return (message.get("refusal") or "") if content is None else content


def _usage(usage: Any) -> dict[str, int] | None:
    """The tokens that a reply is billed for; None when they are not told in numbers."""
    if not isinstance(usage, Mapping):
        return None
    prompt, completion, total = (
        _count(usage.get(f"{name}_tokens")) for name in ("prompt", "completion", "total")
    )
    if prompt is None or (completion is None and total is None):
        return None
    of_prompt, of_completion = (
        details if isinstance(details := usage.get(f"{name}_tokens_details"), Mapping) else {}
        for name in ("prompt", "completion")
    )
    found = {
        "prompt_tokens": prompt,
        # xAI and Gemini count hidden reasoning, which is billed as output, in the total alone.
        "completion_tokens": max(completion or 0, (total or 0) - prompt),
        "cached_tokens": _count(of_prompt.get("cached_tokens")),
        "cache_write_tokens": _count(of_prompt.get("cache_write_tokens")),
        "reasoning_tokens": _count(of_completion.get("reasoning_tokens")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _count(value: Any) -> int | None:
    """A number of tokens; None for anything else."""
    return int(value) if isinstance(value, int | float) and 0 <= value < math.inf else None
