"""The training loop, on accelerate.

The loss of a step is the mean over the trained tokens of the whole global batch, whatever
micro-batches, packing and ranks it is split into: every rank knows from the schedule how many
tokens there are, so summed losses are divided by that number, and 1 x 8, 8 x 1 and 2 processes
x 4 train alike (tested).

Where examples come from, and which files make a finished training, is not known here.
"""

from __future__ import annotations

import inspect
import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch.nn.functional import cross_entropy

from alpaca_cli.core.errors import GateFailed, Terminated, UsageError
from alpaca_cli.core.files import disk_error, write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model import attention
from alpaca_cli.model.batches import Batch, Row, Schedule, collate, micro_batches, share
from alpaca_cli.model.checkpoints import load_optimizers, save_checkpoint
from alpaca_cli.model.optim import learning_rate_factor, make_optimizers, set_learning_rate
from alpaca_cli.model.student import Trainee

MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True, slots=True)
class Step:
    """One line of `log.jsonl`."""

    step: int
    """Optimizer steps done, this one included."""
    epoch: float
    """Passes over the data done."""
    loss: float
    """Mean over the step's trained tokens, in nats."""
    learning_rate: float
    grad_norm: float
    """Before clipping."""
    tokens: int
    """Prompt and response tokens, padding not counted."""
    trained_tokens: int
    seconds: float


def compute_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """What the forward and backward pass are computed in.

    Raises:
        UsageError: the device cannot do it.
    """
    if wanted == "auto":
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    if wanted == "float16" and device.type != "cuda":
        raise UsageError(
            f"train.dtype: float16 needs a CUDA GPU, this is {device.type}",
            hint="use auto, float32 or bfloat16",
        )
    found: torch.dtype = getattr(torch, wanted)
    return found


def make_accelerator(wanted: str, gpus: Sequence[int]) -> Accelerator:
    """accelerate's view of the processes and devices there are.

    Args:
        wanted: `train.dtype`.
        gpus: devices that this process may use; CPU when empty, device `gpus[0]` when one.
    """
    if len(gpus) == 1:
        torch.cuda.set_device(gpus[0])
    dtype = compute_dtype(wanted, torch.device("cuda" if gpus else "cpu"))
    # The precision of an earlier training in this process must not stick to this one.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=not gpus,
        mixed_precision=MIXED[dtype],
        kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
    )


def train(
    trainee: Trainee,
    rows: Sequence[Row],
    schedule: Schedule,
    settings: Train,
    folder: Path,
    accelerator: Accelerator,
    progress: Progress,
    resumed: tuple[int, Path] | None = None,
) -> None:
    """Train in place; `folder` gets `log.jsonl` and `checkpoints/`.

    Args:
        trainee: loaded from the checkpoint when there is one.
        resumed: the step and folder of the checkpoint to go on from.

    Raises:
        KeyboardInterrupt, Terminated: Ctrl-C or SIGTERM; a checkpoint was saved first.
        GateFailed: the loss is not a number, or packed examples see each other.
        ResourceError: the disk is full.
    """
    start = resumed[0] if resumed else 0
    model, optimizers = _prepare(trainee, settings, accelerator)
    if settings.packing:
        prepare_packing(trainee.model, settings.max_length, accelerator.device)
    if resumed:
        load_optimizers(resumed[1], optimizers)
    shown = schedule.steps - start
    label = f"training from step {start}" if start else "training"
    checkpoints = folder / "checkpoints"
    with (
        _Log(folder / "log.jsonl", start, write=accelerator.is_main_process) as log,
        _stop_signals() as received,
        progress.task(label, shown) as task,
    ):
        for step in range(start, schedule.steps):
            line, stop = _step(
                model, optimizers, rows, schedule, step, settings, accelerator, received
            )
            log.write(line)
            task.advance(note=f"loss {line.loss:.3f} · {line.tokens / line.seconds:,.0f} tokens/s")
            if stop or ((step + 1) % settings.save_every == 0 and step + 1 < schedule.steps):
                log.sync()
                if accelerator.is_main_process:
                    save_checkpoint(
                        checkpoints, step + 1, trainee, optimizers, settings.keep_checkpoints
                    )
                accelerator.wait_for_everyone()
            if stop:
                raise Terminated if stop == signal.SIGTERM else KeyboardInterrupt


def _prepare(
    trainee: Trainee, settings: Train, accelerator: Accelerator
) -> tuple[Any, list[torch.optim.Optimizer]]:
    """Model and optimizers on their device, the model wrapped when there are several ranks."""
    model = trainee.model
    model.train()
    if settings.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    # On its device first: optimizers hold on to the parameters they are given.
    model.to(accelerator.device)
    optimizers = make_optimizers(model, settings)
    prepared = accelerator.prepare(model, *optimizers)
    return prepared[0], list(prepared[1:])


def _step(
    model: Any,
    optimizers: list[torch.optim.Optimizer],
    data: Sequence[Row],
    schedule: Schedule,
    step: int,
    settings: Train,
    accelerator: Accelerator,
    received: list[int],
) -> tuple[Step, int]:
    """One optimizer step; its log line, and the signal that some rank received (0: none)."""
    began = time.perf_counter()
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = [data[index] for index in schedule.indices(step)]
    trained = sum(row.trained for row in rows)
    # Dropout is a function of the step, so that a resumed run repeats it.
    torch.manual_seed((schedule.seed * 1_000_003 + step) * world + rank)
    # A rank without rows (a small last step) still takes part in the gradients' exchange.
    own = share(rows, rank, world) or [Row(rows[0].ids, len(rows[0].ids))]
    batches = micro_batches(own, settings.micro_batch, settings.max_length, settings.packing)
    total = torch.zeros(2, device=accelerator.device)
    for number, packed in enumerate(batches, 1):
        batch = collate(packed).to(accelerator.device)
        last = number == len(batches)
        with nullcontext() if last else accelerator.no_sync(model):
            loss = summed_loss(model, batch)
            # DDP averages gradients over ranks: times `world` makes that a sum.
            accelerator.backward(loss * (world / trained))
        total[0] += loss.detach()
    total[1] = received[0] if received else 0
    if world > 1:
        total = accelerator.reduce(total, reduction="sum")
    mean_loss = float(total[0]) / trained
    if not math.isfinite(mean_loss):
        raise GateFailed(
            f"the loss is {mean_loss} at step {step + 1}",
            hint="lower train.learning_rate; earlier checkpoints are whole",
        )
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
    rate = set_learning_rate(
        optimizers, learning_rate_factor(step, schedule.steps, settings.warmup)
    )
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    done = min((step + 1) * schedule.global_batch, schedule.visits)
    line = Step(
        step=step + 1,
        epoch=round(done / schedule.examples, 4),
        loss=mean_loss,
        learning_rate=rate,
        grad_norm=float(norm),
        tokens=sum(len(row.ids) for row in rows),
        trained_tokens=trained,
        seconds=time.perf_counter() - began,
    )
    return line, int(total[1])


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the trained tokens of a micro-batch, in nats, float32."""
    logits = logits_at(model, batch)
    return cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")


def logits_at(model: Any, batch: Batch) -> torch.Tensor:
    """(B, C, vocabulary) logits at the columns of a batch.

    No attention mask and no cache are given: with `position_ids` alone, transformers' own masks
    keep the examples of a packed row apart; with either, they see each other (measured).
    Right-padding needs no mask, for a causal model looks to the left only.
    """
    inner = _inner(model)
    known = inspect.signature(type(inner).forward).parameters
    given: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if "position_ids" in known:
        given["position_ids"] = batch.position_ids
    if inner.config._attn_implementation == attention.NAME:
        given["layout"] = attention.make_layout(batch.lengths, batch.input_ids.device)
    if "logits_to_keep" in known:
        logits: torch.Tensor = model(**given, logits_to_keep=batch.columns).logits
        return logits
    every: torch.Tensor = model(**given).logits
    return every[:, batch.columns]


def _inner(model: Any) -> Any:
    """The model of transformers inside the wrappers of DDP and peft."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prepare_packing(model: Any, max_length: int, device: torch.device) -> None:
    """Choose how packed examples attend, and prove on this very model that they do so alone.

    The logits of an example must not change when the one before it in its row does. Models that
    ignore `position_ids` when they build their mask fail this without any other sign.

    Raises:
        GateFailed: packed examples see each other.
    """
    inner = _inner(model)
    if attention.can_attend_per_example(inner, max_length):
        inner.set_attn_implementation(attention.NAME)
    low = min(64, model.get_input_embeddings().num_embeddings // 4)
    second = Row(list(range(2 * low, 3 * low)), 1)
    found = []
    model.eval()
    for first in (Row(list(range(low)), 1), Row(list(range(low, 2 * low)), 1)):
        batch = collate([[first, second]]).to(device)
        with torch.no_grad():
            found.append(logits_at(model, batch)[0, -second.trained :].float())
    model.train()
    if not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6):
        raise GateFailed(
            "packed examples see each other in this model: the result would be wrong",
            hint="set train.packing=false",
        )


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of raising at any point of a step; a second one raises.

    Only the main thread may set handlers; elsewhere signals go where they went before.
    """
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if received:
            raise Terminated if signum == signal.SIGTERM else KeyboardInterrupt
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {each: signal.signal(each, handle) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


class _Log:
    """`log.jsonl`: one line per step, the lines after `start` cut off, so that it is one run.

    Args:
        start: steps that stay; a resumed run writes the later ones again.
        write: False on all ranks but the first.
    """

    def __init__(self, path: Path, start: int, *, write: bool) -> None:
        self._path, self._file = path, None
        if not write:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, read_log(path, start))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, line: Step) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(asdict(line)) + "\n")
                self._file.flush()
            except OSError as error:
                raise disk_error(error, self._path) from error

    def sync(self) -> None:
        """On disk up to here: a checkpoint must not outlive the lines that led to it."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


def read_log(path: Path, steps: int | None = None) -> list[dict[str, Any]]:
    """The lines of a log, the first `steps` of them; a torn last line is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    found = [json.loads(line) for line in lines]
    return found if steps is None else [line for line in found if line["step"] <= steps]
