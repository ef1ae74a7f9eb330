"""A tiny random LLaMA in the layout of a finished model, for tests that need a real one.

Two layers, 64 wide, a byte-level BPE trained here on a few lines: it loads in a second and
answers nonsense, deterministically.
"""

from __future__ import annotations

from pathlib import Path

from alpaca_cli.core.template import ALPACA

TEXTS = [
    "List three animals that live in the sea.",
    "The whale, the shark and the octopus live in the sea.",
    "Sort these numbers: 4 1 9. The sorted numbers are 1 4 9.",
    "Is a tomato a fruit? Yes, it is.",
]


def save_tiny_model(
    folder: Path, *, context: int = 512, endless: bool = False, tied: bool = False
) -> Path:
    """Write the model, its tokenizer and its template into `folder`; returns the folder.

    `endless`: greedy answers go on until the context or max_new_tokens ends them.
    """
    import torch
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM

    from alpaca_cli.model.tokenizer import train_tokenizer

    transformers.logging.disable_progress_bar()
    tokenizer = train_tokenizer(TEXTS, ALPACA, 320)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        # Untied and far from zero: answers that vary instead of repeating the last token.
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    folder.mkdir(parents=True, exist_ok=True)
    model = LlamaForCausalLM(config)
    if endless:
        # The logit of EOS is half that of another token, so it is never the highest.
        with torch.no_grad():
            model.lm_head.weight[tokenizer.eos_token_id] = model.lm_head.weight[10] / 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    ALPACA.save(folder)
    return folder
