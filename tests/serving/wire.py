"""What arrives at the test server, what goes wrong, and the rules it answers by."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from tests.serving.batches import End, Line, StoredBatch


@dataclass(frozen=True)
class Asked:
    """One request as it arrived, or one line of a batch; names of headers in lower case.

    Attributes:
        path: without the query.
        body: the JSON; of a form its fields; of a GET the fields of its query.
        number: how many requests arrived before this one.
        attempt: how often this very body has arrived at this path, this time included.
    """

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    number: int
    attempt: int
    method: str = "POST"

    @property
    def text(self) -> str:
        """All that the model reads."""
        if "prompt" in self.body:
            return str(self.body["prompt"])
        return "\n\n".join(_content(message["content"]) for message in self.body["messages"])

    @cached_property
    def sha(self) -> str:
        """sha256 of the body as canonical JSON: the same online and as a line of a batch."""
        return sha_of(self.body)

    @property
    def limit(self) -> int | None:
        """The most tokens that the reply may have."""
        limit = self.body.get("max_completion_tokens", self.body.get("max_tokens"))
        return None if limit is None else int(limit)


def sha_of(body: Mapping[str, Any]) -> str:
    """sha256 of a request body as canonical JSON."""
    return sha256(json.dumps(body, sort_keys=True, default=bytes.hex).encode()).hexdigest()


def _content(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content)


@dataclass(frozen=True)
class Fault:
    """An answer that is not the usual one.

    Attributes:
        body: bytes as they are, or a value for JSON; None for the usual answer or, with a status
            from 400 on, for the usual words of an error.
        cut: close the connection after this many bytes of the body.
        hold: answer only when the server's `release` is set, or it closes.
        drip: send this many bytes at a time, each but the first after a `server.step()`.
        billed: whether the work is done and billed; None: when the status is 200.
        after: files and batches only: do what was asked for, then answer this.
    """

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    hold: bool = False
    drip: int | None = None
    billed: bool | None = None
    after: bool = False

    @property
    def works(self) -> bool:
        """Whether the work is done, and billed."""
        return self.status < 400 if self.billed is None else self.billed


def error(
    status: int,
    message: str,
    *,
    code: str | None = None,
    kind: str = "invalid_request_error",
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Fault:
    """An error in the shape that OpenAI gives it."""
    told = {"message": message, "type": kind, "param": param, "code": code}
    return Fault(status, {"error": told}, headers or {})


FLEX_UNAVAILABLE = error(
    429, "Resource unavailable. Please try again later.", code="resource_unavailable",
    kind="resource_unavailable",
)  # fmt: skip


def _nothing(_: object) -> None:
    """What goes wrong, or is different from the usual, unless a test says otherwise."""


@dataclass(frozen=True)
class Rules:
    """How the server answers; all of it can be given to `TeacherServer` by name.

    Attributes:
        mistakes: share of tasks with a mistake, see `data.procedural_teacher`.
        answer: the text of a reply; None for the embedded teacher's.
        usage: whether replies tell their usage. They are billed all the same.
        completion_tokens: tokens that a reply is billed, instead of its words.
        reasoning_tokens: hidden tokens billed besides.
        caching: count `cached_tokens`: the longest prefix that an earlier prompt had, in steps
            of 128 tokens (words) from 1,024 on.
        cache_writes: count `cache_write_tokens`, too.
        tier: the `service_tier` that a reply names; None: the one asked for (`auto`: `default`).

        forms: types of `response_format` that are taken; others get a 400.
        ignores: any `response_format` is taken, and none followed: replies are numbered text.
        refuses: fields of a body that get a 400. `temperature` and `top_p` may be 1.
        context: tokens of prompt and reply together; a request for more gets a 400.
        wording: whose words that 400 has.

        slots: requests worked on at once; more get a 429, with `retry_after` when given.
        rpm, tpm: requests and tokens per `minute`, as OpenAI limits them: buckets that fill
            evenly, told in `x-ratelimit-…` headers; tokens of a request are its limit, or those
            of the prompt if more. A request refused for its tokens still counts as one.
        minute: seconds that a minute has.
        latency: seconds before a reply.

        batch_polls: a batch ends when it is looked at for the so many-th time; None: at
            `server.finish_batches()`.
        batch_fault: what goes wrong with a request to files or batches.
        batch_line: what goes wrong with a line: a status from 400 on puts it into the error
            file; another body of a 200, into the output as it is.
        batch_end: how a batch ends, if not completed.
    """

    mistakes: float = 0.1
    answer: Callable[[Asked], str | None] = _nothing
    usage: bool = True
    completion_tokens: int | Callable[[Asked], int] | None = None
    reasoning_tokens: int = 0
    caching: bool = False
    cache_writes: bool = False
    tier: Callable[[Asked], str | None] = _nothing
    models: Collection[str] = ("m",)

    forms: Collection[str] = ("json_schema", "json_object")
    ignores: bool = False
    refuses: Collection[str] = ()
    context: int | None = None
    wording: Literal["openai", "vllm"] = "openai"

    slots: int | None = None
    retry_after: float | None = None
    rpm: int | None = None
    tpm: int | None = None
    minute: float = 60.0
    latency: float | Callable[[Asked], float] = 0.0

    batch_polls: int | None = 2
    batch_fault: Callable[[Asked], Fault | None] = _nothing
    batch_line: Callable[[Line], Fault | None] = _nothing
    batch_end: Callable[[StoredBatch], End | None] = _nothing

    def refusal(self, asked: Asked) -> Fault | None:
        """Why the model does not take this request at all, online or in a batch."""
        for name in asked.body:
            if name in self.refuses and (refused := _refused(name, asked.body[name])):
                return refused
        form = asked.body.get("response_format", {}).get("type", "text")
        if form != "text" and not self.ignores:
            if form not in self.forms:
                message = (
                    f"Invalid parameter: 'response_format' of type '{form}' is not supported with "
                    "this model."
                )
                return error(400, message, param="response_format")
            if form == "json_object" and "json" not in asked.text.lower():
                message = (
                    "'messages' must contain the word 'json' in some form, to use "
                    "'response_format' of type 'json_object'."
                )
                return error(400, message, param="messages")
        return self._too_long(asked)

    def _too_long(self, asked: Asked) -> Fault | None:
        prompt, limit = words(asked.text), asked.limit or 0
        if self.context is None or prompt + limit <= self.context:
            return None
        if self.wording == "vllm":
            message = (
                f"'max_tokens' or 'max_completion_tokens' is too large: {limit}. This model's "
                f"maximum context length is {self.context} tokens and your request has {prompt} "
                f"input tokens ({limit} > {self.context} - {prompt})."
            )
            told = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
            return Fault(400, {"error": told})
        message = (
            f"This model's maximum context length is {self.context} tokens. However, you requested "
            f"{prompt + limit} tokens ({prompt} in the messages, {limit} in the completion). "
            "Please reduce the length of the messages or completion."
        )
        return error(400, message, code="context_length_exceeded", param="messages")


def _refused(name: str, value: Any) -> Fault | None:
    """OpenAI's words for a field that a model does not take."""
    if name in ("temperature", "top_p"):
        if value == 1:
            return None
        message = (
            f"Unsupported value: '{name}' does not support {value} with this model. "
            "Only the default (1) value is supported."
        )
        return error(400, message, code="unsupported_value", param=name)
    message = f"Unsupported parameter: '{name}' is not supported with this model."
    if name == "max_tokens":
        message += " Use 'max_completion_tokens' instead."
    return error(400, message, code="unsupported_parameter", param=name)


def words(text: str) -> int:
    """Tokens of a text, as this server counts them."""
    return len(text.split())
