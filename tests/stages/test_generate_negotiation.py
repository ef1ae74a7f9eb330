"""How a teacher is asked: found out once, on the first real requests, and never asked again; and
what is said when it cannot be asked at all."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import TeacherError, TryAgain
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests import processes
from tests.servers import Asked, Fault, TeacherServer

NONSENSE = "I would love to help, but what is it that you want?"


def recipe(server: TeacherServer, **settings: Any) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": server.url}
    teacher |= settings.pop("teacher", {})
    section = {
        "target": 40, "tasks_per_request": 5, "concurrency": 8, "novelty": 1,
        "novelty_key": "instruction+input", "teacher": teacher,
    }  # fmt: skip
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, said: StringIO | None = None) -> Report:
    console = Console(file=said or StringIO(), width=200)
    return generate(what, RunFolder(folder), Progress(console))


def rows(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    lines = (folder / "generate" / "journal.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] in kinds]


def outputs(folder: Path) -> list[bytes]:
    return [(folder / "generate" / name).read_bytes() for name in ("kept.jsonl", "rejected.jsonl")]


def form(asked: Asked) -> str:
    kind: str = asked.body.get("response_format", {}).get("type", "text")
    return kind


def cut(folder: Path, lines: int) -> None:
    """What a killed process leaves: only the first lines of its journal."""
    path = folder / "generate" / "journal.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:lines]))
    (folder / "generate" / "done.json").unlink(missing_ok=True)


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("forms", "asked_for"),
    [
        (("json_schema", "json_object"), ["json_schema"]),
        (("json_object",), ["json_schema", "json_object"]),
        ((), ["json_schema", "json_object", "text"]),
    ],
)
def test_the_best_form_that_is_taken(
    forms: tuple[str, ...], asked_for: list[str], tmp_path: Path
) -> None:
    with TeacherServer(forms=forms) as server:
        assert run(tmp_path, recipe(server)).kept == 40
        seen = [form(asked) for asked in server.asked]
    refused = len(asked_for) - 1
    assert seen[: refused + 1] == asked_for, "each is tried once, one request at a time"
    assert set(seen[refused:]) == {asked_for[-1]}
    journalled = rows(tmp_path, "mode")
    assert [row["mode"] for row in journalled] == asked_for[1:]
    assert all("400: Invalid parameter: 'response_format'" in row["why"] for row in journalled)
    assert {row["mode"] for row in rows(tmp_path, "reply")} == {asked_for[-1]}


def test_a_resumed_run_never_asks_again(tmp_path: Path) -> None:
    with TeacherServer(forms=()) as server:
        run(tmp_path, recipe(server))
        whole = outputs(tmp_path)
        lines = (tmp_path / "generate" / "journal.jsonl").read_bytes().splitlines()
        modes = [n for n, line in enumerate(lines) if b'"kind":"mode"' in line]
        for keep, left in ((modes[0] + 1, {"json_object", "text"}), (modes[1] + 1, {"text"})):
            cut(tmp_path, keep)
            before = len(server.asked)
            run(tmp_path, recipe(server))
            assert {form(asked) for asked in server.asked[before:]} == left
            assert outputs(tmp_path) == whole
        before = len(server.asked)
        run(tmp_path, recipe(server, target=120))
        assert {form(asked) for asked in server.asked[before:]} == {"text"}


def test_a_process_killed_after_it_was_refused_has_told_the_next(tmp_path: Path) -> None:
    held = Fault(hold=True)
    with TeacherServer(lambda a: held if form(a) == "text" else None, forms=()) as server:
        given = {
            "target": 40, "tasks_per_request": 5, "concurrency": 8, "novelty": 1,
            "novelty_key": "instruction+input", "teacher.kind": "openai", "teacher.model": "m",
            "teacher.base_url": server.url,
        }  # fmt: skip
        sets = [f"--set=generate.{key}={value}" for key, value in given.items()]
        process = processes.start("generate", "--run=run", *sets, cwd=tmp_path)
        processes.kill_when(process, lambda: len(server.asked) == 3)
        assert [form(asked) for asked in server.asked] == ["json_schema", "json_object", "text"]
    with TeacherServer(forms=()) as server:
        report = run(tmp_path / "run", recipe(server))
        assert {form(asked) for asked in server.asked} == {"text"}
    assert report.guessed == 1, "the held request may have been billed, the refused ones not"


def test_a_form_that_is_ignored_is_parsed_all_the_same(tmp_path: Path) -> None:
    with TeacherServer(ignores=True) as server:
        assert run(tmp_path, recipe(server)).kept == 40
    assert all("Instruction:" in row["text"] for row in rows(tmp_path, "reply"))
    assert rows(tmp_path, "mode") == []


def only_text(asked: Asked) -> str | None:
    """A model that goes astray when its reply is constrained."""
    return None if form(asked) == "text" else NONSENSE


def test_replies_without_tasks_lead_to_the_next_form(tmp_path: Path) -> None:
    with TeacherServer(answer=only_text) as server:
        run(tmp_path, recipe(server))
        seen = [form(asked) for asked in server.asked]
    assert seen[:7] == ["json_schema"] * 3 + ["json_object"] * 3 + ["text"]
    assert set(seen[6:]) == {"text"}
    assert [row["why"] for row in rows(tmp_path, "mode")] == ["3 replies held no task"] * 2


def test_any_cut_of_a_negotiation_is_continued_alike(tmp_path: Path) -> None:
    with TeacherServer(answer=only_text) as server:
        run(tmp_path, recipe(server))
        whole = outputs(tmp_path)
        replies = {row["n"]: row["request_hash"] for row in rows(tmp_path, "reply")}
        for keep in range(16, 0, -1):
            cut(tmp_path, keep)
            run(tmp_path, recipe(server))
            assert outputs(tmp_path) == whole
            again = {row["n"]: row["request_hash"] for row in rows(tmp_path, "reply")}
            assert replies.items() <= again.items() or again.items() <= replies.items()


def test_a_teacher_that_never_writes_a_task_is_left(tmp_path: Path) -> None:
    plain = {"protocol": "chat-text"}
    with TeacherServer(answer=lambda a: NONSENSE) as server:
        with pytest.raises(
            TeacherError, match=rf"first 10 replies holds a task; .*{NONSENSE[:30]}"
        ):
            run(tmp_path, recipe(server, teacher=plain))
        assert len(server.asked) == 10
        assert server.most == 1, "nothing is sent side by side before one has worked"
    with TeacherServer() as server:
        report = run(tmp_path, recipe(server, teacher=plain))
    assert report.kept == 40, "the server was at fault; the same command goes on"
    assert report.replayed == 10


# --- requests that are too long -------------------------------------------------------------------


@pytest.mark.parametrize("wording", ["openai", "vllm"])
def test_too_long_for_the_context_is_found_out_once(tmp_path: Path, wording: str) -> None:
    teacher = {"max_output_tokens": 2000}
    said = StringIO()
    with TeacherServer(context=1900, wording=wording) as server:
        run(tmp_path, recipe(server, teacher=teacher), said)
        assert [asked.limit for asked in server.asked][:2] == [2000, 1000]
        assert {asked.limit for asked in server.asked[1:]} == {1000}
        assert {row["shrink"] for row in rows(tmp_path, "reply")} == {1}
        assert {row["tasks"] for row in rows(tmp_path, "reply")} == {2}
        before = len(server.asked)
        run(tmp_path, recipe(server, teacher=teacher, target=120))
        assert {asked.limit for asked in server.asked[before:]} == {1000}, "remembered"
    assert "too long for the context (400: This model's maximum" in said.getvalue() or (
        wording == "vllm" and "is too large: 2000" in said.getvalue()
    )
    assert "asking for 2 tasks at a time from now on" in said.getvalue()
    assert rows(tmp_path, "failed", "lost") == []


def test_one_request_that_is_too_long_makes_no_other_smaller(tmp_path: Path) -> None:
    """Which requests are smaller must not depend on what was in flight when one was refused."""
    long = Fault(
        400, {"error": {"message": "prompt is too long", "code": "context_length_exceeded"}}
    )
    refused: set[str] = set()

    def fault(asked: Asked) -> Fault | None:
        if asked.number == 4:
            refused.add(asked.body["messages"][1]["content"])
        full = "Write 5 new tasks" in asked.text
        return long if full and asked.body["messages"][1]["content"] in refused else None

    with TeacherServer(fault) as server:
        run(tmp_path, recipe(server))
    shrunk = [row["shrink"] for row in rows(tmp_path, "reply")]
    assert sorted(shrunk) == [0] * (len(shrunk) - 1) + [1]


def test_a_request_that_never_fits_is_given_up(tmp_path: Path) -> None:
    with (
        TeacherServer(context=50) as server,
        pytest.raises(TeacherError, match=r"refused 10 requests in a row; .*maximum context"),
    ):
        run(tmp_path, recipe(server))
    assert len(server.asked) <= 5 + 4 * 10
    assert rows(tmp_path, "failed", "reply") == []


# --- what the endpoint does not take --------------------------------------------------------------


@pytest.mark.parametrize(
    ("refuses", "teacher", "message", "hint"),
    [
        ("temperature", {"temperature": 0.7}, "temperature", "teacher.temperature to 1"),
        ("top_p", {"top_p": 0.9}, "top_p", "teacher.top_p to 1"),
        ("service_tier", {"service_tier": "flex"}, "service_tier", "service_tier to null"),
        (
            "reasoning_effort",
            {"extra_body": {"reasoning_effort": "none"}},
            "reasoning_effort",
            "extra_body.reasoning_effort to null",
        ),
    ],
)
def test_a_field_that_is_not_taken_is_named_with_its_key(
    refuses: str, teacher: dict[str, Any], message: str, hint: str, tmp_path: Path
) -> None:
    with TeacherServer(refuses=[refuses]) as server:
        with pytest.raises(TeacherError, match=f"does not take {message}: 400") as raised:
            run(tmp_path, recipe(server, teacher=teacher))
        assert len(server.asked) == 1
    assert raised.value.exit_code == 6
    assert hint in raised.value.hint
    assert rows(tmp_path, "lost"), "nothing was billed, and the journal says so"
    with TeacherServer() as server:
        assert run(tmp_path, recipe(server, teacher=teacher)).guessed == 0


def test_the_name_of_the_length_limit_is_found_out_once(tmp_path: Path) -> None:
    with TeacherServer(refuses=["max_tokens"]) as server:
        run(tmp_path, recipe(server))
        assert ["max_tokens" in asked.body for asked in server.asked][:2] == [True, False]
        assert sum("max_tokens" in asked.body for asked in server.asked) == 1
        before = len(server.asked)
        run(tmp_path, recipe(server, target=120))
        assert len(server.asked) > before
        assert not any("max_tokens" in asked.body for asked in server.asked[before:])


# --- servers that fail ----------------------------------------------------------------------------


def test_twenty_failures_in_a_row_open_the_circuit(tmp_path: Path) -> None:
    broken = Fault(500, {"error": {"message": "oops"}}, {"retry-after-ms": "1"})
    with TeacherServer(lambda a: broken if a.number >= 10 else None) as server:
        with pytest.raises(TryAgain, match=r"20 attempts in a row failed; the last: 500: oops"):
            run(tmp_path, recipe(server, concurrency=32, target=400, teacher={"max_attempts": 50}))
        assert 20 <= len(server.asked) - 10 <= 20 + 2 * 32, "some while good replies came"
    assert len(rows(tmp_path, "reply")) == 10
    assert rows(tmp_path, "failed") == [], "no request is to blame"
    with TeacherServer() as server:
        assert run(tmp_path, recipe(server, teacher={"max_attempts": 50})).guessed == 0


@pytest.mark.slow
def test_a_server_that_goes_quiet_is_noticed(tmp_path: Path) -> None:
    """Half a minute without any reply, while replies had been quick."""
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 4 else None) as server:
        given = {"teacher.kind": "openai", "teacher.model": "m", "teacher.base_url": server.url}
        sets = [f"--set=generate.{key}={value}" for key, value in given.items()]
        process = processes.start("generate", "--run=run", "--target=9999", *sets, cwd=tmp_path)
        assert process.stderr is not None
        said = ""
        while "no reply for 3" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        assert "requests are waiting (generate.teacher.timeout" in said
        server.release.set()
        while "replies are coming again" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        process.kill()
        process.communicate()
