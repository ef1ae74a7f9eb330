"""Tensors one at a time: the same files as the library's, and damage found before it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from alpaca_cli.core.errors import DataError, GateFailed
from alpaca_cli.model.casting import Losses, cast_tensor
from alpaca_cli.model.logits import check_logits
from alpaca_cli.model.tensor_files import (
    Form,
    read_tensor,
    stored_tensors,
    write_tensors,
)

TENSORS = {
    "a.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "b.weight": torch.arange(7, dtype=torch.bfloat16),
    "c.mask": torch.tensor([True, False, True]),
    "d.scalar": torch.tensor(3, dtype=torch.int64),
    "e.empty": torch.zeros(0, 5),
}


def copy(source: Path, target: Path, most: int) -> list[Path]:
    found = stored_tensors(source)
    target.mkdir()
    forms = {name: each.form for name, each in found.items()}
    return write_tensors(target, "model", forms, lambda name: read_tensor(found[name]), most)


def loaded(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


@pytest.mark.parametrize("most", [1, 20, 60, 10**9])
def test_shards_hold_what_the_library_reads(tmp_path: Path, most: int) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = copy(tmp_path, tmp_path / "copy", most)
    found = loaded(tmp_path / "copy")
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    index = tmp_path / "copy" / "model.safetensors.index.json"
    assert index.is_file() == (len(files) > 1)
    if index.is_file():
        named = json.loads(index.read_text())["weight_map"]
        assert all(name in load_file(tmp_path / "copy" / named[name]) for name in TENSORS)
        again = copy(tmp_path / "copy", tmp_path / "again", 10**9)
        assert [path.name for path in again] == ["model.safetensors"]
        assert {k: v.tolist() for k, v in loaded(tmp_path / "again").items()} == {
            k: v.tolist() for k, v in TENSORS.items()
        }


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0")


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 40)


def other_type(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"XX16"'))


def shifted(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"data_offsets":[8,56]', b'"data_offsets":[4,52]'))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (shifted, "a.weight is not where its header says"),
        (cut, "its header names"),
        (longer, "its header names"),
        (no_header, "a header of"),
        (other_type, "unknown type XX16"),
        (Path.unlink, "no model.safetensors"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], None], said: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    damage(path)
    with pytest.raises(DataError, match=said) as caught:
        stored_tensors(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    files = copy(tmp_path, tmp_path / "copy", 20)
    files[1].unlink()
    with pytest.raises(DataError, match=files[1].name):
        stored_tensors(tmp_path / "copy")


def cast(tmp_path: Path, values: Any, dtype: str) -> tuple[torch.Tensor, Losses]:
    save_file({"w": torch.tensor(values)}, tmp_path / "model.safetensors")
    losses, [tensor] = Losses(), stored_tensors(tmp_path).values()
    data = cast_tensor("w", tensor, dtype, losses)
    kind = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}[dtype]
    return torch.frombuffer(data, dtype=kind), losses


def test_a_conversion_says_what_it_cost(tmp_path: Path) -> None:
    found, losses = cast(tmp_path, [1.0, 1.001, -3e-9, 0.0], "F16")
    assert found.tolist() == [1.0, pytest.approx(1.00097656), 0.0, 0.0]
    assert losses.largest == pytest.approx(1.001 - 1.00097656, abs=1e-7)
    assert (losses.where, losses.zeroed, losses.numbers) == ("w", 1, 4)
    found, losses = cast(tmp_path, [70000.0, 1e-30], "BF16")
    assert (found[0].item(), losses.zeroed) == (70144.0, 0)


def test_what_float16_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GateFailed, match=r"w: 2 numbers are too large for float16: 7e\+04"):
        cast(tmp_path, [70000.0, -65520.0, 65504.0], "F16")
    # What was infinite before is not the conversion's fault.
    found, _ = cast(tmp_path, [float("inf"), 1.0], "F16")
    assert found.tolist() == [float("inf"), 1.0]


def test_logits_that_differ_are_refused() -> None:
    source = [torch.tensor([[1.0, 2.0], [3.0, 1.0]])]
    close = [source[0] + torch.tensor([[0.0, 0.001], [0.0, 0.0]])]
    check = check_logits(source, close, bound=1e-3, name="x")
    assert check.largest == pytest.approx(0.001, rel=1e-3)
    assert check.relative == pytest.approx(0.001 / 15**0.5, rel=1e-3)
    assert (check.argmax, check.positions) == (1.0, 2)
    for bound in (0.0, 1e-4):
        with pytest.raises(GateFailed, match="x: the reloaded model is not the source"):
            check_logits(source, close, bound=bound, name="x")
    with pytest.raises(GateFailed, match="vocabulary"):
        check_logits(source, [torch.ones(2, 3)], bound=1.0, name="x")
    nothing = [torch.full((2, 2), float("nan"))]
    with pytest.raises(GateFailed, match="not the source"):
        check_logits(nothing, source, bound=1.0, name="x")


def test_forms_count_bytes() -> None:
    assert Form("BF16", (3, 4)).size == 24
    assert Form("F32", ()).size == 4
    assert Form("BF16", (3, 4)).unsigned == Form("U16", (3, 4))
