"""`alpaca chat --web`: a chat page for this machine, or for others behind a password.

What a visitor sees is `alpaca_cli.stages.web_page`, who may ask is `alpaca_cli.stages.web_guard`;
here the two are put behind a port. Nothing leaves the machine: gradio's analytics, share links and
update checks are off before it is imported, whatever the environment says.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import webbrowser
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Console

from alpaca_cli.core.errors import AlpacaError, UsageError, missing_extra
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.listening import is_loopback, listen, reachable, shown, url
from alpaca_cli.stages.speaker import Speaker
from alpaca_cli.stages.web_chat import Desk
from alpaca_cli.stages.web_guard import Guard
from alpaca_cli.stages.web_vote import Ballot

PORT = 7860  # gradio's own, where people look for it
KEPT = {"GRADIO_TEMP_DIR"}  # of gradio's environment variables


def run(
    speakers: Sequence[Speaker],
    session: Session,
    *,
    address: str = "127.0.0.1",
    port: int | None = None,
    auth: tuple[str, str] | None = None,
    open_page: bool = False,
    votes: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serve the chat page until Ctrl-C or SIGTERM.

    Args:
        speakers: one model, or two that answer side by side.
        session: sampling, system prompt and history that a visitor begins with.
        address: where to listen; other machines only reach it with `auth`.
        port: 0 takes a free one; None takes `PORT`, or a free one when that is in use.
        auth: name and password that visitors must give.
        open_page: open the page in this machine's browser.
        votes: the file of votes of a blind comparison; None names the models.
        say: gets the address once the page answers; None prints it on stderr.

    Raises:
        UsageError: gradio is missing, the port is in use, or the address needs a password.
        DataError: the file of votes is damaged.
        KeyboardInterrupt, Terminated: the person ended it.
    """
    check(speakers, address=address, auth=auth, votes=votes)
    with listen(address, port, PORT) as listener:
        ballot = Ballot([each.name for each in speakers], votes) if votes else None
        desks = [Desk(each) for each in speakers]
        try:
            app = Guard(_application(desks, session, ballot, auth), any_host=auth is not None)
            _serve(app, listener, address, say or _print, open_page)
        finally:
            for desk in desks:
                desk.close()
            if ballot is not None:
                ballot.close()


def check(
    speakers: Sequence[object],
    *,
    address: str,
    auth: tuple[str, str] | None,
    votes: Path | None = None,
) -> None:
    """Refuse what cannot work, before a model is loaded.

    Raises:
        UsageError: says what is missing.
    """
    if find_spec("gradio") is None:
        raise missing_extra("gradio", "web")
    if auth is not None and not all(auth):
        raise UsageError("--auth: name and password, none of them empty")
    if auth is None and not is_loopback(address):
        raise UsageError(
            f"--address {address}: other machines could use the page, and nobody would ask who",
            hint="add --auth, or stay on 127.0.0.1 and reach it by ssh -L",
        )
    if votes is not None and len(speakers) != 2:
        raise UsageError("a blind comparison needs two models")


def _application(
    desks: Sequence[Desk],
    session: Session,
    ballot: Ballot | None,
    auth: tuple[str, str] | None,
) -> Any:
    """gradio's page as an ASGI application with everything off that a chat does not need."""
    for name in os.environ.keys() - KEPT:
        if name.startswith("GRADIO_"):  # a share link or paths to serve may hide there
            del os.environ[name]
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    import gradio as gr
    from fastapi import FastAPI

    from alpaca_cli.stages.web_page import STYLE, build

    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(desks, session, ballot),
        path="/",
        auth=auth,
        allowed_paths=[],
        blocked_paths=["/"],
        max_file_size=1,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        ),
        css_paths=[STYLE],
    )


def _serve(
    app: Guard,
    listener: socket.socket,
    address: str,
    say: Callable[[str], None],
    open_page: bool,
) -> None:
    """Answer until a signal comes; uvicorn raises it again when all connections are closed."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=1,  # open pages hold a connection for as long as they are open
    )
    server, port = uvicorn.Server(config), listener.getsockname()[1]

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.05)
        status = await asyncio.to_thread(_status, reachable(address), port)
        if status != 200:
            raise AlpacaError(f"the page answers with {status}")
        say(url(shown(address), port))
        if open_page:
            await asyncio.to_thread(webbrowser.open, url(reachable(address), port))

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            told = tasks.create_task(announce())
            await server.serve(sockets=[listener])
            told.cancel()

    asyncio.run(both())


def _print(address: str) -> None:
    console = Console(stderr=True)
    console.print(f"{address} · Ctrl-C ends", highlight=False, soft_wrap=True)


def _status(address: str, port: int) -> int:
    """What the page answers to one request."""
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status
    finally:
        connection.close()
