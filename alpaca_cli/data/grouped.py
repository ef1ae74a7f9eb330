"""Examples by a label that each was given, with the first few rows behind every label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import SHOWN, Group, Sample, sample, share


def shown(examples: Sequence[Example], positions: Iterable[int]) -> list[Sample]:
    """The instructions at these positions (from 0), as samples."""
    return [
        sample(position + 1, examples[position].id, examples[position].instruction)
        for position in positions
    ]


def grouped(examples: Sequence[Example], labels: Iterable[str | None]) -> dict[str, Group]:
    """Label -> the examples that have it, largest first; equally large ones by label.

    Args:
        labels: one for each example; None is in no group, but counts for the shares.
    """
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        if label is not None:
            positions.setdefault(label, []).append(position)
    ordered = sorted(positions.items(), key=lambda item: (-len(item[1]), item[0]))
    return {
        label: Group(len(found), share(len(found), len(examples)), shown(examples, found[:SHOWN]))
        for label, found in ordered
    }
