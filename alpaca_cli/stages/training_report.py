"""What came of a training, added up from its logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.runfolder import StageFolder

if TYPE_CHECKING:
    from alpaca_cli.model.tokens import Tokens
    from alpaca_cli.model.trainer import Training


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Attributes:
        examples: trained on; `dropped` and `truncated` ones were longer than max_length, and
            `excluded` ones were left out because a person marked them bad (`train.exclude`).
        held_out: examples that the held-out loss was taken from.
        tokens: prompt and response tokens seen, repeats included, padding not.
        trained_tokens: those the loss was taken over: responses and EOS.
        padding: share of the computed positions that held no token.
        loss: mean over the trained tokens of the last tenth of the steps, in nats.
        held_out_loss: after the last step; `best_checkpoint` is a saved one whose own is lower.
        spikes: steps that stood out; log.jsonl has their examples.
        seconds: in training steps; loading, evaluating and saving not counted.
        mfu: share of the devices' peak, over all steps; None when that is unknown.
        memory: most bytes held by the first process, on its GPU or in RAM without one.
        parameters: of the whole model; `trained_parameters` were changed.
    """

    model: str
    steps: int
    epochs: float
    examples: int
    held_out: int
    dropped: int
    truncated: int
    tokens: int
    trained_tokens: int
    padding: float
    loss: float
    held_out_loss: float | None
    best_checkpoint: str | None
    spikes: int
    seconds: float
    tokens_per_second: float
    mfu: float | None
    memory: int
    parameters: int
    trained_parameters: int
    device: str
    processes: int
    strategy: str
    dtype: str
    excluded: int = 0


def report_of(
    stage: StageFolder,
    training: Training,
    tokens: Tokens,
    dtype: object,
) -> Report:
    """Sums over the whole log, so that a resumed training reports like an uninterrupted one."""
    from alpaca_cli.model.checkpoints import best_checkpoint
    from alpaca_cli.model.log import read_log

    log, held_out = read_log(stage / "log.jsonl"), read_log(stage / "held_out.jsonl")
    tail = log[-max(1, len(log) // 10) :]
    total = {
        key: sum(line[key] for line in log)
        for key in ("tokens", "trained_tokens", "positions", "seconds")
    }
    trained = sum(line["trained_tokens"] for line in tail)
    last = held_out[-1]["loss"] if held_out else None
    best = best_checkpoint(stage / "checkpoints")
    better = best is not None and last is not None and (best.position.held_out_loss or last) < last
    rate = total["tokens"] / total["seconds"]
    accelerator = training.accelerator
    return Report(
        model=str(stage / "final"),
        steps=len(log),
        epochs=training.settings.epochs,
        examples=len(training.rows),
        held_out=len(training.held_out),
        dropped=tokens.encoded.dropped,
        truncated=tokens.encoded.truncated,
        tokens=total["tokens"],
        trained_tokens=total["trained_tokens"],
        padding=1 - total["tokens"] / total["positions"],
        loss=sum(line["loss"] * line["trained_tokens"] for line in tail) / trained,
        held_out_loss=last,
        best_checkpoint=str(best.path) if best is not None and better else None,
        spikes=sum(line.get("spike", False) for line in log),
        seconds=total["seconds"],
        tokens_per_second=rate,
        mfu=training.flops * rate / training.peak if training.peak else None,
        memory=max(line["memory"] for line in log),
        parameters=training.trainee.parameters,
        trained_parameters=training.trainee.trainable,
        device=_device_name(accelerator),
        processes=accelerator.num_processes,
        strategy=training.strategy,
        dtype=str(dtype).removeprefix("torch."),
        excluded=tokens.excluded,
    )


def _device_name(accelerator: Any) -> str:
    from alpaca_cli.model.devices import gpus

    kind: str = accelerator.device.type
    return gpus()[accelerator.device.index or 0].name if kind == "cuda" else kind
