"""The test server itself, as the real SDK sees it: what it answers, refuses, limits and bills."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import openai
import pytest

from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply
from tests.processes import environment
from tests.servers import FLEX_UNAVAILABLE, Asked, Billed, Fault, TeacherServer, error
from tests.serving.limits import Limiter, duration

ASK = 'Reply with JSON: {"tasks": []}. Write 3 new tasks.'
TEXT = reply(ASK, 0.1, family_names()).text
WORDS, PROMPT = len(TEXT.split()), len(ASK.split())
PRICE = {"input": 0.1, "output": 0.5}


@contextmanager
def serving(
    fault: Any = lambda asked: None, **rules: Any
) -> Iterator[tuple[TeacherServer, openai.OpenAI]]:
    with TeacherServer(fault, **rules) as server, client(server) as sdk:
        yield server, sdk


def client(server: TeacherServer) -> openai.OpenAI:
    return openai.OpenAI(api_key="none", base_url=server.url, max_retries=0)


def chat(sdk: openai.OpenAI, text: str = ASK, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return sdk.chat.completions.create(model="m", messages=messages, **more)  # type: ignore[arg-type]


def test_both_endpoints_answer_the_same_request_alike() -> None:
    with serving() as (server, sdk):
        first, again = chat(sdk), chat(sdk)
        legacy = sdk.completions.create(model="m", prompt=ASK)
    assert first.choices[0].message.content == again.choices[0].message.content == TEXT
    assert legacy.choices[0].text == TEXT
    assert (first.usage.prompt_tokens, first.usage.completion_tokens) == (PROMPT, WORDS)
    assert [asked.attempt for asked in server.asked] == [1, 2, 1]
    assert [entry.number for entry in server.ledger] == [0, 1, 2]
    assert server.ledger[0].sha == server.ledger[1].sha != server.ledger[2].sha
    assert server.answered == 3
    assert server.tokens["total_tokens"] == 3 * (PROMPT + WORDS)


def test_a_reply_ends_at_its_limit() -> None:
    with serving(reasoning_tokens=2) as (server, sdk):
        short = chat(sdk, max_completion_tokens=5)
        none = chat(sdk, max_tokens=1)
    assert short.choices[0].message.content.split() == TEXT.split()[:3]
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 5)
    assert short.usage.completion_tokens_details.reasoning_tokens == 2
    assert none.choices[0].message.content == ""
    assert server.ledger[0].completion_tokens == 5


def test_a_test_can_write_the_answer() -> None:
    def judge(asked: Asked) -> str | None:
        return "4" if "score" in asked.text else None

    with serving(answer=judge) as (_, sdk):
        assert chat(sdk, "score this").choices[0].message.content == "4"
        assert chat(sdk).choices[0].message.content == TEXT


# --- the ledger -----------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 7, "completion_tokens": 70, "total_tokens": 77}


@pytest.mark.parametrize(
    ("fault", "entries"),
    [
        (None, [(PROMPT, WORDS, True)]),
        (Fault(cut=30), [(PROMPT, WORDS, False)]),
        (Fault(200, b"<html>gateway</html>"), [(PROMPT, WORDS, True)]),
        (Fault(200, {"choices": [], "usage": USAGE}), [(7, 70, True)]),
        (Fault(200, b"free", billed=False), []),
        (Fault(hold=True), [(PROMPT, WORDS, False)]),
        (error(400, "no"), []),
        (Fault(500), []),
        (Fault(504, billed=True), [(PROMPT, WORDS, True)]),
    ],
)
def test_what_was_worked_on_is_billed(
    fault: Fault | None, entries: list[tuple[int, int, bool]]
) -> None:
    with serving(lambda asked: fault) as (server, sdk):
        try:
            chat(sdk, timeout=0.3)
        except (openai.OpenAIError, ValueError):
            assert fault is not None
    found = [(e.prompt_tokens, e.completion_tokens, e.delivered) for e in server.ledger]
    assert found == entries
    assert server.answered == (fault is None)


def test_cost_is_exact() -> None:
    price = PRICE | {"cached_input": 0.01, "cache_write": 0.125, "batch": 0.5, "flex": 0.5}
    entry = Billed(0, "", "", 1000, 10, cached_tokens=600, written_tokens=100)
    assert entry.cost(price) == Decimal("0.0000535")
    assert entry.cost(PRICE) == Decimal("0.000105")
    assert Billed(0, "", "", 1, 1, tier="flex").cost(price) == Decimal("0.0000003")
    assert Billed(0, "", "", 1, 1, custom_id="7").cost(price) == Decimal("0.0000003")
    with serving(completion_tokens=lambda asked: 100 + asked.number) as (server, sdk):
        chat(sdk)
        chat(sdk)
    assert server.billed(PRICE) == Decimal(2 * PROMPT + 5 * 201) / 10_000_000


def test_cached_tokens_are_counted_in_steps() -> None:
    long = " ".join(f"w{n}" for n in range(1300))
    with serving(caching=True, cache_writes=True) as (server, sdk):
        told = [
            chat(sdk, text).usage for text in (long, long, " ".join(long.split()[:1100]), "short")
        ]
    assert [u.prompt_tokens_details.cached_tokens for u in told] == [0, 1280, 1024, 0]
    assert [u.prompt_tokens_details.cache_write_tokens for u in told] == [1280, 0, 0, 0]
    assert [entry.cached_tokens for entry in server.ledger] == [0, 1280, 1024, 0]


def test_tiers() -> None:
    def busy(asked: Asked) -> Fault | None:
        return FLEX_UNAVAILABLE if asked.number == 0 else None

    served = {1: "default"}
    with serving(busy, tier=lambda asked: served.get(asked.number)) as (server, sdk):
        with pytest.raises(openai.RateLimitError, match="Resource unavailable"):
            chat(sdk, service_tier="flex")
        tiers = [chat(sdk, service_tier=tier).service_tier for tier in ("flex", "flex", "auto")]
        assert chat(sdk).service_tier is None
    assert tiers == ["default", "flex", "default"]
    assert [entry.tier for entry in server.ledger] == [*tiers, None]


# --- what is refused ------------------------------------------------------------------------------


def form(kind: str) -> dict[str, Any]:
    schema = {"name": "t", "schema": {"type": "object"}}
    return {"response_format": {"type": kind, "json_schema": schema}}


@pytest.mark.parametrize(
    ("rules", "more", "param", "code", "words"),
    [
        ({"forms": {"json_object"}}, form("json_schema"), "response_format", None, "json_schema"),
        ({"forms": ()}, form("json_object"), "response_format", None, "not supported with this"),
        ({"refuses": {"max_tokens"}}, {"max_tokens": 9}, "max_tokens", "unsupported_parameter",
         "Use 'max_completion_tokens' instead"),
        ({"refuses": {"stop"}}, {"stop": ["x"]}, "stop", "unsupported_parameter", "'stop'"),
        ({"refuses": {"temperature"}}, {"temperature": 0.5}, "temperature", "unsupported_value",
         "does not support 0.5"),
        ({"context": 60}, {"max_tokens": 60}, "messages", "context_length_exceeded",
         "maximum context length is 60 tokens"),
        ({"context": 60, "wording": "vllm"}, {"max_tokens": 60}, None, "400",
         "maximum context length is 60 tokens and your request has"),
    ],
)  # fmt: skip
def test_refusals(rules: Any, more: Any, param: str | None, code: Any, words: str) -> None:
    with serving(**rules) as (server, sdk):
        with pytest.raises(openai.BadRequestError, match=words) as caught:
            chat(sdk, **more)
        assert (caught.value.param, caught.value.code) == (param, code)
        chat(sdk, temperature=1)
    assert len(server.ledger) == 1


def test_json_mode_wants_the_word() -> None:
    with serving() as (_, sdk):
        assert chat(sdk, **form("json_object")).choices[0].message.content == TEXT
        with pytest.raises(openai.BadRequestError, match="must contain the word 'json'"):
            chat(sdk, "Write 3 new tasks", **form("json_object"))


def test_a_form_that_is_ignored() -> None:
    with serving(ignores=True, forms=()) as (_, sdk):
        text = chat(sdk, **form("json_schema")).choices[0].message.content
    assert text.startswith("1. Instruction: ")


# --- limits ---------------------------------------------------------------------------------------


def test_slots() -> None:
    with serving(lambda a: Fault(hold=True), slots=2, retry_after=1.5) as (server, sdk):
        threads = [threading.Thread(target=chat, args=(sdk,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait(lambda: len(server.ledger) == 2)
        with pytest.raises(openai.RateLimitError) as caught:
            chat(sdk)
        server.release.set()
        for thread in threads:
            thread.join()
    assert caught.value.response.headers["retry-after"] == "1.5"
    assert (len(server.ledger), server.answered, server.most) == (2, 2, 3)


def wait(condition: Any) -> None:
    while not condition():
        threading.Event().wait(0.005)


def test_limits_are_told_and_kept() -> None:
    with serving(rpm=3, tpm=5000, minute=3600) as (server, sdk):
        raw = sdk.chat.completions.with_raw_response
        told = raw.create(
            model="m", messages=[{"role": "user", "content": ASK}], max_tokens=1000
        ).headers
        assert told["x-ratelimit-limit-requests"] == "3"
        assert told["x-ratelimit-remaining-requests"] == "2"
        assert told["x-ratelimit-remaining-tokens"] == "4000"
        assert told["x-ratelimit-reset-requests"].startswith(("19m59.", "20m0s"))
        with pytest.raises(openai.RateLimitError, match="Request too large on tokens"):
            chat(sdk, max_tokens=6000)
        chat(sdk)
        with pytest.raises(openai.RateLimitError, match=r"on requests per min \(RPM\)") as caught:
            chat(sdk)
        headers = caught.value.response.headers
        assert 1190 < int(headers["retry-after"]) <= 1200
        assert headers["x-ratelimit-remaining-requests"] == "0"
    assert len(server.ledger) == 2


def test_buckets_fill_evenly() -> None:
    now = 0.0
    limiter = Limiter(60, 600, clock=lambda: now)
    assert [limiter.refusal(100) for _ in range(6)] == [None] * 6
    refused = limiter.refusal(30)
    assert refused is not None
    assert refused.headers["retry-after-ms"] == "3000"
    assert "Limit 600, Used 600, Requested 30. Please try again in 3s" in str(refused.body)
    assert limiter.headers()["x-ratelimit-reset-tokens"] == "1m0s"
    now = 2.9
    assert limiter.refusal(30)
    now = 3.0
    assert limiter.refusal(30) is None
    assert limiter.headers()["x-ratelimit-remaining-tokens"] == "0"


def test_a_quick_minute() -> None:
    with serving(rpm=1, minute=0.05) as (server, sdk):
        chat(sdk)
        wait(lambda: allowed(sdk))
    assert len(server.ledger) == 2


def allowed(sdk: openai.OpenAI) -> bool:
    try:
        chat(sdk)
    except openai.RateLimitError:
        return False
    return True


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (0.0001, "1ms"), (7.66, "7.66s"), (360, "6m0s"),
     (90.5, "1m30.5s"), (59.9999, "1m0s"), (3723, "1h2m3s")],
)  # fmt: skip
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# --- the wire -------------------------------------------------------------------------------------


def test_a_reply_that_drips() -> None:
    with serving(lambda a: Fault(drip=200)) as (server, sdk):
        done: list[Any] = []
        thread = threading.Thread(target=lambda: done.append(chat(sdk)))
        thread.start()
        wait(lambda: server.ledger)
        server.step()
        assert not server.ledger[0].delivered
        assert not done
        server.step(100)
        thread.join()
    assert done[0].choices[0].message.content == TEXT
    assert server.ledger[0].delivered


def test_other_paths() -> None:
    with serving(models=("a", "b")) as (server, sdk):
        assert [model.id for model in sdk.models.list()] == ["a", "b"]
        with pytest.raises(openai.NotFoundError, match=r"Invalid URL \(POST /v1/embeddings\)"):
            sdk.embeddings.create(model="m", input="x")
    assert [call.path for call in server.calls] == ["/v1/models", "/v1/embeddings"]
    assert not server.asked


def test_a_closed_server_hangs_up() -> None:
    with TeacherServer() as server, client(server) as sdk:
        chat(sdk)
        server.__exit__(None)
        with pytest.raises(openai.APIConnectionError):
            chat(sdk)


def test_its_own_failures_are_told() -> None:
    def broken(asked: Asked) -> Fault | None:
        raise KeyError("mistake in a test")

    def provoke() -> None:
        with serving(broken) as (_, sdk), pytest.raises(openai.APIConnectionError):
            chat(sdk)

    with pytest.raises(RuntimeError, match="the test server failed"):
        provoke()


SWARM = """
import asyncio, openai, sys

async def main():
    sdk = openai.AsyncOpenAI(api_key="none", base_url=sys.argv[1], max_retries=0)
    message = {"role": "user", "content": sys.argv[2]}
    await asyncio.gather(
        *(sdk.chat.completions.create(model="m", messages=[message]) for _ in range(64))
    )

asyncio.run(main())
"""


def test_a_swarm_is_answered_and_its_death_makes_no_noise(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def hold(asked: Asked) -> Fault | None:
        return Fault(hold=True) if asked.number >= 64 else None

    with TeacherServer(hold) as server:
        command = [sys.executable, "-c", SWARM, server.url, ASK]
        subprocess.run(command, env=environment(), check=True)
        assert (server.answered, len(server.asked)) == (64, 64)
        assert all(entry.delivered for entry in server.ledger)
        with subprocess.Popen(command, env=environment()) as victim:
            wait(lambda: len(server.asked) == 128)
            victim.kill()
        server.release.set()
    assert server.most == 64
    assert len(server.ledger) == 128
    assert capfd.readouterr().err == ""
