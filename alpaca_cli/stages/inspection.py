"""What a training would be given, token by token (`train --inspect`).

The rows are those that `train` makes: the same function encodes them. No weights are loaded and
nothing is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.reviews import excluded
from alpaca_cli.stages.training_data import data_warnings, source

if TYPE_CHECKING:
    from alpaca_cli.model.rows import Row
    from alpaca_cli.model.tokens import Tokens

Kind = Literal["prompt", "trained", "special prompt", "special trained"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a row.

    Attributes:
        text: what it adds to the text; a special token's name. Joined, special ones apart, the
            texts of a prompt are the template filled in, and those of a response the output.
        kind: whether the loss is taken over it, and whether it is text or a special token.
    """

    id: int
    text: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class InspectedRow:
    """One row.

    Attributes:
        number: place of the example in the data, from 1.
        total, prompt, trained: counts of tokens; prompt + trained = total.
        whole: tokens before the response was truncated; `total` where it was not.
    """

    number: int
    total: int
    prompt: int
    trained: int
    whole: int
    tokens: list[Token]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Rows as they are trained on, and figures of all rows.

    Attributes:
        kept, dropped, truncated: examples; dropped and truncated ones exceed `max_length`.
        excluded: examples left out because a person marked them bad (`train.exclude`).
        empty: kept examples with a blank output: their end is all that is trained.
        tokens, trained_tokens: of all kept rows; `trained_share` is their ratio.
        notes: what was changed in the tokenizer, or may surprise.
    """

    source: str
    max_length: int
    eos: str
    kept: int
    dropped: int
    truncated: int
    excluded: int
    empty: int
    longest: int
    tokens: int
    trained_tokens: int
    trained_share: float
    rows: list[InspectedRow]
    notes: list[str]


def inspect_rows(recipe: Recipe, run: RunFolder, data: str | None, count: int) -> Inspection:
    """The first `count` rows, the longest one, and a truncated one when there is any.

    Args:
        data: a file or `hub:` data set; the run's own examples when None.

    Raises:
        DataError, UsageError: as `alpaca train` would before it loads the model's weights.
    """
    from alpaca_cli.model.tokens import prepare_tokens

    named = source(run, data)
    examples = read_examples([named])
    left_out = excluded(recipe.train.exclude)
    tokens = prepare_tokens(recipe.train, "", lambda: examples, None, left_out)
    rows = tokens.encoded.rows
    chosen = [*range(min(count, len(rows))), int(rows.lengths.argmax())]
    if tokens.encoded.truncated:
        full = (rows.lengths == recipe.train.max_length).nonzero()[0].tolist()
        chosen.append(
            next(at for at in full if _whole(rows[at], tokens, examples) > rows.lengths[at])
        )
    total, trained = int(rows.lengths.sum()), int(rows.trained.sum())
    return Inspection(
        source=named,
        max_length=recipe.train.max_length,
        eos=tokens.tokenizer.eos_token,
        kept=len(rows),
        dropped=tokens.encoded.dropped,
        truncated=tokens.encoded.truncated,
        excluded=tokens.excluded,
        empty=tokens.encoded.empty,
        longest=int(rows.lengths.max()),
        tokens=total,
        trained_tokens=trained,
        trained_share=trained / total,
        rows=[_inspected(rows[index], tokens, examples) for index in dict.fromkeys(chosen)],
        notes=[*tokens.notes, *data_warnings(recipe.train, named)],
    )


def _whole(row: Row, tokens: Tokens, examples: Sequence[Example]) -> int:
    """How many tokens the row would have if none were too many."""
    from alpaca_cli.model.rows import encode_rows

    example = examples[row.number - 1]
    encoded = encode_rows([example], tokens.tokenizer, tokens.template, 1 << 30, "error")
    return len(encoded.rows[0].ids)


def _inspected(row: Row, tokens: Tokens, examples: Sequence[Example]) -> InspectedRow:
    """Prompt and response are decoded apart, as they were encoded."""
    from alpaca_cli.model.tokenizer import special_ids, token_texts

    tokenizer, found = tokens.tokenizer, list[Token]()
    special = special_ids(tokenizer)
    plain: Kind
    named: Kind
    for plain, named, part in (
        ("prompt", "special prompt", row.ids[: row.prompt]),
        ("trained", "special trained", row.ids[row.prompt :]),
    ):
        ids = [int(id) for id in part]
        for id, text in zip(ids, token_texts(tokenizer, ids), strict=True):
            found.append(Token(id, text, named if id in special else plain))
    whole = _whole(row, tokens, examples)
    return InspectedRow(row.number, len(row.ids), row.prompt, row.trained, whole, found)
