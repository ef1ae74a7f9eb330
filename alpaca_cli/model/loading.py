"""Loading a model that is to be asked: weights, tokenizer, template, and its own defaults.

Full models and adapters, from a local folder (`alpaca_cli.model.locate` finds it). Nothing that
comes with a model is executed. How it is asked is `alpaca_cli.model.sampling`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from alpaca_cli.core.errors import DataError, ResourceError
from alpaca_cli.core.template import ALPACA, TOKENIZER, PromptTemplate, stored_template
from alpaca_cli.model.adapters import without_peft_deprecations
from alpaca_cli.model.dialogue import Sampling
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.model.student import EMBEDDING_MULTIPLE, quiet_transformers
from alpaca_cli.model.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Student:
    """A loaded model with what is needed to ask it."""

    model: Any
    tokenizer: Tokenizer
    template: PromptTemplate
    device: torch.device
    name: str
    """What the person calls it: a path or a hub id."""
    context: int
    """Most tokens of prompt and answer together."""
    eos_ids: tuple[int, ...]
    """Tokens that end an answer."""
    sampling: Sampling
    """The model's own defaults (generation_config.json); greedy when it names none."""
    warnings: tuple[str, ...] = ()
    """What the caller should tell the person."""

    @property
    def parameters(self) -> int:
        return sum(each.numel() for each in self.model.parameters())


def load_student(folder: Path, name: str) -> Student:
    """Load a model or adapter folder, on the GPU when there is one; `name` is what to call it.

    bfloat16 (float16 on GPUs without it) on a GPU, float32 on CPU. Code that comes with a model
    is never run.

    Raises:
        DataError: its files are damaged or of an unknown kind, or an adapter's base is missing.
        ResourceError: it does not fit.
    """
    quiet_transformers()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if (folder / ADAPTER_CONFIG).is_file():
            model = _load_adapter(folder, tokenizer, device)
        else:
            model = _load_weights(folder, device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"{name}: the model does not fit into memory") from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{name}: cannot load this model: {first.rstrip(': ')}") from error
    model.eval()
    defaults = model.generation_config
    eos = eos_ids_of(defaults, tokenizer)
    # What the model's authors prefer is kept as Sampling; no other of their settings (penalties,
    # lengths) may act unseen.
    sampling = default_sampling(defaults)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos[0]
    model.generation_config = GenerationConfig(eos_token_id=list(eos), pad_token_id=pad)
    template, warnings = template_of(folder, name, tokenizer)
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return Student(
        model=model,
        tokenizer=tokenizer,
        template=template,
        device=device,
        name=name,
        context=context or 1 << 30,
        eos_ids=eos,
        sampling=sampling,
        warnings=warnings,
    )


def _load_weights(folder: Path, device: torch.device) -> Any:
    """A causal language model from a folder, every weight of it from the files."""
    dtype = torch.float32
    if device.type == "cuda":
        dtype = (
            torch.bfloat16
            if torch.cuda.is_bf16_supported(including_emulation=False)
            else torch.float16
        )
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    if info["missing_keys"]:
        raise ValueError(f"its files lack weights, {sorted(info['missing_keys'])[0]} among them")
    return model.to(device)


def _load_adapter(folder: Path, tokenizer: Tokenizer, device: torch.device) -> Any:
    """An adapter on its base model, which adapter_config.json names."""
    from peft import PeftModel

    base_name = json.loads((folder / ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    if not base_name:
        raise ValueError(f"{ADAPTER_CONFIG} names no base model")
    try:
        base = find_model(base_name)
    except DataError as error:
        raise DataError(f"{folder}: its base model: {error}", hint=error.hint) from error
    model = _load_weights(base, device)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # As in training; the rows themselves are part of the adapter.
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=EMBEDDING_MULTIPLE)
    with without_peft_deprecations():
        return PeftModel.from_pretrained(model, str(folder))


def eos_ids_of(defaults: GenerationConfig, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Every token that ends an answer, the tokenizer's EOS first."""
    named = defaults.eos_token_id
    listed = named if isinstance(named, list) else [] if named is None else [named]
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    found = tuple(dict.fromkeys([*own, *listed]))
    if not found:
        raise DataError("the model names no token that ends an answer (eos_token)")
    return found


def default_sampling(defaults: GenerationConfig) -> Sampling:
    """The sampling that a model's generation_config.json asks for."""
    if not defaults.do_sample:
        return Sampling()
    return Sampling(
        temperature=defaults.temperature if defaults.temperature is not None else 1.0,
        top_p=defaults.top_p if defaults.top_p is not None else 1.0,
        top_k=defaults.top_k or 0,
    )


def template_of(
    folder: Path, name: str, tokenizer: Tokenizer
) -> tuple[PromptTemplate, tuple[str, ...]]:
    """The template stored with a model, else its chat template, else Alpaca's with a warning."""
    stored = stored_template(folder)
    if stored is not None:
        return stored, ()
    if tokenizer.chat_template:
        return TOKENIZER, ()
    return ALPACA, (f"{name} stores no prompt template: asked with the Alpaca template",)
