"""Whether a model is asked as it was trained: prompts of a chat against rows of a training.

Ids are compared, not texts: two texts that look alike can be other tokens. Which rows and examples
belong together is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from alpaca_cli.core.records import Example
from alpaca_cli.model.dialogue import Exchange
from alpaca_cli.model.loading import Student
from alpaca_cli.model.reading import common_prefix
from alpaca_cli.model.rows import Rows, encode_rows
from alpaca_cli.model.sampling import prompt_ids
from alpaca_cli.model.tokenizer import encode_responses, token_texts, turn_of

AROUND = 10  # tokens that are shown on each side of a difference
NO_BOUND = 1 << 30  # tokens: nothing is too long to be compared


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The first difference between what a chat would send and what training has.

    Attributes:
        number: place of the example in the data, from 1.
        what: `prompt`, `answer`, or `end` when the answer ends in a token that a chat does not
            stop at.
        position: of the first token that differs, from the row's start.
        chat, training: the tokens around it as texts, those from the position on last.
    """

    number: int
    what: str
    position: int
    chat: tuple[str, ...]
    training: tuple[str, ...]


def encoded(student: Student, examples: Sequence[Example]) -> Rows:
    """The rows that a training of this model would make of the examples, none cut."""
    return encode_rows(examples, student.tokenizer, student.template, NO_BOUND, "error").rows


def first_mismatch(
    student: Student, rows: Rows, examples: Sequence[Example], tick: Callable[[], None]
) -> Mismatch | None:
    """Compare each row with what a chat sends for its example; None when all are the same.

    The prompt is compared up to where the answer starts, then the answer with its end: as a chat
    shows it to the model as an earlier turn or, with a chat template, which may write earlier turns
    otherwise than the last, as it is encoded. An answer that training has cut is compared as far as
    it goes.

    Args:
        examples: all of the data; a row's number is its example's place, from 1.
        tick: called after each row.
    """
    ends = len(turn_of(student.tokenizer, student.template).end)
    for row in rows:
        example, trained = examples[row.number - 1], [int(id) for id in row.ids]
        prompt = prompt_ids(student, example.instruction, example.input)
        sent = prompt + _answer(student, example, prompt)
        if len(sent) > len(trained):  # cut in training, which keeps the end
            sent = sent[: len(trained) - ends] + sent[-ends:]
        what = "prompt" if prompt != trained[: row.prompt] else "answer"
        if sent != trained:
            at = common_prefix(sent, trained)
            return Mismatch(row.number, what, at, *_around(student, at, sent, trained))
        if trained[-1] not in student.eos_ids:
            at = len(trained) - 1
            stops = [*trained[:-1], student.eos_ids[0]]
            return Mismatch(row.number, "end", at, *_around(student, at, stops, trained))
        tick()
    return None


def _answer(student: Student, example: Example, prompt: Sequence[int]) -> list[int]:
    """The ids of an example's answer with its end."""
    if student.template.chat_template:
        return encode_responses(student.tokenizer, [example.output], student.template)[0]
    turn = Exchange(example.instruction, example.input, example.output)
    with_turn = prompt_ids(student, "", history=[turn])
    after = len(student.tokenizer(
        student.template.further_turn(""), add_special_tokens=False, split_special_tokens=True
    )["input_ids"])  # fmt: skip
    return with_turn[len(prompt) : len(with_turn) - after]


def _around(student: Student, at: int, *rows: Sequence[int]) -> Iterator[tuple[str, ...]]:
    """The tokens around a position of each row."""
    for ids in rows:
        near = ids[max(0, at - AROUND) : at + AROUND]
        yield tuple(token_texts(student.tokenizer, near))
