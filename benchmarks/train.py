"""Useful tokens per second of a training: padded the original's way, by length, packed, and TRL.

    python benchmarks/train.py [DATA] [--micro-batch 16] [--hidden 256] [--layers 4] [--steps 16]
                               [--packed-rows 1] [--threads N] [--rounds 3] [--trl PYTHON] [--json]

One LLaMA with random weights, one tokenizer (trained on the data), real examples, the same fused
AdamW, learning rates and clipping, float32 on CPU, the same number of threads. Every way is a
process of its own, one after the other, the order turned round from round to round; told is the
median of the rounds. A useful token is one of a prompt or a response, or its EOS; padding is none.

The clock runs from outside, in the same way for all: from the moment that the last warm-up step
stands in a process's log to the moment that its last step does. All that the process does in
between counts. CPU seconds of the process are told beside, for on a shared machine only they can
be compared.

padded: random micro-batches filled up to their longest example, by plain transformers; what the
original's Trainer does, without the Trainer's own cost (`train_peers.py`).
by length, packed: `alpaca train` as users run it, without and with `train.packing`.
TRL: SFTTrainer's packing, `bfd` (its default: whole examples, kept apart by a mask over the packed
row) and `wrapped` (examples cut at the row's end, seeing each other: not the same training). It
is no dependency of ours; `--trl` names an interpreter that has it. Both packers compute
`--packed-rows` rows of `--max-length` tokens at once, 1 by default, which suits TRL: what its mask
costs grows with the square of them.

The first three take the same examples in each step, so all their losses must agree, or the script
ends in 5: speed without correctness is no figure. How far TRL's packed examples see each other is
told. The output layer is a large part of so small a model, and alpaca computes it where there is
something to learn only; the wider the model (`--hidden`), the smaller that part.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from quickstart import stolen
from train_job import (
    CLIP,
    DATA,
    LEARNING_RATE,
    SEED,
    WARM_UP,
    failed,
    has_lines,
    read_rows,
    save_model,
    say,
    write_job,
)

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.core.machine import cores

HERE = Path(__file__).resolve().parent
PEERS = HERE / "train_peers.py"
FIRST_STEP, ALL_STEPS = 1e-5, 1e-2  # how far losses may differ: equal weights; after some updates
LEAK = 1e-3  # logits that differ by more have seen another example; rounding is below 1e-4
GOAL = 2.5  # packed against padded
NO_TRL = "not installed: pip install trl, here or elsewhere; then --trl PYTHON-THAT-HAS-IT"


class Clock(NamedTuple):
    """Seconds, and those of CPU in all threads."""

    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Run:
    """One process, from its last warm-up step on."""

    clock: Clock
    tokens: int
    positions: int
    losses: list[float]
    """Of all steps, those of the warm-up too; TRL's are not comparable and left out."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to train."""

    name: str
    command: list[str]
    """It gets an empty folder as its last argument, and writes `train/log.jsonl` there."""
    comparable: bool = True
    """It takes the same examples in each step as the others."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What the table tells of a way: medians of all rounds."""

    name: str
    tokens_per_second: float
    tokens_per_cpu_second: float
    slowest: float
    fastest: float
    """Tokens per CPU second of the slowest and the fastest round."""
    useful: float
    """Share of the computed positions that hold a useful token."""
    note: str


# --- the ways ------------------------------------------------------------------------------------


def prepare(folder: Path, options: argparse.Namespace) -> int:
    """`model/` and `job.json`, what all ways start from; returns the number of examples."""
    rows = read_rows(options.data, options.vocabulary, options.max_length)
    shape = {
        "vocab_size": len(rows.tokenizer),
        "hidden_size": options.hidden,
        # As in LLaMA: 8/3 of the width, in whole multiples of 32.
        "intermediate_size": -(-options.hidden * 8 // 3 // 32) * 32,
        "num_hidden_layers": options.layers,
        "num_attention_heads": max(1, options.hidden // 64),
        # Far from zero, so that what a token sees of other examples shows in the loss.
        "initializer_range": 0.1,
    }
    save_model(folder / "model", rows.tokenizer, shape)
    write_job(
        folder / "job.json",
        rows,
        options.steps,
        options.global_batch,
        micro_batch=options.micro_batch,
        max_length=options.max_length,
        packed_rows=options.packed_rows,
    )
    say(f"{options.data.name}: {rows.told()}")
    return len(rows.ids)


def ways(folder: Path, options: argparse.Namespace, examples: int) -> list[Way]:
    """All ways; TRL's are left out when its interpreter is not known."""
    keys = {
        "seed": SEED, "train.model": folder / "model", "train.method": "full",
        "train.epochs": options.steps * options.global_batch / examples,
        "train.learning_rate": LEARNING_RATE, "train.warmup": WARM_UP,
        "train.weight_decay": 0, "train.optimizer": "adamw", "train.max_grad_norm": CLIP,
        "train.global_batch": options.global_batch,
        "train.max_length": options.max_length, "train.overlong": "drop",
        "train.dtype": "float32", "train.save_every": 10**6,
    }  # fmt: skip
    alpaca = [sys.executable, "-m", "alpaca_cli", "train", str(options.data), "--quiet"]
    alpaca += [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    found = [Way("padded", [sys.executable, str(PEERS), "padded", str(folder)])]
    for name, packing, size in (
        ("alpaca by length", "false", options.micro_batch),
        ("alpaca packed", "true", options.packed_rows),
    ):
        how = ["--set", f"train.packing={packing}", "--set", f"train.micro_batch={size}"]
        found.append(Way(name, [*alpaca, *how, "--run"]))
    if options.trl:
        for strategy in ("bfd", "wrapped"):
            command = [options.trl, str(PEERS), strategy, str(folder)]
            found.append(Way(f"TRL {strategy}", command, comparable=False))
    return found


# --- measuring ------------------------------------------------------------------------------------


def measure(way: Way, folder: Path, options: argparse.Namespace) -> Run:
    """Run a way in an empty folder, and look at its log and its CPU time from outside.

    Its own report of seconds is not used: what it does between two steps counts, too.
    """
    psutil = importlib.import_module("psutil")  # comes with accelerate, without annotations
    log, errors = folder / "train" / "log.jsonl", folder.with_suffix(".errors")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ALPACA_")}
    threads = str(options.threads)
    alone = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    alone |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    marks: list[Clock] = []
    with errors.open("w") as stderr:
        process = psutil.Popen(
            [*way.command, str(folder)],
            env=kept | alone,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        for lines in (options.warm_up, options.steps):
            if not has_lines(log, lines, process):
                failed(way.name, errors)
            # The processes that it may have started count, too.
            times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
            marks.append(Clock(time.perf_counter(), sum(each.user + each.system for each in times)))
        code = process.wait()
    finally:
        if process.is_running():
            process.kill()
            process.wait()
    if code:
        failed(way.name, errors)
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    timed = steps[options.warm_up :]
    return Run(
        Clock(marks[1].seconds - marks[0].seconds, marks[1].cpu - marks[0].cpu),
        sum(step["tokens"] for step in timed),
        sum(step["positions"] for step in timed),
        [step["loss"] for step in steps] if way.comparable else [],
    )


def measure_all(found: Sequence[Way], folder: Path, options: argparse.Namespace) -> list[list[Run]]:
    """Runs of each way, one per round; every second round goes through them backwards."""
    runs: list[list[Run]] = [[] for _ in found]
    for number in range(options.rounds):
        order = list(enumerate(found))
        for place, way in reversed(order) if number % 2 else order:
            empty = folder / f"{number}-{place}"
            runs[place].append(measure(way, empty, options))
            clock = runs[place][-1].clock
            say(f"round {number + 1}, {way.name}: {clock.seconds:.1f} s, {clock.cpu:.1f} s of CPU")
    return runs


# --- what came out --------------------------------------------------------------------------------


def figures(way: Way, runs: Sequence[Run], note: str) -> Figures:
    rates = [run.tokens / run.clock.cpu for run in runs]
    return Figures(
        way.name,
        statistics.median(run.tokens / run.clock.seconds for run in runs),
        statistics.median(rates),
        min(rates),
        max(rates),
        sum(run.tokens for run in runs) / sum(run.positions for run in runs),
        note,
    )


def differences(runs: Sequence[Run], reference: Run) -> tuple[float, float]:
    """The largest difference between losses: of the first steps, and of all."""
    pairs = [list(zip(run.losses, reference.losses, strict=True)) for run in runs]
    apart = [[abs(a - b) for a, b in steps] for steps in pairs]
    return max(steps[0] for steps in apart), max(max(steps) for steps in apart)


def leak(check: Path) -> str:
    """What `check.json` of a TRL process says, in words."""
    found = json.loads(check.read_text())
    apart = f"packed against alone: logits {found['logits']:.0e}, loss {found['loss']:.0e}"
    return f"{apart}: examples {'see each other' if found['logits'] > LEAK else 'kept apart'}"


def show(told: Sequence[Figures], options: argparse.Namespace) -> None:
    """The table, in multiples of its first row, too, and what it comes down to."""
    print(
        f"LLaMA of {options.layers} layers, {options.hidden} wide, vocabulary "
        f"{options.vocabulary:,}; micro-batch {options.micro_batch}, packed {options.packed_rows} "
        f"x {options.max_length}, global batch {options.global_batch}; median of {options.rounds} "
        f"rounds of {options.steps - options.warm_up} steps"
    )
    print(
        f"{'':18}{'tokens/s':>10}{'':>8}{'tokens/CPU s':>14}{'':>8}{'slowest-fastest':>18}"
        f"{'useful':>9}"
    )
    first = told[0]
    for row in told:
        wall = row.tokens_per_second / first.tokens_per_second
        cpu = row.tokens_per_cpu_second / first.tokens_per_cpu_second
        spread = f"{row.slowest:,.0f}-{row.fastest:,.0f}"
        print(
            f"{row.name:18}{row.tokens_per_second:10,.0f}{wall:7.2f}x"
            f"{row.tokens_per_cpu_second:14,.0f}{cpu:7.2f}x{spread:>18}{row.useful:9.1%}"
            f"  {row.note}"
        )
    if not options.trl:
        print(f"{'TRL':18}{NO_TRL}")
    print(f"{versus(told, 'padded')} (goal: {GOAL:g}x)")
    for row in told[3:]:
        print(versus(told, row.name))


def machine(threads: int) -> str:
    """What the figures were taken on."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {threads} of {cores()} cores, torch {torch.__version__}, float32"


def versus(told: Sequence[Figures], name: str) -> str:
    """How much faster the packed way is than another one."""
    by_name = {row.name: row for row in told}
    packed, other = by_name["alpaca packed"], by_name[name]
    wall = packed.tokens_per_second / other.tokens_per_second
    cpu = packed.tokens_per_cpu_second / other.tokens_per_cpu_second
    return f"alpaca packed against {name}: {wall:.2f}x per second, {cpu:.2f}x per CPU second"


def benchmark(options: argparse.Namespace) -> int:
    began, steal = time.time(), stolen()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = ways(folder, options, prepare(folder, options))
        runs = measure_all(found, folder, options)
        notes = [
            "" if way.comparable else leak(folder / f"0-{place}" / "train" / "check.json")
            for place, way in enumerate(found)
        ]
    told = [figures(*each) for each in zip(found, runs, notes, strict=True)]
    comparable = [run for way, of in zip(found, runs, strict=True) for run in of if way.comparable]
    first, largest = differences(comparable, runs[0][0])
    busy = (stolen() - steal) / (time.time() - began) / (os.cpu_count() or 1)
    conditions = f"{machine(options.threads)}; load {os.getloadavg()[0]:.1f}, {busy:.0%} stolen"
    if options.json:
        told_all = {
            "machine": conditions,
            "options": vars(options) | {"data": str(options.data)},
            "ways": [asdict(row) for row in told],
            "loss_difference": {"first_step": first, "all_steps": largest},
        }
        print(json.dumps(told_all, indent=2))
    else:
        print(conditions)
        show(told, options)
        print(
            f"losses of padded, by length and packed differ by at most {first:.0e} in the first "
            f"step, {largest:.0e} in any of {options.steps}"
        )
    if first > FIRST_STEP or largest > ALL_STEPS:
        say("the losses do not agree: the figures mean nothing")
        return GateFailed.exit_code
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    here = sys.executable if importlib.util.find_spec("trl") else ""
    counts = {
        "micro-batch": (16, "examples computed at once"),
        "global-batch": (64, "examples in a step"),
        "max-length": (512, "tokens of the longest example that is not left out"),
        "hidden": (256, "width of the model, a multiple of 64"),
        "layers": (4, "of the model"),
        "vocabulary": (4096, "entries of the tokenizer"),
        "steps": (16, "in all"),
        "warm-up": (6, "steps off the clock; alpaca tries out saving in the fifth"),
        "threads": (cores(), "of each process"),
        "rounds": (3, "runs of each way"),
        "packed-rows": (1, "rows of max-length tokens computed at once where examples are packed"),
    }
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="examples; any format")
    for name, (default, help) in counts.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", default=default, help=help)
    parser.add_argument("--trl", default=here, metavar="PYTHON", help="an interpreter with TRL")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if not options.data.is_file():
        say(f"{options.data}: no such file; name one with examples: train.py DATA")
        return 0
    if options.steps <= options.warm_up:
        say(f"--steps {options.steps} leaves nothing after a warm-up of {options.warm_up}")
        return 2
    return benchmark(options)


if __name__ == "__main__":
    sys.exit(main())
