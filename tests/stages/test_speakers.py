"""Speakers: a real tiny model that remembers what it has read, and a real endpoint over HTTP."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, DataError, TeacherError, TryAgain, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.sampling import prompt_ids
from alpaca_cli.stages.chat_session import NO_LIMIT, Session
from alpaca_cli.stages.endpoint_speaker import EndpointSpeaker, open_endpoint
from alpaca_cli.stages.interrupts import ctrl_c_stops
from alpaca_cli.stages.local_speaker import LocalSpeaker, open_local, starts
from alpaca_cli.stages.speakers import begin, open_speaker, passed_on
from alpaca_cli.stages.speaking import after_reply
from tests.serving.chat_server import Body, ChatServer, Manner, failing
from tests.tiny import save_tiny_model

QUIET = Progress(Console(stderr=True), quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=2048)


@pytest.fixture
def speaker(folder: Path) -> LocalSpeaker:
    return open_local(str(folder), QUIET)


def forgetful(speaker: LocalSpeaker) -> Callable[..., Any]:
    """`ask` of the same model without anything remembered."""
    from alpaca_cli.model.reading import Memory

    def ask(*arguments: Any, **more: Any) -> Any:
        return LocalSpeaker(speaker.student, Memory(), speaker.sampling).ask(*arguments, **more)

    return ask


@contextmanager
def positions(speaker: LocalSpeaker) -> Iterator[list[int]]:
    """How many tokens each forward pass of the model gets."""
    seen: list[int] = []

    def look(module: Any, arguments: Any, named: Any) -> None:
        seen.append(named["input_ids"].shape[1])

    hook = speaker.student.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def test_what_is_remembered_changes_no_answer(speaker: LocalSpeaker) -> None:
    # Small enough for old turns to be left out on the way.
    speaker.student = replace(speaker.student, context=700)
    anew = forgetful(speaker)
    session = Session(Sampling(max_new_tokens=24), system="Be kind.")
    trimmed = stopped = 0
    for turn in range(20):
        message = f"Tell me about animal number {turn}, and what it eats there."
        after = 4 if turn % 4 == 1 else 999
        reply, seen = speaker.ask(session, message, stop=stopping(after))
        assert (reply, seen) == anew(session, message, stop=stopping(after))
        trimmed += seen < len(session.turns)
        stopped += reply.finish_reason == "interrupted"
        before, session = session, after_reply(session, "", reply, seen)
        if turn % 5 == 2:  # /retry
            reply, seen = speaker.ask(before, message)
            assert (reply, seen) == anew(before, message)
            session = after_reply(before, "", reply, seen)
        if turn % 5 == 4:  # /undo
            session = before
        if turn == 10:
            session = replace(session, system="Be brief.")
        if turn == 15:
            with interrupted_in_the_middle(speaker), pytest.raises(KeyboardInterrupt):
                speaker.ask(session, "This is never answered.")
    assert trimmed > 5
    assert stopped > 2


def stopping(after: int) -> Callable[[], bool]:
    """True from the so many-th look on."""
    looks = itertools.count()
    return lambda: next(looks) >= after


@contextmanager
def interrupted_in_the_middle(speaker: LocalSpeaker) -> Iterator[None]:
    """A second Ctrl-C when the first layer has read the tokens, and the second has not."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    hook = speaker.student.model.model.layers[1].register_forward_pre_hook(interrupt)
    try:
        yield
    finally:
        hook.remove()


def test_only_what_is_new_is_computed(speaker: LocalSpeaker) -> None:
    from alpaca_cli.model.reading import common_prefix

    session = Session(Sampling(max_new_tokens=12))
    read: list[int] = []  # what the model holds
    new = []
    with positions(speaker) as passes:
        for turn in range(12):
            message = f"And what about number {turn}?"
            ids = prompt_ids(speaker.student, message, history=session.exchanges())
            passes.clear()
            reply, seen = speaker.ask(session, message)
            new.append(len(ids) - common_prefix(read, ids))
            assert passes == [new[-1]] + [1] * (len(passes) - 1)
            held, _ = speaker.memory._held or ([], None)
            assert held[: len(ids)] == ids
            assert len(held) == len(ids) + len(passes) - 1
            read = list(held)
            session = after_reply(session, "", reply, seen)
        # The last message again: nothing is new, and its last token is read for the answer.
        passes.clear()
        speaker.ask(replace(session, turns=session.turns[:-1]), message)
        assert passes[0] == 1
    # An answer that is read again may be other tokens; a conversation of such is still read once.
    longest = max(len(prompt_ids(speaker.student, "", history=session.exchanges()[-1:])) + 20, 60)
    assert max(new[1:]) <= longest
    assert len(ids) > 4 * longest


def test_turns_are_left_out_in_blocks(speaker: LocalSpeaker) -> None:
    student = speaker.student = replace(speaker.student, context=400)
    session = Session(Sampling(max_new_tokens=30), system="Be kind.")
    shown = []
    for turn in range(40):
        message = f"Message number {turn}?"
        room = speaker.room(session, message)
        ids = prompt_ids(
            student, message, history=session.exchanges()[room.left_out :], system="Be kind."
        )
        assert room.tokens == len(ids) <= student.context - 30
        assert "Be kind." in student.tokenizer.decode(ids)
        shown.append(room.left_out)
        session = session.answered(message, "", "So it is, more or less.", follows=True, whole=True)
    jumps = [after - before for before, after in itertools.pairwise(shown)]
    assert set(jumps) > {0}
    assert min(jumps) == 0
    # After each cut several turns begin alike, and about half of the context is used.
    assert jumps.count(0) > 3 * (len(jumps) - jumps.count(0))
    long = "word " * 300
    assert speaker.room(session, "Now?").left_out < 40
    with pytest.raises(DataError, match="context is 400"):
        speaker.ask(session, long * 5)


def test_a_second_ctrl_c_interrupts() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ctrl_c_stops() as pressed:
        looks = [pressed()]
        os.kill(os.getpid(), signal.SIGINT)
        looks.append(pressed())
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert looks == [False, True]
    assert signal.getsignal(signal.SIGINT) is before


def test_where_a_conversation_may_begin() -> None:
    assert starts([], 10) == [0]
    assert starts([4] * 6, 10) == [3, 5, 6]
    assert starts([25, 4, 4, 4], 10) == [1, 3, 4]
    assert starts([1, 1], 10) == [2]
    for end in range(1, 7):  # what comes later moves no beginning
        assert starts([4] * end, 10)[:-1] == [at for at in (3, 5) if at < end]


def test_a_speaker_refuses_what_is_no_text(speaker: LocalSpeaker) -> None:
    session = begin(speaker)
    for message in ("", " \n", "half \ud800"):
        with pytest.raises(UsageError):
            speaker.ask(session, message)
    assert speaker.history is False
    assert "alone" in speaker.notes[0]
    assert speaker.about.endswith("M parameters on cpu, alpaca template")


def test_flags_and_settings_go_from_model_to_model(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="temperature"):
        open_speaker("nothing", tmp_path, QUIET, flags={"temperature": 9})
    one = open_speaker(str(folder), tmp_path, QUIET, flags={"top_k": 5, "seed": None})
    assert one.sampling == Sampling(top_k=5)
    url = "http://127.0.0.1:9/v1"
    two = open_speaker("m", tmp_path, QUIET, base_url=url, flags={"top_k": 5})
    assert two.sampling == Sampling(temperature=1.0, top_k=5, max_new_tokens=NO_LIMIT)
    session = begin(one, system="Be kind.")
    moved = passed_on(session, one, two)
    assert (moved.sampling, moved.history, moved.system) == (two.sampling, True, "Be kind.")
    hot = replace(session, sampling=replace(session.sampling, temperature=0.5), history=True)
    assert passed_on(hot, one, two).sampling == replace(two.sampling, temperature=0.5)
    assert passed_on(hot, one, two).history is True


# --- endpoints ------------------------------------------------------------------------------------


def endpoint(server: ChatServer) -> EndpointSpeaker:
    return open_endpoint("m", server.url, "OPENAI_API_KEY")


def echo(body: Body) -> str:
    return " ".join(message["content"] for message in body["messages"])


def test_a_conversation_with_an_endpoint() -> None:
    manner = Manner(reasoning="Let me think. ")
    with ChatServer(lambda body: "\n Hello é🦙\x1b[0m. ", manner) as server:
        speaker = endpoint(server)
        session = begin(speaker, system="Be kind.")
        session = session.answered("Hi", "there", "Hello.", follows=False, whole=True)
        pieces: list[str] = []
        reply, seen = speaker.ask(session, "Sort.", "2 1", write=pieces.append)
        assert reply.response == "Hello é🦙\x1b[0m."
        assert "".join(pieces) == "Hello é🦙[0m."
        assert len(pieces) > 3
        assert (reply.model, reply.prompt, reply.finish_reason) == ("m", "Sort.", "stop")
        assert reply.usage == {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}
        assert seen == 1
        assert speaker.room(session) is None
        hot = Sampling(temperature=0.0, top_p=0.9, top_k=7, max_new_tokens=5, seed=3)
        speaker.ask(replace(session, sampling=hot, history=False, system=""), "Hi")
    plain, with_all = server.asked
    assert plain == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Hi\n\nthere"},
            {"role": "assistant", "content": "Hello."},
            {"role": "user", "content": "Sort.\n\n2 1"},
        ],
    }
    assert with_all["messages"] == [{"role": "user", "content": "Hi"}]
    sent = {
        name: with_all[name] for name in ("temperature", "top_p", "top_k", "max_tokens", "seed")
    }
    assert sent == {"temperature": 0.0, "top_p": 0.9, "top_k": 7, "max_tokens": 5, "seed": 3}


def test_an_endpoint_that_tells_no_usage_or_another_reason() -> None:
    with ChatServer(echo, Manner(usage=False)) as server:
        reply, _ = endpoint(server).ask(begin(endpoint(server)), "Hi")
        assert (reply.response, reply.usage, reply.finish_reason) == ("Hi", {}, "stop")
    with ChatServer(echo, Manner(finish_reason="content_filter")) as server:
        reply, _ = endpoint(server).ask(begin(endpoint(server)), "Hi")
        assert reply.finish_reason == "content_filter"


def test_stopping_hangs_up() -> None:
    with ChatServer(lambda body: "word " * 50, Manner(pace=5, size=5)) as server:
        speaker, pieces = endpoint(server), list[str]()
        reply, _ = speaker.ask(
            begin(speaker),
            "Go",
            write=pieces.append,
            stop=lambda: "word word word" in "".join(pieces),
        )
        assert (reply.finish_reason, reply.response) == ("interrupted", "".join(pieces))
        assert reply.response.startswith("word word word")
        assert server.hung_up.wait(30)
    # Also before the first token, when the endpoint is silent.
    with ChatServer(lambda body: "word", Manner(pace=0)) as server:
        looks = iter([False] * 3 + [True] * 9)
        reply, _ = endpoint(server).ask(begin(speaker), "Go", stop=lambda: next(looks))
        assert (reply.finish_reason, reply.response) == ("interrupted", "")
        assert server.hung_up.wait(30)


@pytest.mark.parametrize(
    ("manner", "kind", "said"),
    [
        (Manner(drop=4), TryAgain, "broke off in the middle"),
        (Manner(fails=4, error={"message": "out of memory"}), TryAgain, "broke off.*out of memory"),
        (Manner(finish_reason=None), TryAgain, "broke off"),
        (Manner(page="<html>Welcome</html>"), TeacherError, "no streamed completion"),
        (failing(401, "Incorrect API key \x1b[31m"), TeacherError, r"refused: 401.*key \[31m"),
        (failing(404, "no such model"), TeacherError, "404: no such model"),
        (failing(429, "slow down", headers={"retry-after": "7"}), TryAgain, "busy: 429: slow down"),
        (failing(429, "pay", code="insufficient_quota"), TeacherError, "429: pay"),
        (failing(503, "overloaded"), TryAgain, "busy: 503"),
        (failing(400, "nonsense"), TeacherError, "refused: 400: nonsense"),
        (failing(400, "maximum context length is 5 tokens"), DataError, "maximum context"),
    ],
)  # fmt: skip
def test_what_goes_wrong_names_the_place(
    manner: Manner, kind: type[AlpacaError], said: str
) -> None:
    with ChatServer(lambda body: "some words to be cut", manner) as server:
        speaker = endpoint(server)
        with pytest.raises(kind, match=f"{speaker.place}.*{said}"):
            speaker.ask(begin(speaker), "Hi")


def test_nobody_there() -> None:
    with ChatServer(echo) as server:
        speaker = endpoint(server)
    with pytest.raises(TryAgain, match=f"cannot reach {speaker.place}"):
        speaker.ask(begin(speaker), "Hi")


def test_a_conversation_too_long_for_an_endpoint_loses_its_older_half() -> None:
    def manner(body: Body) -> Manner:
        words = len(echo(body).split())
        return failing(400, "maximum context length") if words > 12 else Manner()

    with ChatServer(echo, manner) as server:
        speaker = endpoint(server)
        session = begin(speaker, system="S")
        for turn in range(7):
            session = session.answered(f"m{turn}", "", "a b", follows=True, whole=True)
        reply, seen = speaker.ask(session, "Now?")
        assert (reply.response, seen) == ("S m4 a b m5 a b m6 a b Now?", 3)
    assert len(server.asked) == 2


def test_an_endpoint_that_knows_other_fields() -> None:
    def manner(body: Body) -> Manner:
        if "stream_options" in body:
            return failing(400, "Unknown parameter: 'stream_options'.")
        if "max_tokens" in body:
            return failing(400, "'max_tokens' is not supported; use 'max_completion_tokens'.")
        return Manner()

    with ChatServer(echo, manner) as server:
        speaker = endpoint(server)
        session = replace(begin(speaker), sampling=Sampling(1.0, max_new_tokens=5))
        assert speaker.ask(session, "Hi")[0].response == "Hi"
    assert server.asked[-1]["max_completion_tokens"] == 5


def test_an_address_and_a_key() -> None:
    for url in ("localhost:8000", "ftp://x/v1", "http://", "models"):
        with pytest.raises(UsageError, match="not the address"):
            open_endpoint("m", url, "OPENAI_API_KEY")
    with pytest.raises(UsageError, match="which model"):
        open_endpoint(None, "http://127.0.0.1:1/v1", "OPENAI_API_KEY")
    assert "SOME_KEY" not in os.environ
    with pytest.raises(TeacherError, match="SOME_KEY is not set"):
        open_endpoint("m", "https://example.com/v1", "SOME_KEY")
