"""The `alpaca` command: thin Typer commands, one file each, and the way every one of them ends.

An `AlpacaError` becomes a message and its exit code; Ctrl-C and SIGTERM become 130 and 143;
anything else is a bug of ours, whose traceback is kept in a file. Importing this package loads
neither pydantic nor torch: commands import what they need when they run.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import traceback
from collections.abc import Callable
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.markup import escape

from alpaca_cli import __version__
from alpaca_cli.cli import (
    chat,
    dedup,
    doctor,
    eval,
    export,
    generate,
    recipes,
    run,
    seed,
    stats,
    train,
)
from alpaca_cli.cli.options import runs_folder, stderr
from alpaca_cli.core.errors import AlpacaError, Terminated, TryAgain

EXIT_CODES = (
    "Exit codes: 0 done · 1 a bug of ours · 2 usage or recipe wrong · 3 data wrong · "
    "4 stopped by a budget · 5 a gate failed · 6 teacher refused · 7 out of resources · "
    "75 try again later · 130/143 interrupted, the same command goes on."
)

ERROR = "[red]error:[/]"

app = typer.Typer(
    name="alpaca",
    help="From a handful of human-written tasks to an instruction-following model you can run.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"alpaca {__version__}")
        raise typer.Exit


@app.callback()
def _alpaca(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with every way of failing turned into a message and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except AlpacaError as error:
            # Nothing is wrong when the same command later can succeed.
            label = "[yellow]not yet:[/]" if isinstance(error, TryAgain) else ERROR
            _say(str(error), error.hint, label)
            raise SystemExit(error.exit_code) from None
        except KeyboardInterrupt as error:
            stderr().print("interrupted; the same command goes on from here")
            raise SystemExit(143 if isinstance(error, Terminated) else 130) from None
        except BrokenPipeError:
            # The reader left (`| head`): point stdout elsewhere so that exit does not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(141) from None
        except MemoryError:
            _say("out of memory", "smaller train.micro_batch or max_length, or fewer examples")
            raise SystemExit(7) from None
        except Exception:  # noqa: BLE001 - the last line of defence: a person never sees a traceback
            _say(f"a bug of ours; the traceback is in {_keep_traceback()}", "please report it")
            raise SystemExit(1) from None

    run.__doc__ = _flowing(command.__doc__ or "")
    return run


def _flowing(text: str) -> str:
    """A docstring without the line breaks inside its paragraphs, which rich would keep."""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def _say(message: str, hint: str, label: str = ERROR) -> None:
    console = stderr()
    console.print(f"{label} {escape(message)}", soft_wrap=True, highlight=False)
    if hint:
        console.print(f"[dim]hint:[/] {escape(hint)}", soft_wrap=True, highlight=False)


def _keep_traceback() -> Path | str:
    """Write the current traceback next to the runs, else to stderr; where it went."""
    text = traceback.format_exc()
    folder = runs_folder()
    path = folder / f"crash-{os.getpid()}.log"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError:
        sys.stderr.write(text)
        return "the lines above"
    return path


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise Terminated


app.command("seed")(guarded(seed.seed))
app.command("generate")(guarded(generate.generate))
app.command("dedup")(guarded(dedup.dedup))
app.command("stats")(guarded(stats.stats))
app.command("train")(guarded(train.train))
app.command("eval")(guarded(eval.eval))
app.command("chat")(guarded(chat.chat))
app.command("export")(guarded(export.export))
app.command("run")(guarded(run.run))
app.command("doctor")(guarded(doctor.doctor))
for _command in recipes.app.registered_commands:
    if _command.callback is not None:
        _command.callback = guarded(_command.callback)
app.add_typer(recipes.app)


def main() -> None:
    """The entry point of `alpaca` and `python -m alpaca_cli`."""
    _make_streams_usable()
    signal.signal(signal.SIGTERM, _terminate)
    app()


def _make_streams_usable() -> None:
    """What is printed never ends a command: a closed stream leads nowhere, and characters that a
    stream's encoding lacks are shown as escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by `>&-`
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the end
            setattr(sys, name, stream)
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
