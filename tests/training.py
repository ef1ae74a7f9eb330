"""What tests of training share: small data, a small model, and how two trainings are compared."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.progress import Progress

SMALL = [
    "--set", "train.model={config: {vocab_size: 400, hidden_size: 32, intermediate_size: 64, "
    "layers: 2, heads: 2}}",
    "--set", "train.learning_rate=0.01",
    "--set", "train.global_batch=8",
    "--set", "train.micro_batch=1",
    "--set", "train.epochs=4",
    "--set", "train.save_every=10",
]  # fmt: skip
ROWS = [
    {"instruction": f"Repeat the word {n} times.", "input": word, "output": " ".join([word] * n)}
    for n in range(1, 8)
    for word in ("dog", "red bird", "sea", "one two three", "lamp", "x y", "so", "far")
]
STEPS = 28  # 4 epochs of 56 examples in steps of 8


def sets(*pairs: str) -> list[str]:
    """`--set` before each."""
    return [part for pair in pairs for part in ("--set", pair)]


def quiet() -> Progress:
    return Progress(Console(file=StringIO()), quiet=True)


def log(run: Path, name: str = "log") -> list[dict[str, Any]]:
    """The lines of a run's `log.jsonl`, or of another log of its training."""
    path = run / "train" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def same_trajectory(one: Path, other: Path) -> None:
    """Bit for bit, in every step and in the final model."""
    keys = ("step", "epoch", "loss", "learning_rate", "grad_norm", "tokens", "trained_tokens")
    for ours, theirs in zip(log(one), log(other), strict=True):
        assert [ours[key] for key in keys] == [theirs[key] for key in keys]
    names = ("model.safetensors", "tokenizer.json", "prompt_template.json", "config.json")
    for name in names:
        path = Path("train", "final", name)
        assert (one / path).read_bytes() == (other / path).read_bytes(), name


def like_trajectory(one: Path, other: Path, relative: float = 1e-4) -> None:
    """The same but for the order in which numbers were added."""
    for ours, theirs in zip(log(one), log(other), strict=True):
        assert (ours["step"], ours["tokens"]) == (theirs["step"], theirs["tokens"])
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=relative)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=100 * relative)


def student(settings: Any, texts: list[str], seed: int = 1) -> Any:
    """An untrained student with a tokenizer trained on `texts`, or its base model's."""
    from transformers import AutoTokenizer

    from alpaca_cli.core.settings_train import ScratchModel
    from alpaca_cli.core.template import ALPACA
    from alpaca_cli.model.student import make_trainee
    from alpaca_cli.model.tokenizer import train_tokenizer

    if isinstance(settings.model, ScratchModel):
        tokenizer = train_tokenizer(texts, ALPACA, settings.model.config.vocab_size)
    else:
        tokenizer = AutoTokenizer.from_pretrained(settings.model)
    return make_trainee(settings, tokenizer, ALPACA, seed)
