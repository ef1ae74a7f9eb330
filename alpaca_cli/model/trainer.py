"""The training loop, on accelerate.

The loss of a step is the mean over the trained tokens of the whole global batch, whatever
micro-batches, packing and ranks it is split into: every rank knows from the schedule how many
tokens there are, so summed losses are divided by that number, and 1 x 8, 8 x 1 and 2 processes
x 4 train alike (tested).

Where examples come from, and which files make a finished training, is not known here.
"""

from __future__ import annotations

import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from alpaca_cli.core.errors import Terminated
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.attention import prove_packing
from alpaca_cli.model.batches import Schedule, collate, deal, positions
from alpaca_cli.model.checkpoints import Checkpoint, Position, load_optimizers, save_checkpoint
from alpaca_cli.model.forward import summed_loss
from alpaca_cli.model.log import Evaluation, Log, Sample, Step, read_log
from alpaca_cli.model.noise import Noise
from alpaca_cli.model.optim import learning_rate_factor, make_optimizers, set_learning_rate
from alpaca_cli.model.rows import Ids, Row
from alpaca_cli.model.samples import greedy_answers
from alpaca_cli.model.strategy import Strategy, between_micro_batches, share_model, split_again
from alpaca_cli.model.student import Trainee
from alpaca_cli.model.watch import Watch, not_finite

FIRST_SAVE = 5  # the step after which saving is tried: not hours later, when it matters


class Observer(Protocol):
    """Who is told what happens, in the first process; quiet in the others."""

    def on_step(self, line: Step) -> None: ...

    def on_evaluation(self, line: Evaluation) -> None: ...

    def on_spike(self, warning: str) -> None: ...

    def on_save(self, folder: Path, seconds: float) -> None: ...


@dataclass(frozen=True, slots=True)
class Training:
    """All that a training is made of.

    Attributes:
        rows: to train on; `schedule` says which are in which step.
        held_out: to take the held-out loss from; none is taken when empty.
        asked: the held-out (instruction, input) pairs, with their prompts' ids, that are answered
            at each evaluation.
        folder: gets `log.jsonl`, `held_out.jsonl` and `checkpoints/`.
        flops: of the model for one token, forward and backward.
        peak: FLOP/s that the devices of all processes can do; None when unknown.
    """

    trainee: Trainee
    rows: Sequence[Row]
    held_out: Sequence[Row]
    asked: Sequence[tuple[str, str, Ids]]
    schedule: Schedule
    settings: Train
    folder: Path
    accelerator: Accelerator
    strategy: Strategy
    flops: float
    peak: float | None

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"


@dataclass(frozen=True, slots=True)
class _Engine:
    """The model as it is called, and what changes it."""

    model: Any
    optimizers: list[torch.optim.Optimizer]
    noise: Noise | None


def train(training: Training, observer: Observer, resumed: Checkpoint | None = None) -> None:
    """Train in place, to the end of the schedule.

    Args:
        resumed: where to go on from; the trainee was loaded from it.

    Raises:
        KeyboardInterrupt, Terminated: Ctrl-C, SIGTERM or SIGUSR1; a checkpoint was saved first.
        GateFailed: a loss is not a number, packed examples see each other, or a checkpoint is not
            what was to be saved.
        ResourceError: the disk is full.
    """
    settings, schedule, main = (
        training.settings,
        training.schedule,
        training.accelerator.is_main_process,
    )
    start = resumed.position.step if resumed else 0
    engine = _prepare(training, resumed)
    seen = resumed.position if resumed else Position(0, 0, 0, 0, 1, "single", None, {})
    with (
        Log(training.folder / "log.jsonl", start, write=main) as log,
        Log(training.folder / "held_out.jsonl", start, write=main) as held_out_log,
        _stop_signals() as received,
    ):
        watch = Watch.from_log(
            read_log(training.folder / "log.jsonl", start), round(settings.warmup * schedule.steps)
        )
        held_out_losses = {
            line["step"]: line["loss"]
            for line in read_log(training.folder / "held_out.jsonl", start)
        }
        best = min(held_out_losses.values(), default=math.inf)

        def look(done: int) -> float:
            nonlocal best
            found = _evaluate(training, engine, done, best)
            best = min(best, found.loss)
            held_out_log.write(asdict(found))
            observer.on_evaluation(found)
            return found.loss

        # Left out because the training was asked to stop.
        if start not in held_out_losses and _is_time_to_look(training, start):
            look(start)
        for step in range(start, schedule.steps):
            line, stop = _step(training, engine, step, received)
            if spike := watch.see(line.step, line.loss, line.grad_norm):
                rows = tuple(training.rows[index].number for index in schedule.indices(step))
                line = replace(line, spike=True, rows=rows)
                observer.on_spike(spike.warning(rows))
            log.write(_log_line(line))
            observer.on_step(line)
            done, last = step + 1, step + 1 == schedule.steps
            saving = bool(stop) or (not last and _is_time_to_save(done, settings.save_every))
            # Asked to stop, the minute there may be is for saving.
            loss = look(done) if _is_time_to_look(training, done) and not stop else None
            seen = Position(
                step=done,
                examples=min(done * schedule.global_batch, schedule.visits),
                tokens=seen.tokens + line.tokens,
                trained_tokens=seen.trained_tokens + line.trained_tokens,
                processes=training.accelerator.num_processes,
                strategy=training.strategy,
                held_out_loss=loss,
                scaler=_scaler_state(training.accelerator),
            )
            if saving:
                log.sync()
                held_out_log.sync()
                _save(training, engine, seen, observer)
            if stop:
                raise KeyboardInterrupt if stop == signal.SIGINT else Terminated


def saves(steps: int, every: int) -> int:
    """How many checkpoints a training of so many steps writes when nobody stops it."""
    return sum(_is_time_to_save(done, every) for done in range(1, steps))


def _is_time_to_save(done: int, every: int) -> bool:
    return done % every == 0 or done == min(FIRST_SAVE, every)


def _is_time_to_look(training: Training, done: int) -> bool:
    """Whether a held-out loss is taken after `done` steps."""
    settings, last = training.settings, done == training.schedule.steps
    due = done % settings.evaluate_every == 0 or _is_time_to_save(done, settings.save_every) or last
    return bool(training.held_out) and done > 0 and due


def _save(training: Training, engine: _Engine, position: Position, observer: Observer) -> None:
    began = time.perf_counter()
    folder = save_checkpoint(
        training.checkpoints,
        position,
        training.trainee,
        [each.optimizer for each in engine.optimizers],
        training.accelerator,
        training.settings.keep_checkpoints,
    )
    observer.on_save(folder, time.perf_counter() - began)


def _prepare(training: Training, resumed: Checkpoint | None) -> _Engine:
    """Model and optimizers on their devices, wrapped or split as the strategy says."""
    trainee, settings, accelerator = training.trainee, training.settings, training.accelerator
    trainee.model.train()
    # Made after the model is on its device and split: they hold on to the tensors they are given.
    model = share_model(trainee.model, accelerator, training.strategy)
    optimizers = make_optimizers(trainee.model, settings)
    if settings.packing:
        prove_packing(trainee.model, settings.max_length, accelerator.device)
        split_again(trainee.model)
    if resumed:
        load_optimizers(resumed.path, trainee.model, optimizers, accelerator.num_processes)
        if accelerator.scaler is not None and resumed.position.scaler:
            accelerator.scaler.load_state_dict(resumed.position.scaler)
    noise = Noise(trainee.model, settings.neftune) if settings.neftune else None
    return _Engine(model, [accelerator.prepare_optimizer(each) for each in optimizers], noise)


def _step(training: Training, engine: _Engine, step: int, received: list[int]) -> tuple[Step, int]:
    """One optimizer step; its log line, and the signal that some rank received (0: none)."""
    began = time.perf_counter()
    accelerator, settings, schedule = training.accelerator, training.settings, training.schedule
    rank, world = accelerator.process_index, accelerator.num_processes
    rows = [training.rows[index] for index in schedule.indices(step)]
    trained = sum(row.trained for row in rows)
    dealt = deal(rows, world, settings.micro_batch, settings.max_length, settings.packing)
    # Dropout is a function of the step, so that a resumed run repeats it.
    torch.manual_seed((schedule.seed * 1_000_003 + step) * world + rank)
    losses = []
    for number, packed in enumerate(dealt[rank], 1):
        batch = collate(packed).to(accelerator.device)
        if engine.noise is not None:
            engine.noise.set(packed, schedule.seed, step)
        last = number == len(dealt[rank])
        waiting = between_micro_batches(engine.model, accelerator, training.strategy)
        with nullcontext() if last else waiting:
            loss = summed_loss(engine.model, batch)
            # Gradients are averaged over ranks: times `world` makes that a sum.
            accelerator.backward(loss * (world / trained))
        losses.append(loss.detach())
    total = torch.stack([torch.stack(losses).sum(), torch.zeros_like(losses[0])])
    total[1] = _told(received, world)
    if world > 1:
        total = accelerator.reduce(total, reduction="sum")
    mean_loss = float(total[0]) / trained
    norm = float(
        accelerator.clip_grad_norm_(training.trainee.model.parameters(), settings.max_grad_norm)
    )
    # With float16 some steps overflow, and the scaler skips them: that is how it finds its scale.
    if not math.isfinite(mean_loss) or (not math.isfinite(norm) and accelerator.scaler is None):
        first = _first_not_finite(losses, dealt[rank])
        raise not_finite(step + 1, mean_loss, norm, [row.number for row in rows], first)
    factor = learning_rate_factor(step, schedule.steps, settings.warmup)
    rate = set_learning_rate(engine.optimizers, factor)
    # bfloat16 weights are rounded at random: alike in every copy of the model.
    torch.manual_seed(schedule.seed * 1_000_003 + step)
    for optimizer in engine.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    tokens, seconds = sum(len(row.ids) for row in rows), time.perf_counter() - began
    done = min((step + 1) * schedule.global_batch, schedule.visits)
    line = Step(
        step=step + 1,
        epoch=round(done / schedule.examples, 4),
        loss=mean_loss,
        learning_rate=rate,
        grad_norm=norm,
        tokens=tokens,
        trained_tokens=trained,
        positions=sum(positions(packed) for batches in dealt for packed in batches),
        seconds=seconds,
        memory=_memory(accelerator.device),
        mfu=training.flops * tokens / seconds / training.peak if training.peak else None,
    )
    return line, _agreed(int(total[1]), world)


def _first_not_finite(
    losses: Sequence[torch.Tensor], batches: Sequence[Sequence[Sequence[Row]]]
) -> list[int] | None:
    """The examples of the first micro-batch of any rank whose loss is not finite."""
    found = [
        [row.number for line in packed for row in line]
        for loss, packed in zip(losses, batches, strict=True)
        if not math.isfinite(float(loss))
    ]
    everywhere: list[list[int]] = gather_object(found[:1])
    return everywhere[0] if everywhere else None


def _evaluate(training: Training, engine: _Engine, done: int, best: float) -> Evaluation:
    """The held-out loss after `done` steps, and what the model answers."""
    began = time.perf_counter()
    accelerator, settings = training.accelerator, training.settings
    rank, world, size = accelerator.process_index, accelerator.num_processes, settings.global_batch
    total = torch.zeros(1, device=accelerator.device)
    training.trainee.model.eval()
    with torch.no_grad():
        for start in range(0, len(training.held_out), size):
            rows = [
                training.held_out[index]
                for index in range(start, min(start + size, len(training.held_out)))
            ]
            dealt = deal(rows, world, settings.micro_batch, settings.max_length, settings.packing)
            for packed in dealt[rank]:
                total += summed_loss(engine.model, collate(packed).to(accelerator.device))
        answers = greedy_answers(
            training.trainee, [ids for _, _, ids in training.asked], accelerator.device
        )
    training.trainee.model.train()
    split_again(training.trainee.model)
    if world > 1:
        total = accelerator.reduce(total, reduction="sum")
    loss = float(total) / sum(row.trained for row in training.held_out)
    return Evaluation(
        step=done,
        loss=loss,
        best=loss < best,
        seconds=time.perf_counter() - began,
        samples=tuple(
            Sample(instruction, given, answer)
            for (instruction, given, _), answer in zip(training.asked, answers, strict=True)
        ),
    )


def _log_line(line: Step) -> dict[str, Any]:
    """`spike` and `rows` only where there is a spike."""
    found = asdict(line)
    if not math.isfinite(line.grad_norm):
        found["grad_norm"] = None
    return found if line.spike else {k: v for k, v in found.items() if k not in ("spike", "rows")}


def _memory(device: torch.device) -> int:
    """Bytes; see `Step.memory`."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def _scaler_state(accelerator: Accelerator) -> dict[str, Any]:
    return {} if accelerator.scaler is None else dict(accelerator.scaler.state_dict())


def _agreed(total: int, world: int) -> int:
    """The signal that the ranks' sum of `_told` stands for, 0 when there was none."""
    return signal.SIGTERM if total > world else signal.SIGINT if total else 0


def _told(received: Sequence[int], world: int) -> int:
    """A rank's part of the sum: more than all ranks' Ctrl-C together when it is to terminate."""
    return 0 if not received else 1 if received[0] == signal.SIGINT else world + 1


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect what asks to stop instead of raising at any point of a step; a second Ctrl-C raises.

    SIGUSR1 is what Slurm sends some time before a job's end; it and SIGTERM may come twice, from
    launcher and scheduler. Only the main thread may set handlers; elsewhere signals go where they
    went before.
    """
    received: list[int] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if received and signum == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {each: signal.signal(each, handle) for each in stops}
    try:
        yield received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
