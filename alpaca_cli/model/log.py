"""`log.jsonl` and `held_out.jsonl`: what a training did, step by step, as one run.

A training that goes on from a checkpoint cuts off what came after it, so that the lines are those
of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_cli.core.files import disk_error, write_jsonl


@dataclass(frozen=True, slots=True)
class Step:
    """One line of `log.jsonl`."""

    step: int
    """Optimizer steps done, this one included."""
    epoch: float
    """Passes over the data done."""
    loss: float
    """Mean over the step's trained tokens, in nats."""
    learning_rate: float
    grad_norm: float
    """Before clipping. Infinite where float16 overflowed and the step was skipped: null in the
    file, for JSON knows no infinity."""
    tokens: int
    """Prompt and response tokens, padding not counted."""
    trained_tokens: int
    positions: int
    """Computed, padding included, over all processes."""
    seconds: float
    memory: int
    """Most bytes held so far by this process: on its GPU, or in RAM without one."""
    mfu: float | None
    """Share of the devices' peak that the model's own FLOPs made up; None when that is unknown."""
    spike: bool = False
    """The loss or the gradients were far from those of the steps before."""
    rows: tuple[int, ...] = ()
    """The examples of a step with a spike, by their number in the data."""


class Sample(NamedTuple):
    """What the model answers to a held-out instruction."""

    instruction: str
    input: str
    answer: str


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One line of `held_out.jsonl`."""

    step: int
    loss: float
    """Mean over the trained tokens of the held-out examples, in nats."""
    best: bool
    """Lower than at every evaluation before."""
    seconds: float
    samples: tuple[Sample, ...] = ()


class Log:
    """A JSONL file of lines with a `step`; those after `start` are cut off when it is opened.

    Args:
        start: steps that stay; a resumed run writes the later ones again.
        write: False on all ranks but the first.

    Raises:
        ResourceError: the disk is full; from every method.
    """

    def __init__(self, path: Path, start: int, *, write: bool) -> None:
        self._path, self._file = path, None
        if not write:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_jsonl(path, read_log(path, start))
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise disk_error(error, path) from error

    def write(self, line: Mapping[str, Any]) -> None:
        if self._file is not None:
            try:
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise disk_error(error, self._path) from error

    def sync(self) -> None:
        """On disk up to here: a checkpoint must not outlive the lines that led to it."""
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                raise disk_error(error, self._path) from error

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # of a line that was not written, which has been said
                self._file.close()


def read_log(path: Path, steps: int | None = None) -> list[dict[str, Any]]:
    """The lines of a log, those of the first `steps` steps; what a power cut tore is left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:  # blocks that never reached the disk: after the newest checkpoint
            break
    return found if steps is None else [line for line in found if line["step"] <= steps]
