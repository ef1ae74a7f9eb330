"""Saved models and checkpoints: whole, readable by others, and checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.core.settings_train import Lora, Scratch, ScratchModel, Train
from alpaca_cli.core.template import ALPACA, stored_template
from alpaca_cli.model.checkpoints import (
    load_optimizers,
    new_folder,
    newest_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from alpaca_cli.model.optim import make_optimizers
from alpaca_cli.model.saving import save_trainee, verify_saved
from alpaca_cli.model.student import (
    Trainee,
    load_trainee,
    make_trainee,
)
from alpaca_cli.model.tokenizer import encode_prompts
from tests.tiny import save_tiny_model

SCRATCH = Train(
    model=ScratchModel(
        config=Scratch(vocab_size=300, hidden_size=16, intermediate_size=32, layers=1, heads=2)
    )
)
TEXTS = ["one two three", "red green blue"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


def lora(base: Path, **changes: Any) -> Train:
    return Train(model=str(base), method="lora", lora=Lora(r=2, **changes))


def weights(trainee: Trainee) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = trainee.model.state_dict()
    return found


def test_equal_seeds_give_equal_students() -> None:
    one, same, other = (make_trainee(SCRATCH, TEXTS, seed) for seed in (1, 1, 2))
    assert all(torch.equal(weights(one)[name], weights(same)[name]) for name in weights(one))
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(weights(one)[name], weights(other)[name])


def test_a_saved_student_is_a_model_folder_like_any_other(tmp_path: Path) -> None:
    trainee = make_trainee(SCRATCH, TEXTS, 1)
    save_trainee(trainee, tmp_path / "final")
    verify_saved(trainee, tmp_path / "final")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "final")
    ids = torch.arange(12)[None]
    assert torch.equal(model(ids).logits, trainee.model.eval()(ids).logits)
    assert model.generation_config.eos_token_id == trainee.tokenizer.eos_token_id
    pair = [("Count to three.", "slowly")]
    assert encode_prompts(tokenizer, ALPACA, pair) == encode_prompts(
        trainee.tokenizer, ALPACA, pair
    )
    assert stored_template(tmp_path / "final") == ALPACA
    assert "_attn_implementation" not in (tmp_path / "final" / "config.json").read_text()


def test_a_saved_folder_that_lacks_a_tensor_is_noticed(tmp_path: Path) -> None:
    trainee = make_trainee(SCRATCH, TEXTS, 1)
    save_trainee(trainee, tmp_path / "final")
    path = tmp_path / "final" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(GateFailed, match="tensors were saved"):
        verify_saved(trainee, tmp_path / "final")


def test_saved_weights_that_are_no_numbers_are_noticed(tmp_path: Path) -> None:
    trainee = make_trainee(SCRATCH, TEXTS, 1)
    with torch.no_grad():
        trainee.model.model.norm.weight[3] = float("nan")
    save_trainee(trainee, tmp_path / "final")
    with pytest.raises(GateFailed, match="not finite"):
        verify_saved(trainee, tmp_path / "final")


def test_an_adapter_that_changes_nothing_is_noticed(base: Path, tmp_path: Path) -> None:
    trainee = make_trainee(lora(base), [], 1)
    save_trainee(trainee, tmp_path / "untrained")
    with pytest.raises(GateFailed, match="all zeros"):
        verify_saved(trainee, tmp_path / "untrained")
    with torch.no_grad():
        for name, parameter in trainee.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_trainee(trainee, tmp_path / "trained")
    verify_saved(trainee, tmp_path / "trained")
    again = load_trainee(lora(base), tmp_path / "trained")
    assert trainee.trainable == again.trainable > 0
    ids = torch.arange(12)[None]
    assert torch.equal(again.model.eval()(ids).logits, trainee.model.eval()(ids).logits)


def test_an_adapter_needs_a_base_and_layers_that_exist(base: Path) -> None:
    with pytest.raises(UsageError, match="adapts a pretrained model"):
        make_trainee(SCRATCH.model_copy(update={"method": "lora"}), TEXTS, 1)
    with pytest.raises(UsageError, match="target_modules"):
        make_trainee(lora(base, target_modules=["no_such_layer"]), [], 1)


def test_an_embedding_grows_to_a_multiple_of_64_and_says_so(base: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    trainee = make_trainee(Train(model=str(tmp_path)), [], 1)
    rows = trainee.model.get_input_embeddings().num_embeddings
    assert rows % 64 == 0
    assert rows >= len(tokenizer)
    assert "embedding grown from" in trainee.notes[0]
    assert make_trainee(Train(model=str(base)), [], 1).notes == ()


def test_counting_parameters_needs_no_weights(base: Path) -> None:
    for settings in (SCRATCH, Train(model=str(base)), lora(base)):
        real, counted = (make_trainee(settings, TEXTS, 1, weights=w) for w in (True, False))
        assert (counted.parameters, counted.trainable) == (real.parameters, real.trainable)
        assert {p.device.type for p in counted.model.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere/there/x", "no such"), ("{base}/config.json", "no model"), ("{adapter}", "adapter")],
)
def test_models_that_cannot_be_trained(base: Path, tmp_path: Path, name: str, said: str) -> None:
    save_trainee(make_trainee(lora(base), [], 1), tmp_path / "adapter")
    path = name.format(base=base, adapter=tmp_path / "adapter")
    with pytest.raises(DataError, match=said):
        make_trainee(Train(model=path), [], 1)


class TestCheckpoints:
    def save(self, folder: Path, *steps: int, keep: int = 2) -> Trainee:
        trainee = make_trainee(SCRATCH, TEXTS, 1)
        for step in steps:
            save_checkpoint(folder, step, trainee, make_optimizers(trainee.model, SCRATCH), keep)
        return trainee

    def test_the_newest_stay(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1, 2, 10)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000002", "step-000010"]
        assert newest_checkpoint(tmp_path) == (10, tmp_path / "step-000010")

    def test_one_that_is_not_whole_is_passed_over(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1, 2)
        optimizer = tmp_path / "step-000002" / "optimizer.pt"
        optimizer.write_bytes(optimizer.read_bytes()[:-1])
        assert newest_checkpoint(tmp_path) == (1, tmp_path / "step-000001")
        (tmp_path / "step-000001" / "checkpoint.json").unlink()
        assert newest_checkpoint(tmp_path) is None

    def test_leftovers_of_a_kill_are_removed(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        (tmp_path / ".step-000002.123.tmp").mkdir()
        (tmp_path / ".step-000002.123.tmp" / "model.safetensors").write_bytes(b"half")
        remove_leftovers(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]

    def test_another_optimizer_is_refused(self, tmp_path: Path) -> None:
        trainee = self.save(tmp_path, 1)
        muon = make_optimizers(trainee.model, SCRATCH.model_copy(update={"optimizer": "muon"}))
        with pytest.raises(DataError, match=r"another train\.optimizer"):
            load_optimizers(tmp_path / "step-000001", muon)

    def test_the_manifest_names_every_file(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        folder = tmp_path / "step-000001"
        manifest = json.loads((folder / "checkpoint.json").read_text())
        files = {path.name for path in folder.iterdir()}
        assert {*manifest["files"], "checkpoint.json"} == files
        assert {"model.safetensors", "optimizer.pt", "tokenizer.json"} <= files


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "final"

    def write_half() -> None:
        with new_folder(target) as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert list(tmp_path.iterdir()) == []
    for text in ("old", "new"):
        with new_folder(target) as temporary:
            temporary.mkdir()
            (temporary / "file").write_text(text)
            assert not target.exists() or (target / "file").read_text() == "old"
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
