"""What every command shares: the common flags, and the session they open.

Flags say where and how loudly; every choice that changes results is a recipe key, and a flag
that sets one is only a shorter way to write it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from alpaca_cli.core.progress import CONTROL, Progress

if TYPE_CHECKING:
    from alpaca_cli.core.runfolder import Fresh, RunFolder
    from alpaca_cli.core.settings import Recipe

RecipeOption = Annotated[
    str | None,
    typer.Option("--recipe", "-r", metavar="NAME|FILE", help="Recipe: a shipped name or a file."),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="DIR", help="Run folder (default: runs/<recipe name>)."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set a recipe key, e.g. train.epochs=1."),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh", help="Move earlier results aside and start anew.")
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the report as one JSON object on stdout.")
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress; warnings stay.")]
FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILES]...", help="JSON, JSONL, Parquet (also .gz), or hub:<dataset>."),
]


@dataclass(frozen=True, slots=True)
class Session:
    """A command's surroundings: what to do, where, and where to say so."""

    recipe: Recipe
    run: RunFolder
    progress: Progress
    json: bool
    named: tuple[str, ...] = ()  # the flags that say which recipe and run this is

    def after(self, command: str) -> str:
        """A command on the same recipe and run, as it can be pasted into a shell."""
        return f"{command} {shlex.join(self.named)}".rstrip()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run folder for this process, and store the recipe as run in it.

        When it is refused before any stage has begun, the recipe that was there comes back.
        """
        from alpaca_cli.core.errors import DataError, UsageError
        from alpaca_cli.core.files import write_text
        from alpaca_cli.core.recipe import dump_recipe

        stored = self.run.path / "recipe.yaml"
        with self.run.lock():
            before = stored.read_text("utf-8") if stored.is_file() else None
            stages = self._stages()
            write_text(stored, dump_recipe(self.recipe))
            try:
                yield
            except (DataError, UsageError):
                if before is not None and self._stages() == stages:
                    write_text(stored, before)
                raise

    def _stages(self) -> dict[Path, int]:
        """The stamps of the run's stages, and when each was written."""
        stamps = (*self.run.path.glob("*/started.json"), *self.run.path.glob("*/done.json"))
        return {path: path.stat().st_mtime_ns for path in stamps}

    def finish(self, report: Any, shown: RenderableType, next_command: str = "") -> None:
        """Print a stage's report (a dataclass) on stdout and name the command that follows."""
        if self.json:
            print_json(asdict(report))
        else:
            SafeConsole(highlight=False).print(shown)
        if next_command:
            self.progress.info(f"next: {next_command}")


def open_session(
    recipe: str | None = None,
    run: Path | None = None,
    sets: Sequence[str] | None = None,
    *,
    json: bool = False,
    quiet: bool = False,
    flags: Mapping[str, Any] | None = None,
    name: str = "run",
) -> Session:
    """Read the recipe with `--set` values and flags over it, and find the run folder.

    Args:
        flags: recipe key -> (the flag as written, its value or None when not given).
        name: the run's name when no recipe gives one.
    """
    from alpaca_cli.core.recipe import load_recipe
    from alpaca_cli.core.runfolder import RunFolder

    given = {key: pair for key, pair in (flags or {}).items() if pair[1] is not None}
    loaded = load_recipe(recipe, overrides=sets or (), flags=given, default_name=name)
    folder = run if run is not None else runs_folder() / loaded.name
    progress = Progress(stderr(), quiet=quiet or json)
    named = [] if recipe is None else ["--recipe", recipe]
    named += [] if run is None else ["--run", str(run)]
    named += [text for each in sets or () for text in ("--set", each)]
    return Session(loaded, RunFolder(folder), progress, json, tuple(named))


def freshness(fresh: bool) -> Fresh:
    """What `--fresh` on a single stage means: move its folder aside whatever it holds."""
    return "always" if fresh else "never"


def runs_folder() -> Path:
    """Where runs are kept: `runs` below the current folder, or `ALPACA_RUNS`."""
    return Path(os.environ.get("ALPACA_RUNS", "runs"))


def stderr() -> Console:
    """The console for progress, warnings and errors."""
    return SafeConsole(stderr=True)


class SafeConsole(Console):
    """A console that lets no text of the data steer the terminal."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(text.translate(CONTROL), style)


def print_json(value: Any) -> None:
    """One JSON value on stdout, never wrapped or coloured, in letters that stdout has."""
    import json
    import sys

    plain = sys.stdout.encoding.lower() not in ("utf-8", "utf8")
    typer.echo(json.dumps(value, ensure_ascii=plain, indent=2))
