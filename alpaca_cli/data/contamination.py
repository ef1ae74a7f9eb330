"""Evaluation texts that occur in training examples: containment of word n-grams.

A score on a question that was trained on is worth nothing, also when other words stood around the
question or a few of its own were changed; ROUGE-L of the two is low then. So it is asked how much
of the evaluation text occurs in the example, not how alike they are.

Sources of the formula, which all compare runs of n words:

- Tülu 3 (arXiv:2411.15124 §3.2; open-instruct, decontamination/search.py): n = 8; an evaluation
  prompt is found in a training prompt when over half of its *words* stand in 8-grams that both
  have. Here the share is of its distinct *n-grams*, as in PaLM (arXiv:2204.02311 §8: 70 % of the
  8-grams, anywhere in the training data) and decon (allenai/decon, doc/simple.md: sampled, and
  rare ones count more). That share is the smaller one, unless n-grams repeat: 8 common words in a
  row are half of a text of 16 words, but one of its nine 8-grams.
- GPT-3 (arXiv:2005.14165, appendix C): n from 8 to 13, and one common n-gram is enough, as in
  lm-evaluation-harness (docs/decontamination.md, 13), open-r1 (scripts/decontaminate.py, 8) and
  datatrove (pipeline/decont/n_grams.py, 12). Here that is a share close to 0.
- Texts of fewer words than n: GPT-3 ignores those under 8 words, and in the others they have no
  n-gram to find. Here they count as one n-gram of all their words, down to `FEWEST_WORDS`.

It knows lists of words (`alpaca_cli.data.rouge.tokenize`), not examples or files, and finds words,
not meanings: a paraphrase or a translation of an evaluation text is not found.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Words = tuple[str, ...]

# None of the 429 whole instructions of 5 to 7 words in the files that we test with occurs in an
# example of another file; of the 36 with four words two do ("answer the following question").
FEWEST_WORDS = 5
"""Evaluation texts of fewer words are not looked for: they are everyday phrases ("Translate")."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of an evaluation text occurs in an example.

    Attributes:
        text: position of the evaluation text, from 0.
        share: part of its distinct n-grams that occurs in the example; above 0, at most 1.
    """

    text: int
    share: float


class EvaluationTexts:
    """Texts that must not be trained on, and the one of which an example contains the most.

    What is found is what a comparison with every text would find; the words themselves are
    compared, no hashes of them. A text that is found has at least c of its d n-grams in the
    example, so at least one of any d - c + 1 of them: only so many are looked up, those that the
    fewest texts have (prefix filtering; Chaudhuri et al. 2006). So an opening that all questions
    of a benchmark share costs little, unless it alone reaches the share.

    Attributes:
        too_short: texts of 1 to `FEWEST_WORDS` - 1 words; never found.
        without_words: texts without words, for instance of a script that the tokenizer drops;
            never found.

    Args:
        texts: the words of each evaluation text.
        ngram: words in a run, at least 1. A shorter text is one run of all its words, and found
            only whole. In scripts of one token per letter a run is a few words long.
        share: the least part of a text's distinct n-grams with which it is found; above 0, at
            most 1, where 1 asks for every one of them.

    Raises:
        ValueError: `ngram` or `share` is out of range.
    """

    def __init__(self, texts: Iterable[Sequence[str]], ngram: int, share: float) -> None:
        if ngram < 1:
            raise ValueError(f"ngram must be at least 1, not {ngram}")
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self.ngram = ngram
        self.share = share
        self.too_short = 0
        self.without_words = 0
        self._texts: dict[int, Words] = {}  # by position; of equal texts the first
        self._counts: dict[int, int] = {}  # distinct n-grams of a text, when it has one
        self._long: dict[Words, list[int]] = {}  # rare n-gram -> positions of texts
        self._short: dict[Words, list[int]] = {}  # first words of a text shorter than an n-gram
        self._take(texts)
        self._index()

    def worst(self, tokens: Sequence[str]) -> Overlap | None:
        """The evaluation text of which `tokens` contain the largest share, at least `share`.

        Of equal shares the first text. None when no text reaches `share`.

        Args:
            tokens: the words of an example, or of the part of it that is compared.
        """
        words = tuple(tokens)
        worst: Overlap | None = None
        candidates = self._short_in(words) | self._long_near(words)
        if not candidates:
            return None
        present = set(_ngrams(words, self.ngram))
        for position in sorted(candidates):
            share = 1.0
            if position in self._counts:
                text = self._texts[position]
                common = present.intersection(_ngrams(text, self.ngram))
                share = len(common) / self._counts[position]
            if share >= self.share and (worst is None or share > worst.share):
                worst = Overlap(position, share)
        return worst

    def _take(self, texts: Iterable[Sequence[str]]) -> None:
        """Store what is looked for, and count the rest."""
        one: dict[str, str] = {}  # equal words of different texts need not be stored twice
        seen: set[Words] = set()
        for position, text in enumerate(texts):
            words = tuple(one.setdefault(word, word) for word in text)
            if not words:
                self.without_words += 1
            elif len(words) < FEWEST_WORDS:
                self.too_short += 1
            elif words not in seen:
                seen.add(words)
                self._texts[position] = words

    def _index(self) -> None:
        texts_with: Counter[Words] = Counter()
        for words in self._texts.values():
            texts_with.update(set(_ngrams(words, self.ngram)))
        for position, words in self._texts.items():
            if len(words) < self.ngram:
                self._short.setdefault(words[:FEWEST_WORDS], []).append(position)
                continue
            ngrams = sorted(set(_ngrams(words, self.ngram)), key=lambda run: (texts_with[run], run))
            count = self._counts[position] = len(ngrams)
            needed = bisect_left(range(count + 1), self.share, key=lambda found: found / count)
            for run in ngrams[: count - needed + 1]:
                self._long.setdefault(run, []).append(position)

    def _short_in(self, words: Words) -> set[int]:
        """Positions of the texts shorter than an n-gram that occur in `words`, whole."""
        if not self._short or self._short.keys().isdisjoint(_ngrams(words, FEWEST_WORDS)):
            return set()
        return {
            position
            for start, opening in enumerate(_ngrams(words, FEWEST_WORDS))
            for position in self._short.get(opening, ())
            if words[start : start + len(self._texts[position])] == self._texts[position]
        }

    def _long_near(self, words: Words) -> set[int]:
        """Positions of the other texts that may reach the share: all that do, and few more."""
        found = self._long.keys() & _ngrams(words, self.ngram)
        return {position for run in found for position in self._long[run]}


def _ngrams(words: Words, length: int) -> Iterable[Words]:
    """The runs of `length` words, in order, repeated ones too."""
    return zip(*(words[start:] for start in range(length)), strict=False)
