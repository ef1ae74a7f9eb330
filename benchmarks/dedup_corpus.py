"""Token lists like those of machine-made instructions, as many as a benchmark wants.

    python benchmarks/dedup_corpus.py [size] [12 | 23]

prints how they compare with the real instructions they are made from: those in ../shared/data
where present, and the built-in seeds.

Texts are drawn one after another from a word-level trigram model that learns from its own output:
in a context, a word that followed it before, the oftener the likelier, or a word that is new there
by the shorter context (a hierarchical Pitman-Yor process; Teh 2006). So openings and phrases are
used again ("generate a list of ten ..."), word frequencies are Zipfian, and near-duplicates come
by themselves. Three things are put in from outside:

- words nobody has used yet are invented as often as Heaps' law wants, measured on the real ones;
- lengths are those of real instructions, stretched to the mean that is asked for. The long set is
  that too: no real set of that mean is at hand;
- some texts are copies of an earlier one with part of its words edited.

Real instructions only start the model, they are not in the corpus: it is of one kind at any size.
A text does not end where a sentence does, and it says nothing.
"""

from __future__ import annotations

import random
import sys
from collections import Counter
from pathlib import Path
from typing import Literal

import numpy as np
from dedup_peers import nearest_in_sample

from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import first_stays
from alpaca_cli.data.seeds import load_seeds

Mean = Literal[12, 23]

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = (
    "seed_tasks.jsonl",
    "alpaca_en_demo.json",
    "code_alpaca_2k.json",
    "user_oriented_instructions.jsonl",
)
# Distinct words among n: 7.96 n^0.589. Fitted from 2,777 to 49,129 tokens of the real instructions
# named above, shuffled.
HEAPS_FACTOR, HEAPS_EXPONENT = 7.96, 0.589
# How often a word that is in a context for the first time leaves the choice to a shorter one:
# after two words, after one. Lower than what fits the real ones best (0.85 and 0.77), for their
# nearest neighbours are nearer than those of texts without a meaning.
DISCOUNTS = (0.6, 0.5)
# Share of texts that are edited copies of an earlier one: with it a tenth to a fifth of 52K texts
# are near-duplicates. Long texts hardly come to be so by themselves.
COPIES: dict[Mean, float] = {12: 0.03, 23: 0.12}
MOST_EDITED = 0.4  # of the words of a copy; the share is uniform from 0 to this

_END, _START = 0, -1


def real_instructions() -> list[list[str]]:
    """Those the corpus is made from: the real files that are present, then the built-in seeds."""
    present = [DATA / name for name in FILES if (DATA / name).is_file()]
    examples = (read_examples(present) if present else []) + load_seeds("builtin")
    return [tokens for example in examples if (tokens := tokenize(example.instruction))]


def make_corpus(size: int, mean: Mean, seed: int = 42) -> list[list[str]]:
    """`size` token lists of `mean` tokens on average; the same for the same arguments and files.

    The first ones of a larger corpus are the smaller corpus.
    """
    real = real_instructions()
    model = _Model(real, seed)
    lengths = [len(tokens) for tokens in real]
    stretch = mean * len(lengths) / sum(lengths)
    chance = model.chance
    texts: list[list[int]] = []
    for _ in range(size):
        if texts and chance() < COPIES[mean]:
            text = model.edited(texts[int(chance() * len(texts))], MOST_EDITED * chance())
        else:
            length = stretch * lengths[int(chance() * len(lengths))]
            text = model.text(max(1, int(length + chance())))
        model.used(text)
        texts.append(text)
    words = model.words()
    return [[words[number] for number in text] for text in texts]


class _Model:
    """Words by their numbers. In a context's list of successors, ~w is a w that was new there."""

    def __init__(self, real: list[list[str]], seed: int) -> None:
        self.chance = random.Random(seed).random
        self._after_two: dict[tuple[int, int], list[int]] = {}
        self._after_one: dict[int, list[int]] = {}
        self._anywhere: list[int] = []
        self._used: set[int] = set()
        self._tokens = 0
        self._numbers: dict[str, int] = {"": _END}
        for tokens in real:
            before, last = _START, _START
            for token in [*tokens, ""]:
                word = self._numbers.setdefault(token, len(self._numbers))
                self._learn(before, last, word)
                before, last = last, word
        self._count = len(self._numbers)

    def words(self) -> list[str]:
        """Every word by its number: real ones, then the invented ones."""
        invented = range(len(self._numbers), self._count)
        return [*self._numbers, *(f"word{number}" for number in invented)]

    def text(self, length: int) -> list[int]:
        before, last, text = _START, _START, list[int]()
        while len(text) < length:
            before, last = last, self._next(before, last)
            if last == _END:
                before, last = _START, _START
            else:
                text.append(last)
        return text

    def edited(self, text: list[int], share: float) -> list[int]:
        """Each word with this chance: dropped (1 in 10), preceded by another (1), replaced (8)."""
        before, last, copy = _START, _START, list[int]()
        for word in text:
            kind = 10 * self.chance() if self.chance() < share else 10.0
            if kind >= 1:
                if kind < 10:
                    new = self._next(before, last)
                    while new == _END:
                        new = self._next(_START, _START)
                    copy.append(new)
                if kind < 2 or kind == 10:
                    copy.append(word)
                before, last = last, copy[-1]
        return copy or text

    def used(self, text: list[int]) -> None:
        self._tokens += len(text)
        self._used.update(text)

    def _learn(self, before: int, last: int, word: int) -> None:
        successors = self._after_two.setdefault((before, last), [])
        if word in successors or ~word in successors:
            successors.append(word)
            return
        successors.append(~word)
        successors = self._after_one.setdefault(last, [])
        if word in successors or ~word in successors:
            successors.append(word)
            return
        successors.append(~word)
        self._anywhere.append(word)

    def _next(self, before: int, last: int) -> int:
        successors = self._after_two.setdefault((before, last), [])
        word = self._again(successors, DISCOUNTS[0])
        if word is None:
            shorter = self._after_one.setdefault(last, [])
            word = self._again(shorter, DISCOUNTS[1])
            if word is None:
                word = self._any()
                shorter.append(~word)
            successors.append(~word)
        return word

    def _again(self, successors: list[int], discount: float) -> int | None:
        """A word that was seen in the context, or None: leave it to a shorter context."""
        if not successors:
            return None
        word = successors[int(self.chance() * len(successors))]
        if word < 0:
            if self.chance() < discount:
                return None
            word = ~word
        successors.append(word)
        return word

    def _any(self) -> int:
        if len(self._used) < HEAPS_FACTOR * self._tokens**HEAPS_EXPONENT:
            word = self._count
            self._count += 1
        else:
            word = self._anywhere[int(self.chance() * len(self._anywhere))]
        self._anywhere.append(word)
        return word


def describe(name: str, texts: list[list[str]], sample: int = 2000) -> None:
    """Print lengths, word frequencies and how near the nearest text of a sample is."""
    counts = Counter(token for tokens in texts for token in tokens)
    total = counts.total()
    lengths = [len(tokens) for tokens in texts]
    print(f"{name}: {len(texts):,} texts, {total:,} tokens, {len(counts):,} distinct")
    print(f"  tokens a text    mean {np.mean(lengths):.1f}, {_quantiles(lengths, '.0f')}")
    frequent = " ".join(f"{word} {n / total:.1%}" for word, n in counts.most_common(8))
    once = sum(n == 1 for n in counts.values()) / len(counts)
    print(f"  most frequent    {frequent}; {once:.0%} of the words once")
    chosen = random.Random(1).sample(texts, min(sample, len(texts)))
    nearest, pairs = nearest_in_sample(chosen)
    above = ", ".join(f"{np.mean(nearest > bound):.1%} > {bound}" for bound in (0.5, 0.6, 0.7))
    print(f"  nearest of {len(chosen):,} {_quantiles(nearest, '.2f')}; {above}")
    print(f"  two of them      mean {pairs.mean():.3f}, 99 % below {np.quantile(pairs, 0.99):.2f}")


def _quantiles(values: object, form: str) -> str:
    marks = (5, 25, 50, 75, 95)
    found = np.quantile(np.asarray(values), [mark / 100 for mark in marks])
    return ", ".join(f"{mark} %: {value:{form}}" for mark, value in zip(marks, found, strict=True))


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 52_000
    describe("real", real_instructions())
    texts = make_corpus(size, 23 if sys.argv[2:] == ["23"] else 12)
    describe("corpus", texts)
    stays = first_stays(texts, 0.7).survivors < 0
    kept = [text for text, stay in zip(texts, stays.tolist(), strict=True) if stay]
    print(f"  above 0.7 to one that stays before it: {1 - len(kept) / size:.1%}")
    describe("the rest, as real sets have been filtered at 0.7 too", kept)


if __name__ == "__main__":
    main()
