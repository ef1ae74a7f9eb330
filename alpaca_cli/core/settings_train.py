"""The keys of `train`, each documented once, where it is defined."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from alpaca_cli.core.section import Section


class Scratch(Section):
    """A LLaMA trained from scratch, with a tokenizer trained on the data."""

    vocab_size: int = Field(2048, ge=300)
    """Byte-level BPE entries, the special tokens included."""

    hidden_size: int = Field(128, ge=8)
    """Width of the model."""

    intermediate_size: int = Field(384, ge=8)
    """Width of the feed-forward layers."""

    layers: int = Field(4, ge=1)
    """Transformer blocks."""

    heads: int = Field(4, ge=1)
    """Attention heads; they divide hidden_size."""

    tie_embeddings: bool = True
    """Input and output embeddings are one matrix."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Scratch:
        if self.hidden_size % self.heads or (self.hidden_size // self.heads) % 2:
            raise ValueError(
                f"hidden_size {self.hidden_size} must split into {self.heads} heads of even width"
            )
        return self


class ScratchModel(Section):
    """`model: {config: …}`: no pretrained weights."""

    config: Scratch = Scratch()


def _model_tag(value: Any) -> str:
    """Text names pretrained weights; anything else must be `{config: …}`."""
    return "pretrained" if isinstance(value, str) else "scratch"


StudentModel = Annotated[
    Annotated[str, Tag("pretrained")] | Annotated[ScratchModel, Tag("scratch")],
    Discriminator(_model_tag),
]


class Lora(Section):
    """Low-rank adapters (peft)."""

    r: int = Field(16, ge=1)
    """Rank."""

    alpha: int = Field(32, ge=1)
    """Scale: updates are multiplied by alpha / r."""

    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""

    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Layers that get an adapter."""

    rslora: bool = False
    """Scale by alpha / sqrt(r) instead, which holds for large ranks (Kalajdzievski, 2023)."""

    dora: bool = False
    """Learn magnitude and direction of the weights apart (Liu et al., 2024); slower."""


class Train(Section):
    """Supervised fine-tuning of the student."""

    model: StudentModel = ScratchModel()
    """A path or hub id to fine-tune, or `{config: …}` to train a LLaMA from scratch."""

    trust_remote_code: bool = False
    """Run the Python code that comes with a model. Only for models whose code you have read."""

    method: Literal["full", "lora", "qlora"] = "full"
    """All weights; low-rank adapters; or adapters on weights held in 4 bits (extra [quant])."""

    lora: Lora = Lora()

    template: str = "alpaca"
    """Prompt template: `alpaca`, `tokenizer` (its own chat template), or a JSON file."""

    epochs: float = Field(3, gt=0)
    """Passes over the data."""

    learning_rate: float = Field(2e-5, gt=0)
    """Peak learning rate; cosine decay to 0 after the warm-up."""

    warmup: float = Field(0.03, ge=0, lt=1)
    """Share of the steps in which the learning rate rises from 0."""

    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay."""

    optimizer: Literal["adamw", "adamw_8bit", "muon"] = "adamw"
    """`adamw_8bit`: AdamW with its moments in 8 bits (extra [quant]). `muon`: Muon for the hidden
    matrices, AdamW for the rest; for training from scratch."""

    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of the matrices under Muon."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""

    neftune: float = Field(0.0, ge=0)
    """NEFTune's alpha: noise on the embeddings while training, 5 is usual; 0: none."""

    global_batch: int = Field(128, ge=1)
    """Examples in one optimizer step, over all GPUs and micro-batches."""

    micro_batch: int = Field(4, ge=1)
    """Examples that one GPU computes at once; with packing, as many tokens as `micro_batch` rows
    of `max_length` have."""

    max_length: int = Field(512, ge=8)
    """Longest example, in tokens."""

    overlong: Literal["drop", "truncate_response", "error"] = "drop"
    """What happens to longer examples. A truncated response keeps its EOS."""

    exclude: list[str] = Field([])
    """Review files of `alpaca stats --browse`: examples that a person marked bad are left out."""

    packing: bool = True
    """Examples follow each other in one row, without padding and without seeing each other."""

    attention: Literal["auto", "per_example", "sdpa", "eager"] = "auto"
    """How attention is computed. `per_example`: torch's fastest kernel on each packed example,
    for plainly causal models; `sdpa`, `eager`: transformers' own, with its mask over the packed
    row. auto: per_example where the model allows it, else sdpa."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward and backward pass; auto: bfloat16 on GPUs that have it, else
    float32."""

    weights: Literal["float32", "bfloat16"] = "float32"
    """Precision in which trained weights are kept. bfloat16 halves weights and gradients; small
    updates are then rounded at random, so that they add up; it needs `optimizer: adamw_8bit`."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a quarter more time."""

    liger: bool = False
    """Liger's fused kernels (a GPU, and the package liger-kernel)."""

    compile: bool = False
    """torch.compile: the first steps take minutes, the later ones less time."""

    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes share the work: `ddp` copies the model to each, `fsdp2` splits
    weights, gradients and optimizer between them. auto: ddp where the memory plan fits."""

    save_every: int = Field(200, ge=1)
    """Optimizer steps between checkpoints. The first one is saved after a few steps, so that
    saving is known to work."""

    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that stay on disk, beside the one with the lowest held-out loss."""

    holdout: int = Field(0, ge=0)
    """Examples drawn from the data and not trained on: their loss is the held-out loss."""

    holdout_file: str | None = None
    """Or a file of examples to take the held-out loss from."""

    evaluate_every: int = Field(100, ge=1)
    """Optimizer steps between two held-out losses."""

    samples: int = Field(0, ge=0)
    """Held-out instructions that the model answers after each held-out loss, to be read."""

    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field([])
    """Where the figures of log.jsonl are sent, too, through accelerate."""

    gpus: str | int = "auto"
    """How many GPUs, `auto` for all, or a list such as `0,1`; CPU when there is none. `cpu:2`:
    two processes on the CPU, to try things out."""

    nodes: int = Field(1, ge=1)
    """Machines that train together; the same command is started on each."""

    rendezvous: str = ""
    """With several nodes: HOST:PORT of one of them, where they meet."""

    run_id: str = ""
    """With several nodes: the name under which they meet; made from the run's when not given."""

    @model_validator(mode="after")
    def _fits_together(self) -> Train:
        if self.weights == "bfloat16" and self.optimizer != "adamw_8bit":
            raise ValueError(
                "weights: bfloat16 needs optimizer: adamw_8bit, which rounds updates at random; "
                "others lose updates that are smaller than a bfloat16 can add"
            )
        if self.holdout and self.holdout_file:
            raise ValueError("holdout and holdout_file exclude each other")
        return self
