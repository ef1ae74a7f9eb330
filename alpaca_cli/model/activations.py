"""What autograd saves in a forward pass, in bytes: one term for each tensor.

The terms follow the layers of LLaMA and its kin (Mistral, Qwen2, Qwen3) as transformers computes
them; a test counts the tensors that are saved and compares. For other builds they are about
right, and Liger's terms are taken from its source, not measured. Logits and what the loss needs
are not counted here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.shape import Shape
from alpaca_cli.model.strategy import Strategy


@dataclass(frozen=True, slots=True)
class Numbers:
    """How numbers are kept while a micro-batch is computed, in bytes.

    Attributes:
        own: of embeddings, norms and what flows between blocks.
        compute: of what matrix products take and give.
        casts: autocast makes copies of what matrix products take.
        kept: of trained weights.
        frozen: of frozen ones.
    """

    own: int
    compute: int
    casts: bool
    kept: int
    frozen: int


def numbers_of(settings: Train, dtype: torch.dtype, strategy: Strategy) -> Numbers:
    kept = getattr(torch, settings.weights)
    if strategy == "fsdp2":  # gathers everything in the precision to compute in
        own, casts = dtype, False
    elif settings.method == "full":
        # Without autocast (float32) weights are taken as they are.
        own, casts = kept, dtype not in (kept, torch.float32)
    else:
        own, casts = dtype, dtype not in (kept, torch.float32)
    compute = dtype if casts else own
    return Numbers(own.itemsize, compute.itemsize, casts, kept.itemsize, dtype.itemsize)


def saved_activations(
    shape: Shape, settings: Train, numbers: Numbers, tokens: int, columns: int, kind: str
) -> float:
    """Bytes that a forward pass saves: those of the blocks, and those of both ends.

    Args:
        tokens: positions of the micro-batch.
        columns: those of them with logits.
        kind: of device, `cuda` or `cpu`.
    """
    if settings.gradient_checkpointing:  # the input of each block
        blocks: float = shape.layers * tokens * shape.hidden * numbers.own
    else:
        blocks = shape.layers * block_activations(shape, settings, numbers, tokens, kind)
    return blocks + ends_activations(shape, settings, numbers, tokens, columns)


def ends_activations(
    shape: Shape, settings: Train, numbers: Numbers, tokens: int, columns: int
) -> float:
    """Bytes saved outside of the blocks, logits apart."""
    full = settings.method == "full"
    per_token = (
        8 * 2  # ids and positions
        + 2 * shape.head_dim * numbers.own  # cosines and sines
        + _norm(shape.hidden, 1, settings, numbers, full)
    )
    # The output layer's input, at the trained positions.
    return tokens * per_token + (columns * shape.hidden * numbers.compute if full else 0)


def _norm(width: int, groups: int, settings: Train, numbers: Numbers, trained: bool) -> int:
    """RMSNorm over `groups` parts of `width`: its input in float32, the scale of each part, and
    what the weight is multiplied with. Liger's keeps its input as it is, and nothing to multiply.
    """
    if settings.liger:
        return numbers.own * width + 4 * groups
    return 4 * width + 4 * groups + (numbers.own * width if trained else 0)


def block_activations(
    shape: Shape, settings: Train, numbers: Numbers, tokens: int, kind: str
) -> float:
    """Bytes that one block saves for its backward pass."""
    c, h, i = numbers.compute, shape.hidden, shape.intermediate
    full = settings.method == "full"
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    per_token: float = 2 * _norm(h, 1, settings, numbers, full)
    if full:
        # Inputs of matrix products. Three share one, as two do in the feed-forward layer, but
        # autocast makes each a copy of its own.
        per_token += c * h * (3 if numbers.casts else 1)
        per_token += c * h * ((2 if shape.gated else 1) if numbers.casts else 1)
        per_token += c * i
    else:
        per_token += _adapter(shape, settings, numbers, kind)
    # Gate, its SiLU (which Liger computes again), and the other factor; without a gate, the input
    # of the activation.
    per_token += c * i * ((2 if settings.liger else 3) if shape.gated else 1)
    if shape.head_norms:
        per_token += _norm(queries, shape.heads, settings, numbers, trained=False)
        per_token += _norm(keys, shape.kv_heads, settings, numbers, trained=False)
        if full:  # in the precision of the matrix products that they follow
            per_token += c * (queries + keys)
    return tokens * per_token + _attention(shape, settings, numbers, tokens, kind)


def _adapter(shape: Shape, settings: Train, numbers: Numbers, kind: str) -> float:
    """Bytes per token that the adapters of one block save: for each its input, after dropout,
    the dropout's mask, and what lies between its two matrices."""
    mask = 0
    if settings.lora.dropout:
        # One byte on GPUs; on CPU in the precision of the adapter's input.
        mask = 1 if kind == "cuda" else (numbers.kept if numbers.casts else numbers.compute)
    saved = (numbers.compute + mask) * shape.adapted_inputs
    saved += numbers.compute * shape.rank * shape.adapters
    if settings.lora.dora:  # both summands, to learn the magnitude
        saved += 2 * numbers.compute * shape.adapted_outputs
    return saved


def _attention(shape: Shape, settings: Train, numbers: Numbers, tokens: int, kind: str) -> float:
    """Bytes that attention saves in one block, its output (the next product's input) included."""
    c = numbers.compute
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    row = tokens if settings.packing else settings.max_length
    found = c * queries if settings.method == "full" else 0  # the output's own copy
    if shape.attention == "eager":
        # Scores in float32, and again to multiply with.
        scores = (4 if c == 4 else 4 + c) * shape.heads * row
        return tokens * (c * 3 * queries + scores + found)
    if settings.packing and shape.attention != "per_example":
        # A mask over the row; with one, keys and values are repeated for each query head.
        return tokens * (c * 4 * queries + 4 * shape.heads + c * row)
    if settings.packing:
        # On CPU what is not autocast is turned into float32: that is faster there.
        inside = 4 if kind == "cpu" and numbers.own < 4 else c
        return tokens * (inside * 2 * (queries + keys) + 4 * shape.heads + found)
    return tokens * (c * 2 * (queries + keys) + 4 * shape.heads)
