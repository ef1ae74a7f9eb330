"""Weights in another precision, with what that costs them.

Only the bytes of one tensor are known here; which tensors a model has is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.model.tensor_files import FLOATS, Stored, read_tensor

TORCH = {code: getattr(torch, name) for code, name in FLOATS.items()}


@dataclass(slots=True)
class Losses:
    """What a conversion changed, over all tensors so far.

    Attributes:
        largest: largest change of a weight, and the tensor `where` it is.
        zeroed: numbers that became 0.
        numbers: converted in all.
    """

    largest: float = 0.0
    where: str = ""
    zeroed: int = 0
    numbers: int = 0


def cast_tensor(name: str, tensor: Stored, wanted: str, losses: Losses) -> bytearray:
    """A tensor's bytes in another type, rounded to nearest even.

    Raises:
        GateFailed: a finite number is too large for it.
    """
    data = read_tensor(tensor)
    if wanted == tensor.form.dtype or not data:
        return data
    source = torch.frombuffer(data, dtype=TORCH[tensor.form.dtype])
    found = bytearray(source.numel() * TORCH[wanted].itemsize)
    target = torch.frombuffer(found, dtype=TORCH[wanted])
    target[:] = source
    check_cast(name, source, target, losses)
    return found


def check_cast(name: str, source: torch.Tensor, target: torch.Tensor, losses: Losses) -> None:
    """Count what a conversion changed.

    Raises:
        GateFailed: a finite number became infinite.
    """
    lost = torch.isfinite(source) & ~torch.isfinite(target)
    if lost.any():
        worst = float(source[lost].abs().max())
        raise GateFailed(
            f"{name}: {int(lost.sum()):,} numbers are too large for "
            f"{str(target.dtype).removeprefix('torch.')}: {worst:.4g}, where it ends at "
            f"{torch.finfo(target.dtype).max:.4g}",
            hint="--dtype bf16 has float32's range",
        )
    change = float((source.double() - target.double()).abs().nan_to_num().max())
    if change > losses.largest:
        losses.largest, losses.where = change, name
    losses.zeroed += int(((source != 0) & (target == 0)).sum())
    losses.numbers += source.numel()
