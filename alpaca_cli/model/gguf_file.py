"""GGUF through llama.cpp's own tools, and reading a GGUF back.

`convert_hf_to_gguf.py` writes it, `llama-quantize` packs its weights further; both are run as
processes and come from a llama.cpp that the person has. Reading back needs the package `gguf`.
llama.cpp knows a byte-level tokenizer by a hash of what it does, and refuses those that it does
not know: a tokenizer trained from scratch (`train.model: {config: …}`) is one of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alpaca_cli.core.errors import DataError, GateFailed, ResourceError, UsageError
from alpaca_cli.core.files import read_json
from alpaca_cli.model.chat_template import FILE_NAME as CHAT_TEMPLATE
from alpaca_cli.model.locate import CONFIG
from alpaca_cli.model.tensor_files import Stored, read_tensor, stored_tensors

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
QUANTIZE, TOKENIZE = "llama-quantize", "llama-tokenize"
DIRECT = ("auto", "f32", "f16", "bf16", "q8_0", "tq1_0", "tq2_0")  # what the converter writes
ENVIRONMENT = "LLAMA_CPP"
INSTALL = (
    "git clone https://github.com/ggml-org/llama.cpp, pip install its requirements, and name the "
    f"folder with --llama-cpp DIR or {ENVIRONMENT}"
)
SCORES = (
    "transformers 5 saves no tokenizer.model, without which llama.cpp does not know in which order "
    "pieces are joined: copy the base model's into the model folder"
)
# Where the numbers of a GGUF tensor are those of the model, but for the order of some rows.
PLAIN = ("llama", "qwen2", "qwen3")
# ||packed - exact|| / ||exact|| of one matrix: about 0.005 at 8 bits, 0.1 at 4, 0.3 at 2.
PACKED = 0.5


@dataclass(frozen=True, slots=True)
class Tools:
    """llama.cpp's programs.

    Attributes:
        quantize: None when it is not needed.
        tokenize: None when it is not built; the prompt's tokens are not checked then.
    """

    convert: list[str]
    quantize: str | None
    tokenize: str | None


@dataclass(frozen=True, slots=True)
class GgufCheck:
    """What reading a GGUF back found.

    Attributes:
        compared: tensors whose numbers were compared with the model's; the others by shape only.
        largest: largest relative difference of a tensor: 0 but for packed types.
    """

    tensors: int
    compared: int
    largest: float
    types: Mapping[str, int]


def find_tools(folder: str | None, kind: str) -> Tools:
    """llama.cpp's programs for a type of GGUF.

    Args:
        folder: a checkout of llama.cpp; else the environment's, else what is on PATH.

    Raises:
        UsageError: one is missing; says what to install.
    """
    named = folder or os.environ.get(ENVIRONMENT)
    root = Path(named).expanduser().resolve() if named else None
    if root is not None and not root.is_dir():
        raise UsageError(f"{root}: no such folder (llama.cpp)", hint=INSTALL)
    convert = _converter(root)
    if convert is None:
        place = f"in {root}" if root else "on PATH"
        raise UsageError(f"--gguf needs llama.cpp: no {CONVERTERS[0]} {place}", hint=INSTALL)
    tokenize, quantize = _program(root, TOKENIZE), None
    if kind.lower() not in DIRECT:
        quantize = _program(root, QUANTIZE)
        if quantize is None:
            raise UsageError(
                f"--gguf {kind} needs {QUANTIZE}, which is not built",
                hint="in llama.cpp: cmake -B build && cmake --build build --target "
                f"{QUANTIZE}; without it: {', '.join(DIRECT)}",
            )
    return Tools(convert, quantize, tokenize)


def _program(root: Path | None, name: str) -> str | None:
    """A compiled program of llama.cpp: where its build puts it, or on PATH."""
    for folder in (root / "build" / "bin", root) if root else ():
        if (folder / name).is_file():
            return str(folder / name)
    return shutil.which(name)


def _converter(root: Path | None) -> list[str] | None:
    if root is not None:
        path = root / CONVERTERS[0]
        return [sys.executable, str(path)] if path.is_file() else None
    for name in CONVERTERS:
        if found := shutil.which(name):
            return [sys.executable, found] if name.endswith(".py") else [found]
    return None


def convert(folder: Path, name: str, kind: str, tools: Tools) -> Path:
    """Write `<name>-<type>.gguf` into a model folder; its path.

    Raises:
        DataError: llama.cpp does not know the model or its tokenizer.
        UsageError: its tools fail for another reason, or do not know the type.
    """
    first = kind.lower() if tools.quantize is None else "auto"
    with TemporaryDirectory() as place:
        # The converter writes the name of the folder into the file.
        link = Path(place) / name
        link.symlink_to(folder.resolve())
        outfile = folder / f"{name}-{{ftype}}.gguf"
        _run([*tools.convert, str(link), "--outfile", str(outfile), "--outtype", first], folder)
    written = list(folder.glob("*.gguf"))
    if len(written) != 1:
        raise UsageError(f"{tools.convert[-1]} wrote {len(written)} files", hint=INSTALL)
    if tools.quantize is None:
        return written[0]
    packed = folder / f"{name}-{kind.upper()}.gguf"
    _run([tools.quantize, str(written[0]), str(packed), kind.upper()], folder)
    written[0].unlink()
    return packed


def check_tokens(path: Path, program: str, asked: Mapping[str, Sequence[int]]) -> None:
    """llama.cpp makes the same tokens of each prompt as training did.

    Args:
        asked: prompt text -> its ids.

    Raises:
        GateFailed: it does not.
    """
    for text, ids in asked.items():
        said = _run([program, "-m", str(path), "-p", text, "--ids", "--log-disable"], path.parent)
        found = json.loads(said.strip().splitlines()[-1])
        if found != list(ids):
            at = next(
                (n for n, pair in enumerate(zip(found, ids, strict=False)) if len(set(pair)) > 1), 0
            )
            raise GateFailed(
                f"{path.name}: llama.cpp does not split a prompt as training did: token {at + 1} "
                f"is {found[at]}, not {ids[at]}",
                hint=SCORES,
            )


def _run(command: list[str], folder: Path) -> str:
    """Run a program of llama.cpp to its end; what it wrote on stdout."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    if done.returncode == 0:
        return done.stdout
    said = done.stderr + done.stdout
    if "pre-tokenizer was not recognized" in said:
        known = re.search(r"chkhsh:\s+(\w+)", said)
        raise DataError(
            "llama.cpp does not know this model's tokenizer"
            + (f" (pre-tokenizer hash {known[1][:16]}…)" if known else "")
            + ": it converts byte-level tokenizers of the models that it lists only",
            hint="a tokenizer trained from scratch has no GGUF form: fine-tune a known model "
            "(train.model), or leave --gguf out",
        )
    if "is not supported" in said and "Model " in said:
        raise DataError("llama.cpp does not know this architecture", hint="leave --gguf out")
    if "No space left" in said:
        raise ResourceError(f"{folder}: no space left on the disk", hint="free space and run again")
    lines = [line for line in said.splitlines() if line.strip()]
    raise UsageError(
        f"{Path(command[1 if command[0] == sys.executable else 0]).name} failed: "
        f"{lines[-1] if lines else f'exit code {done.returncode}'}",
        hint="its Python packages: pip install -r requirements.txt in llama.cpp"
        if "ModuleNotFoundError" in said
        else "",
    )


def can_verify() -> bool:
    """Whether the package that reads GGUF is installed."""
    return find_spec("gguf") is not None


def verify_gguf(path: Path, folder: Path, asked: Collection[Sequence[int]]) -> GgufCheck:
    """Read a GGUF back and compare it with the model folder that it was made from.

    All tensors are there with their shapes; their numbers are the model's in that precision, or
    near them where they are packed; BOS, EOS and chat template are the model's.

    Args:
        asked: ids of prompts, as training made them.

    Raises:
        GateFailed: something is missing or differs.
    """
    gguf: Any = import_module("gguf")  # it is no dependency of ours
    reader = gguf.GGUFReader(path)
    arch = _field(reader, "general.architecture")
    config = read_json(folder / CONFIG)
    layers = int(_field(reader, f"{arch}.block_count"))
    key = next((k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch), None)
    names = gguf.get_tensor_name_map(key, layers)
    written = {each.name: each for each in reader.tensors}
    types: dict[str, int] = {}
    compared, largest = 0, 0.0
    for name, tensor in stored_tensors(folder).items():
        mapped = names.get_name(name, try_suffixes=(".weight", ".bias"))
        found = written.get(mapped or "")
        if found is None:
            raise GateFailed(f"{path.name}: {name} is not in it")
        if tuple(reversed(found.shape.tolist())) != tensor.form.shape:
            raise GateFailed(f"{path.name}: {mapped} has the shape {found.shape.tolist()}")
        types[found.tensor_type.name] = types.get(found.tensor_type.name, 0) + 1
        if arch in PLAIN:
            heads = _heads(config, name) if arch == "llama" else 0
            largest = max(largest, _apart(path, found, tensor, heads))
            compared += 1
    _check_words(reader, path, folder, config)
    _check_bos(reader, path, asked)
    return GgufCheck(len(reader.tensors), compared, largest, types)


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()


def _heads(config: Mapping[str, Any], name: str) -> int:
    """Heads whose rows llama.cpp orders otherwise (its rotary embedding); 0 for no such tensor."""
    heads = int(config["num_attention_heads"])
    if ".q_proj." in name:
        return heads
    return int(config.get("num_key_value_heads") or heads) if ".k_proj." in name else 0


def _apart(path: Path, found: Any, tensor: Stored, heads: int) -> float:
    """Relative difference of a GGUF tensor and the model's."""
    import torch

    from alpaca_cli.model.casting import TORCH

    quants: Any = import_module("gguf.quants")
    exact = torch.frombuffer(read_tensor(tensor), dtype=TORCH[tensor.form.dtype])
    kind = found.tensor_type.name
    if kind in TORCH:
        exact = exact.to(TORCH[kind])
    exact = exact.float().reshape(tensor.form.shape)
    if heads:
        rows = exact.shape[0]
        exact = exact.reshape(heads, 2, rows // heads // 2, *exact.shape[1:])
        exact = exact.swapaxes(1, 2).reshape(tensor.form.shape)
    values = torch.from_numpy(quants.dequantize(found.data, found.tensor_type).copy())
    apart = float((values.reshape(exact.shape) - exact).norm() / exact.norm().clamp_min(1e-30))
    if not apart <= (0.0 if kind in TORCH else PACKED):
        raise GateFailed(f"{path.name}: {found.name} differs from the model's by {apart:.2g}")
    return apart


def _check_words(reader: Any, path: Path, folder: Path, config: Mapping[str, Any]) -> None:
    """Tokenizer and chat template of a GGUF."""
    scores = _field(reader, "tokenizer.ggml.scores")
    if _field(reader, "tokenizer.ggml.model") == "llama" and scores and len(set(scores)) == 1:
        raise GateFailed(f"{path.name}: its tokenizer has lost its scores", hint=SCORES)
    eos, known = _field(reader, "tokenizer.ggml.eos_token_id"), config.get("eos_token_id")
    if known is not None and eos not in (known if isinstance(known, list) else [known]):
        raise GateFailed(f"{path.name}: its EOS is token {eos}, the model's is {known}")
    template = folder / CHAT_TEMPLATE
    if template.is_file():
        text = template.read_text("utf-8")
        if _field(reader, "tokenizer.chat_template") != text:
            raise GateFailed(f"{path.name}: its chat template is not the model's")


def _check_bos(reader: Any, path: Path, asked: Collection[Sequence[int]]) -> None:
    """BOS stands before a prompt if, and only if, it did in training."""
    kind, bos = (_field(reader, f"tokenizer.ggml.{key}") for key in ("model", "bos_token_id"))
    added = _field(reader, "tokenizer.ggml.add_bos_token")
    if added is None:
        added = kind == "llama"  # llama.cpp's default
    for ids in asked:
        if bos is not None and added != (ids[0] == bos):
            does, wants = ("puts", "did not") if added else ("does not put", "did")
            raise GateFailed(
                f"{path.name}: llama.cpp {does} BOS before a prompt, training {wants}",
                hint=f'write "add_bos_token": {str(not added).lower()} into the tokenizer_config'
                ".json of the model folder",
            )
