"""Where examples come from: yield, rejections and cost by seed, by teacher, by place in the reply.

A run's journal tells what every request showed and what it has cost; kept.jsonl and rejected.jsonl
tell what became of every task that came back, and dropped.jsonl what dedup took out of it later.

How credit and cost are dealt out:

- A request shows several tasks. Each of them gets the whole request: its candidates, kept and
  rejected. What it has cost is shared equally among them, so that `cost` adds up to the run's.
  `cost_per_kept` is not shared: it is what the requests have cost in full over what was kept of
  them, and so can be compared with the run's own.
- Examples of the run itself that were shown beside seeds are one entry, `(generated)`, with one
  share of the cost for each; requests that showed nothing, or that a killed process had in flight
  and nobody asked again, are the entry `(none)`.
- `kept` are examples that have stayed: kept by generate and, where dedup has run on them, by dedup.
  All other candidates have a reason in `rejected`.
- A request counts when it was answered or may have been billed: failed, refused and unneeded ones
  are requests without candidates. A failed one belongs to the teacher `(no reply)`.
- A reply is paid for as a whole, so places in it have no cost. A judge's cost is not counted.

Whether a seed is any good is not decided here (`alpaca_cli.data.seed_verdicts`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from alpaca_cli.core.files import digest, read_json, read_jsonl
from alpaca_cli.core.journal import whole_rows
from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Funnel, Producer, Provenance, share
from alpaca_cli.data.ledger import Row
from alpaca_cli.data.request_costs import Asked, Book, dollars, price_of_run
from alpaca_cli.data.seeds import GENERATED_ID

GENERATED, NONE, NO_REPLY = "(generated)", "(none)", "(no reply)"
OVER_TARGET = "over_target"  # the reason of candidates that came when there were enough
# Reasons, of generate and of dedup, that all mean: there is one like it already.
LIKE_ANOTHER = frozenset({"near_duplicate", "repeat", "duplicate", "against", "semantic"})


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one task that a teacher wrote.

    Attributes:
        item: its place in the reply, from 0.
        demonstrations: ids of the tasks that its request showed.
        reason: why generate did not keep it; empty when it did.
        later: why dedup dropped it; empty when it did not.
        nearest: id of the task that it was too similar to.
    """

    request: int | None
    item: int | None
    demonstrations: tuple[str, ...] | None
    teacher: str | None
    reason: str = ""
    later: str = ""
    nearest: str | None = None

    @property
    def why(self) -> str:
        """Why it is no example in the end; empty when it is one."""
        return self.reason or self.later


def fate_of(row: Mapping[str, Any], dropped: Mapping[str, str]) -> Fate:
    """The fate of a row of kept.jsonl or rejected.jsonl.

    Args:
        dropped: id -> why dedup dropped it.
    """
    reason = str(row.get("reason", ""))
    later = "" if reason else dropped.get(str(row.get("id")), "")
    return _fate(row.get("meta") or {}, reason, later)


def _fate(meta: Mapping[str, Any], reason: str = "", later: str = "") -> Fate:
    """From an example's `meta`, which may be somebody else's and hold anything."""
    request, item, shown = meta.get("request"), meta.get("item"), meta.get("demonstrations")
    teacher, nearest = meta.get("teacher"), meta.get("nearest")
    return Fate(
        request=request if isinstance(request, int) else None,
        item=item if isinstance(item, int) else None,
        demonstrations=tuple(map(str, shown)) if isinstance(shown, list) else None,
        teacher=teacher if isinstance(teacher, str) else None,
        reason=reason,
        later=later,
        nearest=str(nearest.get("id")) if isinstance(nearest, Mapping) else None,
    )


@dataclass(slots=True)
class Tally:
    """Sums that become a `Producer`; `whole` is the cost of its requests without sharing."""

    requests: int = 0
    candidates: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    cost: Decimal = Decimal(0)
    whole: Decimal = Decimal(0)

    def take(self, why: str) -> None:
        """Count a candidate, and why it is no example; empty when it is one."""
        self.candidates += 1
        if why:
            self.rejected[why] += 1
        else:
            self.kept += 1

    @property
    def near_duplicates(self) -> int:
        return sum(self.rejected[reason] for reason in LIKE_ANOTHER)

    def producer(self, name: str, *, priced: bool) -> Producer:
        """The record; without a price, or outside a run, costs are null."""
        return Producer(
            name=name,
            requests=self.requests,
            candidates=self.candidates,
            kept=self.kept,
            kept_share=share(self.kept, self.candidates),
            rejected=dict(self.rejected.most_common()),
            near_duplicates=self.near_duplicates,
            cost=dollars(self.cost) if priced else None,
            cost_per_kept=dollars(self.whole / self.kept) if priced and self.kept else None,
        )


@dataclass(frozen=True, slots=True)
class Tallies:
    """The sums by demonstration, by teacher and by place in the reply, from 0."""

    seeds: dict[str, Tally]
    teachers: dict[str, Tally]
    positions: dict[int, Tally]


def tally(
    asked: Iterable[Asked], candidates: Iterable[Fate], seeds: Collection[str] = ()
) -> Tallies:
    """Add up requests and candidates; the module says who gets what.

    Args:
        asked: the requests that count.
        seeds: ids that are seeds even where they look like those of generated examples.
    """
    sums = Tallies({}, {}, {})
    for request in asked:
        credit = credited(request.demonstrations, seeds)
        for name, shown in credit.items():
            one = sums.seeds.setdefault(name, Tally())
            _add_request(one, request.cost, request.cost * shown / sum(credit.values()))
        one = sums.teachers.setdefault(request.teacher or NO_REPLY, Tally())
        _add_request(one, request.cost, request.cost)
    for fate in candidates:
        if fate.demonstrations is not None:
            for name in credited(fate.demonstrations, seeds):
                sums.seeds.setdefault(name, Tally()).take(fate.why)
        sums.teachers.setdefault(fate.teacher or NO_REPLY, Tally()).take(fate.why)
        if fate.item is not None:
            place = sums.positions.setdefault(fate.item, Tally())
            place.requests += 1
            place.take(fate.why)
    return sums


def _add_request(tally: Tally, whole: Decimal, part: Decimal) -> None:
    tally.requests += 1
    tally.whole += whole
    tally.cost += part


def credited(demonstrations: Sequence[str], seeds: Collection[str] = ()) -> dict[str, int]:
    """Who gets a request: each seed task by its id, with its number of shares of the cost."""
    credit: dict[str, int] = {}
    for name in demonstrations or (NONE,):
        known = GENERATED if GENERATED_ID.fullmatch(name) and name not in seeds else name
        credit[known] = credit.get(known, 0) + 1
    return credit


def run_provenance(generate: Path, dedup: Path, seeds: Collection[str] = ()) -> Provenance:
    """What a run's files tell, for a run that is over or still going on. Changes nothing.

    Args:
        generate, dedup: the stages' folders; files that are not there count as empty.
        seeds: as for `tally`.

    Raises:
        DataError: a file is damaged; a torn last line of the journal is not damage.
    """
    book = Book(price_of_run(generate))
    journal = generate / "journal.jsonl"
    if journal.is_file():
        for _ in book.reading(whole_rows(journal), journal):
            pass
    kept, rejected = generate / "kept.jsonl", generate / "rejected.jsonl"
    dropped = dropped_by_dedup(generate, dedup)
    total = _Total()
    judged = (fate_of(row, dropped or {}) for row in chain(_rows(kept), _rows(rejected)))
    requests = [request for request in book.asked.values() if request.counts]
    sums = tally(requests, total.counting(judged), seeds)
    priced = book.price is not None
    return Provenance(
        funnel=None if not kept.is_file() else total.funnel(ran=dropped is not None),
        requests=len(requests),
        cost=dollars(sum((one.cost for one in requests), Decimal(0))) if priced else None,
        seeds=_most_first(sums.seeds, priced=priced),
        teachers=_most_first(sums.teachers, priced=priced),
        positions=_by_place(sums.positions),
    )


def rows_provenance(examples: Sequence[Example]) -> Provenance | None:
    """What the examples of any file say in their `meta`; None when they say nothing.

    All of them are kept ones, for nothing is known of the others, nor of what they have cost.
    """
    found = [_fate(example.meta) for example in examples]
    told = [fate for fate in found if fate.demonstrations is not None or fate.teacher is not None]
    if not told:
        return None
    # Files of several runs may be read as one: a number alone is not a request.
    requests = {
        (fate.request, fate.demonstrations or (), fate.teacher)
        for fate in told
        if fate.request is not None
    }
    asked = [Asked(shown, teacher, answered=True) for _, shown, teacher in requests]
    sums = tally(asked, told)
    if all(fate.demonstrations is None for fate in told):
        sums.seeds.clear()
    if all(fate.teacher is None for fate in told):
        sums.teachers.clear()
    return Provenance(
        funnel=None,
        requests=len(asked),
        cost=None,
        seeds=_most_first(sums.seeds, priced=False),
        teachers=_most_first(sums.teachers, priced=False),
        positions=_by_place(sums.positions),
    )


class _Total:
    """Counts candidates on their way."""

    def __init__(self) -> None:
        self.rejected: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.candidates = 0

    def counting(self, candidates: Iterable[Fate]) -> Iterator[Fate]:
        for fate in candidates:
            self.candidates += 1
            if fate.reason:
                self.rejected[fate.reason] += 1
            elif fate.later:
                self.dropped[fate.later] += 1
            yield fate

    def funnel(self, *, ran: bool) -> Funnel:
        """What came through; `ran`: whether dedup has run on these very examples."""
        generated = self.candidates - self.rejected.total()
        return Funnel(
            candidates=self.candidates,
            rejected=dict(self.rejected.most_common()),
            generated=generated,
            dropped=dict(self.dropped.most_common()),
            kept=generated - self.dropped.total() if ran else None,
        )


def dropped_by_dedup(generate: Path, dedup: Path) -> dict[str, str] | None:
    """Id -> why dedup dropped it; None when dedup has not run on what generate has kept now."""
    done, kept = dedup / "done.json", generate / "kept.jsonl"
    if not (done.is_file() and kept.is_file()):
        return None
    if read_json(done).get("inputs", {}).get("generate/kept.jsonl") != digest(kept):
        return None
    return {
        str(row.get("id")): str(row.get("reason", "")) for row in _rows(dedup / "dropped.jsonl")
    }


def _rows(path: Path) -> Iterator[Row]:
    if path.is_file():
        for _, row in read_jsonl(path):
            yield row


def _most_first(sums: Mapping[str, Tally], *, priced: bool) -> list[Producer]:
    """Those that most was kept of first; what is no name of anybody last."""
    producers = [one.producer(name, priced=priced) for name, one in sums.items()]
    last = {GENERATED, NONE, NO_REPLY}
    return sorted(producers, key=lambda one: (one.name in last, -one.kept, one.name))


def _by_place(sums: Mapping[int, Tally]) -> list[Producer]:
    return [sums[item].producer(str(item + 1), priced=False) for item in sorted(sums)]
