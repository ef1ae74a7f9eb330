"""The loss picture: what is drawn in it, read back from the pixels."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_cli.model.plot import plot_loss, smoothed

pytest.importorskip("matplotlib")

GREEN, RED = (44, 160, 44), (214, 39, 40)  # tab:green: held-out; tab:red: spikes


def lines(steps: int, spikes: dict[int, float] | None = None) -> list[dict[str, Any]]:
    """A falling curve; `spikes`: step -> its loss."""
    found = []
    for step in range(1, steps + 1):
        loss = 3 * math.exp(-step / 50) + 1
        line: dict[str, Any] = {"step": step, "loss": loss, "learning_rate": 1e-4}
        if spikes and step in spikes:
            line |= {"loss": spikes[step], "spike": True, "rows": [1, 2]}
        found.append(line)
    return found


def picture(path: Path) -> np.ndarray[Any, Any]:
    """(height, width, 3) bytes."""
    from matplotlib.image import imread

    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    return np.round(imread(path)[..., :3] * 255).astype(int)


def pixels(image: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> np.ndarray[Any, Any]:
    """(count, 2) row and column of all pixels of a colour."""
    return np.argwhere((abs(image - colour) <= 8).all(axis=-1))


def test_the_curve_alone(tmp_path: Path) -> None:
    plot_loss(lines(200), tmp_path / "loss.png")
    image = picture(tmp_path / "loss.png")
    assert image.shape == (576, 960, 3)
    assert len(pixels(image, GREEN)) == len(pixels(image, RED)) == 0


def test_held_out_losses_and_spikes_are_drawn(tmp_path: Path) -> None:
    held_out = [{"step": step, "loss": 1.5 + abs(step - 120) / 100} for step in range(20, 201, 20)]
    plot_loss(lines(200, {90: 3.0}), tmp_path / "loss.png", held_out)
    image = picture(tmp_path / "loss.png")
    assert len(pixels(image, GREEN)) > 300
    assert len(pixels(image, RED)) > 30


def test_a_huge_spike_does_not_flatten_the_curve(tmp_path: Path) -> None:
    heights = []
    for spikes in ({}, {90: 500.0}):
        plot_loss(lines(200, spikes), tmp_path / "loss.png")
        # tab:blue, the moving average, at the left half: where the curve falls.
        rows = pixels(picture(tmp_path / "loss.png"), (31, 119, 180))[:, 0]
        heights.append(rows.max() - rows.min())
    assert heights[1] > 0.9 * heights[0]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_short_training_has_a_picture_too(steps: int, tmp_path: Path) -> None:
    plot_loss(lines(steps), tmp_path / "loss.png", lines(steps))
    picture(tmp_path / "loss.png")


def test_the_moving_average() -> None:
    assert smoothed([]) == []
    assert smoothed([4.0, 2.0]) == [4.0, 2.0]
    assert smoothed([1.0] * 20 + [3.0] * 20)[19:23] == [1.0, 2.0, 3.0, 3.0]
