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
from alpaca_cli.data.filters import make_filter
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
            for item, candidate in enumerate(found):
                meta = _origin(answer, item)
                if scores is not None and scores.get(item) is not None:
                    meta["score"] = scores[item]
                self._place(candidate, f"g-{answer.n}-{item}", meta, scores)
        kept = len(self.kept) - before
        self._recent.append(kept)
        self.outcomes.append(Outcome(answer.demonstrations, answer.asked, kept))

    def _place(
        self,
        candidate: Candidate,
        id: str,
        meta: Mapping[str, Any],
        scores: Mapping[int, float | None] | None,
    ) -> None:
        example = Example(candidate.instruction, candidate.input, candidate.output, id, meta)
        verdict: tuple[str, str] | None
        if self.full:
            verdict = "over_target", ""
        elif candidate.fault:
            verdict = candidate.fault, candidate.detail
        else:
            verdict = self._filter(example)
        if verdict is None and scores is not None:
            verdict = self._scored(meta.get("score"))
        if verdict is None and (nearest := self._novelty.admit(example)) is not None:
            other, score = nearest
            example = example.with_meta(nearest={"id": other, "score": round(score, 4)})
            verdict = ("repeat" if score == 1 else "near_duplicate"), f"of {other}"
        if verdict is None:
            self.kept.append(example.to_row())
        else:
            reason, detail = verdict
            self.reasons[reason] += 1
            rejected = replace(example, extra={"reason": reason, "detail": detail})
            self.rejected.append(rejected.to_row())

    def _scored(self, score: float | None) -> tuple[str, str] | None:
        judge = self._settings.judge
        if score is None:
            return "not_judged", "the judge gave no score"
        if judge is not None and score < judge.threshold:
            return "judged_low", f"scored {score:g}, below {judge.threshold:g}"
        return None


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

    def admit(self, example: Example) -> tuple[str, float] | None:
        """Id and score of the most similar earlier example, if it is too similar; else None, and
        the example is one of the earlier ones from now on."""
        text = key_text(example, self._key)
        words = plain(text)
        twin = self._first.get(words)
        if twin is not None:
            return self._ids[twin], 1.0
        found = self._index.admit(tokenize(text)) if self._index is not None else None
        if found is not None:
            return self._ids[found[0]], found[1]
        self._remember(words, example)
        return None

    def add(self, example: Example) -> None:
        """Take an example whatever it is like: a seed task."""
        text = key_text(example, self._key)
        self._remember(plain(text), example)
        if self._index is not None:
            self._index.add(tokenize(text))

    def _remember(self, words: str, example: Example) -> None:
        self._first.setdefault(words, len(self._ids))
        self._ids.append(str(example.id))


def _origin(answer: Answer, item: int) -> dict[str, Any]:
    return {
        "request": answer.n,
        "item": item,
        "demonstrations": list(answer.demonstrations),
        "teacher": answer.model,
        "finish_reason": answer.finish_reason,
    }
