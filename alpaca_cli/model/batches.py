"""From examples to tensors: encoding, the order of steps, packing, collating.

The order is a pure function of (seed, examples, global batch, step): nothing has to be stored to
resume, and every rank knows what the others compute. A step's examples may be split over ranks
and micro-batches in any way; the loss is a sum over them all, so the split does not change it.

A packed row holds several examples one after the other; `position_ids` restart with each.

The model is not known here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.model.tokenizer import Tokenizer, encode_prompts, encode_responses

IGNORE = -100  # the label of positions that are not trained; torch's default ignore_index
Overlong = Literal["drop", "truncate_response", "error"]


@dataclass(frozen=True, slots=True)
class Row:
    """One example as ids: the prompt, then the response with its EOS."""

    ids: list[int]
    prompt: int
    """How many of `ids` are the prompt: given, not trained."""

    @property
    def trained(self) -> int:
        """Tokens the loss is taken over; never 0, for EOS is one of them."""
        return len(self.ids) - self.prompt


@dataclass(frozen=True, slots=True)
class Encoded:
    """Rows to train on, and what became of the examples too long for it."""

    rows: list[Row]
    dropped: int
    truncated: int


def encode_rows(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    template: PromptTemplate,
    max_length: int,
    overlong: Overlong,
) -> Encoded:
    """Encode examples, none longer than `max_length` tokens.

    `truncate_response` cuts the response, never the prompt, and keeps EOS; a prompt that leaves
    no room for one response token and EOS is dropped under it too.

    Raises:
        DataError: with `error`, the first example that is too long; or none is left.
    """
    pairs = [(example.instruction, example.input) for example in examples]
    prompts = encode_prompts(tokenizer, template, pairs)
    responses = encode_responses(tokenizer, [example.output for example in examples])
    rows: list[Row] = []
    truncated = 0
    for number, (prompt, response) in enumerate(zip(prompts, responses, strict=True), 1):
        length, room = len(prompt) + len(response), max_length - len(prompt)
        if length > max_length:
            if overlong == "error":
                raise DataError(
                    f"example {number}: {length:,} tokens, train.max_length is {max_length:,}",
                    hint="raise train.max_length, or set train.overlong to drop or "
                    "truncate_response",
                )
            if overlong == "drop" or room < 2:
                continue
            response = [*response[: room - 1], response[-1]]
            truncated += 1
        rows.append(Row(prompt + response, len(prompt)))
    if not rows:
        what = "there are no examples" if not examples else "no example fits train.max_length"
        raise DataError(f"nothing to train on: {what}", hint=f"train.max_length is {max_length:,}")
    return Encoded(rows, len(examples) - len(rows), truncated)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which examples each optimizer step is taken over.

    Epochs follow each other without a gap: a step may hold the end of one and the start of the
    next, and only the last step may be smaller than `global_batch`.
    """

    examples: int
    global_batch: int
    epochs: float
    seed: int

    @property
    def visits(self) -> int:
        """Examples seen in all, repeats included."""
        return max(1, round(self.examples * self.epochs))

    @property
    def steps(self) -> int:
        return math.ceil(self.visits / self.global_batch)

    def indices(self, step: int) -> list[int]:
        """The examples of step `step` (from 0), in seeded order, each epoch its own."""
        start = step * self.global_batch
        return [
            _permutation(self.examples, self.seed, visit // self.examples)[visit % self.examples]
            for visit in range(start, min(start + self.global_batch, self.visits))
        ]


@lru_cache(maxsize=2)
def _permutation(examples: int, seed: int, epoch: int) -> list[int]:
    order = list(range(examples))
    # A text seed is hashed by random itself: the same order in every process and version.
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def share(rows: Sequence[Row], rank: int, world: int) -> list[Row]:
    """The part of a step's rows that `rank` of `world` computes; parts are about equally long."""
    longest_first = sorted(rows, key=lambda row: -len(row.ids))
    # Dealt back and forth (0 1 2 2 1 0 …), so that no rank gets the longer of every round.
    turn = [*range(world), *reversed(range(world))]
    return [row for i, row in enumerate(longest_first) if turn[i % len(turn)] == rank]


def micro_batches(
    rows: Sequence[Row], micro_batch: int, max_length: int, packing: bool
) -> list[list[list[Row]]]:
    """Rows cut into micro-batches: lists of rows, each a list of the examples in it.

    Sorted by length, so that what is computed together is of about one length. Packed: one row
    without padding, of at most `micro_batch * max_length` tokens. Not packed: `micro_batch` rows
    of one example.
    """
    longest_first = sorted(rows, key=lambda row: -len(row.ids))
    if not packing:
        single = [[row] for row in longest_first]
        return [single[i : i + micro_batch] for i in range(0, len(single), micro_batch)]
    found: list[list[list[Row]]] = []
    free = 0
    for row in longest_first:
        if len(row.ids) > free:
            found.append([[]])
            free = micro_batch * max_length
        found[-1][0].append(row)
        free -= len(row.ids)
    return found


@dataclass(frozen=True, slots=True)
class Batch:
    """One micro-batch.

    Attributes:
        input_ids, position_ids: (B, T) int64, T the longest row in tokens. Right-padded; padding
            goes on counting, as the untrained end of the last example: a row of one example then
            needs no mask but the causal one, which is the fast path.
        columns: (C,) int64, the positions at which some row has a trained next token.
        labels: (B, C) int64, the next token at those positions, IGNORE where it is not trained.
        lengths: of the examples in the first row, in tokens.
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    columns: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.columns.to(device),
            self.labels.to(device),
            self.lengths,
        )


def collate(packed: Sequence[Sequence[Row]]) -> Batch:
    """Tensors of one micro-batch; see `Batch` for shapes.

    Only positions whose next token is trained are listed in `columns`: the output layer, the
    largest of a small model, is computed for no others.
    """
    width = max(sum(len(row.ids) for row in rows) for rows in packed)
    ids = [[token for row in rows for token in row.ids] for rows in packed]
    labels = [
        # Position i predicts token i + 1: each row's labels are its trained ids, one to the left.
        [
            label
            for row in rows
            for label in [IGNORE] * (row.prompt - 1) + row.ids[row.prompt :] + [IGNORE]
        ]
        for rows in packed
    ]
    positions = [
        # The last example's positions run on through the padding.
        [place for row in rows for place in range(len(row.ids))]
        + list(range(len(rows[-1].ids), len(rows[-1].ids) + width - len(line)))
        for rows, line in zip(packed, ids, strict=True)
    ]
    full_labels = torch.tensor(
        [line + [IGNORE] * (width - len(line)) for line in labels], dtype=torch.int64
    )
    columns = (full_labels != IGNORE).any(dim=0).nonzero().flatten()
    return Batch(
        # Which id pads does not matter: nothing looks at it, and it is not trained.
        torch.tensor([line + [0] * (width - len(line)) for line in ids]),
        torch.tensor(positions),
        columns,
        full_labels[:, columns],
        [len(row.ids) for row in packed[0]],
    )
