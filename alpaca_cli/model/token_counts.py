"""Counting tokens with a stored tokenizer, and nothing else: no torch, no transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alpaca_cli.core.errors import DataError


def count_tokens(tokenizer: Path, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, without special tokens, by a `tokenizer.json`.

    Raises:
        DataError: the file is not a tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the library raises nothing narrower
        raise DataError(f"{tokenizer}: not a tokenizer: {error}") from error
    loaded.no_truncation()
    loaded.no_padding()
    return [len(found.ids) for found in loaded.encode_batch(texts, add_special_tokens=False)]
