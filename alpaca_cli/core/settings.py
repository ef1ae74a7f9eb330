"""The keys of a recipe, each documented once, where it is defined.

These texts are the source of `alpaca recipes schema` and of the key reference in the docs. Types
are lax on purpose (`"1e-5"` is a number); unknown keys are errors. Reading a recipe from files,
flags and the environment is `alpaca_cli.core.recipe`; the keys of `generate` have a file of their
own, `alpaca_cli.core.settings_generate`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from alpaca_cli.core.section import Section
from alpaca_cli.core.settings_generate import Generate


class Seeds(Section):
    """The human-written tasks everything starts from."""

    source: str = "builtin"
    """`builtin`, or the path of a file of seed tasks in any format that alpaca reads."""

    near_duplicate: float = Field(0.7, gt=0, le=1)
    """Lint: two instructions with a ROUGE-L F1 above this are near-duplicates."""


class Dedup(Section):
    """Of examples that say nearly the same, one stays."""

    threshold: float = Field(0.7, gt=0, le=1)
    """Two texts with a ROUGE-L F1 above this are one. Source: Stanford Alpaca."""

    key: Literal["instruction", "instruction+input", "output"] = "instruction"
    """The text that is compared."""

    tokenizer: Literal["rouge", "unicode"] = "rouge"
    """`rouge` is rouge-score's own (a-z and 0-9 only); `unicode` keeps every script."""

    keep: str = Field("first", min_length=1)
    """Which of several similar examples stays: the `first`, the one with the `longest` output, or
    the one with the highest number in the field of this name (of the row or of its `meta`)."""

    against: list[str] = Field([])
    """Files of examples: what is like one of theirs is dropped."""

    decontaminate: list[str] = Field([])
    """Files of evaluation tasks: examples in which a question of theirs occurs are dropped."""

    ngram: int = Field(8, ge=1)
    """Words in a row that count as common with an evaluation question. Source: Tülu 3, PaLM."""

    containment: float = Field(0.3, gt=0, le=1)
    """An example is dropped when at least this share of a question's n-grams occurs in it. In a
    question of 25 words 0.3 is about what half of the words is in Tülu 3."""

    semantic: float | None = Field(None, gt=0, le=1)
    """When set, of what is left also drop what means nearly the same: word vectors with at least
    this cosine. Approximate, and blind to numbers and to "not"; needs the extra [semantic]."""

    encoder: str = "minishlab/potion-base-8M"
    """The word vectors of `semantic`: a model2vec model, as a folder or a name on the hub."""


class Stats(Section):
    """What is in the data."""

    neighbours: int = Field(2000, ge=0)
    """Examples whose nearest neighbour is measured (drawn at random when there are more)."""

    top: int = Field(20, ge=1)
    """Rows in tables of most frequent verbs and objects."""

    tokenizer: str | None = None
    """A tokenizer.json, or a model folder with one, that counts tokens; `train.model` when that
    is such a folder. Without one, lengths are in words."""


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


class Train(Section):
    """Supervised fine-tuning of the student."""

    model: StudentModel = ScratchModel()
    """A path or hub id to fine-tune, or `{config: …}` to train a LLaMA from scratch."""

    method: Literal["full", "lora"] = "full"
    """All weights, or low-rank adapters."""

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

    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the hidden matrices, AdamW for the rest; for training from scratch."""

    muon_learning_rate: float = Field(0.02, gt=0)
    """Peak learning rate of the matrices under Muon."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""

    global_batch: int = Field(128, ge=1)
    """Examples in one optimizer step, over all GPUs and micro-batches."""

    micro_batch: int = Field(4, ge=1)
    """Examples that one GPU computes at once; with packing, as many tokens as `micro_batch` rows
    of `max_length` have."""

    max_length: int = Field(512, ge=8)
    """Longest example, in tokens."""

    overlong: Literal["drop", "truncate_response", "error"] = "drop"
    """What happens to longer examples. A truncated response keeps its EOS."""

    packing: bool = True
    """Examples follow each other in one row, without padding and without seeing each other."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the forward and backward pass; auto: bfloat16 on GPUs that have it, else
    float32."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""

    save_every: int = Field(200, ge=1)
    """Optimizer steps between checkpoints."""

    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints that stay on disk."""

    gpus: str | int = "auto"
    """How many GPUs, `auto` for all, or a list such as `0,1`; CPU when there is none."""


class Eval(Section):
    """Greedy answers on held-out examples, scored against the reference."""

    data: str = "procedural"
    """A file of examples, or `procedural`: unseen tasks of the embedded teacher's families."""

    count: int = Field(440, ge=1)
    """How many `procedural` examples to make."""

    batch: int = Field(64, ge=1)
    """Prompts answered at once."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""


class Recipe(Section):
    """The whole road."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run folder, runs/<name>."""

    description: str = ""
    """One line for `alpaca recipes list`."""

    seed: int = Field(42, ge=0)
    """Root of every random choice of every stage."""

    seeds: Seeds = Seeds()
    generate: Generate = Generate()
    dedup: Dedup = Dedup()
    stats: Stats = Stats()
    train: Train = Train()
    eval: Eval | None = None
    """Held-out evaluation at the end of `alpaca run`; none when not given."""
