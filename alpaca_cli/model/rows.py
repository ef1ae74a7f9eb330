"""Examples as token ids: how they are encoded, kept, stored, and mapped into memory.

A row is a prompt and a response, encoded apart and joined as ids. What is trained is told by
position, the response with its EOS, never by an id: padding may be EOS, too.

All rows share one flat array of ids, which may be a file mapped into memory: a worker holds the
pages that it touches, and several workers on a machine hold them once.

Which rows a step is taken over, and how they become tensors, is not known here.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.tokenizer import Tokenizer, encode_prompts, encode_responses, turn_of

Overlong = Literal["drop", "truncate_response", "error"]
Ids = Sequence[int] | NDArray[np.int32]

CHUNK = 2000  # examples that are Python lists of ids at one time
FILES = {"ids": np.int32, "offsets": np.int64, "prompts": np.int64, "numbers": np.int64}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One example as ids: the prompt, then the response with its EOS."""

    ids: Ids
    """(n,) int32, possibly mapped from a file."""

    prompt: int
    """How many of `ids` are the prompt: given, not trained."""

    number: int = 0
    """Place of the example in the data, from 1, for messages; 0: none."""

    @property
    def trained(self) -> int:
        """Tokens the loss is taken over: the response and its EOS."""
        return len(self.ids) - self.prompt


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Rows(Sequence[Row]):
    """N rows over one flat array of ids, which they share with whatever is taken from them.

    Attributes:
        ids: (T,) int32, of all rows and perhaps of others.
        starts: (N,) int64, where each row begins in `ids`.
        lengths: (N,) int64, in tokens.
        prompts: (N,) int64, how many of them are the prompt.
        numbers: (N,) int64, places of the examples in the data, from 1.
    """

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    prompts: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def trained(self) -> NDArray[np.int64]:
        """(N,) int64, tokens that the loss is taken over."""
        return self.lengths - self.prompts

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Rows:
        """The rows at `indices`, in that order; no ids are copied."""
        at = np.asarray(indices, dtype=np.int64)
        return Rows(self.ids, self.starts[at], self.lengths[at], self.prompts[at], self.numbers[at])

    def __len__(self) -> int:
        return len(self.starts)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        start = int(self.starts[index])
        ids = self.ids[start : start + int(self.lengths[index])]
        return Row(ids, int(self.prompts[index]), int(self.numbers[index]))


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows to train on, and what became of the examples too long for it."""

    rows: Rows
    dropped: int
    truncated: int
    empty: int = 0
    """Rows whose output is blank: nothing but their EOS is trained. They are kept, for a model
    can be taught to say nothing, but they are rarely meant."""


def encode_rows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    template: PromptTemplate,
    max_length: int,
    overlong: Overlong,
    numbers: Sequence[int] | None = None,
) -> Encoded:
    """Encode examples, none longer than `max_length` tokens.

    `truncate_response` cuts the response, never the prompt, and keeps EOS; a prompt that leaves
    no room for one response token and EOS is dropped under it too.

    Args:
        numbers: places of the examples in the data; 1, 2, … when not given.

    Raises:
        DataError: with `error`, the first example that is too long; an output that the tokenizer
            makes nothing of; or none is left.
    """
    turn = turn_of(tokenizer, template)
    around, end = len(turn.lead) + len(turn.end), len(turn.end)
    flat = array("i")
    lengths, prompts, kept = array("q"), array("q"), array("q")
    truncated = empty = 0
    places = range(1, len(examples) + 1) if numbers is None else numbers
    encoded = _encoded(examples, tokenizer, template)
    for number, example, (prompt, response) in zip(places, examples, encoded, strict=True):
        length, room = len(prompt) + len(response), max_length - len(prompt)
        if length > max_length:
            if overlong == "error":
                raise DataError(
                    f"example {number}: {length:,} tokens, train.max_length is {max_length:,}",
                    hint="raise train.max_length, or set train.overlong to drop or "
                    "truncate_response",
                )
            if overlong == "drop" or room <= around:
                continue
            response = [*response[: room - end], *response[-end:]]
            truncated += 1
        blank = not example.output.strip()
        if not prompt or (len(response) <= around and not blank):
            what = "output" if prompt else "prompt"
            raise DataError(
                f"example {number}: the tokenizer makes no token of its {what}",
                hint="take it out of the data",
            )
        empty += blank
        flat.extend(prompt)
        flat.extend(response)
        for column, value in (
            (lengths, len(prompt) + len(response)),
            (prompts, len(prompt)),
            (kept, number),
        ):
            column.append(value)
    if not kept:
        what = "there are no examples" if not examples else "no example fits train.max_length"
        raise DataError(f"nothing to train on: {what}", hint=f"train.max_length is {max_length:,}")
    sizes = np.array(lengths)
    rows = Rows(np.array(flat), np.cumsum(sizes) - sizes, sizes, np.array(prompts), np.array(kept))
    _check_ends(rows, turn.end[-1])
    return Encoded(rows, len(examples) - len(rows), truncated, empty)


def _encoded(
    examples: Sequence[Example], tokenizer: Tokenizer, template: PromptTemplate
) -> Iterator[tuple[list[int], list[int]]]:
    """Prompt ids and response ids of each example."""
    for start in range(0, len(examples), CHUNK):
        chunk = examples[start : start + CHUNK]
        pairs = [(example.instruction, example.input) for example in chunk]
        prompts = encode_prompts(tokenizer, template, pairs)
        responses = encode_responses(tokenizer, [example.output for example in chunk], template)
        yield from zip(prompts, responses, strict=True)


def _check_ends(rows: Rows, eos: int) -> None:
    """Every row ends in EOS and has it among the trained tokens: a model that is not taught to
    stop does not stop, and nothing else in a training shows it.

    Raises:
        DataError: one does not; names it.
    """
    wrong = (rows.ids[rows.starts + rows.lengths - 1] != eos) | (rows.trained < 1)
    if wrong.any():
        number = int(rows.numbers[int(wrong.argmax())])
        raise DataError(f"example {number}: its response was encoded without EOS at its end")


def save_rows(rows: Rows, folder: Path) -> None:
    """Write rows as `.npy` files (numpy's format) into an existing folder, one after the other."""
    lengths = rows.lengths
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    whole = len(rows.ids) == offsets[-1] and np.array_equal(rows.starts, offsets[:-1])
    ids = rows.ids if whole else np.concatenate([np.asarray(row.ids) for row in rows])
    arrays = {"ids": ids, "offsets": offsets, "prompts": rows.prompts, "numbers": rows.numbers}
    for name, kind in FILES.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, arrays[name].astype(kind, copy=False), allow_pickle=False)


def load_rows(folder: Path) -> Rows:
    """Rows that `save_rows` wrote; the ids stay in their file, mapped into memory.

    Raises:
        DataError: a file is missing, torn, or does not fit the others.
    """
    found = {name: _mapped(folder / f"{name}.npy", kind) for name, kind in FILES.items()}
    offsets = np.array(found["offsets"])
    prompts, numbers = np.array(found["prompts"]), np.array(found["numbers"])
    lengths = np.diff(offsets)
    fits = (
        len(lengths) == len(prompts) == len(numbers) > 0
        and offsets[0] == 0
        and offsets[-1] == len(found["ids"])
        and bool((prompts >= 1).all() and (prompts < lengths).all())
    )
    if not fits:
        raise DataError(f"{folder}: its files do not fit each other")
    return Rows(found["ids"], offsets[:-1], lengths, prompts, numbers)


def _mapped(path: Path, kind: Any) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: not an array of ids: {error}") from error
    if array.dtype != kind or array.ndim != 1:
        raise DataError(f"{path}: not an array of ids: {array.dtype}, {array.ndim} dimensions")
    return array
