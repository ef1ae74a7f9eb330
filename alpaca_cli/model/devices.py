"""What torch can compute on in this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from alpaca_cli.core.machine import memory_bytes


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU: its name and its memory in GiB."""

    name: str
    memory: float


def gpus() -> list[Device]:
    """The CUDA GPUs that torch sees, in device order."""
    properties = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
    return [Device(each.name, each.total_memory / 2**30) for each in properties]


def available_memory(chosen: Sequence[int], processes: int) -> float:
    """Bytes that each process may fill: of the smallest GPU chosen, or its part of the RAM."""
    if not chosen:
        return memory_bytes() / processes
    found = gpus()
    return min(found[number].memory for number in chosen) * 2**30
