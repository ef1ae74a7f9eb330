"""The web page: what stands where, and which button does what. gradio draws it.

Nothing that a browser sends is taken for a conversation: what was said is kept here, for each
open page, and the browser is only shown it. What happens to a message is the business of
`alpaca_cli.stages.web_chat`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import AlpacaError, UsageError
from alpaca_cli.core.progress import CONTROL
from alpaca_cli.data.votes import Said
from alpaca_cli.stages.chat_session import Session
from alpaca_cli.stages.web_chat import (
    LONGEST,
    MOST_NEW_TOKENS,
    Desk,
    Visitor,
    answers,
    forget,
    spoken,
    take_back,
    turns,
    with_settings,
)
from alpaca_cli.stages.web_markdown import harmless
from alpaca_cli.stages.web_vote import Ballot, Pair, alone

STYLE = Path(__file__).parent / "web.css"
EXAMPLES = (
    ("List three animals that live in the sea.", ""),
    ("Explain in two sentences why the sky is blue.", ""),
    ("Rewrite the sentence in the past tense.", "She walks to the market and buys some bread."),
    ("Is this review positive or negative?", "The soup was cold and nobody came."),
)
NOTICE = (
    "A language model for research, tuned to follow instructions. It can be wrong, invent facts "
    "and repeat prejudices of its training data, and it knows nothing of today. Do not rely on "
    "its answers, and tell it nothing private."
)
BLIND = (
    "<div><h1>Which answer is better?</h1><p>Two models answer the same message. Which of them "
    "stands on the left is drawn anew each time; the names are told at the end.</p></div>"
)
Update = dict[Any, Any]  # component -> what is new about it


@dataclass
class Page:
    """One visitor's page: the conversations, and in a blind comparison the pair to vote on."""

    visitor: Visitor
    pair: Pair | None = None


@dataclass(frozen=True)
class Parts:
    """The components that something happens to."""

    chats: list[Any]
    status: Any
    message: Any
    input: Any
    send: Any
    stop: Any
    actions: dict[str, Any]
    votes: dict[Said | str, Any]
    examples: list[Any]
    system: Any
    settings: dict[str, Any]

    @property
    def changing(self) -> list[Any]:
        """Everything that an event may change."""
        buttons = [self.send, self.stop, *self.actions.values(), *self.votes.values()]
        return [*self.chats, self.status, self.message, self.input, *buttons]


def build(desks: Sequence[Desk], session: Session, ballot: Ballot | None) -> Any:
    """The page as gradio's Blocks.

    Args:
        desks: one model, or two that are asked the same.
        session: what each visitor begins with.
        ballot: votes on two models whose names stay hidden; None names them.
    """
    import gradio as gr

    names = [desk.speaker.name for desk in desks]
    title = "which answer is better?" if ballot else ", ".join(names)
    with gr.Blocks(title=f"alpaca: {title}", analytics_enabled=False) as blocks:
        visitor = Visitor([alone(session) if ballot else session for _ in desks])
        page = gr.State(Page(visitor))
        with gr.Column(elem_id="page", elem_classes=["two"] if len(desks) > 1 else []):
            if ballot is not None:
                _told(gr, BLIND, "blind")
            _told(gr, f"<p>{escape(NOTICE)}</p>", "notice")
            heads = ["<h2>a</h2>", "<h2>b</h2>"] if ballot else list(map(_head, desks))
            parts = _parts(gr, heads, session, ballot is not None)
        _wire(gr, page, parts, _Handlers(gr, desks, parts, ballot))
    return blocks


def _told(gr: Any, html: str, elem_id: str) -> Any:
    """HTML of ours. (gradio's own component for HTML compiles it as a script's template.)"""
    return gr.Markdown(html, elem_id=elem_id, latex_delimiters=[])


def _head(desk: Desk) -> str:
    """What stands above a conversation: who answers."""
    lines = [desk.speaker.about, *desk.speaker.notes]
    told = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"<div><h2>{escape(desk.speaker.name)}</h2>{told}</div>"


def _parts(gr: Any, heads: Sequence[str], session: Session, blind: bool) -> Parts:
    """Everything that something happens to, from top to bottom."""
    chats = []
    with gr.Row(elem_id="chats"):
        for place, head in enumerate(heads):
            with gr.Column(min_width=240):
                _told(gr, head, f"head-{place}")
                chats.append(_chat(gr, place))
    status = _told(gr, _status(""), "status")
    labels = {
        "left": "a is better", "tie": "tie", "right": "b is better", "skip": "skip",
        "reveal": "names and votes so far",
    }  # fmt: skip
    with gr.Row(elem_id="votes", visible=blind):
        votes = {
            name: gr.Button(label, elem_id=name, size="sm", interactive=name == "reveal")
            for name, label in labels.items()
        }
    message = gr.Textbox(
        "", label="Message", placeholder="Enter sends; Shift+Enter begins a new line", lines=1,
        max_lines=12, max_length=LONGEST, elem_id="message",
    )  # fmt: skip
    with gr.Row(elem_id="buttons"):
        send = gr.Button("Send", variant="primary", size="sm", elem_id="send")
        stop = gr.Button("Stop", variant="stop", size="sm", elem_id="stop", visible=False)
        actions = {
            name: gr.Button(label, size="sm", elem_id=name, interactive=False, visible=not blind)
            for name, label in (
                ("retry", "Retry"), ("undo", "Undo"), ("edit", "Edit last"), ("clear", "Clear"),
            )
        }  # fmt: skip
    with gr.Row(elem_id="examples"):
        examples = [gr.Button(text, size="sm", elem_classes="example") for text, _ in EXAMPLES]
    with gr.Accordion("Input: a text that the message is about", open=False, elem_id="with-input"):
        input = gr.Textbox(
            "", show_label=False, container=False, lines=3, max_lines=12, max_length=LONGEST,
            placeholder="Alpaca's second form; empty for none", elem_id="input",
        )  # fmt: skip
    with gr.Accordion("Settings", open=False, elem_id="settings"):
        system, settings = _settings(gr, session, blind)
    return Parts(
        chats, status, message, input, send, stop, actions, votes, examples, system, settings
    )


def _chat(gr: Any, place: int) -> Any:
    return gr.Chatbot(
        show_label=False,
        elem_id=f"chat-{place}",
        height="clamp(260px, 50vh, 640px)",
        layout="bubble",
        buttons=[],
        placeholder=" ",
        # What a model writes is Markdown: no HTML of its own, no formulas, no files.
        sanitize_html=True,
        allow_tags=False,
        latex_delimiters=[],
        allow_file_downloads=False,
        feedback_options=None,
    )


def _settings(gr: Any, session: Session, blind: bool) -> tuple[Any, dict[str, Any]]:
    """The system prompt, and setting -> its control, with what the session begins with."""
    system = gr.Textbox(
        session.system, label="System prompt", lines=2, max_length=LONGEST, elem_id="system"
    )
    sampling = session.sampling
    with gr.Row():
        settings: dict[str, Any] = {
            "temperature": gr.Slider(
                0, 2, sampling.temperature, step=0.05, label="Temperature",
                info="0 takes the likeliest token", elem_id="temperature",
            ),
            "top_p": gr.Slider(
                0.01, 1, sampling.top_p, step=0.01, label="Top p", info="1 is off", elem_id="top_p"
            ),
        }  # fmt: skip
    with gr.Row():
        settings["top_k"] = gr.Number(
            sampling.top_k, precision=0, minimum=0, label="Top k", info="0 is off", elem_id="top_k"
        )
        settings["max_new_tokens"] = gr.Number(
            min(sampling.max_new_tokens, MOST_NEW_TOKENS), precision=0, minimum=1,
            maximum=MOST_NEW_TOKENS, label="Longest reply", info="in tokens",
            elem_id="max_new_tokens",
        )  # fmt: skip
        # gradio shows an empty number as 0.
        settings["seed"] = gr.Textbox(
            "" if sampling.seed is None else str(sampling.seed), label="Seed", max_length=20,
            info="a number; empty: another reply each time", elem_id="seed",
        )  # fmt: skip
    if not blind:
        settings["history"] = gr.Checkbox(
            session.history, label="The model sees the earlier messages", elem_id="history"
        )
    return system, settings


class _Handlers:
    """What the buttons do; each gives an update of the page."""

    def __init__(self, gr: Any, desks: Sequence[Desk], parts: Parts, ballot: Ballot | None) -> None:
        self._gr, self._desks, self._parts, self._ballot = gr, desks, parts, ballot

    async def send(
        self, page: Page, message: str, input: str, system: str, *values: object
    ) -> AsyncIterator[Update]:
        """Ask; answers appear as they are written, in a blind comparison when both are whole."""
        visitor, before = page.visitor, len(page.visitor.sessions[0].turns)
        named = dict(zip(self._parts.settings, values, strict=True))
        emptied = self._boxes("", "")
        try:
            if page.pair is not None:
                raise UsageError("vote on these answers first, or skip them")
            visitor.sessions = [with_settings(each, named, system) for each in visitor.sessions]
            async for said in answers(self._desks, visitor, message, input):
                yield self._view(page, said) | emptied
                emptied = {}  # the next message may be written meanwhile
        except AlpacaError as error:
            yield self._failed(page, error) | self._boxes(message, input)
            return
        if len(visitor.sessions[0].turns) == before:
            yield self._view(page, said) | self._boxes(message, input)
        elif self._ballot is not None:
            page.pair = self._ballot.draw(visitor)
            yield self._view(page, said)

    async def retry(self, page: Page, system: str, *values: object) -> AsyncIterator[Update]:
        """The last message once more."""
        try:
            last = take_back(page.visitor)
        except AlpacaError as error:
            yield self._failed(page, error)
            return
        async for update in self.send(page, last.message, last.input, system, *values):
            yield update

    def stop(self, page: Page) -> None:
        """End the answer; what was said stays."""
        page.visitor.stop()

    def undo(self, page: Page) -> Update:
        """Take the last message and its answer back."""
        return self._after(page, lambda: take_back(page.visitor))

    def edit(self, page: Page) -> Update:
        """Take the last message back into the box."""
        try:
            last = take_back(page.visitor)
        except AlpacaError as error:
            return self._failed(page, error)
        return self._view(page, "") | self._boxes(last.message, last.input)

    def clear(self, page: Page) -> Update:
        """A new conversation."""
        return self._after(page, lambda: forget(page.visitor))

    def vote(self, said: Said, page: Page) -> Update:
        """Keep a vote on the two answers that are shown."""
        assert self._ballot is not None
        if page.pair is None:
            return self._view(page, "")
        self._ballot.vote(page.pair, said)
        page.pair = None
        return self._view(page, "Saved. Ask the next question")

    def skip(self, page: Page) -> Update:
        """No vote on these two."""
        page.pair = None
        return self._view(page, "Skipped")

    def reveal(self, page: Page) -> Update:
        """The names, and what all votes on these two say."""
        assert self._ballot is not None
        return self._view(page, self._ballot.standing())

    def _after(self, page: Page, change: Callable[[], object]) -> Update:
        try:
            change()
        except AlpacaError as error:
            return self._failed(page, error)
        return self._view(page, "")

    def _failed(self, page: Page, error: AlpacaError) -> Update:
        told = f"{error} ({error.hint})" if error.hint else str(error)
        return self._view(page, told, wrong=True)

    def _boxes(self, message: str, input: str) -> Update:
        return {self._parts.message: message, self._parts.input: input}

    def _view(self, page: Page, said: str, *, wrong: bool = False) -> Update:
        """What is to be seen now: conversations, status, and which buttons can be pressed."""
        parts, gr, visitor = self._parts, self._gr, page.visitor
        busy, spoke = visitor.busy, bool(visitor.sessions[0].turns)
        update: Update = {parts.status: _status(said, wrong=wrong)}
        for place, chat in enumerate(parts.chats):
            update[chat] = _messages(self._spoken(page, place))
        update[parts.send] = gr.update(visible=not busy)
        update[parts.stop] = gr.update(visible=busy)
        for button in parts.actions.values():
            update[button] = gr.update(interactive=spoke and not busy)
        for name, button in parts.votes.items():
            if name != "reveal":
                update[button] = gr.update(interactive=page.pair is not None)
        return update

    def _spoken(self, page: Page, place: int) -> list[tuple[str, str]]:
        if self._ballot is None:
            return spoken(page.visitor, place)
        if page.pair is not None:
            return turns((page.pair.shown[place],))
        # How fast the models are must not tell who is who: only the question is shown.
        return spoken(page.visitor, place)[:1]


def _messages(said: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """In the form of gradio's chat, which takes text given as such as it is."""
    return [
        {"role": role, "content": [{"type": "text", "text": harmless(text.translate(CONTROL))}]}
        for role, text in said
    ]


def _status(text: str, *, wrong: bool = False) -> str:
    kind = "wrong" if wrong else "note"
    lines = "<br>".join(map(escape, text.split("\n")))
    return f'<div role="status" class="{kind}">{lines}</div>'


def _wire(gr: Any, page: Any, parts: Parts, do: _Handlers) -> None:
    """Join buttons and handlers."""

    def on(event: Any, handler: Callable[..., Any], *inputs: Any, outputs: Any = None) -> None:
        event(
            handler,
            [page, *inputs],
            parts.changing if outputs is None else outputs,
            show_progress="hidden",
            api_visibility="private",
            concurrency_limit=None,  # each model has its own line
        )

    sampling = [parts.system, *parts.settings.values()]
    for event in (parts.send.click, parts.message.submit):
        on(event, do.send, parts.message, parts.input, *sampling)
    on(parts.stop.click, do.stop, outputs=[])
    on(parts.actions["retry"].click, do.retry, *sampling)
    for name in ("undo", "edit", "clear"):
        on(parts.actions[name].click, getattr(do, name))
    for said in ("left", "right", "tie"):
        on(parts.votes[said].click, partial(do.vote, said))
    on(parts.votes["skip"].click, do.skip)
    on(parts.votes["reveal"].click, do.reveal)
    for button, example in zip(parts.examples, EXAMPLES, strict=True):
        on(
            button.click,
            lambda page, example=example: example,
            outputs=[parts.message, parts.input],
        )
