"""Checkpoints: everything needed to go on training, in folders that are whole or not there.

    checkpoints/step-000200/   the model (a model folder like any other), and
        optimizer/             the optimizers' states, in torch's distributed format
        checkpoint.json        where the training was, and size and sha256 of every file

A folder is written under a hidden name, read back and compared, synced and renamed; its manifest
is written last. A folder that does not match its manifest is not whole: it is passed over, and
named. Learning rate, order of the data and random numbers are functions of the step, so they need
no storing. The optimizers' format belongs to no number of processes: what eight saved under FSDP2,
one can resume, and the other way round.
"""

from __future__ import annotations

import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.distributed import checkpoint as distributed
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from alpaca_cli.core.errors import DataError, GateFailed
from alpaca_cli.core.files import digest, disk_error, read_json, sync_folder, write_json
from alpaca_cli.model.locate import checkpoint_folders
from alpaca_cli.model.optim import blank_state, equal_states
from alpaca_cli.model.saving import full_disk, save_trainee, verify_saved
from alpaca_cli.model.strategy import Strategy, whole_state
from alpaca_cli.model.student import Trainee

MANIFEST = "checkpoint.json"
OPTIMIZER = "optimizer"
AT_ONCE = 1 << 30  # bytes of optimizer states that are read back together


@dataclass(frozen=True, slots=True)
class Position:
    """Where a training is.

    Attributes:
        step: optimizer steps done.
        examples: seen so far, repeats included: the place in the data.
        tokens, trained_tokens: seen so far.
        processes: that trained; another number may go on.
        held_out_loss: at this step, in nats; None when nothing is held out.
        scaler: state of the float16 gradient scaler; empty without one.
    """

    step: int
    examples: int
    tokens: int
    trained_tokens: int
    processes: int
    strategy: Strategy
    held_out_loss: float | None
    scaler: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint on disk."""

    path: Path
    position: Position


def save_checkpoint(
    folder: Path,
    position: Position,
    trainee: Trainee,
    optimizers: Sequence[torch.optim.Optimizer],
    accelerator: Accelerator,
    keep: int,
) -> Path:
    """Write `folder/step-<step>`, then remove all but the `keep` newest and the best.

    All processes must call it.

    Raises:
        ResourceError: the disk is full; earlier checkpoints are untouched.
        GateFailed: what was written is not what is in memory.
    """
    target = folder / f"step-{position.step:06d}"
    temporary = _hidden(target)
    main = accelerator.is_main_process
    if main:
        shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was cut short
    accelerator.wait_for_everyone()
    state = whole_state(trainee.model, position.strategy)
    try:
        if main:
            save_trainee(trainee, temporary, state)
            verify_saved(trainee, temporary, state)
        accelerator.wait_for_everyone()
        _save_optimizers(temporary / OPTIMIZER, trainee.model, optimizers, accelerator)
        accelerator.wait_for_everyone()  # each has read back its part
        if main:
            files = _manifest(temporary)
            write_json(temporary / MANIFEST, asdict(position) | {"files": files})
            _appear(temporary, target)
            _prune(folder, keep)
    finally:
        if main:
            shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    return target


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest whole checkpoint, every byte of it checked, and why newer ones are not whole."""
    skipped: list[str] = []
    for path in reversed(checkpoint_folders(folder)):
        fault = _fault(path)
        if fault is None:
            return Checkpoint(path, _position(path)), skipped
        skipped.append(f"{path}: {fault}")
    return None, skipped


def best_checkpoint(folder: Path) -> Checkpoint | None:
    """The checkpoint with the lowest held-out loss; None when none has one."""
    scored = [
        (position.held_out_loss, path)
        for path, position in _finished(folder)
        if position.held_out_loss is not None
    ]
    if not scored:
        return None
    path = min(scored, key=lambda each: each[0])[1]
    return Checkpoint(path, _position(path))


def remove_leftovers(folder: Path) -> None:
    """Remove what saves and removals that were cut short have left; call it before training."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def load_optimizers(
    folder: Path, model: Any, optimizers: Sequence[torch.optim.Optimizer], processes: int
) -> None:
    """Restore the states that `save_checkpoint` wrote; all processes must call it.

    Raises:
        DataError: they belong to other optimizers.
    """
    here = folder / OPTIMIZER
    saved = distributed.FileSystemReader(here).read_metadata().state_dict_metadata
    states = get_optimizer_state_dict(model, list(optimizers))
    missing = [
        f"{name}.{part}"
        for name, parts in states["state"].items()
        for part in parts
        if f"state.{name}.{part}" not in saved
    ]
    if missing:
        raise DataError(
            f"{here}: made with another train.optimizer: it has no {missing[0]}",
            hint="start with --fresh",
        )
    # Filled in place. Groups and rates are not stored: they follow from settings and step.
    _load({"state": states["state"]}, here, alone=processes == 1)
    set_optimizer_state_dict(model, list(optimizers), states)


def _save_optimizers(
    folder: Path,
    model: Any,
    optimizers: Sequence[torch.optim.Optimizer],
    accelerator: Accelerator,
) -> None:
    """Every process writes its part, reads it back and compares."""
    states = get_optimizer_state_dict(model, list(optimizers))["state"]
    alone = accelerator.num_processes == 1
    with full_disk(folder):
        try:
            with _no_group_is_meant():
                distributed.save({"state": states}, checkpoint_id=folder, no_dist=alone)
        except distributed.CheckpointException as error:
            # What went wrong in each process; the first one tells.
            raise next(iter(error.failures.values()))[0] from error
    for part in _parts(states):
        copy = {
            name: {key: blank_state(tensor) for key, tensor in tensors.items()}
            for name, tensors in part.items()
        }
        # Not together: each process looks at its own.
        _load({"state": copy}, folder, alone=True)
        for name, tensors in part.items():
            for key, tensor in tensors.items():
                if not equal_states(tensor, copy[name][key]):
                    raise GateFailed(
                        f"{folder}: {name}.{key} is not what was trained",
                        hint="the disk or a library changed it: earlier checkpoints are whole",
                    )


def _load(states: dict[str, Any], folder: Path, *, alone: bool) -> None:
    """Fill tensors in place."""
    with _no_group_is_meant():
        distributed.load(states, checkpoint_id=folder, no_dist=alone)


@contextmanager
def _no_group_is_meant() -> Iterator[None]:
    """torch warns when there is no process group, also when it is told that none is meant."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield


def _parts(states: Mapping[str, dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """The states of some parameters at a time, so that their copies need little memory."""
    part: dict[str, dict[str, Any]] = {}
    size = 0
    for name, tensors in states.items():
        part[name] = tensors
        size += sum(_local(tensor).nbytes for tensor in tensors.values())
        if size >= AT_ONCE:
            yield part
            part, size = {}, 0
    if part:
        yield part


def _local(tensor: Any) -> torch.Tensor:
    """The part of a sharded tensor that is here; a whole tensor as it is."""
    here: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return here


def _prune(folder: Path, keep: int) -> None:
    """Remove all finished checkpoints but the `keep` newest and the best."""
    best = best_checkpoint(folder)
    for path, _ in _finished(folder)[:-keep]:
        if best is None or path != best.path:
            # Renamed first: a removal cut short must not leave something that looks whole.
            doomed = path.with_name(f".{path.name}.old")
            path.rename(doomed)
            shutil.rmtree(doomed)


def _finished(folder: Path) -> list[tuple[Path, Position]]:
    """Checkpoints with a readable manifest, oldest first; their other files are not looked at."""
    return [
        (path, _position(path))
        for path in checkpoint_folders(folder)
        if isinstance(_read_manifest(path), dict)
    ]


def _position(path: Path) -> Position:
    found = read_json(path / MANIFEST)
    return Position(**{field.name: found[field.name] for field in fields(Position)})


def _read_manifest(path: Path) -> dict[str, Any] | str:
    """A checkpoint's manifest, or what is wrong with it."""
    if not (path / MANIFEST).is_file():
        return f"it has no {MANIFEST}: it was never finished"
    try:
        found = read_json(path / MANIFEST)
    except DataError as error:
        return str(error)
    names = {"files", *(field.name for field in fields(Position))}
    missing = sorted(names - found.keys()) if isinstance(found, dict) else sorted(names)
    return f"{MANIFEST} is of another version: it has no {missing[0]}" if missing else found


def _fault(path: Path) -> str | None:
    """Why a checkpoint cannot be gone on from; None when every file is what was written."""
    manifest = _read_manifest(path)
    if isinstance(manifest, str):
        return manifest
    files: dict[str, dict[str, Any]] = manifest["files"]
    for name, about in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != about["bytes"]:
            return f"{name} has {file.stat().st_size:,} bytes, {about['bytes']:,} were written"
    found = _digests([path / name for name in files])
    for (name, about), now in zip(files.items(), found, strict=True):
        if now != about["sha256"]:
            return f"{name} is not what was written: its sha256 differs"
    return None


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Path inside the folder -> size and sha256, of every file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": found}
        for path, found in zip(paths, _digests(paths), strict=True)
    }


def _digests(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor(max_workers=8) as pool:  # hashing gives the interpreter free
        return list(pool.map(digest, paths))


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.tmp")


def _appear(temporary: Path, target: Path) -> None:
    """Make a written folder durable and visible; an old one at its place is replaced."""
    try:
        for path in sorted(temporary.rglob("*"), reverse=True):
            if path.is_dir():
                sync_folder(path)
            else:
                with open(path, "rb") as file:
                    os.fsync(file.fileno())
        sync_folder(temporary)
        if target.exists():
            shutil.rmtree(target)
        temporary.rename(target)
        sync_folder(target.parent)
    except OSError as error:
        raise disk_error(error, target) from error


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that appears at `target` whole, when the block ends well; else not at all.

    An old folder at `target` is replaced. Write into the yielded folder, which does not exist
    yet.

    Raises:
        UsageError: the place cannot be written.
        ResourceError: the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _appear(temporary, target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
