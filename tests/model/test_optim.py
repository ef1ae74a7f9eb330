"""Optimizers: what each gets, in which order, and what 8-bit states keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.optim import (
    blank_state,
    equal_states,
    learning_rate_factor,
    make_optimizers,
    set_learning_rate,
)

SETTINGS = Train(learning_rate=1e-2, weight_decay=0.1)
# torch's compiler imports a module of torch that uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
EIGHT_BITS = SETTINGS.model_copy(update={"optimizer": "adamw_8bit"})


def tiny(**more: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            bos_token_id=None,
            **more,
        )
    )


@pytest.fixture
def one_process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def held(model: Any, optimizer: Any) -> list[list[str]]:
    """The names of the parameters in each group, in order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def test_the_learning_rate_rises_and_falls() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(100)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[9] == factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert 0 < factors[99] < 0.001
    assert [learning_rate_factor(step, 3, 0.0) for step in range(3)] == pytest.approx(
        [1, 0.75, 0.25]
    )


def test_muon_gets_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = tiny(tie_word_embeddings=False)
    muon, adamw = make_optimizers(model, SETTINGS.model_copy(update={"optimizer": "muon"}))
    every = [name for name, _ in model.named_parameters()]
    [hidden] = held(model, muon)
    rest = [name for group in held(model, adamw) for name in group]
    assert hidden == [name for name in every if name.endswith("proj.weight")]
    assert sorted(hidden + rest) == sorted(every)
    assert "lm_head.weight" in rest


def test_norms_are_not_decayed_and_the_order_is_the_models() -> None:
    model = tiny()
    [adamw] = make_optimizers(model, SETTINGS)
    matrices, vectors = held(model, adamw)
    assert [group["weight_decay"] for group in adamw.param_groups] == [0.1, 0.0]
    names = [name for name, _ in model.named_parameters()]
    assert vectors == [name for name in names if "norm" in name]
    assert matrices == [name for name in names if "norm" not in name]


@pytest.mark.usefixtures("one_process_group")
def test_a_split_model_gets_the_same_groups_and_steps() -> None:
    updated = []
    for split in (False, True):
        model = tiny(tie_word_embeddings=False)
        if split:
            for layer in model.model.layers:
                fully_shard(layer)
            fully_shard(model)
        optimizers = make_optimizers(model, SETTINGS)
        groups = [held(model, optimizer) for optimizer in optimizers]
        set_learning_rate(optimizers, 0.5)
        ids = torch.arange(12)[None]
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimizers[0].step()
        whole = [p.full_tensor() if split else p.data for p in model.parameters()]
        updated.append((groups, whole))
    assert updated[0][0] == updated[1][0]
    for one, other in zip(updated[0][1], updated[1][1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


class Lines(torch.nn.Module):  # type: ignore[misc]  # torch is Any here
    """Two matrices large enough for 8-bit states, and a vector that is not."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Linear(64, 64, dtype=dtype)
        self.second = torch.nn.Linear(64, 64, bias=False, dtype=dtype)

    def get_input_embeddings(self) -> None:
        return None

    def get_output_embeddings(self) -> None:
        return None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(x))
        return found


def step(model: Lines, optimizers: list[torch.optim.Optimizer], number: int) -> float:
    """One step towards putting out ones; the loss before it."""
    torch.manual_seed(number)
    given = torch.randn(16, 64, dtype=next(model.parameters()).dtype)
    loss = (model(given) - 1).float().square().mean()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return float(loss.detach())


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize(
    ("split", "kept"), [(False, "float32"), (True, "float32"), (True, "bfloat16")]
)
def test_eight_bit_states_learn_and_come_back_bit_for_bit(
    tmp_path: Path, split: bool, kept: str
) -> None:
    pytest.importorskip("torchao")
    models = []
    for _ in range(2):
        model = Lines(getattr(torch, kept))
        if split:
            fully_shard(model)
        settings = EIGHT_BITS.model_copy(update={"weights": kept})
        models.append((model, make_optimizers(model, settings)))
    (model, optimizers), (copy, others) = models
    losses = [step(model, optimizers, number) for number in range(12)]
    assert losses[-1] < 0.9 * losses[0]

    states = get_optimizer_state_dict(model, optimizers)["state"]
    moments = states["first.weight"]
    for name in ("exp_avg", "exp_avg_sq"):
        local = moments[name].to_local() if split else moments[name]
        assert local.codes.dtype == torch.uint8
        assert local.codes.numel() == 64 * 64
        assert local.scale.numel() == 64 * 64 // 256
        blank = blank_state(moments[name])
        assert not equal_states(blank, moments[name])

    checkpoint.save({"state": states}, checkpoint_id=tmp_path / "states")
    blanks = {name: {k: blank_state(v) for k, v in each.items()} for name, each in states.items()}
    checkpoint.load({"state": blanks}, checkpoint_id=tmp_path / "states")
    assert all(equal_states(blanks[n][k], states[n][k]) for n in states for k in states[n])

    with torch.no_grad():
        for theirs, ours in zip(copy.parameters(), model.parameters(), strict=True):
            theirs.copy_(ours)
    loaded = get_optimizer_state_dict(copy, others)
    checkpoint.load({"state": loaded["state"]}, checkpoint_id=tmp_path / "states")
    set_optimizer_state_dict(copy, others, loaded)
    for number in (20, 21):
        set_learning_rate(optimizers, 0.5)
        set_learning_rate(others, 0.5)
        assert step(model, optimizers, number) == step(copy, others, number)


def test_the_rate_of_a_compiled_step_is_set_in_place() -> None:
    pytest.importorskip("torchao")
    optimizers = make_optimizers(Lines(), EIGHT_BITS)
    before = optimizers[0].param_groups[0]["lr"]
    assert set_learning_rate(optimizers, 0.25) == pytest.approx(0.0025)
    assert optimizers[0].param_groups[0]["lr"] is before
    assert float(before) == pytest.approx(0.0025)


def test_updates_too_small_for_bfloat16_add_up() -> None:
    """Each is 1/1000 of a weight, of which a bfloat16 shows 1/256."""
    pytest.importorskip("torchao")
    settings = Train(optimizer="adamw_8bit", weights="bfloat16", learning_rate=1e-3)
    moved = []
    for rounds_at_random in (True, False):
        model = Lines(torch.bfloat16)
        with torch.no_grad():
            model.first.weight.fill_(1.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
        if rounds_at_random:
            [optimizer] = make_optimizers(model, settings)
        torch.manual_seed(0)
        for _ in range(4):
            for parameter in model.parameters():
                parameter.grad = torch.ones_like(parameter)
            optimizer.step()
        moved.append(float(model.first.weight.detach().float().mean()))
    rounded_at_random, rounded_to_nearest = moved
    assert rounded_to_nearest == 1.0
    assert rounded_at_random == pytest.approx(1 - 4e-3, abs=4e-4)
