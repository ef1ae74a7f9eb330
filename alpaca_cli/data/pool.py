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
from alpaca_cli.data.filters import make_filter
from alpaca_cli.data.parsing import Candidate, parse_reply
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import RougeIndex
from alpaca_cli.data.texts import key_text, plain

WINDOW = 50  # requests over which the yield is watched


@dataclass(frozen=True, slots=True)
class Answer:
    """The teacher's answer to one request, as journalled; `failed` says why there is none."""

    text: str = ""
    finish_reason: str | None = None
    model: str | None = None
    failed: str = ""


class Pool:
    """Kept and rejected examples so far.

    Attributes:
        kept, rejected: JSON rows in the order of their requests; rejected ones have `reason` and
            `detail`.
        requests, failed: requests judged, and those of them that have no reply.
        candidates: tasks found in the replies, one for a reply in which nothing was found.
    """

    def __init__(self, settings: Generate, seeds: Sequence[Example]) -> None:
        self.kept: list[dict[str, Any]] = []
        self.rejected: list[dict[str, Any]] = []
        self.requests = self.failed = self.candidates = 0
        self._settings = settings
        self._filter = make_filter(settings.filters)
        self._novelty = Novelty(settings)
        self._recent: deque[int] = deque(maxlen=WINDOW)
        for seed in seeds:
            self._novelty.add(seed)

    @property
    def reasons(self) -> Counter[str]:
        """How many candidates were rejected for which reason."""
        return Counter(row["reason"] for row in self.rejected)

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

    def judge(self, request: Request, answer: Answer) -> None:
        """Take the next request's answer; requests come in their order, without gaps."""
        before = len(self.kept)
        self.requests += 1
        if answer.failed:
            self.failed += 1
        else:
            found = parse_reply(answer.text, answer.finish_reason, request.opening)
            self.candidates += len(found)
            for item, candidate in enumerate(found):
                self._place(candidate, f"g-{request.n}-{item}", _origin(request, item, answer))
        self._recent.append(len(self.kept) - before)

    def _place(self, candidate: Candidate, id: str, meta: Mapping[str, Any]) -> None:
        example = Example(candidate.instruction, candidate.input, candidate.output, id, meta)
        verdict: tuple[str, str] | None
        if self.full:
            verdict = "over_target", ""
        elif candidate.fault:
            verdict = candidate.fault, candidate.detail
        else:
            verdict = self._filter(example)
        if verdict is None and (nearest := self._novelty.nearest(example)) is not None:
            other, score = nearest
            example = example.with_meta(nearest={"id": other, "score": round(score, 4)})
            verdict = ("repeat" if score == 1 else "near_duplicate"), f"of {other}"
        if verdict is None:
            self._novelty.add(example)
            self.kept.append(example.to_row())
        else:
            reason, detail = verdict
            rejected = replace(example, extra={"reason": reason, "detail": detail})
            self.rejected.append(rejected.to_row())


class Novelty:
    """Seeds and kept examples, and which of them a new one is too similar to."""

    def __init__(self, settings: Generate) -> None:
        self._key = settings.novelty_key
        # Nothing scores above 1: then only word-for-word repeats count.
        self._index = RougeIndex(settings.novelty) if settings.novelty < 1 else None
        self._ids: list[str] = []
        self._first: dict[str, int] = {}

    def nearest(self, example: Example) -> tuple[str, float] | None:
        """Id and score of the most similar earlier example, if it is too similar."""
        text = key_text(example, self._key)
        twin = self._first.get(plain(text))
        if twin is not None:
            return self._ids[twin], 1.0
        found = self._index.nearest(tokenize(text)) if self._index is not None else None
        return (self._ids[found[0]], found[1]) if found else None

    def add(self, example: Example) -> None:
        text = key_text(example, self._key)
        self._first.setdefault(plain(text), len(self._ids))
        self._ids.append(str(example.id))
        if self._index is not None:
            self._index.add(tokenize(text))


def _origin(request: Request, item: int, answer: Answer) -> dict[str, Any]:
    return {
        "request": request.n,
        "item": item,
        "demonstrations": list(request.demonstrations),
        "teacher": answer.model,
        "finish_reason": answer.finish_reason,
    }
