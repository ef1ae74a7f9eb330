"""GPUs that people train on: what they are called, how much they hold, how fast they can be.

`bf16_tflops` is the maker's peak for dense matrix products in bfloat16 with float32 sums, in
10^12 FLOP/s: data sheets print twice that "with sparsity", which training cannot use. Cards that
have no bfloat16 (T4, V100) are given their float16 peak. Sources: NVIDIA's data sheets of each
card, and its architecture papers (GA102, Ada, Blackwell) for GeForce and RTX.

`memory` is about what torch reports as a card's total: less than on its box, for gigabytes are
counted in 10^9 there, and the driver and error correction take their part.

What this machine has is asked in `alpaca_cli.model.devices`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from alpaca_cli.core.errors import UsageError, did_you_mean


@dataclass(frozen=True, slots=True)
class Gpu:
    """A kind of card.

    Attributes:
        name: as people say it, with the gigabytes on its box.
        memory: GiB that a process can see.
        bf16_tflops: 10^12 FLOP/s, dense.
        bf16: whether it computes in bfloat16; if not, `bf16_tflops` is in float16.
    """

    name: str
    memory: float
    bf16_tflops: float
    bf16: bool = True


GPUS = (
    Gpu("A100-40GB", 39.4, 312),
    Gpu("A100-80GB", 79.2, 312),
    Gpu("A800-80GB", 79.2, 312),
    Gpu("H100-80GB", 79.1, 989.4),  # SXM
    Gpu("H100-PCIe-80GB", 79.1, 756),
    Gpu("H100-NVL-94GB", 93.1, 835.5),
    Gpu("H800-80GB", 79.1, 989.4),
    Gpu("H20-96GB", 95.0, 148),
    Gpu("H200-141GB", 139.8, 989.4),  # SXM
    Gpu("H200-NVL-141GB", 139.8, 835.5),
    Gpu("B200-180GB", 178.3, 2250),
    Gpu("L4-24GB", 22.0, 121),
    Gpu("L40-48GB", 44.4, 181),
    Gpu("L40S-48GB", 44.4, 362),
    Gpu("A10-24GB", 22.0, 125),
    Gpu("A10G-24GB", 22.0, 70),
    Gpu("A30-24GB", 23.5, 165),
    Gpu("A40-48GB", 44.4, 149.7),
    Gpu("A6000-48GB", 47.4, 154.8),
    Gpu("RTX-6000-Ada-48GB", 47.4, 364.2),
    Gpu("RTX-PRO-6000-96GB", 94.9, 503.8),
    Gpu("RTX-3090-24GB", 23.6, 71),
    Gpu("RTX-4090-24GB", 23.5, 165.2),
    Gpu("RTX-5090-32GB", 31.3, 209.5),
    Gpu("T4-16GB", 14.6, 65, bf16=False),
    Gpu("V100-16GB", 15.8, 125, bf16=False),
    Gpu("V100-32GB", 31.7, 125, bf16=False),
)

NOISE = {"nvidia", "tesla", "geforce", "rtx"}  # words that tell no card from another
# Words that make it another card: a slice of one, or a faster or slower relative.
OTHER = {"mig", "ti", "super", "laptop", "mobile", "max", "d"}
SIZE = re.compile(r"\d+gb")


def find_gpu(name: str) -> Gpu | None:
    """The card of a name: torch's (`NVIDIA A100-SXM4-80GB`) or a short one (`A100-80GB`, `h200`).

    None when it is not in the table, or when the name fits several (`A100`: 40 or 80 GB).
    """
    words = _words(name)
    if words & OTHER:
        return None
    fitting = [gpu for gpu in GPUS if _fits(gpu, words)]
    # "H100 PCIe" fits H100, too: the one with more words of its own is meant.
    most = max((len(_own(gpu)) for gpu in fitting), default=0)
    closest = [gpu for gpu in fitting if len(_own(gpu)) == most]
    return closest[0] if len(closest) == 1 else None


def parse_machine(text: str) -> tuple[int, Gpu]:
    """`8xA100-80GB` -> (8, the card); without a count, one.

    Raises:
        UsageError: it does not say how many of which card; names what is known.
    """
    known = ", ".join(gpu.name for gpu in GPUS)
    match = re.fullmatch(r"\s*(?:(\d+)\s*[xX*]\s*)?(\S.*?)\s*", text)
    count = int(match[1] or 1) if match else 0
    if not match or not count:
        raise UsageError(
            f'"{text}": expected a number of GPUs and a card, such as 8xA100-80GB',
            hint=f"known cards: {known}",
        )
    gpu = find_gpu(match[2])
    if gpu is None:
        names = {each.name.lower(): each.name for each in GPUS}
        close = did_you_mean(match[2].lower(), names)
        for lower, shown in names.items():
            close = close.replace(f'"{lower}"', f'"{shown}"')
        raise UsageError(f'"{text}": no card "{match[2]}"{close}', hint=f"known cards: {known}")
    return count, gpu


def _words(name: str) -> set[str]:
    spaced = re.sub(r"(rtx|gtx)(?=\d)", r"\1 ", name.lower())
    return set(re.split(r"[^a-z0-9]+", spaced)) - NOISE - {""}


def _own(gpu: Gpu) -> set[str]:
    """The words without which it is another card."""
    return {word for word in _words(gpu.name) if not SIZE.fullmatch(word)}


def _fits(gpu: Gpu, words: set[str]) -> bool:
    sizes = {word for word in words if SIZE.fullmatch(word)}
    return _own(gpu) <= words and sizes <= _words(gpu.name)
