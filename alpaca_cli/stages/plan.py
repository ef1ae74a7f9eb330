"""What a training would be and take, found out without training, loading weights or writing
anything (`train --dry-run`).

The data is tokenised and the first steps are dealt as they would be; memory, FLOPs and disk follow
from the model's shape (`alpaca_cli.model.memory`), time from them and an assumed utilisation.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.hardware import Gpu, find_gpu, parse_machine
from alpaca_cli.core.machine import memory_bytes
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import Train
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.reviews import excluded
from alpaca_cli.stages.fitting import Fitting
from alpaca_cli.stages.training import disk_needed
from alpaca_cli.stages.training_data import data_warnings, hold_out, schedule_of, source

if TYPE_CHECKING:
    from alpaca_cli.model.batches import Schedule
    from alpaca_cli.model.memory import Memory, Shape
    from alpaca_cli.model.rows import Rows
    from alpaca_cli.model.tokens import Tokens

UTILISATION = 0.4  # share of the maker's peak that is reached: what good trainers do, not a promise


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one process at its worst moment; parts as in `alpaca_cli.model.memory.Memory`.

    Attributes:
        available: on its device: GPU memory, or its share of the RAM.
        fits: whether `total` leaves the tenth free that allocators need.
        save_peak: host memory of the first process while it saves; `host` is all there is here,
            None when the training is planned for another machine.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int
    moment: str
    total: int
    available: int
    fits: bool
    save_peak: int
    host: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training would be.

    Attributes:
        device: the kind of card, or `cpu`.
        examples: trained on; `dropped` and `truncated` ones were longer than max_length, and
            `excluded` ones are left out because a person marked them bad (`train.exclude`).
        tokens: prompt and response tokens of all epochs; the loss is taken over `trained_tokens`.
        micro_batches: forward passes in a step of one process, on average over the first steps.
        padding: share of the positions in them that hold no token.
        largest: positions of the largest micro-batch that could come: what memory is planned for.
        checkpoint: bytes of one; `disk_needed` of all that stay and the final model.
        flops: model FLOPs of the whole training; `recomputed` come on top with checkpointing.
        seconds: of training steps at `utilisation` of the GPUs' peak; None without a known one.
        fits_with: changes that make it fit, best first, each as `key=value`s; empty when it fits.
        notes: what to know, one line each.
    """

    model: str
    method: str
    dtype: str
    strategy: str
    device: str
    processes: int
    steps: int
    epochs: float
    examples: int
    held_out: int
    dropped: int
    truncated: int
    excluded: int
    tokens: int
    trained_tokens: int
    longest: int
    micro_batches: float
    padding: float
    largest: int
    parameters: int
    trained_parameters: int
    memory: MemoryPlan
    checkpoint: int
    disk_needed: int
    disk_free: int
    flops: float
    recomputed: float
    seconds: float | None
    utilisation: float | None
    fits_with: list[list[str]]
    notes: list[str]


@dataclass(frozen=True, slots=True)
class _Machine:
    """What a training would run on.

    Attributes:
        kind: `cuda` or `cpu`; `name` of the card, or `cpu`.
        memory: bytes for each process.
        card: what is known of it.
        here: it is this machine.
    """

    kind: str
    name: str
    processes: int
    memory: float
    card: Gpu | None
    here: bool


def plan(
    recipe: Recipe, run: RunFolder, data: str | None = None, machine: str | None = None
) -> Plan:
    """What `train.run` would do.

    Args:
        machine: GPUs that are not here, as `8xA100-80GB`; else this machine's are planned for.

    Raises:
        DataError, UsageError: as `train.run`; or `machine` names no known card.
    """
    from alpaca_cli.model.launch import check_batch
    from alpaca_cli.model.tokens import prepare_tokens

    settings, named = recipe.train, source(run, data)
    on = _machine(settings, machine)
    check_batch(settings.global_batch, on.processes)
    # Not the run's folder of tokens: it would be written to.
    tokens = prepare_tokens(
        settings, "", lambda: read_examples([named]), None, excluded(settings.exclude)
    )
    found = _planned(recipe, run, on, tokens)
    return replace(found, notes=[*found.notes, *data_warnings(settings, named)])


def _machine(settings: Train, machine: str | None) -> _Machine:
    """The devices that `train.gpus` takes of a named machine, or of this one.

    Raises:
        UsageError: there are not so many, or GPUs are named where the recipe asks for the CPU.
    """
    from alpaca_cli.model.devices import available_memory, gpus
    from alpaca_cli.model.launch import choose_gpus, wants_cpu

    if machine is not None:
        if wants_cpu(settings.gpus):
            raise UsageError(f"--on {machine}: train.gpus: {settings.gpus} asks for the CPU")
        count, card = parse_machine(machine)
        processes = choose_gpus(settings.gpus, count).processes * settings.nodes
        return _Machine("cuda", card.name, processes, card.memory * 2**30, card, here=False)
    found = gpus()
    chosen = choose_gpus(settings.gpus, len(found))
    memory = available_memory(chosen.gpus, chosen.processes)
    processes = chosen.processes * settings.nodes
    if not chosen.gpus:
        return _Machine("cpu", "cpu", processes, memory, None, here=True)
    name = found[chosen.gpus[0]].name
    return _Machine("cuda", name, processes, memory, find_gpu(name), here=True)


def _planned(recipe: Recipe, run: RunFolder, on: _Machine, tokens: Tokens) -> Plan:
    """The plan for this data on this machine."""
    from alpaca_cli.model.adapters import check_method
    from alpaca_cli.model.memory import shape_of
    from alpaca_cli.model.student import make_trainee

    settings, dtype = recipe.train, _dtype(recipe.train, on)
    rows, held_out = hold_out(settings, tokens, recipe.seed)
    schedule = schedule_of(recipe, len(rows))
    visited = _visited(rows, schedule)
    trainee = make_trainee(
        settings, tokens.tokenizer, tokens.template, recipe.seed, dtype, weights=False
    )
    shape = shape_of(trainee.model, settings)
    fitting = Fitting(tokens, rows, schedule, dtype, on.kind, on.memory)
    dealt = fitting.dealt(settings, on.processes)
    strategy = fitting.strategy(settings, shape, on.processes)
    check_method(settings, strategy)
    needed = fitting.memory(settings, shape, on.processes)
    fits = fitting.fits(settings, shape, on.processes)
    flops, recomputed = _flops(visited, shape, settings)
    reached = _reached(on, dtype)
    return Plan(
        model=settings.model if isinstance(settings.model, str) else "from scratch",
        method=settings.method,
        dtype=str(dtype).removeprefix("torch."),
        strategy=strategy,
        device=on.name,
        processes=on.processes,
        steps=schedule.steps,
        epochs=settings.epochs,
        examples=len(rows),
        held_out=len(held_out),
        dropped=tokens.encoded.dropped,
        truncated=tokens.encoded.truncated,
        excluded=tokens.excluded,
        tokens=int(visited.lengths.sum()),
        trained_tokens=int(visited.trained.sum()),
        longest=int(rows.lengths.max()),
        micro_batches=dealt.micro_batches,
        padding=dealt.padding,
        largest=fitting.largest(settings),
        parameters=trainee.parameters,
        trained_parameters=trainee.trainable,
        memory=_memory_plan(needed, on, fits),
        checkpoint=needed.checkpoint,
        disk_needed=disk_needed(settings, shape, schedule.steps),
        disk_free=_disk_free(run.path),
        flops=flops,
        recomputed=recomputed,
        # Padding is computed, too.
        seconds=None if reached is None else (flops + recomputed) / (1 - dealt.padding) / reached,
        utilisation=None if reached is None else UTILISATION,
        fits_with=[] if fits else fitting.smaller_settings(settings, shape, on.processes),
        notes=[*tokens.notes, *trainee.notes],
    )


def _dtype(settings: Train, on: _Machine) -> Any:
    """torch's dtype that would be computed in there."""
    from alpaca_cli.model.strategy import compute_dtype

    wanted: str = settings.dtype
    if wanted == "auto" and not on.here and on.card is not None:  # torch cannot be asked
        wanted = "bfloat16" if on.card.bf16 else "float32"
    return compute_dtype(wanted, on.kind)


def _reached(on: _Machine, dtype: Any) -> float | None:
    """FLOP/s of all GPUs at the assumed utilisation; None where no peak is known."""
    if on.card is None or dtype.itemsize != 2:
        return None
    return UTILISATION * on.card.bf16_tflops * 1e12 * on.processes


def _visited(rows: Rows, schedule: Schedule) -> Rows:
    """All rows of all steps, repeats included."""
    return rows.take([i for step in range(schedule.steps) for i in schedule.indices(step)])


def _flops(visited: Rows, shape: Shape, settings: Train) -> tuple[float, float]:
    """Of the model for all tokens, and those that checkpointing adds."""
    from alpaca_cli.model.memory import flops_per_token, recomputed_flops

    tokens, trained = int(visited.lengths.sum()), int(visited.trained.sum())
    # The mean over tokens, not over examples: a token in a long example attends to more.
    length = float((visited.lengths**2).sum()) / tokens
    return (
        tokens * flops_per_token(shape, settings, length, trained / tokens),
        tokens * recomputed_flops(shape, settings, length),
    )


def _memory_plan(needed: Memory, on: _Machine, fits: bool) -> MemoryPlan:
    from alpaca_cli.model.memory import PARTS

    return MemoryPlan(
        **{part: getattr(needed, part) for part in PARTS},
        moment=needed.moment,
        total=needed.total,
        available=int(on.memory),
        fits=fits,
        save_peak=needed.save_peak,
        host=memory_bytes() if on.here else None,
    )


def _disk_free(path: Path) -> int:
    """Bytes free where the run is, or would be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free
