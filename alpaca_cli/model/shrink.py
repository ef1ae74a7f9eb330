"""A tiny random model of another's architecture: all that can go wrong, in seconds.

From a pretrained model only its configuration is read. What is in it stays (kinds of layers, of
attention and of rotary embeddings, tied or untied matrices), sizes are cut down, and dropout is
taken out, so that two trainings can be compared. The tokenizer is a small one, trained on the
texts at hand.

What is checked with it is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import Train
from alpaca_cli.core.template import PromptTemplate, load_template
from alpaca_cli.model.adapters import four_bits, stay_trainable, without_peft_deprecations
from alpaca_cli.model.batches import collate
from alpaca_cli.model.forward import summed_loss
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.model.rows import encode_rows
from alpaca_cli.model.student import quiet_transformers
from alpaca_cli.model.tokenizer import Tokenizer, load_config, load_tokenizer, train_tokenizer

WIDTH, HEADS, INNER, CONTEXT = 64, 2, 128, 512
VOCABULARY = 512
LAYERS = 2

# One name of each row is what an architecture calls it.
WIDTHS = ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim")
DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
INNERS = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", "d_ff")
CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len")
HEAD_COUNTS = ("num_attention_heads", "n_head", "n_heads")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERT_WIDTHS = ("moe_intermediate_size", "shared_expert_intermediate_size")
SPREADS = ("initializer_range", "init_std")
# Standard deviation of the random weights. Usual ones are ten times smaller; logits over so narrow
# a model would then hardly differ, and with a frozen output matrix (LoRA) nothing could be learnt.
SPREAD = 0.2


def shrink(
    name: str, trust_remote_code: bool, template: PromptTemplate, texts: Sequence[str], folder: Path
) -> str:
    """Write a tiny random model of `name`'s architecture into `folder`; says what it is.

    Args:
        name: a folder or hub id; of its files only the small ones are read.
        texts: what its tokenizer is trained on.

    Raises:
        DataError: the configuration cannot be read, or the architecture cannot be cut down.
    """
    found = find_model(name, weights=False, code=trust_remote_code)
    whole = load_config(found, trust_remote_code=trust_remote_code).get_text_config()
    try:
        return _make(whole, trust_remote_code, template, texts, folder)
    except (OSError, ValueError, KeyError, TypeError, ImportError, AttributeError,
            IndexError, RuntimeError) as error:  # fmt: skip
        # Sizes depend on each other in ways that only the architecture's own code knows.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{name}: cannot be cut down to a tiny model: {first}") from error


def tiny_llama(template: PromptTemplate, texts: Sequence[str], folder: Path) -> str:
    """As `shrink`, of the LLaMA architecture."""
    return _make(transformers.LlamaConfig(), False, template, texts, folder)


def _make(
    whole: Any,
    trust_remote_code: bool,
    template: PromptTemplate,
    texts: Sequence[str],
    folder: Path,
) -> str:
    tokenizer = train_tokenizer(texts, template, VOCABULARY)
    quiet_transformers()
    config = _smaller(whole, tokenizer)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(
        config, trust_remote_code=trust_remote_code, dtype=torch.float32
    )
    with torch.no_grad():  # sizes that do not fit are found out here, not in a training
        model(input_ids=torch.arange(12)[None] % len(tokenizer), use_cache=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    depth = _first(config, DEPTHS)
    return f"{config.model_type}, {depth} layers, {WIDTH} wide, random weights"


def _smaller(config: Any, tokenizer: Tokenizer) -> Any:
    """The configuration with its sizes cut down."""
    values = config.to_dict()
    heads, shared = _first(config, HEAD_COUNTS), getattr(config, "num_key_value_heads", None)
    changes: dict[str, Any] = dict.fromkeys(WIDTHS, WIDTH)
    changes |= dict.fromkeys(INNERS, INNER) | dict.fromkeys(EXPERT_WIDTHS, WIDTH)
    changes |= dict.fromkeys(CONTEXTS, CONTEXT) | dict.fromkeys(HEAD_COUNTS, HEADS)
    changes |= dict.fromkeys(DEPTHS, LAYERS) | dict.fromkeys(EXPERTS, 4)
    changes |= dict.fromkeys(SPREADS, SPREAD)
    changes |= {
        "num_key_value_heads": 1 if shared and heads and shared < heads else HEADS,
        "head_dim": WIDTH // HEADS,
        "num_experts_per_tok": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "sliding_window": CONTEXT // 8,
    }
    if kinds := list(dict.fromkeys(values.get("layer_types") or ())):
        # One layer of each kind: attention over a window and over everything, for example.
        changes["layer_types"] = kinds if len(kinds) >= LAYERS else kinds * LAYERS
        changes |= dict.fromkeys(DEPTHS, len(changes["layer_types"]))
    for key, value in values.items():
        if ("dropout" in key or "pdrop" in key) and isinstance(value, float):
            changes[key] = 0.0
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    known = {
        key: new for key, new in changes.items() if values.get(key) is not None or key in special
    }
    return type(config).from_dict(values | known)


def _first(config: Any, names: Sequence[str]) -> Any:
    return next((getattr(config, name) for name in names if hasattr(config, name)), None)


def reloaded_loss(
    folder: Path, settings: Train, examples: Sequence[Example], device: str
) -> tuple[float, int]:
    """The loss of a saved model as transformers and peft load it, example by example, in float32.

    Args:
        folder: `train/final` of a training with these settings.
        examples: all of them are asked for; none may be longer than `max_length`.

    Returns:
        Nats per trained token, and how many tokens that is the mean of.
    """
    trust = settings.trust_remote_code
    tokenizer = load_tokenizer(folder, trust_remote_code=trust)
    base = str(settings.model) if (folder / ADAPTER_CONFIG).is_file() else str(folder)
    given = {"dtype": torch.float32, "device_map": device, "trust_remote_code": trust}
    if settings.method == "qlora":
        given["quantization_config"] = four_bits(torch.float32)
    quiet_transformers()
    model = transformers.AutoModelForCausalLM.from_pretrained(base, **given)
    if settings.method == "qlora":
        stay_trainable(model)  # else CPUs compute it in bfloat16
    if base != str(folder):
        from peft import PeftModel

        with without_peft_deprecations():
            model = PeftModel.from_pretrained(model, folder)
    model.eval()
    template = load_template(settings.template)
    rows = encode_rows(examples, tokenizer, template, settings.max_length, "error").rows
    with torch.no_grad():
        total = sum(float(summed_loss(model, collate([[row]]).to(device))) for row in rows)
    trained = int(rows.trained.sum())
    return total / trained, trained
