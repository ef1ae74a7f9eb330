"""From text to token ids: loading a tokenizer, training one, and encoding prompt and response.

Prompt and response are encoded apart and joined as ids. Tokenised as one text they can merge
across the border, and then training and inference see different prompts (measured for BPE and
SentencePiece tokenizers on the Alpaca template, which ends in `### Response:`).

Labels, batches and lengths are not known here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.template import PromptTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS = "<pad>", "</s>"

# Any tokenizer of transformers; its base class is not exported with types.
Tokenizer = Any


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


def encode_responses(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Response ids, each ended by EOS."""
    encoded = tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)
    return [[*ids, tokenizer.eos_token_id] for ids in encoded["input_ids"]]


def decode_response(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of response ids: the inverse of `encode_responses`, EOS and padding left out."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
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


def make_usable(tokenizer: Tokenizer, model_eos: int | list[int] | None) -> list[str]:
    """See to it that a pretrained tokenizer has EOS and padding; says what was changed.

    Missing and empty ("", as in early LLaMA conversions) tokens are treated alike. Padding may
    be EOS: prompt and padding are masked by position, never by id.

    Args:
        model_eos: `eos_token_id` of the model's own configuration, used when the tokenizer has
            none.
    """
    notes = []
    if not tokenizer.eos_token or tokenizer.eos_token_id is None:
        first = model_eos[0] if isinstance(model_eos, list) and model_eos else model_eos
        if isinstance(first, int) and tokenizer.convert_ids_to_tokens(first):
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(first)
            notes.append(f"the tokenizer names no EOS: using the model's, {tokenizer.eos_token!r}")
        else:
            tokenizer.add_special_tokens({"eos_token": EOS})
            notes.append(f"no EOS in tokenizer or model: {EOS!r} added")
    if not tokenizer.pad_token or tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
        notes.append(f"the tokenizer has no padding token: using EOS, {tokenizer.eos_token!r}")
    return notes
