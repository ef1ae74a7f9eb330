"""Who is told what a training does: the screen, the trackers, and the person in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_cli.core.progress import Progress, duration
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.training_view import TrainingView, say_evaluation

if TYPE_CHECKING:
    from alpaca_cli.model.checkpoints import Checkpoint
    from alpaca_cli.model.log import Evaluation, Step
    from alpaca_cli.model.tracking import Tracking
    from alpaca_cli.model.trainer import Training

SLOW = 5.0  # seconds from which a save is worth a line


@dataclass(frozen=True, slots=True)
class _Observer:
    """Hands every event to the view, the trackers and the log of the terminal."""

    view: TrainingView
    tick: Callable[[], None]
    tracking: Tracking
    progress: Progress

    def on_step(self, line: Step) -> None:
        self.view.on_step(line)
        self.tracking.log(line.step, _figures(line))
        self.tick()

    def on_evaluation(self, line: Evaluation) -> None:
        self.view.on_evaluation(line)
        say_evaluation(line, self.progress)
        self.tracking.log(line.step, {"held_out_loss": line.loss})
        self.tick()

    def on_spike(self, warning: str) -> None:
        self.progress.warn(warning)

    def on_save(self, folder: Path, seconds: float) -> None:
        if seconds >= SLOW:
            self.progress.info(f"saved and read back: {folder} in {duration(seconds)}")
        self.tick()


@contextmanager
def observed(
    recipe: Recipe,
    run: RunFolder,
    training: Training,
    progress: Progress,
    resumed: Checkpoint | None,
) -> Iterator[_Observer]:
    """The observer of one training; trackers are opened in the first process only.

    Raises:
        UsageError: a tracker of `train.report_to` is not installed, or cannot be started.
    """
    from alpaca_cli.model.log import read_log
    from alpaca_cli.model.tracking import open_tracking

    settings, start = recipe.train, resumed.position.step if resumed else 0
    held_out = read_log(training.folder / "held_out.jsonl", start)
    view = TrainingView(
        training.schedule.steps,
        start,
        log=read_log(training.folder / "log.jsonl", start),
        evaluations=[(line["step"], line["loss"]) for line in held_out],
    )
    config = settings.model_dump(mode="json") | {"seed": recipe.seed}
    folder = training.folder / "tracking"
    with (
        open_tracking(
            settings.report_to, folder, run.path.name, config, start, progress
        ) as tracking,
        progress.live(view) as tick,
    ):
        yield _Observer(view, tick, tracking, progress)


def _figures(line: Step) -> dict[str, float]:
    """What a tracker draws of a step."""
    found = {
        "loss": line.loss,
        "epoch": line.epoch,
        "learning_rate": line.learning_rate,
        "grad_norm": line.grad_norm,
        "tokens_per_second": line.tokens / line.seconds,
        "padding": 1 - line.tokens / line.positions,
        "memory": line.memory,
    }
    return found if line.mfu is None else found | {"mfu": line.mfu}
