"""What the parent of several processes does, mostly with launchers that are small programs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, DataError, ResourceError, Terminated
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.launch import torchrun
from alpaca_cli.model.parent import run_workers

LEAVE = (
    "import os, sys, time\n"
    "from pathlib import Path\n"
    "from alpaca_cli.core.errors import DataError, Terminated, TryAgain\n"
    "from alpaca_cli.model.worker import leave_error\n"
    "folder = Path(os.environ['ALPACA_LAUNCH'])\n"
)


def launch(
    folder: Path, program: str | list[str], *, quiet: bool = False, grace: float = 60
) -> tuple[bool, str]:
    """Whether rank 0 was there, and what a person saw."""
    said = StringIO()
    progress = Progress(Console(file=said, width=200), quiet=quiet)
    command = [sys.executable, "-c", program] if isinstance(program, str) else program
    main = run_workers(command, {"X": "1"}, folder / "launch.log", progress, grace)
    return main, said.getvalue()


def test_what_workers_say_is_heard_and_kept(tmp_path: Path) -> None:
    torch_s = "W1122 20:12:57.364000 10638 torch/utils/x.py:1] deprecated"
    program = (
        f"import sys; print('step 1\\n{torch_s}\\nwarning: slow\\nend', end='', file=sys.stderr)"
    )
    # torch's own log is kept, and not shown.
    assert launch(tmp_path, program) == (False, "step 1\nwarning: slow\nend\n")
    assert (tmp_path / "launch.log").read_text() == f"step 1\n{torch_s}\nwarning: slow\nend\n"
    assert launch(tmp_path, program, quiet=True)[1] == "warning: slow\n"


def test_the_parent_of_rank_0_knows_it(tmp_path: Path) -> None:
    assert launch(tmp_path, LEAVE + "(folder / 'main').touch()") == (True, "")


def test_a_worker_s_error_is_raised_as_it_was(tmp_path: Path) -> None:
    program = LEAVE + (
        "leave_error(folder, 0, DataError('no rows', hint='add some'))\n"
        "print('noise of the launcher', file=sys.stderr)\n"
        "sys.exit(1)"
    )
    with pytest.raises(DataError, match="no rows") as caught:
        launch(tmp_path, program)
    assert caught.value.hint == "add some"
    assert "noise" in (tmp_path / "launch.log").read_text()


def test_a_worker_that_just_ends_is_not_a_success(tmp_path: Path) -> None:
    with pytest.raises(AlpacaError, match=r"ended without a reason.*launch\.log"):
        launch(tmp_path, "raise SystemExit(9)")


def test_workers_that_another_machine_stopped_are_stopped_and_not_wrong(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        launch(tmp_path, LEAVE + "leave_error(folder, 0, Terminated()); sys.exit(1)")


def test_a_launcher_that_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="torchrun was killed"):
        launch(tmp_path, "import os; os.kill(os.getpid(), 9)")


def test_a_launcher_that_does_not_end_is_ended(tmp_path: Path) -> None:
    program = LEAVE + "leave_error(folder, 0, DataError('no rows')); time.sleep(1000)"
    with pytest.raises(DataError, match="no rows"):
        launch(tmp_path, program, grace=0.5)


def test_the_rank_that_was_killed_is_named(tmp_path: Path) -> None:
    """By torchrun's own report; the other rank it ends by SIGTERM."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys, time\n"
        "print('working', file=sys.stderr)\n"
        "if os.environ['RANK'] == '1': os.kill(os.getpid(), 11)\n"
        "time.sleep(1000)\n"
    )
    command = torchrun(2, None, "localhost", [])
    command[command.index("--") - 1 :] = ["--", str(worker)]
    with pytest.raises(AlpacaError, match=r"rank 1 crashed \(SIGSEGV\); see .*launch\.log"):
        launch(tmp_path, command)
    assert "working" in (tmp_path / "launch.log").read_text()


STUBBORN = """
import os, signal, subprocess, sys
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its workers, too
worker = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True
)
(Path(os.environ["ALPACA_LAUNCH"]) / "0.pid").write_text(str(worker.pid))
print(worker.pid, file=sys.stderr, flush=True)
worker.wait()
"""
PARENT = """
import sys
from pathlib import Path
from rich.console import Console
from alpaca_cli.core.errors import Terminated
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.parent import run_workers
log, program = Path(sys.argv[1]), sys.argv[2]
try:
    run_workers([sys.executable, "-c", program], {}, log, Progress(Console(stderr=True)))
except KeyboardInterrupt as error:
    sys.exit(143 if isinstance(error, Terminated) else 130)
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A parent whose launcher and worker do not end when asked to; and the worker's id."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, tmp_path / "launch.log", STUBBORN],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert parent.stderr is not None
    yield parent, int(parent.stderr.readline())
    parent.stderr.close()
    if parent.poll() is None:
        parent.kill()
        parent.wait()


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # Nobody may be there to take note of the end.
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def test_a_second_ctrl_c_ends_everything_at_once(
    stubborn: tuple[subprocess.Popen[str], int],
) -> None:
    parent, worker = stubborn
    assert parent.stderr is not None
    parent.send_signal(signal.SIGINT)
    assert "a checkpoint is saved first" in parent.stderr.readline()
    assert not gone(worker)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) == 130
    assert gone(worker)


def test_being_asked_again_to_stop_changes_nothing(
    stubborn: tuple[subprocess.Popen[str], int],
) -> None:
    """Slurm may tell a process twice, once directly and once through srun."""
    parent, worker = stubborn
    assert parent.stderr is not None
    for number in (signal.SIGUSR1, signal.SIGTERM):
        parent.send_signal(number)
    assert "a checkpoint is saved first" in parent.stderr.readline()
    with pytest.raises(subprocess.TimeoutExpired):
        parent.wait(1)  # several looks at what came
    assert not gone(worker)
    os.killpg(worker, signal.SIGKILL)  # it has saved; its launcher ends with it
    assert parent.wait(30) == 143
