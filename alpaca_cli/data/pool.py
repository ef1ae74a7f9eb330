"""What is kept of the replies, decided in request order: parse, filter, compare, keep or reject.

The pool is a pure function of (settings, seeds, replies in the order of their requests): the same
replies give the same rows, whenever and in whatever order they arrived. Every candidate ends in
exactly one place, kept or rejected with a reason. Files and requests in flight are not known here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Generate
from alpaca_cli.data.demonstrations import Outcome
from alpaca_cli.data.filters import Verdict, make_filter
from alpaca_cli.data.parsing import Candidate, parse_reply
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import RougeIndex
from alpaca_cli.data.texts import key_text, plain

WINDOW = 50  # requests over which the yield is watched


@dataclass(frozen=True, slots=True)
class Answer:
    """The teacher's answer to one request, as journalled.

    Attributes:
        n: the request's number.
        demonstrations, asked, opening, mode: of the request: ids of the tasks shown, how many new
            ones were asked for, what the prompt had begun, and in which mode of asking.
        failed: why there is no reply.
    """

    n: int
    demonstrations: tuple[str, ...] = ()
    asked: int = 1
    opening: str = ""
    mode: str = ""
    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    failed: str = ""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Answer:
        """The answer in a row of the journal, of kind `reply` or `failed`."""
        failed = row["text"] if row["kind"] == "failed" else ""
        return cls(
            n=row["n"],
            demonstrations=tuple(row["demonstrations"]),
            asked=row["tasks"],
            opening=row.get("opening", ""),
            mode=row["mode"],
            text="" if failed else row["text"],
            finish_reason=row.get("finish_reason"),
            model=row.get("model"),
            failed=failed,
        )


class Pool:
    """Kept and rejected examples so far.

    Args:
        prompt: what the teacher is told beside the demonstrations; no candidate may repeat it.

    Attributes:
        kept, rejected: JSON rows in the order of their requests; rejected ones have `reason` and
            `detail`.
        requests, failed: requests judged, and those of them that have no reply.
        candidates: tasks found in the replies, one for a reply in which nothing was found.
        outcomes: what became of each request judged.
        unparsed: replies in a row, up to the last, in which no whole task was found.
    """

    def __init__(self, settings: Generate, seeds: Sequence[Example], prompt: str = "") -> None:
        self.kept: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.outcomes: list[Outcome] = []
        self.requests = self.failed = self.candidates = self.unparsed = 0
        self.reasons: Counter[str] = Counter()
        self._settings = settings
        self._filter = make_filter(settings.filters, prompt)
        self._novelty = Novelty(settings)
        self._recent: deque[int] = deque(maxlen=WINDOW)
        for seed in seeds:
            self._novelty.add(seed)

    @property
    def full(self) -> bool:
        return len(self.kept) >= self._settings.target

    @property
    def recent_yield(self) -> float | None:
        """Examples kept per request over the last requests; None before the first."""
        return sum(self._recent) / len(self._recent) if self._recent else None

    @property
    def saturated(self) -> bool:
        """Whether a whole window of requests kept less than `min_yield` each."""
        return (
            not self.full
            and len(self._recent) == WINDOW
            and sum(self._recent) < self._settings.min_yield * WINDOW
        )

    def promising(self, answer: Answer) -> dict[int, Example]:
        """The candidates of an answer that pass the filters, by item: what a judge is shown."""
        if answer.failed:
            return {}
        found = {}
        for item, candidate in enumerate(_parsed(answer)):
            example = Example(candidate.instruction, candidate.input, candidate.output)
            if not candidate.fault and self._filter(example) is None:
                found[item] = example
        return found

    def judge(self, answer: Answer, scores: Mapping[int, float | None] | None = None) -> None:
        """Take the next request's answer; requests come in their order, without gaps.

        Args:
            scores: a judge's scores of the promising candidates by item, None where it gave none;
                without them nothing is judged.
        """
        before = len(self.kept)
        self.requests += 1
        if answer.failed:
            self.failed += 1
        else:
            found = _parsed(answer)
            self.candidates += len(found)
            whole = any(not candidate.fault for candidate in found)
            self.unparsed = 0 if whole else self.unparsed + 1
            examples = [
                _example(answer, item, candidate, scores) for item, candidate in enumerate(found)
            ]
            self._place(
                examples,
                [
                    self._verdict(candidate, example, scores, item)
                    for item, (candidate, example) in enumerate(zip(found, examples, strict=True))
                ],
            )
        kept = len(self.kept) - before
        self._recent.append(kept)
        self.outcomes.append(Outcome(answer.demonstrations, answer.asked, kept))

    def _verdict(
        self,
        candidate: Candidate,
        example: Example,
        scores: Mapping[int, float | None] | None,
        item: int,
    ) -> Verdict | None:
        """Why a candidate is rejected, whatever came before it; None when only that matters."""
        if candidate.fault:
            return candidate.fault, candidate.detail
        verdict = self._filter(example)
        if verdict is None and scores is not None:
            return self._scored(scores.get(item))
        return verdict

    def _scored(self, score: float | None) -> Verdict | None:
        judge = self._settings.judge
        if score is None:
            return "not_judged", "the judge gave no score"
        if judge is not None and score < judge.threshold:
            return "judged_low", f"scored {score:g}, below {judge.threshold:g}"
        return None

    def _place(self, examples: Sequence[Example], verdicts: Sequence[Verdict | None]) -> None:
        """Keep or reject the candidates of a reply, in their order."""
        good = [example for example, no in zip(examples, verdicts, strict=True) if no is None]
        nearest = iter(self._novelty.admit(good))
        for example, verdict in zip(examples, verdicts, strict=True):
            if verdict is None and (near := next(nearest)) is not None:
                other, score = near
                example = example.with_meta(nearest={"id": other, "score": round(score, 4)})
                verdict = ("repeat" if score == 1 else "near_duplicate"), f"of {other}"
            if self.full:
                verdict = "over_target", ""
            if verdict is None:
                self.kept.append(example.to_row())
                continue
            reason, detail = verdict
            self.reasons[reason] += 1
            rejected = replace(example, extra={"reason": reason, "detail": detail})
            self.rejected.append(rejected.to_row())


def _parsed(answer: Answer) -> list[Candidate]:
    return parse_reply(answer.text, answer.finish_reason, answer.opening)


class Novelty:
    """Seeds and kept examples, and which of them a new one is too similar to."""

    def __init__(self, settings: Generate) -> None:
        self._key = settings.novelty_key
        # Nothing scores above 1: then only word-for-word repeats count.
        self._index = RougeIndex(settings.novelty) if settings.novelty < 1 else None
        self._ids: list[str] = []
        self._first: dict[str, int] = {}

    def admit(self, examples: Sequence[Example]) -> list[tuple[str, float] | None]:
        """For each example, in order, the most similar of all before it, if it is too similar.

        That is its id and the score; where there is None, the example is one of those before the
        next ones from then on. A reply's candidates come together, because asking the index costs
        more than its answer.
        """
        texts = [key_text(example, self._key) for example in examples]
        plains = [plain(text) for text in texts]
        twins = [self._first.get(words) for words in plains]
        asked = [place for place, twin in enumerate(twins) if twin is None]
        found: list[tuple[int, float] | None] = [None] * len(asked)
        if self._index is not None:
            found = self._index.admit([tokenize(texts[place]) for place in asked])
        nearest = [None if twin is None else (self._ids[twin], 1.0) for twin in twins]
        for place, near in zip(asked, found, strict=True):
            if near is not None:
                nearest[place] = self._ids[near[0]], near[1]
                continue
            # Texts without words of the index are equal only letter by letter.
            twin = self._first.setdefault(plains[place], len(self._ids))
            if twin < len(self._ids):
                nearest[place] = self._ids[twin], 1.0
            self._ids.append(str(examples[place].id))
        return nearest

    def add(self, example: Example) -> None:
        """Take an example whatever it is like: a seed task."""
        text = key_text(example, self._key)
        self._first.setdefault(plain(text), len(self._ids))
        self._ids.append(str(example.id))
        if self._index is not None:
            self._index.add(tokenize(text))


def _example(
    answer: Answer,
    item: int,
    candidate: Candidate,
    scores: Mapping[int, float | None] | None = None,
) -> Example:
    """A candidate with its id and where it comes from."""
    meta: dict[str, Any] = {
        "request": answer.n,
        "item": item,
        "demonstrations": list(answer.demonstrations),
        "teacher": answer.model,
        "finish_reason": answer.finish_reason,
    }
    if scores is not None and scores.get(item) is not None:
        meta["score"] = scores[item]
    name = f"g-{answer.n}-{item}"
    return Example(candidate.instruction, candidate.input, candidate.output, name, meta)
