"""Checkpoints: everything needed to go on training, in folders that are whole or not there.

    checkpoints/step-000200/   the model (a model folder like any other), and
        optimizer.pt           the optimizers' states
        checkpoint.json        the step, and the size of every file: written last

A folder is written under a hidden name, synced and renamed. One whose files do not have the sizes
in its manifest is not whole and is passed over. The learning rate, the order of the data and the
random numbers of a step are functions of the step, so they need no storing.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import disk_error, read_json, sync_folder, write_json
from alpaca_cli.model.saving import full_disk, save_trainee
from alpaca_cli.model.student import Trainee

MANIFEST = "checkpoint.json"
OPTIMIZER = "optimizer.pt"


def save_checkpoint(
    folder: Path,
    step: int,
    trainee: Trainee,
    optimizers: list[torch.optim.Optimizer],
    keep: int,
) -> Path:
    """Write `folder/step-<step>`, then remove all but the `keep` newest.

    Args:
        step: optimizer steps done.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are untouched.
    """
    target = folder / f"step-{step:06d}"
    with new_folder(target) as temporary:
        save_trainee(trainee, temporary)
        states = [optimizer.state_dict() for optimizer in optimizers]
        with full_disk(target), open(temporary / OPTIMIZER, "wb") as file:
            torch.save(states, file)
        sizes = {path.name: path.stat().st_size for path in sorted(temporary.iterdir())}
        write_json(temporary / MANIFEST, {"step": step, "files": sizes})
    for old in _whole(folder)[:-keep]:
        # Renamed first: a removal that is cut short must not leave something that looks whole.
        doomed = old.with_name(f".{old.name}.old")
        old.rename(doomed)
        shutil.rmtree(doomed)
    return target


def newest_checkpoint(folder: Path) -> tuple[int, Path] | None:
    """Step and folder of the newest whole checkpoint; None when there is none."""
    whole = _whole(folder)
    if not whole:
        return None
    return int(read_json(whole[-1] / MANIFEST)["step"]), whole[-1]


def remove_leftovers(folder: Path) -> None:
    """Remove what saves and removals that were cut short have left; call it before training."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def load_optimizers(folder: Path, optimizers: list[torch.optim.Optimizer]) -> None:
    """Restore the states that `save_checkpoint` wrote.

    Raises:
        DataError: they belong to other optimizers.
    """
    path = folder / OPTIMIZER
    states: list[dict[str, Any]] = torch.load(path, map_location="cpu", weights_only=True)
    if len(states) != len(optimizers):
        raise DataError(f"{path}: made with another train.optimizer", hint="start with --fresh")
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)


def _whole(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return [path for path in sorted(folder.glob("step-*")) if _is_whole(path)]


def _is_whole(path: Path) -> bool:
    manifest = path / MANIFEST
    if not manifest.is_file():
        return False
    files: dict[str, int] = read_json(manifest)["files"]
    return all(
        (path / name).is_file() and (path / name).stat().st_size == size
        for name, size in files.items()
    )


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` whole, when the block ends well; else not at all.

    An old folder at `target` is replaced. Write into the yielded folder, which does not exist
    yet.

    Raises:
        UsageError: the place cannot be written.
        ResourceError: the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for path in temporary.iterdir():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
