"""Asking a loaded model: messages to its prompt, greedy answers in batches, sampled ones streamed.

The prompt is the one of training, token for token: the template stored with the model, turned
into ids by the functions that training uses (`alpaca_cli.model.tokenizer`). What a conversation
is, and where answers go, is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jinja2 import TemplateError
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from alpaca_cli.core.errors import DataError, ResourceError
from alpaca_cli.model.dialogue import Exchange, Sampling, joined
from alpaca_cli.model.loading import Student
from alpaca_cli.model.reading import Memory
from alpaca_cli.model.tokenizer import (
    Tokenizer,
    decode_response,
    encode_prompts,
    encode_responses,
)

FinishReason = Literal["stop", "length", "interrupted"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an answer as it appears. The last one has the finish reason.

    `tokens` counts the tokens of the answer so far, the EOS not among them.
    """

    text: str
    tokens: int
    finish_reason: FinishReason | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer; `index` is its place in the list that was asked."""

    index: int
    text: str
    finish_reason: Literal["stop", "length", "prompt_too_long"]
    prompt_tokens: int
    tokens: int


def prompt_ids(
    student: Student,
    instruction: str,
    input: str = "",
    *,
    history: Sequence[Exchange] = (),
    system: str = "",
) -> list[int]:
    """The ids of a prompt, up to where the answer starts.

    Without history and system these are the ids that training makes of the same example. The
    Alpaca template knows one exchange only and no system prompt: a system prompt goes before the
    first instruction with a blank line between, earlier exchanges stand as in training, EOS
    included, and each further message follows in the template's `turn` form, its input below it.

    Raises:
        DataError: the tokenizer's chat template refuses the messages.
    """
    if student.template.chat_template:
        return _chat_ids(student, instruction, input, history, system)
    asked = [(each.instruction, each.input) for each in history] + [(instruction, input)]
    if system:
        asked[0] = (f"{system}\n\n{asked[0][0]}", asked[0][1])
    [ids] = encode_prompts(student.tokenizer, student.template, asked[:1])
    if history:
        # All at once: a tokenizer call costs more than the few tokens of a turn.
        answers = encode_responses(student.tokenizer, [each.answer for each in history])
        turns = [student.template.further_turn(joined(*each)) for each in asked[1:]]
        encoded = student.tokenizer(turns, add_special_tokens=False, split_special_tokens=True)
        for answer, turn in zip(answers, encoded["input_ids"], strict=True):
            ids += answer + turn
    return ids


def exchange_sizes(student: Student, exchanges: Sequence[Exchange]) -> list[int]:
    """Tokens of each exchange's own text, without what the template writes around it."""
    if not exchanges:
        return []
    texts = [joined(each.instruction, each.input) for each in exchanges]
    texts += [each.answer for each in exchanges]
    encoded = student.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
    sizes = [len(ids) for ids in encoded["input_ids"]]
    return [asked + told for asked, told in zip(sizes, sizes[len(exchanges) :], strict=False)]


def stream(
    student: Student,
    ids: Sequence[int],
    sampling: Sampling,
    stop: Callable[[], bool] = lambda: False,
    memory: Memory | None = None,
) -> Iterator[Piece]:
    """The answer to a prompt, token by token; `stop` is asked before each one.

    Args:
        memory: what this model has read before; only what is new in `ids` is computed, and what
            is read now is remembered.

    Raises:
        DataError: the prompt leaves no room for an answer.
        ResourceError: the GPU's memory is full.
    """
    room = student.context - len(ids)
    if room < 1:
        raise DataError(
            f"the prompt has {len(ids):,} tokens; the model's context is {student.context:,}"
        )
    choose = _chooser(student, sampling)
    memory = memory or Memory()
    text, answer, ends = _TextStream(student.tokenizer), 0, frozenset(student.eos_ids)
    pending = list(ids[memory.rewind(ids) :])
    for _ in range(min(sampling.max_new_tokens, room)):
        if stop():
            yield Piece(text.rest(), answer, "interrupted")
            return
        with torch.inference_mode():
            token = choose(memory.read(student.model, pending, student.device))
        if token in ends:
            yield Piece(text.rest(), answer, "stop")
            return
        answer += 1
        yield Piece(text.add(token), answer)
        pending = [token]
    yield Piece(text.rest(), answer, "length")


def answers(
    student: Student,
    asked: Sequence[tuple[str, str]],
    *,
    max_new_tokens: int,
    batch: int,
    done: Collection[int] = (),
) -> Iterator[list[Answer]]:
    """Greedy answers to (instruction, input) pairs, batch by batch, longest prompts first.

    Batches depend on `asked` and `batch` alone: those whose answers are all `done` (indices) are
    left out, so that work that goes on is the work that was cut short.

    Raises:
        ResourceError: the GPU's memory is full.
    """
    prompts = [prompt_ids(student, instruction, input) for instruction, input in asked]
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        if not set(chosen) <= set(done):
            yield _answer_batch(
                student, {index: prompts[index] for index in chosen}, max_new_tokens
            )


def _answer_batch(
    student: Student, prompts: dict[int, list[int]], max_new_tokens: int
) -> list[Answer]:
    """One left-padded batch, index -> prompt ids."""
    fitting = {index: ids for index, ids in prompts.items() if len(ids) < student.context}
    found = [
        Answer(index, "", "prompt_too_long", len(ids), 0)
        for index, ids in prompts.items()
        if index not in fitting
    ]
    pad = student.model.generation_config.pad_token_id
    while fitting:
        width = max(map(len, fitting.values()))
        most = min(max_new_tokens, student.context - width)
        rows = [[pad] * (width - len(ids)) + ids for ids in fitting.values()]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in fitting.values()]
        try:
            with torch.inference_mode():
                output = student.model.generate(
                    input_ids=torch.tensor(rows, device=student.device),
                    attention_mask=torch.tensor(mask, device=student.device),
                    max_new_tokens=most,
                    do_sample=False,
                )
        except torch.OutOfMemoryError as error:
            raise ResourceError("the GPU's memory is full", hint="a smaller eval.batch") from error
        for index, row in zip(list(fitting), output[:, width:].tolist(), strict=True):
            ids = fitting[index]
            end = next((at for at, token in enumerate(row) if token in student.eos_ids), None)
            # The longest prompt leaves least room; what it alone cut short is asked without it.
            if end is None and most < min(max_new_tokens, student.context - len(ids)):
                continue
            text = decode_response(student.tokenizer, row[:end])
            reason: Literal["stop", "length"] = "length" if end is None else "stop"
            tokens = len(row) if end is None else end
            found.append(Answer(index, text, reason, len(ids), tokens))
            del fitting[index]
    return found


def _chooser(student: Student, sampling: Sampling) -> Callable[[torch.Tensor], int]:
    """How a token is chosen by its scores (1, vocabulary)."""
    warp = _warpers(sampling)
    if warp is None:
        return lambda scores: int(scores.argmax())
    generator = None
    if sampling.seed is not None:
        generator = torch.Generator(student.device).manual_seed(sampling.seed)
    # What was said before is an argument of every warper, and used by none of these.
    nothing = torch.empty((1, 0), dtype=torch.long, device=student.device)

    def draw(scores: torch.Tensor) -> int:
        chances = torch.softmax(warp(nothing, scores), dim=-1)
        return int(torch.multinomial(chances, 1, generator=generator))

    return draw


def _warpers(sampling: Sampling) -> LogitsProcessorList | None:
    """transformers' own logits warpers for these settings; None when greedy."""
    if sampling.temperature == 0:
        return None
    warp = LogitsProcessorList([TemperatureLogitsWarper(float(sampling.temperature))])
    if sampling.top_k:
        warp.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warp.append(TopPLogitsWarper(float(sampling.top_p)))
    return warp


class _TextStream:
    """Turns tokens into text that never ends inside a character.

    A token's text depends on its neighbours, so a window is decoded with and without the new
    token and the difference is shown (the method of text-generation-inference).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = self._shown = 0

    def add(self, token: int) -> str:
        """The text that became certain with this token; often empty within a character."""
        self._ids.append(token)
        before, now = self._decode(self._ids[self._start : self._shown]), self._window()
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def rest(self) -> str:
        """What is left at the end, a broken character included."""
        return self._window()[len(self._decode(self._ids[self._start : self._shown])) :]

    def _window(self) -> str:
        return self._decode(self._ids[self._start :])

    def _decode(self, ids: list[int]) -> str:
        return decode_response(self._tokenizer, ids)


def _chat_ids(
    student: Student, instruction: str, input: str, history: Sequence[Exchange], system: str
) -> list[int]:
    """The prompt in the tokenizer's own chat template, with what `encode_prompts` does not know."""
    if not history and not system:
        return encode_prompts(student.tokenizer, student.template, [(instruction, input)])[0]
    messages = [{"role": "system", "content": system}] if system else []
    for each in history:
        messages.append({"role": "user", "content": joined(each.instruction, each.input)})
        messages.append({"role": "assistant", "content": each.answer})
    messages.append({"role": "user", "content": joined(instruction, input)})
    try:
        ids: list[int] = student.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    except TemplateError as error:
        raise DataError(f"the model's chat template refuses these messages: {error}") from error
    return list(ids)
