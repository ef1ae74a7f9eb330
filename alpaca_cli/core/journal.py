"""An append-only JSONL journal that survives `kill -9`.

Rows are on disk when `append` returns, or with the next group where that is soon enough. A crash
can tear the last line only; opening the journal cuts that line off, so every line read is whole.
A broken line anywhere else is not a crash but damage, and is refused with its number.

What the rows mean is the caller's business. One writer at a time: the run folder's lock sees to
that, and `hold` for a file that a person has named.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, TryAgain
from alpaca_cli.core.files import disk_error, json_line, read_jsonl, sync_folder


class Journal:
    """The file at `path`, opened for appending and created when absent.

    Attributes:
        torn_bytes: how much of a half-written last line was cut off when opening.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Replies may hold private seeds: readable by the owner only.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            self._file = os.fdopen(descriptor, "ab", buffering=0)
            sync_folder(path.parent)
            size = path.stat().st_size
            self._end = _end_of_last_line(path)
            self.torn_bytes = size - self._end
            if self.torn_bytes:
                self._file.truncate(self._end)
        except OSError as error:
            raise disk_error(error, path) from error

    def append(self, rows: Sequence[Mapping[str, Any]], *, sync: bool = True) -> None:
        """Write rows with one fsync for all of them (a group commit). Threads may call it.

        Args:
            sync: False leaves the fsync to the next group: the rows survive `kill -9` at once,
                but a power cut only then.

        Raises:
            ResourceError: the disk is full. The torn part is cut off; nothing earlier is lost.
        """
        data = b"".join(map(json_line, rows))
        try:
            with self._writing:
                self._write(data)
            if sync:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise disk_error(error, self.path) from error

    def _write(self, data: bytes) -> None:
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self._end)
            raise
        self._end += len(data)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows so far, oldest first; DataError with file and line on a damaged one."""
        for _, row in read_jsonl(self.path):
            yield row

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def hold(
    path: Path, kind: str, beginning: bytes, check: Callable[[Any], object], mode: int = 0o600
) -> int:
    """Lock a file that a person has named, before a `Journal` opens it; created when absent.

    A last row without its line break, as editors leave it, gets one. What is left of a row that a
    crash has torn is the journal's to cut off; the end of another file, named by mistake, is not.

    Args:
        kind: what its rows are, for messages.
        beginning: of every row as it is written.
        check: raises ValueError for a row of another kind.

    Returns:
        A descriptor that holds the lock until it is closed.

    Raises:
        DataError: it is another file, which stays as it is.
        TryAgain: another process is writing to it.
        UsageError: it cannot be written.
        ResourceError: the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, mode)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        last = path.read_bytes().rpartition(b"\n")[2]
        if last and _is_whole(last, f"{path}: not a file of {kind}", beginning, check):
            os.write(descriptor, b"\n")
    except BlockingIOError:
        os.close(descriptor)
        raise TryAgain(
            f"{path}: another process is writing {kind} there",
            hint="end that one, or name another file",
        ) from None
    except OSError as error:
        os.close(descriptor)
        raise disk_error(error, path) from error
    except DataError:
        os.close(descriptor)
        raise
    return descriptor


def _is_whole(line: bytes, refusal: str, beginning: bytes, check: Callable[[Any], object]) -> bool:
    """Whether a last line is a whole row; DataError when it is no part of one either."""
    try:
        row = json.loads(line)
    except ValueError as error:
        if line[: len(beginning)] != beginning[: len(line)]:
            raise DataError(refusal) from error
        return False
    try:
        check(row)
    except ValueError as error:
        raise DataError(f"{refusal}: {error}") from error
    return True


def whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The whole rows of a journal that another process may be writing; changes nothing.

    Raises:
        DataError: there is no such file, or a row that is not the last is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file", hint="run alpaca generate first")
    end = _end_of_last_line(path)
    with open(path, "rb") as file:
        while file.tell() < end:
            line = file.readline()
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}: not a JSON line: {error}") from error


def _end_of_last_line(path: Path) -> int:
    """Offset just after the last newline, read backwards in blocks; 0 when there is none."""
    block = 1 << 16
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - block)
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0
