"""What each seed task has bred in a run (`alpaca seed --report`).

Everything is read from the run's files; nothing is asked for, written or locked, so that the
report works beside a generation that is under way. Of a finished generation kept.jsonl and
rejected.jsonl are read; of any other the journal is judged again in memory, for those files are
older than it is, or not there yet.

How credit and cost are dealt out among the seeds of a request is said in
`alpaca_cli.data.provenance`, and by what rule seeds are named in `alpaca_cli.data.seed_verdicts`.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import read_json, read_jsonl
from alpaca_cli.core.journal import whole_rows
from alpaca_cli.core.records import Example, example_from_row
from alpaca_cli.core.runfolder import RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Producer, sample, share
from alpaca_cli.data.demonstrations import Chooser
from alpaca_cli.data.measures import SCORES, distribution
from alpaca_cli.data.provenance import (
    GENERATED,
    LIKE_ANOTHER,
    NONE,
    OVER_TARGET,
    Fate,
    Tally,
    credited,
    dropped_by_dedup,
    fate_of,
    tally,
)
from alpaca_cli.data.request_costs import Asked, Book, price_of
from alpaca_cli.data.rouge import score, tokenize
from alpaca_cli.data.seed_verdicts import (
    VERDICTS,
    Counts,
    Verdict,
    design_effect,
    interval,
    judge_seed,
)
from alpaca_cli.data.seeds import BUILTIN, load_seeds
from alpaca_cli.data.texts import key_text
from alpaca_cli.stages.generate import OUTPUTS, paid_settings
from alpaca_cli.stages.generation import Generation

Row = Mapping[str, Any]

UNREADABLE = "unparsable"  # the reason of the one candidate of a reply that holds no task


@dataclass(frozen=True, slots=True)
class Similarity:
    """ROUGE-L F1 of kept examples with a seed that their request showed; 1 is a copy."""

    mean: float
    median: float
    p95: float
    max: float


@dataclass(frozen=True, slots=True)
class SeedFigures:
    """What came of the requests that showed one seed.

    Attributes:
        instruction: its beginning; empty when the seed is no longer there.
        probability: of a share as far from the run's by chance, corrected for all comparisons;
            what the verdict rests on. None when the seed was not shown.
        requests: in which it was shown; `lost` of them brought no readable task.
        candidates: kept + the sum of `rejected`.
        kept: examples that have stayed, in dedup as well where it has run.
        kept_share: of the candidates without those that came when there were enough already; from
            `low` to `high` is its 95 % interval (Wilson), of so many independent candidates as
            `design_effect` leaves.
        near_duplicates: candidates that are like another example; `copies` of them are nearest to
            this very seed.
        common_rejection: the most frequent reason; None when nothing was rejected.
        similarity: of what was kept; None when nothing was, or the seed is no longer there.
        cost: its share of what the requests have cost, USD; None without a price.
        cost_per_kept: USD of the requests in full over what was kept of them, comparable with
            that of the run.
    """

    id: str
    instruction: str
    verdict: Verdict
    probability: float | None
    requests: int
    lost: int
    candidates: int
    kept: int
    kept_share: float
    low: float
    high: float
    rejected: dict[str, int]
    near_duplicates: int
    copies: int
    common_rejection: str | None
    similarity: Similarity | None
    cost: float | None
    cost_per_kept: float | None


@dataclass(frozen=True, slots=True)
class SeedReport:
    """The seeds of a run, the worst first, and those never shown last.

    Attributes:
        run: its folder.
        source: where the seeds are: `seeds.source`, or the file of the `built_in` ones.
        finished: whether the generation has reached its target.
        requests, lost, candidates, kept, kept_share, rejected, near_duplicates, cost,
            cost_per_kept: of all requests together, each counted once; see `SeedFigures`.
        design_effect: so many candidates of a reply tell as much as one independent one.
        shown: seeds that were shown.
        verdicts: verdict -> seeds.
        others: what is no seed: `(generated)` examples shown beside them, and `(none)`.
        notes: what to know when reading this.
    """

    run: str
    source: str
    built_in: bool
    finished: bool
    requests: int
    lost: int
    candidates: int
    kept: int
    kept_share: float
    rejected: dict[str, int]
    near_duplicates: int
    cost: float | None
    cost_per_kept: float | None
    design_effect: float
    shown: int
    verdicts: dict[Verdict, int]
    seeds: list[SeedFigures]
    others: list[Producer]
    notes: list[str]


def seed_report(recipe: Recipe, run: RunFolder) -> SeedReport:
    """What each seed has bred so far.

    Raises:
        DataError: nothing was generated in this run, its journal is damaged, or it is not
            finished and was begun with other seeds or settings.
    """
    stage = run.stage("generate")
    journal = stage / "journal.jsonl"
    finished = all((stage / name).is_file() for name in ("done.json", *OUTPUTS))
    seeds, as_run = _seeds_as_run(recipe, run, finished=finished)
    book = Book(price_of(recipe.generate.teacher))
    rows = book.reading(whole_rows(journal), journal)
    kept, rejected = _files(stage, rows) if finished else _replayed(recipe, journal, seeds, rows)
    bred = _Bred(seeds, recipe.generate.novelty_key)
    bred.take(kept, rejected, dropped_by_dedup(stage.path, run.stage("dedup").path) or {})
    asked = {n: one for n, one in book.asked.items() if one.counts}
    priced = book.price is not None
    sums = tally(asked.values(), bred.fates, bred.names).seeds
    counts, of_run = _counts(asked, bred)
    effect = design_effect((one.candidates, one.kept) for one in bred.outcomes.values())
    shown = {name: one for name, one in sums.items() if name not in (GENERATED, NONE)}
    instructions = dict.fromkeys(shown, "") | {str(seed.id): seed.instruction for seed in seeds}
    figures = [
        _figures(
            sums.get(name, Tally()).producer(name, priced=priced),
            counts[name],
            text,
            judge_seed(counts[name], of_run, len(shown), effect),
            effect,
            bred,
        )
        for name, text in instructions.items()
    ]
    total = _all(asked.values(), bred.fates).producer("", priced=priced)
    return SeedReport(
        run=str(run.path),
        built_in=recipe.seeds.source == "builtin",
        source=str(BUILTIN) if recipe.seeds.source == "builtin" else recipe.seeds.source,
        finished=finished,
        requests=total.requests,
        lost=of_run.lost,
        candidates=total.candidates,
        kept=total.kept,
        kept_share=share(of_run.kept, of_run.candidates),
        rejected=total.rejected,
        near_duplicates=total.near_duplicates,
        cost=total.cost,
        cost_per_kept=total.cost_per_kept,
        design_effect=round(effect, 3),
        shown=len(shown),
        verdicts={name: sum(one.verdict == name for one in figures) for name in VERDICTS},
        seeds=sorted(figures, key=_worst_first),
        others=[
            sums[name].producer(name, priced=priced) for name in (GENERATED, NONE) if name in sums
        ],
        notes=list(_notes(recipe, seeds, as_run=as_run, finished=finished)),
    )


def _seeds_as_run(recipe: Recipe, run: RunFolder, *, finished: bool) -> tuple[list[Example], bool]:
    """The seeds that the run was begun with; of a finished one else those of today, and False.

    Raises:
        DataError: nothing was generated yet, or the seeds have changed in the middle of it.
    """
    stage = run.stage("generate")
    if not (stage / "journal.jsonl").is_file():
        raise DataError(
            f"{stage.path}: nothing was generated in this run",
            hint="run alpaca generate first, or name the run with --recipe or --run",
        )
    stamps = [stage / name for name in ("done.json", "started.json")]
    stamp: Row = next((read_json(path) for path in stamps if path.is_file()), {"settings": {}})
    wanted = stamp["settings"].get("seeds")
    stored = run.stage("seed") / "kept.jsonl"
    if stored.is_file():
        seeds = load_seeds(str(stored))
        if paid_settings(recipe, seeds)["seeds"] == wanted:
            return seeds, True
    seeds = load_seeds(recipe.seeds.source)
    as_run = paid_settings(recipe, seeds)["seeds"] == wanted
    if not (as_run or finished):
        raise DataError(
            f"{recipe.seeds.source}: not the seeds that {stage.path} was begun with; it is not "
            "finished, and its replies cannot be judged without them",
            hint="name them as they were: --set seeds.source=FILE",
        )
    return seeds, as_run


def _files(stage: StageFolder, rows: Iterable[Row]) -> tuple[Iterator[Row], Iterator[Row]]:
    """Kept and rejected rows of a finished generation, when its journal has been read."""
    for _ in rows:
        pass
    kept, rejected = ((row for _, row in read_jsonl(stage / name)) for name in OUTPUTS)
    return kept, rejected


def _replayed(
    recipe: Recipe, journal: Path, seeds: Sequence[Example], rows: Iterable[Row]
) -> tuple[Iterator[Row], Iterator[Row]]:
    """Kept and rejected rows as the journal gives them now."""
    work = Generation(recipe, seeds)
    work.replay(rows, journal)
    return iter(work.pool.kept), iter(work.pool.rejected)


class _Bred:
    """What came of a run's candidates, request by request and seed by seed.

    Attributes:
        names: ids of the seeds.
        fates: of all candidates.
        outcomes: of each request that was judged.
        copies: rejected candidates that are nearest to a seed that their request showed.
        scores: ROUGE-L of kept examples with each seed that their request showed.
    """

    def __init__(self, seeds: Sequence[Example], key: str) -> None:
        self.names = {str(seed.id) for seed in seeds}
        self.fates: list[Fate] = []
        self.outcomes: dict[int, Counts] = {}
        self.copies: Counter[str] = Counter()
        self.scores: dict[str, array[float]] = {}
        self._key = key
        # Words of every script: the novelty check's own have none for most of them.
        self._words = {str(seed.id): tokenize(key_text(seed, key), "unicode") for seed in seeds}

    def take(
        self, kept: Iterable[Row], rejected: Iterable[Row], dropped: Mapping[str, str]
    ) -> None:
        """Take the rows of a run; `dropped`: id -> why dedup dropped it."""
        readable: set[int] = set()
        for row in chain(kept, rejected):
            fate = fate_of(row, dropped)
            self.fates.append(fate)
            if not fate.why:
                self._compare(row, fate)
            elif fate.nearest in (fate.demonstrations or ()):
                self.copies[str(fate.nearest)] += 1
            if fate.request is None:
                continue
            if fate.why != UNREADABLE:
                readable.add(fate.request)
            judged = fate.why != OVER_TARGET
            alike = fate.why in LIKE_ANOTHER
            one = Counts(int(judged), int(not fate.why), int(alike))
            self.outcomes[fate.request] = self.outcomes.get(fate.request, Counts()) + one
        for n, counts in self.outcomes.items():
            self.outcomes[n] = replace(counts, requests=1, lost=int(n not in readable))

    def _compare(self, row: Row, fate: Fate) -> None:
        words: list[str] | None = None
        for name in fate.demonstrations or ():
            if name in self._words:
                words = words or tokenize(key_text(example_from_row(row), self._key), "unicode")
                scores = self.scores.setdefault(name, array("d"))
                scores.append(score(words, self._words[name]))


def _counts(asked: Mapping[int, Asked], bred: _Bred) -> tuple[defaultdict[str, Counts], Counts]:
    """By seed, and of all requests; those not judged, not yet or not ever, are in neither."""
    by_seed: defaultdict[str, Counts] = defaultdict(Counts)
    whole = Counts()
    for n, one in asked.items():
        outcome = bred.outcomes.get(n)
        if outcome is None and one.failed:
            outcome = Counts(requests=1, lost=1)
        if outcome is not None:
            whole += outcome
            for name in credited(one.demonstrations, bred.names):
                by_seed[name] += outcome
    return by_seed, whole


def _all(asked: Collection[Asked], candidates: Iterable[Fate]) -> Tally:
    """The sums of the run, every request counted once."""
    total = Tally(requests=len(asked))
    total.cost = total.whole = sum((one.cost for one in asked), Decimal(0))
    for fate in candidates:
        total.take(fate.why)
    return total


def _figures(
    made: Producer,
    counts: Counts,
    instruction: str,
    judged: tuple[Verdict, float],
    effect: float,
    bred: _Bred,
) -> SeedFigures:
    verdict, probability = judged
    low, high = interval(counts.kept, counts.candidates, effect)
    return SeedFigures(
        id=made.name,
        instruction=sample(0, None, instruction).text,
        verdict=verdict,
        probability=float(f"{probability:.3g}") if made.requests else None,
        requests=made.requests,
        lost=counts.lost,
        candidates=made.candidates,
        kept=made.kept,
        kept_share=share(counts.kept, counts.candidates),
        low=round(low, 6),
        high=round(high, 6),
        rejected=made.rejected,
        near_duplicates=made.near_duplicates,
        copies=bred.copies[made.name],
        common_rejection=next(iter(made.rejected), None),
        similarity=_similarity(bred.scores.get(made.name, ())),
        cost=made.cost,
        cost_per_kept=made.cost_per_kept,
    )


def _similarity(scores: Sequence[float]) -> Similarity | None:
    found = distribution(scores, SCORES)
    if found is None:
        return None
    values = (found.mean, found.median, found.p95, found.max)
    return Similarity(*(round(value, 6) for value in values))


def _worst_first(seed: SeedFigures) -> tuple[bool, bool, float, float, str]:
    """Named ones before others, then by how low the share surely is; never shown ones last."""
    named = seed.verdict in ("breeds duplicates", "breeds rejections")
    return not seed.requests, not named, seed.high, seed.kept_share, seed.id


def _notes(
    recipe: Recipe, seeds: Sequence[Example], *, as_run: bool, finished: bool
) -> Iterator[str]:
    if not finished:
        yield "the generation is not finished: this is what its journal holds now"
    if not as_run:
        yield "the seeds have changed since the run: instructions and similarity are of today's"
    settings = recipe.generate
    if too_long := Chooser(settings.demonstrations, recipe.seed, seeds).too_long:
        yield f"{too_long:,} seeds are too long to be shown (generate.demonstrations.max_words)"
    if settings.demonstrations.weighting == "yield":
        yield "seeds were drawn by their yield: those shown early had it easier to be new"
    if settings.judge is not None:
        yield "what the judge has cost is not in the cost"
