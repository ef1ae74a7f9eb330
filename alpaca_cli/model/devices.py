"""What torch can compute on in this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU: its name and its memory in GiB."""

    name: str
    memory: float


def gpus() -> list[Device]:
    """The CUDA GPUs that torch sees, in device order."""
    properties = (torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count()))
    return [Device(each.name, each.total_memory / 2**30) for each in properties]
