"""Tokenizers such as come with pretrained models, trained here on a few lines, and folders of them.

A folder holds a tokenizer and a configuration, and no weights: nothing that makes tokens needs any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TEXTS = [
    "### Instruction:\nName a color.\n\n### Response:Blue is a color. The answer is blue.",
    "List three animals that live in the sea: the whale, the shark and the octopus.",
]
# Ends an assistant's turn with another token than the tokenizer's EOS, as Qwen's base models do.
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# A space on both sides of the answer, then EOS, as in LLaMA-2.
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
# No space before the answer, as in Zephyr.
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level(
    texts: Sequence[str] = TEXTS, *, size: int = 400, split: bool = True, **special: str
) -> Any:
    """Byte-level BPE without an implied space or BOS, as in GPT-2, Qwen and LLaMA-3.

    Args:
        split: False lets merges cross the borders of words.
        special: `eos_token="…"` and the like; EOS is `<|endoftext|>` when none is given.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    named = {"eos_token": "<|endoftext|>"} | special
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )


def llama_like(texts: Sequence[str] = TEXTS, **special: str) -> Any:
    """BPE with SentencePiece's implied space, byte fallback and BOS, as in LLaMA-2."""
    from tokenizers import (
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )
    from transformers import PreTrainedTokenizerFast

    named = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"} | special
    normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    learning = Tokenizer(models.BPE(unk_token="<unk>"))
    learning.normalizer = normalizer
    # No piece crosses a word's border, as SentencePiece learns them.
    learning.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    learning.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=200, show_progress=False, max_token_length=8)
    )
    learned = json.loads(learning.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece in learned["vocab"] if piece not in pieces]
    model = models.BPE(
        {piece: id for id, piece in enumerate(pieces)},
        [tuple(merge) for merge in learned["merges"]],
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = Tokenizer(model)
    backend.normalizer = normalizer
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, clean_up_tokenization_spaces=False, **named
    )


def save_folder(folder: Path, tokenizer: Any, **config: Any) -> Path:
    """A model folder without weights: LLaMA's configuration, and the tokenizer."""
    from transformers import LlamaConfig

    given = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": 0} | config
    LlamaConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, **given
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
