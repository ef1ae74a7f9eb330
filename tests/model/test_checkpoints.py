"""Saved models and checkpoints: whole, readable by others, and checked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca_cli.core.errors import DataError, GateFailed
from alpaca_cli.core.settings_train import Lora, Scratch, ScratchModel, Train
from alpaca_cli.core.template import ALPACA, stored_template
from alpaca_cli.model.checkpoints import (
    Position,
    best_checkpoint,
    load_optimizers,
    new_folder,
    newest_checkpoint,
    remove_leftovers,
    save_checkpoint,
)
from alpaca_cli.model.optim import make_optimizers
from alpaca_cli.model.saving import adapter_moved, save_trainee, verify_saved
from alpaca_cli.model.strategy import make_accelerator
from alpaca_cli.model.student import Trainee
from alpaca_cli.model.tokenizer import encode_prompts
from tests.tiny import save_tiny_model
from tests.training import student

SCRATCH = Train(
    model=ScratchModel(
        config=Scratch(vocab_size=300, hidden_size=16, intermediate_size=32, layers=1, heads=2)
    )
)
TEXTS = ["one two three", "red green blue"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


def lora(base: Path) -> Train:
    return Train(model=str(base), method="lora", lora=Lora(r=2))


def test_a_saved_student_is_a_model_folder_like_any_other(tmp_path: Path) -> None:
    trainee = student(SCRATCH, TEXTS)
    save_trainee(trainee, tmp_path / "final")
    verify_saved(trainee, tmp_path / "final")
    trainee.model.set_attn_implementation("sdpa")  # it was made to be trained on packed rows
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
    trainee = student(SCRATCH, TEXTS)
    save_trainee(trainee, tmp_path / "final")
    path = tmp_path / "final" / "model.safetensors"
    tensors = load_file(path)
    tensors.pop("model.norm.weight")
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(GateFailed, match=r"1 of .* trained tensors were not saved"):
        verify_saved(trainee, tmp_path / "final")


def test_saved_weights_that_are_no_numbers_are_noticed(tmp_path: Path) -> None:
    trainee = student(SCRATCH, TEXTS)
    with torch.no_grad():
        trainee.model.model.norm.weight[3] = float("nan")
    save_trainee(trainee, tmp_path / "final")
    with pytest.raises(GateFailed, match="not finite"):
        verify_saved(trainee, tmp_path / "final")


def test_a_saved_tensor_that_is_another_is_noticed(tmp_path: Path) -> None:
    trainee = student(SCRATCH, TEXTS)
    save_trainee(trainee, tmp_path / "final")
    path = tmp_path / "final" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"][3] += 1e-6
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(GateFailed, match=r"model\.norm\.weight is not what was trained"):
        verify_saved(trainee, tmp_path / "final")


def test_an_empty_adapter_is_noticed(base: Path, tmp_path: Path) -> None:
    """peft under FSDP with activation checkpointing has written such ones, of 40 bytes."""
    trainee = student(lora(base), [])
    save_trainee(trainee, tmp_path / "empty")
    save_file({}, tmp_path / "empty" / "adapter_model.safetensors", {"format": "pt"})
    with pytest.raises(GateFailed, match="trained tensors were not saved"):
        verify_saved(trainee, tmp_path / "empty")


def test_an_adapter_that_changes_nothing_is_noticed(base: Path, tmp_path: Path) -> None:
    trainee = student(lora(base), [])
    save_trainee(trainee, tmp_path / "untrained")
    assert not adapter_moved(tmp_path / "untrained")
    with torch.no_grad():
        for name, parameter in trainee.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    save_trainee(trainee, tmp_path / "trained")
    verify_saved(trainee, tmp_path / "trained")
    assert adapter_moved(tmp_path / "trained")


def test_a_model_in_several_files_is_verified_in_all_of_them(tmp_path: Path) -> None:
    trainee = student(SCRATCH, TEXTS)
    trainee.model.save_pretrained(tmp_path, max_shard_size="10KB")
    verify_saved(trainee, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    shards[-1].unlink()
    with pytest.raises(GateFailed, match="were not saved"):
        verify_saved(trainee, tmp_path)


class TestCheckpoints:
    def save(self, folder: Path, *steps: int, keep: int = 2, **losses: float) -> Trainee:
        """Checkpoints of an untrained student; `s2=1.5` is the held-out loss at step 2."""
        trainee: Trainee = student(SCRATCH, TEXTS)
        for step in steps:
            save_checkpoint(
                folder,
                Position(step, step * 8, step * 80, step * 40, 1, "single",
                         losses.get(f"s{step}"), {}),
                trainee,
                make_optimizers(trainee.model, SCRATCH),
                make_accelerator(torch.float32, [], "single"),
                keep,
            )  # fmt: skip
        return trainee

    def names(self, folder: Path) -> list[str]:
        return sorted(path.name for path in folder.iterdir())

    def newest(self, folder: Path) -> tuple[str | None, list[str]]:
        found, skipped = newest_checkpoint(folder)
        return found.path.name if found else None, skipped

    def test_the_newest_stay(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1, 2, 10)
        assert self.names(tmp_path) == ["step-000002", "step-000010"]
        found, skipped = newest_checkpoint(tmp_path)
        assert found is not None
        assert found.position == Position(10, 80, 800, 400, 1, "single", None, {})
        assert skipped == []
        assert best_checkpoint(tmp_path) is None

    def test_the_best_stays_too(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1, 2, 3, 4, 5, keep=1, s1=2.0, s2=1.0, s3=1.5, s4=1.1, s5=1.2)
        assert self.names(tmp_path) == ["step-000002", "step-000005"]
        best = best_checkpoint(tmp_path)
        assert best is not None
        assert best.path.name == "step-000002"

    def test_a_copy_that_a_person_made_stays(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000001-good")
        shutil.copytree(tmp_path / "step-000001", tmp_path / "step-000004.bak")
        self.save(tmp_path, 2, 3, keep=1)
        assert self.names(tmp_path) == ["step-000001-good", "step-000003", "step-000004.bak"]
        assert self.newest(tmp_path)[0] == "step-000003"

    def test_steps_are_counted_beyond_six_digits(self, tmp_path: Path) -> None:
        self.save(tmp_path, 999_998, 999_999, 1_000_000, keep=1)
        assert self.names(tmp_path) == ["step-1000000"]
        assert self.newest(tmp_path)[0] == "step-1000000"

    def test_one_that_is_not_whole_is_passed_over_and_named(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1, 2, 3, 4, 5, keep=9)
        [shard] = (tmp_path / "step-000005" / "optimizer").glob("*.distcp")
        shard.write_bytes(shard.read_bytes()[:-1])
        (tmp_path / "step-000004" / "tokenizer.json").unlink()
        (tmp_path / "step-000003" / "checkpoint.json").write_text('{"step": ')
        weights = tmp_path / "step-000002" / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x99")
        name, skipped = self.newest(tmp_path)
        assert name == "step-000001"
        for why, said in zip(
            skipped,
            ["bytes", "tokenizer.json is missing", "not JSON", "its sha256 differs"],
            strict=True,
        ):
            assert said in why
        (tmp_path / "step-000001" / "checkpoint.json").unlink()
        name, skipped = self.newest(tmp_path)
        assert name is None
        assert "never finished" in skipped[-1]

    def test_one_of_another_version_is_passed_over(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        manifest = tmp_path / "step-000001" / "checkpoint.json"
        found = json.loads(manifest.read_text())
        del found["tokens"]
        manifest.write_text(json.dumps(found))
        assert "of another version: it has no tokens" in self.newest(tmp_path)[1][0]

    def test_leftovers_of_a_kill_are_removed(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        (tmp_path / ".step-000002.tmp").mkdir()
        (tmp_path / ".step-000002.tmp" / "model.safetensors").write_bytes(b"half")
        remove_leftovers(tmp_path)
        assert self.names(tmp_path) == ["step-000001"]

    @pytest.mark.parametrize("optimizer", ["adamw", "muon"])
    def test_optimizers_are_restored_bit_for_bit(self, tmp_path: Path, optimizer: str) -> None:
        settings = SCRATCH.model_copy(update={"optimizer": optimizer})

        def trained(seed: int) -> tuple[Trainee, Any]:
            trainee: Trainee = student(settings, TEXTS)
            made = make_optimizers(trainee.model, settings)
            torch.manual_seed(seed)
            for each in trainee.model.parameters():
                each.grad = torch.randn_like(each)
            for each in made:
                each.step()
            return trainee, made

        trainee, optimizers = trained(1)
        position = Position(1, 8, 80, 40, 1, "single", None, {})
        accelerator = make_accelerator(torch.float32, [], "single")
        save_checkpoint(tmp_path, position, trainee, optimizers, accelerator, 1)
        other, again = trained(2)
        load_optimizers(tmp_path / "step-000001", other.model, again, 1)
        for ours, theirs in zip(optimizers, again, strict=True):
            mine, yours = ours.state_dict()["state"], theirs.state_dict()["state"]
            assert mine.keys() == yours.keys()
            for at, state in mine.items():
                assert all(torch.equal(state[key], yours[at][key]) for key in state)

    def test_another_optimizer_is_refused(self, tmp_path: Path) -> None:
        trainee = self.save(tmp_path, 1)
        muon = make_optimizers(trainee.model, SCRATCH.model_copy(update={"optimizer": "muon"}))
        with pytest.raises(DataError, match=r"another train\.optimizer"):
            load_optimizers(tmp_path / "step-000001", trainee.model, muon, 1)

    def test_the_manifest_names_every_file(self, tmp_path: Path) -> None:
        self.save(tmp_path, 1)
        folder = tmp_path / "step-000001"
        manifest = json.loads((folder / "checkpoint.json").read_text())
        files = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        assert {*manifest["files"], "checkpoint.json", "optimizer"} == files
        assert {"model.safetensors", "optimizer/.metadata", "tokenizer.json"} <= files


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
