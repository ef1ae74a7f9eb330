"""Recomputing, Liger and compiling: the same losses, less of something, and plain refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch.autograd.graph import saved_tensors_hooks

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.attention import choose_attention
from alpaca_cli.model.batches import collate
from alpaca_cli.model.forward import summed_loss
from alpaca_cli.model.kernels import apply_kernels, compile_model, enable_checkpointing
from alpaca_cli.model.rows import Row

CPU = torch.device("cpu")
ROWS = [Row([5, 9, 3, 7, 11, 2, 1], 4), Row([8, 8, 6], 1), Row([12, 4, 2, 9, 1], 2)]


def tiny(layers: int = 4, attention: str = "auto") -> Any:
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,
            bos_token_id=None,
        )
    )
    choose_attention(model, Train(attention=attention))
    return model.train()


def saved_bytes(model: Any) -> int:
    """What the forward pass keeps for the backward pass, beside the weights."""
    weights = {p.data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        summed_loss(model, collate([ROWS * 8])).backward()
    return sum(kept.values())


def test_checkpointing_keeps_little_and_changes_no_gradient() -> None:
    plain, checkpointed = tiny(), tiny()
    names = list(checkpointed.state_dict())
    enable_checkpointing(checkpointed)
    assert list(checkpointed.state_dict()) == names
    assert saved_bytes(checkpointed) < saved_bytes(plain) / 4
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_a_model_without_layers_that_can_recompute_is_refused() -> None:
    model = transformers.CTRLLMHeadModel(
        transformers.CTRLConfig(vocab_size=64, n_embd=16, dff=16, n_layer=1, n_head=2)
    )
    with pytest.raises(UsageError, match="does not support it"):
        enable_checkpointing(model)
    with pytest.raises(UsageError, match="does not name its layers"):
        compile_model(model, CPU)


def test_liger_needs_a_gpu() -> None:
    """All that can be tried without one."""
    with pytest.raises(UsageError, match="need a CUDA GPU, this is cpu"):
        apply_kernels(tiny(), Train(liger=True), CPU)


def test_nothing_is_applied_unasked() -> None:
    model = tiny()
    apply_kernels(model, Train(), CPU)
    assert not model.is_activation_checkpointing
    assert all(module._compiled_call_impl is None for module in model.modules())


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(UsageError, match="needs a C\\+\\+ compiler"):
        apply_kernels(tiny(), Train(compile=True), CPU)


@pytest.mark.slow
# What torch's compiler itself does: import a deprecated module, look at gradients of its inputs.
@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning", "ignore:The .grad attribute:UserWarning"
)
@pytest.mark.parametrize("attention", ["per_example", "sdpa"])
def test_compiled_losses_and_gradients_are_the_plain_ones(attention: str) -> None:
    """For packed rows of changing layout, one of a single example among them."""
    batches = [collate([ROWS]), collate([ROWS * 2]), collate([ROWS[:1]]), collate([ROWS[1:] * 3])]
    found = []
    torch._dynamo.reset()
    for compiled in (False, True):
        model = tiny(10, attention)
        names = [name for name, _ in model.named_parameters()]
        apply_kernels(model, Train(compile=compiled, gradient_checkpointing=True), CPU)
        with torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True):
            losses = [summed_loss(model, batch) for batch in batches]
            torch.stack(losses).sum().backward()
        assert [name for name, _ in model.named_parameters()] == names
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append(([loss.item() for loss in losses], gradient))
    (plain, expected), (compiled_losses, gradient) = found
    assert compiled_losses == pytest.approx(plain, rel=1e-5)
    assert (gradient - expected).abs().max() < 1e-3 * expected.abs().max()
