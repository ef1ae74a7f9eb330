"""Reading tokens with a model, and keeping what it computed for them from one prompt to the next.

A conversation's next prompt begins as the last one did. The keys and values of that beginning are
kept, so that the time to the first token depends on what is new and not on how long the
conversation is. Where prompts come from, and which token is chosen, is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from alpaca_cli.core.errors import ResourceError


class Memory:
    """Token ids that a model has read, with the key-value cache it made of them."""

    def __init__(self) -> None:
        # None while the cache changes: layers that an interrupt has left uneven are never used.
        self._held: tuple[list[int], Any] | None = None

    def rewind(self, ids: Sequence[int]) -> int:
        """Forget all but the longest beginning of `ids` that was read; its length in tokens.

        At least the last of `ids` is left to be read, for its logits are wanted.
        """
        if self._held is None:
            return 0
        (held, cache), self._held = self._held, None
        kept = min(common_prefix(held, ids), len(ids) - 1)
        surplus = len(held) - kept
        if kept == 0 or (surplus and not _cropped(cache, surplus)):
            return 0
        self._held = (held[:kept], cache)
        return kept

    def read(self, model: Any, ids: Sequence[int], device: torch.device) -> torch.Tensor:
        """Read T further tokens; float32 logits (1, vocabulary) after the last of them.

        Raises:
            ResourceError: the GPU's memory is full; nothing is remembered then.
        """
        held, cache = self._held or ([], None)
        self._held = None
        try:
            output = model(
                input_ids=torch.tensor([ids], device=device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "the GPU's memory is full", hint="a shorter conversation"
            ) from error
        held.extend(ids)
        self._held = (held, output.past_key_values)
        scores: torch.Tensor = output.logits[:, -1].float()
        return scores

    def forget(self) -> None:
        """Give the memory back."""
        self._held = None


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    shorter = min(len(one), len(other))
    return next((at for at in range(shorter) if one[at] != other[at]), shorter)


def _cropped(cache: Any, surplus: int) -> bool:
    """Take the last tokens out of a cache; False when it cannot be done, and the cache is lost.

    A recurrent layer (Mamba, linear attention) has no tokens in it to take out, and a sliding
    window that is full has let go of those that would come back into it: there the prompt is read
    anew. Neither matters where the next prompt goes on after all that was read.
    """
    try:
        cache.crop(-surplus)
    except RuntimeError:  # transformers', when a layer has not kept what is needed
        return False
    return True
