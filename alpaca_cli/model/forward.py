"""From a micro-batch to the loss: what the model is given, and what is taken from it.

Nothing of steps, ranks or optimizers is known here.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from alpaca_cli.model import per_example
from alpaca_cli.model.batches import Batch


def summed_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Cross entropy summed over the trained tokens of a micro-batch, in nats, float32."""
    logits = logits_at(model, batch)
    return cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten(), reduction="sum")


def logits_at(model: Any, batch: Batch) -> torch.Tensor:
    """(B, C, vocabulary) logits at the columns of a batch.

    No attention mask and no cache are given: with `position_ids` alone, transformers' own masks
    keep the examples of a packed row apart; with either, they see each other (measured).
    Right-padding needs no mask, for a causal model looks to the left only.
    """
    inner = inner_model(model)
    known = inspect.signature(type(inner).forward).parameters
    given: dict[str, Any] = {"input_ids": batch.input_ids, "use_cache": False}
    if "position_ids" in known:
        given["position_ids"] = batch.position_ids
    if inner.config._attn_implementation == per_example.NAME:
        given["layout"] = per_example.make_layout(batch.lengths, batch.input_ids.device)
    if "logits_to_keep" in known:
        logits: torch.Tensor = model(**given, logits_to_keep=batch.columns).logits
        return logits
    every: torch.Tensor = model(**given).logits
    return every[:, batch.columns]


def inner_model(model: Any) -> Any:
    """The model of transformers inside the wrappers of DDP and peft."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
