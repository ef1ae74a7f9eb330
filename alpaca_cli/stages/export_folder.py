"""A folder that appears whole or not at all.

It is written beside its place under another name, and renamed when all of it is on the disk. The
other name tells whose it is, so what a killed process left is cleared away by the next one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alpaca_cli.core.errors import ResourceError, TryAgain, UsageError
from alpaca_cli.core.files import digest, disk_error, sync_folder, write_text
from alpaca_cli.core.runfolder import StageFolder

CHECKSUMS = "SHA256SUMS"  # in the format of sha256sum: `sha256sum -c SHA256SUMS`


def check_target(target: Path, *sources: Path, fresh: bool) -> None:
    """Refuse a target that holds something, that lies in what it is made from, or that we are in.

    Raises:
        UsageError: says what is there.
    """
    place = target.resolve()
    for source in (each.resolve() for each in sources):
        if place.is_relative_to(source) or source.is_relative_to(place):
            raise UsageError(f"{target}: this is where the model is read from ({source})")
    if Path.cwd().is_relative_to(place):
        raise UsageError(
            f"{target}: this is where you are, and another folder would take its place",
            hint="name a folder that need not be there yet",
        )
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target}: a file is in the way")
    if target.is_dir() and any(target.iterdir()) and not fresh:
        raise UsageError(
            f"{target}: the folder is not empty",
            hint="name another one; --fresh moves this one aside",
        )


def check_space(target: Path, needed: int) -> None:
    """Refuse to begin what cannot fit on the disk.

    Raises:
        ResourceError: says how much is needed and how much is free.
    """
    place = next(each for each in (target.absolute(), *target.absolute().parents) if each.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise ResourceError(
            f"{target}: {free / 1e9:,.2f} GB free on the disk, the export needs {needed / 1e9:,.2f}"
        )


@contextmanager
def new_folder(target: Path, *, fresh: bool) -> Iterator[Path]:
    """A folder to write into; it becomes `target` when the block ends well, else it is removed.

    Args:
        fresh: what is there is moved aside, to `<target>.old-N`.

    Raises:
        TryAgain: another process writes the same folder now.
        ResourceError: the disk is full.
        UsageError: the folder cannot be written.
    """
    target = target.resolve()  # a link stays, and the folder appears where it leads
    partial = target.with_name(f".{target.name}.partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_RDONLY)
    except OSError as error:
        raise disk_error(error, target) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TryAgain(f"{target}: another process is writing it") from None
        try:
            _empty(partial)  # what a killed process left
            yield partial
            _sync(partial)
            if fresh and target.is_dir() and any(target.iterdir()):
                StageFolder(target).move_aside()
            os.rename(partial, target)
            sync_folder(target.parent)
        except OSError as error:
            raise disk_error(error, target) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)  # renamed away when all went well
    finally:
        os.close(descriptor)


def write_checksums(folder: Path) -> None:
    """Write SHA256SUMS of every other file in a folder."""
    sums = {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }
    write_text(folder / CHECKSUMS, "".join(f"{sha}  {name}\n" for name, sha in sums.items()))


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync_folder(path)  # fsync is the same call for a file
    sync_folder(folder)
