"""The padded way and TRL for `benchmarks/train.py`, which runs this file: one way, one process.

    python train_peers.py padded|bfd|wrapped JOB RUN

JOB is a folder that `train.py` has written: `model/` (a LLaMA and its tokenizer) and `job.json`
(token ids, the examples of each step, learning rates). `RUN/train/log.jsonl` gets a line when a
step is done, as alpaca's own does. No import of ours: TRL may live elsewhere.

padded: plain transformers, as the original's Trainer computes it. Examples in random order,
`micro_batch` of them padded to the longest, an attention mask, logits at all positions, the loss
of transformers; divided by the trained tokens of the whole step, as its Trainer does today.

bfd, wrapped: TRL's SFTTrainer with its two packing strategies, on the same ids and labels, so the
same tokens are trained. Its steps are counted in packed rows of `max_length`; as many rows make a
step as hold the tokens of the others' steps. Before training, `RUN/train/check.json` tells by how
much logits and loss of examples packed by TRL differ from those of the same
examples computed alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

IGNORE = -100
FIRST_ROWS = 20  # among which one is looked for with many examples in it


class Log:
    """A line per step, on disk when the step is over."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._began = time.perf_counter()

    def write(self, **line: float) -> None:
        now = time.perf_counter()
        self._file.write(json.dumps(line | {"seconds": now - self._began}) + "\n")
        self._file.flush()
        self._began = now


# --- padded ---------------------------------------------------------------------------------------


def padded(job: dict[str, Any], model: Any, log: Log) -> None:
    """Train on the very steps that alpaca takes: same examples, learning rates and clipping."""
    rows, prompts, size = job["rows"], job["prompts"], job["micro_batch"]
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=tuple(job["betas"]), weight_decay=0.0, fused=True
    )
    model.train()
    for step, (indices, rate) in enumerate(zip(job["steps"], job["rates"], strict=True), 1):
        trained = sum(len(rows[i]) - prompts[i] for i in indices)
        positions, total = 0, 0.0
        for start in range(0, len(indices), size):
            batch = right_padded([(rows[i], prompts[i]) for i in indices[start : start + size]])
            loss = model(**batch, num_items_in_batch=trained, use_cache=False).loss
            loss.backward()
            positions += batch["input_ids"].numel()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), job["max_grad_norm"])
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(len(rows[i]) for i in indices)
        log.write(step=step, loss=total, tokens=tokens, positions=positions)


def right_padded(examples: Sequence[tuple[list[int], int]]) -> dict[str, torch.Tensor]:
    """(B, T) ids, labels and mask of examples given as (ids, length of the prompt)."""
    longest = max(len(ids) for ids, _ in examples)
    free = [longest - len(ids) for ids, _ in examples]
    pairs = list(zip(examples, free, strict=True))
    return {
        "input_ids": torch.tensor([ids + [0] * gap for (ids, _), gap in pairs]),
        "labels": torch.tensor([masked(*each) + [IGNORE] * gap for each, gap in pairs]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * gap for (ids, _), gap in pairs]),
    }


def masked(ids: list[int], prompt: int) -> list[int]:
    """Labels of one example: its ids, the prompt left out."""
    return [IGNORE] * prompt + ids[prompt:]


# --- TRL ------------------------------------------------------------------------------------------


def trl(job: dict[str, Any], model: Any, tokenizer: Any, strategy: str, log_path: Path) -> None:
    """SFTTrainer on the same ids, with its defaults but for what makes the work the same."""
    from datasets import Dataset
    from transformers import TrainerCallback

    module = importlib.import_module("trl")  # not where our own tools check this file

    class Counting(module.SFTTrainer):  # type: ignore[misc,name-defined]
        """Counts what each step computes. `useful` leaves padding out, should there be any."""

        useful = positions = 0

        def training_step(self, model: Any, inputs: Any, *others: Any, **named: Any) -> Any:
            self.positions += inputs["input_ids"].numel()
            mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))
            self.useful += int(mask.sum())
            return super().training_step(model, inputs, *others, **named)

    class Lines(TrainerCallback):  # type: ignore[misc]
        """Writes the log."""

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.log = Log(log_path)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tokens, positions = trainer.useful, trainer.positions
            trainer.useful = trainer.positions = 0
            self.log.write(step=state.global_step, tokens=tokens, positions=positions)

    rows, prompts = job["rows"], job["prompts"]
    tokens = sum(len(rows[i]) for indices in job["steps"] for i in indices) / len(job["steps"])
    data = Dataset.from_dict(
        {
            "input_ids": rows,
            "labels": [masked(ids, prompt) for ids, prompt in zip(rows, prompts, strict=True)],
        }
    )
    settings = module.SFTConfig(
        output_dir=str(log_path.parent / "trl"),
        packing=True,
        packing_strategy=strategy,
        max_length=job["max_length"],
        per_device_train_batch_size=job["packed_rows"],
        gradient_accumulation_steps=max(
            1, round(tokens / (job["packed_rows"] * job["max_length"]))
        ),
        max_steps=len(job["steps"]),
        learning_rate=max(job["rates"]),
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        max_grad_norm=job["max_grad_norm"],
        # TRL's defaults are bfloat16 and gradient checkpointing: slower here, and not the same.
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        seed=job["seed"],
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
    )
    trainer = Counting(
        model=model,
        args=settings,
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=[Lines()],
    )
    lengths = [len(ids) for ids in rows]
    check = difference(trainer, lengths, job["max_length"])
    (log_path.parent / "check.json").write_text(json.dumps(check))
    trainer.train()


def difference(trainer: Any, lengths: Sequence[int], max_length: int) -> dict[str, float]:
    """One of TRL's first packed rows, that of the most examples, against these computed alone.

    Args:
        lengths: of the examples in data order.

    Returns:
        The largest difference between `logits`, and that between the losses, relative.
    """
    first = trainer.train_dataset.select(range(FIRST_ROWS))
    parts = list(first["seq_lengths"]) if "seq_lengths" in first.features else []
    parts = parts or cut(lengths, max_length)
    row, part = max(zip(first, parts, strict=False), key=lambda pair: len(pair[1]))
    batch = trainer.data_collator([row])
    given = {name: value for name, value in batch.items() if name != "labels"}
    trained = int((batch["labels"] != IGNORE).sum())
    model, start, far, summed = trainer.model, 0, 0.0, 0.0
    with torch.no_grad():
        packed = model(**given, use_cache=False).logits[0]
        loss = float(trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(trained)))
        for length in part:
            end = start + length
            ids, labels = (torch.tensor(row[name][start:end]) for name in ("input_ids", "labels"))
            alone = model(input_ids=ids[None], use_cache=False).logits[0]
            far = max(far, float((alone - packed[start:end]).abs().max()))
            summed += float(cross_entropy(alone[:-1], labels[1:], reduction="sum"))
            start = end
    return {"logits": far, "loss": abs(loss * trained - summed) / summed}


def cut(lengths: Sequence[int], width: int) -> list[list[int]]:
    """The pieces in each row when examples follow each other and are cut every `width` tokens."""
    rows, free = [[0]], width
    for length in lengths:
        while length > free:
            rows[-1].append(free)
            rows.append([0])
            length, free = length - free, width
        rows[-1].append(length)
        free -= length
    return [[piece for piece in row if piece] for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description="one way of benchmarks/train.py")
    parser.add_argument("way", choices=("padded", "bfd", "wrapped"))
    parser.add_argument("job", type=Path)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    log = options.run / "train" / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    job = json.loads((options.job / "job.json").read_text())
    # Attention is transformers' default, torch's scaled_dot_product_attention.
    model = AutoModelForCausalLM.from_pretrained(options.job / "model", dtype=torch.float32)
    if options.way == "padded":
        padded(job, model, Log(log))
    else:
        tokenizer = AutoTokenizer.from_pretrained(options.job / "model")
        trl(job, model, tokenizer, options.way, log)


if __name__ == "__main__":
    main()
