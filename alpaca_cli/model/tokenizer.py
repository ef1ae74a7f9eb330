"""From text to token ids: loading a tokenizer, training one, and encoding prompt and response.

Prompt and response are encoded apart and joined as ids. Tokenised as one text they can merge
across the border, and then training and inference see different prompts (measured for BPE and
SentencePiece tokenizers on the Alpaca template, which ends in `### Response:`).

A response ends as the model's own answers do. With the Alpaca template that is the tokenizer's
EOS; with a chat template it is what that template writes after an assistant's turn, which in
many models is another token than the tokenizer's EOS (Gemma, Phi-3, Qwen's base models).

Labels, batches and lengths are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.template import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"

# Any tokenizer of transformers; its base class is not exported with types.
Tokenizer = Any


@dataclass(frozen=True, slots=True)
class Turn:
    """What stands around an answer, between the prompt and the end of the assistant's turn.

    Attributes:
        lead: ids between prompt and answer: what a chat template writes there beyond its
            generation prompt, such as Qwen3's empty block of thoughts.
        space: white space at the start of the answer, encoded with it; LLaMA-2 has one space.
        end: ids after the answer; the last one is EOS.
    """

    lead: tuple[int, ...]
    space: str
    end: tuple[int, ...]


def turn_of(tokenizer: Tokenizer, template: PromptTemplate) -> Turn:
    """How an answer is written; see `Turn`. Without a chat template: the answer, then EOS.

    A chat template is asked by rendering a turn and looking what is around the answer. One that
    names no token after it (an end in plain text, or none) gets the tokenizer's EOS.
    """
    plain = Turn((), "", (tokenizer.eos_token_id,))
    if not template.chat_template:
        return plain
    from jinja2 import TemplateError

    answer = "\ue000"  # of Unicode's private use: in no template
    messages = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": answer}]
    try:
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        prompt = tokenizer.apply_chat_template(
            messages[:1], tokenize=False, add_generation_prompt=True
        )
    except TemplateError:  # it knows no assistant
        return plain
    before, found, after = whole.partition(answer)
    # The space at the start of a text that SentencePiece implies must not become one more.
    [tail] = _continue(tokenizer, [after], split_special_tokens=False)
    named = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    at = next((place for place, token in enumerate(tail) if token in named), None)
    if not found or at is None:
        return plain
    between = before.removeprefix(prompt) if before.startswith(prompt) else ""
    lead = between.rstrip(" ")
    [head] = _continue(tokenizer, [lead], split_special_tokens=False) if lead else [[]]
    return Turn(tuple(head), between[len(lead) :], tuple(tail[: at + 1]))


def encode_prompts(
    tokenizer: Tokenizer, template: PromptTemplate, pairs: Sequence[tuple[str, str]]
) -> list[list[int]]:
    """Prompt ids of each (instruction, input), up to where the response starts.

    The one place where prompts become ids: `train`, `eval` and `chat` all use it. Special tokens
    that occur inside the user's own text stay text, except with the tokenizer's chat template,
    which gives us no way to tell them apart.
    """
    if template.chat_template:
        return [
            _ids(
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": f"{instruction}\n\n{input}".rstrip()}],
                    add_generation_prompt=True,
                    return_dict=False,
                )
            )
            for instruction, input in pairs
        ]
    texts = [template.prompt(instruction, input) for instruction, input in pairs]
    eos = tokenizer.eos_token_id
    # Some tokenizers end every text with EOS: a prompt goes on, so there it is taken off again.
    return [
        ids[:-1] if len(ids) > 1 and ids[-1] == eos else ids
        for ids in tokenizer(texts, split_special_tokens=True)["input_ids"]
    ]


def encode_responses(
    tokenizer: Tokenizer, texts: Sequence[str], template: PromptTemplate | None = None
) -> list[list[int]]:
    """Response ids, each ended by EOS, or as the chat template of `template` ends a turn.

    With a chat template a response is what would stand there had the whole conversation been
    rendered: SentencePiece's implied space at the start of a text is left out. With the Alpaca
    template it stays, as in other trainers that encode prompt and response apart: the model's
    usual form of a word is the one with a space before it.
    """
    if template is None or not template.chat_template:
        encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
        return [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]
    turn = turn_of(tokenizer, template)
    bodies = _continue(tokenizer, [turn.space + text for text in texts], split_special_tokens=True)
    return [[*turn.lead, *ids, *turn.end] for ids in bodies]


def _continue(
    tokenizer: Tokenizer, texts: Sequence[str], *, split_special_tokens: bool
) -> list[list[int]]:
    """Ids of texts that stand after another text: without an implied space at their start."""

    def encode(texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = tokenizer(
            texts, add_special_tokens=False, split_special_tokens=split_special_tokens
        )["input_ids"]
        return found

    alone = encode(list(texts))
    # A new line keeps the implied space to itself, and merges with no letter that follows it.
    [first], [anchor] = encode(["a"]), encode(["\n"])
    if not tokenizer.convert_ids_to_tokens(first)[0].startswith(("▁", "Ġ")):
        return alone
    anchored = encode([f"\n{text}" for text in texts])
    return [
        ids[len(anchor) :] if ids[: len(anchor)] == anchor else plain
        for ids, plain in zip(anchored, alone, strict=True)
    ]


def decode_response(tokenizer: Tokenizer, ids: Iterable[int]) -> str:
    """The text of response ids: the inverse of `encode_responses`, EOS and padding left out."""
    text: str = tokenizer.decode(
        _ids(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return text


def _ids(encoded: Any) -> list[int]:
    return [int(i) for i in encoded]


def train_tokenizer(
    texts: Iterable[str], template: PromptTemplate, vocab_size: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocab_size` entries, made for a model without pretraining.

    What helps a tiny model, each measured on the quickstart:
    - the fixed parts of the template are one token each, so that the Alpaca prompt, byte for
      byte, costs three tokens instead of some forty;
    - every digit is a token of its own;
    - a text starts with an implied space, so that a word is the same token at the start of the
      response as in the middle of the instruction.

    Any text survives encoding and decoding exactly. Equal texts give an equal tokenizer.

    Raises:
        UsageError: the template is the tokenizer's own; a new tokenizer has none.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    if template.chat_template:
        raise UsageError(
            "train.template: a model trained from scratch has no chat template of its own",
            hint="use template: alpaca",
        )
    pieces = _fixed_pieces(template)
    backend = Backend(models.BPE())
    backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=max(vocab_size - len(pieces), 258),
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_tokens([AddedToken(piece, special=False, normalized=False) for piece in pieces])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1 << 30,
    )


def _fixed_pieces(template: PromptTemplate) -> list[str]:
    """The parts of a template between its placeholders, each once, in order."""
    pieces: dict[str, None] = {}
    for text in (template.with_input, template.without_input, template.turn):
        for part in text.replace("{input}", "{instruction}").split("{instruction}"):
            if part.strip():
                pieces[part] = None
    return list(pieces)


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> Tokenizer:
    """The tokenizer in a model folder.

    Raises:
        DataError: transformers cannot load it, or it comes with code that may not be run.
    """
    import transformers

    transformers.logging.set_verbosity_error()  # stderr belongs to our own progress
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise _cannot_load(folder, "tokenizer", error) from error


def load_config(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """The configuration in a model folder; errors as in `load_tokenizer`."""
    import transformers

    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise _cannot_load(folder, "configuration", error) from error


def _cannot_load(folder: Path, what: str, error: Exception) -> DataError:
    # transformers explains at length; the first line is the reason.
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    code = "trust_remote_code" in str(error)
    return DataError(
        f"train.model: {folder}: cannot load its {what}: {first}",
        hint="set train.trust_remote_code=true when you have read that code" if code else "",
    )


def special_ids(tokenizer: Tokenizer) -> set[int]:
    """Ids of the tokens that are no text: EOS, BOS, and those a model was given for its turns."""
    added = tokenizer.added_tokens_decoder
    return {*tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}


def token_texts(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """What each token adds to the text; special ones by name.

    A character split over several tokens comes with the last of them. Joined, the texts between
    two special tokens are what `decode` makes of the ids between them.
    """
    special = special_ids(tokenizer)
    found: list[str] = []
    for is_special, run in groupby(_ids(ids), key=special.__contains__):
        if is_special:
            found += [str(tokenizer.convert_ids_to_tokens(id)) for id in run]
        else:
            found += _run_texts(tokenizer, list(run))
    return found


def _run_texts(tokenizer: Tokenizer, run: list[int]) -> list[str]:
    """What each token of a run without special ones adds to its text."""
    found = []
    start = shown = 0
    for end in range(1, len(run) + 1):
        # A token's text depends on its neighbours: a window is decoded with and without it.
        before, now = _text(tokenizer, run[start:shown]), _text(tokenizer, run[start:end])
        whole = len(now) > len(before) and not now.endswith("\ufffd")
        # The last token shows what is left of a character that was cut off.
        found.append(now[len(before) :] if whole or end == len(run) else "")
        if whole:
            start, shown = shown, end
    return found


def _text(tokenizer: Tokenizer, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text
