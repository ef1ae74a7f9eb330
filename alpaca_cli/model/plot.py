"""The loss curve of a training, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import missing_extra
from alpaca_cli.core.files import atomic_file

SMOOTHING = 0.05  # share of the steps that the moving average looks back over
ABOVE = 1.1  # how far the picture goes above the highest loss that is not a spike


def plot_loss(
    log: Sequence[Mapping[str, Any]],
    path: Path,
    held_out: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a PNG of loss and learning rate over steps.

    Args:
        log: lines of `log.jsonl`; steps with `spike` are marked, at the upper edge when they are
            far above the rest, which would be flat otherwise.
        held_out: lines of `held_out.jsonl`.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: no display, no global state
    except ImportError as error:
        raise missing_extra("matplotlib", "report") from error
    steps = [line["step"] for line in log]
    losses = [line["loss"] for line in log]
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, color="tab:blue", alpha=0.3, linewidth=1, label="loss of each step")
    usual = [line for line in log if not line.get("spike")]
    axes.plot(
        [line["step"] for line in usual],
        smoothed([line["loss"] for line in usual]),
        color="tab:blue",
        label="moving average",
    )
    _mark_held_out(axes, held_out)
    top = ABOVE * max((line["loss"] for line in (*usual, *held_out)), default=1.0)
    _mark_spikes(axes, [line for line in log if line.get("spike")], top)
    axes.set(xlabel="step", ylabel="loss (nats per trained token)", ylim=(0, top or None))
    axes.grid(alpha=0.3)
    rates = axes.twinx()
    rates.plot(
        steps,
        [line["learning_rate"] for line in log],
        color="tab:orange",
        linewidth=1,
        linestyle="--",
        label="learning rate",
    )
    rates.set(ylabel="learning rate", ylim=(0, None))
    # Below, where it hides nothing: curves may be anywhere.
    figure.legend(handles=[*axes.lines, *rates.lines], loc="outside lower center", ncols=3)
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _mark_held_out(axes: Any, held_out: Sequence[Mapping[str, Any]]) -> None:
    """Points joined by a line, the lowest of them larger."""
    if not held_out:
        return
    best = min(held_out, key=lambda line: float(line["loss"]))
    sizes = {"linewidth": 1.5, "markersize": 4 if len(held_out) <= 60 else 0}
    axes.plot(
        [line["step"] for line in held_out],
        [line["loss"] for line in held_out],
        color="tab:green",
        marker="o",
        label="held-out loss",
        **sizes,
    )
    axes.plot(
        best["step"],
        best["loss"],
        color="tab:green",
        marker="*",
        markersize=13,
        linestyle="none",
        label=f"lowest: {best['loss']:.3f} at step {best['step']:,}",
    )


def _mark_spikes(axes: Any, spikes: Sequence[Mapping[str, Any]], top: float) -> None:
    if not spikes:
        return
    axes.plot(
        [line["step"] for line in spikes],
        [min(line["loss"], top) for line in spikes],
        color="tab:red",
        marker="v",
        markersize=7,
        linestyle="none",
        clip_on=False,
        label=f"spike ({len(spikes):,})" if len(spikes) > 1 else "spike",
    )


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, over a window of SMOOTHING of them all."""
    window = max(1, round(len(values) * SMOOTHING))
    found, total = [], 0.0
    for at, value in enumerate(values):
        total += value - (values[at - window] if at >= window else 0.0)
        found.append(total / min(at + 1, window))
    return found
