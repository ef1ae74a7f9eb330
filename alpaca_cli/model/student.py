"""The student: a model with its tokenizer and prompt template; making one, and loading one again.

Where the tokenizer comes from is `alpaca_cli.model.tokens`; how a student is saved is
`alpaca_cli.model.saving`. How it is trained is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from safetensors import SafetensorError

from alpaca_cli.core.errors import AlpacaError, DataError, ResourceError, UsageError
from alpaca_cli.core.settings_train import Scratch, ScratchModel, Train
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model import adapters
from alpaca_cli.model.attention import choose_attention
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.model.tokenizer import Tokenizer

EMBEDDING_MULTIPLE = 64  # rows of an embedding that has to grow: tensor cores like such shapes


@dataclass(frozen=True, slots=True)
class Trainee:
    """What is trained, and what is needed to ask it.

    Attributes:
        model: a causal language model of transformers, or peft's wrapper around one.
        notes: what was chosen for it, and what had to be changed to make it trainable.
    """

    model: Any
    tokenizer: Tokenizer
    template: PromptTemplate
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Parameters in all; tied ones count once, those held in 4 bits as what they stand for."""
        return sum(adapters.size(p) for p in self.model.parameters())

    @property
    def trainable(self) -> int:
        return sum(p.numel() for p in self.model.parameters() if p.requires_grad)


def make_trainee(
    settings: Train,
    tokenizer: Tokenizer,
    template: PromptTemplate,
    seed: int,
    dtype: torch.dtype = torch.float32,
    *,
    weights: bool = True,
) -> Trainee:
    """The untrained student of a recipe; equal arguments give equal weights.

    Args:
        dtype: of frozen weights (under LoRA); trained ones are kept in `settings.weights`.
        weights: False gives parameters without values, on torch's `meta` device, and reads only
            the model's configuration. Buffers have their values in any case: they follow from it.

    Raises:
        UsageError: the model cannot be trained by this method.
        DataError: the model cannot be loaded.
    """
    adapters.check_adaptable(settings)
    torch.manual_seed(seed)
    if isinstance(settings.model, ScratchModel):
        model = _from_scratch(settings.model.config, tokenizer, settings.max_length, weights)
        return _trainee(model, tokenizer, template, settings, [])
    model = _pretrained(settings.model, settings, dtype, weights)
    _check_context(model, settings)
    before = _rows(model)
    notes = _make_room(model, len(tokenizer), weights)
    if settings.method != "full":
        with _values(weights):
            model = adapters.add_adapter(model, settings.lora, range(before, _rows(model)))
    return _trainee(model, tokenizer, template, settings, notes)


def load_trainee(
    settings: Train,
    folder: Path,
    tokenizer: Tokenizer,
    template: PromptTemplate,
    dtype: torch.dtype = torch.float32,
    *,
    weights: bool = True,
) -> Trainee:
    """The student saved in `folder`, ready to go on training; arguments as in `make_trainee`.

    Raises:
        DataError: what is there cannot be loaded.
    """
    if settings.method == "full" or isinstance(settings.model, ScratchModel):
        model = _pretrained(str(folder), settings, dtype, weights)
    else:
        base = _pretrained(settings.model, settings, dtype, weights)
        _make_room(base, len(tokenizer), weights)
        with _values(weights), _loading(folder):
            model = adapters.load_adapter(base, folder, weights=weights)
    return _trainee(model, tokenizer, template, settings, [])


def _values(wanted: bool) -> AbstractContextManager[Any]:
    """In this block new parameters have values, or none; buffers always do."""
    return nullcontext() if wanted else init_empty_weights(include_buffers=False)


def _tied(model: Any, weights: bool) -> Any:
    """accelerate gives every name a tensor of its own: tied ones are one again after this."""
    if not weights:
        model.tie_weights()
    return model


def _trainee(
    model: Any, tokenizer: Tokenizer, template: PromptTemplate, settings: Train, notes: list[str]
) -> Trainee:
    """What new and reloaded students have in common: precision and attention."""
    kept = getattr(torch, settings.weights)
    # Parameters only: rotary frequencies, a buffer, have to stay float32.
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(kept)
    notes = [*notes, choose_attention(model, settings)]
    return Trainee(model, tokenizer, template, tuple(notes))


def _from_scratch(scratch: Scratch, tokenizer: Tokenizer, max_length: int, weights: bool) -> Any:
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
    with _values(weights):
        model = transformers.LlamaForCausalLM(config)
    return _tied(model, weights)


def _pretrained(name: str, settings: Train, dtype: torch.dtype, weights: bool) -> Any:
    """A model from a folder or the hub, in `settings.weights` or, when it stays frozen, `dtype`.

    Its own code is run only with `settings.trust_remote_code`. Attention is transformers' own
    choice at first, whatever its configuration names.
    """
    trust, method = settings.trust_remote_code, settings.method
    folder = find_model(name, weights=weights, code=trust)
    if (folder / ADAPTER_CONFIG).is_file():
        raise DataError(
            f"train.model: {folder} holds an adapter, not a whole model",
            hint="merge it into its base model first (peft: merge_and_unload)",
        )
    quiet_transformers()
    given: dict[str, Any] = {
        "dtype": getattr(torch, settings.weights) if method == "full" else dtype,
        "trust_remote_code": trust,
        "attn_implementation": None,
    }
    auto = transformers.AutoModelForCausalLM
    with _loading(folder):
        if weights:
            if method == "qlora":
                given["quantization_config"] = adapters.four_bits(dtype)
            model, info = auto.from_pretrained(
                folder, **given, output_loading_info=True, ignore_mismatched_sizes=True
            )
            # transformers would go on with random values in their place.
            if wrong := sorted(info["missing_keys"]) or sorted(map(str, info["mismatched_keys"])):
                raise ValueError(f"{len(wrong)} weights are missing or misshapen: {wrong[0]} …")
            if method == "qlora":
                adapters.stay_trainable(model)
        else:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
            with _values(weights):
                model = auto.from_config(config, **given)
            _tied(model, weights)
    # An adapter names its base: by hub id, not by this machine's cache; a folder by its full path.
    model.name_or_path = str(folder.resolve()) if Path(name).expanduser().exists() else name
    return model


def quiet_transformers() -> None:
    """transformers' own bars and warnings stay off stderr, which belongs to our progress."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@contextmanager
def _loading(folder: Path) -> Iterator[None]:
    """transformers' ways of saying that a model cannot be loaded, as one message."""
    try:
        yield
    except UnpicklingError as error:
        raise DataError(
            f"train.model: {folder}: its pickled weights (.bin) hold more than tensors, and such "
            "a file can run any code when it is read",
            hint="use a version of this model in safetensors",
        ) from error
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        # transformers explains at length; the first line is the reason.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        code = "trust_remote_code" in str(error)
        raise DataError(
            f"train.model: {folder}: cannot load this model: {first}",
            hint="read that code; if you trust it: --set train.trust_remote_code=true"
            if code
            else "",
        ) from error


def _check_context(model: Any, settings: Train) -> None:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and settings.max_length > context:
        raise UsageError(
            f"train.max_length: {settings.max_length:,}, but {settings.model} was made for "
            f"{context:,} tokens",
            hint=f"set train.max_length to {context} or less",
        )


def _rows(model: Any) -> int:
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def _make_room(model: Any, tokens: int, weights: bool) -> list[str]:
    """Grow the embedding when the tokenizer has more tokens than it has rows."""
    rows = _rows(model)
    if tokens <= rows:
        return []
    with _values(weights):
        model.resize_token_embeddings(
            tokens, pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=False
        )
    _tied(model, weights)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    for weight in (module.weight for module in ends if module is not None):
        if weights:
            # New rows start at the mean of the old ones, as in Stanford Alpaca.
            with torch.no_grad():
                weight[rows:] = weight[:rows].float().mean(0)
    return [f"embedding grown from {rows:,} to {_rows(model):,} rows for {tokens:,} tokens"]


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
