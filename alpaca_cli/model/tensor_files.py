"""Tensors on disk, one at a time: reading safetensors files, and writing them in shards.

A 7B model is read, changed and written in the memory of its largest tensor. The library's own
writer wants all tensors of a file at once, and its reader maps whole files; a file is 8 bytes of
header length, a JSON header with dtype, shape and offsets of every tensor, and then their bytes
(source: the format section of safetensors' README). Bytes are passed on as they are: what the
numbers mean is not known here, and torch is not needed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import read_json, write_json
from alpaca_cli.model.locate import ADAPTER_CONFIG

MODEL, ADAPTER = "model", "adapter_model"  # what files of weights are called, without suffix
HEADER_LIMIT = 100_000_000  # bytes; the library refuses larger ones, too
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
CODES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}  # what a person writes -> safetensors


@dataclass(frozen=True, slots=True)
class Form:
    """What a tensor looks like: dtype as safetensors writes it, and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def unsigned(self) -> Form:
        """The same with unsigned integers as wide as its numbers."""
        return Form(f"U{8 * ITEM_BYTES[self.dtype]}", self.shape)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file; `start` is the offset of its first byte."""

    form: Form
    file: Path
    start: int


Tensors = Mapping[str, Stored]


def cast_forms(tensors: Tensors, dtype: str) -> dict[str, Form]:
    """Name -> form in another precision (`keep`: the same); integers stay what they are."""
    wanted = CODES.get(dtype)
    return {
        name: Form(
            wanted if wanted and each.form.dtype in FLOATS else each.form.dtype, each.form.shape
        )
        for name, each in tensors.items()
    }


def stored_tensors(folder: Path, stem: str = MODEL) -> dict[str, Stored]:
    """Name -> tensor of the files `<stem>*.safetensors` in a folder, sorted by name.

    Raises:
        DataError: there are none, one that the index names is missing, or one is damaged.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if single.is_file():
        found = _header(single)
    elif index.is_file():
        named = read_json(index)["weight_map"]
        found = {}
        for name in sorted(set(named.values())):
            found |= _header(folder / name)
        if missing := sorted(named.keys() - found.keys()):
            raise DataError(f"{folder / named[missing[0]]}: {missing[0]} is not in it")
        found = {name: found[name] for name in named}
    else:
        raise DataError(f"{folder}: no {single.name} and no {index.name}")
    return dict(sorted(found.items()))


def weights_of(folder: Path) -> dict[str, Stored]:
    """The tensors of a model folder, or of an adapter's.

    Raises:
        DataError: see `stored_tensors`.
    """
    return stored_tensors(folder, ADAPTER if (folder / ADAPTER_CONFIG).is_file() else MODEL)


def read_into(tensor: Stored, buffer: Any) -> None:
    """Read a tensor's bytes into a writable buffer of its size, or to the start of a larger one."""
    try:
        with open(tensor.file, "rb", buffering=0) as file:
            file.seek(tensor.start)
            view, done = memoryview(buffer).cast("B")[: tensor.form.size], 0
            while done < len(view):
                read = file.readinto(view[done:])
                if not read:
                    raise DataError(f"{tensor.file}: ends too early: it was cut short")
                done += read
    except OSError as error:
        raise DataError(f"{tensor.file}: cannot read: {error.strerror or error}") from error


def read_tensor(tensor: Stored) -> bytearray:
    """A tensor's bytes, little-endian, in row-major order."""
    buffer = bytearray(tensor.form.size)
    read_into(tensor, buffer)
    return buffer


def sha256(tensor: Stored) -> str:
    """sha256 of a tensor's bytes, hexadecimal."""
    return hashlib.sha256(read_tensor(tensor)).hexdigest()


def shard_plan(forms: Mapping[str, Form], stem: str, most: int) -> dict[str, list[str]]:
    """File name -> names of its tensors: files of at most `most` bytes, but for larger tensors."""
    shards: list[list[str]] = [[]]
    room = most
    for name, form in forms.items():
        if shards[-1] and form.size > room:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= form.size
    for shard in shards:  # larger items first: every tensor starts at a multiple of its item
        shard.sort(key=lambda name: (-ITEM_BYTES[forms[name].dtype], name))
    if len(shards) == 1:
        return {f"{stem}.safetensors": shards[0]}
    return {
        f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors": shard
        for number, shard in enumerate(shards, 1)
    }


def header_of(names: Sequence[str], forms: Mapping[str, Form]) -> bytes:
    """The beginning of a file that holds these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in names:
        form = forms[name]
        header[name] = {
            "dtype": form.dtype,
            "shape": list(form.shape),
            "data_offsets": [at, at + form.size],
        }
        at += form.size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    folder: Path, stem: str, forms: Mapping[str, Form], load: Callable[[str], Any], most: int
) -> list[Path]:
    """Write tensors into shards and, for more than one, their index; the files written.

    Args:
        load: gives the bytes of a tensor when its turn comes; they are not kept.
        most: bytes in a file.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    plan = shard_plan(forms, stem, most)
    for file_name, names in plan.items():
        with open(folder / file_name, "wb") as file:
            file.write(header_of(names, forms))
            for name in names:
                _write(file, name, forms[name], load(name))
            file.flush()
            os.fsync(file.fileno())
    files = [folder / name for name in plan]
    if len(plan) > 1:
        places = {name: file_name for file_name, names in plan.items() for name in names}
        index = {
            "metadata": {"total_size": sum(form.size for form in forms.values())},
            "weight_map": dict(sorted(places.items())),
        }
        files.append(folder / f"{stem}.safetensors.index.json")
        write_json(files[-1], index)
    return files


def _write(file: IO[bytes], name: str, form: Form, data: Any) -> None:
    view = memoryview(data).cast("B")
    if len(view) != form.size:
        raise ValueError(f"{name}: {len(view)} bytes for {form}")
    file.write(view)


def _header(path: Path) -> dict[str, Stored]:
    """The tensors of one file, from its header, which is checked against the file's size."""

    def damaged(why: str) -> DataError:
        return DataError(f"{path}: not a whole safetensors file: {why}")

    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise damaged(f"a header of {length:,} bytes in a file of {size:,}")
            header = json.loads(file.read(length))
        found, at = {}, 0
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            form = Form(entry["dtype"], tuple(entry["shape"]))
            if form.dtype not in ITEM_BYTES:
                raise damaged(f"{name} is of the unknown type {form.dtype}")
            if entry["data_offsets"] != [at, at + form.size]:
                raise damaged(f"{name} is not where its header says")
            found[name] = Stored(form, path, 8 + length + at)
            at += form.size
    except OSError as error:
        raise DataError(f"{path}: cannot read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(f"its header cannot be read ({error})") from error
    if 8 + length + at != size:
        raise damaged(f"{size:,} bytes, its header names {8 + length + at:,}")
    return found
