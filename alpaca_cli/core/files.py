"""Files that appear whole or not at all, and their digests.

Write to a temporary file in the same folder, fsync, rename, fsync the folder: after a crash at
any instant a reader finds the old file, the new file, or none, never a part.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from alpaca_cli.core.errors import AlpacaError, DataError, ResourceError, UsageError

_PIECES, _PIECE = 64, 1 << 16  # of a file that is sampled: their number, and bytes of each


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """A binary file that replaces `path` when the block ends well, and leaves it alone otherwise.

    Raises:
        UsageError: the folder cannot be written.
        ResourceError: the disk is full.
    """
    # On a shared disk two machines may write the same file.
    temporary = path.with_name(f".{path.name}.{platform.node()}-{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        # Still there only when something went wrong; on a folder we may not write, it never was.
        if path.parent.is_dir() and os.access(path.parent, os.W_OK):
            temporary.unlink(missing_ok=True)


def disk_error(error: OSError, path: Path) -> AlpacaError:
    """The error to show for a failed write to `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(f"{path}: no space left on the disk", hint="free space and run again")
    return UsageError(f"{path}: cannot write: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """Make a rename or a new name inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write one JSON value atomically, indented, keys in the given order."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """One JSON value; DataError names the file when it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from error


def json_line(row: Mapping[str, Any]) -> bytes:
    """One compact JSON line with its newline."""
    return json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL atomically; returns how many."""
    count = 0
    with atomic_file(path) as file:
        for row in rows:
            file.write(json_line(row))
            count += 1
    return count


def read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    """Line number (from 1) and value of every non-blank line.

    Raises:
        DataError: a line is not JSON or not UTF-8; names file and line.
    """
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}:{number}: not a JSON line: {error}") from error


def sampled_digest(path: Path) -> str:
    """sha256 of a file's size and of 64 pieces of it, evenly spread: tells weights of many
    gigabytes from others in no time. What differs between the pieces only is not seen.

    Raises:
        DataError: as `digest`.
    """
    try:
        with open(path, "rb") as file:
            size = path.stat().st_size
            found = hashlib.sha256(str(size).encode())
            for piece in range(_PIECES):
                file.seek(size * piece // _PIECES)
                found.update(file.read(_PIECE))
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    return found.hexdigest()


def digest(path: Path) -> str:
    """sha256 of a file's bytes, hexadecimal.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
