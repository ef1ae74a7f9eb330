"""What `alpaca train --selfcheck` trains: a recipe cut down to a tiny model and a few examples.

Comparisons are made in float32, with dropout and torch.compile off: rounding and chance would hide
what is looked for. What is compared is the business of `alpaca_cli.stages.selfcheck`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import read_jsonl, write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.core.template import load_template
from alpaca_cli.data.procedural import draw, family_names
from alpaca_cli.model.launch import choose_gpus, wants_cpu
from alpaca_cli.stages import train as stage
from alpaca_cli.stages.training_report import Report

BATCH, STEPS = 8, 8
EXAMPLES, HELD_OUT = 40, 6  # fewer than BATCH * STEPS: an epoch ends in the middle of a step
LONGEST = 150  # characters of an example; no token has less than one
LENGTH = 192  # tokens; a micro-batch of one packed row holds a few examples, not all eight
RATE = 5e-3
TINY = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "layers": 2, "heads": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bench:
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
        return stage.run(recipe, RunFolder(self.folder / name), progress or silent(), data=file)

    def log(self, name: str, file: str = "log") -> list[dict[str, Any]]:
        """The lines that a training left."""
        path = self.folder / name / "train" / f"{file}.jsonl"
        return [line for _, line in read_jsonl(path)]


def make_bench(recipe: Recipe, folder: Path) -> Bench:
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
    return Bench(folder, tiny, model, tuple(notes), _devices(recipe.train.gpus), own, held_out)


def _tiny_model(
    train: Train, section: dict[str, Any], examples: Sequence[Example], folder: Path
) -> tuple[str, str]:
    """Put a tiny model into a recipe's section; what it is, and a note when it is another kind."""
    if isinstance(train.model, ScratchModel):
        tied = train.model.config.tie_embeddings
        section["model"] = {"config": TINY | {"tie_embeddings": tied}}
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


def silent() -> Progress:
    return Progress(Console(quiet=True), quiet=True)
