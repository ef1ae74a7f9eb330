"""How much memory and arithmetic a training takes, from the shape of the model alone.

A process needs most memory at one of a few moments between the end of a forward pass and the
backward pass through the last block, with the gradients of earlier micro-batches beside it. Each
moment is reckoned, and the worst one is the plan:

    weights        as they are kept
    copies         of them in the precision to compute in, which autocast makes
    gradients      of what is trained, in the precision it is kept in
    optimizer      its moments
    activations    what autograd saves for the backward pass, tensor by tensor
    logits         of the trained positions, and what the loss needs beside them
    other          gradients on their way, FSDP2's buffers, the device's libraries

The formulas follow the layers of LLaMA and its kin (Mistral, Qwen2, Qwen3) as transformers
computes them; for other builds they are about right. Weights are neither needed nor loaded. What
a machine has is not known here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.activations import (
    Numbers,
    block_activations,
    ends_activations,
    numbers_of,
    saved_activations,
)
from alpaca_cli.model.shape import Shape, flops_per_token, recomputed_flops, shape_of
from alpaca_cli.model.strategy import Strategy

__all__ = [
    "Memory",
    "Shape",
    "checkpoint_bytes",
    "choose_strategy",
    "flops_per_token",
    "memory",
    "recomputed_flops",
    "shape_of",
]

USABLE = 0.9  # share of a device's memory that a plan may fill: allocators leave gaps
# Bytes a weight takes in 4 bits: with a scale of 8 bits for each 64, and one of 32 bits for each
# 256 of those. Source: Dettmers et al., QLoRA (2023), double quantisation.
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
# Bytes of two moments in 8 bits with a float32 scale for each 256 (torchao's block).
MOMENTS_8BIT = 2 * (1 + 4 / 256)
# Largest file of weights that a save holds in memory (`alpaca_cli.model.saving`).
SHARD = 5 * 10**9
PARTS = ("weights", "copies", "gradients", "optimizer", "activations", "logits", "other")
# What CUDA, its kernels and workspaces, or torch's libraries on CPU, take: an allowance.
LIBRARIES = 1 << 29


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that one process needs on its device at the worst moment.

    Attributes:
        moment: which one that is.
        save_peak: host memory of the first process while it saves.
        checkpoint: on disk, of one checkpoint.
    """

    weights: int
    copies: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    other: int
    moment: str
    save_peak: int
    checkpoint: int

    @property
    def total(self) -> int:
        return sum(getattr(self, part) for part in PARTS)


def memory(
    shape: Shape,
    settings: Train,
    dtype: torch.dtype,
    processes: int,
    strategy: Strategy,
    tokens: int | None = None,
    trained_tokens: int | None = None,
    *,
    kind: str = "cuda",
) -> Memory:
    """Bytes that one of `processes` needs to train.

    Args:
        dtype: what is computed in.
        tokens: positions of the largest micro-batch; `micro_batch` rows of `max_length` when not
            given.
        trained_tokens: those of them with logits; all when not given.
        kind: of device, `cuda` or `cpu`.
    """
    tokens = settings.micro_batch * settings.max_length if tokens is None else tokens
    columns = tokens if trained_tokens is None else trained_tokens
    numbers = numbers_of(settings, dtype, strategy)
    parts = processes if strategy == "fsdp2" else 1
    moments = _moments(shape, settings, numbers, strategy, tokens, columns, kind)
    worst = max(moments, key=lambda name: sum(moments[name]))
    copies, activations, logits, other = moments[worst]
    trained = shape.trained_parameters
    return Memory(
        weights=round(_weights(shape, settings, numbers) / parts),
        copies=round(copies),
        gradients=round(trained * numbers.kept / parts),
        optimizer=round(_optimizer(shape, settings) / parts),
        activations=round(activations),
        logits=round(logits),
        other=round(other) + LIBRARIES,
        moment=worst,
        save_peak=_save_peak(shape, settings, strategy),
        checkpoint=checkpoint_bytes(shape, settings),
    )


def choose_strategy(
    shape: Shape,
    settings: Train,
    dtype: torch.dtype,
    processes: int,
    available: float,
    *,
    kind: str = "cuda",
) -> Strategy:
    """How processes share the work: what the recipe says, else DDP where it fits, else FSDP2.

    DDP is the faster one: it exchanges gradients once a step, FSDP2 weights in every pass.

    Args:
        available: bytes on the device of each process.
    """
    if processes == 1:
        return "single"
    if settings.strategy != "auto":
        return settings.strategy
    # FSDP2 can split neither 4-bit weights nor Muon's matrices (`adapters.check_method`).
    if settings.method == "qlora" or settings.optimizer == "muon":
        return "ddp"
    needed = memory(shape, settings, dtype, processes, "ddp", kind=kind).total
    return "ddp" if needed <= USABLE * available else "fsdp2"


def checkpoint_bytes(shape: Shape, settings: Train) -> int:
    """Size of a checkpoint on disk: what is trained, and the optimizer's moments."""
    return round(model_bytes(shape, settings) + _optimizer(shape, settings))


def model_bytes(shape: Shape, settings: Train) -> int:
    """Size of a model folder's weights: the whole model, or the adapter."""
    kept: int = getattr(torch, settings.weights).itemsize
    return shape.trained_parameters * kept


def _save_peak(shape: Shape, settings: Train, strategy: Strategy) -> int:
    """Weights are written file by file; under FSDP2 the first process gathers all of them."""
    weights = model_bytes(shape, settings)
    return min(weights, SHARD) + (weights if strategy == "fsdp2" else 0)


def _weights(shape: Shape, settings: Train, numbers: Numbers) -> float:
    trained = shape.trained_parameters
    frozen = shape.parameters - trained
    if settings.method == "qlora":
        # Embeddings, norms and the output layer are not quantised.
        rest = frozen - shape.linear_parameters
        held = NF4 * shape.linear_parameters + numbers.frozen * rest
    else:
        held = numbers.frozen * frozen
    return held + numbers.kept * trained


def _optimizer(shape: Shape, settings: Train) -> float:
    trained = shape.trained_parameters
    if settings.optimizer == "adamw_8bit":
        return MOMENTS_8BIT * trained
    if settings.optimizer == "muon":  # one moment for its matrices, two for the rest
        return 8 * trained - 4 * shape.hidden_matrix_parameters
    return 8 * trained


def _moments(
    shape: Shape,
    settings: Train,
    numbers: Numbers,
    strategy: Strategy,
    tokens: int,
    columns: int,
    kind: str,
) -> dict[str, tuple[float, float, float, float]]:
    """Bytes of copies, activations, logits and other at each moment that can be the worst."""
    c, full = numbers.compute, settings.method == "full"
    scores, output = columns * shape.vocabulary, shape.vocabulary * shape.hidden
    saved = saved_activations(shape, settings, numbers, tokens, columns, kind)
    ends = ends_activations(shape, settings, numbers, tokens, columns)
    # Copies: of all weights that are multiplied with, of a block's, of the output layer's.
    cast = c if numbers.casts else 0
    every = cast * (shape.matrix_parameters if full else shape.trained_parameters)
    last, block, again = float(every), float(every), 0.0
    if settings.gradient_checkpointing:  # a block is computed once more before it is gone through
        last = cast * output if full else 0
        block = cast * (shape.layer_parameters if full else shape.trained_parameters / shape.layers)
        again = block_activations(shape, settings, numbers, tokens, kind)
    gathered = _gathered(shape, settings, numbers) if strategy == "fsdp2" else (0.0, 0.0, 0.0)
    return {
        "end of the forward pass": (last, saved, c * scores, gathered[0]),
        # Of the logits in float32: their logarithmic softmax, its gradient, and theirs.
        "loss": (last, saved, 12 * scores, gathered[0]),
        "backward pass of the output layer": (
            last,
            saved,
            c * scores,
            gathered[1] or (_incoming(numbers) * output if full else 0),
        ),
        "backward pass of a block": (
            block,
            saved - ends + again,
            0.0,
            gathered[2] + _backward(shape, settings, numbers, tokens),
        ),
    }


def _incoming(numbers: Numbers) -> int:
    """Bytes per weight of a gradient on its way to the one that is there: under autocast in the
    weight's own precision, for which the weight's copy has made room."""
    return numbers.kept if numbers.casts else numbers.compute


def _backward(shape: Shape, settings: Train, numbers: Numbers, tokens: int) -> float:
    """Bytes that the backward pass of a block needs beside what was saved for it.

    Most in the feed-forward layer: the gradient of its output, and behind its last matrix either
    that of the product of the two factors with those of both (the product itself is gone by
    then), or that of the product with the matrix's own.
    """
    c, h, i = numbers.compute, shape.hidden, shape.intermediate
    output = tokens * h * (numbers.own + (c if numbers.casts else 0))
    if settings.method == "full":
        factors = max(2 * c * tokens * i, c * tokens * i + _incoming(numbers) * h * i)
    else:
        # Of the frozen matrix's input, of the adapter's, and its way back through dropout.
        through = numbers.kept if numbers.casts else c
        factors = tokens * i * (2 * c + 2 * through)
    if settings.method == "qlora":  # a matrix turned back into numbers to compute with
        factors += c * h * i
    if shape.attention == "eager":  # the softmax's gradients, in float32
        row = tokens if settings.packing else settings.max_length
        factors = max(factors, (8 - c if c < 4 else 4) * tokens * shape.heads * row)
    return output + factors


def _gathered(shape: Shape, settings: Train, numbers: Numbers) -> tuple[float, float, float]:
    """What FSDP2 holds of other processes' parts: after the forward pass, while the output layer
    is gone back through, and while a block is.

    The output layer stays gathered between its two passes. Going back through a block, there are
    its weights, the ones before it on their way, its gradients, and those behind it in the
    float32 buffer that they are sent in, until this block needs one.
    """
    c, block = numbers.compute, shape.layer_parameters
    output = shape.vocabulary * shape.hidden
    if settings.method != "full":
        trained = shape.trained_parameters / shape.layers
        return c * output, c * (output + block), 2 * c * block + (c + 4) * trained
    sent = 4 * max(block, output)
    return c * output, c * (2 * output + block) + 4 * output, 3 * c * block + sent
