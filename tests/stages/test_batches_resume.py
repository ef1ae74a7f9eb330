"""Batches cut off at every step: what was submitted is found again, never submitted twice."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path

import pytest

from alpaca_cli.core.errors import DataError, TeacherError, TryAgain, UsageError
from tests import processes
from tests.servers import Asked, Fault, TeacherServer, error
from tests.stages.test_batches import (
    arguments,
    check_each_once,
    html_once,
    online_bytes,
    outputs,
    recipe,
    rows,
    run,
    states,
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return online_bytes(tmp_path_factory.mktemp("straight"))


# --- calls that fail ------------------------------------------------------------------------------


def test_every_first_call_fails(tmp_path: Path, straight: list[bytes]) -> None:
    faults = [
        Fault(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "5"}),
        Fault(503, b"<html>", {"retry-after": "0"}),
        Fault(200, b"<html>busy</html>"),
    ]

    def fault(asked: Asked) -> Fault | None:
        return faults[asked.number % 3] if asked.attempt == 1 else None

    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
@pytest.mark.parametrize("answer", [Fault(500, after=True), Fault(200, b"<html>", after=True)])
def test_an_answer_that_leaves_open_what_was_done(
    path: str, answer: Fault, tmp_path: Path, straight: list[bytes]
) -> None:
    unclear = [answer]

    def fault(asked: Asked) -> Fault | None:
        return unclear.pop() if unclear and (asked.method, asked.path) == ("POST", path) else None

    said = StringIO()
    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server), said)
        check_each_once(server)
        uploads = [
            call for call in server.calls if (call.method, call.path) == ("POST", "/v1/files")
        ]
        assert len(uploads) == len(server.batches)
    assert ("is not submitted again" in said.getvalue()) == (path == "/v1/batches")
    assert outputs(tmp_path) == straight


def test_a_torn_download_is_repeated(tmp_path: Path, straight: list[bytes]) -> None:
    broken = [
        Fault(cut=300),
        Fault(200, b'{"custom_id": "some'),
        Fault(200, b'{"custom_id": "other-1", "response": null}\n'),
    ]

    def fault(asked: Asked) -> Fault | None:
        content = asked.path.endswith("/content")
        return broken[asked.attempt - 1] if content and asked.attempt <= len(broken) else None

    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight
    assert [path.suffix for path in (tmp_path / "generate" / "batches").iterdir()] == [".jsonl"] * (
        len(server.batches)
    )


def test_a_provider_that_stays_away_ends_in_try_again(
    tmp_path: Path, straight: list[bytes]
) -> None:
    def fault(asked: Asked) -> Fault | None:
        return Fault(503) if asked.method == "GET" and not server.release.is_set() else None

    with TeacherServer(batch_fault=fault) as server:
        with pytest.raises(TryAgain, match="the Batch API does not work: 503"):
            run(tmp_path, recipe(server, teacher={"patience": 0.3}))
        assert states(tmp_path)[-1] == "submitted"
        server.release.set()
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight


def test_an_endpoint_that_does_not_list_files(tmp_path: Path, straight: list[bytes]) -> None:
    """The upload is repeated, which costs nothing; the batch is found by its name."""
    unclear = {"/v1/files", "/v1/batches"}

    def fault(asked: Asked) -> Fault | None:
        if (asked.method, asked.path) == ("GET", "/v1/files"):
            return error(405, "Method Not Allowed")
        if asked.method == "POST" and asked.path in unclear:
            unclear.remove(asked.path)
            return Fault(500, after=True)
        return None

    with TeacherServer(batch_fault=fault) as server:
        run(tmp_path, recipe(server))
        check_each_once(server)
    assert outputs(tmp_path) == straight


def test_an_endpoint_without_batches(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer(batch_fault=lambda asked: error(404, "Not Found")) as server:
        with pytest.raises(TeacherError, match="404: Not Found"):
            run(tmp_path, recipe(server))
        assert states(tmp_path) == ["intent", "done"], "nothing is open: it was refused"
        run(tmp_path, recipe(server, "online"))
    assert outputs(tmp_path) == straight


# --- open batches ---------------------------------------------------------------------------------


def holding(method: str, path: str, fault: Fault) -> Callable[[Asked], Fault | None]:
    """Hold the first such call: until it is let go, its client waits."""
    held: list[int] = []

    def hold(asked: Asked) -> Fault | None:
        if (
            asked.method == method
            and asked.path.startswith(path)
            and asked.path.endswith("/content" if "files/" in path else "")
        ):
            held.append(asked.number)
            return fault if len(held) == 1 else None
        return None

    return hold


HOLD = Fault(hold=True)
NEVER = Fault(500, hold=True)
INSTANTS = {
    "before the upload arrives": ("POST", "/v1/files", NEVER, "intent"),
    "before the upload is answered": ("POST", "/v1/files", HOLD, "intent"),
    "before the batch is made": ("POST", "/v1/batches", NEVER, "uploaded"),
    "before the batch is answered": ("POST", "/v1/batches", HOLD, "uploaded"),
    "while it waits": ("GET", "/v1/batches/", HOLD, "submitted"),
    "while it downloads": ("GET", "/v1/files/", HOLD, "submitted"),
}


CASES = [(instant, "batch") for instant in INSTANTS]
CASES += [(instant, "online") for instant, (_, _, fault, _) in INSTANTS.items() if fault is HOLD]


@pytest.mark.parametrize(("instant", "mode"), CASES)
def test_kill(instant: str, mode: str, tmp_path: Path, straight: list[bytes]) -> None:
    method, path, fault, state = INSTANTS[instant]
    folder = tmp_path / "run"
    with TeacherServer(batch_fault=holding(method, path, fault)) as server:
        process = processes.start(*arguments(server, folder), cwd=tmp_path)
        processes.kill_when(process, partial(arrived, server, method, path))
        assert states(folder)[-1] == state
        assert outcomes(folder) == 1, "no reply of the batch yet"
        server.release.set()
        run(folder, recipe(server, mode))
        check_each_once(server)
        assert len(server.batches) >= 1
    assert outputs(folder) == straight


def arrived(server: TeacherServer, method: str, path: str) -> bool:
    return any(
        call.method == method
        and call.path.startswith(path)
        and ("files/" not in path or call.path.endswith("/content"))
        for call in server.calls
    )


def outcomes(folder: Path) -> int:
    return len(rows(folder, "reply"))


def test_any_cut_of_the_journal_after_the_intent(tmp_path: Path, straight: list[bytes]) -> None:
    """What a kill in the middle of a group, or between two rows, leaves."""
    path = tmp_path / "generate" / "journal.jsonl"
    with TeacherServer(batch_line=html_once) as server:
        run(tmp_path, recipe(server))
        asked, whole = server.submitted.copy(), path.read_bytes()
        lines = whole.splitlines(keepends=True)
        first = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "batch") + 1
        for count in range(first, len(lines), 3):
            path.write_bytes(b"".join(lines[:count]) + lines[count][:40])
            (path.parent / "done.json").unlink()
            report = run(tmp_path, recipe(server))
            assert outputs(tmp_path) == straight
            counts = [row["n"] for row in rows(tmp_path, "reply")]
            assert len(counts) == len(set(counts)), "journalled twice"
            assert report.guessed == 1
            lost = set(server.submitted) - set(asked)
            assert not lost
            inside = server.batches[0].lines
            assert max(server.submitted[line.asked.sha] for line in inside if line.number != 3) == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_the_batch_to_the_provider(
    number: signal.Signals, code: int, tmp_path: Path, straight: list[bytes]
) -> None:
    folder = tmp_path / "run"
    with TeacherServer(batch_polls=None) as server:
        process = processes.start(*arguments(server, folder, **{"batch.poll": 600}), cwd=tmp_path)
        processes.wait_until(process, partial(arrived, server, "GET", "/v1/batches/"))
        process.send_signal(number)
        _, said = process.communicate(timeout=15)
        assert process.returncode == code, said
        assert "batch batch_0 goes on at the provider; the same command collects it" in said
        assert outcomes(folder) == 1
        server.finish_batches()
        server.rules.__dict__["batch_polls"] = 2
        run(folder, recipe(server))
        check_each_once(server)
    assert outputs(folder) == straight


def left_open(folder: Path, server: TeacherServer) -> None:
    """A run whose batch goes on without it."""
    with pytest.raises(TryAgain, match="does not work"):
        run(folder, recipe(server, teacher={"patience": 0.05}))
    assert states(folder)[-1] == "submitted"


def away(asked: Asked) -> Fault | None:
    return Fault(503) if asked.method == "GET" else None


def test_an_open_batch_is_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
    with TeacherServer() as other, pytest.raises(UsageError, match="this batch is open at http"):
        run(tmp_path, recipe(other, "online"))


def test_an_open_batch_can_be_given_up(tmp_path: Path, straight: list[bytes]) -> None:
    gone = [error(404, "No batch found")]

    def fault(asked: Asked) -> Fault | None:
        looks = asked.path.startswith("/v1/batches/")
        return gone[0] if looks and asked.path.endswith("/batch_0") else None

    with TeacherServer(batch_fault=fault) as server:
        with pytest.raises(TeacherError, match="404: No batch found"):
            run(tmp_path, recipe(server))
        with pytest.raises(TeacherError, match="404: No batch found") as caught:
            run(tmp_path, recipe(server))
        _, _, path = caught.value.hint.rpartition("touch ")
        Path(path).touch()
        lines = len(server.batches[0].lines)
        report = run(tmp_path, recipe(server, "online"))
        assert report.guessed == lines, "all of it may have been billed"
    assert outputs(tmp_path) == straight


def test_a_damaged_file_of_requests_is_refused(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
        (path,) = (tmp_path / "generate" / "batches").iterdir()
        path.write_bytes(path.read_bytes().replace(b"Write 5", b"Write 6", 1))
        with pytest.raises(DataError, match="not the file that this run has written"):
            run(tmp_path, recipe(server))


def test_replay_does_not_touch_an_open_batch(tmp_path: Path) -> None:
    with TeacherServer(batch_fault=away) as server:
        left_open(tmp_path, server)
        before = len(server.calls)
        run(tmp_path, recipe(server), replay=True)
        assert len(server.calls) == before
