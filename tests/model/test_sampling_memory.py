"""What a model remembers from prompt to prompt: right for every kind of cache, and lean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from alpaca_cli.model.reading import Memory, common_prefix

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
WINDOW = 16


def llama() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SMALL))


def sliding() -> Any:
    return MistralForCausalLM(MistralConfig(**SMALL, sliding_window=WINDOW))


def mixed() -> Any:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**SMALL, sliding_window=WINDOW, layer_types=kinds)
    return Gemma3ForCausalLM(config)


def convolution() -> Any:
    kinds = ["conv", "full_attention", "conv"]
    return Lfm2ForCausalLM(Lfm2Config(**SMALL, layer_types=kinds))


def scores(model: Any, memory: Memory, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return memory.read(model, ids[memory.rewind(ids) :], torch.device("cpu"))


@pytest.mark.parametrize("make", [llama, sliding, mixed, convolution])
def test_remembering_changes_no_score(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    memory = Memory()
    generator = torch.Generator().manual_seed(1)
    ids: list[int] = []
    for turn in range(14):
        if turn % 3 == 2:  # another end than the one that was read: retry, undo, a stopped reply
            ids = ids[: len(ids) - 7 - turn]
        if turn == 9:  # another beginning: a system prompt was changed
            ids = [5, *ids]
        ids = ids + torch.randint(1, 97, (11,), generator=generator).tolist()
        found, expected = scores(model, memory, ids), scores(model, Memory(), ids)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
        for _ in range(3):  # an answer
            token = int(found.argmax())
            ids = [*ids, token]
            found, expected = scores(model, memory, ids), scores(model, Memory(), ids)
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_cache_is_cut_where_that_is_possible() -> None:
    ids = list(range(1, 41))
    kept = {}
    for make in (llama, sliding, convolution):
        model, memory = make().eval(), Memory()
        scores(model, memory, ids)
        went_on = memory.rewind([*ids, 50])
        scores(model, memory, ids)
        kept[make.__name__] = (went_on, memory.rewind(ids[:30]))
    assert kept == {"llama": (40, 29), "sliding": (40, 0), "convolution": (40, 0)}
    # As long as a window is not full, nothing has been let go.
    model, memory = sliding().eval(), Memory()
    scores(model, memory, ids[:10])
    assert memory.rewind(ids[:5]) == 4


def test_forgetting_and_other_beginnings() -> None:
    model, memory = llama().eval(), Memory()
    assert memory.rewind([1, 2]) == 0
    scores(model, memory, [1, 2, 3])
    assert memory.rewind([1, 2, 3]) == 2  # the last one is read again, for its scores
    assert memory.rewind([7, 2, 3]) == 0
    scores(model, memory, [1, 2, 3])
    memory.forget()
    assert memory.rewind([1, 2, 3]) == 0


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_a_common_prefix_is_the_longest(one: list[int], other: list[int]) -> None:
    length = common_prefix(one, other)
    assert one[:length] == other[:length]
    assert length == min(len(one), len(other)) or one[length] != other[length]
