"""`alpaca chat --serve`: what is served, by which command, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, ResourceError, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.dialogue import Exchange, Sampling
from alpaca_cli.model.serving import GREEDY, Prepared, prepare, served_name
from alpaca_cli.stages import serve
from alpaca_cli.stages.listening import listen
from tests import processes
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=2048)


# --- what is served -------------------------------------------------------------------------------


def test_the_prompt_is_that_of_training(model: Path, tmp_path: Path) -> None:
    """What a server makes of messages are the ids that `alpaca chat` and training make."""
    from transformers import AutoTokenizer

    from alpaca_cli.model.loading import load_student
    from alpaca_cli.model.sampling import prompt_ids

    prepared = prepare(model, str(model), tmp_path / "hub")
    tokenizer = AutoTokenizer.from_pretrained(prepared.folder)
    student = load_student(model, "tiny")

    def rendered(*messages: tuple[str, str]) -> Any:
        said = [{"role": role, "content": content} for role, content in messages]
        return tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)

    ask, sort = "Is a tomato a fruit?", "Sort these numbers:"
    assert rendered(("user", ask)) == prompt_ids(student, ask)
    with_input = rendered(("user", f"{sort}\n\n### Input:\n4 1"))
    assert with_input == prompt_ids(student, sort, "4 1")
    assert rendered(("system", "Be brief."), ("user", ask)) == prompt_ids(
        student, ask, system="Be brief."
    )
    several = (("user", ask), ("assistant", "Yes, it is."), ("user", sort))
    history = [Exchange(ask, "", "Yes, it is.")]
    assert rendered(*several) == prompt_ids(student, sort, history=history)
    assert prepared.template == "alpaca"


def test_the_folder_is_a_hub_cache_with_one_model(model: Path, tmp_path: Path) -> None:
    from huggingface_hub import scan_cache_dir

    prepared = prepare(model, str(model), tmp_path / "hub")
    [repository] = scan_cache_dir(tmp_path / "hub").repos
    assert repository.repo_id == prepared.name == "tiny"
    weights = prepared.folder / "model.safetensors"
    assert weights.is_symlink()
    assert weights.samefile(model / "model.safetensors")
    assert not (model / "chat_template.jinja").exists(), "the source stays as it is"


def test_sampling_is_the_model_s_own_and_nothing_else_acts(model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).symlink_to(path)
    (copy / "generation_config.json").unlink()
    stored = {"repetition_penalty": 1.3, "max_length": 20, "eos_token_id": [1, 5]}
    (copy / "generation_config.json").write_text(json.dumps(stored))
    prepared = prepare(copy, "copy", tmp_path / "greedy")
    written = json.loads((prepared.folder / "generation_config.json").read_text())
    assert (written["temperature"], written["do_sample"]) == (GREEDY, True)
    assert 5 in written["eos_token_id"]
    assert not {"repetition_penalty", "max_length"} & {k for k, v in written.items() if v}
    stored = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 20}
    (copy / "generation_config.json").write_text(json.dumps(stored))
    prepared = prepare(copy, "copy", tmp_path / "sampled")
    written = json.loads((prepared.folder / "generation_config.json").read_text())
    assert stored.items() <= written.items()
    assert prepared.sampling == Sampling(0.7, 0.9, 20)


def test_an_adapter_is_merged_into_its_base(model: Path, tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from alpaca_cli.core.template import ALPACA
    from alpaca_cli.model.adapters import without_peft_deprecations

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model)
    with without_peft_deprecations():
        adapted = get_peft_model(base, LoraConfig(r=2, init_lora_weights=False))
    folder = tmp_path / "adapter"
    adapted.save_pretrained(folder)
    AutoTokenizer.from_pretrained(model).save_pretrained(folder)
    ALPACA.save(folder)
    prepared = prepare(folder, str(folder), tmp_path / "hub")
    assert not (prepared.folder / "adapter_config.json").exists()
    merged = AutoModelForCausalLM.from_pretrained(prepared.folder)
    ids = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
    assert (prepared.folder / "chat_template.jinja").is_file()


@pytest.mark.parametrize(
    ("named", "folder", "name"),
    [
        ("meta-llama/Llama-3.2-1B", "cache/snapshots/abc", "meta-llama/Llama-3.2-1B"),
        ("my model", "my model", "my-model"),
        ("models/--x..y--", "models/--x..y--", "x-y"),
        ("runs/first", "runs/first/train/final", "first"),
        ("runs/first/train/checkpoints/step-2", "runs/first/train/checkpoints/step-2", "first"),
    ],
)
def test_names(
    named: str, folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(folder).mkdir(parents=True)
    for run in ("runs/first",):
        Path(run).mkdir(parents=True, exist_ok=True)
        Path(run, "recipe.yaml").touch()
    assert served_name(named, Path(folder)) == name


# --- by which command -----------------------------------------------------------------------------

PREPARED = Prepared(
    "first", Path("/hub"), Path("/hub/f"), "alpaca", Sampling(0.5, 0.9, 20), "cpu", "float32"
)


def test_the_command_of_transformers() -> None:
    command = serve.transformers_command(PREPARED, "127.0.0.1", 8001)
    assert command[1:5] == ["-m", "transformers.cli.transformers", "serve", "first"]
    assert command[5:] == [
        "--host", "127.0.0.1", "--port", "8001", "--device", "cpu", "--dtype", "float32"
    ]  # fmt: skip


def test_the_command_of_vllm() -> None:
    """Only looked at: vLLM itself is not installed where this runs."""
    command = serve.vllm_command(PREPARED, "127.0.0.1", 8001)
    assert command[:5] == ["vllm", "serve", "/hub/f", "--served-model-name", "first"]
    assert command[5:9] == ["--host", "127.0.0.1", "--port", "8001"]
    assert json.loads(command[-1]) == {"temperature": 0.5, "top_p": 0.9, "top_k": 20}


def test_the_engine_sees_one_model_and_no_network() -> None:
    found = serve.environment(PREPARED)
    assert found["HF_HUB_CACHE"] == "/hub"
    assert found["HF_HUB_OFFLINE"] == "1"


def said(*arguments: object, folder: Path, **extra: str) -> str:
    done = processes.run("chat", *arguments, cwd=folder, code=2, **extra)
    return done.stderr


def test_what_is_refused(tmp_path: Path) -> None:
    elsewhere = ("m", "--serve", "--address", "0.0.0.0")
    assert "asks nobody who they are" in said(*elsewhere, folder=tmp_path)
    assert 'did you mean "vllm"' in said("m", "--serve", "--engine", "vlm", folder=tmp_path)
    # A vllm that is not there, and one that is.
    only = {"PATH": str(tmp_path)}
    assert "not installed" in said("m", "--serve", "--engine", "vllm", folder=tmp_path, **only)
    (tmp_path / "vllm").write_text("#!/bin/sh\n")
    (tmp_path / "vllm").chmod(0o755)
    refused = said(*elsewhere, "--engine", "vllm", folder=tmp_path, **only)
    assert "VLLM_API_KEY" in refused


# --- how it ends ----------------------------------------------------------------------------------

ENGINE = """
import http.server, os, subprocess, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print("engine", os.getpid(), child.pid, flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
PARENT = """
import sys
from pathlib import Path
from rich.console import Console
from alpaca_cli.core.progress import Progress
from alpaca_cli.stages import serve
from alpaca_cli.stages.listening import listen
port, scratch = int(sys.argv[1]), Path(sys.argv[2])
command = [sys.executable, "-c", sys.argv[3], str(port)]
with serve._running(command, {}, scratch, Progress(Console(stderr=True))) as engine:
    serve._await(engine, "127.0.0.1", port, 60)
    print("ready", file=sys.stderr, flush=True)
    engine.process.wait()
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[int], Path]]:
    """A process that has an engine, the pids of the engine and its child, and its folder."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", PARENT, processes.free_port(), scratch, ENGINE]
    process = subprocess.Popen(
        [*map(str, command)], stderr=subprocess.PIPE, text=True, env=processes.environment()
    )
    pids: list[int] = []
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("engine"):
            pids += map(int, line.split()[1:])
        if line.startswith("ready"):
            break
    yield process, pids, scratch
    process.kill()
    process.communicate()
    for pid in filter(alive, pids):
        os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_engine_ends_with_us(
    number: signal.Signals, parent: tuple[subprocess.Popen[str], list[int], Path]
) -> None:
    process, pids, scratch = parent
    assert len(pids) == 2
    assert all(map(alive, pids))
    process.send_signal(number)
    until(lambda: not any(map(alive, pids)))
    process.wait()
    if number == signal.SIGKILL:
        until(lambda: not scratch.exists())


def quiet() -> Progress:
    return Progress(Console(file=StringIO()), quiet=True)


@pytest.mark.parametrize(
    ("script", "error", "told"),
    [
        ("print('no such model'); raise SystemExit(3)", AlpacaError, r"code 3:\n  no such model"),
        ("raise SystemExit(0)", AlpacaError, "code 0:\n  it said nothing"),
        ("import os; os.kill(os.getpid(), 9)", ResourceError, "was killed"),
    ],
)
def test_an_engine_that_dies_says_why(
    script: str, error: type[AlpacaError], told: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", script]
    with (
        serve._running(command, dict(os.environ), tmp_path, quiet()) as engine,
        pytest.raises(error, match=told) as caught,
    ):
        serve._await(engine, "127.0.0.1", processes.free_port(), 60)
    assert type(caught.value) is error


def test_an_engine_that_never_answers_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(1000)"]
    with (
        serve._running(command, dict(os.environ), tmp_path, quiet()) as engine,
        pytest.raises(AlpacaError, match="does not answer after 0 s"),
    ):
        serve._await(engine, "127.0.0.1", processes.free_port(), 0.2)
    assert engine.process.returncode == -signal.SIGTERM


def test_a_port_in_use(model: Path, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0, 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(UsageError, match="somebody listens there already"):
            serve.run(str(model), tmp_path, quiet(), port=port, engine="transformers")
