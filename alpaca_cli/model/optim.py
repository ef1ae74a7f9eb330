"""Optimizers and the learning rate.

The learning rate is a pure function of the step, so nothing of it has to be stored to resume.
Parameters may be whole or FSDP2's slices (`DTensor`): optimizers are made after the model is split.

AdamW in 8 bits is torchao's. bitsandbytes has one, too (tried: 0.50), but it fails on slices and
cannot round at random, which bfloat16 weights need.
"""

from __future__ import annotations

import math
import warnings
from importlib.util import find_spec
from typing import Any

import torch

from alpaca_cli.core.errors import missing_extra
from alpaca_cli.core.settings_train import Train

BETAS = (0.9, 0.95)  # AdamW; 0.95 as for GPT-3 and LLaMA, steadier than 0.999 in short runs
MUON_MOMENTUM = 0.95  # Source: Keller Jordan et al., Muon (2024)


def make_optimizers(model: Any, settings: Train) -> list[torch.optim.Optimizer]:
    """AdamW over all that is trained; or Muon over the hidden matrices and AdamW over the rest.

    Norms and biases are never decayed. Each group carries its `peak` learning rate. Groups and
    what is in them come in the model's own order, so that equal models get equal optimizers.

    Raises:
        UsageError: `adamw_8bit`, and torchao is not installed.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizers: list[torch.optim.Optimizer] = []
    if settings.optimizer == "muon":
        ends = {id(p) for p in _embeddings(model)}
        hidden = [p for p in trained if p.ndim == 2 and id(p) not in ends]
        taken = {id(p) for p in hidden}
        trained = [p for p in trained if id(p) not in taken]
        peak = settings.muon_learning_rate
        group = {"params": hidden, "peak": peak}
        optimizers.append(
            torch.optim.Muon(
                [group], lr=peak, weight_decay=settings.weight_decay, momentum=MUON_MOMENTUM
            )
        )
    matrices = [p for p in trained if p.ndim >= 2]
    vectors = [p for p in trained if p.ndim < 2]
    peak = settings.learning_rate
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay, "peak": peak},
        {"params": vectors, "weight_decay": 0.0, "peak": peak},
    ]
    groups = [group for group in groups if group["params"]]
    if groups and settings.optimizer == "adamw_8bit":
        optimizers.append(_adamw_8bit(groups, peak, settings.weights == "bfloat16"))
    elif groups:
        optimizers.append(torch.optim.AdamW(groups, lr=peak, betas=BETAS, fused=True))
    return optimizers


def _adamw_8bit(
    groups: list[dict[str, Any]], peak: float, round_at_random: bool
) -> torch.optim.Optimizer:
    """AdamW with both moments in 8 bits, a scale for each block of 256 (Dettmers et al., 2022).

    Tensors of fewer than 4,096 numbers, and those that do not divide into blocks, keep theirs in
    the parameter's own precision.

    Args:
        round_at_random: bfloat16 weights go up or down with the probability that makes the mean
            right; else updates below 1/256 of a weight would all be lost. The random numbers are
            torch's: copies of a model (DDP) stay equal when all processes seed them alike before
            the step.
    """
    if find_spec("torchao") is None:
        raise missing_extra("torchao", "quant")
    from torchao.optim import AdamW8bit
    from torchao.optim.subclass_8bit import OptimState8bit

    class Moments(AdamW8bit):  # type: ignore[misc]  # torchao is Any here
        """Its 8-bit states pass for float32, whatever the weights are kept in.

        torchao 0.18 forgets another type when FSDP2 takes a view of a state, and the compiled
        step then fails over it. What is stored is the same.
        """

        @staticmethod
        def _subclass_zeros(p: torch.Tensor, signed: bool, block_size: int) -> torch.Tensor:
            made: torch.Tensor = OptimState8bit.zeros(p.shape, signed, block_size, p.device)
            return made

    # The step is compiled. torch caches what it compiles and says, once for each kind of tensor,
    # that it has no better key for this one: nothing a person could do about it.
    warnings.filterwarnings("ignore", ".*_stable_hash_for_caching", UserWarning)
    return Moments(groups, lr=peak, betas=BETAS, bf16_stochastic_round=round_at_random)


def blank_state(state: torch.Tensor) -> torch.Tensor:
    """A tensor of the kind and place of an optimizer's state, to read a saved one into.

    `torch.empty_like` does not know 8-bit states.
    """
    here = _here(state)
    if not hasattr(here, "codes"):
        return torch.empty_like(state)
    blank = type(here)(
        torch.zeros_like(here.codes),
        torch.zeros_like(here.scale),
        here.qmap.clone(),
        here.signed,
        dtype=here.dtype,
    )
    if here is state:
        return blank
    from torch.distributed.tensor import DTensor

    found: torch.Tensor = DTensor.from_local(
        blank,
        state.device_mesh,
        state.placements,
        run_check=False,
        shape=state.shape,
        stride=state.stride(),
    )
    return found


def equal_states(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two optimizer states are equal bit for bit; of slices, the parts that are here."""
    one, other = _here(one), _here(other)
    if not hasattr(one, "codes"):
        return bool(torch.equal(one, other))
    return bool(torch.equal(one.codes, other.codes) and torch.equal(one.scale, other.scale))


def _here(tensor: Any) -> Any:
    """The part of a split tensor that this process holds; a whole one as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


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
            rate = group["peak"] * factor
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)  # a compiled step reads it from where it was
            else:
                group["lr"] = rate
    return float(optimizers[-1].param_groups[-1]["lr"])
