"""The keys of a recipe, each documented once, where it is defined.

These texts are the source of `alpaca recipes schema` and of the key reference in the docs. Types
are lax on purpose (`"1e-5"` is a number); unknown keys are errors. Reading a recipe from files,
flags and the environment is `alpaca_cli.core.recipe`; the keys of `generate`, `train` and `eval`
have files of their own, `settings_generate`, `settings_train` and `settings_eval`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from alpaca_cli.core.section import Section
from alpaca_cli.core.settings_eval import Eval
from alpaca_cli.core.settings_generate import Generate
from alpaca_cli.core.settings_train import Train


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

    exclude: list[str] = Field([])
    """Review files of `alpaca stats --browse`: examples that a person marked bad are dropped."""


class Stats(Section):
    """What is in the data."""

    neighbours: int = Field(100_000, ge=0)
    """Examples whose nearest neighbour is measured (drawn at random when there are more)."""

    top: int = Field(20, ge=1)
    """Rows in tables of most frequent verbs and objects."""

    tokenizer: str | None = None
    """A tokenizer.json, or a model folder with one, that counts tokens; `train.model` when that
    is such a folder. Without one, lengths are in words."""

    contamination: list[str] = Field([])
    """Files of evaluation tasks to look for, as `dedup.decontaminate` would, without dropping."""

    nlp: str | None = None
    """A spaCy pipeline (an installed package or a folder) that parses instructions for their
    verbs and objects; by rule when not given. Needs the extra [nlp]."""


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
