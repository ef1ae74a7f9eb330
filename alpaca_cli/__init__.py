"""alpaca: from a handful of human-written tasks to an instruction-following model you can run.

The package has four rooms, imported downwards only: `cli` (Typer commands), `stages` (one file
per stage of the road), `data` (text side) and `model` (torch side), and `core` below them all.
Importing `alpaca_cli` itself loads nothing heavy.
"""

__version__ = "0.1.0"
