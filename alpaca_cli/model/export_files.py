"""The files of a model folder but its weights: which belong to a model, and what some of them say.

Nothing is loaded here, and torch is not needed.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import read_json, write_json
from alpaca_cli.core.template import FILE_NAME as PROMPT_TEMPLATE
from alpaca_cli.model.chat_template import FILE_NAME as CHAT_TEMPLATE
from alpaca_cli.model.locate import ADAPTER_CONFIG, CONFIG, find_model
from alpaca_cli.model.tensor_files import CODES, FLOATS

GENERATION, SENTENCEPIECE = "generation_config.json", "tokenizer.model"
SMALL_FILES = (
    CONFIG, ADAPTER_CONFIG, GENERATION, PROMPT_TEMPLATE, CHAT_TEMPLATE,
    "chat_template.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model", "*.tiktoken",
)  # fmt: skip


def small_files(folder: Path) -> list[Path]:
    """The files of a model folder that are no weights, sorted by name."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in SMALL_FILES)
    )


def copy_small_files(source: Path, target: Path, dtype: str) -> None:
    """Copy all that belongs to a model but its weights; config.json names the new precision.

    A config.json that was written with the weights stays: it tells of these weights, and an
    adapter's other half is in them.
    """
    config = target / CONFIG
    made = config.is_file()
    for path in small_files(source):
        if not (made and path.name in (CONFIG, ADAPTER_CONFIG)):
            shutil.copyfile(path, target / path.name)
    if dtype != "keep" and not made and config.is_file():
        value = read_json(config)
        value.pop("torch_dtype", None)
        value["dtype"] = FLOATS[CODES[dtype]]
        write_json(config, value)


def pickled(folder: Path) -> bool:
    """Whether a model's weights are in pickled files (.bin) only."""
    return not list(folder.glob("*.safetensors"))


def add_sentencepiece(target: Path, base: str) -> None:
    """Put the base's tokenizer.model beside a tokenizer.json that was made from it.

    llama.cpp needs it for tokenizers of SentencePiece, and transformers 5 does not save it.
    """
    mine = target / "tokenizer.json"
    if (target / SENTENCEPIECE).is_file() or not mine.is_file():
        return
    pieces = read_json(mine)["model"]
    if not pieces.get("byte_fallback"):  # not of SentencePiece
        return
    folder = find_model(base, weights=False)
    theirs = folder / "tokenizer.json"
    if (folder / SENTENCEPIECE).is_file() and (
        not theirs.is_file() or read_json(theirs)["model"] == pieces
    ):
        shutil.copyfile(folder / SENTENCEPIECE, target / SENTENCEPIECE)


def base_of(adapter: Path) -> str:
    """The base model that adapter_config.json names.

    Raises:
        DataError: it names none.
    """
    name = read_json(adapter / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not name:
        raise DataError(f"{adapter / ADAPTER_CONFIG}: names no base model")
    return str(name)


def refuse_quantised(folder: Path) -> None:
    """Numbers packed by a quantiser cannot be cast, merged or subtracted.

    Raises:
        UsageError: the model's configuration names a quantiser.
    """
    named = read_json(folder / CONFIG).get("quantization_config")
    if named:
        method = named.get("quant_method", "a quantiser")
        raise UsageError(
            f"{folder}: its weights are packed by {method}", hint="name the unquantised model"
        )
