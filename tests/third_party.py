"""Servers that others wrote, as processes on the loopback: `llmock` and `transformers serve`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.request
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.template import ALPACA
from alpaca_cli.data.procedural import draw
from alpaca_cli.data.prompts import render_text
from tests.processes import TICK, environment

LLMOCK = "llmock==0.2.2"
STARTING = 300.0  # seconds; imports alone take minutes on a busy machine
_LISTENS = re.compile(r"Uvicorn running on (http://127\.0\.0\.1:\d+)")


@contextmanager
def serving(command: Sequence[object], folder: Path, **extra: str) -> Iterator[str]:
    """Run a uvicorn server that was told to take port 0; yields its address.

    What it says is in `server.log` in the folder.
    """
    log = folder / "server.log"
    with log.open("wb") as said:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            env=environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + STARTING
        while not (found := _LISTENS.search(log.read_text("utf-8", "replace"))):
            assert process.poll() is None, log.read_text("utf-8", "replace")
            assert time.monotonic() < deadline, "it does not listen yet"
            time.sleep(TICK)
        yield found[1]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def install_llmock(folder: Path) -> Path:
    """`llmock` in an environment of its own, for it must not mix with ours; returns the command.

    Skips the test where there is no package index to install from.
    """
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", LLMOCK]
    done = subprocess.run(pip, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        pytest.skip(f"cannot install {LLMOCK}: {last}")
    return folder / "bin" / "llmock"


class Llmock:
    """The controls of a running llmock; `url` is the `base_url` for clients."""

    def __init__(self, address: str) -> None:
        self.address, self.url = address, f"{address}/v1"

    def script(self, *behaviors: Mapping[str, Any]) -> None:
        """Queue what the next requests get: replies, failures, delays."""
        data = json.dumps({"behaviors": behaviors}).encode()
        request = urllib.request.Request(f"{self.address}/_llmock/scenario", data)
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 201

    def verdict(self) -> dict[str, Any]:
        """What it thinks of its clients so far."""
        return self._get("verdict")

    def requests(self) -> list[dict[str, Any]]:
        """Everything that it was asked, with the status it answered."""
        found: list[dict[str, Any]] = self._get("requests")["requests"]
        return found

    def _get(self, what: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/_llmock/{what}") as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def llmock(command: Path, folder: Path, *options: object) -> Iterator[Llmock]:
    """A running llmock."""
    listen = ("serve", "--host", "127.0.0.1", "--port", 0)
    with serving([command, *listen, *options], folder) as address:
        yield Llmock(address)


@contextmanager
def transformers_serve(model: Path, folder: Path) -> Iterator[str]:
    """`transformers serve` with one model; yields the `base_url`. Clients name it by its path."""
    hub = folder / "hub" / "hub"
    hub.mkdir(parents=True)  # it fails at /v1/models without one
    options = ("--host", "127.0.0.1", "--port", 0, "--device", "cpu", "--default-seed", 0)
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", model, *options]
    with serving(command, folder, HF_HOME=str(hub.parent)) as address:
        yield f"{address}/v1"


FAMILIES = (
    "antonym", "capital", "color_of_thing", "continent", "even_or_odd", "job_place",
    "larger_number", "past_tense", "plural", "rhyme", "weekday", "young_animal",
)  # fmt: skip
STEPS = 200


def save_task_writer(folder: Path) -> Path:
    """A tiny LLaMA that has learned the form of a list of tasks, trained here in half a minute.

    Asked with `List of 3 tasks:` and an empty line, it goes on with three tasks of its own in
    numbered text: whole, and mostly wrong. It samples, so no two lists are the same. Returns the
    folder.
    """
    import torch
    import transformers

    from alpaca_cli.model.tokenizer import train_tokenizer

    rng = Random(0)
    texts = [_three_tasks(rng) for _ in range(16 * STEPS)]
    tokenizer = train_tokenizer(texts[:300], ALPACA, 1000)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    model = transformers.LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=STEPS)
    for step in range(STEPS):
        some = [text + tokenizer.eos_token for text in texts[16 * step : 16 * step + 16]]
        batch = tokenizer(some, padding=True, padding_side="right", return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.generation_config.do_sample = True
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    plain = "{% for message in messages %}{{ message.content }}\n\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(plain)
    return folder


def _three_tasks(rng: Random) -> str:
    tasks = [draw(rng, rng.choice(FAMILIES)) for _ in range(3)]
    listed = render_text([Example(task.instruction, task.input, task.output) for task in tasks])
    return f"List of 3 tasks:\n\n{listed}"
