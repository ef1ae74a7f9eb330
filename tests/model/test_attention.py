"""Attention: packed examples never see each other; what cannot promise it is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from alpaca_cli.core.errors import GateFailed, UsageError
from alpaca_cli.core.settings_train import Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model import per_example
from alpaca_cli.model.attention import PLAIN, choose_attention, prove_packing
from alpaca_cli.model.batches import Batch, collate
from alpaca_cli.model.forward import logits_at, summed_loss
from alpaca_cli.model.rows import Row
from alpaca_cli.model.student import make_trainee
from alpaca_cli.model.tokenizer import load_tokenizer
from tests.tiny import save_tiny_model

CPU = torch.device("cpu")
ROWS = [Row([5, 9, 3, 7, 11, 2, 1], 4), Row([8, 8, 6], 1), Row([12, 4, 2, 9, 1], 2)]
PACKED = Train(packing=True, max_length=128)

# Looks back 4 tokens only, so that a window that started at the row and not at the example shows.
WINDOWED: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4},
    "gemma2": {"sliding_window": 4, "head_dim": 8},
    "gemma3_text": {"sliding_window": 4, "head_dim": 8},
    "cohere2": {"sliding_window": 4, "head_dim": 8},
    "olmo3": {"sliding_window": 4, "head_dim": 8},
}


def tiny(kind: str = "llama", **more: Any) -> Any:
    """A random model far enough from zero that one token more or less is seen in the logits."""
    given = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
    }
    config = transformers.AutoConfig.for_model(kind, **given | more)
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=None).eval()


def separate_logits(model: Any) -> torch.Tensor:
    """Logits at the trained positions of ROWS, each example on its own, one after the other."""
    found = []
    for row in ROWS:
        logits = model(torch.tensor([row.ids]), use_cache=False).logits[0]
        found.append(logits[row.prompt - 1 : -1])
    return torch.cat(found)


def apart(model: Any, separate: torch.Tensor) -> float:
    """The largest difference between logits of the packed row and of its examples alone."""
    packed = logits_at(model, collate([ROWS]))[0]
    assert packed.shape == separate.shape
    return float((packed - separate).detach().abs().max())


@pytest.mark.parametrize("kind", sorted(PLAIN))
def test_packed_logits_equal_separate_ones_example_by_example(kind: str) -> None:
    model = tiny(kind)
    separate = separate_logits(model)
    assert choose_attention(model, PACKED).startswith("attention: per_example")
    prove_packing(model, 128, CPU)
    assert apart(model, separate) < 1e-5


@pytest.mark.parametrize("kind", sorted(PLAIN))
@pytest.mark.parametrize("wanted", ["sdpa", "eager"])
def test_packed_logits_equal_separate_ones_under_a_mask(kind: str, wanted: str) -> None:
    model = tiny(kind)
    choose_attention(model, PACKED.model_copy(update={"attention": wanted}))
    assert model.config._attn_implementation == wanted
    prove_packing(model, 128, CPU)
    assert apart(model, separate_logits(model)) < 1e-5


@pytest.mark.parametrize("kind", sorted(WINDOWED))
@pytest.mark.parametrize("wanted", ["auto", "eager"])
def test_packed_logits_equal_separate_ones_with_sliding_windows(kind: str, wanted: str) -> None:
    model = tiny(kind, **WINDOWED[kind])
    note = choose_attention(model, PACKED.model_copy(update={"attention": wanted}))
    assert "mask over each packed row" in note
    prove_packing(model, 128, CPU)
    assert apart(model, separate_logits(model)) < 1e-5


def test_packed_padded_and_separate_losses_and_gradients_are_equal() -> None:
    """Three ways to the same sum over the trained tokens."""
    gradients: list[torch.Tensor] = []
    losses = []
    for batches in ([collate([ROWS])], [collate([[row] for row in ROWS])], None):
        model = tiny()
        choose_attention(model, PACKED.model_copy(update={"packing": len(gradients) == 0}))
        if batches:
            loss = torch.stack([summed_loss(model, batch) for batch in batches]).sum()
        else:
            trained = [token for row in ROWS for token in row.ids[row.prompt :]]
            loss = cross_entropy(separate_logits(model), torch.tensor(trained), reduction="sum")
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses == pytest.approx([losses[2]] * 3, rel=1e-6)
    for found in gradients[:2]:
        assert (found - gradients[2]).abs().max() < 1e-4 * gradients[2].abs().max()


def test_padding_changes_nothing() -> None:
    for kind, more in (("llama", {}), *WINDOWED.items()):
        model = tiny(kind, **more)
        choose_attention(model, PACKED.model_copy(update={"packing": False}))
        alone = logits_at(model, collate([[ROWS[1]]]))
        padded: Batch = collate([[ROWS[0]], [ROWS[1]]])
        columns = [padded.columns.tolist().index(column) for column in (0, 1)]
        assert (logits_at(model, padded)[1, columns] - alone[0]).abs().max() < 1e-5, kind


class TestTraps:
    """Three ways to lose the borders between examples; `logits_at` goes none of them."""

    def given(self) -> dict[str, Any]:
        """What `logits_at` gives a model."""
        model = tiny()
        seen: list[dict[str, Any]] = []
        model.register_forward_pre_hook(
            lambda module, args, named: seen.append(named), with_kwargs=True
        )
        logits_at(model, collate([ROWS]))
        return seen[0]

    def test_nothing_that_leaks_is_given(self) -> None:
        given = self.given()
        assert given["use_cache"] is False
        assert given.get("attention_mask") is None
        assert given["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 0, 1, 2, 3, 4]]

    @pytest.mark.parametrize(
        "change",
        [
            {"use_cache": True},
            {"attention_mask": torch.ones(1, 15, dtype=torch.int64)},
            {"position_ids": None},
        ],
    )
    def test_each_of_them_leaks(self, change: dict[str, Any]) -> None:
        """Else the test above would guard against nothing."""
        model, given = tiny(), self.given()
        right = model(**given).logits
        assert (model(**given | change).logits - right).abs().max() > 0.1


def test_a_model_whose_packed_examples_see_each_other_is_refused() -> None:
    model = tiny("opt", ffn_dim=64, max_position_embeddings=128, init_std=0.3)
    assert choose_attention(model, PACKED).startswith("attention: sdpa")
    with pytest.raises(GateFailed, match="see each other"):
        prove_packing(model, 128, CPU)


def test_positions_that_run_on_over_a_packed_row_are_refused() -> None:
    """The examples do not see each other, but the second one stands at the wrong places."""

    class Shifted(transformers.GPT2LMHeadModel):  # type: ignore[misc]  # transformers is Any here
        def forward(self, input_ids: Any, position_ids: Any = None, **rest: Any) -> Any:
            starts = (position_ids == 0).cumsum(1) - 1
            shifted = position_ids + 7 * starts
            return super().forward(input_ids=input_ids, position_ids=shifted, **rest)

    config = transformers.GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    )
    torch.manual_seed(0)
    prove_packing(transformers.GPT2LMHeadModel(config), 128, CPU)
    with pytest.raises(GateFailed, match="see each other"):
        prove_packing(Shifted(config), 128, CPU)


def test_the_proof_leaves_the_model_as_it_was() -> None:
    model = tiny().train()
    prove_packing(model, 128, CPU)
    assert model.training


@pytest.mark.parametrize(
    ("kind", "more", "said"),
    [("mistral", {"sliding_window": 4}, "looks back 4"), ("gemma", {"head_dim": 8}, "gemma")],
)
def test_per_example_is_refused_where_attention_is_not_plainly_causal(
    kind: str, more: dict[str, Any], said: str
) -> None:
    model = tiny(kind, **more)
    with pytest.raises(UsageError, match=said):
        choose_attention(model, PACKED.model_copy(update={"attention": "per_example"}))
    assert said in choose_attention(model, PACKED)  # auto takes another and says why


def test_a_back_end_that_a_model_lacks_is_refused() -> None:
    for kind, more in (("gemma2", {"head_dim": 8}), ("bloom", {"n_layer": 1})):
        model = tiny(kind, **more)
        with pytest.raises(UsageError, match="sdpa is not there"):
            choose_attention(model, PACKED.model_copy(update={"attention": "sdpa"}))
        assert choose_attention(model, PACKED).startswith("attention: eager")


def test_what_a_models_own_configuration_names_is_not_used(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["attn_implementation"] = "flash_attention_2"
    (folder / "config.json").write_text(json.dumps(config))
    settings = Train(model=str(folder), packing=False)
    for weights in (True, False):
        trainee = make_trainee(settings, load_tokenizer(folder), ALPACA, 1, weights=weights)
        assert trainee.model.config._attn_implementation == "sdpa"
    assert per_example.NAME not in trainee.notes[-1]
