"""What a model in training answers, for people to read; every process of a training takes part."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method

from alpaca_cli.model import per_example
from alpaca_cli.model.forward import inner_model
from alpaca_cli.model.rows import Ids
from alpaca_cli.model.student import Trainee
from alpaca_cli.model.tokenizer import decode_response

LONGEST = 128  # tokens of an answer: enough to see what it is like


def greedy_answers(trainee: Trainee, prompts: Sequence[Ids], device: torch.device) -> list[str]:
    """Greedy answers to prompts given as ids, one after the other.

    Generation caches keys and values of one example, which attention for packed rows cannot:
    transformers' own takes its place meanwhile.
    """
    if not prompts:
        return []
    model, inner = trainee.model, inner_model(trainee.model)
    if isinstance(model, FSDPModule):
        # Weights are gathered before methods that are named here, and before `forward`.
        register_fsdp_forward_method(model, "generate")
    packed = inner.config._attn_implementation == per_example.NAME
    if packed:
        inner.set_attn_implementation("sdpa")
    answers = []
    try:
        for prompt in prompts:
            ids = torch.tensor([list(prompt)], device=device)
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=LONGEST,
                do_sample=False,
                eos_token_id=trainee.tokenizer.eos_token_id,
                pad_token_id=trainee.tokenizer.pad_token_id,
            )
            answers.append(decode_response(trainee.tokenizer, output[0, len(prompt) :].tolist()))
    finally:
        if packed:
            inner.set_attn_implementation(per_example.NAME)
    return answers
