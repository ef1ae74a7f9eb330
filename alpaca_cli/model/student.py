"""The student: a model with its tokenizer and prompt template; making, loading and saving one.

A saved student is a model folder that transformers (and peft, for an adapter) loads as it is,
plus `prompt_template.json`. Checkpoints hold the same files, so a checkpoint can be asked, too.

How it is trained is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from alpaca_cli.core.errors import AlpacaError, DataError, ResourceError, UsageError
from alpaca_cli.core.settings_train import Lora, Scratch, ScratchModel, Train
from alpaca_cli.core.template import PromptTemplate, load_template
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.model.tokenizer import Tokenizer, make_usable, train_tokenizer

EMBEDDING_MULTIPLE = 64  # rows of an embedding that has to grow: tensor cores like such shapes


@dataclass(frozen=True, slots=True)
class Trainee:
    """What is trained, and what is needed to ask it.

    Attributes:
        model: a causal language model of transformers, or peft's wrapper around one.
        notes: what had to be changed to make a pretrained model trainable, one line each.
    """

    model: Any
    tokenizer: Tokenizer
    template: PromptTemplate
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters in all; tied ones count once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def trainable(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def make_trainee(
    settings: Train,
    texts: Iterable[str],
    seed: int,
    dtype: torch.dtype = torch.float32,
    *,
    weights: bool = True,
) -> Trainee:
    """The untrained student of a recipe; equal arguments give equal weights.

    Args:
        texts: what the tokenizer of a model from scratch is trained on.
        dtype: of frozen weights (LoRA); trained weights are float32 whatever is computed in.
        weights: False makes all tensors shapes without memory, to count them.

    Raises:
        UsageError: the model cannot be loaded, or cannot be trained by this method.
    """
    template = load_template(settings.template)
    torch.manual_seed(seed)
    if isinstance(settings.model, ScratchModel):
        if settings.method == "lora":
            raise UsageError(
                "train.method: lora adapts a pretrained model; one from scratch has nothing to "
                "adapt",
                hint="use method: full, or name a model with --model",
            )
        scratch = settings.model.config
        tokenizer: Tokenizer = train_tokenizer(texts, template, scratch.vocab_size)
        with _device(weights):
            model = _from_scratch(scratch, tokenizer, settings.max_length)
        return Trainee(model, tokenizer, template)
    lora = settings.method == "lora"
    model, tokenizer = _pretrained(settings.model, dtype if lora else torch.float32, weights)
    if template.chat_template and not tokenizer.chat_template:
        raise UsageError(
            f"train.template: {settings.model} has no chat template",
            hint="use template: alpaca",
        )
    notes = make_usable(tokenizer, model.config.eos_token_id)
    with _device(weights):
        notes += _make_room(model, len(tokenizer))
        if lora:
            model = _with_adapter(model, settings.lora)
    return Trainee(model, tokenizer, template, tuple(notes))


def _device(weights: bool) -> AbstractContextManager[Any]:
    """Where tensors are made: on CPU, or on torch's `meta` device, where they have no values."""
    return nullcontext() if weights else torch.device("meta")


def load_trainee(settings: Train, folder: Path, dtype: torch.dtype = torch.float32) -> Trainee:
    """The student saved in `folder` by `save_trainee`, ready to go on training."""
    template = load_template(settings.template)
    if settings.method == "lora" and isinstance(settings.model, str):
        from peft import PeftModel

        base, _ = _pretrained(settings.model, dtype)
        tokenizer = _load_tokenizer(folder)
        _make_room(base, len(tokenizer))
        with without_peft_deprecations():
            model: Any = PeftModel.from_pretrained(base, folder, is_trainable=True)
    else:
        model, tokenizer = _pretrained(str(folder), torch.float32)
    return Trainee(model, tokenizer, template)


def _from_scratch(scratch: Scratch, tokenizer: Tokenizer, max_length: int) -> Any:
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.heads,
        tie_word_embeddings=scratch.tie_embeddings,
        max_position_embeddings=max(max_length, 2048),
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.LlamaForCausalLM(config)


def _pretrained(name: str, dtype: torch.dtype, weights: bool = True) -> tuple[Any, Tokenizer]:
    """Model and tokenizer from a folder or the hub; code that comes with a model is never run."""
    folder = find_model(name)
    if (folder / ADAPTER_CONFIG).is_file():
        raise DataError(
            f"train.model: {folder} holds an adapter, not a whole model",
            hint="merge it into its base model first (peft: merge_and_unload)",
        )
    quiet_transformers()
    auto = transformers.AutoModelForCausalLM
    with _loading(folder):
        if weights:
            model = auto.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        else:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with _device(weights):
                model = auto.from_config(config)
    # An adapter names its base: by hub id, not by this machine's cache; a folder by its full path.
    model.name_or_path = str(folder.resolve()) if Path(name).expanduser().exists() else name
    return model, _load_tokenizer(folder)


def quiet_transformers() -> None:
    """transformers' own bars and warnings stay off stderr, which belongs to our progress."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _load_tokenizer(folder: Path) -> Tokenizer:
    with _loading(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """transformers' ways of saying that a model cannot be loaded, as one message."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        # transformers explains at length; the first line is the reason.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"train.model: {folder}: cannot load this model: {first}") from error


def _make_room(model: Any, tokens: int) -> list[str]:
    """Grow the embedding when the tokenizer has more tokens than it has rows."""
    rows = model.get_input_embeddings().num_embeddings
    if tokens <= rows:
        return []
    meta = model.device.type == "meta"
    # New rows start at the mean of the old ones, as in Stanford Alpaca.
    model.resize_token_embeddings(
        tokens, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=not meta
    )
    grown = model.get_input_embeddings().num_embeddings
    return [f"embedding grown from {rows:,} to {grown:,} rows for {tokens:,} tokens"]


@contextmanager
def without_peft_deprecations() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for `is_gradient_checkpointing`, which warns at users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield


def _with_adapter(model: Any, settings: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        with without_peft_deprecations():
            return get_peft_model(model, config)
    except ValueError as error:  # peft names the modules that it did not find
        raise UsageError(f"train.lora.target_modules: {error}") from error


@contextmanager
def out_of_memory() -> Iterator[None]:
    """torch's ways of saying that memory ran out, as one message."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise _no_memory("the GPU's memory is full") from error
    except RuntimeError as error:
        if "not enough memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        raise _no_memory("memory is full") from error


def _no_memory(what: str) -> AlpacaError:
    return ResourceError(
        what,
        hint="lower train.micro_batch or train.max_length, or set train.gradient_checkpointing; "
        "none of them needs --fresh but max_length",
    )
