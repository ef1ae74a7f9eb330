"""Other programs' formats beside an exported model: GGUF for llama.cpp, a Modelfile for Ollama."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.files import read_json, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.template import PromptTemplate
from alpaca_cli.data.modelfile import FILE_NAME as MODELFILE
from alpaca_cli.data.modelfile import modelfile
from alpaca_cli.model import gguf_file
from alpaca_cli.model.locate import CONFIG

GENERATION = "generation_config.json"


def check_gguf(kind: str, llama_cpp: str | None) -> None:
    """Refuse a GGUF that nothing here can write; names what to install.

    Raises:
        UsageError: a tool of llama.cpp is missing.
    """
    gguf_file.find_tools(llama_cpp, kind)


def write_gguf(
    folder: Path,
    name: str,
    kind: str,
    llama_cpp: str | None,
    asked: Mapping[str, Sequence[int]],
    progress: Progress,
) -> dict[str, Any]:
    """Convert a model folder, in itself; what was written and found when it was read back.

    Args:
        asked: prompt text -> the ids that llama.cpp has to make of it.

    Raises:
        DataError: llama.cpp does not know the model or its tokenizer.
        GateFailed: the GGUF is not the model.
    """
    progress.info(f"export: llama.cpp writes the GGUF ({kind})")
    tools = gguf_file.find_tools(llama_cpp, kind)
    path = gguf_file.convert(folder, name, kind, tools)
    found: dict[str, Any] = {"file": path.name, "verified": False, "tokens_checked": False}
    if gguf_file.can_verify():
        check = gguf_file.verify_gguf(path, folder, list(asked.values()))
        found |= {**asdict(check), "verified": True}
    else:
        progress.warn("the GGUF was not read back: that needs the package gguf (pip install gguf)")
    if tools.tokenize is not None and asked:
        gguf_file.check_tokens(path, tools.tokenize, asked)
        found["tokens_checked"] = True
    return found


def write_modelfile(folder: Path, template: PromptTemplate | None, weights: str | None) -> None:
    """Write Ollama's Modelfile for a GGUF in the folder, or for the folder itself.

    Raises:
        UsageError: the template cannot be written in a Modelfile.
    """
    config = read_json(folder / CONFIG)
    text = modelfile(
        f"./{weights}" if weights else ".",
        template,
        stops=_stops(folder, config),
        context=config.get("max_position_embeddings"),
        sampling=_sampling(folder),
    )
    write_text(folder / MODELFILE, text)


def ollama_command(folder: Path) -> str:
    """The command for a Modelfile, where there is one and Ollama is installed; else ''."""
    if not (folder / MODELFILE).is_file() or shutil.which("ollama") is None:
        return ""
    return shlex.join(["ollama", "create", folder.name.lower(), "-f", str(folder / MODELFILE)])


def _stops(folder: Path, config: dict[str, Any]) -> list[str]:
    """Texts of the tokens that end an answer."""
    from alpaca_cli.model.export import token_names

    named = config.get("eos_token_id")
    if (folder / GENERATION).is_file():
        named = read_json(folder / GENERATION).get("eos_token_id", named)
    ids = named if isinstance(named, list) else [] if named is None else [named]
    if not ids:
        raise UsageError(f"--ollama: {folder / CONFIG} names no token that ends an answer")
    return token_names(folder, ids)


def _sampling(folder: Path) -> dict[str, Any]:
    """The model's own sampling in Ollama's words; greedy when it names none."""
    path = folder / GENERATION
    own = read_json(path) if path.is_file() else {}
    if not own.get("do_sample"):
        return {"temperature": 0}
    found = {"temperature": own.get("temperature", 1.0)}
    found |= {key: own[key] for key in ("top_p", "top_k") if own.get(key) is not None}
    return found
