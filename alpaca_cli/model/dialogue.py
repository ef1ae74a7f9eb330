"""What asking a model is made of, without torch: sampling settings and earlier exchanges."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest.

    Applied in transformers' order: temperature, top_k (0: off), top_p (1: off). With a `seed`,
    equal prompts give equal answers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 512
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """An earlier message and the model's answer to it, as it was asked and answered."""

    instruction: str
    input: str
    answer: str


def joined(message: str, input: str) -> str:
    """A message and its input where a form has one place for both: a blank line between."""
    return f"{message}\n\n{input}" if input else message
