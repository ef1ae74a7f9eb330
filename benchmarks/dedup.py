"""alpaca's near-duplicate index against brute force by rapidfuzz's cdist, in the same run.

    python benchmarks/dedup.py [texts] [threshold]

The pool is made of real instructions (those in ../shared/data where present, and the built-in
seeds): first each of them as it is, then copies in which some words are replaced by others, drawn
by how often they occur, so that lengths and word frequencies stay those of real instructions and
near-duplicates of every degree occur. Both methods decide greedily, first one stays, with
rouge-score's own floats; decisions, survivors and scores must be equal, or the script ends in 1.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import LCSseq

from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import RougeIndex, tokenize
from alpaca_cli.data.seeds import load_seeds

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = ("seed_tasks.jsonl", "alpaca_en_demo.json", "code_alpaca_2k.json")
BLOCK = 256  # texts that cdist compares at once

Decision = tuple[int, float] | None  # survivor and its score, None when kept


def make_pool(size: int, seed: int = 42) -> list[list[str]]:
    """`size` token lists, the same ones every time."""
    rng = random.Random(seed)
    examples = load_seeds("builtin") + read_examples(
        [DATA / name for name in FILES if (DATA / name).is_file()] or []
    )
    real = [tokens for example in examples if (tokens := tokenize(example.instruction))]
    words = [word for tokens in real for word in tokens]  # drawing from it keeps frequencies
    pool = list(real[:size])
    while len(pool) < size:
        tokens = list(rng.choice(real))
        for position in rng.sample(range(len(tokens)), rng.randint(1, max(1, len(tokens) - 1))):
            tokens[position] = rng.choice(words)
        pool.append(tokens)
    rng.shuffle(pool)
    return pool


def by_index(pool: list[list[str]], threshold: float) -> list[Decision]:
    """alpaca's own."""
    index = RougeIndex(threshold)
    kept: list[int] = []
    decisions: list[Decision] = []
    for number, tokens in enumerate(pool):
        near = index.nearest(tokens)
        if near is None:
            index.add(tokens)
            kept.append(number)
        decisions.append(None if near is None else (kept[near[0]], near[1]))
    return decisions


def by_brute_force(pool: list[list[str]], threshold: float) -> list[Decision]:
    """Every pair's LCS by rapidfuzz.process.cdist on one core; F1 by rouge-score's formula."""
    ids: dict[str, int] = {}
    texts = ["".join(chr(ids.setdefault(token, len(ids))) for token in tokens) for tokens in pool]
    lengths = np.array([len(text) for text in texts], dtype=np.float64)
    decisions: list[Decision] = []
    kept = np.zeros(len(pool), dtype=bool)
    for start in range(0, len(texts), BLOCK):
        block = texts[start : start + BLOCK]
        before = texts[: start + len(block)]
        common = process.cdist(block, before, scorer=LCSseq.similarity, dtype=np.uint16, workers=1)
        precision = common / lengths[None, : len(before)]
        recall = common / lengths[start : start + len(block), None]
        with np.errstate(invalid="ignore"):
            scores = np.nan_to_num(2 * precision * recall / (precision + recall))
        for offset in range(len(block)):
            number = start + offset
            row = np.where(kept[:number], scores[offset, :number], 0.0)
            best = int(row.argmax()) if number else 0  # the first of equal ones
            if number and row[best] > threshold:
                decisions.append((best, float(row[best])))
            else:
                kept[number] = True
                decisions.append(None)
    return decisions


def main() -> int:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    threshold = float(sys.argv[2]) if len(sys.argv) > 2 else 0.7
    pool = make_pool(size)
    seconds, results = {}, {}
    for name, method in (("cdist brute force", by_brute_force), ("alpaca index", by_index)):
        started = time.perf_counter()
        results[name] = method(pool, threshold)
        seconds[name] = time.perf_counter() - started
    brute, index = results.values()
    dropped = sum(decision is not None for decision in index)
    mean = sum(map(len, pool)) / len(pool)
    print(f"{size:,} texts of {mean:.1f} tokens, threshold {threshold:g}: {dropped:,} dropped")
    for name, taken in seconds.items():
        print(f"  {name:18} {taken:8.2f} s")
    print(f"  ratio              {seconds['cdist brute force'] / seconds['alpaca index']:8.1f}")
    print(f"  decisions equal    {'yes' if brute == index else 'NO':>8}")
    return 0 if brute == index else 1


if __name__ == "__main__":
    sys.exit(main())
