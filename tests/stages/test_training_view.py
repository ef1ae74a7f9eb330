"""What a person sees of a training: a panel at several widths, a line, safe samples."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console

from alpaca_cli.core.progress import Progress
from alpaca_cli.stages.training_view import Curve, TrainingView, say_evaluation, shortened


@dataclass(frozen=True, slots=True)
class Step:
    """One step as the trainer describes it: 1 second, 900 of 1,000 positions useful."""

    step: int
    loss: float = 1.0
    epoch: float = 0.5
    learning_rate: float = 2e-5
    grad_norm: float = 0.75
    tokens: int = 900
    positions: int = 1000
    seconds: float = 1.0
    memory: int | None = 3 << 30
    mfu: float | None = None
    spike: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    step: int
    loss: float
    best: bool = False
    samples: tuple[tuple[str, str, str], ...] = ()


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def drawn(view: TrainingView, width: int, encoding: str = "utf-8") -> str:
    written = BytesIO()
    # As Python opens stderr.
    file = TextIOWrapper(written, encoding, errors="backslashreplace", write_through=True)
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    console.print(view.panel())
    return written.getvalue().decode(encoding)


def running(steps: int = 40, done: int = 10, clock: Clock | None = None) -> TrainingView:
    """A view after `done` steps of a second each."""
    clock = clock or Clock()
    view = TrainingView(steps, clock=clock)
    for step in range(1, done + 1):
        clock.now += 1
        view.on_step(Step(step, loss=8.0 / step))
    return view


def test_the_panel_shows_how_it_goes() -> None:
    view = running()
    view.on_evaluation(Evaluation(5, 1.25, best=True))
    view.on_evaluation(Evaluation(10, 1.5))
    text = drawn(view, 110)
    assert "step 10 of 40" in text
    assert "25%" in text
    assert "10s · about 30s left" in text
    assert re.search(r"loss +\d\.\d{3} \(last step 0\.800\)", text)
    assert re.search(r"held-out loss +1\.500 \(best 1\.250 at step 5\)", text)
    assert re.search(r"epoch +0\.50", text)
    assert re.search(r"learning rate +2\.00e-05", text)
    assert re.search(r"gradient norm +0\.75", text)
    assert re.search(r"tokens/s +900", text)
    assert re.search(r"padding +10\.0%", text)
    assert re.search(r"memory +3\.00 GiB", text)
    assert re.search(r"8\.000 █[▁-█]+▁ 0\.800", text)
    assert "MFU" not in text
    assert "spikes" not in text


def test_figures_that_are_known_on_gpus_only_and_spikes() -> None:
    view = TrainingView(10)
    view.on_step(Step(1, mfu=0.5, memory=None))
    view.on_step(Step(2, mfu=0.52, memory=None, spike=True))
    text = drawn(view, 110)
    assert re.search(r"MFU +51\.0%", text)
    assert "1, the last at step 2" in text
    assert "memory" not in text


@pytest.mark.parametrize("width", [40, 60, 89, 90, 110, 200])
def test_no_terminal_is_overrun(width: int) -> None:
    view = running(steps=123_456, done=30)
    view.on_evaluation(Evaluation(30, 1.5))
    lines = drawn(view, width).splitlines()
    # Narrower than the terminal: a typed ^C does not move the cursor to a new line.
    assert max(map(len, lines)) <= width - 2
    assert ("tokens/s" in lines[3]) == (width >= 96)


def test_a_terminal_without_unicode_gets_no_curve() -> None:
    assert "▁" in drawn(running(), 110)
    assert "\\u258" not in drawn(running(), 110, encoding="ascii")


def test_nothing_has_happened_yet() -> None:
    view = TrainingView(10)
    assert "step 0 of 10" in drawn(view, 60)
    assert view.line() == "train: 0/10 · 0s"


def test_the_line_has_what_matters() -> None:
    view = running()
    view.on_evaluation(Evaluation(10, 1.5))
    assert re.fullmatch(
        r"train: 10/40 · 10s · about 30s left · epoch 0\.50 · loss \d\.\d{3} · held-out 1\.500 · "
        r"lr 2\.0e-05 · grad norm 0\.75 · 900 tokens/s · padding 10\.0% · memory 3\.00 GiB",
        view.line(),
    )


def test_evaluations_and_saves_are_part_of_the_time_left() -> None:
    clock = Clock()
    view = running(done=11, clock=clock)
    assert view.seconds_left() == pytest.approx(29)
    clock.now += 5  # an evaluation: half a second for each of the ten steps since the first
    assert view.seconds_left() == pytest.approx(29 * 1.5)


def test_the_time_left_follows_the_last_steps() -> None:
    clock = Clock()
    view = running(steps=200, done=100, clock=clock)
    for step in range(101, 121):
        clock.now += 3
        view.on_step(Step(step, seconds=3.0))
    assert view.seconds_left() == pytest.approx(80 * 3)
    assert view.tokens_per_second() == pytest.approx(300)


def test_a_resumed_training_goes_on_with_its_curve() -> None:
    whole = running(done=20)
    log = [{"step": step, "loss": 8.0 / step, "spike": step == 3} for step in range(1, 11)]
    clock = Clock()
    resumed = TrainingView(40, 10, log=log, evaluations=[(10, 1.25)], clock=clock)
    for step in range(11, 21):
        clock.now += 1
        resumed.on_step(Step(step, loss=8.0 / step))
    assert resumed.curve.smooth == whole.curve.smooth
    assert resumed.curve.drawn(80) == whole.curve.drawn(80)
    assert resumed.seconds_left() == pytest.approx(20)
    text = drawn(resumed, 110)
    assert "1.250 at step 10, the best" in text
    assert "1, the last at step 3" in text


def test_the_moving_average_does_not_start_at_zero() -> None:
    curve = Curve()
    curve.add(5.0)
    assert curve.smooth == pytest.approx(5.0)
    curve.add(3.0)
    assert 3.0 < curve.smooth < 5.0
    for _ in range(200):
        curve.add(1.0)
    assert curve.smooth == pytest.approx(1.0, abs=1e-6)


def test_a_long_curve_takes_little_memory_and_keeps_its_ends() -> None:
    curve = Curve()
    for step in range(10_000):
        curve.add(9.0 if step < 5_000 else 1.0)
    assert len(curve._points) < 400
    assert re.fullmatch(r"9\.000 █{33}[▁-█]▁{32} 1\.000", curve.drawn(80))


def said(evaluation: Evaluation, *, terminal: bool = False) -> str:
    file = StringIO()
    console = Console(file=file, width=60, force_terminal=terminal, color_system=None)
    say_evaluation(evaluation, Progress(console))
    return file.getvalue()


def test_samples_are_shown_short_and_harmless() -> None:
    answer = "[red]1[/]\n\x1b[31mred\x07 \u202eback\n3\n4\n5\n6"
    samples = (("Sort these.", "4 1 9", answer), ("Say nothing.", "", ""))
    text = said(Evaluation(200, 1.23456, best=True, samples=samples))
    assert text.splitlines() == [
        "step 200: held-out loss 1.2346, the best so far",
        "  ? Sort these.",
        "    4 1 9",
        "  > [red]1[/]",
        "    \\x1b[31mred\\x07 \\u202eback",
        "    3",
        "    4",
        "    … (2 more lines)",
        "  ? Say nothing.",
        "  > (nothing)",
    ]


def test_long_lines_are_cut_at_the_terminals_width() -> None:
    samples = (("word " * 50, "", "语" * 100),)
    lines = said(Evaluation(1, 1.0, samples=samples), terminal=True).splitlines()
    assert lines[1].endswith("…")
    assert len(lines[1]) <= 60
    assert re.search("语 ?…$", lines[2])
    assert len(lines[2]) < 35  # each of these takes two columns
    assert shortened("x" * 500)[0] == "x" * 99 + "…"
