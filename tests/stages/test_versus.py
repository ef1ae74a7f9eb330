"""Two models at once: side by side on a real terminal, and blind votes that survive `kill -9`."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from alpaca_cli.cli import app
from alpaca_cli.core.intervals import wilson_interval
from alpaca_cli.data.votes import read_votes, standings
from tests.screen import Terminal
from tests.serving.chat_server import Body, ChatServer, Manner
from tests.tiny import save_tiny_model

NAMES = ("student", "teacher")


def says(name: str) -> ChatServer:
    return ChatServer(lambda body: f"**{name}** to {body['messages'][-1]['content']}")


def two(one: ChatServer, other: ChatServer, folder: Path, *more: object, **extra: Any) -> Terminal:
    return Terminal(
        "chat", NAMES[0], "--base-url", one.url, "--vs", NAMES[1], "--vs-base-url", other.url,
        *more, cwd=folder, **extra,
    )  # fmt: skip


def test_two_models_of_this_machine_side_by_side(tmp_path: Path) -> None:
    for name in NAMES:
        save_tiny_model(tmp_path / name, context=4096, endless=True)
    arguments = ("chat", "student", "--vs", "teacher", "--max-new-tokens", 20)
    with Terminal(*arguments, cwd=tmp_path) as terminal:
        terminal.say("Tell me")
        beside = terminal.expect(r"> Tell me\n╭─ student ─+╮╭─ teacher ─+╮\n(.*?)╰─+╯╰─+╯\n\n?>")[1]
        for line in beside.splitlines():
            left, right = line.strip("│").split("││")
            assert left == right  # they are the same model, with a conversation each
        terminal.resize(60, 20)
        terminal.say("/set history on")
        terminal.expect("history = on")
        terminal.say("More")
        above = terminal.expect(r"╭─ student ─+╮\n(│.*?)╰─+╯\n╭─ teacher ─+╮\n(│.*?)╰─+╯\n")
        assert above[1] == above[2]
        terminal.say("/model x")
        terminal.expect("/model does not go with two models")
        terminal.say("/quit")
        terminal.leave()


def test_both_conversations_go_on_and_ctrl_c_stops_one_answer(tmp_path: Path) -> None:
    def manner(body: Body) -> Manner:
        return Manner(pace=3 if body["messages"][-1]["content"] == "Go" else None)

    with (
        ChatServer(lambda body: "one two three four", manner) as one,
        says("teacher") as other,
        two(one, other, tmp_path) as terminal,
    ):
        terminal.say("/input 2 1")
        terminal.expect("the next message has this input")
        terminal.say("Sort")
        terminal.expect("teacher to Sort")
        terminal.say("Go")
        terminal.expect("│ one two")
        terminal.type("\x03")
        terminal.expect("││ teacher to Go")
        assert re.search("│ one two +││ teacher to Go", terminal.screen.text)
        terminal.say("Again")
        terminal.expect("one two three four +││ teacher to Again")
        terminal.prompt()
        terminal.type("\x04")
        terminal.leave()
    mine, theirs = (
        [message["content"] for message in server.asked[2]["messages"]] for server in (one, other)
    )
    assert mine == ["Sort\n\n2 1", "one two three four", "Go", "one two", "Again"]
    assert theirs[1] == "**teacher** to Sort\n\n2 1"


def vote(terminal: Terminal, winner: str) -> str:
    """Vote for a model, or `tie` or `skip`; which place it had: left or right."""
    shown = terminal.expect(r"╭─ a ─+╮╭─ b ─+╮\n│ (\w+)[^│]*││ (\w+).*which is better\?")
    assert not set(NAMES) & set(re.findall(r"─ (\w+) ─", shown[0]))
    place = {shown[1]: "a", shown[2]: "b"}.get(winner, winner)
    terminal.type(f"{place}\r")
    return place


def test_votes_are_blind_until_the_end(tmp_path: Path) -> None:
    with (
        says("student") as one,
        says("teacher") as other,
        two(one, other, tmp_path, "--blind", "--system", "Be kind.") as terminal,
    ):
        places = set()
        for number, winner in enumerate(["teacher", "tie", *["student"] * 9, "skip"]):
            terminal.say(f"Question {number}")
            places.add(vote(terminal, winner))
        assert {"a", "b"} <= places  # the order changes
        terminal.say("/tokens")
        terminal.expect("does not go with two models")
        terminal.prompt()
        assert "student 9" not in terminal.screen.text
        terminal.type("\x04")
        terminal.expect("student 9 · teacher 1 · ties 1")
        low, high = wilson_interval(9, 10)
        terminal.expect(r"student wins 86\.4% of 11 votes, a tie being half a win")
        terminal.expect(rf"without ties 90\.0% \(95 % interval {low:.1%} to {high:.1%}\)")
        terminal.expect("votes: runs/votes.jsonl")
        terminal.leave()
    votes = read_votes(tmp_path / "runs/votes.jsonl")
    assert len(votes) == 11
    preferences = (tmp_path / "runs/votes.preferences.jsonl").read_text().splitlines()
    assert len(preferences) == 10  # a tie prefers nothing
    assert json.loads(preferences[0]) == {
        "prompt": [
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Question 0"},
        ],
        "chosen": [{"role": "assistant", "content": "**teacher** to Question 0"}],
        "rejected": [{"role": "assistant", "content": "**student** to Question 0"}],
    }  # fmt: skip
    # Every message stands alone.
    assert {len(body["messages"]) for body in one.asked} == {2}
    [standing] = standings(votes)
    assert (standing.wins_a, standing.wins_b, standing.ties) == (9, 1, 1)


def test_voting_on_a_file_goes_on_after_a_kill(tmp_path: Path) -> None:
    questions = [{"instruction": f"Question {number}", "input": "2 1"} for number in range(4)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    flags = ("--blind", "--data", "q.jsonl", "--votes", "v.jsonl")
    with says("student") as one, says("teacher") as other:
        with two(one, other, tmp_path, *flags) as terminal:
            terminal.expect("4 left.*Question 0")
            vote(terminal, "student")
            terminal.expect("3 left.*Question 1")
            vote(terminal, "teacher")
            terminal.expect("2 left.*Question 2.*which is better")
            os.killpg(terminal.process.pid, signal.SIGKILL)
        with open(tmp_path / "v.jsonl", "ab") as file:
            file.write(b'{"instruction": "torn')  # what a power cut leaves
        with two(one, other, tmp_path, *flags) as terminal:
            terminal.expect("2 left.*Question 2")
            terminal.expect("which is better")
            terminal.type("\x03")
            terminal.expect("skip passes this one over.*which is better")
            terminal.type("c\rtie\r")
            terminal.expect("1 left.*Question 3")
            vote(terminal, "student")
            terminal.expect("student 2 · teacher 1 · ties 1")
            terminal.leave()
        with two(one, other, tmp_path, *flags) as terminal:
            terminal.expect("student 2 · teacher 1 · ties 1")
            terminal.leave()
    votes = read_votes(tmp_path / "v.jsonl")
    assert [each.instruction for each in votes] == [row["instruction"] for row in questions]
    assert [each.vote for each in votes] == ["a", "b", "tie", "a"]
    assert votes[0].input == "2 1"
    assert one.asked[0]["messages"][-1]["content"] == "Question 0\n\n2 1"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["m", "--vs", "n"], "--vs needs a terminal"),
        (["m", "--blind"], "--blind needs --vs"),
        (["m", "--votes", "x"], "--votes needs --blind"),
        (["m", "--vs", "n", "-p", "x"], "--prompt does not go with --vs"),
        (["m", "--vs", "n", "--data", "x"], "--data needs --blind"),
        (["m", "--web", "--json"], "--json does not go with --web"),
        (["m", "--web", "--data", "x", "--vs", "n", "--blind"], "--data does not go with --web"),
        (["m", "--serve", "--top-k", "5"], "a sampling flag does not go with --serve"),
        (["m", "--serve", "--auth", "a:b"], "--auth does not go with --serve"),
        (["m", "--port", "0"], "--port needs --serve or --web"),
        (["m", "--engine", "vllm"], "--engine needs --serve"),
        (["m", "--parity", "x", "--plain"], "--plain does not go with --parity"),
    ],
)
def test_flags_that_do_not_go_together(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["chat", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
