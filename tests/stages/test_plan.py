"""The plan: what it promises is what trainings do, and what it suggests does fit."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from alpaca_cli.cli import app
from alpaca_cli.cli.plan import show
from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.files import read_json, write_json
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import find_recipe, load_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.stages import train as stage
from alpaca_cli.stages.plan import UTILISATION, Plan, plan
from tests.tiny import save_tiny_model

GIB = 2**30
ALPACA_ROWS = 52_002
SCRATCH = [
    "train.model={config: {vocab_size: 400, hidden_size: 64, intermediate_size: 128, layers: 2, "
    "heads: 2}}",
    "train.learning_rate=0.01",
    "train.global_batch=8",
    "train.micro_batch=2",
    "train.max_length=128",
    "train.epochs=2",
    "train.gpus=0",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def llama_7b(folder: Path) -> Path:
    """LLaMA 7B as far as a plan looks at it: its configuration, and some tokenizer; no weights."""
    model = save_tiny_model(folder / "llama-7b")
    (model / "model.safetensors").unlink()
    config = read_json(model / "config.json") | {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 2048,
    }
    write_json(model / "config.json", config)
    return model


def write_rows(path: Path, count: int) -> Path:
    """Rows as long as Alpaca's: 125 tokens on average, prompt included, some near 512.

    The tiny tokenizer makes about a token of each letter, and few of the template.
    """
    draw = random.Random(0)

    def letters(count: int) -> str:
        return "".join(draw.choices("bcdfghjklm", k=count))

    rows = [
        {
            "instruction": letters(draw.randint(20, 60)),
            "input": letters(draw.randint(10, 60)) if draw.random() < 0.4 else "",
            "output": letters(min(360, int(draw.lognormvariate(3.9, 0.75)) + 1)),
        }
        for _ in range(count)
    ]
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def rows(folder: Path) -> Path:
    return write_rows(folder / "rows.json", 1_000)


def planned(
    folder: Path, data: Path, *sets: str, recipe: str | None = None, on: str | None = None
) -> Plan:
    loaded = load_recipe(recipe, overrides=sets, environment={})
    return plan(loaded, RunFolder(folder / "run"), str(data), on)


def test_alpaca_on_eight_a100_is_planned_within_25_minutes(folder: Path, llama_7b: Path) -> None:
    """The original took 3 hours: 7B, 52,002 examples, 3 epochs."""
    data = write_rows(folder / "alpaca.json", ALPACA_ROWS)
    found = planned(folder, data, f"train.model={llama_7b}", recipe="7b-full", on="8xA100-80GB")
    assert found.examples == ALPACA_ROWS
    assert found.steps == math.ceil(3 * ALPACA_ROWS / 128)
    assert 115 < found.tokens / (3 * ALPACA_ROWS) < 135
    assert (found.strategy, found.processes) == ("fsdp2", 8)
    assert found.memory.fits
    assert found.utilisation == UTILISATION == 0.4
    assert found.seconds is not None
    # 6 FLOPs for each token and weight of the blocks; the output layer and attention on top.
    by_hand = 6 * 6.476e9 * found.tokens / (8 * 312e12 * 0.4)
    assert by_hand < found.seconds < 1.1 * by_hand
    assert found.seconds <= 25 * 60
    assert not (folder / "run").exists()


def test_a_plan_is_what_the_training_then_does(folder: Path, rows: Path) -> None:
    data = write_rows(folder / "few.json", 60)
    recipe = load_recipe(None, overrides=[*SCRATCH, "train.save_every=5"], environment={})
    run = RunFolder(folder / "real")
    found = plan(recipe, run, str(data))
    assert not run.path.exists()
    done = stage.run(recipe, run, Progress(Console(file=StringIO()), quiet=True), data=str(data))
    for name in (
        *("steps", "epochs", "examples", "held_out", "dropped", "truncated", "tokens"),
        *("trained_tokens", "parameters", "trained_parameters", "processes", "strategy", "dtype"),
    ):
        assert getattr(found, name) == getattr(done, name), name
    assert found.steps <= 20  # all of them were dealt
    assert found.padding == pytest.approx(done.padding, abs=1e-9)
    weighed = 0
    for checkpoint in (run.path / "train" / "checkpoints").glob("step-*"):
        files = [*checkpoint.glob("*.safetensors"), *(checkpoint / "optimizer").iterdir()]
        weighed = max(weighed, sum(file.stat().st_size for file in files))
    assert found.checkpoint == pytest.approx(weighed, rel=0.1)


def test_on_cpu_no_time_is_made_up(folder: Path, rows: Path) -> None:
    found = planned(folder, rows, *SCRATCH)
    assert (found.device, found.seconds, found.utilisation) == ("cpu", None, None)
    assert found.memory.fits
    assert found.memory.available == found.memory.host
    assert found.memory.available > GIB
    two = planned(folder, rows, *SCRATCH, "train.gpus=cpu:2")
    assert (two.processes, two.strategy) == (2, "ddp")
    assert two.memory.available == pytest.approx(found.memory.available / 2, abs=1)


@pytest.mark.parametrize(
    ("sets", "processes"),
    [([], 8), (["train.gpus=4"], 4), (["train.gpus=0,3"], 2), (["train.nodes=2"], 16)],
)
def test_gpus_and_nodes_of_a_named_machine(
    folder: Path, rows: Path, sets: Sequence[str], processes: int
) -> None:
    scratch = [each for each in SCRATCH if "gpus" not in each] + ["train.global_batch=64"]
    found = planned(folder, rows, *scratch, *sets, on="8xA100-80GB")
    assert (found.processes, found.device) == (processes, "A100-80GB")
    assert found.memory.host is None
    assert found.seconds is not None


def test_a_card_without_bfloat16_computes_in_float32_unless_told(folder: Path, rows: Path) -> None:
    scratch = [each for each in SCRATCH if "gpus" not in each]
    found = planned(folder, rows, *scratch, on="T4")
    assert (found.dtype, found.seconds) == ("float32", None)
    half = planned(folder, rows, *scratch, "train.dtype=float16", on="T4")
    assert half.dtype == "float16"
    assert half.seconds is not None


@pytest.mark.parametrize(
    ("sets", "on", "said"),
    [
        ([], "8xA100-90GB", "did you mean"),
        (["train.gpus=0"], "8xA100-80GB", "asks for the CPU"),
        (["train.gpus=4"], "2xA100-80GB", "4 asked for"),
        ([], "3xA100-80GB", "does not split over 3"),
    ],
)
def test_what_no_training_could_do_is_refused(
    folder: Path, rows: Path, sets: Sequence[str], on: str, said: str
) -> None:
    scratch = [each for each in SCRATCH if "gpus" not in each]
    with pytest.raises(UsageError, match=said):
        planned(folder, rows, *scratch, *sets, on=on)


CARDS = {
    "7b-full": "8xA100-80GB",
    "7b-1gpu": "A100-80GB",
    "7b-lora": "L4-24GB",
    "7b-qlora": "RTX-3090-24GB",
}


@pytest.mark.parametrize("name", CARDS)
def test_a_recipe_fits_the_card_that_it_names_in_what_it_says(
    folder: Path, rows: Path, llama_7b: Path, name: str
) -> None:
    if name == "7b-qlora":
        pytest.importorskip("bitsandbytes")
    text = find_recipe(name).read_text("utf-8").replace("\n# ", " ")
    match = re.search(r"Planned, not run on (?:a GPU|GPUs) by us: (\d+) GiB of \w+ ([\w-]+)", text)
    assert match, text
    assert CARDS[name].endswith(match[2])
    found = planned(folder, rows, f"train.model={llama_7b}", recipe=name, on=CARDS[name])
    assert found.memory.fits
    assert found.fits_with == []
    assert found.memory.total / GIB == pytest.approx(int(match[1]), abs=0.7)
    assert found.strategy == ("fsdp2" if name == "7b-full" else "single")


def test_the_recipes_are_the_originals_training() -> None:
    for name in CARDS:
        train = load_recipe(name, environment={}).train
        assert (train.epochs, train.global_batch, train.max_length) == (3, 128, 512)
        assert (train.warmup, train.weight_decay, train.optimizer != "muon") == (0.03, 0.0, True)
        assert train.learning_rate == (2e-5 if train.method == "full" else 2e-4)
        assert train.template == "alpaca"


def test_on_one_gpu_recomputing_may_be_left_out(folder: Path, rows: Path, llama_7b: Path) -> None:
    text = find_recipe("7b-1gpu").read_text("utf-8")
    match = re.search(r"switched off, planned: (\d+) GiB", text.replace("\n#   ", " "))
    assert match, text
    sets = [f"train.model={llama_7b}", "train.gradient_checkpointing=false"]
    found = planned(folder, rows, *sets, recipe="7b-1gpu", on="A100-80GB")
    assert found.memory.fits
    assert found.memory.total / GIB == pytest.approx(int(match[1]), abs=0.7)


@pytest.mark.parametrize(
    ("recipe", "sets", "on", "first"),
    [
        # Weights and gradients stay in float32 where 8-bit moments are enough.
        ("7b-full", [], "1xA100-80GB", ["gradient_checkpointing=true", "optimizer=adamw_8bit"]),
        # Too large at once, but small enough one after the other.
        ("7b-lora", ["train.micro_batch=64"], "1xL4", ["micro_batch=16"]),
        ("7b-full", [], "8xRTX-4090", ["gradient_checkpointing=true"]),
        ("7b-full", ["train.strategy=ddp"], "8xA100-80GB", ["strategy=fsdp2"]),
        ("7b-full", [], "1xRTX-4090", ["gpus=8", "gradient_checkpointing=true"]),
    ],
)
def test_what_is_suggested_fits(
    folder: Path, rows: Path, llama_7b: Path, recipe: str, sets: list[str], on: str,
    first: list[str],
) -> None:  # fmt: skip
    here = [f"train.model={llama_7b}", *sets]
    found = planned(folder, rows, *here, recipe=recipe, on=on)
    assert not found.memory.fits
    assert found.memory.total > 0.9 * found.memory.available
    changes = [sorted(each) for each in found.fits_with]
    assert changes[0] == sorted(f"train.{change}" for change in first)
    assert len(changes) == len({tuple(each) for each in changes})
    for each in changes:
        others = [change for change in each if not change.startswith("train.gpus=")]
        more = [change.partition("=")[2] for change in each if change not in others]
        machine = f"{more[0]}x{on.partition('x')[2]}" if more else on
        again = planned(folder, rows, *here, *others, recipe=recipe, on=machine)
        assert again.memory.fits, each


def test_a_plan_is_readable_in_80_columns(folder: Path, rows: Path, llama_7b: Path) -> None:
    fitting = planned(folder, rows, f"train.model={llama_7b}", recipe="7b-full", on="8xH100")
    too_large = planned(folder, rows, f"train.model={llama_7b}", recipe="7b-full", on="1xH100")
    on_cpu = planned(folder, rows, *SCRATCH)
    for found, said in (
        (fitting, "fits: "),
        (too_large, "does not fit: "),
        (too_large, "--set train.gradient_checkpointing=true"),
        (too_large, "\n  2 x H100-80GB"),
        (on_cpu, "no peak is known"),
    ):
        shown = StringIO()
        Console(file=shown, width=80).print(show(found))
        lines = shown.getvalue().splitlines()
        assert max(map(len, lines)) <= 80
        assert said in shown.getvalue()
        for part in ("weights", "gradients", "optimizer", "activations", "total", "disk"):
            assert any(line.startswith(part) for line in lines), part


def test_the_command_prints_the_plan_as_json(folder: Path, rows: Path) -> None:
    arguments = ["train", str(rows), "--run", str(folder / "none"), "--dry-run", "--json"]
    for each in SCRATCH:
        arguments += ["--set", each]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == json.loads(json.dumps(asdict(planned(folder, rows, *SCRATCH)))) | {
        "disk_free": found["disk_free"]
    }
    assert sum(found["memory"][part] for part in ("weights", "gradients", "optimizer")) == (
        16 * found["parameters"]
    )
    assert not (folder / "none").exists()
