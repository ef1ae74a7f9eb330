"""What a person sees of a training while it runs: a live panel, or one line in a log.

Also what is said at a held-out loss, with the model's answers made safe for a terminal. Knows the
figures of steps and evaluations only, not where they come from, and imports no torch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from alpaca_cli.core.progress import Progress, duration

RECENT = 20  # steps over which speed, padding and MFU are taken
SMOOTHING = 0.9  # share of the old value in the moving average of the loss
WIDE, WIDEST = 90, 104  # columns from which figures stand side by side, and the most to be used
POINTS = 400  # most points kept of the loss curve
BARS = "▁▂▃▄▅▆▇█"
SAMPLE_LINES, SAMPLE_WIDTH = 4, 100  # of each part of a sample, at most


class Step(Protocol):
    """What is shown of one optimizer step: a line of `log.jsonl`."""

    @property
    def step(self) -> int:
        """Optimizer steps done, this one included."""

    @property
    def epoch(self) -> float:
        """Passes over the data done."""

    @property
    def loss(self) -> float:
        """Mean over the step's trained tokens, in nats."""

    @property
    def learning_rate(self) -> float: ...

    @property
    def grad_norm(self) -> float:
        """Before clipping."""

    @property
    def tokens(self) -> int:
        """Prompt and response tokens, padding not counted."""

    @property
    def positions(self) -> int:
        """Positions that were computed, padding included."""

    @property
    def seconds(self) -> float: ...

    @property
    def memory(self) -> int | None:
        """Peak bytes on the device, or of the process on CPU."""

    @property
    def mfu(self) -> float | None:
        """Share of the device's peak, 0 to 1."""

    @property
    def spike(self) -> bool: ...


class Evaluation(Protocol):
    """What is shown of one evaluation."""

    @property
    def step(self) -> int: ...

    @property
    def loss(self) -> float:
        """Held-out, in nats per trained token."""

    @property
    def best(self) -> bool:
        """The lowest so far."""

    @property
    def samples(self) -> Sequence[tuple[str, str, str]]:
        """Instruction, input and the model's answer."""


class TrainingView:
    """A training as a panel and as a line; see `progress.View`.

    Args:
        steps: optimizer steps in all.
        start: steps that were done before, when a training is resumed.
        log: lines of `log.jsonl` up to `start`, so that curve and average go on.
        evaluations: (step, held-out loss) of earlier evaluations.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        steps: int,
        start: int = 0,
        *,
        log: Iterable[Mapping[str, Any]] = (),
        evaluations: Iterable[tuple[int, float]] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.steps, self._start, self._done, self._clock = steps, start, start, clock
        self._began = clock()
        self._first_ended = self._began
        self._computing = 0.0  # seconds inside steps, after the first
        self._recent: deque[Step] = deque(maxlen=RECENT)
        self._curve = Curve()
        self._held_out: list[tuple[int, float]] = list(evaluations)
        self._spikes, self._last_spike = 0, 0
        for line in log:
            self._curve.add(line["loss"])
            self._count_spike(line["step"], line.get("spike", False))

    def on_step(self, line: Step) -> None:
        """Take in one step."""
        if self._recent:
            self._computing += line.seconds
        else:
            self._first_ended = self._clock()
        self._done = line.step
        self._recent.append(line)
        self._curve.add(line.loss)
        self._count_spike(line.step, line.spike)

    def on_evaluation(self, evaluation: Evaluation) -> None:
        """Take in one held-out loss."""
        self._held_out.append((evaluation.step, evaluation.loss))

    def panel(self) -> RenderableType:
        """See `progress.View`."""
        return Panel(_Body(self), title="train", title_align="left", expand=False)

    def line(self) -> str:
        """See `progress.View`."""
        parts = [f"train: {self._done:,}/{self.steps:,}", *self._times()]
        if self._recent:
            last = self._recent[-1]
            parts += [f"epoch {last.epoch:.2f}", f"loss {self._curve.smooth:.3f}"]
            if self._held_out:
                parts.append(f"held-out {self._held_out[-1][1]:.3f}")
            parts += [
                f"lr {last.learning_rate:.1e}",
                f"grad norm {last.grad_norm:.2f}",
                f"{self.tokens_per_second():,.0f} tokens/s",
            ]
            parts += [
                f"{name} {value}"
                for name, value in self._machine()
                if name in ("padding", "MFU", "memory")
            ]
        return " · ".join(parts)

    def tokens_per_second(self) -> float:
        """Useful (not padding) tokens in a second of the last steps."""
        return _per(self._recent, "tokens", "seconds")

    def seconds_left(self) -> float | None:
        """At the speed of the last steps; None before the second step.

        Evaluations and saves are spread over all steps of this process: they come now and then,
        and time that follows recent steps only would jump at each.
        """
        taken = len(self._recent)
        if taken < 2:
            return None
        each = sum(line.seconds for line in self._recent) / taken
        after_first = self._done - self._start - 1
        beside = max(0.0, self._clock() - self._first_ended - self._computing) / after_first
        return (self.steps - self._done) * (each + beside)

    def head(self) -> tuple[str, str]:
        """Steps done, and times."""
        return f"step {self._done:,} of {self.steps:,}", " · ".join(self._times())

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return self._done / self.steps

    @property
    def curve(self) -> Curve:
        """The losses so far."""
        return self._curve

    def learning(self) -> list[tuple[str, str]]:
        """Name and value of what is said about the model."""
        if not self._recent:
            return [("loss", "no step yet")]
        last = self._recent[-1]
        figures = [
            ("loss", f"{self._curve.smooth:.3f} (last step {last.loss:.3f})"),
            ("held-out loss", self._best()),
            ("epoch", f"{last.epoch:.2f}"),
            ("learning rate", f"{last.learning_rate:.2e}"),
            ("gradient norm", f"{last.grad_norm:.3g}"),
        ]
        return [(name, value) for name, value in figures if value]

    def machine(self) -> list[tuple[str, str]]:
        """Name and value of what is said about the computing."""
        if not self._recent:
            return []
        figures = [("tokens/s", f"{self.tokens_per_second():,.0f}"), *self._machine()]
        if self._spikes:
            figures.append(("spikes", f"{self._spikes}, the last at step {self._last_spike:,}"))
        return figures

    def _machine(self) -> list[tuple[str, str]]:
        figures = [("padding", f"{1 - _per(self._recent, 'tokens', 'positions'):.1%}")]
        known = [line.mfu for line in self._recent if line.mfu is not None]
        if known:
            figures.append(("MFU", f"{sum(known) / len(known):.1%}"))
        memory = [line.memory for line in self._recent if line.memory is not None]
        if memory:
            figures.append(("memory", f"{max(memory) / 2**30:.2f} GiB"))
        return figures

    def _best(self) -> str:
        if not self._held_out:
            return ""
        step, loss = self._held_out[-1]
        best_step, best = min(self._held_out, key=lambda pair: pair[1])
        if best_step == step:
            return f"{loss:.3f} at step {step:,}, the best"
        return f"{loss:.3f} (best {best:.3f} at step {best_step:,})"

    def _times(self) -> list[str]:
        times = [duration(self._clock() - self._began)]
        left = self.seconds_left()
        if left and self._done < self.steps:
            times.append(f"about {duration(left)} left")
        return times

    def _count_spike(self, step: int, spike: bool) -> None:
        if spike:
            self._spikes, self._last_spike = self._spikes + 1, step


def _per(lines: Iterable[Step], counted: str, by: str) -> float:
    """Sum of one field over the sum of another."""
    lines = list(lines)
    below = sum(getattr(line, by) for line in lines)
    return sum(getattr(line, counted) for line in lines) / below if below else 0.0


class Curve:
    """A loss curve in bounded memory, and its moving average."""

    def __init__(self) -> None:
        self.smooth = 0.0
        self._weight = 0.0
        self._points: list[float] = []
        self._each, self._sum, self._count = 1, 0.0, 0

    def add(self, loss: float) -> None:
        """Take in the next step's loss."""
        # Divided by the weights given so far, or the average would start at 0 (as in Adam).
        before = self.smooth * self._weight * SMOOTHING
        self._weight = self._weight * SMOOTHING + 1 - SMOOTHING
        self.smooth = (before + (1 - SMOOTHING) * loss) / self._weight
        self._sum, self._count = self._sum + loss, self._count + 1
        if self._count == self._each:
            self._points.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        if len(self._points) == POINTS:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [(one + other) / 2 for one, other in pairs]
            self._each *= 2

    def drawn(self, width: int) -> str:
        """The curve in at most `width` characters, the first and last value beside it.

        On a log scale: what is gained late in a training is small beside its first steps.
        """
        points, cells = self._points, width - 14
        if len(points) < 2 or cells < 8:
            return ""
        cells = min(cells, len(points))
        edges = [round(cell * len(points) / cells) for cell in range(cells + 1)]
        means = [sum(points[start:end]) / (end - start) for start, end in pairwise(edges)]
        logs = [math.log(max(mean, 1e-6)) for mean in means]
        low, span = min(logs), max(logs) - min(logs) or 1.0
        bars = "".join(BARS[round((each - low) / span * (len(BARS) - 1))] for each in logs)
        return f"{means[0]:.3f} {bars} {means[-1]:.3f}"


@dataclass(frozen=True, slots=True)
class _Body:
    """The inside of the panel, drawn for the width there is."""

    view: TrainingView

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        # Not the whole width: then a typed ^C would move the cursor to a new line.
        width = min(max(options.max_width - 4, 1), WIDEST)
        return Measurement(width, width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        view, width = self.view, options.max_width
        wide = width >= WIDE
        steps, times = view.head()
        bar = ProgressBar(total=1, completed=view.share, width=30 if wide else 12)
        head = Table.grid(padding=(0, 1))
        head.add_row(Text(steps, style="bold"), bar, Text(f"{view.share:.0%}"), Text(times))
        yield head
        yield ""
        figures: RenderableType
        if wide:
            beside = Table.grid(padding=(0, 6))
            beside.add_row(_grid(view.learning()), _grid(view.machine()))
            figures = beside
        else:
            figures = Group(_grid(view.learning() + view.machine()))
        yield figures
        drawn = view.curve.drawn(width)
        if drawn and not options.ascii_only:
            yield ""
            yield Text(drawn, style="cyan", no_wrap=True)


def _grid(figures: list[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in figures:
        grid.add_row(Text(name, style="dim", no_wrap=True), Text(value))
    return grid


def say_evaluation(evaluation: Evaluation, progress: Progress) -> None:
    """Say a held-out loss, and what the model answered."""
    console = progress.console
    width = min(SAMPLE_WIDTH, console.width - 4) if console.is_terminal else SAMPLE_WIDTH
    best = ", the best so far" if evaluation.best else ""
    progress.info(f"step {evaluation.step:,}: held-out loss {evaluation.loss:.4f}{best}")
    for instruction, given, answer in evaluation.samples:
        for mark, text in (("?", instruction), (" ", given), (">", answer)):
            if text.strip() or mark == ">":
                for number, line in enumerate(shortened(text, width)):
                    progress.info(f"  {mark if number == 0 else ' '} {line}")


def shortened(text: str, width: int = SAMPLE_WIDTH) -> list[str]:
    """The first lines of a text, none too long, and nothing in them that steers a terminal.

    A model can write anything: control characters and those that change the direction of writing
    are shown as escapes.
    """
    found = text.strip().splitlines() or ["(nothing)"]
    shown = [_cut(visible(line), width) for line in found[:SAMPLE_LINES]]
    if more := len(found) - len(shown):
        shown.append(f"… ({more:,} more line{'s' if more > 1 else ''})")
    return shown


def _cut(line: str, width: int) -> str:
    cut = Text(line)
    cut.truncate(width, overflow="ellipsis")
    return cut.plain


def visible(text: str) -> str:
    """The text with every character that is not printable as its Python escape; tabs as spaces."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text.replace("\t", "    ")
    )
