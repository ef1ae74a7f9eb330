"""Students: made from scratch or from a model folder, with values or without, and loaded again."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.settings_train import Lora, Scratch, ScratchModel, Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.locate import lacks_weights
from alpaca_cli.model.student import Trainee, load_trainee, make_trainee
from alpaca_cli.model.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from tests.tiny import TEXTS, save_tiny_model

SCRATCH = Train(
    model=ScratchModel(
        config=Scratch(vocab_size=320, hidden_size=16, intermediate_size=32, layers=1, heads=2)
    )
)
IDS = torch.arange(12)[None]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The same model in several files with an index."""
    folder = tmp_path_factory.mktemp("models") / "sharded"
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder, max_shard_size="100KB")
    load_tokenizer(base).save_pretrained(folder)
    return folder


def made(settings: Train, base: Path | None = None, **more: Any) -> Trainee:
    return make_trainee(settings, tokenizer_for(base), ALPACA, **{"seed": 1, **more})


def tokenizer_for(base: Path | None) -> Tokenizer:
    return load_tokenizer(base) if base else train_tokenizer(TEXTS, ALPACA, 320)


def logits(trainee: Trainee) -> torch.Tensor:
    model = trainee.model.eval()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


def shape_of(trainee: Trainee) -> list[tuple[Any, ...]]:
    return [
        (name, p.shape, p.dtype, p.requires_grad) for name, p in trainee.model.named_parameters()
    ]


def test_equal_seeds_give_equal_students() -> None:
    one, same, other = (made(SCRATCH, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(one[name], other[name])


class TestWithoutValues:
    """What a process under FSDP2 has that gets its weights from the first one."""

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"weights": "bfloat16", "optimizer": "adamw_8bit"},
            {"method": "lora", "lora": Lora(r=2)},
            {"method": "lora", "lora": Lora(r=2, dora=True), "packing": False},
        ],
    )
    @pytest.mark.parametrize(("new_tokens", "tied"), [(0, False), (3, False), (0, True), (3, True)])
    def test_it_looks_like_the_one_with_values(
        self, tmp_path: Path, changes: dict[str, Any], new_tokens: int, tied: bool
    ) -> None:
        base = save_tiny_model(tmp_path / "base", tied=tied)
        settings = Train(model=str(base), **changes)
        tokenizer = load_tokenizer(base)
        tokenizer.add_tokens([f"<new {number}>" for number in range(new_tokens)])
        real, empty = (
            make_trainee(settings, tokenizer, ALPACA, 1, torch.bfloat16, weights=weights)
            for weights in (True, False)
        )
        self.check(real, empty)

        folder = tmp_path / "saved"
        named = {} if settings.method == "full" else {"save_embedding_layers": False}
        real.model.save_pretrained(folder, **named)
        found = []
        for weights in (True, False):
            found.append(
                load_trainee(settings, folder, tokenizer, ALPACA, torch.bfloat16, weights=weights)
            )
            for path in folder.glob("*.safetensors"):
                path.unlink()  # not looked at without values
        self.check(*found)

    def test_a_student_from_scratch_does_too(self) -> None:
        self.check(made(SCRATCH), made(SCRATCH, weights=False))

    def check(self, real: Trainee, empty: Trainee) -> None:
        assert shape_of(empty) == shape_of(real)
        assert {p.device.type for p in empty.model.parameters()} == {"meta"}
        assert (empty.parameters, empty.trainable) == (real.parameters, real.trainable)
        ends = [
            [each.model.get_input_embeddings(), each.model.get_output_embeddings()]
            for each in (real, empty)
        ]
        assert len({first.weight is last.weight for first, last in ends}) == 1
        buffers = dict(empty.model.named_buffers())
        assert any("inv_freq" in name for name in buffers)
        for name, buffer in real.model.named_buffers():
            assert buffers[name].device.type == "cpu", name
            assert "original" in name or torch.equal(buffers[name], buffer), name
        own = [m.config._attn_implementation for m in (real.model, empty.model)]
        assert own[0] == own[1]
        assert empty.notes == real.notes


@pytest.mark.parametrize("kept", ["float32", "bfloat16"])
def test_trained_weights_are_kept_in_the_precision_asked_for(base: Path, kept: str) -> None:
    changes = {"weights": kept, "optimizer": "adamw_8bit"}
    for settings, folder in (
        (Train(model=str(base), **changes), base),
        (SCRATCH.model_copy(update=changes), None),
    ):
        trainee = made(settings, folder, dtype=torch.bfloat16)
        assert {str(p.dtype) for p in trainee.model.parameters()} == {f"torch.{kept}"}
        assert {b.dtype for b in trainee.model.buffers()} == {torch.float32}


def test_an_embedding_grows_to_a_multiple_of_64_and_says_so(base: Path) -> None:
    tokenizer = load_tokenizer(base)
    tokenizer.add_tokens(["<new>"])
    trainee = make_trainee(Train(model=str(base)), tokenizer, ALPACA, 1)
    assert trainee.notes[0] == "embedding grown from 320 to 384 rows for 321 tokens"
    for module in (trainee.model.get_input_embeddings(), trainee.model.get_output_embeddings()):
        assert module.weight.shape == (384, 64)
        mean = module.weight[:320].mean(0)
        assert torch.allclose(module.weight[320:], mean.expand(64, 64), atol=1e-6)
    unchanged = made(Train(model=str(base)), base)
    assert [note for note in unchanged.notes if "embedding" in note] == []


def test_examples_longer_than_the_model_was_made_for_are_refused(base: Path) -> None:
    with pytest.raises(UsageError, match=r"train\.max_length: 600.*made for 512 tokens"):
        made(Train(model=str(base), max_length=600), base)


class TestFiles:
    def test_several_files_with_an_index_are_one_model(self, base: Path, sharded: Path) -> None:
        assert len(list(sharded.glob("*.safetensors"))) > 1
        whole, parts = (made(Train(model=str(folder)), base) for folder in (base, sharded))
        assert torch.equal(logits(whole), logits(parts))

    @pytest.mark.parametrize("damage", ["missing", "torn"])
    def test_one_of_them_missing_or_torn_is_named(
        self, base: Path, sharded: Path, damage: str
    ) -> None:
        path = sorted(sharded.glob("*.safetensors"))[1]
        content = path.read_bytes()
        assert not lacks_weights(sharded)
        try:
            path.unlink()
            assert lacks_weights(sharded)  # so that a download cut short is taken up again
            if damage == "torn":
                path.write_bytes(content[: len(content) // 2])
            with pytest.raises(DataError, match="cannot load this model"):
                made(Train(model=str(sharded)), base)
        finally:
            path.write_bytes(content)

    @pytest.mark.parametrize(("shape", "said"), [(None, "norm.weight"), ((7,), "norm.weight")])
    def test_a_weight_that_is_missing_or_misshapen_is_not_made_up(
        self, base: Path, tmp_path: Path, shape: tuple[int, ...] | None, said: str
    ) -> None:
        folder = save_tiny_model(tmp_path / "model")
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.norm.weight"]
        if shape:
            tensors["model.norm.weight"] = torch.ones(shape)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(DataError, match=said):
            made(Train(model=str(folder)), base)

    def test_pickled_weights_are_read_when_they_are_nothing_but_weights(
        self, base: Path, tmp_path: Path
    ) -> None:
        folder = save_tiny_model(tmp_path / "model")
        safe = folder / "model.safetensors"
        torch.save(load_file(safe), folder / "pytorch_model.bin")
        safe.unlink()
        pickled, expected = (made(Train(model=str(each)), base) for each in (folder, base))
        assert torch.equal(logits(pickled), logits(expected))

        class Hostile:
            def __reduce__(self) -> Any:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        torch.save({"model.norm.weight": Hostile()}, folder / "pytorch_model.bin")
        with pytest.raises(DataError, match="hold more than tensors") as caught:
            made(Train(model=str(folder)), base)
        assert "safetensors" in caught.value.hint
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Hostile(), protocol=2))
        with pytest.raises(DataError):
            made(Train(model=str(folder)), base)
        assert not (tmp_path / "ran").exists()

    def test_a_new_file_without_a_model_is_refused(self, base: Path, tmp_path: Path) -> None:
        for name, said in (("nowhere/there/x", "no such"), (f"{base}/config.json", "no model")):
            with pytest.raises(DataError, match=said):
                made(Train(model=name), base)
        settings = Train(model=str(base), method="lora", lora=Lora(r=2))
        made(settings, base).model.save_pretrained(tmp_path, save_embedding_layers=False)
        with pytest.raises(DataError, match="holds an adapter"):
            made(Train(model=str(tmp_path)), base)


CONFIGURATION = """
from pathlib import Path
from transformers import LlamaConfig
Path({marker!r}).touch()
class OwnConfig(LlamaConfig):
    model_type = "own"
"""
MODELING = """
from transformers import LlamaForCausalLM
from .configuration_own import OwnConfig
class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""
TRAIN_IT = """
import sys
from pathlib import Path
from alpaca_cli.core.errors import DataError
from alpaca_cli.core.settings_train import Train
from alpaca_cli.core.template import ALPACA
from alpaca_cli.model.student import load_trainee, make_trainee
from alpaca_cli.model.tokenizer import load_tokenizer
folder, marker, saved = map(Path, sys.argv[1:])
tokenizer = load_tokenizer(folder / "tokenizer")
try:
    make_trainee(Train(model=str(folder)), tokenizer, ALPACA, 1)
except DataError as error:
    print("refused", error.hint)
print("ran", marker.exists())
settings = Train(model=str(folder), trust_remote_code=True)
for weights in (True, False):
    trainee = make_trainee(settings, tokenizer, ALPACA, 1, weights=weights)
    print(type(trainee.model).__name__, trainee.notes[-1])
    if weights:
        trainee.model.save_pretrained(saved)
again = load_trainee(settings, saved, tokenizer, ALPACA)
print(type(again.model).__name__, sorted(path.name for path in saved.glob("*.py")))
"""


def test_code_that_comes_with_a_model_is_run_only_when_trusted(tmp_path: Path) -> None:
    """In a process of its own: transformers keeps such code in a folder named by a variable."""
    folder, marker = save_tiny_model(tmp_path / "model"), tmp_path / "ran"
    load_tokenizer(folder).save_pretrained(folder / "tokenizer")
    (folder / "configuration_own.py").write_text(CONFIGURATION.format(marker=str(marker)))
    (folder / "modeling_own.py").write_text(MODELING)
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-c", TRAIN_IT, str(folder), str(marker), str(tmp_path / "saved")],
        env=os.environ
        | {"HF_MODULES_CACHE": str(tmp_path / "code"), "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    refused, ran, first, second, again = done.stdout.splitlines()
    assert "train.trust_remote_code=true" in refused
    assert ran == "ran False"
    assert first == second
    assert first.startswith("OwnForCausalLM attention: sdpa")
    assert again == "OwnForCausalLM ['configuration_own.py', 'modeling_own.py']"
    assert done.stderr == ""
