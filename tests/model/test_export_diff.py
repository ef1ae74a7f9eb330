"""Weight differences: back bit for bit, for two models of one architecture, in little memory."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.model.tensor_files import Form, read_tensor, sha256, stored_tensors, write_tensors
from alpaca_cli.model.weight_diff import (
    Manifest,
    _difference,
    _sum,
    compare,
    read_manifest,
    recover,
    verify_difference,
    verify_tensors,
    write_difference,
    write_manifest,
)

ODD = [0.0, -0.0, 1.0, -1.0, 1e-40, -1e-40, 3e38, float("inf"), float("-inf"), float("nan")]


def nothing() -> None:
    pass


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({name: each.contiguous() for name, each in tensors.items()}, folder / NAME)
    return folder


NAME = "model.safetensors"


def make(tuned: Path, base: Path, folder: Path, most: int = 10**9) -> Manifest:
    folder.mkdir()
    ours, theirs = stored_tensors(tuned), stored_tensors(base)
    entries = compare(ours, theirs, "base", nothing)
    write_difference(ours, theirs, entries, folder, most, nothing)
    write_manifest(folder, Manifest("base", entries, {}, {}))
    manifest = read_manifest(folder)
    verify_difference(folder, theirs, manifest, nothing)
    return manifest


def back(diff: Path, base: Path, folder: Path) -> Path:
    folder.mkdir()
    manifest = read_manifest(diff)
    recover(diff, stored_tensors(base), folder, manifest, 10**9, "base")
    verify_tensors(folder, manifest, nothing)
    return folder


def same_bits(one: Path, other: Path) -> bool:
    ours, theirs = stored_tensors(one), stored_tensors(other)
    return ours.keys() == theirs.keys() and all(
        ours[name].form == theirs[name].form
        and read_tensor(ours[name]) == read_tensor(theirs[name])
        for name in ours
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_model_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(40, 16)
    odd = torch.tensor([ODD, ODD[::-1]])
    base = save(
        tmp_path / "base", {"w": weight.to(dtype), "odd": odd.to(dtype), "n": odd[0].clone()}
    )
    changed = weight + torch.randn(40, 16) * 1e-3
    changed[0] = weight[0] * 1e-3
    tuned = save(
        tmp_path / "tuned",
        {"w": changed.to(dtype), "odd": odd.flip(1).to(dtype), "n": odd[0].clone()},
    )
    manifest = make(tuned, base, tmp_path / "diff")
    assert same_bits(back(tmp_path / "diff", base, tmp_path / "back"), tuned)
    assert not manifest.tensors["n"].stored
    assert set(load_file(tmp_path / "diff" / "weight_diff.safetensors")) == {"w", "odd"}
    # What made integers of bits necessary: in floating point it would not have come back.
    floats = load_file(tuned / NAME)["w"], load_file(base / NAME)["w"]
    if dtype != torch.float64:
        assert not torch.equal(floats[1] + (floats[0] - floats[1]), floats[0])


@given(st.lists(st.tuples(*[st.integers(0, 2**16 - 1)] * 2), min_size=1), st.sampled_from([2, 4]))
def test_any_bits_come_back(pairs: list[tuple[int, int]], width: int) -> None:
    scale = 65537 if width == 4 else 1
    tuned, base = (
        np.array([pair[side] * scale for pair in pairs], f"<u{width}").view(f"<i{width}")
        for side in (0, 1)
    )
    stored = _difference(tuned.copy(), base.copy())
    assert np.array_equal(_sum(stored.copy(), base), tuned)


def test_neighbours_are_small_numbers() -> None:
    one = torch.tensor([1.0, -2.0, 0.5]).numpy().view("<i4")
    steps = np.array([1, -1, 3], dtype="<i4")
    assert _difference(one + steps, one.copy()).tolist() == [2, 1, 6]


def test_new_rows_new_tensors_and_other_types(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows, head, norm = torch.randn(8, 4), torch.randn(8, 4), torch.randn(4)
    fewer = {"embed": rows.bfloat16(), "norm": norm.bfloat16(), "w": head.bfloat16()}
    base = save(tmp_path / "base", {**fewer, "unused": norm})
    grown = torch.cat([rows + 0.01, torch.randn(3, 4)])
    tuned = save(
        tmp_path / "tuned",
        {"embed": grown, "norm": norm, "w": head[:5].bfloat16(), "head": head},
    )
    manifest = make(tuned, base, tmp_path / "diff", most=100)
    assert same_bits(back(tmp_path / "diff", base, tmp_path / "back"), tuned)
    entries = manifest.tensors
    assert entries["head"].base is None
    assert [entries[n].base.rows for n in ("embed", "norm", "w")] == [8, None, 5]  # type: ignore[union-attr]  # all three have one
    stored = stored_tensors(tmp_path / "diff", "weight_diff")
    bits = np.frombuffer(read_tensor(stored["head"]), "<i4")
    assert np.array_equal(bits, head.numpy().view("<i4").ravel())  # as it is
    assert len({each.file for each in stored.values()}) > 1


def test_another_base_is_refused_by_name(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {f"layer.{n}": torch.randn(4, 4) for n in range(6)}
    base = save(tmp_path / "base", tensors)
    tuned = save(tmp_path / "tuned", {name: each + 1 for name, each in tensors.items()})
    make(tuned, base, tmp_path / "diff")
    wrong = dict(tensors)
    for name in ("layer.1", "layer.4"):
        wrong[name] = tensors[name].clone()
        wrong[name][3, 3] += 1e-6
    del wrong["layer.5"]
    other = save(tmp_path / "other", wrong)
    with pytest.raises(DataError) as caught:
        back(tmp_path / "diff", other, tmp_path / "back")
    assert str(caught.value).endswith(
        "layer.1 has other values; layer.4 has other values; layer.5 is missing"
    )
    assert not list((tmp_path / "back").iterdir())


def test_damage_to_a_difference_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = save(tmp_path / "base", {"w": torch.randn(64, 64), "v": torch.randn(64)})
    tuned = save(tmp_path / "tuned", {"w": torch.randn(64, 64), "v": torch.randn(64)})
    manifest = make(tuned, base, tmp_path / "diff")
    file = tmp_path / "diff" / "weight_diff.safetensors"
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    file.write_bytes(flipped)
    with pytest.raises(DataError, match=r"weight_diff.safetensors: w is damaged"):
        back(tmp_path / "diff", base, tmp_path / "back")
    with pytest.raises(GateFailed, match="w does not come back"):
        verify_difference(tmp_path / "diff", stored_tensors(base), manifest, nothing)
    file.write_bytes(whole[:-1])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        back(tmp_path / "diff", base, tmp_path / "back2")
    shutil.copy(tuned / NAME, tmp_path / "back2" / NAME)
    (tmp_path / "back2" / NAME).write_bytes(whole.replace(b'"U32"', b'"F32"'))
    with pytest.raises(GateFailed, match="is not the tuned model's"):
        verify_tensors(tmp_path / "back2", manifest, nothing)


@pytest.mark.parametrize(
    ("theirs", "said"),
    [
        ({"a": (4, 4), "b": (4, 6)}, r"b: \[4, 5\], in the base \[4, 6\]"),
        ({"x": (4, 4), "y": (4, 5)}, "it has 0 of the 2 tensors"),
    ],
)
def test_another_architecture_is_refused(
    tmp_path: Path, theirs: dict[str, tuple[int, int]], said: str
) -> None:
    tuned = save(tmp_path / "tuned", {"a": torch.ones(4, 4), "b": torch.ones(4, 5)})
    base = save(tmp_path / "base", {name: torch.zeros(shape) for name, shape in theirs.items()})
    with pytest.raises(UsageError, match=said):
        make(tuned, base, tmp_path / "diff")


def test_memory_is_that_of_two_tensors(tmp_path: Path) -> None:
    """Forty tensors of a megabyte, differences made, checked, and summed up again."""
    size, count = 1 << 20, 40
    forms = {f"layer.{n:02}": Form("BF16", (size // 2,)) for n in range(count)}
    draw = np.random.default_rng(0)
    for name in ("tuned", "base"):
        (tmp_path / name).mkdir()
        write_tensors(tmp_path / name, "model", forms, lambda _: draw.bytes(size), 7 * size)
    tracemalloc.start()
    try:
        make(tmp_path / "tuned", tmp_path / "base", tmp_path / "diff", most=10 * size)
        made = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        back(tmp_path / "diff", tmp_path / "base", tmp_path / "back")
        recovered = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two tensors, a block of signs, and what is known of forty tensors.
    assert made < 2.5 * size
    assert recovered < 2.5 * size
    assert {sha256(t) for t in stored_tensors(tmp_path / "back").values()} == {
        sha256(t) for t in stored_tensors(tmp_path / "tuned").values()
    }
