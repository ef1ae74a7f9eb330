"""`alpaca chat --serve` asked by clients that know nothing of us: the openai SDK."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests import processes
from tests.tiny import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ASK = "List three animals that live in the sea."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=2048)


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The base URL of the real command."""
    folder = tmp_path_factory.mktemp("served")
    log = folder / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*processes.COMMAND, "chat", str(model), "--serve", "--port", "0"],
            cwd=folder,
            env=processes.environment(),
            stderr=file,
        )
    deadline = time.monotonic() + 300
    while " answers as tiny" not in (text := log.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
    yield next(line.split()[0] for line in text.splitlines() if " answers as tiny" in line)
    process.terminate()
    assert process.wait(60) == 143
    assert "interrupted" in log.read_text()


@pytest.fixture
def sdk(served: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="none", base_url=served, max_retries=0) as client:
        yield client


def test_it_is_called_by_its_own_name(sdk: openai.OpenAI) -> None:
    assert [each.id for each in sdk.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError) as caught:
        sdk.chat.completions.create(model="other", messages=[{"role": "user", "content": "hi"}])
    assert "pinned to 'tiny'; requested 'other'" in caught.value.response.text


@pytest.fixture(scope="module")
def ours(model: Path) -> Any:
    """What `alpaca chat` answers."""
    done = processes.run("chat", model, "-p", ASK, "--json", cwd=model)
    return json.loads(done.stdout)


@pytest.mark.parametrize("temperature", [0, openai.omit])
def test_its_greedy_answer_is_ours(sdk: openai.OpenAI, ours: Any, temperature: Any) -> None:
    """The same template, precision and end; greedy is also what it does when not told."""
    assert ours["finish_reason"] == "stop"
    whole = sdk.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": ASK}],
        temperature=temperature,
    )
    assert whole.choices[0].message.content is not None
    assert whole.choices[0].message.content.strip() == ours["response"]
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.prompt_tokens == ours["usage"]["prompt_tokens"]
    # It counts EOS.
    assert whole.usage.completion_tokens == ours["usage"]["completion_tokens"] + 1
    pieces = [
        *sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": ASK}],
            temperature=temperature,
            stream=True,
        )
    ]
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces)
    assert text.strip() == ours["response"]
    assert pieces[-1].choices[0].finish_reason == "stop"
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.total_tokens == whole.usage.total_tokens


def test_a_request_s_temperature_counts(sdk: openai.OpenAI) -> None:
    texts = {
        sdk.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": ASK}],
            temperature=1.5,
            max_tokens=8,
            seed=seed,
        )
        .choices[0]
        .message.content
        for seed in range(4)
    }
    assert len(texts) > 1


def test_a_limit_is_kept(sdk: openai.OpenAI) -> None:
    found = sdk.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": ASK}], max_tokens=3
    )
    assert found.choices[0].finish_reason == "length"
    assert found.usage is not None
    assert found.usage.completion_tokens == 3


def test_our_own_chat_can_ask_it(served: str, ours: Any, tmp_path: Path) -> None:
    ask = ("chat", "tiny", "--base-url", served, "-p", ASK, "--json")
    there = processes.run(*ask, "--temperature", 0, cwd=tmp_path)
    assert json.loads(there.stdout)["response"] == ours["response"]
