"""The torch side: tokenizer, batches and label masks, training, checkpoints, launch, sampling.

The only room that imports torch, transformers, accelerate and peft; never imports
`alpaca_cli.data`.
"""

import logging
import os

# Read by OpenMP when torch is loaded. Its threads spin while they wait for each other; where other
# processes want the cores too, that makes two threads slower than one (measured: 1,800 tokens/s,
# 4,400 with passive waiting; on idle cores 11,200 and 10,300).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# transformers imports torchao and bitsandbytes wherever they are installed. At import they warn of
# optional kernels that this machine lacks: of no use to a person who asks for none of them.
for _name in ("torchao", "bitsandbytes", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
