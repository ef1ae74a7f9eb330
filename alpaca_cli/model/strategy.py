"""One process, DDP or FSDP2: how processes share a model, through accelerate.

    single   one process
    ddp      every process has the whole model; gradients are averaged
    fsdp2    weights, gradients and optimizer states are split; weights are gathered layer by layer

Which one suits a model is the memory plan's business (`alpaca_cli.model.memory`); what is computed
with it is the trainer's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, TypeVar

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import (
    AutocastKwargs,
    DistributedDataParallelKwargs,
    DistributedType,
    broadcast_object_list,
)
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from alpaca_cli.core.errors import UsageError
from alpaca_cli.model.forward import inner_model

Strategy = Literal["single", "ddp", "fsdp2"]
T = TypeVar("T")
MIXED = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}


def meet(gpus: Sequence[int]) -> PartialState:
    """Join the other processes of a training; which of them this is, and `main_process_first`.

    Args:
        gpus: devices that this process may use; CPU when empty.
    """
    return PartialState(cpu=not gpus)


def told_by_first(value: T) -> T:
    """What the first process says; the others' own value is not looked at."""
    values = [value]
    broadcast_object_list(values)
    return values[0]


def compute_dtype(wanted: str, kind: str) -> torch.dtype:
    """What the forward and backward pass are computed in.

    Args:
        wanted: `train.dtype`.
        kind: of the device, `cuda` or `cpu`.

    Raises:
        UsageError: the device cannot do it.
    """
    if wanted == "auto":
        # Older cards emulate it, slowly.
        bf16 = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if bf16 else torch.float32
    if wanted == "float16" and kind != "cuda":
        raise UsageError(
            f"train.dtype: float16 needs a CUDA GPU, this is {kind}",
            hint="use auto, float32 or bfloat16",
        )
    found: torch.dtype = getattr(torch, wanted)
    return found


def make_accelerator(dtype: torch.dtype, gpus: Sequence[int], strategy: Strategy) -> Accelerator:
    """accelerate's view of the processes and devices there are.

    Args:
        dtype: what is computed in.
        gpus: devices that this process may use; CPU when empty, device `gpus[0]` when one.

    Raises:
        UsageError: float16 with fsdp2: its gradients would need a scaler that knows shards.
    """
    if len(gpus) == 1:
        torch.cuda.set_device(gpus[0])
    # The precision of an earlier training in this process must not stick to this one.
    AcceleratorState._reset_state()
    if strategy != "fsdp2":
        return Accelerator(
            cpu=not gpus,
            mixed_precision=MIXED[dtype],
            kwargs_handlers=[
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
                # Each weight is cast once a pass, so a cache saves nothing, and it would keep a
                # copy of all weights until the pass is over, checkpointed or not.
                AutocastKwargs(cache_enabled=False),
            ],
        )
    if dtype == torch.float16:
        raise UsageError(
            "train.dtype: float16 cannot be combined with train.strategy fsdp2",
            hint="use bfloat16",
        )
    # Gradients are summed in float32. accelerate's own mixed precision would raise weights that
    # are bfloat16 by choice to float32.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        mixed_precision_policy=policy,
        cpu_ram_efficient_loading=True,
    )
    accelerator = Accelerator(cpu=not gpus, fsdp_plugin=plugin)
    # On CPU accelerate 1.15 forgets the plugin: it would shard the weights, and then save and
    # clip as if it had not.
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = plugin
    return accelerator


def share_model(model: Any, accelerator: Accelerator, strategy: Strategy) -> Any:
    """The model as it is called in training, on its device; `model` itself shares its weights.

    Under fsdp2 only the first process has to have values: the others get theirs from it.
    """
    if strategy == "fsdp2":
        return fsdp2_prepare_model(accelerator, model)
    model.to(accelerator.device)
    return accelerator.prepare_model(model)


def between_micro_batches(
    model: Any, accelerator: Accelerator, strategy: Strategy
) -> AbstractContextManager[Any]:
    """What all but the last backward pass of a step run in.

    DDP averages once a step. FSDP2 does it every time: waiting would keep whole gradients on
    every GPU, which is what sharding is there to avoid.
    """
    return accelerator.no_sync(model) if strategy == "ddp" else nullcontext()


def split_again(model: Any) -> None:
    """After a forward pass without a backward pass: FSDP2 leaves what it gathered last as it is,
    and whoever looks for the parameters of the optimizer would find others.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def whole_state(model: Any, strategy: Strategy) -> dict[str, torch.Tensor] | None:
    """Under fsdp2 the trained model's whole tensors on CPU, in the first process (empty in
    others); all processes must call it. None when the model itself is whole.

    Frozen weights are left out: they are not saved. Of tied ones each would be gathered: only the
    one that transformers saves stays.
    """
    if strategy != "fsdp2":
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, torch.Tensor] = get_model_state_dict(model, options=options)
    tied = set(inner_model(model).all_tied_weights_keys)
    return {name: tensor for name, tensor in state.items() if name not in tied}
