"""Special tokens of a pretrained model: mended where they are missing, checked against the model.

Tokenizer and configuration of a model each name EOS, BOS and padding, and often not the same.
What would spoil a training is mended or refused here; what is merely different is said.

How text becomes ids is `alpaca_cli.model.tokenizer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.rows import Ids, Rows
from alpaca_cli.model.tokenizer import EOS, Tokenizer, turn_of


def make_usable(tokenizer: Tokenizer, config: Any, stops: Sequence[int]) -> list[str]:
    """See to it that a pretrained tokenizer has EOS and padding; says what was changed.

    Missing and empty ("", as in early LLaMA conversions) tokens are treated alike, and so is one
    that the vocabulary does not have. Padding may be EOS: prompt and padding are masked by
    position, never by id.

    Args:
        config: the model's own; its tokens are used where the tokenizer names none.
        stops: ids that end an answer by the model's own account, the likeliest first.
    """
    notes = []
    # The unknown one first: transformers 5 looks for an empty one until its stack is full.
    for kind in ("unk", "bos"):
        if getattr(tokenizer, f"{kind}_token") == "":
            own = token_of(tokenizer, getattr(config, f"{kind}_token_id", None))
            setattr(tokenizer, f"{kind}_token", own)
    if not tokenizer.eos_token or tokenizer.eos_token_id in (None, _unknown(tokenizer)):
        if own := next(filter(None, (token_of(tokenizer, id) for id in stops)), None):
            tokenizer.eos_token = own
            notes.append(f"the tokenizer names no EOS: using the model's, {own!r}")
        else:
            tokenizer.add_special_tokens({"eos_token": EOS})
            notes.append(f"no EOS in tokenizer or model: {EOS!r} added")
    if not tokenizer.pad_token or tokenizer.pad_token_id in (None, _unknown(tokenizer)):
        if own := token_of(tokenizer, getattr(config, "pad_token_id", None)):
            tokenizer.pad_token = own
            notes.append(f"the tokenizer has no padding token: using the model's, {own!r}")
        else:
            tokenizer.pad_token = tokenizer.eos_token
            notes.append(f"the tokenizer has no padding token: using EOS, {tokenizer.eos_token!r}")
    return notes


def _unknown(tokenizer: Tokenizer) -> int | None:
    """The id that transformers gives to a token the vocabulary lacks, unless it is EOS by name."""
    unknown: int | None = tokenizer.unk_token_id
    return None if tokenizer.unk_token in (tokenizer.eos_token, tokenizer.pad_token) else unknown


def token_of(tokenizer: Tokenizer, id: object) -> str | None:
    """The token of an id; None when the tokenizer has none (LLaMA's first configs say -1)."""
    if not isinstance(id, int) or id < 0:
        return None
    found: str | None = tokenizer.convert_ids_to_tokens(id)
    return found


def end_as_the_template_does(tokenizer: Tokenizer, template: PromptTemplate) -> list[str]:
    """Make the token that ends an assistant's turn in the chat template the tokenizer's EOS.

    So that whatever loads the saved model stops where it was taught to. Says what was changed.
    """
    end = turn_of(tokenizer, template).end[-1]
    if end == tokenizer.eos_token_id:
        return []
    before, tokenizer.eos_token = tokenizer.eos_token, tokenizer.convert_ids_to_tokens(end)
    return [
        f"answers end in {tokenizer.eos_token!r}, as in the model's chat template, "
        f"not in the tokenizer's EOS, {before!r}"
    ]


def compare_special_tokens(
    tokenizer: Tokenizer, config: Any, stops: Sequence[int], row: Ids
) -> list[str]:
    """In what the tokenizer's special tokens differ from the model's own, one line each.

    None of it spoils a training, but each has puzzled people when they asked the model. Padding
    is not compared: what it is makes no difference.

    Args:
        stops: ids that end an answer, by the model's configuration and generation settings.
        row: the ids of some example.
    """
    notes = []
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if stops and eos not in stops:
        named = ", ".join(f"{token_of(tokenizer, id)!r} ({id})" for id in stops)
        notes.append(
            f"answers end in {tokenizer.eos_token!r} ({eos}), the tokenizer's EOS; the model's "
            f"own configuration names {named}"
        )
    for kind in ("bos", "unk"):
        ours, own = (
            getattr(tokenizer, f"{kind}_token_id"),
            getattr(config, f"{kind}_token_id", None),
        )
        if ours is not None and own is not None and ours != own:
            notes.append(
                f"{kind.upper()} is {token_of(tokenizer, ours)!r} ({ours}) in the tokenizer, "
                f"{token_of(tokenizer, own)!r} ({own}) in the model's configuration"
            )
    start = [int(id) for id in row[:2]]
    # GPT-2 and others have one token for both ends, and put none at the start.
    named_by_both = bos is not None and bos == getattr(config, "bos_token_id", None)
    if named_by_both and bos != eos and start[0] != bos:
        notes.append(
            f"prompts start without BOS, {tokenizer.bos_token!r}: this tokenizer adds none, here "
            "or when the model is asked"
        )
    if bos is not None and start == [bos, bos]:
        notes.append(f"prompts start with BOS, {tokenizer.bos_token!r}, twice")
    return notes


def check_vocabulary(rows: Rows, size: int) -> None:
    """Every id has a row in the embedding, which may grow to as many as the tokenizer counts.

    Raises:
        DataError: one has none; names the example. On a GPU it would be a device-side assert.
    """
    at = int(rows.ids.argmax())
    if rows.ids[at] >= size:
        number = rows.numbers[int(np.searchsorted(rows.starts, at, side="right")) - 1]
        raise DataError(
            f"example {number}: the tokenizer makes token {rows.ids[at]:,} of it, and there are "
            f"{size:,}",
            hint="tokenizer and model do not belong together, or the tokenizer's files are damaged",
        )


def check_eos(rows: Rows, tokenizer: Tokenizer) -> list[str]:
    """EOS stands at the end of responses, not inside them.

    Some tokenizers read it from the text ("</s>" in a lesson about tokenizers): that is said. One
    that reads it from most texts has an ordinary token for EOS, and every answer would end there.

    Raises:
        DataError: EOS is inside more than half of the responses.
    """
    found = np.flatnonzero(rows.ids == tokenizer.eos_token_id)
    row = np.searchsorted(rows.starts, found, side="right") - 1
    place = found - rows.starts[row]
    inside = np.unique(row[(place >= rows.prompts[row]) & (place < rows.lengths[row] - 1)])
    if not len(inside):
        return []
    first = int(rows.numbers[inside[0]])
    said = f"EOS, {tokenizer.eos_token!r}, stands inside {len(inside):,} of {len(rows):,} responses"
    if len(inside) > len(rows) / 2:
        raise DataError(
            f"train.model: {said}: it is ordinary text in this tokenizer, and every answer would "
            "end at the first one",
            hint="name the model's own end token as eos_token in its tokenizer_config.json",
        )
    return [f"{said}, first in example {first:,}: the tokenizer reads it from the text"]
