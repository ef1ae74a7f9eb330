"""Writing a student: a model folder that transformers (and peft, for an adapter) loads as it is.

How the student was made or trained is not known here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.core.files import disk_error
from alpaca_cli.model.locate import ADAPTER_CONFIG
from alpaca_cli.model.student import Trainee, quiet_transformers
from alpaca_cli.model.tokenizer import Tokenizer


def save_trainee(trainee: Trainee, folder: Path) -> list[str]:
    """Write weights, tokenizer, template and generation settings; returns the file names.

    `folder` is new and not yet visible to anyone: the caller renames it into place.

    Raises:
        ResourceError: the disk is full.
    """
    model, tokenizer = trainee.model, trainee.tokenizer
    quiet_transformers()
    with full_disk(folder):
        folder.mkdir(parents=True)
        _set_special_tokens(model, tokenizer)
        model.save_pretrained(folder)
        if (folder / ADAPTER_CONFIG).is_file():  # peft leaves these to the base model
            model.get_base_model().generation_config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        trainee.template.save(folder)
    return sorted(path.name for path in folder.iterdir())


def _set_special_tokens(model: Any, tokenizer: Tokenizer) -> None:
    """Make config and generation_config stop at the EOS that was trained."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for config in (base.config, base.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id


@contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Every library's way of saying that a write failed, as our error."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, path) from error
    except (SafetensorError, RuntimeError) as error:
        # safetensors says it in its text; torch.save fails over the OSError of the file it got.
        if isinstance(error.__context__, OSError):
            raise disk_error(error.__context__, path) from error
        if "os error 28" in str(error):
            raise disk_error(OSError(errno.ENOSPC, ""), path) from error
        raise


def verify_saved(trainee: Trainee, folder: Path) -> None:
    """Read the saved weights back: every trained tensor is there, whole, and finite.

    An adapter whose B matrices are all zero changes nothing, and has been written without an
    error before (peft with wrapped modules): it is refused here.

    Raises:
        GateFailed: something is missing or empty.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    lora_b_moved = False
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor = file.get_tensor(name)
                shapes[name] = tuple(tensor.shape)
                if not torch.isfinite(tensor).all():
                    raise GateFailed(f"{path}: {name} holds numbers that are not finite")
                lora_b_moved |= "lora_B" in name and bool(tensor.any())
    adapter = (folder / ADAPTER_CONFIG).is_file()
    expected = _expected_tensors(trainee.model, adapter)
    if len(shapes) < expected:
        raise GateFailed(f"{folder}: {len(shapes)} tensors were saved, {expected} were trained")
    if adapter and not lora_b_moved:
        raise GateFailed(
            f"{folder}: the adapter is all zeros: training changed nothing",
            hint="raise train.learning_rate, or train for more steps",
        )


def _expected_tensors(model: Any, adapter: bool) -> int:
    """How many tensors a whole save holds: tied weights are stored once."""
    if adapter:
        return sum(1 for name, _ in model.named_parameters() if "lora_" in name)
    return sum(1 for _ in model.parameters())
