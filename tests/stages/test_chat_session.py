"""The conversation as data: commands, settings, transcripts, reading messages, trimming."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import AlpacaError, DataError, UsageError
from alpaca_cli.core.progress import CONTROL
from alpaca_cli.data.formats import read_examples
from alpaca_cli.model.dialogue import Exchange, Sampling
from alpaca_cli.stages.chat_input import read_message
from alpaca_cli.stages.chat_session import (
    COMMANDS,
    NO_LIMIT,
    Command,
    Session,
    Step,
    apply,
    change,
    load,
    parse,
    save,
    settings,
)
from alpaca_cli.stages.speaking import Trimmer

EMPTY = Session(Sampling())
TALK = EMPTY.answered("Hi", "", "Hello.", follows=False, whole=True).answered(
    "Sort.", "2 1", "1 2", follows=True, whole=True
)


def do(session: Session, line: str) -> Step:
    command = parse(line)
    assert isinstance(command, Command)
    return apply(session, command)


def test_messages_and_commands_are_told_apart() -> None:
    assert parse("  What is 1/2?\n") == "What is 1/2?"
    assert parse("//etc is a path") == "/etc is a path"
    assert parse("/set top_p 0.9") == Command("set", "top_p 0.9")
    with pytest.raises(UsageError, match="no command /retyr, did you mean /retry") as caught:
        parse("/retyr")
    assert "/help" in caught.value.hint


def test_every_command_is_in_the_help_and_does_something() -> None:
    said = do(EMPTY, "/help").say
    for name in COMMANDS:
        assert f"/{name}" in said
    assert do(TALK, "/new").session == EMPTY
    assert do(TALK, "/undo").session.turns == TALK.turns[:1]
    again = do(TALK, "/retry")
    assert (again.session.turns, again.ask) == (TALK.turns[:1], ("Sort.", "2 1"))
    assert "same" in again.say
    hot = replace(TALK, sampling=Sampling(temperature=0.7))
    assert "same" not in do(hot, "/retry").say
    assert do(TALK, "/quit").quit
    for name in ("edit", "tokens", "model", "compare"):  # they need more than a conversation
        with pytest.raises(ValueError, match=name):
            do(TALK, f"/{name}")
    for line in ("/retry", "/undo", "/save x.jsonl", "/new x"):
        with pytest.raises(UsageError):
            do(EMPTY, line)


def test_system_and_input_are_set_shown_and_dropped() -> None:
    for name in ("system", "input"):
        step = do(EMPTY, f"/{name} Be kind.")
        assert getattr(step.session, name) == "Be kind."
        assert "Be kind." in do(step.session, f"/{name}").say
        assert do(step.session, f"/{name} off").session == EMPTY
    asked = do(EMPTY, "/input 2 1").session.answered("S", "2 1", "r", follows=False, whole=True)
    assert asked.input == ""


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("temperature 0.7", Sampling(temperature=0.7)),
        ("temp=1e-1", Sampling(temperature=0.1)),
        ("top_p 0.9", Sampling(top_p=0.9)),
        ("top_k 40", Sampling(top_k=40)),
        ("max_new_tokens 9", Sampling(max_new_tokens=9)),
        ("seed 7", Sampling(seed=7)),
    ],
)
def test_settings_are_set_and_taken_back(line: str, expected: Sampling) -> None:
    changed = do(EMPTY, f"/set {line}").session
    assert changed.sampling == expected
    for name in ("top_p", "top_k", "seed", "max_new_tokens"):
        changed = change(changed, name, "off")
    assert changed.sampling == replace(
        expected, top_p=1.0, top_k=0, seed=None, max_new_tokens=NO_LIMIT
    )
    assert settings(changed)["max_new_tokens"] == "off"
    assert line.split()[0].split("=")[0] in do(EMPTY, "/set").say


@pytest.mark.parametrize(
    "line",
    ["temperature -1", "temperature nan", "temperature inf", "temperature hot", "top_p 0",
     "top_p 1.1", "top_k -1", "top_k 1.5", "max_new_tokens 0", "max_new_tokens x", "seed -1",
     "seed 9223372036854775808", "history maybe", "top 1", "temprature 1"],
)  # fmt: skip
def test_wrong_settings_are_refused(line: str) -> None:
    with pytest.raises(UsageError, match=line.split()[0]):
        do(EMPTY, f"/set {line}")


def test_history_decides_what_the_model_sees() -> None:
    both = (Exchange("Hi", "", "Hello."), Exchange("Sort.", "2 1", "1 2"))
    assert TALK.exchanges() == both
    assert do(TALK, "/set history off").session.exchanges() == ()


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    session = replace(TALK, system="Be kind.")
    session = session.answered("And?", "", "So.", follows=True, whole=False)
    said = save(session, path)
    assert "3 exchanges saved" in said
    assert "1 with a reply that was cut short" in said
    assert "2 of 2 lines are a conversation" not in said
    assert "1 of 1 line is a conversation of several exchanges, which alpaca train does" in said
    with pytest.raises(DataError, match=r"talk\.jsonl:1: .*one exchange"):
        read_examples([path])
    turns = load(path)
    assert [turn.message for turn in turns] == ["Hi", "Sort.\n\n2 1", "And?"]
    assert [turn.reply for turn in turns] == ["Hello.", "1 2", "So."]
    assert [turn.follows for turn in turns] == [False, True, True]
    assert do(EMPTY, f"/load {path}").session.turns == turns
    before = path.read_bytes()
    with pytest.raises(UsageError, match="exists"):
        save(session, path)
    assert path.read_bytes() == before


def test_single_exchanges_are_saved_as_examples_to_train_on(tmp_path: Path) -> None:
    session = replace(EMPTY, system="Be kind.")
    for message, input, reply in (("Hi", "", "Hello."), ("Sort.", "2 1", "1 2")):
        session = session.answered(message, input, reply, follows=False, whole=True)
    assert save(session, tmp_path / "talk.jsonl") == f"2 exchanges saved to {tmp_path}/talk.jsonl"
    examples = read_examples([tmp_path / "talk.jsonl"])
    assert [(each.instruction, each.output) for each in examples] == [
        ("Be kind.\n\nHi", "Hello."),
        ("Be kind.\n\nSort.\n\n2 1", "1 2"),
    ]
    assert load(tmp_path / "talk.jsonl")[1].system == "Be kind."


@pytest.mark.parametrize(
    "line",
    ["[]", "{", '{"messages": []}', '{"messages": [{"role": "user", "content": "a"}]}',
     '{"messages": [{"role": "user", "content": 1}, {"role": "assistant", "content": "b"}]}',
     '{"messages": [{"role": "user", "content": "\\ud800"}, {"role": "assistant", "content": ""}]}',
     '{"messages": [{"role": "system", "content": "a"}]}', '{"instruction": "a", "output": "b"}'],
)  # fmt: skip
def test_what_is_no_conversation_names_its_line(tmp_path: Path, line: str) -> None:
    good = {"messages": [{"role": r, "content": "x"} for r in ("user", "assistant")]}
    path = tmp_path / "talk.jsonl"
    path.write_text(json.dumps(good) + "\n" + line + "\n")
    with pytest.raises(DataError, match=r"talk\.jsonl:2: "):
        load(path)
    for missing in (tmp_path / "none.jsonl", tmp_path):
        with pytest.raises(DataError):
            load(missing)


def read(*lines: str) -> str:
    typed = iter(lines)
    message = read_message(lambda prompt: next(typed))
    assert list(typed) == []
    return message


def test_messages_of_several_lines() -> None:
    assert read("one") == "one"
    assert read("one\\", "two\\", "three") == "one\ntwo\nthree"
    assert read('"""one', "", "two", 'three"""') == "one\n\ntwo\nthree"
    assert read('"""', "one", '"""') == "one"
    assert read('"""one"""') == "one"


@given(st.lists(st.text(alphabet=" \n\tab", max_size=4)))
def test_a_trimmed_stream_is_the_trimmed_text(texts: list[str]) -> None:
    trimmer = Trimmer()
    assert "".join(map(trimmer.add, texts)) == "".join(texts).strip()


def test_a_reply_cannot_steer_the_terminal() -> None:
    evil = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\re\x08f\tg\nh\x7f\x00é🦙"
    assert evil.translate(CONTROL) == "a[31mb]0;titlec2Jdef\tg\nhé🦙"


ELSEWHERE = {"save", "load", "edit", "tokens", "model", "compare"}
NAMES = st.sampled_from(sorted(COMMANDS.keys() - ELSEWHERE))
LINES = st.one_of(st.text(), st.builds("/{} {}".format, NAMES, st.text()))


@given(LINES, st.sampled_from([EMPTY, TALK]))
def test_any_line_is_a_message_or_a_command_or_refused(line: str, session: Session) -> None:
    with suppress(AlpacaError):
        heard = parse(line)
        if isinstance(heard, Command) and heard.name not in ELSEWHERE:
            apply(session, heard)
