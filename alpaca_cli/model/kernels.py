"""What makes the same computation smaller or faster: recomputing, Liger's kernels, compiling.

None of them changes what is computed, or what parameters are called: a wrapper around layers that
renames them would leave peft nothing to save (measured: accelerate's activation checkpointing
under FSDP2 wrote empty adapters).
"""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from os import environ
from typing import Any

import torch

from alpaca_cli.core.errors import UsageError, missing_extra
from alpaca_cli.core.settings_train import Train
from alpaca_cli.model.forward import inner_model


def apply_kernels(model: Any, settings: Train, device: torch.device) -> None:
    """What the recipe asks for of this module, in the order in which it works.

    Call it before the model is given to DDP or split by FSDP2.

    Raises:
        UsageError: it cannot be had on this device or for this model.
    """
    if settings.liger:
        apply_liger(model, device)
    if settings.gradient_checkpointing:
        enable_checkpointing(model)
    if settings.compile:
        compile_model(model, device)


def enable_checkpointing(model: Any) -> None:
    """Keep only what each layer is given; the backward pass computes the rest again.

    transformers does it inside each layer. It also has the embedding's output require gradients,
    without which a checkpointed layer of a frozen model would pass none to its adapters.

    Raises:
        UsageError: this model has no layers that can.
    """
    inner = inner_model(model)
    try:
        inner.activation_checkpointing_enable({"use_reentrant": False})
    except ValueError as error:
        raise UsageError(
            f"train.gradient_checkpointing: {type(inner).__name__} does not support it",
            hint="set train.gradient_checkpointing=false",
        ) from error


def apply_liger(model: Any, device: torch.device) -> None:
    """Liger's kernels for norms, rotary positions and the feed-forward layers.

    Not for the loss: Liger's fused one takes whole rows, and averages; here the output layer is
    computed at trained positions only, and the loss is a sum over the global batch.

    transformers' module of this architecture is changed for the whole process.

    Raises:
        UsageError: there is no GPU, Liger is not installed or does not know the model.
    """
    if device.type != "cuda":
        raise UsageError(
            f"train.liger: Liger's kernels need a CUDA GPU, this is {device.type}",
            hint="set train.liger=false",
        )
    if find_spec("liger_kernel") is None:
        raise missing_extra("liger-kernel", "liger")
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    inner = inner_model(model)
    kind = inner.config.model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:  # Liger itself would only log it
        raise UsageError(
            f"train.liger: Liger has no kernels for {kind}", hint="set train.liger=false"
        )
    _apply_liger_kernel_to_instance(
        model=inner, cross_entropy=False, fused_linear_cross_entropy=False
    )


def compile_model(model: Any, device: torch.device) -> None:
    """torch.compile for each repeated layer, in place.

    By layer, because equal layers share what is compiled: the first steps take as long for two
    layers as for eighty. Shapes are symbols from the start, as every packed row has another
    layout; learning it from the data takes more recompilations than torch allows before it gives
    up and computes as if nothing had been compiled (seen with torch 2.13).

    Raises:
        UsageError: there is no C++ compiler, or the model does not name its layers.
    """
    if device.type == "cpu" and not shutil.which(environ.get("CXX", "g++")):
        raise UsageError(
            "train.compile: torch.compile needs a C++ compiler on CPU, and there is none",
            hint="install g++, or set train.compile=false",
        )
    inner = inner_model(model)
    names = set(getattr(inner, "_no_split_modules", None) or ())
    layers = [module for module in inner.modules() if type(module).__name__ in names]
    if not layers:
        raise UsageError(
            f"train.compile: {type(inner).__name__} does not name its layers",
            hint="set train.compile=false",
        )
    for layer in layers:
        layer.compile(dynamic=True)
