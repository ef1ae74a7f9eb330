"""Training in two real processes, and through `kill -9`: what one straight process does."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alpaca_cli.core.files import write_jsonl
from tests.processes import lines
from tests.ranks import Ranks
from tests.tiny import save_tiny_model
from tests.training import ROWS, SMALL, STEPS, like_trajectory, log, same_trajectory, sets

# One worker: what the tests share takes long to make.
pytestmark = pytest.mark.xdist_group("ranks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("ranks")
    write_jsonl(here / "rows.jsonl", ROWS)
    return here


@pytest.fixture(scope="module")
def ranks(folder: Path) -> Iterator[Ranks]:
    with Ranks(folder) as found:
        yield found


@pytest.fixture(scope="module")
def straight(folder: Path, ranks: Ranks) -> Path:
    """One process, nobody interrupts it."""
    ranks.run(1, *train("straight"))
    return folder / "straight"


def train(name: str, *more: str) -> list[str]:
    return ["train", "rows.jsonl", *SMALL, "--run", name, *sets(*more)]


def report(run: Path) -> Any:
    return json.loads((run / "train" / "done.json").read_text())["report"]


def logits(model: Path) -> torch.Tensor:
    """By plain transformers."""
    from transformers import AutoModelForCausalLM

    found: torch.Tensor = AutoModelForCausalLM.from_pretrained(model)(torch.arange(20)[None]).logits
    return found.detach()


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "train" / "checkpoints").iterdir())


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_like_one(
    folder: Path, ranks: Ranks, straight: Path, strategy: str
) -> None:
    ranks.run(2, *train(strategy, f"train.strategy={strategy}"))
    run = folder / strategy
    like_trajectory(run, straight)
    assert (report(run)["processes"], report(run)["strategy"]) == (2, strategy)
    difference = (logits(run / "train" / "final") - logits(straight / "train" / "final")).abs()
    assert difference.max() < 1e-3
    # A consolidated model: the same tensors as one process saves, by the same names.
    ours = load_file(run / "train" / "final" / "model.safetensors")
    theirs = load_file(straight / "train" / "final" / "model.safetensors")
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_a_killed_fsdp2_training_goes_on_alone_and_again_in_two(
    folder: Path, ranks: Ranks, straight: Path
) -> None:
    """2 processes under FSDP2, kill -9, one process, kill -9, 2 processes under DDP."""
    run = folder / "changing"
    written = run / "train" / "log.jsonl"
    ranks.start(2, *train("changing", "train.strategy=fsdp2"))
    ranks.wait_until(lambda: lines(written) >= 13)
    ranks.kill()
    assert checkpoints(run) == ["step-000005", "step-000010"]
    ranks.start(1, *train("changing"))
    ranks.wait_until(lambda: lines(written) >= 23 and len(checkpoints(run)) == 2)
    said = ranks.said()
    ranks.kill()
    assert f"resuming at step 10 of {STEPS} with 1 processes (2 before)" in said
    said = ranks.run(2, *train("changing", "train.strategy=ddp"))
    assert f"resuming at step 20 of {STEPS} with 2 processes (1 before)" in said
    like_trajectory(run, straight)


@pytest.mark.parametrize("strategy", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp2"])
def test_a_resumed_training_in_two_processes_is_the_uninterrupted_one(
    folder: Path, ranks: Ranks, strategy: str
) -> None:
    settings = [f"train.strategy={strategy}", "train.holdout=6", "train.evaluate_every=7"]
    ranks.run(2, *train(f"{strategy}-whole", *settings))
    ranks.start(2, *train(f"{strategy}-cut", *settings))
    run = folder / f"{strategy}-cut"
    ranks.wait_until(lambda: lines(run / "train" / "log.jsonl") >= 14)
    # One of them alone: the other cannot go on without it.
    os.kill(ranks.pids[1], signal.SIGKILL)
    ranks.kill()
    ranks.run(2, *train(f"{strategy}-cut", *settings))
    same_trajectory(run, folder / f"{strategy}-whole")
    held_out = [(line["step"], line["loss"]) for line in log(run, "held_out")]
    assert held_out == [
        (line["step"], line["loss"]) for line in log(folder / f"{strategy}-whole", "held_out")
    ]


@pytest.mark.parametrize(
    "number", [signal.SIGUSR1, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_to_one_process_stops_both_at_the_same_step(
    folder: Path, ranks: Ranks, straight: Path, number: signal.Signals
) -> None:
    name = number.name
    ranks.start(2, *train(name, "train.save_every=1000", "train.strategy=fsdp2"))
    run = folder / name
    ranks.wait_until(lambda: lines(run / "train" / "log.jsonl") >= 7)
    os.kill(ranks.pids[1], number)
    code = 130 if number == signal.SIGINT else 143
    assert ranks.wait() == [code, code], ranks.said()
    saved = int(checkpoints(run)[-1].removeprefix("step-"))
    assert 7 <= saved == lines(run / "train" / "log.jsonl") < STEPS
    ranks.run(2, *train(name, "train.save_every=1000", "train.strategy=fsdp2"))
    like_trajectory(run, straight)


def test_an_adapter_under_fsdp2_with_checkpointed_layers_is_whole(
    folder: Path, ranks: Ranks
) -> None:
    """Wrapped modules have led to adapters of 40 bytes, without an error."""
    base = save_tiny_model(folder / "base")
    settings = [
        f"train.model={base}", "train.method=lora", "train.lora={r: 4, dropout: 0}",
        "train.epochs=1.5",
    ]  # fmt: skip
    ranks.run(1, *train("lora", *settings))
    ranks.run(
        2,
        *train("lora2", *settings, "train.strategy=fsdp2", "train.gradient_checkpointing=true"),
    )
    like_trajectory(folder / "lora2", folder / "lora")
    ours, theirs = (
        load_file(folder / name / "train" / "final" / "adapter_model.safetensors")
        for name in ("lora2", "lora")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name] - theirs[name]).abs().max() < 1e-3 for name in ours)
    assert any(tensor.any() for name, tensor in ours.items() if "lora_B" in name)


def test_killed_at_many_instants_it_ends_as_if_nothing_had_happened(
    folder: Path, ranks: Ranks
) -> None:
    """Steps and saves take about as long here, so that many kills fall into saves."""
    settings = ["train.save_every=2", "train.keep_checkpoints=1", "train.holdout=3"]
    ranks.run(1, *train("whole", *settings))
    generator = random.Random(1)
    killed = 0
    for name in ("cut-1", "cut-2"):
        written = folder / name / "train" / "log.jsonl"
        for _ in range(100):
            ranks.start(1, *train(name, *settings))
            reached = lines(written) + generator.randrange(1, 5)
            found = _ends_before(ranks, written, reached, generator)
            if found:
                break
            killed += 1
        same_trajectory(folder / name, folder / "whole")
        leftovers = list((folder / name / "train" / "checkpoints").glob(".*"))
        assert leftovers == []
    assert killed > 8


def _ends_before(ranks: Ranks, written: Path, reached: int, generator: random.Random) -> bool:
    """Kill it some instants after a step; True when it ended by itself before."""
    done = written.parent / "done.json"
    instants = generator.randrange(0, 60)

    def enough() -> bool:
        nonlocal instants
        if done.is_file():
            return True
        if lines(written) >= reached:
            instants -= 1
        return instants < 0

    ranks.wait_until(enough)
    if done.is_file():
        assert ranks.wait() == [0], ranks.said()
        return True
    ranks.kill()
    return False


def test_a_damaged_checkpoint_is_named_and_passed_over(
    folder: Path, ranks: Ranks, straight: Path
) -> None:
    run = folder / "damaged"
    ranks.start(1, *train("damaged", "train.keep_checkpoints=3"))
    ranks.wait_until(lambda: lines(run / "train" / "log.jsonl") >= 23)
    ranks.kill()
    newest = run / "train" / "checkpoints" / "step-000020"
    weights = newest / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1  # one bit, the size stays
    weights.write_bytes(content)
    before = run / "train" / "checkpoints" / "step-000010"
    [shard] = (before / "optimizer").glob("*.distcp")
    shard.unlink()
    said = ranks.run(1, *train("damaged", "train.keep_checkpoints=3"))
    flat = " ".join(said.split())
    assert "step-000020: model.safetensors is not what was written: its sha256 differs" in flat
    assert "is missing" in flat
    assert f"resuming at step 5 of {STEPS}" in said
    same_trajectory(run, straight)
