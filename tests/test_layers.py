"""The layers of the package, proved from its imports; and what start-up may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "alpaca_cli"
# A room may import itself and the rooms to its right.
ALLOWED = {
    "core": set(),
    "data": {"core"},
    "model": {"core"},
    "stages": {"core", "data", "model"},
    "cli": {"core", "stages"},
}
# The doctor asks torch what GPUs there are; no other command reaches past the stages.
EXCEPTIONS = {("cli/doctor.py", "model")}
TORCH_SIDE = {"torch", "transformers", "accelerate", "peft", "tokenizers", "safetensors"}
HEAVY = TORCH_SIDE | {
    "datasets", "pyarrow", "openai", "pydantic", "numpy", "numba", "datatrove", "rouge_score",
    "plotly", "textual", "spacy", "matplotlib", "py3langid", "huggingface_hub",
    "nltk", "rapidfuzz",
    "yaml",
}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports, at module level or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down_only(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    if len(place.parts) == 1:
        return
    room = place.parts[0]
    for name in imports(path):
        package, _, rest = name.partition(".")
        other = rest.partition(".")[0]
        if package == "alpaca_cli" and other in ALLOWED and other != room:
            allowed = other in ALLOWED[room] or (place.as_posix(), other) in EXCEPTIONS
            assert allowed, f"{place} imports {name}"
        if package in TORCH_SIDE:
            assert room == "model", f"{place} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text("utf-8")))


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    # Typer itself uses pydantic for the options of a command.
    heavy = HEAVY - ({"pydantic"} if arguments[0] == "train" else set())
    script = (
        "import sys\n"
        "from alpaca_cli.cli import main\n"
        f"sys.argv = ['alpaca', *{arguments!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('LOADED', sorted(set({sorted(heavy)!r}) & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED []", done.stdout
