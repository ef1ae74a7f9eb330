"""The loss curve of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import missing_extra
from alpaca_cli.core.files import atomic_file

SMOOTHING = 0.05  # share of the steps that the moving average looks back over


def plot_loss(log: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG of loss and learning rate over steps, from the lines of `log.jsonl`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no display, no global state
    except ImportError as error:
        raise missing_extra("matplotlib", "report") from error
    steps = [line["step"] for line in log]
    losses = [line["loss"] for line in log]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of each step")
    axes.plot(steps, smoothed(losses), color="tab:blue", label="moving average")
    axes.set(xlabel="step", ylabel="loss (nats per trained token)", ylim=(0, None))
    axes.grid(alpha=0.3)
    rates = axes.twinx()
    rates.plot(
        steps, [line["learning_rate"] for line in log], color="tab:orange", label="learning rate"
    )
    rates.set(ylabel="learning rate", ylim=(0, None))
    axes.legend(handles=[*axes.lines, *rates.lines], loc="upper right")
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a window of SMOOTHING of them all."""
    window = max(1, round(len(values) * SMOOTHING))
    found, total = [], 0.0
    for at, value in enumerate(values):
        total += value - (values[at - window] if at >= window else 0.0)
        found.append(total / min(at + 1, window))
    return found
