"""NEFTune: noise on the embeddings while training (Jain et al., 2023).

Each example gets uniform noise between ±alpha / sqrt(L * d), L its own length and d the width of
the model. Other trainers take the length of the padded or packed row for L, so that the noise
depends on an example's neighbours. Here it is a function of seed, step and example alone: how a
step is split into micro-batches, packed rows and processes changes nothing (on one kind of
device: CPU and GPU draw different numbers from one seed).

Evaluation gets none, and nothing of it is saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch

from alpaca_cli.model.rows import Row


class Noise:
    """Adds noise to what a model's embedding puts out, in training mode only.

    Make it before the training loop, and call `set` before each micro-batch.

    Args:
        model: of transformers, peft's wrapper around one, split by FSDP2 or not.
        alpha: 5, 10 and 15 are the paper's; more for longer answers.
    """

    def __init__(self, model: Any, alpha: float) -> None:
        self._alpha = alpha
        self._packed: Sequence[Sequence[Row]] = ()
        self._seed = self._step = 0
        self._hook = model.get_input_embeddings().register_forward_hook(self._add)

    def set(self, packed: Sequence[Sequence[Row]], seed: int, step: int) -> None:
        """Say which examples come next: B rows of a micro-batch, as given to `collate`."""
        self._packed, self._seed, self._step = packed, seed, step

    def remove(self) -> None:
        """Take it off the model."""
        self._hook.remove()

    def _add(self, module: torch.nn.Module, _: Any, embedded: torch.Tensor) -> torch.Tensor | None:
        """The hook: (B, T, d) embeddings with noise, none on padding."""
        if not module.training or not self._packed:
            return None
        rows, width, size = embedded.shape
        noise = torch.zeros(rows, width, size, device=embedded.device)
        for line, examples in zip(noise, self._packed, strict=True):
            start = 0
            for row in examples:
                length = len(row.ids)
                line[start : start + length] = self._of(row, length, size, embedded.device)
                start += length
        return embedded + noise.to(embedded.dtype)

    def _of(self, row: Row, length: int, size: int, device: torch.device) -> torch.Tensor:
        """(L, d) noise of one example."""
        generator = torch.Generator(device)
        generator.manual_seed(_seed(self._seed, self._step, row.number))
        uniform = torch.rand(length, size, generator=generator, device=device)
        return (2 * uniform - 1) * (self._alpha / (length * size) ** 0.5)


def _seed(seed: int, step: int, example: int) -> int:
    """One 64-bit number for three, without neighbours having related ones."""
    found = blake2b(f"{seed}/{step}/{example}".encode(), digest_size=8).digest()
    return int.from_bytes(found, "big") >> 1
