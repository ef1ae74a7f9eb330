"""Several processes started by `alpaca train`: how they train, stop, die and go on.

Real processes under a real torchrun, on the CPU: one machine with two of them, and two "machines"
that meet on loopback.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from alpaca_cli.core.files import write_jsonl
from tests.processes import environment, free_port, lines, run, start, wait_until
from tests.training import ROWS, SMALL, like_trajectory, sets

# One worker: what the tests share takes long to make.
pytestmark = pytest.mark.xdist_group("launch")

# So few steps, at such a rate, that one process and two still agree in all of them.
LONGER = [*SMALL, *sets("train.epochs=12", "train.learning_rate=0.003")]
STEPS = 84
ENDLESS = [*SMALL, *sets("train.epochs=5000", "train.save_every=100000")]
LIMIT = 240  # seconds in which whatever was asked to end has ended, on a busy machine, too


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the data, and a training by one process in `straight`."""
    here = tmp_path_factory.mktemp("launch")
    write_jsonl(here / "rows.jsonl", ROWS)
    run("train", "rows.jsonl", *LONGER, "--run", "straight", cwd=here)
    return here


def begin(folder: Path, name: str, *arguments: str, steps: int = 4) -> subprocess.Popen[str]:
    """A training by two processes, that many steps far."""
    started = start("train", "rows.jsonl", *arguments, "--run", name, cwd=folder)
    wait_until(started, lambda: lines(folder / name / "train" / "log.jsonl") >= steps)
    return started


def children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in path.read_text().split()]


def family(parent: int) -> list[int]:
    """torchrun and its workers, the workers in the order of their ranks."""
    [agent] = children(parent)
    return [agent, *sorted(children(agent))]


def running(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return False
    # In a container nobody may take note of an orphan's end.
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def newest(folder: Path, name: str) -> int:
    saved = sorted((folder / name / "train" / "checkpoints").iterdir())[-1]
    return int(saved.name.removeprefix("step-"))


def test_two_processes_on_the_cpu_train_like_one(folder: Path) -> None:
    done = run(
        "train", "rows.jsonl", *LONGER, "--gpus", "cpu:2", "--run", "two", "--json", cwd=folder
    )  # fmt: skip
    like_trajectory(folder / "two", folder / "straight")
    report = json.loads(done.stdout)
    assert (report["processes"], report["steps"]) == (2, STEPS)
    # What the workers say is heard, and kept.
    assert f"{STEPS} steps, 2 processes" in (folder / "two/train/launch.log").read_text()
    assert "Traceback" not in (folder / "two/train/launch.log").read_text()
    again = run("train", "rows.jsonl", *LONGER, "--run", "two", cwd=folder)
    assert "up to date" in again.stderr


def test_a_batch_that_does_not_split_is_told_at_once(folder: Path) -> None:
    done = run("train", "rows.jsonl", *SMALL, "--gpus", "cpu:3", "--run", "three", cwd=folder,
               code=2)  # fmt: skip
    assert "train.global_batch: 8 does not split over 3 processes" in done.stderr
    assert "use 6 or 9" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="term"),
        # To torchrun and its workers they are the same.
        pytest.param(signal.SIGUSR1, 143, id="usr1", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 130, id="ctrl-c", marks=pytest.mark.slow),
    ],
)
def test_asked_to_stop_all_save_first(folder: Path, number: signal.Signals, code: int) -> None:
    name = f"stopped-{number}"
    # Behind the fifth step, whose checkpoint is saved in any case.
    parent = begin(folder, name, *ENDLESS, "--gpus", "cpu:2", steps=6)
    others = family(parent.pid)
    assert len(others) == 3
    parent.send_signal(number)
    said = parent.communicate(timeout=LIMIT)[1]
    assert parent.returncode == code, said
    assert "a checkpoint is saved first" in said
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in said
    assert newest(folder, name) == lines(folder / name / "train" / "log.jsonl") > 5
    assert not any(map(running, others))


def test_a_killed_worker_is_named_and_the_same_command_goes_on(folder: Path) -> None:
    arguments = [*LONGER, "--gpus", "cpu:2"]
    parent = begin(folder, "killed", *arguments, steps=12)
    others = family(parent.pid)
    os.kill(others[2], signal.SIGKILL)
    said = parent.communicate(timeout=LIMIT)[1]
    assert parent.returncode == 7, said
    assert "error: the process of rank 1 was killed (SIGKILL)" in said
    assert "goes on from the newest checkpoint" in said
    assert "Traceback" not in said
    assert not any(map(running, others))
    saved = newest(folder, "killed")
    assert saved < STEPS
    done = run("train", "rows.jsonl", *arguments, "--run", "killed", cwd=folder)
    assert f"resuming at step {saved} of {STEPS}" in done.stderr
    like_trajectory(folder / "killed", folder / "straight")


@pytest.mark.parametrize("victim", ["parent", "torchrun"])
def test_nobody_outlives_its_parent(folder: Path, victim: str) -> None:
    parent = begin(folder, f"orphans-{victim}", *ENDLESS, "--gpus", "cpu:2")
    others = family(parent.pid)
    os.kill(parent.pid if victim == "parent" else others[0], signal.SIGKILL)
    said = parent.communicate(timeout=LIMIT)[1]  # until all have closed it
    if victim == "torchrun":
        assert parent.returncode == 7
        assert "torchrun was killed (SIGKILL)" in said
    wait_for(lambda: not any(map(running, others)))
    # They had time to save.
    last = lines(folder / f"orphans-{victim}" / "train" / "log.jsonl")
    assert newest(folder, f"orphans-{victim}") == last


def wait_for(condition: Callable[[], bool]) -> None:
    """Without a process of ours to watch."""
    watch = subprocess.Popen(["sleep", str(LIMIT)], text=True)
    try:
        wait_until(watch, condition)
    finally:
        watch.kill()
        watch.wait()


@pytest.mark.slow
def test_a_hand_started_torchrun_saves_ends_and_goes_on(folder: Path) -> None:
    """The very line that --print-launch writes."""
    asked = ["train", "rows.jsonl", *LONGER, "--gpus", "cpu:2", "--run", "hand"]
    printed = run(*asked, "--print-launch", "torchrun", cwd=folder).stdout
    [line] = [line for line in printed.splitlines() if not line.startswith("#")]
    command = shlex.split(line)

    def torchrun() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=folder,
            env=environment(PYTHONPATH=os.getcwd()),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    agent = torchrun()
    wait_until(agent, lambda: lines(folder / "hand/train/log.jsonl") >= 8)
    workers = children(agent.pid)
    agent.send_signal(signal.SIGTERM)
    said = agent.communicate(timeout=LIMIT)[1]
    assert agent.returncode == 1, said  # whatever its workers end with
    assert not any(map(running, workers))
    saved = newest(folder, "hand")
    assert saved == lines(folder / "hand/train/log.jsonl") < STEPS
    agent = torchrun()
    out, said = agent.communicate(timeout=LIMIT)
    assert agent.returncode == 0, said
    assert f"resuming at step {saved} of {STEPS}" in said
    assert out.count("tokens/s") == 1  # of two processes, one shows the result
    like_trajectory(folder / "hand", folder / "straight")


class TestTwoMachines:
    """Two commands, each with a torchrun and a worker of its own."""

    def both(
        self, folder: Path, name: str, port: int, *arguments: str
    ) -> list[subprocess.Popen[str]]:
        meeting = ["--nodes", "2", "--rendezvous", f"127.0.0.1:{port}", "--gpus", "cpu:1"]
        command = ["train", "rows.jsonl", *arguments, *meeting, "--run", name]
        return [start(*command, cwd=folder) for _ in range(2)]

    def test_one_is_killed_and_both_go_on(self, folder: Path) -> None:
        port = free_port()
        victim, other = self.both(folder, "machines", port, *LONGER)
        wait_until(victim, lambda: lines(folder / "machines/train/log.jsonl") >= 12)
        for process in (*family(victim.pid), victim.pid):
            os.kill(process, signal.SIGKILL)
        said = other.communicate(timeout=LIMIT)[1]
        assert other.returncode == 75, said
        assert "lost contact with the other processes" in said
        assert "goes on from the newest checkpoint" in said
        assert "Traceback" not in said
        victim.communicate(timeout=LIMIT)
        saved = newest(folder, "machines")
        assert saved < STEPS

        processes = self.both(folder, "machines", port, *LONGER)
        ends = [each.communicate(timeout=LIMIT) for each in processes]
        assert [each.returncode for each in processes] == [0, 0], ends
        assert sum(f"resuming at step {saved} of {STEPS}" in said for _, said in ends) == 1
        # One machine shows the result; the other says who does.
        assert sorted(out.count("tokens/s") for out, _ in ends) == [0, 1]
        assert sum("the machine of rank 0 shows the result" in said for _, said in ends) == 1
        like_trajectory(folder / "machines", folder / "straight")

    @pytest.mark.slow
    def test_one_is_asked_to_stop_and_both_do(self, folder: Path) -> None:
        asked, other = self.both(folder, "stopping", free_port(), *ENDLESS)
        wait_until(asked, lambda: lines(folder / "stopping/train/log.jsonl") >= 8)
        others = [*family(asked.pid), *family(other.pid)]
        asked.send_signal(signal.SIGTERM)
        ends = [each.communicate(timeout=LIMIT)[1] for each in (asked, other)]
        assert [asked.returncode, other.returncode] == [143, 143], ends
        assert newest(folder, "stopping") == lines(folder / "stopping/train/log.jsonl")
        assert not any(map(running, others))

    def test_they_need_a_place_to_meet(self, folder: Path) -> None:
        done = run("train", "rows.jsonl", *SMALL, "--nodes", "2", cwd=folder, code=2)
        assert "--rendezvous HOST:PORT" in done.stderr
