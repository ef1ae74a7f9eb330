"""Making a model folder for others: copied, in another precision, or with its adapter merged in.

Weights in safetensors are copied tensor by tensor, so a model of any size needs the memory of its
largest tensor. A merge, and weights in pickled files, need the whole model in memory. The other
files are copied as they are, from a list of those that belong to a model: optimizer states, logs
and code stay behind. Where the result goes and what becomes of it is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from alpaca_cli.core.errors import DataError, ResourceError, UsageError
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.adapters import without_peft_deprecations
from alpaca_cli.model.casting import TORCH, Losses, cast_tensor, check_cast
from alpaca_cli.model.chat_template import FILE_NAME as CHAT_TEMPLATE
from alpaca_cli.model.chat_template import chat_template
from alpaca_cli.model.export_files import GENERATION, base_of, refuse_quantised
from alpaca_cli.model.locate import ADAPTER_CONFIG, CONFIG, find_model
from alpaca_cli.model.saving import full_disk
from alpaca_cli.model.student import EMBEDDING_MULTIPLE, quiet_transformers
from alpaca_cli.model.tensor_files import (
    ADAPTER,
    CODES,
    MODEL,
    cast_forms,
    stored_tensors,
    write_tensors,
)
from alpaca_cli.model.tokenizer import Tokenizer


def copy_weights(
    source: Path, target: Path, dtype: str, most: int, advance: Callable[[], None]
) -> Losses:
    """Copy a model's or an adapter's tensors, one at a time, into shards of `most` bytes.

    Raises:
        GateFailed: a number does not fit into the new precision.
    """
    adapter = (source / ADAPTER_CONFIG).is_file()
    stem = ADAPTER if adapter else MODEL
    tensors, losses = stored_tensors(source, stem), Losses()
    forms = cast_forms(tensors, dtype)

    def load(name: str) -> Any:
        advance()
        return cast_tensor(name, tensors[name], forms[name].dtype, losses)

    # peft reads an adapter from one file only.
    write_tensors(target, stem, forms, load, 1 << 62 if adapter else most)
    return losses


def rewrite_weights(source: Path, target: Path, dtype: str, most: int) -> Losses:
    """Write pickled weights (.bin) as safetensors; takes the whole model's memory."""
    with loading(source):
        model = _from_folder(source, "auto")
    return save_model(model, target, dtype, most)


def merge(adapter: Path, target: Path, dtype: str, most: int) -> Losses:
    """An adapter and its base as one model; takes the base's memory, in float32 when it is cast.

    The base is the one that adapter_config.json names, unquantised, whatever training held it in.

    Raises:
        UsageError: this kind of adapter cannot be merged, or the base is quantised.
    """
    with loading(adapter):
        model = load_adapted(adapter, torch.float32 if dtype != "keep" else "auto")
        if not hasattr(model, "merge_and_unload"):
            raise UsageError(f"{adapter}: peft cannot merge this kind of adapter")
        tokenizer = load_tokenizer(adapter)
        with warnings.catch_warnings():
            # Trained rows of a tied embedding: peft unties the two, and says so.
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
            model = model.merge_and_unload(safe_merge=True)
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return save_model(model, target, dtype, most)


def save_model(model: Any, target: Path, dtype: str, most: int) -> Losses:
    """Save a loaded model in a precision (`keep`: the one it has)."""
    losses = Losses()
    if dtype != "keep":
        wanted = TORCH[CODES[dtype]]
        for name, parameter in model.named_parameters():
            cast = parameter.data.to(wanted)
            check_cast(name, parameter.data, cast, losses)
            parameter.data = cast
    with full_disk(target):
        model.save_pretrained(target, max_shard_size=most)
    return losses


def write_chat_template(source: Path, target: Path, template: PromptTemplate | None) -> str:
    """Give the tokenizer of a copy a chat template that renders its prompt.

    Returns:
        Why it got none, where a person should know; else an empty text.
    """
    if template is None:
        return "stores no prompt template: no chat template was made for it"
    if template.chat_template:
        return ""
    tokenizer = load_tokenizer(source)
    if tokenizer.chat_template:
        return (
            f"was trained with the {template.name} template, but its tokenizer brings a chat "
            "template of its own, which servers such as vLLM will use; it was left as it is"
        )
    text = chat_template(template, tokenizer)
    (target / CHAT_TEMPLATE).write_text(text, encoding="utf-8")
    return ""


def write_generation_config(target: Path) -> None:
    """What transformers would assume, written down, for a model that brings none."""
    if not (target / GENERATION).is_file() and (target / CONFIG).is_file():
        with loading(target):
            config = transformers.AutoConfig.from_pretrained(target, trust_remote_code=False)
        transformers.GenerationConfig.from_model_config(config).save_pretrained(target)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder, as transformers reads it.

    Raises:
        DataError: there is none that it can read.
    """
    with loading(folder):
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


def token_names(folder: Path, ids: Sequence[int]) -> list[str]:
    """The texts of tokens, as a model's tokenizer has them."""
    return [str(name) for name in load_tokenizer(folder).convert_ids_to_tokens(list(ids))]


def load_any(folder: Path, dtype: torch.dtype | str) -> Any:
    """A whole model, or an adapter on its base, on the CPU, ready to be asked."""
    quiet_transformers()
    with loading(folder):
        if (folder / ADAPTER_CONFIG).is_file():
            return load_adapted(folder, dtype).eval()
        return _from_folder(folder, dtype).eval()


def load_adapted(adapter: Path, dtype: torch.dtype | str) -> Any:
    """peft's model of an adapter and its base, found by the name in adapter_config.json."""
    from peft import PeftModel

    try:
        base = find_model(base_of(adapter))
    except DataError as error:
        raise DataError(f"{adapter}: its base model: {error}", hint=error.hint) from error
    refuse_quantised(base)
    model = _from_folder(base, dtype)
    tokenizer = load_tokenizer(adapter)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # As in training; the rows themselves are part of the adapter.
        model.resize_token_embeddings(
            len(tokenizer), pad_to_multiple_of=EMBEDDING_MULTIPLE, mean_resizing=False
        )
    with without_peft_deprecations():
        return PeftModel.from_pretrained(model, str(adapter))


def _from_folder(folder: Path, dtype: torch.dtype | str) -> Any:
    quiet_transformers()
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
    )
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its files lack weights, {missing[0]} among them")
    return model


@contextmanager
def loading(folder: Path) -> Iterator[None]:
    """The libraries' ways of saying that a model cannot be loaded, as one message."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise ResourceError(f"{folder}: the model does not fit into memory") from error
    except UnpicklingError as error:
        raise DataError(
            f"{folder}: its pickled weights (.bin) hold more than tensors, and such a file can "
            "run any code when it is read",
            hint="use a version of this model in safetensors",
        ) from error
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{folder}: cannot load this model: {first.rstrip(': ')}") from error
