"""Which steps stand out: few false alarms on a falling, noisy curve, and real spikes found."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.model.watch import Spike, Watch, not_finite, numbered

# The loss of the quickstart recipe at some of its steps.
QUICKSTART = {1: 7.65, 20: 3.1, 50: 1.27, 100: 0.70, 300: 0.40, 450: 0.24, 586: 0.09}


def curve(seed: int, noise: float) -> list[float]:
    """The quickstart's losses, straight on a log scale between the known ones, with noise."""
    rng, known = Random(seed), list(QUICKSTART.items())
    losses = []
    for (start, high), (end, low) in pairwise(known):
        for step in range(start, end):
            exponent = (step - start) / (end - start)
            losses.append(high * (low / high) ** exponent * math.exp(rng.gauss(0, noise)))
    return losses


def flagged(losses: list[float], norms: list[float] | None = None, warmup: int = 0) -> list[int]:
    watch, norms = Watch(warmup), norms or [1.0] * len(losses)
    steps = enumerate(zip(losses, norms, strict=True), 1)
    return [step for step, (loss, norm) in steps if watch.see(step, loss, norm)]


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_fewer_than_one_false_alarm_in_a_thousand_steps(noise: float) -> None:
    alarms = [flagged(curve(seed, noise)) for seed in range(20)]
    steps = 20 * 585
    assert sum(map(len, alarms)) < steps / 1000


def test_half_as_much_again_is_found() -> None:
    found = tries = 0
    for seed in range(20):
        for at in (60, 150, 300, 450, 550):
            losses = curve(seed, 0.05)
            losses[at - 1] *= 1.5
            found += at in flagged(losses)
            tries += 1
    assert found / tries > 0.8


def test_a_loss_that_stays_high_is_flagged_at_its_start_only() -> None:
    losses = curve(0, 0.03)
    high = losses[:300] + [4 * loss for loss in losses[300:]]
    alarms = flagged(high)
    assert alarms[0] == 301
    assert alarms[-1] < 320


def test_a_jump_of_the_gradient_norm_is_found() -> None:
    rng = Random(0)
    norms = [math.exp(rng.gauss(0, 0.3)) for _ in range(585)]
    losses = curve(0, 0.03)
    assert flagged(losses, norms) == []
    norms[399] = 25.0
    assert flagged(losses, norms) == [400]


def test_nothing_is_said_about_the_first_steps() -> None:
    losses = [1.0] * 100
    losses[19] = losses[20] = losses[60] = 9.0
    assert flagged(losses) == [21, 61]
    assert flagged(losses, warmup=60) == [61]


def test_a_resumed_training_flags_the_same_steps() -> None:
    losses = curve(3, 0.03)
    for at in (100, 210, 400):
        losses[at] *= 2
    lines = [{"step": step, "loss": loss, "grad_norm": 1.0} for step, loss in enumerate(losses, 1)]
    for cut in (10, 205, 390):
        watch = Watch.from_log(lines[:cut])
        later = [
            step for step, loss in enumerate(losses[cut:], cut + 1) if watch.see(step, loss, 1.0)
        ]
        assert later == [at for at in (101, 211, 401) if at > cut]


def test_steps_that_a_loss_scaler_skips_are_no_spikes() -> None:
    losses, norms = [1.0] * 60, [1.0] * 60
    norms[29] = norms[30] = math.inf
    assert flagged(losses, norms) == []


def test_a_loss_of_zero_is_a_number() -> None:
    assert flagged([0.0] * 40) == []


def test_the_warning_names_the_step_the_factor_and_some_examples() -> None:
    spike = Spike(1310, 2.2, 1.1, 3.0, 2.9)
    text = spike.warning(range(1, 129))
    assert text.startswith("step 1,310: loss 2.200, 2.0 times the usual 1.100; in its batch ")
    assert "examples 1, 2, 3, 4, 5, 6, 7, 8, … (128 in all)" in text
    assert "gradient norm 30, 10.3 times the usual 2.9" in Spike(7, 2.2, 1.1, 30.0, 2.9).warning(
        [1]
    )


def test_the_error_for_nan_names_the_step_and_its_examples() -> None:
    error = not_finite(12, math.nan, math.nan, [5, 9, 3], micro_batch=[9])
    assert isinstance(error, GateFailed)
    assert str(error) == "the loss is nan at step 12, first in the micro-batch of example 9"
    assert "learning_rate" in error.hint
    error = not_finite(12, 1.25, math.inf, [5, 9, 3])
    assert str(error) == (
        "the gradient norm is inf at step 12 (loss 1.250), in its batch examples 5, 9, 3"
    )


def test_example_numbers_are_listed_shortly() -> None:
    assert numbered([4]) == "example 4"
    assert numbered([4, 2]) == "examples 4, 2"
    assert numbered(range(20), limit=2) == "examples 0, 1, … (20 in all)"
