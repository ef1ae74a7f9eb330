"""Asks for what a generation wants: its teacher, online or in batches, and its judge beside it.

Opens and closes the endpoints, and brings everyone to the same event loop. What is asked for is
`alpaca_cli.stages.generation`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.settings_generate import OpenAITeacher, ProceduralTeacher
from alpaca_cli.data.batches import BatchDispatcher
from alpaca_cli.data.dispatch import Dispatcher
from alpaca_cli.data.endpoint import Endpoint
from alpaca_cli.data.limits import Limits
from alpaca_cli.data.signals import Signals
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Teacher, open_teacher
from alpaca_cli.stages.generation import Generation
from alpaca_cli.stages.judging import JUDGE, STAMP, Judging, judges_error, of_judge

TICK = 0.25  # seconds
Say = Callable[[str], None]


async def ask(
    work: Generation, journal: Journal, say: Say, tick: Callable[[], None] = lambda: None
) -> None:
    """Send requests until the pool is full, or something else ends it: see `work.ended_by`.

    Args:
        say: told what a person should know.
        tick: called now and then, for whoever watches.

    Raises:
        TeacherError: a key is missing.
    """
    settings = work.settings
    async with AsyncExitStack() as stack:
        opened = open_teacher(settings.teacher, settings.concurrency, work.ledger.limit_field)
        teacher = await stack.enter_async_context(opened)
        online = _dispatcher(teacher, settings.teacher, work.spending, work, journal, say)
        writer = _writer(teacher, online, work, journal, say)
        work.dispatcher = writer
        work.begin(journal, say)
        ticking = asyncio.get_running_loop().create_task(_ticking(tick))
        stack.callback(ticking.cancel)
        if (judging := work.judging) is None:
            with Signals(writer.interrupt):
                await writer.run(work)
        else:
            judge = judging.settings.teacher
            opened = open_teacher(judge, settings.concurrency, judging.ledger.limit_field)
            try:
                answer = await stack.enter_async_context(opened)
            except AlpacaError as error:
                raise judges_error(error, JUDGE) from None

            def told(text: str) -> None:
                say(of_judge(text, JUDGE))

            scorer = _dispatcher(answer, judge, judging.spending, work, journal, told, STAMP)
            judging.dispatcher = scorer
            await _both(writer, scorer, work, judging)
    work.ended_by = writer.ended_by


def _dispatcher(
    answer: Teacher,
    teacher: OpenAITeacher | ProceduralTeacher,
    spending: Spending,
    work: Generation,
    journal: Journal,
    say: Say,
    stamp: Mapping[str, Any] | None = None,
) -> Dispatcher:
    """A dispatcher for a teacher, with limits and a budget of its own."""
    limits, attempts, patience = Limits(work.settings.concurrency), 1, 0.0
    if isinstance(teacher, OpenAITeacher):
        limits = Limits(work.settings.concurrency, teacher.rpm, teacher.tpm)
        attempts, patience = teacher.max_attempts, teacher.patience
    return Dispatcher(
        answer,
        journal,
        spending,
        limits,
        attempts=attempts,
        patience=patience,
        announce=isinstance(teacher, OpenAITeacher),
        say=say,
        stamp=stamp,
    )


def _writer(
    teacher: Teacher, online: Dispatcher, work: Generation, journal: Journal, say: Say
) -> Dispatcher | BatchDispatcher:
    """Who asks the teacher: a batch that is open is collected in whatever mode."""
    if not isinstance(teacher, Endpoint) or not (work.waves or work.ledger.open_batches):
        return online
    return BatchDispatcher(
        teacher,
        online,
        journal,
        work.spending,
        work.ledger,
        work.settings.batch,
        settled=lambda: work.settled,
        waves=work.waves,
        say=say,
    )


async def _both(
    writer: Dispatcher | BatchDispatcher, scorer: Dispatcher, work: Generation, judging: Judging
) -> None:
    """Write and score side by side."""
    written = False

    def interrupt(signal: KeyboardInterrupt, grace: float | None) -> None:
        writer.interrupt(signal, grace)
        scorer.interrupt(signal, grace)

    async def write() -> None:
        nonlocal written
        await writer.run(work, lambda: judging.idle)
        written = True
        scorer.wake()

    async def score() -> None:
        await scorer.run(judging, lambda: written)
        if scorer.ended_by is not None:
            writer.stop(judges_error(scorer.ended_by, JUDGE))

    with Signals(interrupt):
        await asyncio.gather(write(), score())


async def _ticking(tick: Callable[[], None]) -> None:
    while True:
        tick()
        await asyncio.sleep(TICK)
