"""What `benchmarks/train.py` and `train_gpu.py` train: real examples, a LLaMA of random weights.

Weights and tokenizer are made here, for how fast a training is does not depend on what a model
knows: nothing is downloaded. And what both need to follow a process by its log.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from alpaca_cli.core.template import ALPACA
from alpaca_cli.data.formats import read_examples
from alpaca_cli.model.batches import Schedule
from alpaca_cli.model.optim import BETAS, learning_rate_factor
from alpaca_cli.model.tokenizer import (
    Tokenizer,
    encode_prompts,
    encode_responses,
    train_tokenizer,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_en_demo.json"
POLL = 0.02  # seconds between two looks at a log
SEED, LEARNING_RATE, WARM_UP, CLIP = 0, 1e-3, 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Rows:
    """The examples that are not too long, as ids, in the order of the file.

    Attributes:
        ids: prompt, response and EOS of each.
        prompts: tokens of each one's prompt.
        too_long: examples left out.
    """

    tokenizer: Tokenizer
    ids: list[list[int]]
    prompts: list[int]
    too_long: int

    def told(self) -> str:
        """The distribution of lengths, which is what padding and packing depend on."""
        lengths = list(map(len, self.ids))
        return (
            f"{len(lengths):,} examples ({self.too_long:,} too long), mean "
            f"{statistics.mean(lengths):.0f} tokens, median {statistics.median(lengths):.0f}, "
            f"longest {max(lengths)}"
        )


def read_rows(data: Path, vocabulary: int, max_length: int) -> Rows:
    """Examples as `alpaca train` encodes them, by a tokenizer trained on them."""
    examples = read_examples([str(data)])
    fields = ((each.instruction, each.input, each.output) for each in examples)
    tokenizer = train_tokenizer(
        (text for each in fields for text in each if text), ALPACA, vocabulary
    )
    prompts = encode_prompts(tokenizer, ALPACA, [(e.instruction, e.input) for e in examples])
    responses = encode_responses(tokenizer, [e.output for e in examples])
    pairs = zip(prompts, responses, strict=True)
    short = [(p, r) for p, r in pairs if len(p) + len(r) <= max_length]
    return Rows(
        tokenizer, [p + r for p, r in short], [len(p) for p, _ in short], len(prompts) - len(short)
    )


def write_job(path: Path, rows: Rows, steps: int, global_batch: int, **more: int) -> None:
    """What `train_peers.py` needs, to take the steps that `alpaca train` takes with SEED."""
    schedule = Schedule(len(rows.ids), global_batch, steps * global_batch / len(rows.ids), SEED)
    factors = [learning_rate_factor(step, steps, WARM_UP) for step in range(steps)]
    job = {
        "rows": rows.ids,
        "prompts": rows.prompts,
        "steps": [schedule.indices(step) for step in range(steps)],
        "rates": [LEARNING_RATE * factor for factor in factors],
        "max_grad_norm": CLIP,
        "betas": BETAS,
        "seed": SEED,
    }
    path.write_text(json.dumps(job | more))


def save_model(
    folder: Path,
    tokenizer: Tokenizer,
    shape: dict[str, Any],
    *,
    dtype: str = "float32",
    device: str = "cpu",
) -> None:
    """A LLaMA with random weights, its tokenizer and its template, as a model folder.

    Args:
        shape: of transformers' LlamaConfig.
        device: where the weights are made; billions of them take minutes on a CPU.
    """
    import torch
    import transformers

    transformers.logging.disable_progress_bar()
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        **shape,
    )
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="4GB")
    tokenizer.save_pretrained(folder)
    ALPACA.save(folder)


def has_lines(log: Path, lines: int, process: Any) -> bool:
    """Wait until a log has so many lines; False when the process ends before."""
    while True:
        # Asked first: what it wrote before it ended is seen then.
        ended = process.status() == "zombie"
        if log.is_file() and log.read_bytes().count(b"\n") >= lines:
            return True
        if ended:
            return False
        time.sleep(POLL)


def failed(name: str, errors: Path) -> NoReturn:
    sys.exit(f"{name}: ended early\n{errors.read_text()[-3000:]}")


def say(text: str) -> None:
    """Progress goes to stderr, for stdout may be JSON."""
    print(text, file=sys.stderr, flush=True)
