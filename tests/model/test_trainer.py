"""Training: the same loss however a step is split, packed, or resumed."""

from __future__ import annotations

import json
import math
import shutil
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from rich.console import Console
from torch.nn.functional import cross_entropy

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import Scratch, ScratchModel, Train
from alpaca_cli.model import attention
from alpaca_cli.model.batches import Batch, Row, Schedule, collate, encode_rows
from alpaca_cli.model.checkpoints import newest_checkpoint
from alpaca_cli.model.optim import learning_rate_factor, make_optimizers
from alpaca_cli.model.student import load_trainee, make_trainee
from alpaca_cli.model.trainer import (
    compute_dtype,
    logits_at,
    make_accelerator,
    prepare_packing,
    read_log,
    summed_loss,
    train,
)

CPU = torch.device("cpu")
TINY = Train(
    model=ScratchModel(
        config=Scratch(vocab_size=400, hidden_size=32, intermediate_size=64, layers=2, heads=2)
    ),
    learning_rate=1e-2,
    epochs=3,
    global_batch=8,
    micro_batch=8,
    max_length=128,
    packing=False,
    save_every=1000,
)
EXAMPLES = [
    Example(f"Repeat the word {n} times.", word, " ".join([word] * n))
    for n in range(1, 6)
    for word in ("dog", "red bird", "sea", "one two three")
]
ROWS = [Row([5, 9, 3, 7, 11, 2, 1], 4), Row([8, 8, 6], 1), Row([12, 4, 2, 9, 1], 2)]


def tiny(kind: str = "llama", **more: Any) -> Any:
    """A random model far enough from zero that one token more or less is seen in the logits."""
    config = transformers.AutoConfig.for_model(
        kind,
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **more,
    )
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config)


def separate_logits(model: Any) -> torch.Tensor:
    """Logits at the trained positions of ROWS, each example on its own, one after the other."""
    found = []
    for row in ROWS:
        logits = model(torch.tensor([row.ids]), use_cache=False).logits[0]
        found.append(logits[row.prompt - 1 : -1])
    return torch.cat(found)


@pytest.mark.parametrize("kind", sorted(attention.PLAIN))
def test_packed_logits_equal_separate_ones(kind: str) -> None:
    model = tiny(kind).eval()
    separate = separate_logits(model)
    prepare_packing(model, 128, CPU)
    assert model.config._attn_implementation == attention.NAME
    packed = logits_at(model.eval(), collate([ROWS]))[0]
    assert packed.shape == separate.shape
    assert (packed - separate).abs().max() < 1e-5


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_packed_logits_equal_separate_ones_under_the_masks_of_transformers(
    implementation: str,
) -> None:
    model = tiny().eval()
    model.set_attn_implementation(implementation)
    packed = logits_at(model, collate([ROWS]))[0]
    assert (packed - separate_logits(model)).abs().max() < 1e-5


def test_packed_padded_and_separate_losses_and_gradients_are_equal() -> None:
    """Three ways to the same sum over the trained tokens."""
    gradients = []
    losses = []
    for batches in ([collate([ROWS])], [collate([[r] for r in ROWS])], None):
        model = tiny()
        if batches and len(batches[0].input_ids) == 1:
            prepare_packing(model, 128, CPU)
        loss = (
            sum(summed_loss(model, batch) for batch in batches)
            if batches
            else cross_entropy(
                separate_logits(model),
                torch.tensor([t for row in ROWS for t in row.ids[row.prompt :]]),
                reduction="sum",
            )
        )
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses == pytest.approx([losses[2]] * 3, rel=1e-6)
    for found in gradients[:2]:
        assert (found - gradients[2]).abs().max() < 1e-4 * gradients[2].abs().max()


def test_a_model_whose_packed_examples_see_each_other_is_refused() -> None:
    class Deaf(transformers.LlamaForCausalLM):  # type: ignore[misc]  # transformers is Any here
        """Ignores where an example starts."""

        def forward(self, input_ids: Any, position_ids: Any = None, **rest: Any) -> Any:
            return super().forward(input_ids=input_ids, **rest)

    model = Deaf(tiny().config)
    model.config.model_type = "unknown"  # not one of those that attend per example
    with pytest.raises(GateFailed, match="see each other"):
        prepare_packing(model, 128, CPU)


def test_a_sliding_window_shorter_than_an_example_keeps_its_own_mask() -> None:
    model = tiny("mistral", sliding_window=4)
    prepare_packing(model, 128, CPU)
    assert model.config._attn_implementation != attention.NAME


def test_padding_changes_nothing() -> None:
    model = tiny().eval()
    short = ROWS[1]
    alone = logits_at(model, collate([[short]]))
    padded: Batch = collate([[ROWS[0]], [short]])
    columns = [padded.columns.tolist().index(column) for column in (0, 1)]
    assert (logits_at(model, padded)[1, columns] - alone[0]).abs().max() < 1e-5


def run(folder: Path, resumed: tuple[int, Path] | None = None, **changes: Any) -> Any:
    """Train the tiny model on EXAMPLES; its weights and its log."""
    settings = TINY.model_copy(update=changes)
    if resumed:
        trainee = load_trainee(settings, resumed[1])
    else:
        trainee = make_trainee(settings, [each.output for each in EXAMPLES], 7)
    encoded = encode_rows(
        EXAMPLES, trainee.tokenizer, trainee.template, settings.max_length, settings.overlong
    )
    schedule = Schedule(len(encoded.rows), settings.global_batch, settings.epochs, 7)
    progress = Progress(Console(file=StringIO()), quiet=True)
    accelerator = make_accelerator(settings.dtype, gpus=[])
    train(trainee, encoded.rows, schedule, settings, folder, accelerator, progress, resumed)
    return trainee.model.state_dict(), read_log(folder / "log.jsonl")


def column(log: list[dict[str, Any]], name: str) -> list[Any]:
    return [line[name] for line in log]


def test_the_split_into_micro_batches_does_not_change_the_training(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "1x8", micro_batch=8)
    assert len(whole) == 8  # 60 visits in steps of 8, the last one smaller
    assert column(whole, "loss")[-1] < 0.7 * column(whole, "loss")[0]
    splits: dict[str, dict[str, Any]] = {
        "8x1": {"micro_batch": 1},
        "3": {"micro_batch": 3},
        "packed": {"packing": True, "micro_batch": 1},
        "packed wide": {"packing": True, "micro_batch": 8},
        "checkpointed": {"gradient_checkpointing": True},
    }
    for name, changes in splits.items():
        _, log = run(tmp_path / name, **changes)
        assert column(log, "loss") == pytest.approx(column(whole, "loss"), rel=2e-5), name
        assert column(log, "grad_norm") == pytest.approx(column(whole, "grad_norm"), rel=1e-3)
        assert column(log, "tokens") == column(whole, "tokens")


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path: Path, optimizer: str) -> None:
    weights, log = run(tmp_path / "straight", optimizer=optimizer, save_every=3)
    found = newest_checkpoint(tmp_path / "straight" / "checkpoints")
    assert found is not None
    assert found[0] == 6
    shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    # As after a kill in the middle of step 9: two more lines, the last one torn.
    with (tmp_path / "cut" / "log.jsonl").open("a") as file:
        file.write('{"step": 9, "lo')
    again, resumed_log = run(tmp_path / "cut", found, optimizer=optimizer, save_every=3)
    assert column(resumed_log, "step") == list(range(1, 9))
    for name in ("loss", "grad_norm", "learning_rate", "tokens", "trained_tokens", "epoch"):
        assert column(resumed_log, name) == column(log, name)
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_bfloat16_trains_nearly_alike(tmp_path: Path) -> None:
    _, exact = run(tmp_path / "a")
    for packing in (False, True):
        _, log = run(tmp_path / str(packing), dtype="bfloat16", packing=packing, micro_batch=1)
        assert column(log, "loss") == pytest.approx(column(exact, "loss"), rel=0.05)
        assert column(log, "loss") != column(exact, "loss")


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(UsageError, match="float16 needs a CUDA GPU"):
        compute_dtype("float16", CPU)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"loss is (nan|inf) at step"):
        run(tmp_path, learning_rate=1e30, epochs=5)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(math.isfinite(line["loss"]) for line in log)


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
    muon, adamw = make_optimizers(model, TINY.model_copy(update={"optimizer": "muon"}))
    names = {id(p): name for name, p in model.named_parameters()}

    def held(optimizer: Any) -> set[str]:
        return {names[id(p)] for group in optimizer.param_groups for p in group["params"]}

    assert held(muon) == {name for name in names.values() if name.endswith("proj.weight")}
    assert held(adamw) == set(names.values()) - held(muon)
    assert "lm_head.weight" in held(adamw)


def test_norms_are_not_decayed() -> None:
    model = tiny()
    [adamw] = make_optimizers(model, TINY.model_copy(update={"weight_decay": 0.1}))
    decayed, free = adamw.param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert all(p.ndim == 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
