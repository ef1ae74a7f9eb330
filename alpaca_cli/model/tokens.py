"""The data as token ids, made once and stored under a hash of everything that determines them.

    tokens/<key>/
        tokenizer/    the tokenizer as it will be saved with the model
        *.npy         the rows (`alpaca_cli.model.rows`)
        about.json    counts, notes, and the size of every file: written last

The process that launches a training makes the folder; its workers find it and map the rows into
memory. A folder is written under a hidden name, synced and renamed, and one that is not whole is
made anew. Several processes may make the same one at once: the first to finish wins, and the
others take what it made.

Where examples come from is not known here; they are asked for only when they are needed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import digest as file_digest
from alpaca_cli.core.files import disk_error, read_json, sync_folder
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import ScratchModel, Train
from alpaca_cli.core.template import PromptTemplate, load_template
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.model.rows import Encoded, encode_rows, load_rows, save_rows
from alpaca_cli.model.special_tokens import (
    check_eos,
    check_vocabulary,
    compare_special_tokens,
    end_as_the_template_does,
    make_usable,
)
from alpaca_cli.model.tokenizer import (
    Tokenizer,
    encode_prompts,
    encode_responses,
    load_config,
    load_tokenizer,
    train_tokenizer,
)

FORMAT = 2  # of the folder and of how rows are made; a change makes every old folder unknown
ABOUT = "about.json"
# What transformers reads a tokenizer from; the code of a model that brings its own is part of it.
TOKENIZER_FILES = (
    "tokenizer*", "tokenization*.py", "special_tokens_map.json", "added_tokens.json", "vocab*",
    "merges.txt", "*.model", "*.tiktoken", "*.jinja", "additional_chat_templates/*",
)  # fmt: skip
CONFIG_KEYS = ("model_type", "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
PROBED = 64  # examples that a stored tokenizer has to encode as the one it was stored from


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenizer and what it made of the data.

    Attributes:
        notes: what the person should know, one line each.
        excluded: examples that were left out because a person excluded them.
        cached: found in the folder, not made.
    """

    tokenizer: Tokenizer
    template: PromptTemplate
    encoded: Encoded
    notes: tuple[str, ...]
    excluded: int
    cached: bool


@dataclass(frozen=True, slots=True)
class _Pretrained:
    """The small files of a pretrained model, and what its configuration says of tokens."""

    folder: Path
    config: Any
    stops: tuple[int, ...]
    """Ids that end an answer, by config.json and generation_config.json."""


def texts(examples: Sequence[Example]) -> list[str]:
    """What the tokenizer of a model from scratch is trained on."""
    return [
        text for each in examples for text in (each.instruction, each.input, each.output) if text
    ]


def prepare_tokens(
    settings: Train,
    digest: str,
    examples: Callable[[], Sequence[Example]],
    folder: Path | None,
    excluded: frozenset[str] = frozenset(),
) -> Tokens:
    """The tokenizer and the encoded examples of a recipe, stored ones when there are any.

    Args:
        digest: tells the data's content; equal digests mean equal examples.
        examples: reads them; not called when the folder has what it would be needed for.
        folder: where tokens are stored; None stores nothing.
        excluded: `Example.review_key` of examples that are left out; the others keep their numbers.

    Raises:
        DataError: the model's files cannot be read; no example fits; a token has no embedding, or
            EOS is ordinary text in this tokenizer.
        UsageError: the recipe's template cannot be used with this model.
        ResourceError: the disk is full.
    """
    template = load_template(settings.template)
    source = None if isinstance(settings.model, ScratchModel) else _pretrained(settings)
    if folder is None:
        return _make(settings, template, source, examples(), excluded)
    if not digest:
        raise ValueError("stored tokens are found by the digest of their data")
    target = folder / _key(settings, digest, template, source, excluded)
    load = partial(_load, target, template, settings)
    if (found := load()) is not None:
        return found
    read = examples()
    _store(target, _make(settings, template, source, read, excluded), read[:PROBED], load)
    if (stored := load()) is None:
        raise DataError(f"{target}: cannot be read after it was written")
    return replace(stored, cached=False)


def _pretrained(settings: Train) -> _Pretrained:
    """Find a pretrained model's small files; the weights stay where they are."""
    trust = settings.trust_remote_code
    folder = find_model(str(settings.model), weights=False, code=trust)
    if (folder / ADAPTER_CONFIG).is_file():
        raise DataError(
            f"train.model: {folder} holds an adapter, not a whole model",
            hint="merge it into its base model first (peft: merge_and_unload)",
        )
    outer = load_config(folder, trust_remote_code=trust)
    config, generation = outer.get_text_config(), folder / "generation_config.json"
    named = [getattr(outer, "eos_token_id", None), getattr(config, "eos_token_id", None)]
    if generation.is_file():
        named.append(read_json(generation).get("eos_token_id"))
    stops = [id for each in named for id in (each if isinstance(each, list) else [each])]
    return _Pretrained(folder, config, tuple(dict.fromkeys(id for id in stops if id is not None)))


def _key(
    settings: Train,
    digest: str,
    template: PromptTemplate,
    source: _Pretrained | None,
    excluded: frozenset[str],
) -> str:
    """Names the folder: a hash of all that the tokenizer and the rows are a function of."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "data": digest,
        "excluded": sorted(excluded),
        "max_length": settings.max_length,
        "overlong": settings.overlong,
        "template": asdict(template),
        "versions": [version(name) for name in ("tokenizers", "transformers")],
    }
    if isinstance(settings.model, ScratchModel):
        content["vocab_size"] = settings.model.config.vocab_size
    if source is not None:
        files = {path for name in TOKENIZER_FILES for path in source.folder.glob(name)}
        content["files"] = {
            str(path.relative_to(source.folder)): file_digest(path)
            for path in sorted(files)
            if path.is_file()
        }
        content["config"] = {name: getattr(source.config, name, None) for name in CONFIG_KEYS}
        content["stops"] = source.stops
        content["trust_remote_code"] = settings.trust_remote_code
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _make(
    settings: Train,
    template: PromptTemplate,
    source: _Pretrained | None,
    examples: Sequence[Example],
    excluded: frozenset[str],
) -> Tokens:
    notes: list[str] = []
    numbered = [
        (number, example)
        for number, example in enumerate(examples, 1)
        if not excluded or example.review_key() not in excluded
    ]
    left_out = len(examples) - len(numbered)
    if left_out and not numbered:
        raise DataError("nothing to train on: train.exclude leaves out every example")
    numbers, examples = [number for number, _ in numbered], [example for _, example in numbered]
    if source is None:
        assert isinstance(settings.model, ScratchModel)
        tokenizer: Tokenizer = train_tokenizer(
            texts(examples), template, settings.model.config.vocab_size
        )
    else:
        tokenizer = load_tokenizer(source.folder, trust_remote_code=settings.trust_remote_code)
        if template.chat_template and not tokenizer.chat_template:
            raise UsageError(
                f"train.template: {settings.model} has no chat template",
                hint="use template: alpaca",
            )
        notes += make_usable(tokenizer, source.config, source.stops)
        notes += end_as_the_template_does(tokenizer, template)
    encoded = encode_rows(
        examples, tokenizer, template, settings.max_length, settings.overlong, numbers
    )
    rows = encoded.rows
    if source is not None:
        notes += compare_special_tokens(tokenizer, source.config, source.stops, rows[0].ids)
        check_vocabulary(rows, max(getattr(source.config, "vocab_size", 0), len(tokenizer)))
    notes += check_eos(rows, tokenizer)
    if encoded.empty:
        notes.append(
            f"{encoded.empty:,} of {len(rows):,} examples have a blank output: on them the model "
            "learns to end at once"
        )
    return Tokens(tokenizer, template, encoded, tuple(notes), left_out, cached=False)


def _load(target: Path, template: PromptTemplate, settings: Train) -> Tokens | None:
    """What is stored in a folder; None when it is not there or not whole."""
    try:
        about = read_json(target / ABOUT)
        for name, size in about["files"].items():
            if (target / name).stat().st_size != size:
                return None
        rows = load_rows(target)
        tokenizer = load_tokenizer(
            target / "tokenizer", trust_remote_code=settings.trust_remote_code
        )
        encoded = Encoded(rows, about["dropped"], about["truncated"], about["empty"])
        return Tokens(
            tokenizer, template, encoded, tuple(about["notes"]), about["excluded"], cached=True
        )
    except (DataError, OSError, KeyError, TypeError, AttributeError):
        return None


def _store(
    target: Path, made: Tokens, probes: Sequence[Example], load: Callable[[], Tokens | None]
) -> None:
    """Write the folder aside and rename it, unless another process was quicker.

    Args:
        probes: examples that the stored tokenizer must encode as the one in memory does.
        load: reads the folder in place; None when it is not whole.

    Raises:
        DataError: the tokenizer is another one after it was saved and loaded.
        UsageError: the place cannot be written.
        ResourceError: the disk is full.
    """
    unique = f"{platform.node()}-{os.getpid()}"
    temporary = target.with_name(f".{target.name}.{unique}.tmp")
    damaged = target.with_name(f".{target.name}.{unique}.old.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target.parent)
        _write(temporary, made)
        _check_stored(temporary, made, probes)
        while not _renamed(temporary, target) and load() is None:
            with suppress(FileNotFoundError):  # another process is mending it, too
                target.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _renamed(folder: Path, target: Path) -> bool:
    """Rename a folder; False when there is one with something in it at the target."""
    try:
        folder.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        raise
    sync_folder(target.parent)
    return True


def _write(folder: Path, made: Tokens) -> None:
    """Write a folder's files, `about.json` last, and see to it that they are on the disk."""
    folder.mkdir()
    save_rows(made.encoded.rows, folder)
    try:
        made.tokenizer.save_pretrained(folder / "tokenizer")
    except Exception as error:  # tokenizers raises nothing narrower
        if "os error 28" not in str(error):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
    sizes = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    about = {
        "rows": len(made.encoded.rows),
        "dropped": made.encoded.dropped,
        "truncated": made.encoded.truncated,
        "empty": made.encoded.empty,
        "excluded": made.excluded,
        "notes": made.notes,
        "files": sizes,
    }
    (folder / ABOUT).write_text(json.dumps(about, ensure_ascii=False, indent=2) + "\n", "utf-8")
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            sync_folder(path)
        else:
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes of this machine that were killed have left half written."""
    for leftover in folder.glob(f".*.{platform.node()}-*.tmp"):
        process = leftover.name.removesuffix(".tmp").removesuffix(".old").rpartition("-")[2]
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            shutil.rmtree(leftover, ignore_errors=True)
        except PermissionError:
            continue  # another user's, and alive


def _check_stored(folder: Path, made: Tokens, probes: Sequence[Example]) -> None:
    """The tokenizer that was stored, and will be saved with the model, encodes as it did.

    Raises:
        DataError: it does not; the model would be asked with other ids than it was trained on.
    """
    trust = made.tokenizer.__class__.__module__.startswith("transformers_modules")
    stored = load_tokenizer(folder / "tokenizer", trust_remote_code=trust)
    pairs = [(each.instruction, each.input) for each in probes]
    outputs = [each.output for each in probes]
    before, after = (
        (encode_prompts(each, made.template, pairs), encode_responses(each, outputs, made.template))
        for each in (made.tokenizer, stored)
    )
    if before != after:
        raise DataError(
            "train.model: its tokenizer encodes otherwise after it was saved and loaded",
            hint="save it once with this version of transformers, and name that folder",
        )
