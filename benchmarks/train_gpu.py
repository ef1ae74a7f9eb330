"""A 7B LLaMA on one GPU: useful tokens per second, MFU, and peak memory against the plan's.

    python benchmarks/train_gpu.py full|lora|qlora|all [DATA] [--work DIR] [--steps 5] [--json]

The model has LLaMA 7B's shape and random weights: how fast it trains does not depend on what it
knows. The examples are real, by a tokenizer trained on them. Every training is `alpaca train` as
users run it, by the recipes 7b-1gpu, 7b-lora and 7b-qlora; `full` once more with float32 weights
and moments, where the card has more than 120 GB. Speed and memory are read from its log. It is
ended when the last step is logged, before the model is saved. With more than five steps the
checkpoint that tries out saving comes in between: off the clock, but it needs the disk space.

MFU: the FLOPs that the model needs, over those that the same card does in bfloat16 matrix products
of 8192 x 8192 just before. Needed are 6 per token and weight that is trained, 4 where it is
frozen (its own gradient is not computed), in the matrices; the output layer counts for trained
tokens only, and attention, under 1 % at these lengths, not at all, nor what is computed twice
because of gradient checkpointing. The recipes' goal for it is half.

Exit code 5: some peak is more than 10 % off the plan's. Disk: 14 GB for the model; a later call
with the same `--work` finds it there. Main memory: 30 GB. Each block
should take less than ten minutes on an H200; it has not been run on one yet.

`--cpu-rehearsal` runs all of this on a CPU with a tiny model, to try out the script: its figures
say nothing, so MFU and peak are left out.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from train_job import DATA, SEED, failed, has_lines, read_rows, save_model, say

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.model.memory import LIBRARIES

Result = TypeVar("Result")

LLAMA_7B = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
}
TINY = {
    "vocab_size": 4096,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_attention_heads": 2,
}
GLOBAL_BATCH = 128
VOCABULARY = 4096  # tokens that the data gets; the model's other embeddings are never asked for
MAX_LENGTH = 512
SQUARE, REPEATS, BEST_OF = 8192, 50, 5
TOLERANCE = 0.1  # of the planned peak
ROOMY = 120 * 10**9  # bytes that 7B in float32 with AdamW needs at least


class Card(NamedTuple):
    """A GPU; FLOP/s in bfloat16 as measured."""

    name: str
    memory: int
    flops: float


@dataclass(frozen=True, slots=True)
class Block:
    """One training: a recipe, and what is changed in it."""

    name: str
    recipe: str
    changed: tuple[str, ...] = ()
    least_memory: int = 0


BLOCKS = {
    "full": [
        Block("full, as in 7b-1gpu", "7b-1gpu"),
        Block(
            "full, float32 AdamW",
            "7b-1gpu",
            ("train.optimizer=adamw", "train.weights=float32"),
            ROOMY,
        ),
    ],
    "lora": [Block("LoRA, as in 7b-lora", "7b-lora")],
    "qlora": [Block("QLoRA, as in 7b-qlora", "7b-qlora")],
}


@dataclass(frozen=True, slots=True)
class Figures:
    """A row of the table; bytes, and None for what a rehearsal cannot tell."""

    name: str
    tokens_per_second: float
    useful: float
    """Share of the computed positions that hold a useful token."""
    flops: float
    """Needed, per second."""
    mfu: float | None
    planned: int
    peak: int | None

    @property
    def off(self) -> float | None:
        return None if self.peak is None else self.peak / self.planned - 1


# --- the card and the model -----------------------------------------------------------------------


def apart(work: Callable[..., Result], *arguments: object) -> Result:
    """In a process of its own, so that nothing of it stays on the card."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(work, *arguments).result()


def measure_card() -> Card | None:
    """The first GPU, and the best of a few loops of matrix products; None without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    a, b = (torch.randn(SQUARE, SQUARE, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    seconds = []
    for _ in range(BEST_OF + 1):  # the first one warms up
        begin.record()
        for _ in range(REPEATS):
            torch.mm(a, b)
        end.record()
        torch.cuda.synchronize()
        seconds.append(begin.elapsed_time(end) / 1000 / REPEATS)
    return Card(properties.name, properties.total_memory, 2 * SQUARE**3 / min(seconds[1:]))


def model_folder(work: Path, data: Path, shape: dict[str, int], device: str) -> Path:
    """The random model, made anew unless the one of an earlier call is the same."""
    folder = work / "model"
    made_of = folder / "made_of.json"
    wanted = {"shape": shape, "data": str(data.resolve())}
    if not made_of.is_file() or json.loads(made_of.read_text()) != wanted:
        rows = read_rows(data, VOCABULARY, MAX_LENGTH)
        say(f"making the model; {data.name}: {rows.told()}")
        dtype = "bfloat16" if device == "cuda" else "float32"
        save_model(folder, rows.tokenizer, dict(shape), dtype=dtype, device=device)
        made_of.write_text(json.dumps(wanted))  # last: a folder without it is not whole
    return folder


# --- one training ---------------------------------------------------------------------------------


class Task(NamedTuple):
    """What all trainings share."""

    data: Path
    model: Path
    shape: dict[str, int]
    steps: int
    warm_up: int
    card: Card | None
    changed: tuple[str, ...]
    """Recipe keys that are set from the command line."""


def train(block: Block, task: Task, run: Path) -> Figures:
    """Plan a training, run it for a few steps, and put both side by side."""
    keys = [f"seed={SEED}", f"train.max_length={MAX_LENGTH}", f"train.global_batch={GLOBAL_BATCH}"]
    command = [sys.executable, "-m", "alpaca_cli", "train", str(task.data)]
    command += ["--recipe", block.recipe, "--model", str(task.model), "--run", str(run)]
    command += [part for key in (*keys, *block.changed, *task.changed) for part in ("--set", key)]
    one = {"CUDA_VISIBLE_DEVICES": "0" if task.card else "", "HF_HUB_OFFLINE": "1"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith("ALPACA_")} | one
    planned = subprocess.run(
        [*command, "--dry-run", "--json"], env=environment, stdout=subprocess.PIPE, check=False
    )
    if planned.returncode:
        sys.exit(f"{block.name}: no plan")
    plan = json.loads(planned.stdout)
    command += ["--set", f"train.epochs={task.steps * GLOBAL_BATCH / plan['examples']}", "--quiet"]
    steps = first_steps(command, environment, run, task.steps)[task.warm_up :]
    seconds, tokens = (sum(step[name] for step in steps) for name in ("seconds", "tokens"))
    trained = sum(step["trained_tokens"] for step in steps)
    adapters = 0 if plan["method"] == "full" else plan["trained_parameters"]
    flops = needed(task.shape, tokens, trained, adapters) / seconds
    return Figures(
        name=block.name,
        tokens_per_second=tokens / seconds,
        useful=tokens / sum(step["positions"] for step in steps),
        flops=flops,
        mfu=flops / task.card.flops if task.card else None,
        # The log has what torch allocated, without what CUDA takes beside it.
        planned=plan["memory"]["total"] - LIBRARIES,
        peak=max(step["memory"] for step in steps) if task.card else None,
    )


def first_steps(
    command: list[str], environment: dict[str, str], run: Path, steps: int
) -> list[dict[str, Any]]:
    """The first lines of a training's log; it is ended when it has written them."""
    psutil = importlib.import_module("psutil")  # comes with accelerate, without annotations
    log, errors = run / "train" / "log.jsonl", run.with_suffix(".errors")
    with errors.open("w") as stderr:
        process = psutil.Popen(
            command,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            start_new_session=True,  # a group of its own, to end its workers, too
        )
    try:
        if not has_lines(log, steps, process):
            failed(run.name, errors)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return [json.loads(line) for line in log.read_text().splitlines()[:steps]]


def needed(shape: dict[str, int], tokens: int, trained_tokens: int, adapters: int) -> int:
    """FLOPs of a forward and backward pass; see above.

    Args:
        adapters: weights that are trained beside the frozen ones; 0: all are trained.
    """
    wide, inner = shape["hidden_size"], shape["intermediate_size"]
    blocks = shape["num_hidden_layers"] * (4 * wide * wide + 3 * wide * inner)
    each = 4 if adapters else 6
    output = shape["vocab_size"] * wide
    return tokens * (each * blocks + 6 * adapters) + trained_tokens * each * output


# --- what came out --------------------------------------------------------------------------------


def show(told: Sequence[Figures]) -> None:
    print(
        f"{'':26}{'tokens/s':>10}{'useful':>9}{'TFLOP/s':>10}{'MFU':>8}{'planned':>10}"
        f"{'peak':>10}{'off':>8}"
    )
    for row in told:
        mfu = "-" if row.mfu is None else f"{row.mfu:.1%}"
        peak = "-" if row.peak is None else f"{row.peak / 1e9:.1f} GB"
        off = "-" if row.off is None else f"{row.off:+.1%}"
        print(
            f"{row.name:26}{row.tokens_per_second:10,.0f}{row.useful:9.1%}{row.flops / 1e12:10.1f}"
            f"{mfu:>8}{row.planned / 1e9:7.1f} GB{peak:>10}{off:>8}"
        )


def benchmark(options: argparse.Namespace, work: Path) -> int:
    card = None if options.cpu_rehearsal else apart(measure_card)
    if card is None and not options.cpu_rehearsal:
        say("this needs a CUDA GPU; --cpu-rehearsal tries out the script without one")
        return UsageError.exit_code
    shape = {
        **(LLAMA_7B if card else TINY),
        "num_hidden_layers": options.layers or (32 if card else 2),
        "max_position_embeddings": 2048,
    }
    model = apart(model_folder, work, options.data, shape, "cuda" if card else "cpu")
    task = Task(
        options.data, model, shape, options.steps, options.warm_up, card, tuple(options.set)
    )
    told: list[Figures] = []
    for block in (each for name in options.blocks for each in BLOCKS[name]):
        if card and card.memory < block.least_memory:
            say(f"{block.name}: left out, it needs {block.least_memory / 1e9:.0f} GB")
            continue
        # Where runs are kept is new each time: a run folder goes on where it stopped.
        with tempfile.TemporaryDirectory(dir=work) as folder:
            told.append(train(block, task, Path(folder) / "run"))
        say(f"{told[-1].name}: {told[-1].tokens_per_second:,.0f} tokens/s")
    if options.json:
        rows = [asdict(row) | {"off": row.off} for row in told]
        print(json.dumps({"card": card and card._asdict(), "shape": shape, "rows": rows}, indent=2))
    else:
        print(
            f"{card.name}, {card.memory / 1e9:.1f} GB, {card.flops / 1e12:.0f} TFLOP/s measured"
            if card
            else "REHEARSAL on a CPU with a tiny model: these figures say nothing"
        )
        print(f"LLaMA, {shape['num_hidden_layers']} layers, {shape['hidden_size']} wide")
        show(told)
    far = [row.name for row in told if row.off is not None and abs(row.off) > TOLERANCE]
    for name in far:
        say(f"{name}: the peak is more than {TOLERANCE:.0%} off the plan's")
    return GateFailed.exit_code if far else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("block", choices=[*BLOCKS, "all"])
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help="examples; any format")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where the model is kept")
    parser.add_argument("--layers", type=int, metavar="N", help="fewer, to try it out")
    parser.add_argument("--steps", type=int, metavar="N", default=5, help="of each training")
    parser.add_argument("--warm-up", type=int, metavar="N", default=2, help="steps off the clock")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--cpu-rehearsal", action="store_true", help="tiny, without a GPU")
    parser.add_argument("--json", action="store_true", help="the figures as one JSON object")
    found = parser.parse_args()
    found.blocks = list(BLOCKS) if found.block == "all" else [found.block]
    return found


def main() -> int:
    options = arguments()
    if not options.data.is_file():
        say(f"{options.data}: no such file; name one with examples")
        return 0
    if options.steps <= options.warm_up:
        say(f"--steps {options.steps} leaves nothing after a warm-up of {options.warm_up}")
        return UsageError.exit_code
    if options.work:
        options.work.mkdir(parents=True, exist_ok=True)
        return benchmark(options, options.work)
    with tempfile.TemporaryDirectory() as folder:
        return benchmark(options, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
