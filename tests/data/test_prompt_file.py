"""Prompts of a user's own: checked before anything is sent, and of use in every form of asking."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.prompt_file import fill, load_prompt
from alpaca_cli.data.prompts import RequestBuilder, render_json
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests.servers import TeacherServer

CHAT = """\
You write tasks as JSON such as {"a": {"b": 1}}.

--- not a line that parts
---
Look at these:
{{demonstrations}}

Write {{ tasks }} new ones.
{{form}}
"""
DOCUMENT = "A list of {{total}} tasks:\n\n{{demonstrations}}\n###\n{{next}}. Instruction:\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{tasks}}\n{{demonstrations}}\n{{task}}", r':3: \{\{task\}\} .*did you mean "tasks"'),
        ("---\n{{tasks}} {{ demo shown }}", r":2: \{\{demo shown\}\} is not a place"),
        ("{{demonstrations}}\n\n{{}} {{tasks}}", r":3: \{\{\}\} is not a place"),
        ("{{demonstrations}}\n{{tasks!}}", r":2: \{\{tasks!\}\} is not a place"),
        ("\x0b\u2028{{demonstrations}}\n{{Tasks}}", r":2: \{\{Tasks\}\} is not a place"),
        ("Write some: {{demonstrations}}", r": there is no \{\{tasks\}\}: how many new tasks"),
        ("Write {{tasks}}.", r": there is no \{\{demonstrations\}\}: the tasks shown"),
        ("", r": there is no \{\{tasks\}\}"),
        ("{{tasks}}\n{{demonstrations}}\n---", r":3: after `---` there is no user message"),
        ("{{tasks}}\n{{demonstrations}}\n---  \n \n", r":3: after `---` there is no user message"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"mine\.txt" + message):
        load_prompt(path, demonstrations=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    with pytest.raises(UsageError, match=r"generate\.prompt: .*mine\.txt: No such file"):
        load_prompt(path, demonstrations=True)
    path.write_bytes(b"{{tasks}}\ncaf\xe9 {{demonstrations}}")
    with pytest.raises(UsageError, match=r"mine\.txt:2: not UTF-8"):
        load_prompt(path, demonstrations=True)
    with pytest.raises(UsageError, match=r"generate\.prompt: .*Is a directory"):
        load_prompt(tmp_path, demonstrations=True)


def test_the_parts_of_a_prompt(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(b"\xef\xbb\xbf" + CHAT.replace("\n", "\r\n").encode())
    prompt = load_prompt(path, demonstrations=True)
    assert prompt.system.startswith("You write")
    assert prompt.system.endswith("--- not a line that parts")
    assert prompt.user.startswith("Look at these:\n{{demonstrations}}\n\nWrite")
    path.write_text("{{tasks}} please")
    assert load_prompt(path, demonstrations=False).user == "{{tasks}} please"


def test_what_is_filled_in_is_not_looked_at_again() -> None:
    text = "{{demonstrations}} {{ tasks }}"
    filled = fill(text, {"demonstrations": "{{tasks}} {{nothing}} \\1", "tasks": "5"})
    assert filled == "{{tasks}} {{nothing}} \\1 5"


def recipe(
    tmp_path: Path, text: str, base_url: str = "http://127.0.0.1:1/v1", **more: Any
) -> Recipe:
    path = tmp_path / "mine.txt"
    path.write_text(text)
    protocol = more.pop("protocol", "auto")
    teacher = {"kind": "openai", "model": "m", "base_url": base_url, "protocol": protocol}
    section = {
        "target": 25, "tasks_per_request": 5, "concurrency": 4, "prompt": str(path),
        "teacher": teacher,
    }  # fmt: skip
    return Recipe.model_validate({"generate": section | more})


def run(folder: Path, what: Recipe) -> Report:
    return generate(what, RunFolder(folder), Progress(Console(file=StringIO())))


def test_it_is_checked_before_any_request(tmp_path: Path) -> None:
    with TeacherServer() as server:
        with pytest.raises(UsageError, match=r"mine\.txt:1"):
            run(tmp_path / "run", recipe(tmp_path, "{{wrong}}", server.url))
        assert server.asked == server.calls == []
    assert not (tmp_path / "run" / "generate" / "journal.jsonl").exists()


@pytest.mark.parametrize(
    ("protocol", "text", "form"),
    [
        ("chat-json", CHAT, '{"instruction": '),
        ("chat-text", CHAT, "1. Instruction: "),
        ("completion", DOCUMENT, "1. Instruction: "),
    ],
)
def test_it_works_in_every_protocol(tmp_path: Path, protocol: str, text: str, form: str) -> None:
    with TeacherServer(mistakes=0.05) as server:
        report = run(tmp_path / "run", recipe(tmp_path, text, server.url, protocol=protocol))
        asked = server.asked
    assert report.kept == 25
    assert all(form in request.text for request in asked)
    assert not any(re.search(r"\{\{\s*\w+\s*\}\}", request.text) for request in asked)
    if protocol == "completion":
        assert {request.path for request in asked} == {"/v1/completions"}
        assert all(request.body["prompt"].endswith("\n###\n4. Instruction:") for request in asked)
        assert all("A list of 8 tasks:" in request.text for request in asked)
    else:
        assert all(
            "Write 5 new ones." in request.body["messages"][1]["content"] for request in asked
        )
        assert len({request.body["messages"][0]["content"] for request in asked}) == 1


def test_another_text_is_another_prompt(tmp_path: Path) -> None:
    with TeacherServer() as server:
        run(tmp_path / "run", recipe(tmp_path, CHAT, server.url, target=5))
        again = recipe(tmp_path, CHAT.replace("Look at", "See"), server.url, target=9)
        with pytest.raises(UsageError, match="prompt: was"):
            run(tmp_path / "run", again)


def test_json_needs_no_escaping(tmp_path: Path) -> None:
    shown = [Example("Say {{tasks}}", "", '{"x": {"y": {}}}', "a")]
    build = RequestBuilder(recipe(tmp_path, CHAT).generate)
    messages = build(0, shown).body["messages"]
    assert '{"a": {"b": 1}}' in messages[0]["content"]
    assert render_json(shown) in messages[1]["content"]
