"""`alpaca train --selfcheck`: passes on a plain recipe, and each of its checks can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.cli.selfcheck import show
from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.selfcheck import Check, SelfCheck, fallen, same, selfcheck
from alpaca_cli.stages.selfcheck_bench import BATCH, STEPS, make_bench
from tests.processes import run


def log(**changes: Callable[[int], float]) -> list[dict[str, Any]]:
    """Eight lines of a log; `changes` give other values of a key from the step."""
    lines = []
    for step in range(1, 9):
        line: dict[str, Any] = {
            "step": step,
            "epoch": step / 4,
            "loss": 8.0 / step,
            "learning_rate": 1e-3,
            "grad_norm": 2.0,
            "tokens": 400,
            "trained_tokens": 90,
        }
        lines.append(line | {key: value(step) for key, value in changes.items()})
    return lines


def test_logs_of_the_same_training() -> None:
    assert same("x and y", log(), log(), 0) == "x and y: no difference in 8 steps"
    other = log(loss=lambda step: 8.0 / step * (1 + 2e-6), grad_norm=lambda step: 2.0001)
    assert same("x and y", log(), other, 1e-4) == "x and y: 2e-06 apart at most in 8 steps"


@pytest.mark.parametrize(
    ("limit", "key", "value", "said"),
    [
        (1e-4, "loss", lambda step: 8 / step + (step == 5) * 0.01, "step 5: loss 1.6 and 1.61"),
        (1e-4, "loss", lambda step: float("nan"), "step 1: loss 8 and nan"),
        (1e-4, "grad_norm", lambda step: 1.0, "step 1: grad norm 2 and 1"),
        (1e-4, "tokens", lambda step: 401, "step 1: tokens 400 and 401"),
        (1e-4, "learning_rate", lambda step: 1.001e-3, "learning rate 0.001 and 0.001001"),
        (0.0, "loss", lambda step: 8.0 / step * (1 + 1e-15), "loss 8 and 8"),
        (0.0, "grad_norm", lambda step: 2.0 + 1e-15, "step 1: grad norm 2 and 2"),
    ],
)
def test_logs_that_differ(limit: float, key: str, value: Callable[[int], float], said: str) -> None:
    with pytest.raises(GateFailed, match=f"^x and y: .*{said}"):
        same("x and y", log(), log(**{key: value}), limit)


def test_a_log_that_is_too_short() -> None:
    with pytest.raises(GateFailed, match="8 and 7 steps"):
        same("x and y", log(), log()[:-1], 1e-4)


def test_one_batch_is_learnt_or_not() -> None:
    assert fallen([6.0, 3.0, 0.09]) == "loss 6.000 to 0.090 in 3 steps"
    fallen([6.0, 3.0, 0.59])
    with pytest.raises(GateFailed, match=r"loss 6\.000 to 0\.610 in 3 steps: one batch should"):
        fallen([6.0, 3.0, 0.61])


def test_the_bench_keeps_what_is_proved_and_cuts_down_the_rest(tmp_path: Path) -> None:
    train = {
        "model": {"config": {"tie_embeddings": False, "hidden_size": 4096, "heads": 32}},
        "optimizer": "muon",
        "max_grad_norm": 0.3,
        "warmup": 0.5,
        "neftune": 5,
        "gradient_checkpointing": True,
        "compile": True,
        "report_to": ["wandb"],
        "gpus": "cpu:4",
        "holdout": 100,
        "dtype": "bfloat16",
        "lora": {"dropout": 0.1, "r": 7},
    }
    bench = make_bench(Recipe.model_validate({"seed": 7, "train": train}), tmp_path)
    tiny = bench.recipe.train
    kept = ("optimizer", "max_grad_norm", "warmup", "neftune", "gradient_checkpointing")
    assert {key: getattr(tiny, key) for key in kept} == {key: train[key] for key in kept}
    assert (tiny.lora.r, tiny.lora.dropout) == (7, 0)
    assert not isinstance(tiny.model, str)
    assert (tiny.model.config.tie_embeddings, tiny.model.config.hidden_size) == (False, 64)
    assert (tiny.compile, tiny.report_to, tiny.dtype) == (False, [], "float32")
    assert bench.own["dtype"] == "bfloat16"
    assert bench.gpus == ("0", "cpu:2")
    assert bench.recipe.seed == 7
    assert any("torch.compile" in note for note in bench.notes)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(set(rows)) == len(rows) < BATCH * STEPS  # more than an epoch


def test_a_model_that_cannot_be_had_is_replaced_by_a_llama(tmp_path: Path) -> None:
    train = {
        "model": "./nowhere",
        "method": "lora",
        "template": "tokenizer",
        "lora": {"target_modules": ["query_key_value"]},
    }
    bench = make_bench(Recipe.model_validate({"train": train}), tmp_path)
    assert bench.model.startswith("llama, 2 layers")
    assert "a LLaMA stands in for the recipe's model: ./nowhere: no such folder" in bench.notes
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert bench.recipe.train.lora.target_modules == "all-linear"
    assert bench.recipe.train.template == "alpaca"


def test_it_is_not_for_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="starts its own processes"):
        selfcheck(Recipe(), Progress(Console(file=StringIO())))


def test_the_table_says_what_failed() -> None:
    checks = (
        Check("learns", True, "loss 6 to 0", 1.25),
        Check("resumes", False, "step 5: loss [1] and [2]", 0.5),
    )
    file = StringIO()
    console = Console(file=file, width=100, color_system=None)
    console.print(show(SelfCheck(False, "llama", "cpu", ("a note",), checks)))
    text = file.getvalue()
    assert "FAILED  resumes  step 5: loss [1] and [2]      0.5" in text
    assert "ok      learns   loss 6 to 0                   1.2" in text
    assert "note: a note" in text
    assert "1 of 2 checks failed" in text


def test_a_plain_recipe_passes(tmp_path: Path) -> None:
    done = run("train", "--selfcheck", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["ok"]
    assert [check["ok"] for check in found["checks"]] == [True] * 5
    details = " ".join(check["detail"] for check in found["checks"])
    assert "2 x 4 (ddp)" in details
    assert "stopped at step-000004" in details
    assert list(tmp_path.iterdir()) == []  # nothing of it stays


@pytest.mark.slow
def test_a_training_that_learns_nothing_fails(tmp_path: Path) -> None:
    # Gradients clipped to nothing: AdamW's epsilon is larger than they are.
    sets = ("--set", "train.max_grad_norm=1e-12")
    done = run("train", "--selfcheck", "--json", *sets, cwd=tmp_path, code=5)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert not checks["learns one batch by heart"]["ok"]
    assert "the selfcheck failed" in done.stderr
