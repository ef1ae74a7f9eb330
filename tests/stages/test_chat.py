"""`alpaca chat` as people and scripts use it: real processes, pipes, and a real terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.loading import load_student
from alpaca_cli.model.sampling import prompt_ids
from alpaca_cli.stages.chat import CONTROL, ask
from alpaca_cli.stages.chat_session import Session
from tests.processes import COMMAND, environment, run
from tests.tiny import save_tiny_model

PATIENCE = 120  # seconds until a terminal that says nothing is a failure
LONG = 50_000  # tokens that no test waits for


class Terminal:
    """A process with a pseudo-terminal, and everything it has written so far."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            env=environment(TERM="xterm", XDG_STATE_HOME=str(cwd / "state")),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=_take_terminal,
        )
        os.close(slave)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, pattern: str, *, nudge: str = "") -> re.Match[str]:
        """Wait until the pattern is written; what stands before and in it counts as read.

        `nudge` is typed once when nothing comes for five seconds.
        """
        while not (found := re.search(pattern, self.seen, re.DOTALL)):
            ready, _, _ = select.select([self._master], [], [], 5 if nudge else PATIENCE)
            if nudge and not ready:
                self.type(nudge)
                nudge = ""
                continue
            assert ready, f"no {pattern!r} in\n{self.seen}"
            try:
                more = os.read(self._master, 1 << 16)
            except OSError:  # Linux says EIO when the process has left
                more = b""
            assert more, f"ended without {pattern!r}:\n{self.seen}"
            text = self.seen + more.decode(errors="replace").replace("\r\n", "\n")
            self.seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)  # colours, paste mode
        self.seen = self.seen[found.end() :]
        return found

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._master)


def _take_terminal() -> None:
    """Make the new session's terminal its controlling one, so that Ctrl-C reaches it."""
    os.close(os.open(os.ttyname(0), os.O_RDWR))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run whose model answers until a limit ends it."""
    here = tmp_path_factory.mktemp("chat")
    final = here / "runs" / "small" / "train" / "final"
    save_tiny_model(final, context=1 << 17, endless=True)
    (final.parent / "done.json").write_text("{}")
    (final.parents[1] / "recipe.yaml").write_text("name: small\n")
    return here


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    opened = Terminal("chat", cwd=folder)
    yield opened
    opened.close()


def test_a_conversation_in_a_terminal(terminal: Terminal, folder: Path) -> None:
    terminal.expect("model: runs/small/train/final")
    terminal.expect(r"M parameters on \w+")
    terminal.expect("> ")

    terminal.type("/set max_new_tokens 12\n")
    terminal.expect("max_new_tokens = 12\n> ")
    terminal.type("Tell me more\n")
    first = terminal.expect(r"Tell me more\n(.*)\[cut at 12 tokens\]\n\n> ")[1]
    assert first.strip()
    terminal.type("/retry\n")
    again = terminal.expect(r"will be the same[^\n]*\n(.*)\[cut at 12 tokens\]\n\n> ")[1]
    assert again.strip() == first.strip()

    # Ctrl-C stops the reply, keeps what was said, and the conversation goes on.
    terminal.type(f"/set max_new_tokens {LONG}\n")
    terminal.expect(f"= {LONG}\n> ")
    terminal.type("Never stop\n")
    terminal.expect("Never stop\n.{20}")
    terminal.type("\x03")
    terminal.expect(r"\[stopped; [^\n]*\]\n\n> ")
    terminal.type("half a line")
    terminal.expect("half a line")
    terminal.type("\x03")
    # CPython's readline sees a signal that comes just before its select() at the next key only.
    terminal.expect("Ctrl-D or /quit leaves\n> ", nudge="\x03")

    terminal.type("/sett\n")
    terminal.expect("did you mean /set\\?.*> ")
    terminal.type("/save talk.jsonl\n")
    terminal.expect("2 exchanges saved to talk.jsonl, 2 with a reply that was cut short\n> ")
    rows = [json.loads(line) for line in (folder / "talk.jsonl").read_text().splitlines()]
    asked, kept = ([row["messages"][at]["content"] for row in rows] for at in (0, 1))
    assert asked == ["Tell me more", "Never stop"]
    assert len(kept[1]) >= 20
    terminal.type("/save talk.jsonl\n")
    terminal.expect("talk.jsonl exists.*> ")

    terminal.type("/new\n")
    terminal.expect("a new conversation\n> ")
    terminal.type("/load talk.jsonl\n")
    terminal.expect("2 exchanges loaded, the last: Never stop\n> ")
    terminal.type("/undo\n")
    terminal.expect("taken back: Never stop\n> ")
    terminal.type("\x1b[A")  # the arrow up brings the last line back
    terminal.expect("/undo")
    terminal.type("\x15\x04")  # clear the line, Ctrl-D
    assert terminal.process.wait() == 0
    history = folder / "state" / "alpaca" / "chat_history"
    assert "Never stop" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


def test_one_answer_on_stdout_for_scripts(folder: Path) -> None:
    student = load_student(folder / "runs/small/train/final", "runs/small/train/final")
    session = Session(Sampling(max_new_tokens=9), history=False)

    # Beside a prompt, what is piped in is the input field.
    done = run(
        "chat", "-p", "Sort.", "--system", "Be kind.", "--json", "--max-new-tokens", 9,
        stdin="4 1 9\n", cwd=folder,
    )  # fmt: skip
    reply = json.loads(done.stdout)
    assert reply == asdict(ask(student, replace(session, system="Be kind."), "Sort.", "4 1 9")[0])
    prompt = len(prompt_ids(student, "Be kind.\n\nSort.", "4 1 9"))
    assert reply["usage"] == {
        "prompt_tokens": prompt, "completion_tokens": 9, "total_tokens": prompt + 9,
    }  # fmt: skip
    assert (reply["prompt"], reply["finish_reason"]) == ("Sort.", "length")
    assert "runs/small/train/final (the newest finished run)" in done.stderr
    assert "cut at 9 tokens" in done.stderr

    # Alone, it is the prompt; plain text comes without what steers a terminal.
    piped = run("chat", "runs/small", "-q", "--max-new-tokens", 9, stdin="Hello\n", cwd=folder)
    assert piped.stdout == ask(student, session, "Hello")[0].response.translate(CONTROL) + "\n"
    assert "newest" not in piped.stderr


def test_the_oldest_turns_are_left_out_first(folder: Path) -> None:
    student = load_student(folder / "runs" / "small" / "train" / "final", "small")
    session = Session(Sampling(max_new_tokens=4), system="Be kind.")
    for number in range(3):
        session = session.answered(f"Message {number}", "", "So.", follows=True, whole=True)

    def prompt(seen: int) -> int:
        history = session.exchanges()[len(session.turns) - seen :]
        return len(prompt_ids(student, "Now?", history=history, system="Be kind."))

    for seen in (3, 2, 1, 0):
        tight = replace(student, context=prompt(seen) + 4)
        reply, shown = ask(tight, session, "Now?")
        assert (shown, reply.usage["prompt_tokens"]) == (seen, prompt(seen))


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "said"),
    [
        (["runs/smal", "-p", "x"], "", 3, "did you mean runs/small?"),
        (["nobody/nothing", "-p", "x"], "", 3, "nobody/nothing: no such folder"),
        (["talks", "-p", "x"], "", 3, "no model here"),
        (["-p", " "], "", 2, "the prompt is empty"),
        ([], "", 2, "no prompt"),
        (["-p", "x", "--temperature", "9"], "", 2, "temperature"),
    ],
)
def test_what_is_wrong_is_said_before_torch_is_loaded(
    folder: Path, arguments: list[str], stdin: str, code: int, said: str
) -> None:
    (folder / "talks").mkdir(exist_ok=True)
    done = run("chat", *arguments, stdin=stdin, code=code, cwd=folder)
    assert said in done.stderr
    assert done.stdout == ""


def test_no_finished_run_names_the_way_to_one(tmp_path: Path) -> None:
    done = run("chat", "-p", "x", code=3, cwd=tmp_path)
    assert "alpaca run --recipe quickstart" in done.stderr
