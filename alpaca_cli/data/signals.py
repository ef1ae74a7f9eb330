"""Ctrl-C and SIGTERM as calls inside an event loop, instead of exceptions anywhere."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import TracebackType

from alpaca_cli.core.errors import Terminated

TERM_GRACE = 20.0  # seconds; who sends SIGTERM kills soon after

Interrupt = Callable[[KeyboardInterrupt, float | None], None]


class Signals:
    """While it is entered, a signal calls `interrupt` with what to raise in the end.

    Args:
        interrupt: gets the exception and the seconds of grace, None for as long as it takes.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def __enter__(self) -> None:
        # Only the main thread may change what a signal does.
        self._main = threading.current_thread() is threading.main_thread()
        if not self._main:
            return
        loop = asyncio.get_running_loop()
        self._before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        loop.add_signal_handler(signal.SIGINT, self._interrupt, KeyboardInterrupt(), None)
        loop.add_signal_handler(signal.SIGTERM, self._interrupt, Terminated(), TERM_GRACE)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._main:
            return
        loop = asyncio.get_running_loop()
        for number, handler in self._before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
