"""`alpaca doctor`: the machine, the libraries, the keys, and what will work here."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from alpaca_cli.cli.options import JsonOption, print_json, runs_folder
from alpaca_cli.core.machine import cores

REQUIRED = (
    "typer",
    "rich",
    "prompt-toolkit",
    "openai",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "rouge-score",
    "huggingface-hub",
    "pyyaml",
    "pydantic",
    "rapidfuzz",
    "numba",
    "numpy",
)
EXTRAS = {
    "report": ("matplotlib", "plotly"),
    "browse": ("textual",),
    "web": ("gradio",),
    "scale": ("datatrove",),
    "semantic": ("semhash",),
    "nlp": ("spacy",),
    "language": ("py3langid",),
    "quant": ("bitsandbytes", "torchao"),
    "tracking": ("tensorboard",),
    "liger": ("liger-kernel",),
    "lm-eval": ("lm-eval",),
}
TUNING = 20  # GiB; torch reports 22 and less of cards with 24 GB, 7b-lora is planned with 15
KEYS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN")


def doctor(json: JsonOption = False) -> None:
    """Show what this machine has, which keys are set, and what will work."""
    found = examine()
    if json:
        print_json(found)
    else:
        Console().print(show(found))


def examine() -> dict[str, Any]:
    """The findings as plain data; keys only as set or not, never their values."""
    from alpaca_cli.model.devices import gpus

    runs = runs_folder()
    at = next(folder for folder in (runs, *runs.absolute().parents) if folder.exists())
    cards = gpus()
    keys = {name: bool(os.environ.get(name)) for name in KEYS}
    return {
        "machine": {
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": platform.python_version(),
            "cores": cores(),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "disk_free_gib": round(shutil.disk_usage(at).free / 2**30, 1),
            "runs": str(Path(runs).absolute()),
            "runs_writable": os.access(at, os.W_OK),
            "gpus": [f"{card.name}, {card.memory:.0f} GiB" for card in cards],
        },
        "libraries": {name: _version(name) for name in REQUIRED},
        "extras": {
            extra: {name: _version(name) for name in names} for extra, names in EXTRAS.items()
        },
        "keys": keys,
        "works": {
            "quickstart": all(map(_version, REQUIRED)) and os.access(at, os.W_OK),
            "generate with OpenAI": keys["OPENAI_API_KEY"],
            "generate with a local server": True,
            "fine-tune a 7B model": sum(card.memory for card in cards) >= TUNING,
        },
    }


def show(found: dict[str, Any]) -> RenderableType:
    """The findings as tables for people."""
    machine = Table(box=None, show_header=False, pad_edge=False)
    for name, value in found["machine"].items():
        text = ", ".join(value) or "none" if isinstance(value, list) else str(value)
        machine.add_row(f"[bold]{name.replace('_', ' ')}[/]", text)
    libraries = Table("library", "version", box=None, pad_edge=False)
    for name, number in found["libraries"].items():
        libraries.add_row(name, number or "[red]missing[/]")
    for extra, names in found["extras"].items():
        for name, number in names.items():
            libraries.add_row(f"{name} [dim]\\[{extra}][/]", number or "[dim]not installed[/]")
    verdicts = Table(box=None, show_header=False, pad_edge=False)
    for name, is_set in found["keys"].items():
        verdicts.add_row(name, "set" if is_set else "[dim]not set[/]")
    for name, works in found["works"].items():
        verdicts.add_row(name, "[green]yes[/]" if works else "[yellow]no[/]")
    return Group(machine, "", libraries, "", verdicts)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
