"""`alpaca chat` for scripts, with models of this machine, and proved to ask as it was trained."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.files import digest
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings_train import Train
from alpaca_cli.data.formats import read_examples
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.sampling import prompt_ids
from alpaca_cli.model.tokens import prepare_tokens
from alpaca_cli.stages import parity
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.local_speaker import open_local
from tests.processes import run
from tests.screen import Terminal
from tests.serving.chat_server import Body, ChatServer, Manner, failing
from tests.tiny import save_tiny_model

LONG = 50_000  # tokens that no test waits for
QUIET = Progress(Console(stderr=True), quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run whose model answers until a limit ends it."""
    here = tmp_path_factory.mktemp("chat")
    final = here / "runs" / "small" / "train" / "final"
    save_tiny_model(final, context=1 << 17, endless=True)
    (final.parent / "done.json").write_text("{}")
    (final.parents[1] / "recipe.yaml").write_text("name: small\n")
    return here


def test_a_conversation_with_the_newest_run(folder: Path) -> None:
    with Terminal("chat", cwd=folder) as terminal:
        terminal.expect("model: runs/small/train/final")
        terminal.expect(r"M parameters on \w+, alpaca template\nevery message stands alone")
        terminal.say("/set max_new_tokens 12")
        terminal.expect("max_new_tokens = 12")
        terminal.say("Tell me more")
        first = terminal.expect(r"Tell me more\n(.*)\[cut at 12 tokens\]\n\n>")[1]
        assert first.strip()
        terminal.say("/retry")
        again = terminal.expect(r"will be the same[^\n]*\n(.*)\[cut at 12 tokens\]\n\n>")[1]
        assert again.strip() == first.strip()
        terminal.say("/set history on")
        terminal.expect("history = on")
        terminal.say("/tokens")
        terminal.expect(r"\d+ tokens before the next message, 0% of 131,072")

        # Ctrl-C stops the reply, keeps what was said, and the conversation goes on.
        terminal.say(f"/set max_new_tokens {LONG}")
        terminal.expect(f"= {LONG}")
        terminal.say("Never stop")
        terminal.expect("Never stop\n.{20}")
        terminal.type("\x03")
        terminal.expect(r"\[stopped; [^\n]*\]\n\n>")
        terminal.say("/save talk.jsonl")
        terminal.expect("2 exchanges saved to talk.jsonl, 2 with a reply that was cut short")
        terminal.prompt()
        terminal.type("\x04")
        terminal.leave()
    [row] = [json.loads(line) for line in (folder / "talk.jsonl").read_text().splitlines()]
    asked, kept = row["messages"][2::2], row["messages"][3]["content"]
    assert [each["content"] for each in asked] == ["Never stop"]
    assert len(kept) >= 20


def test_one_answer_on_stdout_for_scripts(folder: Path) -> None:
    speaker = open_local(str(folder / "runs/small/train/final"), QUIET)
    student = replace(speaker.student, name="runs/small/train/final")
    speaker.student = student
    session = Session(Sampling(max_new_tokens=9), history=False)

    # Beside a prompt, what is piped in is the input field.
    done = run(
        "chat", "-p", "Sort.", "--system", "Be kind.", "--json", "--max-new-tokens", 9,
        stdin="4 1 9\n", cwd=folder,
    )  # fmt: skip
    reply = json.loads(done.stdout)
    asked = replace(session, system="Be kind.")
    assert reply == asdict(speaker.ask(asked, "Sort.", "4 1 9")[0])
    prompt = len(prompt_ids(student, "Be kind.\n\nSort.", "4 1 9"))
    assert reply["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": 9, "total_tokens": prompt + 9,
    }  # fmt: skip
    assert (reply["prompt"], reply["finish_reason"]) == ("Sort.", "length")
    assert "runs/small/train/final (the newest finished run)" in done.stderr
    assert "cut at 9 tokens" in done.stderr


def test_endpoints_answer_scripts_too(tmp_path: Path) -> None:
    def manner(body: Body) -> Manner:
        kinds = {"quota": failing(401, "bad key sk-secret123"), "busy": failing(429, "slow down")}
        kinds["cut"] = Manner(usage=False, finish_reason="length")
        return kinds.get(body["messages"][-1]["content"], Manner())

    with ChatServer(lambda body: " *Hello* \x1b[0m\n", manner) as server:

        def ask(prompt: str, *more: object, **extra: Any) -> Any:
            flags = ("--base-url", server.url, "-p", prompt, *more)
            return run("chat", "m", *flags, cwd=tmp_path, **extra)

        done = ask("Hi", "--json", "--temperature", 0, "--system", "Be kind.", stdin="there")
        assert json.loads(done.stdout) == {
            "model": "m", "prompt": "Hi", "response": "*Hello* \x1b[0m", "finish_reason": "stop",
            "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6},
        }  # fmt: skip
        # Without -p, what is piped in is the prompt; what steers a terminal is left out.
        flags = ("chat", "m", "--base-url", server.url, "-q")
        plain = run(*flags, stdin="cut\n", cwd=tmp_path, OPENAI_API_KEY="sk-secret123")
        assert plain.stdout == "*Hello* [0m\n"
        assert "cut by the endpoint" in plain.stderr
        refused = ask("quota", code=6, OPENAI_API_KEY="sk-secret123")
        assert "refused: 401" in refused.stderr
        assert "secret" not in refused.stderr
        assert "slow down" in ask("busy", code=75).stderr
    assert server.asked[0]["temperature"] == 0
    assert server.asked[0]["messages"][1]["content"] == "Hi\n\nthere"
    assert server.headers[1]["authorization"] == "Bearer sk-secret123"


def test_characters_that_the_locale_lacks_are_spelled_out(tmp_path: Path) -> None:
    with ChatServer(lambda body: "Olé 日") as server:
        done = run(
            "chat", "m", "--base-url", server.url, "-p", "Hi", cwd=tmp_path,
            PYTHONIOENCODING="ascii",
        )  # fmt: skip
    assert done.stdout == "Ol\\xe9 \\u65e5\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["runs/smal", "-p", "x"], "", 3, "did you mean runs/small?"),
        (["-p", " "], "", 2, "the prompt is empty"),
        ([], "", 2, "no prompt"),
        (["-p", "x", "--temperature", "9"], "", 2, "temperature"),
        (["m", "--base-url", "https://h/v1", "-p", "x"], "", 6, "OPENAI_API_KEY is not set"),
    ],
)
def test_what_is_wrong_is_said_before_torch_is_loaded(
    folder: Path, arguments: list[str], stdin: str, code: int, said: str
) -> None:
    done = run("chat", *arguments, stdin=stdin, code=code, cwd=folder)
    assert said in done.stderr
    assert done.stdout == ""


def test_no_finished_run_names_the_way_to_one(tmp_path: Path) -> None:
    done = run("chat", "-p", "x", code=3, cwd=tmp_path)
    assert "alpaca run --recipe quickstart" in done.stderr


def test_the_prompt_is_proved_to_be_that_of_training(
    folder: Path, tmp_path: Path, real_data: Path
) -> None:
    lines = (real_data / "seed_tasks.jsonl").read_text().splitlines()[:40]
    data, other = tmp_path / "data.jsonl", tmp_path / "other.jsonl"
    data.write_text("\n".join(lines) + "\n")
    other.write_text("\n".join(lines[:7]) + "\n")
    # The run of a training that has made its tokens, and left the model as it was.
    final = tmp_path / "runs" / "x" / "train" / "final"
    shutil.copytree(folder / "runs" / "small" / "train" / "final", final)
    settings = Train(model=str(final), max_length=150, overlong="truncate_response")
    examples = read_examples([data])
    prepare_tokens(settings, digest(data), lambda: examples, final.parent / "tokens")
    (final.parent / "done.json").write_text(json.dumps({"inputs": {"data": digest(data)}}))
    (final.parents[1] / "recipe.yaml").write_text("name: x\n")

    found = parity.run(str(final), str(data), QUIET)
    assert (found.ids, found.difference) == ("of the training", None)
    assert 20 < found.compared <= found.examples == len(examples)
    parity.check(found)
    # Another file is compared with what a training would make of it.
    found = parity.run(str(final), str(other), QUIET)
    assert (found.ids, found.compared, found.difference) == ("as encoded for training", 7, None)

    # A template that was changed after the training is another prompt.
    template = final / "prompt_template.json"
    template.write_text(template.read_text().replace("### Response:", "### Answer:"))
    done = run("chat", "--parity", "data.jsonl", "--json", code=5, cwd=tmp_path)
    difference = json.loads(done.stdout)["difference"]
    assert (difference["row"], difference["what"]) == ("data.jsonl:1", "prompt")
    assert "### Response:" in "".join(difference["training"])
    assert "### An" in "".join(difference["chat"])
    assert f"data.jsonl:1: prompt: token {difference['position']} is another one" in done.stderr
