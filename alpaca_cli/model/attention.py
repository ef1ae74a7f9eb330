"""How a model attends: which back-end is used, and the proof that packed examples do so alone.

    per_example   `alpaca_cli.model.per_example`: torch's kernels on each example of a packed row
    sdpa, eager   transformers' own, with its mask over the whole row

Others of transformers (flash_attention_2, flex_attention) are not offered: nothing here could
show that they keep packed examples apart. What a model's own configuration names is not used.

Rows of one example need no mask but the causal one, in every back-end: padding is on the right,
and nothing that counts looks to the right.
"""

from __future__ import annotations

from typing import Any

import torch

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model import per_example
from alpaca_cli.model.batches import collate
from alpaca_cli.model.forward import inner_model, logits_at
from alpaca_cli.model.rows import Row

# Architectures with nothing but causality in their attention: no capped scores, no sinks, no
# layers of another kind. That packing is right is proved again on each model before training.
PLAIN = {"llama", "mistral", "olmo2", "qwen2", "qwen3", "smollm3"}


def choose_attention(model: Any, settings: Train) -> str:
    """Set a model's attention to what `train.attention` asks for.

    Args:
        model: as loaded: its attention is what transformers prefers for it, sdpa or eager.

    Returns:
        One line for the person: what it is, and why.

    Raises:
        UsageError: this model cannot attend that way.
    """
    inner, wanted = inner_model(model), settings.attention
    own: str = inner.config._attn_implementation
    if not settings.packing:
        # A row is one example: sdpa does for it what per_example does for one of many.
        chosen = own if wanted in ("auto", "per_example") else wanted
        why = "every row is one example"
    else:
        reason = _why_not_per_example(inner, settings.max_length)
        if wanted == "per_example" and reason:
            raise UsageError(
                f"train.attention: per_example does not suit this model: {reason}",
                hint="use attention: auto",
            )
        alone = wanted in ("auto", "per_example") and not reason
        chosen = per_example.NAME if alone else own if wanted == "auto" else wanted
        why = "packed examples one by one" if alone else "with a mask over each packed row"
        if wanted == "auto" and reason:
            why += f": {reason}"
    if chosen != own:
        try:
            inner.set_attn_implementation(chosen)
        except (ValueError, ImportError) as error:
            raise _cannot(inner, chosen) from error
    if inner.config._attn_implementation != chosen:  # models of an older form only warn
        raise _cannot(inner, chosen)
    return f"attention: {'per_example' if chosen == per_example.NAME else chosen}, {why}"


def _cannot(model: Any, chosen: str) -> UsageError:
    return UsageError(
        f"train.attention: {chosen} is not there for {type(model).__name__}",
        hint="use attention: auto",
    )


def _why_not_per_example(model: Any, longest: int) -> str:
    """Why attention over examples of up to `longest` tokens is not plainly causal; or nothing."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if config.model_type not in PLAIN:
        return f"{config.model_type} is not known to have plainly causal attention"
    if window is not None and window < longest:
        return f"it looks back {window:,} tokens only, and examples may have {longest:,}"
    return ""


def prove_packing(model: Any, max_length: int, device: torch.device) -> None:
    """Prove on this very model that packed examples do not see each other.

    An example's logits must not change when the one before it in its row does, and must be what
    they are when it stands alone. Models that ignore `position_ids` when they build their mask
    fail this without any other sign: OPT, Falcon, BLOOM and MPT do, and those with recurrent
    layers (tried: Mamba, Qwen3-Next).

    Under FSDP2 all processes must call it.

    Args:
        max_length: of the examples to be packed; those here are no longer.

    Raises:
        GateFailed: they see each other.
    """
    vocabulary = inner_model(model).config.get_text_config().vocab_size
    length = max(4, min(64, max_length, vocabulary // 4))
    first, other, second = (
        Row(list(range(start * length, (start + 1) * length)), 1) for start in range(3)
    )
    before = model.training
    model.eval()
    with torch.no_grad():
        found = [
            logits_at(model, collate([rows]).to(device))[0, -second.trained :].float()
            for rows in ([first, second], [other, second], [second])
        ]
    model.train(before)
    changed = not torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
    # Alone it is another shape, and bfloat16 rounds otherwise; a wrong position is far from that.
    apart = (found[0] - found[2]).norm() > 0.05 * found[2].norm()
    if changed or apart:
        raise GateFailed(
            "packed examples see each other in this model: the result would be wrong",
            hint="set train.packing=false",
        )
