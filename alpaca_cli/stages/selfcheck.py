"""`alpaca train --selfcheck`: proves a recipe's training on a tiny model, before it costs money.

The recipe is cut down to a tiny random model of the same architecture and a few dozen embedded
examples; method, optimizer, packing, attention and the rest stay as they are. Then the real stage
(`alpaca_cli.stages.train.run`) trains it several times in a temporary folder, and what it leaves
behind is compared: it learns; how the work is split changes nothing; packed examples do not see
each other; a stopped training goes on as if nothing had happened; the saved model is the trained
one.

Comparisons are made in float32, with dropout and torch.compile off: rounding and chance would hide
what is looked for. How the engine works is not known here.
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
from random import Random
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, DataError, GateFailed, Terminated, UsageError
from alpaca_cli.core.files import digest, read_jsonl, write_jsonl
from alpaca_cli.core.progress import Progress, View
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.core.template import load_template
from alpaca_cli.data.procedural import draw, family_names
from alpaca_cli.model.launch import choose_gpus, wants_cpu
from alpaca_cli.model.worker import this_worker
from alpaca_cli.stages import train as stage
from alpaca_cli.stages.training import Report

BATCH, STEPS, STOP_AT = 8, 8, 3
EXAMPLES, HELD_OUT = 40, 6  # fewer than BATCH * STEPS: an epoch ends in the middle of a step
LONGEST = 150  # characters of an example; no token has less than one
LENGTH = 192  # tokens; a micro-batch of one packed row holds a few examples, not all eight
RATE, FAST_RATE, FAST_STEPS = 5e-3, 1e-2, 120
LEARNT, FALLEN = 0.1, 0.9  # one batch is learnt by heart: its loss is below, or falls by this share
SAME = 1e-4  # relative difference of losses that only differ in the order of additions
TINY = {
    "config": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2,
    }
}  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class _Bench:
    """A folder to train in, and what is trained there.

    Attributes:
        recipe: cut down, for comparisons.
        gpus: values of `train.gpus` for one process and for two.
        own: settings of the user's recipe that comparisons do not keep.
    """

    folder: Path
    recipe: Recipe
    model: str
    notes: tuple[str, ...]
    gpus: tuple[str, str]
    own: Mapping[str, Any]
    held_out: tuple[Example, ...]

    def train(
        self, name: str, progress: Progress | None = None, data: str = "rows", **keys: Any
    ) -> Report:
        """Train in `folder/name`, with some keys of `train` changed."""
        section = self.recipe.train.model_dump(mode="json") | {"gpus": self.gpus[0]} | keys
        recipe = Recipe.model_validate(self.recipe.model_dump(mode="json") | {"train": section})
        file = str(self.folder / f"{data}.jsonl")
        return stage.run(recipe, RunFolder(self.folder / name), progress or _silent(), data=file)

    def log(self, name: str, file: str = "log") -> list[dict[str, Any]]:
        """The lines that a training left."""
        path = self.folder / name / "train" / f"{file}.jsonl"
        return [line for _, line in read_jsonl(path)]


def selfcheck(recipe: Recipe, progress: Progress) -> SelfCheck:
    """Train tiny versions of a recipe in a temporary folder, and compare them.

    Raises:
        AlpacaError: the recipe cannot be trained at all; as `alpaca_cli.stages.train.run`.
    """
    if this_worker() is not None:
        raise UsageError("--selfcheck starts its own processes", hint="start it without torchrun")
    with TemporaryDirectory(prefix="alpaca-selfcheck-") as name:
        bench = _bench(recipe, Path(name))
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


def _tried(name: str, check: Callable[[_Bench], str], bench: _Bench) -> Check:
    """A check's result: it returns what it found, or raises what is wrong."""
    began = time.monotonic()
    try:
        ok, detail = True, check(bench)
    except AlpacaError as error:
        ok, detail = False, str(error)
    return Check(name, ok, detail, time.monotonic() - began)


def _bench(recipe: Recipe, folder: Path) -> _Bench:
    """The recipe cut down, its data written, its tiny model made."""
    examples = _examples()
    rows = [_row(example) for example in examples]
    write_jsonl(folder / "rows.jsonl", rows[HELD_OUT:])
    write_jsonl(folder / "batch.jsonl", rows[-BATCH:])
    write_jsonl(folder / "held-out.jsonl", rows[:HELD_OUT])
    given = recipe.train.model_dump(mode="json")
    notes = []
    if load_template(recipe.train.template).chat_template:
        # Its special tokens are the real tokenizer's, which the tiny one has not.
        given["template"] = "alpaca"
        notes.append("the Alpaca template stands in for the tokenizer's own")
    if recipe.train.compile:
        notes.append("without torch.compile, which would take minutes")
    model, note = _tiny_model(recipe.train, given, examples, folder)
    section = given | {
        "lora": given["lora"] | {"dropout": 0.0},
        "epochs": BATCH * STEPS / (EXAMPLES - HELD_OUT),
        "learning_rate": RATE,
        # Muon computes in bfloat16: at its usual rates that would show.
        "muon_learning_rate": RATE,
        "global_batch": BATCH,
        "micro_batch": 1,
        "max_length": LENGTH,
        "dtype": "float32",
        "weights": "float32",
        "compile": False,
        "save_every": 1000,
        "holdout": 0,
        "holdout_file": str(folder / "held-out.jsonl"),
        "evaluate_every": 1000,
        "samples": 0,
        "report_to": [],
        "nodes": 1,
        "rendezvous": "",
        "run_id": "",
    }
    if note:
        notes.append(note)
        section["lora"]["target_modules"] = "all-linear"  # its layers have other names
    tiny = Recipe.model_validate({"name": "selfcheck", "seed": recipe.seed, "train": section})
    own = {key: getattr(recipe.train, key) for key in ("dtype", "weights")}
    held_out = tuple(examples[:HELD_OUT])
    return _Bench(folder, tiny, model, tuple(notes), _devices(recipe.train.gpus), own, held_out)


def _tiny_model(
    train: Train, section: dict[str, Any], examples: Sequence[Example], folder: Path
) -> tuple[str, str]:
    """Put a tiny model into a recipe's section; what it is, and a note when it is another kind."""
    if isinstance(train.model, ScratchModel):
        section["model"] = TINY
        return "llama, 2 layers, 64 wide, from scratch", ""
    from alpaca_cli.model.shrink import shrink, tiny_llama
    from alpaca_cli.model.tokens import texts

    template, target = load_template(section["template"]), folder / "model"
    section["model"] = str(target)
    try:
        trust = train.trust_remote_code
        return shrink(train.model, trust, template, texts(examples), target), ""
    except DataError as error:
        note = f"a LLaMA stands in for the recipe's model: {error}"
        return tiny_llama(template, texts(examples), target), note


def _devices(wanted: str | int) -> tuple[str, str]:
    """Values of `train.gpus` for one process and for two, near to what the recipe says."""
    from alpaca_cli.model.devices import gpus

    available = len(gpus())
    if wants_cpu(wanted) or not available:
        return "0", "cpu:2"
    try:
        cards = choose_gpus(wanted, available).gpus
    except UsageError:  # made for a larger machine
        cards = list(range(available))
    return f"{cards[0]},", ",".join(map(str, cards[:2])) if len(cards) > 1 else "cpu:2"


def _examples() -> list[Example]:
    """Short tasks of the embedded teacher, no two alike, the same ones every time."""
    rng, names = Random(0), family_names()
    found: dict[str, Example] = {}
    while len(found) < EXAMPLES:
        task = draw(rng, rng.choice(names))
        text = task.instruction + task.input + task.output
        if len(text) <= LONGEST and text.isascii():
            found[text] = Example(task.instruction, task.input, task.output)
    return list(found.values())


def _row(example: Example) -> dict[str, str]:
    return {
        "instruction": example.instruction, "input": example.input, "output": example.output,
    }  # fmt: skip


def _silent() -> Progress:
    return Progress(Console(quiet=True), quiet=True)


def _learns(bench: _Bench) -> str:
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


def _split(bench: _Bench) -> str:
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


def _packs(bench: _Bench) -> str:
    """Packed and padded rows."""
    if not bench.recipe.train.packing:
        return "not used: train.packing is false"
    bench.train("padded", packing=False)
    return same("packed and separate", bench.log("straight"), bench.log("padded"), SAME)


def _resumes(bench: _Bench) -> str:
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


def _saves(bench: _Bench) -> str:
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


CHECKS: tuple[tuple[str, Callable[[_Bench], str]], ...] = (
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
        limit: largest relative difference of a step's loss; 0: bit for bit, gradients, too.

    Raises:
        GateFailed: they do not; names the first step in which they differ.
    """
    if len(one) != len(other):
        raise GateFailed(f"{title}: {len(one):,} and {len(other):,} steps")
    largest = 0.0
    for left, right in zip(one, other, strict=True):
        keys = ["step", "epoch", "tokens", "trained_tokens", "learning_rate"]
        keys += ["loss", "grad_norm"] if limit == 0 else []
        for key in keys:
            if left[key] != right[key]:
                raise GateFailed(
                    f"{title}: step {left['step']}: {key} {left[key]} and {right[key]}"
                )
        difference = abs(left["loss"] - right["loss"]) / max(abs(left["loss"]), 1e-12)
        if not difference <= limit:
            raise GateFailed(
                f"{title}: step {left['step']}: loss {left['loss']:.6f} and {right['loss']:.6f}"
            )
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
