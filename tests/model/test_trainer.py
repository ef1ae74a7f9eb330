"""Training: the same loss however a step is split, packed, or resumed."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import Scratch, ScratchModel, Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.batches import Schedule
from alpaca_cli.model.checkpoints import Checkpoint, newest_checkpoint
from alpaca_cli.model.kernels import apply_kernels
from alpaca_cli.model.log import Evaluation, Step, read_log
from alpaca_cli.model.rows import encode_rows
from alpaca_cli.model.strategy import compute_dtype, make_accelerator
from alpaca_cli.model.student import load_trainee, make_trainee
from alpaca_cli.model.tokenizer import train_tokenizer
from alpaca_cli.model.trainer import Training, train

CPU = torch.device("cpu")
TINY = Train(
    model=ScratchModel(
        config=Scratch(vocab_size=400, hidden_size=32, intermediate_size=64, layers=2, heads=2)
    ),
    learning_rate=1e-2,
    epochs=3,
    global_batch=8,
    micro_batch=8,
    max_length=128,
    packing=False,
    save_every=1000,
)
EXAMPLES = [
    Example(f"Repeat the word {n} times.", word, " ".join([word] * n))
    for n in range(1, 6)
    for word in ("dog", "red bird", "sea", "one two three")
]


class Heard:
    """What a training told its observer."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.evaluations: list[Evaluation] = []
        self.spikes: list[str] = []
        self.saved: list[str] = []

    def on_step(self, line: Step) -> None:
        self.steps.append(line)

    def on_evaluation(self, line: Evaluation) -> None:
        self.evaluations.append(line)

    def on_spike(self, warning: str) -> None:
        self.spikes.append(warning)

    def on_save(self, folder: Path, seconds: float) -> None:
        self.saved.append(folder.name)


def run(
    folder: Path,
    resumed: Checkpoint | None = None,
    *,
    heard: Heard | None = None,
    held_out: int = 0,
    **changes: Any,
) -> Any:
    """Train the tiny model on EXAMPLES; its weights and its log."""
    settings = TINY.model_copy(update=changes)
    tokenizer = train_tokenizer([each.output for each in EXAMPLES], ALPACA, 400)
    trainee = (
        load_trainee(settings, resumed.path, tokenizer, ALPACA)
        if resumed
        else make_trainee(settings, tokenizer, ALPACA, 7)
    )
    apply_kernels(trainee.model, settings, CPU)
    rows = encode_rows(EXAMPLES, tokenizer, ALPACA, settings.max_length, "error").rows
    asked = [(EXAMPLES[0].instruction, EXAMPLES[0].input, rows[0].ids[: rows[0].prompt])]
    training = Training(
        trainee=trainee,
        rows=rows,
        held_out=rows[:held_out],
        asked=asked if held_out else [],
        schedule=Schedule(len(rows), settings.global_batch, settings.epochs, 7),
        settings=settings,
        folder=folder,
        accelerator=make_accelerator(compute_dtype(settings.dtype, "cpu"), [], "single"),
        strategy="single",
        flops=1e6,
        peak=None,
    )
    train(training, heard or Heard(), resumed)
    return trainee.model.state_dict(), read_log(folder / "log.jsonl")


def column(log: list[dict[str, Any]], name: str) -> list[Any]:
    return [line[name] for line in log]


def test_the_split_into_micro_batches_does_not_change_the_training(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "1x8", micro_batch=8)
    assert len(whole) == 8  # 60 visits in steps of 8, the last one smaller
    assert column(whole, "loss")[-1] < 0.7 * column(whole, "loss")[0]
    splits: dict[str, dict[str, Any]] = {
        "8x1": {"micro_batch": 1},
        "3": {"micro_batch": 3},
        "packed": {"packing": True, "micro_batch": 1},
        "packed wide": {"packing": True, "micro_batch": 8},
        "checkpointed": {"gradient_checkpointing": True},
        "one by one": {"packing": True, "micro_batch": 2, "attention": "eager"},
    }
    for name, changes in splits.items():
        _, log = run(tmp_path / name, **changes)
        assert column(log, "loss") == pytest.approx(column(whole, "loss"), rel=2e-5), name
        assert column(log, "grad_norm") == pytest.approx(column(whole, "grad_norm"), rel=1e-3)
        assert column(log, "tokens") == column(whole, "tokens")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path, optimizer: str) -> None:
    weights, log = run(tmp_path / "straight", optimizer=optimizer, save_every=3)
    found, _ = newest_checkpoint(tmp_path / "straight" / "checkpoints")
    assert found is not None
    assert found.position.step == 6
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    # As after a power cut: a block that never reached the disk, and a torn last line.
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('\0\0\0\0, "loss": 1.0}\n{"step": 9, "lo')
    again, resumed_log = run(tmp_path / "cut", found, optimizer=optimizer, save_every=3)
    assert column(resumed_log, "step") == list(range(1, 9))
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "trained_tokens", "epoch"):
        assert column(resumed_log, name) == column(log, name)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_bfloat16_trains_nearly_alike(tmp_path: Path) -> None:
    _, exact = run(tmp_path / "a")
    for packing in (False, True):
        _, log = run(tmp_path / str(packing), dtype="bfloat16", packing=packing, micro_batch=1)
        assert column(log, "loss") == pytest.approx(column(exact, "loss"), rel=0.05)
        assert column(log, "loss") != column(exact, "loss")


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="float16 needs a CUDA GPU"):
        compute_dtype("float16", "cpu")


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"(loss|gradient norm) is (nan|inf) at step"):
        run(tmp_path, learning_rate=1e30, epochs=5)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in log)


def test_a_number_that_is_none_names_its_examples(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"in (its batch|the micro-batch of) examples? \d+"):
        run(tmp_path, learning_rate=1e30, epochs=5)


def test_held_out_loss_and_answers(tmp_path: Path) -> None:
    heard = Heard()
    run(tmp_path / "a", heard=heard, held_out=4, evaluate_every=3, save_every=5, packing=True)
    # At every third step, before every checkpoint, and at the end.
    assert [each.step for each in heard.evaluations] == [3, 5, 6, 8]
    assert heard.saved == ["step-000005"]
    losses = [each.loss for each in heard.evaluations]
    assert losses[-1] < losses[0]
    assert [each.best for each in heard.evaluations] == [
        loss < min([math.inf, *losses[:at]]) for at, loss in enumerate(losses)
    ]
    for each in heard.evaluations:
        [(instruction, given, answer)] = each.samples
        assert (instruction, given) == (EXAMPLES[0].instruction, EXAMPLES[0].input)
        assert isinstance(answer, str)
    lines = read_log(tmp_path / "a" / "held_out.jsonl")
    assert [line["loss"] for line in lines] == losses
    # Looking at it changes nothing: the same training without.
    _, with_it = run(tmp_path / "b", packing=True)
    assert column(with_it, "loss") == column(read_log(tmp_path / "a" / "log.jsonl"), "loss")


class Stopping(Heard):
    """Asks to stop, as Ctrl-C does, in a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_step(self, line: Step) -> None:
        super().on_step(line)
        if line.step == self.step - 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_held_out_loss_that_a_stop_left_out_is_taken_by_the_resumed_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"held_out": 4, "evaluate_every": 3, "save_every": 5}
    run(tmp_path / "straight", **options)
    expected = read_log(tmp_path / "straight" / "held_out.jsonl")
    for step in (5, 6, 7, 8):  # saved, looked at, neither, the last one
        folder = tmp_path / str(step)
        with pytest.raises(KeyboardInterrupt):
            run(folder, heard=Stopping(step), **options)
        found, _ = newest_checkpoint(folder / "checkpoints")
        assert found is not None
        assert found.position.step == step
        run(folder, found, **options)
        lines = read_log(folder / "held_out.jsonl")
        for name in ("step", "loss", "best"):
            assert column(lines, name) == column(expected, name)


def test_the_first_checkpoint_is_saved_early(tmp_path: Path) -> None:
    heard = Heard()
    run(tmp_path, heard=heard, save_every=1000)
    assert heard.saved == ["step-000005"]


def test_noise_on_embeddings_is_that_of_the_example_in_every_split(tmp_path: Path) -> None:
    _, plain = run(tmp_path / "plain")
    _, one = run(tmp_path / "one", neftune=5.0)
    assert column(one, "loss") != column(plain, "loss")
    for name, changes in (("8x1", {"micro_batch": 1}), ("packed", {"packing": True})):
        _, log = run(tmp_path / name, neftune=5.0, **changes)
        assert column(log, "loss") == pytest.approx(column(one, "loss"), rel=2e-5), name
