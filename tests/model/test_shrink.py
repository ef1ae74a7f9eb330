"""Tiny random models of real architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_train import Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.shrink import reloaded_loss, shrink, tiny_llama
from tests.tiny import TEXTS


def source(folder: Path, kind: str, **settings: Any) -> str:
    """A folder with the configuration of a real model, and nothing else."""
    CONFIG_MAPPING[kind](**settings).save_pretrained(folder / kind)
    return str(folder / kind)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma3_text", "mixtral", "gpt2", "phi3"])
def test_the_architecture_stays_and_the_sizes_go(kind: str, tmp_path: Path) -> None:
    said = shrink(source(tmp_path, kind), False, ALPACA, TEXTS, tmp_path / "tiny")
    assert said == f"{kind}, 2 layers, 64 wide, random weights"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert model.config.model_type == kind
    assert model.num_parameters() < 500_000
    dropout = [v for k, v in model.config.to_dict().items() if "dropout" in k or "pdrop" in k]
    assert not any(value for value in dropout if isinstance(value, float))


def test_what_kind_of_layers_there_are_stays(tmp_path: Path) -> None:
    name = source(tmp_path, "gemma3_text", num_hidden_layers=12)
    shrink(name, False, ALPACA, TEXTS, tmp_path / "tiny")
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny").config
    assert config.layer_types == ["sliding_attention", "full_attention"]
    grouped = source(tmp_path, "llama", num_attention_heads=32, num_key_value_heads=8)
    shrink(grouped, False, ALPACA, TEXTS, tmp_path / "grouped")
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "grouped").config
    assert (config.num_attention_heads, config.num_key_value_heads) == (2, 1)


def test_an_architecture_that_cannot_be_cut_down_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="deepseek_v3: cannot be cut down to a tiny model: "):
        shrink(source(tmp_path, "deepseek_v3"), False, ALPACA, TEXTS, tmp_path / "tiny")


def test_the_loss_of_a_saved_model_is_that_of_its_weights(tmp_path: Path) -> None:
    tiny_llama(ALPACA, TEXTS, tmp_path)
    ALPACA.save(tmp_path)
    settings = Train.model_validate({"model": str(tmp_path), "max_length": 128})
    examples = [Example(text, "", "The whale.") for text in TEXTS]
    loss, tokens = reloaded_loss(tmp_path, settings, examples, "cpu")
    assert tokens > len(TEXTS)
    assert 3 < loss < 12
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    model.lm_head.weight.data[7] *= 1.1
    model.save_pretrained(tmp_path)
    changed, _ = reloaded_loss(tmp_path, settings, examples, "cpu")
    assert abs(changed - loss) / loss > 1e-4
