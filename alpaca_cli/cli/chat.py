"""`alpaca chat`: talk to a model in the terminal or on a page, compare two, ask from a script."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alpaca_cli.cli.options import QuietOption

COMPARE, PAGE, SERVER = "Two models", "Web page", "Server"


def chat(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="Run, model, checkpoint or adapter folder, or hub id (default: the newest run); "
            "with --base-url the endpoint's name for it.",
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
    base_url: Annotated[
        str | None,
        typer.Option("--base-url", metavar="URL", help="OpenAI-compatible endpoint of MODEL."),
    ] = None,
    api_key_env: Annotated[
        str | None,
        typer.Option(
            "--api-key-env", metavar="NAME", help="Variable with its key (OPENAI_API_KEY)."
        ),
    ] = None,
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
        int | None,
        typer.Option("--max-new-tokens", help="Longest reply, in tokens (512; endpoints: theirs)."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Equal prompts give equal replies.")
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Show replies as text, not as Markdown.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="With a prompt or --parity: one JSON object on stdout.")
    ] = False,
    parity: Annotated[
        Path | None,
        typer.Option("--parity", metavar="FILE", help="Prove that prompts are those of training."),
    ] = None,
    quiet: QuietOption = False,
    vs: Annotated[
        str | None,
        typer.Option(
            "--vs", metavar="MODEL", help="Ask a second model, too.", rich_help_panel=COMPARE
        ),
    ] = None,
    vs_base_url: Annotated[
        str | None,
        typer.Option(
            "--vs-base-url", metavar="URL", help="Endpoint of that one.", rich_help_panel=COMPARE
        ),
    ] = None,
    blind: Annotated[
        bool,
        typer.Option(
            "--blind", help="Vote before names are told, at the end.", rich_help_panel=COMPARE
        ),
    ] = False,
    votes: Annotated[
        Path | None,
        typer.Option(
            "--votes",
            metavar="FILE",
            help="Where votes are kept (runs/votes.jsonl).",
            rich_help_panel=COMPARE,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FILE", help="Vote on these questions.", rich_help_panel=COMPARE
        ),
    ] = None,
    web: Annotated[
        bool, typer.Option("--web", help="A chat page in the browser.", rich_help_panel=PAGE)
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open it here.", rich_help_panel=PAGE)
    ] = False,
    auth: Annotated[
        str | None,
        typer.Option(
            "--auth",
            metavar="USER:PASSWORD",
            help="Who may use it (or ALPACA_AUTH).",
            rich_help_panel=PAGE,
        ),
    ] = None,
    serve: Annotated[
        bool,
        typer.Option("--serve", help="Be an OpenAI-compatible endpoint.", rich_help_panel=SERVER),
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="auto, transformers or vllm.", rich_help_panel=SERVER),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            "--host",
            help="Where page or server listen (127.0.0.1).",
            rich_help_panel=SERVER,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option("--port", help="Its port; 0 takes a free one.", rich_help_panel=SERVER),
    ] = None,
) -> None:
    """Talk to a model.

    At a terminal: a conversation; /help lists its commands. With -p or a pipe: one answer on
    stdout. Piped text is the prompt, or beside -p the input field:
    `alpaca chat -p "Summarize this." < article.txt`.
    """
    from alpaca_cli.cli.chat_modes import Wish, carry_out

    sampling = {
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }
    wish = Wish(
        model=model,
        prompt=prompt,
        input=input,
        system=system,
        base_url=base_url,
        api_key_env=api_key_env,
        sampling={name: value for name, value in sampling.items() if value is not None},
        plain=plain,
        json=json,
        parity=parity,
        vs=vs,
        vs_base_url=vs_base_url,
        blind=blind,
        votes=votes,
        data=data,
        web=web,
        open=open_page,
        auth=auth,
        serve=serve,
        engine=engine,
        address=address,
        port=port,
    )
    carry_out(wish, quiet=quiet)
