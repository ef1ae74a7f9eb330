"""`alpaca chat`: talk to a model in the terminal, or ask it once from a script."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console

from alpaca_cli.cli.options import QuietOption, print_json, runs_folder, stderr


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run, model, checkpoint or adapter folder, or hub id (default: the newest run).",
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Ask this once and leave."),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="TEXT", help="Input field of the (first) message."),
    ] = None,
    system: Annotated[
        str,
        typer.Option("--system", metavar="TEXT", help="System prompt (Alpaca: goes first)."),
    ] = "",
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", help="0 takes the likeliest token (default: the model's)."),
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Nucleus sampling; 1 is off.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", help="Choose among this many tokens.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", help="Longest reply, in tokens (512).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Equal prompts give equal replies.")
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="With a prompt: one JSON object on stdout.")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Talk to a model.

    At a terminal: a conversation; /help lists its commands. With -p or a pipe: one answer on
    stdout. Piped text is the prompt, or beside -p the input field:
    `alpaca chat -p "Summarize this." < article.txt`.
    """
    from dataclasses import asdict, replace

    from alpaca_cli.core.progress import Progress
    from alpaca_cli.stages import chat as stage

    progress = Progress(stderr(), quiet=quiet)
    prompt, input = _asked(prompt, input)
    if prompt is None and (json or not sys.stdout.isatty()):
        raise _no_prompt()
    flags = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    student, session = stage.open_chat(model, runs_folder(), progress, system=system, flags=flags)
    if prompt is None:
        stage.converse(student, replace(session, input=input), stage.line_reader(), Console())
        return

    def write(text: str) -> None:
        if not json:
            sys.stdout.write(text)
            sys.stdout.flush()

    reply, _ = stage.ask(student, session, prompt, input, write=write)
    write("\n")
    if json:
        print_json(asdict(reply))
    if reply.finish_reason == "length":
        tokens = reply.usage["completion_tokens"]
        progress.warn(f"the reply was cut at {tokens:,} tokens (--max-new-tokens)")


def _asked(prompt: str | None, input: str | None) -> tuple[str | None, str]:
    """Prompt and input field with what is piped in; the prompt is None for a conversation.

    Raises:
        UsageError: nothing to ask, or no text on stdin.
    """
    from alpaca_cli.core.errors import UsageError

    # No stdin at all (`<&-`) is as good as an empty one.
    terminal = sys.stdin is not None and sys.stdin.isatty()
    piped = ""
    if sys.stdin is not None and not terminal and (prompt is None or input is None):
        try:
            piped = sys.stdin.buffer.read().decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise UsageError(f"stdin is not UTF-8 text: {error}") from error
    if prompt is not None:
        if not prompt.strip():
            raise UsageError("the prompt is empty")
        return prompt, input or piped
    if not piped and not terminal:
        raise _no_prompt()
    return piped or None, input or ""


def _no_prompt() -> Exception:
    from alpaca_cli.core.errors import UsageError

    return UsageError("no prompt", hint='alpaca chat -p "…", or pipe the prompt in')
