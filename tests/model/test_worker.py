"""What a worker knows about itself, and how it keeps in touch with the others."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from alpaca_cli.core.errors import DataError, ResourceError, Terminated, TryAgain, UsageError
from alpaca_cli.model.worker import (
    Worker,
    check_shared_disk,
    leave_error,
    left_error,
    lost_contact,
    this_worker,
    usr1_terminates,
)

ONE = Worker(rank=1, processes=2, node=1, nodes=2, parent=None)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what the code sets goes away again
        monkeypatch.delenv(name)
    return monkeypatch


def test_outside_of_any_launcher_nobody_is_a_worker(environment: pytest.MonkeyPatch) -> None:
    assert this_worker() is None
    environment.setenv("RANK", "0")
    assert this_worker() is None


def test_a_worker_is_told_by_its_environment(environment: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1")):
        environment.setenv(name, value)
    # One process under torchrun is a worker, too: it must not start others.
    assert this_worker() == Worker(rank=0, processes=1, node=0, nodes=1, parent=None)
    assert os.environ["LOCAL_RANK"] == "0"
    environment.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="MASTER_ADDR and MASTER_PORT not"):
        this_worker()
    environment.setenv("RANK", "three")
    with pytest.raises(UsageError, match="RANK=three"):
        this_worker()


@pytest.mark.parametrize(
    "error", [DataError("no rows", hint="add some"), TryAgain("later"), Terminated()]
)
def test_an_error_arrives_as_it_was(tmp_path: Path, error: DataError | Terminated) -> None:
    assert left_error(tmp_path) is None
    leave_error(tmp_path, 0, error)
    leave_error(tmp_path, 1, UsageError("not the first"))
    found = left_error(tmp_path)
    assert type(found) is type(error)
    assert str(found) == str(error)
    assert getattr(found, "hint", "") == getattr(error, "hint", "")


def test_what_is_no_error_of_ours_is_said_to_be_a_bug(tmp_path: Path) -> None:
    leave_error(tmp_path, 3, ValueError("shapes differ\nand much more"))
    found = left_error(tmp_path)
    assert str(found) == "a bug of ours in the process of rank 3: ValueError: shapes differ"
    (tmp_path / "error.json").unlink()
    leave_error(tmp_path, 3, MemoryError())
    assert isinstance(left_error(tmp_path), ResourceError)


def test_lost_contact_is_no_bug() -> None:
    gloo = (
        "[/src/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        "[127.0.0.1]:408. This is typically caused by a remote worker crashing. Check the logs"
    )
    with pytest.raises(TryAgain) as caught, lost_contact(ONE):
        raise RuntimeError(gloo)
    assert str(caught.value) == (
        "rank 1 lost contact with the other processes: Connection closed by peer [127.0.0.1]:408"
    )
    with pytest.raises(RuntimeError, match="shapes"), lost_contact(ONE):
        raise RuntimeError("shapes differ")


def test_usr1_is_a_wish_to_stop() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(Terminated), usr1_terminates():
        os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before


class TestSharedDisk:
    """`check_shared_disk`, with the nonce of this very start in the environment."""

    def test_all_see_what_node_0_wrote(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "first")
        other = threading.Thread(target=check_shared_disk, args=(ONE, tmp_path), daemon=True)
        other.start()  # it looks before there is anything to see
        check_shared_disk(Worker(0, 2, node=0, nodes=2, parent=None), tmp_path)
        other.join(30)
        assert not other.is_alive()
        check_shared_disk(ONE, tmp_path)
        # What an earlier start left says nothing about this one.
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "second")
        with pytest.raises(UsageError, match="not the folder that node 0 writes"):
            check_shared_disk(ONE, tmp_path, patience=0)

    def test_another_folder_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        check_shared_disk(Worker(0, 2, node=0, nodes=2, parent=None), tmp_path)
        with pytest.raises(UsageError, match=r"there on node 1 .*") as caught:
            check_shared_disk(ONE, tmp_path / "there", patience=0)
        assert "--run DIR" in caught.value.hint

    def test_one_machine_needs_no_proof(self, tmp_path: Path) -> None:
        check_shared_disk(Worker(1, 2, node=0, nodes=1, parent=None), tmp_path, patience=0)


def test_a_worker_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import signal, sys, threading\n"
        "from pathlib import Path\n"
        "from alpaca_cli.model.worker import Worker, tied_to_parent\n"
        "stop = threading.Event()\n"
        "signal.signal(signal.SIGTERM, lambda *_: stop.set())\n"
        f"with tied_to_parent(Worker(0, 1, 0, 1, Path({str(tmp_path)!r}))):\n"
        "    print('ready', flush=True)\n"
        "    while not stop.wait(0.05): pass\n"
        "    sys.exit(143)\n"
    )
    worker = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    assert (tmp_path / "0.pid").read_text() == str(worker.pid)
    assert (tmp_path / "main").exists()
    assert worker.poll() is None
    worker.stdin.close()  # as when the parent is killed
    assert worker.wait(30) == 143
    worker.stdout.close()
