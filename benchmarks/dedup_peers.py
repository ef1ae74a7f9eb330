"""What `benchmarks/dedup.py` measures alpaca's index against.

Exact: every pair by rapidfuzz's `cdist`, and every pair by rouge-score itself (a sample of pairs,
for it takes hours). Approximate: MinHash by datasketch, by rensa and the way text-dedup does it,
and semhash. An approximate method says only what it drops; what it takes for the similarity is not
ROUGE-L, so each is given the parameters, written here, with which it comes nearest to ROUGE-L's
decisions at 0.7 on these corpora. None of them is a dependency: what is not installed is skipped.
"""

from __future__ import annotations

import importlib.util
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from rapidfuzz import process
from rapidfuzz.distance import Indel
from rouge_score import rouge_scorer, scoring

Texts = list[list[str]]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_BLOCK = 256  # texts that cdist compares at once


@dataclass(frozen=True, slots=True)
class Peer:
    """An approximate method.

    Attributes:
        name: it and the parameters that matter.
        packages: what must be installed: names to import, and to `pip install`.
        dropped: texts, threshold and what was prepared -> for each text whether it is dropped.
        prepare: makes what the method is given besides the texts; not on the clock.
        up_to: texts beyond which it takes too long to wait for.
    """

    name: str
    packages: tuple[str, ...]
    dropped: Callable[[Texts, float, Any], Flags]
    prepare: Callable[[Texts], Any] = lambda texts: None
    up_to: int = 1_000_000

    @property
    def missing(self) -> list[str]:
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


class BruteForce:
    """Every pair by rapidfuzz, with rouge-score's own arithmetic for those near the threshold.

    One code point a word, so that cdist's vectorised comparison of strings does the work: the
    fastest way to use it that was found. Indel's normalised similarity is ROUGE-L's F1 as a real
    number; whether a pair is above the threshold is decided by rouge-score's float.
    """

    def __init__(self, texts: Texts, threshold: float, threads: int) -> None:
        self._texts = _as_strings(texts)
        self._threshold, self._threads = threshold, threads

    def first_stays(self) -> tuple[Ints, Floats]:
        """For each text its survivor, or -1, and their F1: see `rouge_index.Stays`."""
        total = len(self._texts)
        survivors, scores = np.full(total, -1), np.zeros(total)
        kept: list[int] = []
        for first in range(0, total, _BLOCK):
            block = range(first, min(first + _BLOCK, total))
            found = self._above(block, [*kept, *block])
            for text, others in zip(block, found, strict=True):
                best = _nearest(text, {n: f1 for n, f1 in others.items() if survivors[n] < 0})
                if best is None:
                    kept.append(text)
                else:
                    survivors[text], scores[text] = best
        return survivors, scores

    def differing(self, sample: Sequence[int], survivors: Ints, scores: Floats) -> int:
        """How many of these texts have another survivor or score, given who stays before them."""
        kept = np.flatnonzero(survivors < 0).tolist()
        wrong = 0
        for start in range(0, len(sample), _BLOCK):
            block = sample[start : start + _BLOCK]
            for text, others in zip(block, self._above(block, kept), strict=True):
                told = (int(survivors[text]), float(scores[text]))
                wrong += _nearest(text, others) != (None if told[0] < 0 else told)
        return wrong

    def _above(self, block: Sequence[int], others: list[int]) -> list[dict[int, float]]:
        """For each text of the block the others above the threshold, and their F1."""
        texts = self._texts
        found: list[dict[int, float]] = [{} for _ in block]
        matrix = _similarities(
            [texts[n] for n in block], [texts[n] for n in others], self._threshold, self._threads
        )
        for place in np.flatnonzero(matrix > 0).tolist():
            row, column = divmod(place, len(others))
            text, other = texts[block[row]], texts[others[column]]
            f1 = _f1(text, other, float(matrix[row, column]))
            if f1 > self._threshold:
                found[row][others[column]] = f1
        return found


def _as_strings(texts: Texts) -> list[str]:
    numbers: dict[str, int] = {}
    return [
        "".join(chr(numbers.setdefault(token, len(numbers))) for token in tokens)
        for tokens in texts
    ]


def _nearest(text: int, others: dict[int, float]) -> tuple[int, float] | None:
    """The most similar text before this one; of equally similar ones the first."""
    earlier = [(-f1, other) for other, f1 in others.items() if other < text]
    return (min(earlier)[1], -min(earlier)[0]) if earlier else None


def _similarities(texts: list[str], others: list[str], least: float, threads: int) -> Any:
    """float32 [texts, others]; 0 where it is surely not above `least`."""
    return process.cdist(
        texts,
        others,
        scorer=Indel.normalized_similarity,
        score_cutoff=max(0.0, least - 1e-6),
        dtype=np.float32,
        workers=threads,
    )


def _f1(text: str, other: str, similarity: float) -> float:
    """The F1 of rouge_scorer._score_lcs, from what cdist found."""
    if not text or not other:
        return 0.0
    common = round(similarity * (len(text) + len(other)) / 2)
    return float(scoring.fmeasure(common / len(other), common / len(text)))


def nearest_in_sample(texts: Texts) -> tuple[Floats, Floats]:
    """For each text the F1 with the most similar other one; and the F1 of all pairs."""
    encoded = _as_strings(texts)
    matrix = _similarities(encoded, encoded, 0.0, threads=1)
    pairs = matrix[np.triu_indices(len(texts), 1)]
    np.fill_diagonal(matrix, 0)
    return matrix.max(axis=1).astype(np.float64), pairs.astype(np.float64)


def rouge_score_on_pairs(texts: Texts, pairs: int) -> None:
    """rouge-score's LCS of so many random pairs of token lists, as Stanford Alpaca calls it."""
    rng = random.Random(0)
    for _ in range(pairs):
        rouge_scorer._score_lcs(rng.choice(texts), rng.choice(texts))


def _by_datasketch(texts: Texts, threshold: float, prepared: None) -> Flags:
    """MinHashLSH, 128 permutations of words and pairs of words; query, then insert."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=threshold - 0.1, num_perm=128)
    shingles = (
        [token.encode() for token in tokens] + [f"{a} {b}".encode() for a, b in pairwise(tokens)]
        for tokens in texts
    )
    dropped = np.zeros(len(texts), bool)
    for number, sketch in enumerate(MinHash.generator(shingles, num_perm=128)):
        if index.query(sketch):
            dropped[number] = True
        else:
            index.insert(number, sketch)
    return dropped


def _by_rensa(texts: Texts, threshold: float, prepared: None) -> Flags:
    """128 permutations of words, LSH, candidates checked by their sketches; first stays."""
    from rensa import RMinHashDeduplicator

    # Of two texts that share words enough for this F1, in any order, the Jaccard similarity.
    jaccard = threshold / (2 - threshold)
    index = RMinHashDeduplicator(threshold=jaccard, num_perm=128, use_lsh=True)
    kept = index.add_pairs((str(number), tokens) for number, tokens in enumerate(texts))
    return ~np.array(kept, bool)


def _by_text_dedup(size: int, lower: float) -> Callable[[Texts, float, None], Flags]:
    """MinHash as in text-dedup (minhash.py of 2026-03), on n-grams of `size` words.

    Its threshold for their Jaccard similarity is ours minus `lower`.

    Its steps and parameters: 240 permutations in the bands that are best for the threshold, texts
    of fewer than 5 words left alone, one cluster for all that are connected by equal bands, of
    which those stay that have no n-gram similarity of the threshold within it, and the first of
    the rest. Written with numpy for whole corpora, which is faster than its work row by row.
    """

    def dropped(texts: Texts, threshold: float, prepared: None) -> Flags:
        least = threshold - lower
        numbers: dict[tuple[str, ...], int] = {}
        grams = [
            {numbers.setdefault(gram, len(numbers)) for gram in _ngrams(tokens, size)}
            for tokens in texts
        ]
        rows = [number for number, found in enumerate(grams) if found]
        sizes = [len(grams[row]) for row in rows]
        flat = np.fromiter((gram for row in rows for gram in grams[row]), np.int64, sum(sizes))
        starts = np.cumsum([0, *sizes[:-1]])
        parents = list(range(len(texts)))
        for values in _bands(flat, starts, len(numbers), least):
            first: dict[bytes, int] = {}
            for row, value in zip(rows, values, strict=True):
                other = first.setdefault(value, row)
                if other != row:
                    _join(parents, other, row)
        clusters: dict[int, list[int]] = {}
        for row in rows:
            clusters.setdefault(_root(parents, row), []).append(row)
        gone = np.zeros(len(texts), bool)
        for cluster in clusters.values():
            similar = {
                row
                for pair in combinations(cluster, 2)
                if _jaccard(grams[pair[0]], grams[pair[1]]) >= least
                for row in pair
            }
            gone[sorted(similar)[1:]] = True
        return gone

    return dropped


def _ngrams(tokens: list[str], size: int) -> Iterator[tuple[str, ...]]:
    """text_dedup/utils/tokenization.py: none of a text of fewer than 5 words."""
    if len(tokens) < 5:
        return iter(())
    return zip(*(tokens[start:] for start in range(size)), strict=False)


def _bands(flat: Ints, starts: Ints, grams: int, threshold: float) -> Iterator[list[bytes]]:
    """Band by band, the value of each text."""
    bands, rows = _best_bands(threshold, 240)
    rng = np.random.default_rng(42)
    prime = np.uint64((1 << 61) - 1)
    hashes = rng.integers(0, 1 << 32, grams, dtype=np.uint64)
    for _ in range(bands):
        minima = np.empty((len(starts), rows), np.uint32)
        for row in range(rows):
            a, b = rng.integers(1, int(prime), 2, dtype=np.uint64)
            permuted = ((hashes * a + b) % prime).astype(np.uint32)
            minima[:, row] = np.minimum.reduceat(permuted[flat], starts)
        yield [value.tobytes() for value in minima]


def _best_bands(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows with the least false positives and negatives, as datasketch weighs them."""
    grid = np.linspace(0, 1, 1001)

    def error(choice: tuple[int, int]) -> float:
        bands, rows = choice
        chance = 1 - (1 - grid**rows) ** bands
        return float(np.where(grid < threshold, chance, 1 - chance).mean())

    choices = [
        (bands, rows)
        for bands in range(1, permutations + 1)
        for rows in range(1, permutations // bands + 1)
    ]
    return min(choices, key=error)


def _root(parents: list[int], row: int) -> int:
    while parents[row] != row:
        parents[row] = row = parents[parents[row]]
    return row


def _join(parents: list[int], row: int, other: int) -> None:
    row, other = _root(parents, row), _root(parents, other)
    parents[max(row, other)] = min(row, other)


def _jaccard(grams: set[int], others: set[int]) -> float:
    common = len(grams & others)
    return common / (len(grams) + len(others) - common)


def _word_vectors(texts: Texts) -> Any:
    """A model2vec model of the size of semhash's default, whose vectors mean nothing.

    The default, potion-base-8M, has to be downloaded, and knows no invented words. Here each word
    has a random vector of 256 numbers, weighted a / (a + frequency) with a = 1e-3 as model2vec
    does: a cosine of weighted bags of words. It takes as long, or less (words are not split).
    """
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    counts = Counter(token for tokens in texts for token in tokens)
    words = {"[UNK]": 0} | {word: number for number, word in enumerate(counts, 1)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    frequencies = np.array([1, *counts.values()]) / counts.total()
    vectors = np.random.default_rng(42).normal(size=(len(words), 256))
    vectors *= (1e-3 / (1e-3 + frequencies))[:, None]
    return StaticModel(vectors.astype(np.float32), tokenizer, normalize=True)


def _by_semhash(texts: Texts, threshold: float, prepared: Any) -> Flags:
    """Its index of approximate neighbours (usearch), cosine of word vectors; first stays."""
    from semhash import SemHash

    records = [{"text": " ".join(tokens), "id": str(number)} for number, tokens in enumerate(texts)]
    index = SemHash.from_records(records, columns=["text"], model=prepared)
    result = index.self_deduplicate(threshold=min(1.0, threshold + 0.05))
    dropped = np.ones(len(texts), bool)
    dropped[[int(record["id"]) for record in result.selected]] = False
    return dropped


PEERS = (
    Peer("datasketch MinHashLSH, 1+2-grams", ("datasketch",), _by_datasketch),
    Peer("rensa R-MinHash + LSH, 1-grams", ("rensa",), _by_rensa),
    Peer("text-dedup's MinHash, 5-grams", (), _by_text_dedup(5, 0.0)),
    Peer("text-dedup's MinHash, 1-grams", (), _by_text_dedup(1, 0.1), up_to=60_000),
    Peer("semhash, random word vectors", ("semhash",), _by_semhash, _word_vectors),
)
