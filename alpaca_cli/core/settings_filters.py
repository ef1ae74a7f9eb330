"""The keys of `generate.filters`: what a candidate must be like to be kept.

What the rules look for is in `alpaca_cli.data.filters` and `alpaca_cli.data.lint`.
"""

from __future__ import annotations

from pydantic import Field

from alpaca_cli.core.section import Section


class Filters(Section):
    """Rules a candidate must pass before the novelty check; each rejection names its rule.

    Always on, besides these: the rules of `alpaca seed` for single rows (empty or copied answer,
    refusal, placeholder, leftover marker, damaged text, …).
    """

    min_words: int = Field(3, ge=0)
    """Shortest instruction, in words. Source: Stanford Alpaca keeps more than 3."""

    max_words: int = Field(150, ge=1)
    """Longest instruction, in words. Source: Stanford Alpaca."""

    max_output_words: int = Field(2000, ge=1)
    """Longest output, in words."""

    keywords: list[str] = Field([])
    """Instructions with one of these words or phrases are rejected, e.g. image, video, audio."""

    openings: list[str] = Field([])
    """Instructions that begin with one of these phrases are rejected, e.g. Write a program."""

    ascii_start: bool = False
    """Instructions must begin with an ASCII letter or digit. Source: Stanford Alpaca."""
