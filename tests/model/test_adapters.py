"""Adapters: made, trained, saved and loaded again, on weights in full and in 4-bit precision."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.settings_train import Lora, Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.adapters import check_method
from alpaca_cli.model.batches import collate
from alpaca_cli.model.forward import summed_loss
from alpaca_cli.model.kernels import enable_checkpointing
from alpaca_cli.model.loading import load_student
from alpaca_cli.model.optim import make_optimizers
from alpaca_cli.model.rows import Row
from alpaca_cli.model.student import Trainee, load_trainee, make_trainee
from alpaca_cli.model.tokenizer import load_tokenizer
from tests.tiny import save_tiny_model

ROWS = [Row([5, 9, 3, 7, 11, 2, 1], 4), Row([8, 8, 6], 1), Row([12, 4, 2, 9, 1], 2)]
IDS = torch.arange(12)[None]
REPOSITORY = Path(__file__).parents[2]

METHODS: dict[str, dict[str, Any]] = {
    "lora": {"method": "lora"},
    "rslora": {"method": "lora", "lora": Lora(r=4, alpha=8, dropout=0, rslora=True)},
    "dora": {"method": "lora", "lora": Lora(r=4, dropout=0, dora=True)},
    "qlora": {"method": "qlora"},
    "qlora + dora": {"method": "qlora", "lora": Lora(r=4, dropout=0, dora=True)},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


def settings(base: Path, method: str, **changes: Any) -> Train:
    if method.startswith("qlora"):
        pytest.importorskip("bitsandbytes")
    given = {"lora": Lora(r=4, dropout=0), "learning_rate": 1e-2, "warmup": 0.0}
    return Train(model=str(base), **given | METHODS[method] | changes)


def student(base: Path, method: str, new_tokens: int = 0, **changes: Any) -> Trainee:
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens([f"<new {number}>" for number in range(new_tokens)])
    return make_trainee(settings(base, method, **changes), tokenizer, ALPACA, 1)


def losses(trainee: Trainee, made_from: Train, steps: int = 12) -> list[float]:
    """Mean losses of some steps of training on ROWS."""
    batch = collate([ROWS])
    optimizers = make_optimizers(trainee.model, made_from)
    trainee.model.train()
    found = []
    for _ in range(steps):
        loss = summed_loss(trainee.model, batch) / batch.labels.numel()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        found.append(loss.item())
    return found


def save(trainee: Trainee, folder: Path) -> Path:
    trainee.model.save_pretrained(folder, save_embedding_layers=False)
    trainee.tokenizer.save_pretrained(folder)
    ALPACA.save(folder)
    return folder


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS, use_cache=False).logits
    return found


@pytest.mark.parametrize("method", METHODS)
def test_an_adapter_learns_and_comes_back_as_it_was(
    base: Path, tmp_path: Path, method: str
) -> None:
    made_from = settings(base, method, packing=False)
    trainee = student(base, method, packing=False)
    frozen = {n: p.clone() for n, p in trainee.model.named_parameters() if not p.requires_grad}
    untrained = logits(trainee.model)
    found = losses(trainee, made_from)
    assert found[-1] < 0.6 * found[0]
    for name, parameter in trainee.model.named_parameters():
        assert name not in frozen or torch.equal(parameter, frozen[name]), name
    assert not torch.equal(logits(trainee.model), untrained)
    folder = save(trainee, tmp_path / "adapter")
    again = load_trainee(made_from, folder, trainee.tokenizer, ALPACA)
    assert torch.equal(logits(again.model), logits(trainee.model))
    assert (again.parameters, again.trainable) == (trainee.parameters, trainee.trainable)
    if made_from.method == "lora":
        asked = load_student(folder, "adapter").model
        assert torch.equal(logits(asked), logits(trainee.model))


def test_the_scale_of_rslora_is_alpha_by_the_root_of_r(base: Path) -> None:
    for method, scale in (("lora", 32 / 4), ("rslora", 8 / 4**0.5)):
        model = student(base, method).model
        module = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj")
        assert module.scaling["default"] == scale


def test_qlora_holds_the_weights_in_four_bits(base: Path) -> None:
    whole, packed = student(base, "lora"), student(base, "qlora")
    module = packed.model.get_submodule("base_model.model.model.layers.0.mlp.up_proj.base_layer")
    numbers = module.in_features * module.out_features
    assert module.weight.numel() * module.weight.element_size() == numbers // 2
    state = module.weight.quant_state
    assert (state.quant_type, state.nested) == ("nf4", True)
    # Counted as what they stand for.
    assert (packed.parameters, packed.trainable) == (whole.parameters, whole.trainable)


def test_qlora_is_near_the_weights_it_was_made_from(base: Path) -> None:
    exact, rounded = (
        logits(student(base, method, packing=False).model) for method in ("lora", "qlora")
    )
    difference = float((rounded - exact).norm() / exact.norm())
    assert 0.001 < difference < 0.5


def test_an_evaluation_does_not_change_what_qlora_learns(base: Path) -> None:
    """On some CPUs bitsandbytes takes the first one as leave to use weights without gradients."""
    gradients = []
    for evaluated in (False, True):
        model = student(base, "qlora").model
        if evaluated:
            with torch.no_grad():
                summed_loss(model.eval(), collate([ROWS]))
        torch.manual_seed(0)
        summed_loss(model.train(), collate([ROWS])).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("tied", [True, False])
def test_rows_of_new_tokens_are_trained_and_saved(tmp_path: Path, method: str, tied: bool) -> None:
    base = tmp_path / "base"
    save_tiny_model(base, tied=tied)
    made_from = settings(base, method, packing=False)
    trainee = student(base, method, new_tokens=5, packing=False)
    assert trainee.notes[0] == "embedding grown from 320 to 384 rows for 325 tokens"
    before = trainee.model.get_input_embeddings()(torch.tensor([3, 322])).detach().clone()
    batch = collate([[Row([5, 322, 9, 324, 1], 2)]])
    [optimizer] = make_optimizers(trainee.model, made_from)
    summed_loss(trainee.model.train(), batch).backward()
    optimizer.step()
    after = trainee.model.get_input_embeddings()(torch.tensor([3, 322])).detach()
    assert torch.equal(before[0], after[0])  # pretrained rows stay
    assert not torch.equal(before[1], after[1])

    folder = save(trainee, tmp_path / "adapter")
    tensors = load_file(folder / "adapter_model.safetensors")
    rows = {tuple(t.shape) for name, t in tensors.items() if "lora_" not in name}
    assert rows == {(64, 64)}  # the 64 new rows, not the 384
    again = load_trainee(made_from, folder, trainee.tokenizer, ALPACA)
    assert torch.equal(logits(again.model), logits(trainee.model))
    if method == "lora":
        asked = load_student(folder, "adapter").model
        assert torch.equal(logits(asked), logits(trainee.model))


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_gradients_reach_the_adapters_through_recomputed_layers(base: Path, method: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        model = student(base, method).model.train()
        names = [name for name, _ in model.named_parameters()]
        if checkpointed:
            enable_checkpointing(model)
        assert [name for name, _ in model.named_parameters()] == names
        torch.manual_seed(0)
        summed_loss(model, collate([ROWS])).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name
        assert bool(gradient.any()) == ("lora_B" in name), name  # B is 0 at first: none for A


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
@pytest.mark.parametrize("computed", ["float32", "bfloat16"])
def test_adapters_and_frozen_weights_have_the_precision_asked_for(
    base: Path, kept: str, computed: str
) -> None:
    made_from = settings(base, "lora", weights=kept, optimizer="adamw_8bit")
    trainee = make_trainee(
        made_from, load_tokenizer(base), ALPACA, 1, getattr(torch, computed), weights=True
    )
    found = {p.requires_grad: str(p.dtype) for p in trainee.model.parameters()}
    assert found == {True: f"torch.{kept}", False: f"torch.{computed}"}
    assert {b.dtype for b in trainee.model.buffers()} == {torch.float32}


def test_an_adapter_needs_a_base_and_layers_that_exist(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    for method in ("lora", "qlora"):
        with pytest.raises(UsageError, match=f"{method} adapts a pretrained model"):
            make_trainee(Train(method=method), tokenizer, ALPACA, 1)
    wrong = settings(base, "lora", lora=Lora(target_modules=["no_such_layer"]))
    with pytest.raises(UsageError, match="target_modules"):
        make_trainee(wrong, tokenizer, ALPACA, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"method": "qlora"}, "qlora cannot"), ({"optimizer": "muon"}, "muon cannot")],
)
def test_what_cannot_be_split_is_refused(base: Path, changes: dict[str, Any], said: str) -> None:
    pytest.importorskip("bitsandbytes")
    wanted = Train(model=str(base), **changes)
    check_method(wanted, "single")
    check_method(wanted, "ddp")
    with pytest.raises(UsageError, match=said):
        check_method(wanted, "fsdp2")


def test_missing_libraries_are_named_before_torch_is_loaded(tmp_path: Path) -> None:
    """In a Python that has every library but the two."""
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.lower().startswith(("bitsandbytes", "torchao", "_")):
            (tmp_path / path.name).symlink_to(path)
    code = """
import sys
from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.adapters import check_method
for changes in ({"method": "qlora"}, {"optimizer": "adamw_8bit"}):
    try:
        check_method(Train(model="m", **changes), "single")
    except UsageError as error:
        print(error, "|", error.hint)
print("torch" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{tmp_path}"},
        capture_output=True,
        text=True,
        check=True,
    )
    quantised, eight_bits, torch_loaded = done.stdout.splitlines()
    assert "bitsandbytes, which is not installed" in quantised
    assert ".[quant]" in quantised
    assert "torchao, which is not installed" in eight_bits
    assert torch_loaded == "False"
