"""`alpaca chat --serve`: a model behind an OpenAI-compatible server that others wrote.

    alpaca chat --serve           prepares the model, waits, hands on what the engine says
    ├── the engine                `transformers serve`, or `vllm serve` where it is installed
    └── /bin/sh                   waits for our end on a pipe, and then ends the engine

The engine has a process group of its own: Ctrl-C reaches it once, through us, and everything it
started ends with it. A pipe tells that we are gone, even by `kill -9`, for the kernel closes it;
a signal on the parent's death (prctl) would be Linux's only, and would not reach the engine's own
children. The same shell clears away the folder that was prepared, which after a merge holds a
whole model.

`transformers serve` asks nobody who they are, and loads any model that a request to /load_model
names: it listens on this machine only. vLLM asks for a key when VLLM_API_KEY is set, and then may
listen elsewhere.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from alpaca_cli.core.errors import (
    AlpacaError,
    ResourceError,
    UsageError,
    did_you_mean,
    missing_extra,
)
from alpaca_cli.core.progress import CONTROL, Progress
from alpaca_cli.core.runfolder import newest_model
from alpaca_cli.model.locate import find_model
from alpaca_cli.stages.listening import is_loopback, listen, reachable, shown, url

if TYPE_CHECKING:
    from alpaca_cli.model.serving import Prepared

ENGINES = ("auto", "transformers", "vllm")
PORT = 8000
PATIENCE = 1800.0  # seconds until the engine must answer: large models are read from slow disks
GRACE = 10  # seconds that an engine has to end in
TICK = 0.1
# $1: the engine's process group, $2: the prepared folder, $3: seconds to end in. `read` returns
# when the pipe closes.
WATCH = """
read -r _
kill -TERM -"$1"
n=0
while kill -0 -"$1" && [ $n -lt "$3" ]; do sleep 1; n=$((n + 1)); done
kill -KILL -"$1"
rm -rf -- "$2"
"""


def run(
    model: str | None,
    runs: Path,
    progress: Progress,
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    engine: str = "auto",
    patience: float = PATIENCE,
) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Args:
        model: a run, model, checkpoint or adapter folder, or a hub id; the newest finished run's
            when None.
        runs: where the newest run is looked for.
        port: 0 takes a free one; None takes `PORT`, or a free one when that is in use.
        engine: `auto` takes vLLM where it is installed.
        patience: seconds until the engine must answer.

    Raises:
        UsageError: the engine is missing, the port is in use, or the address is refused.
        DataError: no such model, or it cannot be read.
        ResourceError: memory or disk ran out.
        AlpacaError: the engine ended.
        KeyboardInterrupt, Terminated: the person ended it.
    """
    engine = check(address, engine)
    name = model
    if name is None:
        name = str(newest_model(runs))
        progress.info(f"model: {name} (the newest finished run)")
    source = find_model(name)
    with listen(address, port, PORT) as probe:
        port = probe.getsockname()[1]
    with TemporaryDirectory(prefix="alpaca-serve-", ignore_cleanup_errors=True) as scratch:
        from alpaca_cli.model.serving import prepare

        progress.info(f"preparing {name}")
        prepared = prepare(source, name, Path(scratch))
        for note in prepared.notes:
            progress.warn(note)
        command = _COMMANDS[engine](prepared, address, port)
        with _running(command, environment(prepared), Path(scratch), progress) as child:
            _await(child, reachable(address), port, patience)
            _announce(prepared, engine, url(shown(address), port), progress)
            child.process.wait()
            raise child.death()


def check(address: str, engine: str) -> str:
    """The engine, before a model is looked at.

    Raises:
        UsageError: it is unknown or missing, or may not listen there.
    """
    if engine not in ENGINES:
        raise UsageError(
            f'no engine "{engine}"{did_you_mean(engine, ENGINES)}',
            hint=f"known: {', '.join(ENGINES)}",
        )
    if engine == "auto":
        engine = "vllm" if which("vllm") else "transformers"
    if engine == "vllm" and which("vllm") is None:
        raise UsageError("vllm is not installed", hint="pip install vllm, or --engine transformers")
    for module in ("fastapi", "uvicorn"):
        if engine == "transformers" and find_spec(module) is None:
            raise missing_extra(module, "web")
    if not is_loopback(address):
        if engine == "transformers":
            raise UsageError(
                f"--address {address}: transformers serve asks nobody who they are",
                hint="stay on 127.0.0.1 and reach it by ssh -L, or use vLLM with a key",
            )
        if not os.environ.get("VLLM_API_KEY"):
            raise UsageError(
                f"--address {address}: other machines could use the model",
                hint="set VLLM_API_KEY, which clients must then send, or stay on 127.0.0.1",
            )
    return engine


def transformers_command(prepared: Prepared, address: str, port: int) -> list[str]:
    """`transformers serve`, pinned to the one model."""
    return [
        *(sys.executable, "-m", "transformers.cli.transformers", "serve", prepared.name),
        *("--host", address, "--port", str(port)),
        *("--device", prepared.device, "--dtype", prepared.dtype),
    ]


def vllm_command(prepared: Prepared, address: str, port: int) -> list[str]:
    """`vllm serve`, which finds the chat template in the folder."""
    sampling = prepared.sampling
    defaults = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
    }
    return [
        *("vllm", "serve", str(prepared.folder), "--served-model-name", prepared.name),
        *("--host", address, "--port", str(port)),
        *("--override-generation-config", json.dumps(defaults)),
    ]


_COMMANDS = {"transformers": transformers_command, "vllm": vllm_command}


def environment(prepared: Prepared) -> dict[str, str]:
    """The engine's: it sees the prepared model in its hub cache and nothing beyond this machine."""
    ours = {
        "HF_HUB_CACHE": str(prepared.cache),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return {**os.environ, **ours}


@dataclass
class _Engine:
    """A running engine.

    Attributes:
        last: the last lines that it said.
    """

    process: subprocess.Popen[str]
    last: deque[str] = field(default_factory=lambda: deque(maxlen=8))

    def listen(self, progress: Progress) -> None:
        """Hand on what it says until it closes its output."""
        assert self.process.stdout is not None
        with self.process.stdout as output:
            for line in output:
                text = line.rstrip().translate(CONTROL)
                self.last.append(text)
                progress.info(text)

    def death(self) -> AlpacaError:
        """Why it ended, as far as it said."""
        code = self.process.returncode
        if code == -signal.SIGKILL:
            return ResourceError(
                "the engine was killed", hint="often because memory ran out: see dmesg"
            )
        said = "\n  ".join(self.last) or "it said nothing"
        return AlpacaError(f"the engine ended with code {code}:\n  {said}")


@contextmanager
def _running(
    command: list[str], environment: Mapping[str, str], scratch: Path, progress: Progress
) -> Iterator[_Engine]:
    """An engine that ends with the block, and with this process however that ends."""
    process = subprocess.Popen(
        command,
        cwd=scratch,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    watch = subprocess.Popen(
        ["/bin/sh", "-c", WATCH, "alpaca-watch", str(process.pid), str(scratch), str(GRACE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    engine = _Engine(process)
    relay = threading.Thread(target=engine.listen, args=(progress,), daemon=True)
    relay.start()
    try:
        yield engine
    finally:
        _end(process)
        relay.join(TICK * 10)
        watch.kill()
        watch.communicate()


def _end(process: subprocess.Popen[str]) -> None:
    """Ask the group to end, then make it."""
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)


def _await(engine: _Engine, address: str, port: int, patience: float) -> None:
    """Wait until the engine answers.

    Raises:
        AlpacaError: it ended, or does not answer in time.
    """
    deadline = time.monotonic() + patience
    while not _healthy(address, port):
        if time.monotonic() > deadline:
            raise AlpacaError(f"the engine does not answer after {patience:,.0f} s")
        with suppress(subprocess.TimeoutExpired):
            engine.process.wait(TICK)
            raise engine.death()


def _healthy(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _announce(prepared: Prepared, engine: str, base: str, progress: Progress) -> None:
    how = f"{engine} serve, {prepared.template} template"
    progress.info(f"{base}/v1 answers as {prepared.name} ({how}) · Ctrl-C ends")
    progress.info(
        "as a teacher: alpaca generate --recipe 52k-transformers "
        f"--set generate.teacher.model={prepared.name} "
        f"--set generate.teacher.base_url={base}/v1"
    )
