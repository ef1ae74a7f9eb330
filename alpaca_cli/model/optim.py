"""Optimizers and the learning rate.

The learning rate is a pure function of the step, so nothing of it has to be stored to resume.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from alpaca_cli.core.settings_train import Train

BETAS = (0.9, 0.95)  # AdamW; 0.95 as for GPT-3 and LLaMA, steadier than 0.999 in short runs
MUON_MOMENTUM = 0.95  # Source: Keller Jordan et al., Muon (2024)


def make_optimizers(model: Any, settings: Train) -> list[torch.optim.Optimizer]:
    """AdamW over all that is trained; or Muon over the hidden matrices and AdamW over the rest.

    Norms and biases are never decayed. Each group carries its `peak` learning rate.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    ends = {id(p) for p in _embeddings(model)}
    hidden = [p for _, p in trained if p.ndim == 2 and id(p) not in ends]
    matrices = [p for _, p in trained if p.ndim >= 2 and id(p) in ends]
    vectors = [p for _, p in trained if p.ndim != 2]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        peak = settings.muon_learning_rate
        group = {"params": hidden, "peak": peak}
        optimizers.append(
            torch.optim.Muon(
                [group], lr=peak, weight_decay=settings.weight_decay, momentum=MUON_MOMENTUM
            )
        )
    else:
        matrices = hidden + matrices
    peak = settings.learning_rate
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    groups = [group for group in groups if group["params"]]
    if groups:
        optimizers.append(torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=True))
    return optimizers


def _embeddings(model: Any) -> list[torch.nn.Parameter]:
    """The matrices at both ends of a model: rows stand for tokens, which Muon is not made for."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return [p for module in ends if module is not None for p in module.parameters()]


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """What the peak is multiplied with at `step` (from 0) of `steps`.

    Rises linearly over the first `warmup` share of the steps, then falls as a half cosine and
    would reach 0 one step after the last.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def set_learning_rate(optimizers: list[torch.optim.Optimizer], factor: float) -> float:
    """Set every group's rate to its peak times `factor`; returns AdamW's, the one reported."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor
    rate: float = optimizers[-1].param_groups[-1]["lr"]
    return rate
