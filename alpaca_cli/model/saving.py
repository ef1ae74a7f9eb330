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
from transformers.core_model_loading import revert_weight_conversion

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.core.files import disk_error
from alpaca_cli.model.locate import weight_files
from alpaca_cli.model.student import Trainee, quiet_transformers
from alpaca_cli.model.tokenizer import Tokenizer

SHARD = "5GB"  # largest file of weights: what hubs and slow links like


def save_trainee(
    trainee: Trainee, folder: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Write weights, tokenizer, template and generation settings.

    `folder` is new and not yet visible to anyone: the caller renames it into place.

    Args:
        state: the trained tensors where the model itself holds parts of them (FSDP2).

    Raises:
        ResourceError: the disk is full.
    """
    model, tokenizer = trainee.model, trainee.tokenizer
    quiet_transformers()
    with full_disk(folder):
        folder.mkdir(parents=True)
        _set_special_tokens(model, tokenizer)
        if hasattr(model, "get_base_model"):
            # New rows of the embedding are trained tensors of the adapter, the others are the
            # base's: without being told, peft asks the hub for its size, and may save them all.
            model.save_pretrained(folder, state_dict=state, save_embedding_layers=False)
            # peft leaves these to the base model
            model.get_base_model().generation_config.save_pretrained(folder)
        else:
            model.save_pretrained(folder, state_dict=state, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
        trainee.template.save(folder)


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


def verify_saved(
    trainee: Trainee, folder: Path, state: dict[str, torch.Tensor] | None = None
) -> None:
    """Read the saved weights back: every trained tensor is there, finite, and bit for bit equal.

    Wrapped modules have led to adapters of 40 bytes without an error (peft under FSDP with
    activation checkpointing): what is missing is refused here.

    Args:
        state: as in `save_trainee`.

    Raises:
        GateFailed: something is missing or differs.
    """
    expected = _expected(trainee.model, state)
    found: set[str] = set()
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                tensor, trained = file.get_tensor(name), expected.get(name)
                found.add(name)
                if not torch.isfinite(tensor).all():
                    raise GateFailed(f"{path}: {name} holds numbers that are not finite")
                if trained is not None and not torch.equal(tensor, trained.detach().cpu()):
                    raise GateFailed(
                        f"{path}: {name} is not what was trained",
                        hint="the disk or a library changed it: earlier checkpoints are whole",
                    )
    missing = sorted(expected.keys() - found)
    if missing:
        raise GateFailed(
            f"{folder}: {len(missing)} of {len(expected)} trained tensors were not saved, "
            f"{missing[0]} among them",
            hint="this is a fault of a library's saving: earlier checkpoints are whole",
        )


def adapter_moved(folder: Path) -> bool:
    """Whether a saved adapter changes anything: its B matrices start as zeros."""
    for path in weight_files(folder):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if "lora_B" in name and file.get_tensor(name).any():
                    return True
    return False


def _expected(model: Any, state: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """Name on disk -> tensor, of all that must be saved; tied weights once."""
    if hasattr(model, "get_base_model"):
        from peft import get_peft_model_state_dict

        adapter: dict[str, torch.Tensor] = get_peft_model_state_dict(
            model, state_dict=state, save_embedding_layers=False
        )
        trained = sum(p.requires_grad for p in model.parameters())
        if len(adapter) != trained:  # what it does not find, it would not save either
            raise GateFailed(f"peft finds {len(adapter)} of the {trained} trained tensors")
        return adapter
    tensors = model.state_dict() if state is None else state
    tied = set(model.all_tied_weights_keys)
    # Some are held otherwise than they are saved: the experts of a layer in one tensor.
    saved: dict[str, torch.Tensor] = revert_weight_conversion(
        model, {name: tensor for name, tensor in tensors.items() if name not in tied}
    )
    return saved
