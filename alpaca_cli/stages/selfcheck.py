"""`alpaca train --selfcheck`: proves a recipe's training on a tiny model, before it costs money.

The recipe is cut down to a tiny random model of the same architecture and a few dozen embedded
examples; method, optimizer, packing, attention and the rest stay as they are. Then the real stage
(`alpaca_cli.stages.train.run`) trains it several times in a temporary folder, and what it leaves
behind is compared: it learns; how the work is split changes nothing; packed examples do not see
each other; a stopped training goes on as if nothing had happened; the saved model is the trained
one.

How the engine works is not known here.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, GateFailed, Terminated, UsageError
from alpaca_cli.core.files import digest
from alpaca_cli.core.progress import Progress, View
from alpaca_cli.core.settings import Recipe
from alpaca_cli.model.worker import this_worker
from alpaca_cli.stages.selfcheck_bench import BATCH, Bench, make_bench

STOP_AT = 3  # steps after which a training is asked to stop
FAST_RATE, FAST_STEPS = 1e-2, 120  # with which one batch is learnt by heart
LEARNT, FALLEN = 0.1, 0.9  # it is when the loss is below, or has fallen by this share
SAME = 1e-4  # relative difference of losses that only differ in the order of additions


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried."""

    name: str
    ok: bool
    detail: str
    """What was found: figures, or what is wrong."""
    seconds: float


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What came out.

    Attributes:
        model: the tiny model that stood in for the recipe's.
        notes: in what the trainings were not like the recipe's, beyond their size.
    """

    ok: bool
    model: str
    device: str
    notes: tuple[str, ...]
    checks: tuple[Check, ...]


def selfcheck(recipe: Recipe, progress: Progress) -> SelfCheck:
    """Train tiny versions of a recipe in a temporary folder, and compare them.

    Raises:
        AlpacaError: the recipe cannot be trained at all; as `alpaca_cli.stages.train.run`.
    """
    if this_worker() is not None:
        raise UsageError("--selfcheck starts its own processes", hint="start it without torchrun")
    with TemporaryDirectory(prefix="alpaca-selfcheck-") as name:
        bench = make_bench(recipe, Path(name))
        for note in bench.notes:
            progress.info(f"selfcheck: {note}")
        with progress.task(f"selfcheck on {bench.model}", total=len(CHECKS) + 1) as task:
            # What everything is compared with. When this fails there is nothing to check.
            report = bench.train("straight")
            checks = []
            for title, check in CHECKS:
                task.advance(note=title)
                checks.append(_tried(title, check, bench))
            task.advance(note="")
    passed = all(check.ok for check in checks)
    return SelfCheck(passed, bench.model, report.device, bench.notes, tuple(checks))


def _tried(name: str, check: Callable[[Bench], str], bench: Bench) -> Check:
    """A check's result: it returns what it found, or raises what is wrong."""
    began = time.monotonic()
    try:
        ok, detail = True, check(bench)
    except AlpacaError as error:
        ok, detail = False, str(error)
    return Check(name, ok, detail, time.monotonic() - began)


def _learns(bench: Bench) -> str:
    """One batch, again and again, in the precision of the recipe, is learnt by heart."""
    keys = {
        **bench.own,
        "learning_rate": FAST_RATE,
        "muon_learning_rate": 2 * FAST_RATE,
        "neftune": 0.0,
        "epochs": FAST_STEPS,
        "holdout_file": None,
    }
    bench.train("batch", None, "batch", **keys)
    return fallen([line["loss"] for line in bench.log("batch")])


def _split(bench: Bench) -> str:
    """Micro-batches of 1 and of 8, and two processes with 4 each."""
    bench.train("together", micro_batch=BATCH)
    one, two = bench.gpus
    reference = "straight"
    if one != "0" and two == "cpu:2":
        reference = "straight-cpu"
        bench.train(reference, gpus="0")
    report = bench.train("two", micro_batch=BATCH // 2, gpus=two)
    if report.processes != 2:
        raise GateFailed(f"{report.processes} processes trained instead of 2")
    pairs = {
        f"1 x {BATCH} and {BATCH} x 1": ("straight", "together"),
        f"1 process and 2 x {BATCH // 2} ({report.strategy})": (reference, "two"),
    }
    return "; ".join(
        same(title, bench.log(left), bench.log(right), SAME)
        for title, (left, right) in pairs.items()
    )


def _packs(bench: Bench) -> str:
    """Packed and padded rows."""
    if not bench.recipe.train.packing:
        return "not used: train.packing is false"
    bench.train("padded", packing=False)
    return same("packed and separate", bench.log("straight"), bench.log("padded"), SAME)


def _resumes(bench: Bench) -> str:
    """Stopped by SIGTERM in the middle, and started again."""
    with _terminating():
        try:
            bench.train("stopped", _Stopping(Console(quiet=True), quiet=True))
        except Terminated:
            pass
        else:
            raise GateFailed("asked to stop by SIGTERM, the training went on to its end")
    folder = bench.folder / "stopped" / "train"
    saved = sorted(path.name for path in (folder / "checkpoints").glob("step-*"))
    if not saved or (folder / "final").exists():
        raise GateFailed("stopped by SIGTERM, the training left no checkpoint")
    bench.train("stopped")
    exact = bench.gpus[0] == "0"
    found = same(
        f"stopped at {saved[-1]} and uninterrupted",
        bench.log("straight"), bench.log("stopped"), 0.0 if exact else SAME,
    )  # fmt: skip
    finals = [bench.folder / name / "train" / "final" for name in ("straight", "stopped")]
    weights = [[digest(path) for path in sorted(final.glob("*.safetensors"))] for final in finals]
    if exact and weights[0] != weights[1]:
        raise GateFailed("resumed, the training ended in other weights than uninterrupted")
    return found + (", the same weights" if exact else "")


def _saves(bench: Bench) -> str:
    """The held-out loss of the model in training, and of what was saved, loaded by itself."""
    from alpaca_cli.model.shrink import reloaded_loss

    trained = bench.log("straight", "held_out")[-1]["loss"]
    final = bench.folder / "straight" / "train" / "final"
    device = "cpu" if bench.gpus[0] == "0" else f"cuda:{bench.gpus[0].rstrip(',')}"
    loss, tokens = reloaded_loss(final, bench.recipe.train, bench.held_out, device)
    if not math.isclose(trained, loss, rel_tol=SAME):
        raise GateFailed(
            f"the held-out loss was {trained:.6f} in training, and is {loss:.6f} from the files"
        )
    return f"held-out loss {loss:.6f} over {tokens:,} tokens, difference {abs(trained - loss):.1e}"


CHECKS: tuple[tuple[str, Callable[[Bench], str]], ...] = (
    ("learns one batch by heart", _learns),
    ("the same however a step is split", _split),
    ("packed examples do not see each other", _packs),
    ("stopped and resumed as if uninterrupted", _resumes),
    ("the saved model is the trained one", _saves),
)


def fallen(losses: Sequence[float]) -> str:
    """What to say of a loss that fell far enough.

    Raises:
        GateFailed: it did not.
    """
    first, last = losses[0], min(losses[-3:])
    text = f"loss {first:.3f} to {last:.3f} in {len(losses):,} steps"
    if last < LEARNT or last < (1 - FALLEN) * first:
        return text
    raise GateFailed(f"{text}: one batch should fall below {LEARNT}, or by {FALLEN:.0%}")


def same(
    title: str, one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], limit: float
) -> str:
    """What to say of two logs that tell of the same training.

    Args:
        limit: largest relative difference of a step's loss, and a hundred times that of gradient
            norms; 0: bit for bit.

    Raises:
        GateFailed: they do not; names the first step in which they differ.
    """
    if len(one) != len(other):
        raise GateFailed(f"{title}: {len(one):,} and {len(other):,} steps")
    exact = ("step", "epoch", "tokens", "trained_tokens", "learning_rate")
    allowances = dict.fromkeys(exact, 0.0) | {"loss": limit, "grad_norm": 100 * limit}
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        for key, allowed in allowances.items():
            difference = abs(left[key] - right[key]) / max(abs(left[key]), 1e-12)
            if not difference <= allowed:  # NaN, too
                where = f"{title}: step {left['step']}: {key.replace('_', ' ')}"
                raise GateFailed(f"{where} {left[key]:.7g} and {right[key]:.7g}")
            if key == "loss":
                largest = max(largest, difference)
    found = f"{largest:.0e} apart at most" if largest else "no difference"
    return f"{title}: {found} in {len(one):,} steps"


class _Stopping(Progress):
    """Asks this process to stop, as a cluster would, when some steps have been told of."""

    @contextmanager
    def live(self, view: View) -> Iterator[Callable[[], None]]:
        told = count(1)

        def tick() -> None:
            if next(told) == STOP_AT:
                signal.raise_signal(signal.SIGTERM)

        yield tick


@contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM raises Terminated where the training does not take it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
