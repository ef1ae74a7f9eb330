"""The run folder: where a recipe's stages keep their files, and how they know they are done.

    runs/<name>/recipe.yaml            the recipe as run, resolved
    runs/<name>/<stage>/…              outputs, a journal where there is one
    runs/<name>/<stage>/started.json   settings and input digests of unfinished, resumable work
    runs/<name>/<stage>/done.json      the same and the report, written last

Same settings and inputs: the stage is up to date. Changed: the stage is refused with the names
of what changed, until `--fresh` moves the old folder aside. Nothing is ever deleted.

What a stage does is not known here.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from alpaca_cli.core.errors import DataError, TryAgain, UsageError
from alpaca_cli.core.files import digest, disk_error, read_json, sync_folder, write_json

Fresh = Literal["never", "changed", "always"]

# What can change a stage's result. Looked up without importing any of them.
PACKAGES = (
    "alpaca-cli",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "openai",
    "numba",
    "rapidfuzz",
)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """One run: a folder with one sub-folder per stage."""

    path: Path

    def stage(self, name: str) -> StageFolder:
        return StageFolder(self.path / name)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for one writer; the lock goes with the process, however it ends.

        Raises:
            TryAgain: another process holds it; the message names its pid.
            UsageError: the folder cannot be written, or its disk has no locks.
        """
        lock = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise disk_error(error, self.path) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 32).decode().strip() or "unknown"
                raise TryAgain(
                    f"{self.path}: in use by another alpaca process (pid {owner})",
                    hint="wait for it, or give this run its own folder with --run DIR",
                ) from None
            except OSError as error:
                raise UsageError(
                    f"{self.path}: this disk has no file locks ({error.strerror})",
                    hint="mount it with locks (Lustre: -o flock), or name another with --run DIR",
                ) from error
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class StageFolder:
    """One stage's folder inside a run."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def report(self) -> dict[str, Any] | None:
        """The report of the finished stage, or None when it is not finished."""
        done = self.path / "done.json"
        return read_json(done)["report"] if done.is_file() else None

    def open(
        self, settings: Mapping[str, Any], inputs: Mapping[str, Path], *, fresh: Fresh = "never"
    ) -> dict[str, Any] | None:
        """The stored report when the stage is up to date; None when it has to run or go on.

        Args:
            settings: what determines the result, JSON-able.
            inputs: name -> file; compared by content.
            fresh: move the old folder aside `never`, when something `changed`, or `always`.

        Raises:
            UsageError: earlier work was made with other settings, inputs or outputs; says which.
        """
        if fresh == "always":
            self.move_aside()
        done, started = self.path / "done.json", self.path / "started.json"
        if not done.is_file() and not started.is_file():
            return None
        stamp = read_json(done if done.is_file() else started)
        changes = self._changes(stamp, settings, inputs)
        if not changes:
            report: dict[str, Any] | None = stamp.get("report")
            return report
        if fresh == "never":
            listed = "\n  ".join(changes)
            hint = f"--fresh moves it to {self._aside().name} and starts anew"
            own = self.path.parent / "recipe.yaml"
            if own.is_file():
                hint += f"; the run's own settings are in --recipe {shlex.quote(str(own))}"
            raise UsageError(f"{self.path} was made from something else:\n  {listed}", hint=hint)
        self.move_aside()
        return None

    def begin(self, settings: Mapping[str, Any], inputs: Mapping[str, Path]) -> None:
        """Stamp resumable work, so that it is only resumed with the settings it began with."""
        started = self.path / "started.json"
        if not started.is_file():
            write_json(started, {"settings": dict(settings), "inputs": _digests(inputs)})

    def finish(
        self,
        report: Mapping[str, Any],
        settings: Mapping[str, Any],
        inputs: Mapping[str, Path],
        outputs: list[str],
    ) -> None:
        """Write `done.json`, last of all files; `outputs` are file names inside the folder."""
        stamp = {
            "settings": dict(settings),
            "inputs": _digests(inputs),
            "outputs": {name: (self.path / name).stat().st_size for name in outputs},
            "versions": _versions(),
            "report": dict(report),
        }
        write_json(self.path / "done.json", stamp)

    def unfinish(self) -> None:
        """Take the mark of being finished away, before outputs are written anew."""
        done = self.path / "done.json"
        try:
            if done.is_file():
                done.unlink()
                sync_folder(self.path)
        except OSError as error:
            raise disk_error(error, done) from error

    def move_aside(self) -> Path | None:
        """Rename the folder to the first free `<stage>.old-N`; returns it, None when absent."""
        if not self.path.exists():
            return None
        target = self._aside()
        try:
            self.path.rename(target)
        except OSError as error:
            raise disk_error(error, self.path) from error
        return target

    def _aside(self) -> Path:
        number = 1
        while (target := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        return target

    def _changes(
        self, stamp: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, Path]
    ) -> list[str]:
        """What differs from the stamp, one line each."""
        changes = [
            f"{key}: was {_short(old)}, now {_short(new)}"
            for key, old, new in _differences(stamp["settings"], dict(settings))
        ]
        now = _digests(inputs)
        changes += [
            f"{name}: the file's content changed"
            for name in sorted(stamp["inputs"].keys() | now.keys())
            if stamp["inputs"].get(name) != now.get(name)
        ]
        for name, size in stamp.get("outputs", {}).items():
            file = self.path / name
            if not file.is_file() or file.stat().st_size != size:
                changes.append(f"{file}: missing or changed since it was made")
        return changes


def _digests(inputs: Mapping[str, Path]) -> dict[str, str]:
    return {name: digest(path) for name, path in inputs.items()}


def _differences(old: Any, new: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted key, old and new value of every leaf in which two JSON values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    elif old != new:
        yield at, old, new


def _short(value: Any) -> str:
    """A setting as a person reads it, on one line of bounded length."""
    text = "not set" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def newest_model(runs: Path) -> Path:
    """`train/final` of the run below `runs` whose training finished last.

    Raises:
        DataError: no run has finished training.
    """
    finished = sorted(runs.glob("*/train/done.json"), key=lambda path: path.stat().st_mtime_ns)
    if not finished:
        raise DataError(
            f"no finished training run in {runs}",
            hint="name a model folder, or train one: alpaca run --recipe quickstart",
        )
    return finished[-1].parent / "final"
