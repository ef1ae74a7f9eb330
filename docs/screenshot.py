"""Make `docs/quickstart.svg`, the README's picture, from real commands on a finished quickstart.

    make quickstart && .venv/bin/python docs/screenshot.py

Each command runs in a pseudo-terminal, so that it colours its output as it does for a person;
rich draws what came back. Nothing in the picture is typed by hand but the commands.
"""

from __future__ import annotations

import os
import pty
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 100
COMMANDS = (
    ("generate", "--recipe", "quickstart"),
    ("train", "--recipe", "quickstart"),
    ("chat", "-p", "What is the capital of France?"),
    ("chat", "-p", "Write the numbers as a JSON array, smallest first.", "--input", "31, 8, 20"),
)


def output(arguments: tuple[str, ...]) -> str:
    """What `alpaca …` writes to a terminal of WIDTH columns."""
    chunks: list[bytes] = []

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 1 << 16)
        chunks.append(data)
        return b""

    command = [sys.executable, "-m", "alpaca_cli", *arguments]
    os.environ |= {"COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    if pty.spawn(command, read):
        raise SystemExit(f"failed: {' '.join(arguments)}\n{b''.join(chunks).decode()}")
    return b"".join(chunks).decode().replace("\r\n", "\n")


def main() -> None:
    console = Console(record=True, width=WIDTH, file=StringIO())
    for arguments in COMMANDS:
        shown = " ".join(f'"{each}"' if " " in each else each for each in arguments)
        console.print(Text(f"$ alpaca {shown}", style="bold"))
        console.print(Text.from_ansi(output(arguments)))
    console.save_svg(str(Path(__file__).with_name("quickstart.svg")), title="alpaca")


if __name__ == "__main__":
    main()
