"""LoRA and its kin through peft: adapters on a frozen model, which may be held in 4 bits.

Which settings go together is checked here, too (`check_method`), so that a run that cannot work
ends before anything is loaded, torch included. Where the model comes from is not known here.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alpaca_cli.core.errors import UsageError, missing_extra
from alpaca_cli.core.settings_train import Lora, ScratchModel, Train

if TYPE_CHECKING:
    import torch


def check_method(settings: Train, strategy: Literal["single", "ddp", "fsdp2"]) -> None:
    """Refuse what cannot work together, or needs a library that is not installed.

    Nothing is loaded for it.

    Raises:
        UsageError: names the key, the reason, and what to use instead.
    """
    check_adaptable(settings)
    if settings.optimizer == "adamw_8bit" and find_spec("torchao") is None:
        raise missing_extra("torchao", "quant")
    if strategy != "fsdp2":
        return
    if settings.method == "qlora":
        raise UsageError(
            "train.method: qlora cannot be combined with train.strategy fsdp2: 4-bit weights are "
            "packed bytes with their scales beside them, and only the bytes would be split",
            hint="use strategy: ddp (every GPU holds the 4-bit model), or method: lora",
        )
    if settings.optimizer == "muon":
        raise UsageError(
            "train.optimizer: muon cannot be combined with train.strategy fsdp2: it needs whole "
            "matrices, and fsdp2 leaves every process a slice",
            hint="use optimizer: adamw, or strategy: ddp",
        )


def check_adaptable(settings: Train) -> None:
    """Refuse an adapter on nothing, and 4 bits without the library for them.

    Raises:
        UsageError: see `check_method`.
    """
    if settings.method != "full" and isinstance(settings.model, ScratchModel):
        raise UsageError(
            f"train.method: {settings.method} adapts a pretrained model; one from scratch has "
            "nothing to adapt",
            hint="use method: full, or name a model with --model",
        )
    if settings.method == "qlora" and find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "quant")


def four_bits(dtype: torch.dtype) -> Any:
    """QLoRA's way to hold weights: 4-bit NormalFloat, the scales quantised as well.

    peft's `prepare_model_for_kbit_training` is not needed on top: it makes float32 copies of the
    frozen norms and embeddings, which costs memory and changes no value, and peft freezes the
    base by itself. Gradients reach adapters through checkpointed layers because
    `enable_checkpointing` sees to it.

    Args:
        dtype: what the weights are turned back into, layer by layer, to compute.

    Source: Dettmers et al., QLoRA (2023).
    """
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def stay_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights at the first evaluation.

    On CPUs with AVX512-BF16 it lays them out for a kernel that has no backward pass, for good:
    training that goes on after a held-out loss would get no gradients through them (measured
    with 0.50; torch only warns).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def size(parameter: torch.nn.Parameter) -> int:
    """How many numbers a parameter stands for; two in each byte of one held in 4 bits."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def add_adapter(model: Any, settings: Lora, new_rows: range) -> Any:
    """A fresh adapter on a model, whose own weights are frozen.

    Args:
        new_rows: of the embedding, without pretrained values: they are trained and saved with
            the adapter. Not the whole embedding, which would make it as large as the model's.

    Raises:
        UsageError: the layers that it is meant for do not exist.
    """
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    rows = list(new_rows)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=settings.rslora,
        use_dora=settings.dora,
        trainable_token_indices=dict.fromkeys(_ends(model), rows) if rows else None,
        task_type="CAUSAL_LM",
    )
    try:
        with without_peft_deprecations():
            adapted = get_peft_model(model, config)
    except ValueError as error:  # peft names the modules that it did not find
        raise UsageError(f"train.lora.target_modules: {error}") from error
    _give_buffers_values(adapted)
    return adapted


def load_adapter(model: Any, folder: Path, *, weights: bool = True) -> Any:
    """The adapter saved in `folder`, on its base model, ready to go on training.

    Args:
        weights: False reads only what the adapter looks like.
    """
    from peft import PeftConfig, PeftModel, get_peft_model

    with without_peft_deprecations():
        if weights:
            return PeftModel.from_pretrained(model, str(folder), is_trainable=True)
        config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = False
        adapted = get_peft_model(model, config)
    _give_buffers_values(adapted)
    return adapted


def _ends(model: Any) -> list[str]:
    """Names of the input embedding and, when it is another matrix, of the output layer."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    ends = [first] if last is None or last.weight is first.weight else [first, last]
    return [name for name, module in model.named_modules() if any(module is e for e in ends)]


def _give_buffers_values(model: Any) -> None:
    """peft copies new rows into a buffer, to undo a merge; on the meta device it gets no values.

    Training never merges, so any values do; without, the model could not be moved to a device.
    """
    for name, buffer in list(model.named_buffers()):
        if buffer.device.type == "meta":
            owner, _, last = name.rpartition(".")
            setattr(model.get_submodule(owner), last, buffer.new_zeros(buffer.shape, device="cpu"))


@contextmanager
def without_peft_deprecations() -> Iterator[None]:
    """peft 0.21 asks transformers 5.23 for `is_gradient_checkpointing`, which warns at users."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        yield
