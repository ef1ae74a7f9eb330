"""Make `docs/quickstart.svg`, the README's picture, from real commands on a finished quickstart.

    make quickstart && .venv/bin/python docs/screenshot.py

Each command is run as it is; rich draws what came back. Nothing in the picture is typed by hand
but the commands.
"""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
COMMANDS = (
    ("generate", "-q", "--recipe", "quickstart"),
    ("train", "-q", "--recipe", "quickstart"),
    ("chat", "-q", "-p", "What is the capital of Japan?"),
    (
        "chat",
        "-q",
        "-p",
        "Who bought the hat?",
        "--input",
        "Emma bought a hat in Rome for 12 dollars.",
    ),
    # Outside of what it has seen, on purpose.
    ("chat", "-q", "-p", "Explain how rainbows form."),
)


def output(arguments: tuple[str, ...]) -> str:
    """What `alpaca …` writes to a terminal of WIDTH columns, in colour."""
    done = subprocess.run(
        [sys.executable, "-m", "alpaca_cli", *arguments],
        env=os.environ | {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> None:
    console = Console(record=True, width=WIDTH, file=StringIO())
    for arguments in COMMANDS:
        shown = " ".join(f'"{each}"' if " " in each else each for each in arguments)
        console.print(Text(f"$ alpaca {shown}", style="bold"))
        console.print(Text.from_ansi(output(arguments)))
    console.save_svg(str(Path(__file__).with_name("quickstart.svg")), title="alpaca")


if __name__ == "__main__":
    main()
