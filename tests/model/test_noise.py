"""NEFTune's noise: the same for an example however it is computed, and for training only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers

from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.attention import choose_attention
from alpaca_cli.model.batches import collate
from alpaca_cli.model.forward import logits_at
from alpaca_cli.model.kernels import enable_checkpointing
from alpaca_cli.model.noise import Noise
from alpaca_cli.model.rows import Row

ALPHA, WIDTH = 5.0, 32
ROWS = [
    Row([5, 9, 3, 7, 11, 2, 1], 4, number=1),
    Row([8, 8, 6], 1, number=2),
    Row([12, 4, 2, 9, 1], 2, number=3),
]


def tiny(packing: bool = False) -> Any:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=WIDTH,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            initializer_range=0.3,
            bos_token_id=None,
        )
    )
    choose_attention(model, Train(packing=packing))
    return model.train()


def noisy(packed: Sequence[Sequence[Row]], step: int = 3, alpha: float = ALPHA) -> torch.Tensor:
    """(B, T, d): what the embedding puts out, less what it would without noise."""
    model = tiny()
    ids = collate(packed).input_ids
    plain = model.get_input_embeddings()(ids)
    noise = Noise(model, alpha)
    noise.set(packed, 7, step)
    found: torch.Tensor = model.get_input_embeddings()(ids) - plain
    return found.detach()


def test_packed_padded_and_separate_examples_get_the_same_noise() -> None:
    logits = []
    for batches in ([[ROWS]], [[[row] for row in ROWS]], [[[row]] for row in reversed(ROWS)]):
        found: dict[int, torch.Tensor] = {}
        model = tiny(packing=len(batches) == 1 and len(batches[0]) == 1)
        noise = Noise(model, ALPHA)
        for packed in batches:
            noise.set(packed, 7, 3)
            batch = collate(packed)
            at = batch.columns.tolist()
            out = logits_at(model, batch)
            for line, rows in zip(out, packed, strict=True):
                start = 0
                for row in rows:
                    places = range(start + row.prompt - 1, start + len(row.ids) - 1)
                    found[row.number] = line[[at.index(place) for place in places]]
                    start += len(row.ids)
        logits.append(torch.cat([found[number] for number in (1, 2, 3)]))
    plain = logits_at(tiny(packing=True), collate([ROWS]))[0]
    assert (logits[0] - plain).abs().max() > 0.1
    for other in logits[1:]:
        assert (logits[0] - other).abs().max() < 1e-5


def test_noise_is_uniform_within_the_bound_of_each_examples_length() -> None:
    long = Row(list(range(2, 62)) * 5, 1, number=9)
    found = noisy([[long]])[0]
    bound = ALPHA / (len(long.ids) * WIDTH) ** 0.5
    assert bound * 0.99 < found.abs().max() <= bound * 1.001
    assert found.mean().abs() < 0.03 * bound
    assert found.var() == pytest.approx(bound**2 / 3, rel=0.05)
    assert torch.allclose(noisy([[long]], alpha=2 * ALPHA)[0], 2 * found, atol=1e-6)


def test_padding_gets_none() -> None:
    found = noisy([[ROWS[0]], [ROWS[1]]])
    assert not found[1, 3:].any()
    assert (found[0].abs().amax(1) > 0).all()
    assert (found[1, :3].abs().amax(1) > 0).all()


def test_steps_seeds_and_examples_differ_and_repeat() -> None:
    one = noisy([[ROWS[0]]])
    assert torch.equal(one, noisy([[ROWS[0]]]))
    assert not torch.equal(one, noisy([[ROWS[0]]], step=4))
    other = Row(ROWS[0].ids, ROWS[0].prompt, number=4)
    assert not torch.equal(one, noisy([[other]]))


def test_evaluation_is_free_of_it_and_so_is_what_is_saved() -> None:
    plain, model = tiny(), tiny()
    noise = Noise(model, ALPHA)
    noise.set([ROWS], 7, 3)
    batch = collate([ROWS])
    assert torch.equal(logits_at(model.eval(), batch), logits_at(plain.eval(), batch))
    assert not torch.equal(logits_at(model.train(), batch), logits_at(plain.train(), batch))
    assert model.state_dict().keys() == plain.state_dict().keys()
    noise.remove()
    assert torch.equal(logits_at(model, batch), logits_at(plain, batch))


def test_random_numbers_of_others_are_left_alone() -> None:
    model = tiny(packing=True)
    noise = Noise(model, ALPHA)
    noise.set([ROWS], 7, 3)
    before = torch.get_rng_state()
    logits_at(model, collate([ROWS]))
    assert torch.equal(torch.get_rng_state(), before)


def test_it_works_with_recomputed_layers() -> None:
    gradients = []
    for checkpointed in (False, True):
        model = tiny(packing=True)
        noise = Noise(model, ALPHA)
        if checkpointed:
            enable_checkpointing(model)
        noise.set([ROWS], 7, 3)
        logits_at(model, collate([ROWS])).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
