"""The shape of a model, and the arithmetic that it needs: all that plans are made from.

Read off a model without values, on torch's `meta` device: weights are neither needed nor loaded.
What memory it takes is `alpaca_cli.model.memory`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from alpaca_cli.core.settings_train import Train
from alpaca_cli.model import per_example
from alpaca_cli.model.adapters import size
from alpaca_cli.model.attention import choose_attention
from alpaca_cli.model.forward import inner_model


@dataclass(frozen=True, slots=True)
class Shape:
    """What the formulas need to know of a model.

    Attributes:
        parameters: in all; tied ones count once.
        trained_parameters: those that training changes.
        embedding_parameters: of the input embedding, which is looked up, not multiplied with.
        matrix_parameters: in the matrices that every token is multiplied with, adapters and the
            output layer included.
        linear_parameters: of the linear layers in the blocks, which qlora keeps in 4 bits.
        hidden_matrix_parameters: of all trained matrices but those at both ends: Muon's part.
        layer_parameters: of the largest block.
        gated: the feed-forward layer has a gate beside its first matrix.
        head_norms: queries and keys are normalised head by head.
        adapted_inputs, adapted_outputs: widths of the adapted layers of a block, summed.
        adapters: adapted layers of a block; `rank` is theirs.
        attention: `per_example`, or the name of transformers' own.
    """

    parameters: int
    trained_parameters: int
    embedding_parameters: int
    matrix_parameters: int
    linear_parameters: int
    hidden_matrix_parameters: int
    layer_parameters: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    gated: bool
    head_norms: bool
    adapted_inputs: int
    adapted_outputs: int
    adapters: int
    rank: int
    attention: str


def shape_of(model: Any, settings: Train) -> Shape:
    """The shape of a model, adapter included; its weights may be on torch's `meta` device.

    The model's attention is chosen for it, as before training.

    Raises:
        UsageError: it cannot attend as `settings.attention` asks.
    """
    choose_attention(model, settings)
    inner = inner_model(model)
    chosen: str = inner.config._attn_implementation
    config = inner.config.get_text_config()
    heads = config.num_attention_heads
    blocks = _blocks(inner, config.num_hidden_layers)
    largest = max(blocks, key=_count)
    ends = (inner.get_input_embeddings(), inner.get_output_embeddings())
    end_weights = {id(p) for end in ends if end is not None for p in end.parameters()}
    tied = ends[1] is None or ends[1].weight is ends[0].weight
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    adapted = [m for m in largest.modules() if hasattr(m, "lora_A") and hasattr(m, "base_layer")]
    widths = {name for name, _ in largest.named_modules()}
    embedding = _count(ends[0])
    return Shape(
        parameters=_count(model),
        trained_parameters=_count(model, trained=True),
        embedding_parameters=embedding,
        matrix_parameters=sum(size(p) for p in matrices) - (0 if tied else embedding),
        linear_parameters=sum(_linear(block) for block in blocks),
        hidden_matrix_parameters=sum(
            p.numel() for p in matrices if p.requires_grad and id(p) not in end_weights
        ),
        layer_parameters=_count(largest),
        layers=len(blocks),
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        vocabulary=ends[0].weight.shape[0],
        tied=tied,
        gated=any(name.rpartition(".")[2] in ("gate_proj", "gate_up_proj") for name in widths),
        head_norms=any(name.endswith("q_norm") for name in widths),
        adapted_inputs=sum(m.in_features for m in adapted),
        adapted_outputs=sum(m.out_features for m in adapted),
        adapters=len(adapted),
        rank=settings.lora.r if adapted else 0,
        attention="per_example" if chosen == per_example.NAME else chosen,
    )


def _blocks(model: Any, layers: int) -> list[torch.nn.Module]:
    """The transformer blocks: the one list of modules that is as long as the model is deep."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == layers:
            return list(module)
    return [model]


def _count(module: Any, *, trained: bool = False) -> int:
    return sum(size(p) for p in module.parameters() if p.requires_grad or not trained)


def _linear(block: torch.nn.Module) -> int:
    """Weights of the linear layers of a block, adapters left out."""
    return sum(
        size(module.weight)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    )


def flops_per_token(shape: Shape, settings: Train, length: float, trained: float = 1.0) -> float:
    """FLOPs that one token needs, forward and backward: what MFU is reckoned with.

    Two for each weight in the forward pass, two for the gradient of its input, two for its own
    gradient, which frozen weights do not have: 6 per trained weight, 4 per frozen one. Attention
    is causal, so a token looks at half of its example on average.

    Args:
        length: of the example it is in, in tokens; for many, the mean over tokens.
        trained: share of the tokens that are trained: the output layer is computed for no others.

    Source: Kaplan et al., Scaling Laws (2020), 2.1; Chowdhery et al., PaLM (2022), appendix B,
    there without the half.
    """
    output = shape.vocabulary * shape.hidden
    frozen = settings.method != "full"
    multiplied = shape.matrix_parameters - output + trained * output
    own = shape.trained_parameters if frozen else 0
    weights = 4 * (multiplied - own) + 6 * own if frozen else 6 * multiplied
    return weights + 3 * _attention_flops(shape, length)


def recomputed_flops(shape: Shape, settings: Train, length: float) -> float:
    """FLOPs per token that gradient checkpointing adds: the forward pass of the blocks again.

    torch stops where nothing more is to be saved: before the last product of each block.
    """
    if not settings.gradient_checkpointing:
        return 0.0
    blocks = shape.matrix_parameters - shape.vocabulary * shape.hidden
    last = shape.layers * shape.hidden * shape.intermediate
    return 2 * (blocks - last) + _attention_flops(shape, length)


def _attention_flops(shape: Shape, length: float) -> float:
    """Of one token's forward pass: a product with the keys it sees, and one with their values."""
    return 2 * 2 * shape.layers * shape.heads * shape.head_dim * length / 2
