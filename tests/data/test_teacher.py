"""Teachers against a real server: the wire format, and what each way of failing means."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from alpaca_cli.core.errors import TeacherError, UsageError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import Filters
from alpaca_cli.core.settings_generate import Generate, ProceduralTeacher
from alpaca_cli.data.demonstrations import Chooser
from alpaca_cli.data.endpoint import redacted, wait_time
from alpaca_cli.data.filters import make_filter
from alpaca_cli.data.parsing import parse_reply
from alpaca_cli.data.pool import Pool
from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import write
from alpaca_cli.data.prompts import Request, RequestBuilder
from alpaca_cli.data.teacher import Busy, Refused, Reply, is_loopback, open_teacher
from tests.servers import Asked, Fault, TeacherServer

SEEDS = [Example(f"Do thing {n}.", "", f"done {n}", id=f"s{n}") for n in range(30)]
KEY = "sk-test-abcdefghijklmnop"


def settings(url: str, **teacher: Any) -> Generate:
    return Generate.model_validate(
        {
            "teacher": {"kind": "openai", "model": "m", "base_url": url} | teacher,
            "tasks_per_request": 3,
        }
    )


def ask(generate: Generate, times: int = 1) -> Reply:
    """The teacher's reply to request 0, asked `times` times by the same client."""

    async def work() -> Reply:
        async with open_teacher(generate.teacher, concurrency=1) as teacher:
            for _ in range(times - 1):
                await teacher(request(generate))
            return await teacher(request(generate))

    return asyncio.run(work())


def request(generate: Generate) -> Request:
    return requests(generate)(0)


def requests(generate: Generate) -> Callable[[int], Request]:
    build, choose = RequestBuilder(generate), Chooser(generate.demonstrations, 0, SEEDS)
    pool = Pool(generate, SEEDS)
    return lambda n: build(n, choose(n, pool))


@pytest.mark.parametrize("protocol", ["auto", "chat-json", "chat-text", "completion"])
def test_every_protocol_round_trip(protocol: str) -> None:
    with TeacherServer(mistakes=0) as server:
        generate = settings(server.url, protocol=protocol)
        reply = ask(generate)
    found = parse_reply(reply.text, reply.finish_reason, request(generate).opening)
    tasks = write(request(generate).text, 0, family_names()).tasks
    assert [(c.instruction, c.input, c.output) for c in found] == [
        (task.instruction, task.input, task.output) for task in tasks
    ]
    assert (len(tasks), reply.finish_reason, reply.model) == (3, "stop", "m")
    assert reply.usage is not None
    assert reply.usage["completion_tokens"] == len(reply.text.split())
    (asked,) = server.asked
    assert asked.path == ("/v1/completions" if protocol == "completion" else "/v1/chat/completions")
    assert ("response_format" in asked.body) == (protocol in ("auto", "chat-json"))


def test_only_what_differs_from_the_default_is_sent() -> None:
    with TeacherServer() as server:
        text = {"protocol": "chat-text"}
        ask(settings(server.url, **text))
        tuned_by = {"temperature": 0.5, "top_p": 0.9, "extra_body": {"top_k": 9, "n": None}}
        ask(settings(server.url, service_tier="flex", **text, **tuned_by))
    plain, tuned = (asked.body for asked in server.asked)
    assert plain.keys() == {"model", "messages", "max_tokens"}
    added = {"temperature": 0.5, "top_p": 0.9, "top_k": 9, "service_tier": "flex"}
    assert tuned == plain | added


def test_the_key_comes_from_the_named_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with TeacherServer() as server:
        ask(settings(server.url, api_key_env="MY_KEY"))
        ask(settings(server.url))
    with_key, without = (asked.headers["authorization"] for asked in server.asked)
    assert with_key == f"Bearer {KEY}"
    assert without == "Bearer none", "a loopback address needs no key"


def test_a_missing_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(TeacherError, match="NO_SUCH_KEY is not set"):
        ask(settings("https://teacher.invalid/v1", api_key_env="NO_SUCH_KEY"))


@pytest.mark.parametrize("key", ["\u201csk-abc\u201d", "sk-abc\nsk-def"])
def test_what_cannot_be_a_key_is_not_sent(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("MY_KEY", key)
    with TeacherServer() as server, pytest.raises(TeacherError, match="MY_KEY holds is no key"):
        ask(settings(server.url, api_key_env="MY_KEY"))
    assert not server.asked


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000/v1", "localhost:8000/v1", "/v1", "http://", "ftp://127.0.0.1/v1",
     "http://[::1/v1", "http://127.0.0.1:99999/v1", "http://127.0.0.1:port/v1"],
)  # fmt: skip
def test_what_is_no_address_is_said_at_once(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UsageError, match="not the address of an endpoint"):
        ask(settings(url))
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(UsageError, match="not the address of an endpoint"):
        ask(settings(""))


def error(code: str | None = None, message: str = "no", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "code": code, **more}}


@pytest.mark.parametrize(
    ("fault", "kind", "billed"),
    [
        (Fault(429, error("rate_limit_exceeded")), Busy, False),
        (Fault(429, error(None, "INSUFFICIENT QUOTA for this minute")), Busy, False),
        (Fault(408, error()), Busy, False),
        (Fault(409, error()), Busy, False),
        (Fault(500, error()), Busy, False),
        (Fault(503, b"<html>busy</html>"), Busy, False),
        (Fault(529, error()), Busy, False),
        (Fault(504, error()), Busy, True),
        (Fault(200, b"<html>welcome</html>"), Busy, True),
        (Fault(200, b'{"choices": [{"message": {"content": "cut'), Busy, True),
        (Fault(200, {"choices": []}), Busy, True),
        (Fault(200, {"choices": [{"message": {"content": 7}}]}), Busy, True),
        (Fault(200, error()), Busy, True),
        (Fault(200, b"[" * 100_000), Busy, True),
        (Fault(cut=40), Busy, True),
        (Fault(401, error("invalid_api_key", f"bad key {KEY}")), TeacherError, None),
        (Fault(403, error()), TeacherError, None),
        (Fault(404, error("model_not_found")), TeacherError, None),
        (Fault(402, error()), TeacherError, None),
        (Fault(429, error("insufficient_quota")), TeacherError, None),
        (Fault(429, error(None) | {"error": {"type": "insufficient_quota"}}), TeacherError, None),
        (Fault(400, error("content_filter")), Refused, None),
        (Fault(400, error("context_length_exceeded")), Refused, None),
        (Fault(422, {"detail": "no such field"}), Refused, None),
    ],
)
def test_each_failure_says_what_to_do(
    fault: Fault, kind: type[Exception], billed: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with TeacherServer(lambda asked: fault) as server, pytest.raises(kind) as caught:
        ask(settings(server.url))
    assert len(server.asked) == 1, "one attempt is one request: the SDK must not retry"
    if isinstance(caught.value, Busy):
        assert caught.value.maybe_billed == billed
    assert KEY not in str(caught.value)
    if isinstance(fault.body, dict) and fault.status >= 400:
        told = fault.body.get("detail") or fault.body["error"].get("message", "")
        assert told.replace(KEY, "[key]") in str(caught.value)


def test_a_timeout_may_have_been_billed() -> None:
    with TeacherServer(lambda asked: Fault(hold=True)) as server, pytest.raises(Busy) as caught:
        ask(settings(server.url, timeout=0.3))
    assert caught.value.maybe_billed
    assert "0.3 seconds" in caught.value.message


def test_nobody_listens() -> None:
    with TeacherServer() as server:
        url = server.url
    with pytest.raises(Busy, match=r"cannot reach 127\.0\.0\.1:\d+") as caught:
        ask(settings(url))
    assert not caught.value.maybe_billed


@pytest.mark.parametrize(
    ("told", "attempts"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model.", 1),
        ("Unrecognized request argument supplied: max_tokens", 1),
        ("[{'type': 'extra_forbidden', 'loc': ['max_tokens']}]", 1),
    ],
)
def test_the_other_name_of_the_length_limit(told: str, attempts: int) -> None:
    def fault(asked: Asked) -> Fault | None:
        return Fault(400, error(None, told)) if "max_tokens" in asked.body else None

    with TeacherServer(fault) as server:
        ask(settings(server.url), times=3)
    names = [next(name for name in a.body if name.startswith("max_")) for a in server.asked]
    assert names == ["max_tokens"] * attempts + ["max_completion_tokens"] * 3


def test_an_endpoint_that_takes_neither_name_is_not_asked_for_ever() -> None:
    def fault(asked: Asked) -> Fault:
        names = " ".join(name for name in asked.body if name.startswith("max_"))
        return Fault(400, error(None, f"unknown field {names}"))

    with TeacherServer(fault) as server, pytest.raises(TeacherError) as caught:
        ask(settings(server.url))
    assert "generate.teacher.max_output_tokens" in caught.value.hint
    assert len(server.asked) == 2


def test_a_stop_text_that_the_server_leaves_in_is_cut() -> None:
    def fault(asked: Asked) -> Fault:
        text = f" A\n3. Output:\nb{asked.body['stop'][1]}: more"
        return Fault(200, {"choices": [{"text": text, "finish_reason": "stop"}]})

    with TeacherServer(fault) as server:
        assert ask(settings(server.url, protocol="completion")).text == " A\n3. Output:\nb"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "refusal": "I can't help with that."}, "I can't help with that."),
        ({"content": None}, ""),
        ({"content": "half \ud83d"}, "half ?"),
    ],
)
def test_unusual_contents(message: dict[str, Any], text: str) -> None:
    body = json.dumps({"choices": [{"message": message}]}).encode()
    with TeacherServer(lambda asked: Fault(200, body)) as server:
        assert ask(settings(server.url)) == Reply(text, None, "m", None, limit_field="max_tokens")


def test_names_hold_no_half_characters() -> None:
    half = "m\ud83d"
    choice = {"message": {"content": "x"}, "finish_reason": half}
    body = {"model": half, "choices": [choice], "service_tier": half}
    with TeacherServer(lambda asked: Fault(200, body)) as server:
        reply = ask(settings(server.url))
    assert (reply.model, reply.finish_reason, reply.tier) == ("m?", "m?", "m?")


def test_usage_is_told_as_far_as_the_endpoint_tells_it() -> None:
    usage = {
        "prompt_tokens": 900, "completion_tokens": 2000, "total_tokens": 2900,
        "prompt_tokens_details": {"cached_tokens": 512, "audio_tokens": None},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    body = {"model": "m-2026", "choices": [{"message": {"content": "x"}}], "usage": usage}
    with TeacherServer(lambda asked: Fault(200, body)) as server:
        reply = ask(settings(server.url))
    assert reply.model == "m-2026"
    assert reply.usage == {
        "prompt_tokens": 900, "completion_tokens": 2000, "cached_tokens": 512,
        "reasoning_tokens": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        # xAI's own figures: reasoning is billed, and in the total alone.
        ({"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 331}, (12, 319)),
        ({"prompt_tokens": 21, "total_tokens": 81}, (21, 60)),
        ({"prompt_tokens": 21, "completion_tokens": 60, "total_tokens": 0}, (21, 60)),
        ({"prompt_tokens": 21, "completion_tokens": 60, "prompt_tokens_details": [1]}, (21, 60)),
        ({"prompt_tokens": None, "completion_tokens": 60}, None),
        ({"prompt_tokens": 21, "completion_tokens": None}, None),
        ({"prompt_tokens": -21, "completion_tokens": 60}, None),
        ({"prompt_tokens": "many", "completion_tokens": float("inf")}, None),
        ([21, 60], None),
    ],
)
def test_no_billed_token_is_overlooked_and_no_reply_lost_for_its_usage(
    usage: Any, counted: tuple[int, int] | None
) -> None:
    body = json.dumps({"choices": [{"message": {"content": "x"}}], "usage": usage}).encode()
    with TeacherServer(lambda asked: Fault(200, body)) as server:
        reply = ask(settings(server.url))
    told = reply.usage and (reply.usage["prompt_tokens"], reply.usage["completion_tokens"])
    assert (reply.text, told) == ("x", counted)


def test_wait_time() -> None:
    assert wait_time({"retry-after": "3"}) == 3
    assert wait_time({"retry-after": "3", "retry-after-ms": "250"}) == 0.25
    assert wait_time({}) is None
    assert wait_time({"retry-after": "soon"}) is None
    soon = wait_time({"retry-after": email.utils.formatdate(time.time() + 60, usegmt=True)})
    assert soon is not None
    assert 50 < soon <= 61
    assert wait_time({"retry-after": email.utils.formatdate(0, usegmt=True)}) == 0


def test_nothing_that_looks_like_a_key_is_shown() -> None:
    text = redacted("key my-secret; sk-proj-12345678 and Bearer abc.def", "my-secret")
    assert text == "key [key]; [key] and Bearer [key]"
    assert redacted("API key provided is wrong", "") == "API key provided is wrong"


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:1/v1", True),
        ("http://10.0.0.1/v1", False),
        ("https://localhost.example.com/v1", False),
    ],
)
def test_loopback(url: str, local: bool) -> None:
    assert is_loopback(url) is local


# --- the embedded teacher -------------------------------------------------------------------------


def texts(count: int, **more: Any) -> list[tuple[Request, str]]:
    generate = Generate.model_validate({"tasks_per_request": 20} | more)
    build = requests(generate)
    return [(build(n), build(n).text) for n in range(count)]


FORMS: list[Callable[[], dict[str, Any]]] = [
    dict,
    lambda: {"teacher": {"kind": "openai", "model": "m", "protocol": "chat-text"}},
    lambda: {"teacher": {"kind": "openai", "model": "m", "protocol": "completion"}},
]


@pytest.mark.parametrize("form", FORMS)
def test_without_mistakes_every_task_arrives(form: Callable[[], dict[str, Any]]) -> None:
    for asked, text in texts(40, **form()):
        written = write(text, 0, family_names())
        found = parse_reply(written.reply.text, written.reply.finish_reason, asked.opening)
        assert [(c.instruction, c.input, c.output, c.fault) for c in found] == [
            (task.instruction, task.input, task.output, "") for task in written.tasks
        ]
        assert len(found) == 20


@pytest.mark.parametrize("form", FORMS)
def test_mistakes_are_made_and_none_passes_for_right(form: Callable[[], dict[str, Any]]) -> None:
    check = make_filter(Filters())
    wrong = cut = 0
    for asked, text in texts(60, **form()):
        written = write(text, 0.3, family_names())
        cut += written.reply.finish_reason == "length"
        right = {(task.instruction, task.input, task.output) for task in written.tasks}
        seen: set[tuple[str, str, str]] = set()
        for c in parse_reply(written.reply.text, written.reply.finish_reason, asked.opening):
            task = (c.instruction, c.input, c.output)
            if c.fault or check(Example(*task)) or task in seen:
                wrong += 1
            else:
                assert task in right, task
            seen.add(task)
    assert wrong > 60
    assert cut > 20


def test_the_same_text_gets_the_same_reply() -> None:
    async def twice(text: Request) -> list[Reply]:
        async with open_teacher(ProceduralTeacher(), concurrency=2) as teacher:
            return list(await asyncio.gather(teacher(text), teacher(text)))

    (first, _), (other, _) = texts(2)
    a, b = asyncio.run(twice(first))
    assert a == b
    assert a != asyncio.run(twice(other))[0]
    assert a.usage is None, "nothing is counted that has no tokens"
