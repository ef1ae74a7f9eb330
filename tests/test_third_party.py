"""`alpaca generate` against servers that others wrote, through the real command.

Not one line of theirs knows ours: what they say about errors, limits and batches is an
independent reading of the OpenAI protocol.
"""

from __future__ import annotations

import json
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.procedural_teacher import reply
from tests import processes
from tests.third_party import (
    Llmock,
    install_llmock,
    llmock,
    save_task_writer,
    transformers_serve,
)
from tests.tiny import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
TASKS = 5  # in one request


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install_llmock(tmp_path_factory.mktemp("llmock"))


def arguments(url: str, folder: Path, **more: object) -> list[str]:
    keys: dict[str, object] = {
        "target": 100, "tasks_per_request": TASKS, "concurrency": 8, "teacher.kind": "openai",
        "teacher.model": "m", "teacher.base_url": url, "teacher.max_output_tokens": 1000,
    }  # fmt: skip
    sets = [f"--set=generate.{name.replace('__', '.')}={json.dumps(v)}" for name, v in more.items()]
    return [
        "generate", f"--run={folder}", *(f"--set=generate.{k}={v}" for k, v in keys.items()), *sets
    ]  # fmt: skip


def journal(folder: Path, kind: str = "reply") -> list[dict[str, Any]]:
    path = folder / "generate" / "journal.jsonl"
    whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
    return [row for row in map(json.loads, whole.splitlines()) if row.get("kind") == kind]


def kept(folder: Path) -> int:
    return processes.lines(folder / "generate" / "kept.jsonl")


def queue_tasks(server: Llmock, requests: int) -> None:
    """Whole JSON replies of TASKS tasks, a different one for each request that is worked on."""
    asks = [f'{n}: {{"tasks": []}} Write {TASKS} new tasks' for n in range(requests)]
    texts = [reply(ask, 0, family_names()).text for ask in asks]
    server.script(*({"type": "reply", "text": text} for text in texts))


def replied(folder: Path, replies: int) -> Callable[[], bool]:
    return lambda: len(journal(folder)) >= replies


def statuses(server: Llmock) -> Counter[int]:
    return Counter(request["status"] for request in server.requests())


# --- llmock ---------------------------------------------------------------------------------------


def test_a_quota_is_kept_by_reading_its_headers(command: Path, tmp_path: Path) -> None:
    with llmock(command, tmp_path, "--rpm", 60, "--tpm", 60_000) as server:
        queue_tasks(server, 400)
        processes.run(*arguments(server.url, tmp_path / "run", target=150), cwd=tmp_path)
        verdict, seen = server.verdict(), statuses(server)
    assert kept(tmp_path / "run") == 150
    assert verdict["passed"], json.dumps(verdict, indent=1)
    assert seen[200] > 30
    # It charges the whole max_output_tokens: 60,000 tokens are 28 requests, the rest had to wait.
    assert seen[429] <= seen[200], "told how much is left, and sent all the same"


def test_too_many_requests_are_met_by_backing_off(command: Path, tmp_path: Path) -> None:
    """Three storms, each when the first replies have come and many requests are under way."""
    run = tmp_path / "run"
    with llmock(command, tmp_path, "--latency-ms", 100) as server:
        queue_tasks(server, 200)
        process = processes.start(*arguments(server.url, run), cwd=tmp_path)
        for replies, seconds in ((3, 0.3), (8, 0.6), (13, 1.0)):
            processes.wait_until(process, replied(run, replies))
            server.script({"type": "fail", "status": 429, "retry_after": seconds, "times": 4})
        _, said = process.communicate()
        verdict, seen = server.verdict(), statuses(server)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert kept(run) == 100
    assert seen[429] == 12
    assert verdict["passed"], json.dumps(verdict, indent=1)


def test_failures_at_random(command: Path, tmp_path: Path) -> None:
    rates = [f"--error-rate={status}=0.08" for status in (429, 500, 503)]
    with llmock(command, tmp_path, *rates) as server:
        queue_tasks(server, 400)
        more = {"teacher__max_attempts": 9}
        processes.run(*arguments(server.url, tmp_path / "run", **more), cwd=tmp_path)
        verdict, seen = server.verdict(), statuses(server)
    assert kept(tmp_path / "run") == 100
    assert seen.keys() - {200}, "nothing ever failed"
    assert verdict["passed"], json.dumps(verdict, indent=1)
    assert len(journal(tmp_path / "run")) >= 20


def test_a_small_context_gets_smaller_requests(command: Path, tmp_path: Path) -> None:
    """The first request is too long as it is, and fits when it shows fewer demonstrations."""
    with llmock(command, tmp_path, "--context-window", 1000) as server:
        queue_tasks(server, 200)
        done = processes.run(*arguments(server.url, tmp_path / "run"), cwd=tmp_path)
        verdict, seen = server.verdict(), statuses(server)
    assert seen[400] >= 1, "everything fitted"
    assert "maximum context length is 1000 tokens" in done.stderr
    assert kept(tmp_path / "run") == 100
    assert verdict["passed"], json.dumps(verdict, indent=1)


def test_an_endpoint_without_legacy_completions(command: Path, tmp_path: Path) -> None:
    with llmock(command, tmp_path) as server:
        more = {"teacher__protocol": "completion"}
        done = processes.run(*arguments(server.url, tmp_path, **more), cwd=tmp_path, code=6)
        assert statuses(server).keys() == {404}
    assert "404: Not Found" in done.stderr
    assert "generate.teacher.model, base_url and protocol" in done.stderr


def test_a_model_that_repeats_itself_is_not_paid_for_ever(command: Path, tmp_path: Path) -> None:
    """Its answer to a schema is always the same task."""
    with llmock(command, tmp_path) as server:
        more = {"filters__min_words": 1, "target": 30}
        done = processes.run(*arguments(server.url, tmp_path / "run", **more), cwd=tmp_path, code=4)
        seen = statuses(server)
    assert "generate.min_yield" in done.stderr
    assert kept(tmp_path / "run") == 1
    assert len(journal(tmp_path / "run")) == seen[200] < 150


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A prompt that llmock, echoing its first 120 characters, makes a reply of."""
    task = {"instruction": "Name one yellow fruit.", "input": "", "output": "A lemon."}
    path = tmp_path / "prompt.txt"
    path.write_text(json.dumps({"tasks": [task]}) + "\nWrite {{tasks}} such tasks.\n")
    return path


def batch_arguments(server: Llmock, echo: Path, folder: Path) -> list[str]:
    return arguments(
        server.url, folder, mode="batch", batch={"poll": 0.2}, prompt=str(echo), target=1,
        demonstrations=0,
    )  # fmt: skip


def test_batches(command: Path, echo: Path, tmp_path: Path) -> None:
    with llmock(command, tmp_path, "--response-style", "echo") as server:
        run = batch_arguments(server, echo, tmp_path / "run")
        processes.run(*run, cwd=tmp_path)
        before = submitted(server)
        processes.run(*run, cwd=tmp_path)
        assert submitted(server) == before, "up to date, and yet it sent a batch"
        online = sum("completions" in seen["path"] for seen in server.requests())
    assert kept(tmp_path / "run") == 1
    assert len(journal(tmp_path / "run")) == online + sum(before.values())
    assert set(before.values()) == {1}


def test_a_killed_batch_run_finds_its_batch_again(
    command: Path, echo: Path, tmp_path: Path
) -> None:
    with llmock(command, tmp_path, "--response-style", "echo") as server:
        run = batch_arguments(server, echo, tmp_path / "run")
        victim = processes.start(*run, cwd=tmp_path)
        processes.kill_when(victim, lambda: bool(submitted(server)))
        processes.run(*run, cwd=tmp_path)
        assert set(submitted(server).values()) == {1}
    assert kept(tmp_path / "run") == 1


def submitted(server: Llmock) -> Counter[str]:
    """How often each request was submitted in a batch."""
    found: Counter[str] = Counter()
    with openai.OpenAI(api_key="none", base_url=server.url, max_retries=0) as sdk:
        for batch in sdk.batches.list():
            for line in sdk.files.content(batch.input_file_id).text.splitlines():
                found[json.dumps(json.loads(line)["body"])] += 1
    return found


# --- transformers serve ---------------------------------------------------------------------------


def needs_serving() -> None:
    for name in ("uvicorn", "fastapi"):
        pytest.importorskip(name, reason=f"transformers serve needs {name}")


@pytest.fixture(scope="module")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with a random model: its address, and the model's path."""
    needs_serving()
    folder = tmp_path_factory.mktemp("serve")
    model = save_tiny_model(folder / "model", context=8192)
    (model / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    )
    with transformers_serve(model, folder) as url:
        yield url, model


@pytest.mark.parametrize("protocol", ["auto", "chat-json", "chat-text", "completion"])
def test_a_model_that_babbles(protocol: str, babbler: tuple[str, Path], tmp_path: Path) -> None:
    url, model = babbler
    more = {
        "teacher__protocol": protocol, "teacher__model": str(model),
        "teacher__max_output_tokens": 48,
    }  # fmt: skip
    done = processes.run(*arguments(url, tmp_path / "run", **more), cwd=tmp_path, code=6)
    replies = journal(tmp_path / "run")
    assert "replies holds a task" in done.stderr
    assert "generate.teacher.max_output_tokens" in done.stderr
    assert 10 <= len(replies) <= 20
    assert all(row["usage"]["completion_tokens"] <= 48 for row in replies)
    modes = [row["mode"] for row in journal(tmp_path / "run", "mode")]
    assert modes == {"auto": ["json_object", "text"], "chat-json": ["json_object", "json"]}.get(
        protocol, []
    )
    asked_before = len(replies)
    processes.run(*arguments(url, tmp_path / "run", **more), cwd=tmp_path, code=6)
    assert journal(tmp_path / "run")[:asked_before] == replies, "paid for, so kept"


def test_a_model_of_another_name(babbler: tuple[str, Path], tmp_path: Path) -> None:
    done = processes.run(*arguments(babbler[0], tmp_path / "run"), cwd=tmp_path, code=6)
    assert "requested 'm'" in done.stderr


def test_a_field_that_it_does_not_know(babbler: tuple[str, Path], tmp_path: Path) -> None:
    url, model = babbler
    more = {"teacher__model": str(model), "teacher__extra_body": {"top_k": 5}}
    done = processes.run(*arguments(url, tmp_path / "run", **more), cwd=tmp_path, code=6)
    assert "generate.teacher.extra_body.top_k" in done.stderr


def test_it_speaks_as_the_sdk_expects(babbler: tuple[str, Path]) -> None:
    """What the tests above rest on: chat, completions and streams are really answered."""
    url, model = babbler
    ask: Any = {"model": str(model), "messages": [{"role": "user", "content": "hi"}]}
    with openai.OpenAI(api_key="none", base_url=url, max_retries=0) as sdk:
        whole = sdk.chat.completions.create(**ask, max_tokens=20)
        pieces = [*sdk.chat.completions.create(**ask, max_tokens=20, stream=True)]
        legacy = sdk.completions.create(model=str(model), prompt="hi", max_tokens=20)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    assert len(pieces) > 3
    assert pieces[-1].choices[0].finish_reason == legacy.choices[0].finish_reason == "length"
    with urllib.request.urlopen(url.removesuffix("/v1") + "/health") as answer:
        assert json.load(answer) == {"status": "ok"}


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server with a model that writes tasks: its address, and the model's path."""
    needs_serving()
    folder = tmp_path_factory.mktemp("writer")
    model = save_task_writer(folder / "model")
    with transformers_serve(model, folder) as url:
        yield url, model


def asked_of(writer: tuple[str, Path], protocol: str, folder: Path) -> list[str]:
    """Arguments that ask it for 40 tasks in the one way that it understands."""
    url, model = writer
    prompt = folder / "prompt.txt"
    ending = "{{next}}. Instruction:" if protocol == "completion" else ""
    prompt.write_text("List of {{total}} tasks:\n\n" + ending)
    more = {
        "teacher__protocol": protocol, "teacher__model": str(model), "prompt": str(prompt),
        "demonstrations": 0, "tasks_per_request": 3, "target": 40, "novelty": 0.95,
        "teacher__max_output_tokens": 250,
    }  # fmt: skip
    return arguments(url, folder / "run", **more)


@pytest.mark.parametrize("protocol", ["auto", "chat-text", "completion"])
def test_a_real_model_that_writes_tasks(
    protocol: str, writer: tuple[str, Path], tmp_path: Path
) -> None:
    """It ignores `response_format`, and every way of asking still brings its tasks home."""
    processes.run(*asked_of(writer, protocol, tmp_path), cwd=tmp_path)
    report = json.loads((tmp_path / "run" / "generate" / "report.json").read_text())
    replies = journal(tmp_path / "run")
    assert kept(tmp_path / "run") == report["kept"] == 40
    assert report["candidates"] >= 2 * report["requests"]
    assert report["tokens"]["output"] == sum(r["usage"]["completion_tokens"] for r in replies)
    first = {"auto": "json_schema", "chat-text": "text"}.get(protocol, protocol)
    assert {row["mode"] for row in replies} == {first}, "it was understood at once"


def test_a_killed_run_with_a_real_model_goes_on(writer: tuple[str, Path], tmp_path: Path) -> None:
    run, command = tmp_path / "run", asked_of(writer, "completion", tmp_path)
    processes.kill_when(processes.start(*command, cwd=tmp_path), replied(run, 4))
    paid = journal(run)
    processes.run(*command, cwd=tmp_path)
    assert kept(run) == 40
    assert journal(run)[: len(paid)] == paid
    numbers = [row["n"] for row in journal(run)]
    assert len(set(numbers)) == len(numbers), "a reply that we had was asked for again"
