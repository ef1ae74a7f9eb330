"""`alpaca train` as one or several real processes, without the seconds that their imports take.

A helper imports what training needs, once, and forks a process per rank, each told by torchrun's
environment variables which one it is. They are real processes that talk over loopback and can be
killed. The helper has one thread and computes nothing, so a fork inherits modules only:

    with Ranks(folder) as ranks:
        ranks.start(2, "train", "rows.jsonl", "--run", "x")
        ranks.kill()          # or os.kill(ranks.pids[1], signal.SIGTERM)
        codes = ranks.wait()
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from tests import processes

TICK = 0.001
LIMIT = 120.0  # seconds that anything here may take


class Ranks:
    """The helper; one training at a time.

    Args:
        folder: where commands run, and where `out.txt` gets what they say.
    """

    def __init__(self, folder: Path) -> None:
        self.pids: list[int] = []
        self._out = folder / "out.txt"
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.ranks", self._out],
            cwd=folder,
            env=processes.environment(PYTHONPATH=str(Path(__file__).parents[1])),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        self._helper.communicate(timeout=LIMIT)

    def start(self, ranks: int, *arguments: object) -> None:
        """Begin `alpaca …` in so many processes."""
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._out.write_text("")
        order = {
            "ranks": ranks,
            "port": processes.free_port(),
            "arguments": [str(each) for each in arguments],
        }
        self._helper.stdin.write(json.dumps(order) + "\n")
        self._helper.stdin.flush()
        self.pids = json.loads(self._helper.stdout.readline())

    def run(self, ranks: int, *arguments: object, code: int = 0) -> str:
        """`alpaca …` to its end; AssertionError when a process ends with another code."""
        self.start(ranks, *arguments)
        codes = self.wait()
        assert codes == [code] * ranks, f"exit {codes}\n{self.said()}"
        return self.said()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Until the condition holds; AssertionError when the first process ends before it does."""
        deadline = time.monotonic() + LIMIT
        while not condition():
            ended = Path(f"/proc/{self.pids[0]}/stat").read_text().rpartition(")")[2].split()[0]
            assert ended != "Z" or condition(), f"ended early:\n{self.said()}"
            assert time.monotonic() < deadline, f"not within {LIMIT:.0f} s:\n{self.said()}"
            time.sleep(TICK)

    def kill(self) -> None:
        """`kill -9` to all of them, and wait until they are gone."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.pids:
            self.wait()

    def wait(self) -> list[int]:
        """The exit code of every rank: negative after a signal."""
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        # They stay zombies until now, so that nobody kills another process of the same number.
        self._helper.stdin.write("wait\n")
        self._helper.stdin.flush()
        codes: list[int] = json.loads(self._helper.stdout.readline())
        self.pids = []
        return codes

    def said(self) -> str:
        """What the processes have said."""
        return self._out.read_text()


def helper(out: Path) -> None:
    """Fork for each order; tell the processes, and on the next line how they ended."""
    import accelerate.utils.fsdp_utils  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import peft  # noqa: F401
    import torch.distributed.checkpoint  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    import alpaca_cli.core.recipe
    import alpaca_cli.model.trainer
    import alpaca_cli.stages.train  # noqa: F401
    from alpaca_cli.cli import main

    assert all((AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM))  # lazy until used
    for line in sys.stdin:
        order = json.loads(line)
        pids = []
        for rank in range(order["ranks"]):
            pid = os.fork()
            if pid == 0:
                if order["ranks"] > 1:
                    os.environ |= {
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "WORLD_SIZE": str(order["ranks"]),
                        "LOCAL_WORLD_SIZE": str(order["ranks"]),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(order["port"]),
                    }
                descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                sys.argv = ["alpaca", *order["arguments"]]
                main()
                raise AssertionError("main ends in SystemExit")
            pids.append(pid)
        print(json.dumps(pids), flush=True)  # noqa: T201
        sys.stdin.readline()
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)  # noqa: T201


if __name__ == "__main__":
    helper(Path(sys.argv[1]))
