"""One process of eight under FSDP2, the other seven only pretended, on torch's "fake" backend.

Collectives return at once with whatever is in their buffers: the numbers are wrong, but every
tensor has the size it would have. Prints one JSON line: for each case its weights and its peak,
measured and planned, in bytes,
the optimizer apart.
"""

from __future__ import annotations

import json
import os
import sys

import torch.distributed
from torch.testing._internal.distributed.fake_pg import FakeStore

from alpaca_cli.model.forward import summed_loss
from alpaca_cli.model.memory import LIBRARIES, memory, shape_of
from alpaca_cli.model.strategy import make_accelerator, share_model
from tests.allocations import Allocations
from tests.model.test_memory import BF16, Case, batch_of, case, make_model

PROCESSES = 8
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "vocab_size": 2048,
    "num_key_value_heads": 4,
    "num_hidden_layers": 6,
}
CASES = {
    "bfloat16": case(dtype="bfloat16", changes=MODEL),
    "few tokens": case(dtype="bfloat16", changes=MODEL, lengths=(16, 16)),
    "float32": case(changes=MODEL),
    "checkpointing": case(dtype="bfloat16", changes=MODEL, gradient_checkpointing=True),
    "tied": case(dtype="bfloat16", changes=MODEL | {"tie_word_embeddings": True}),
    "bfloat16 weights": case(dtype="bfloat16", changes=MODEL, **BF16),
    "lora": case(dtype="bfloat16", changes=MODEL, method="lora"),
}


def peaks(given: Case) -> tuple[int, int, int, int]:
    model = make_model(given)
    shape = shape_of(model, given.settings)
    accelerator = make_accelerator(given.dtype, [], "fsdp2")
    called = share_model(model, accelerator, "fsdp2")
    batch, tokens, columns = batch_of(given)
    with Allocations([*called.parameters(), *called.buffers()], resizing=True) as found:
        weights = found.now
        summed_loss(called, batch).backward()
        found.peak = 0
        summed_loss(called, batch).backward()
    planned = memory(
        shape, given.settings, given.dtype, PROCESSES, "fsdp2", tokens, columns, kind="cpu"
    )
    return weights, planned.weights, found.peak, planned.total - planned.optimizer - LIBRARIES


if __name__ == "__main__":
    os.environ |= {"RANK": "0", "WORLD_SIZE": str(PROCESSES), "LOCAL_RANK": "0"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # nobody is called
    torch.distributed.init_process_group("fake", rank=0, world_size=PROCESSES, store=FakeStore())
    sys.stdout.write(json.dumps({name: peaks(given) for name, given in CASES.items()}) + "\n")
    torch.distributed.destroy_process_group()
