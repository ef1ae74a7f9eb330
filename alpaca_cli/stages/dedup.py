"""The dedup stage: of examples that say nearly the same, one stays.

    generate/kept.jsonl -> dedup/kept.jsonl
                           dedup/dropped.jsonl (`reason`, `row`, `duplicate_of`, `score`)
                           dedup/clusters.jsonl (survivors with what was dropped for them)

Decisions are those of comparing every pair with `rouge-score` (`alpaca_cli.data.duplicates`). A
rerun costs nothing while recipe and inputs are the same; cut short, it starts over, for it is
minutes of CPU at most. Corpora of several machines: `alpaca_cli.stages.dedup_shards`.
"""

from __future__ import annotations

import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.data.duplicates import Dropped, Outcome, differences, find_duplicates
from alpaca_cli.data.formats import HUB, output_format, read_examples, read_placed, write_examples

Placed = tuple[str, Example]

LARGEST = 5  # groups that the report names


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Attributes:
        duplicates, against, contaminated: dropped rows by reason.
        exact: dropped rows whose compared text equals the survivor's.
        without_words: rows whose text has no words for this tokenizer; nothing is similar to them.
        groups: survivors that others were dropped for; `largest` are those of most rows.
        pairs: `all` that are decided about, postings `scanned` to find those that may be similar,
            pairs `bounded` by the words they share, pairs `compared` word by word.
        verified: rows that rouge-score itself decided the same way.
        memory: the most memory that this process used, in bytes.
        output, dropped_output, clusters: the files written; None when none was.
    """

    read: int
    kept: int
    dropped: int
    duplicates: int
    against: int
    contaminated: int
    exact: int
    without_words: int
    threshold: float
    key: str
    tokenizer: str
    keep: str
    groups: int
    largest: list[dict[str, Any]]
    pairs: dict[str, int]
    verified: int
    seconds: float
    memory: int
    output: str | None
    dropped_output: str | None
    clusters: str | None


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    verify: int = 0,
) -> Report:
    """generate/kept.jsonl -> dedup/, or the stored report when that is up to date.

    Args:
        verify: rows, drawn by the recipe's seed, that rouge-score decides as well.

    Raises:
        DataError: nothing was generated in this run yet, or a file is missing or malformed.
        UsageError: the stage was made from other examples or settings.
        GateFailed: rouge-score decides otherwise.
    """
    source = run.stage("generate") / "kept.jsonl"
    if not source.is_file():
        raise DataError(
            f"{source}: no generated examples in this run",
            hint="run alpaca generate first, or name FILES",
        )
    stage = run.stage("dedup")
    settings = recipe.dedup.model_dump(mode="json")
    inputs = {"generate/kept.jsonl": source}
    inputs |= {
        name: Path(name)
        for name in (*recipe.dedup.against, *recipe.dedup.decontaminate)
        if not name.startswith(HUB)
    }
    stored = stage.open(settings, inputs, fresh=fresh)
    if stored is not None and not verify:
        progress.info(f"dedup: up to date in {stage.path}")
        return Report(**stored)
    started = time.monotonic()
    corpus = _read([str(source)], recipe.dedup)
    outcome = _decide(corpus, recipe.dedup, progress, verify, recipe.seed)
    rows = _rows_with_reason(corpus, outcome)
    kept_file, dropped_file = stage / "kept.jsonl", stage / "dropped.jsonl"
    if stored is not None:
        if [corpus.rows[row][1] for row in outcome.kept] != read_examples([kept_file]):
            raise GateFailed(f"{kept_file} is not what is kept of {source} today")
        progress.info(f"dedup: up to date in {stage.path}")
        return replace(Report(**stored), verified=_verified(outcome, verify))
    write_jsonl(kept_file, (corpus.rows[row][1].to_row() for row in outcome.kept))
    write_jsonl(dropped_file, (row.to_row() for row in rows))
    clusters_file = stage / "clusters.jsonl"
    write_jsonl(clusters_file, _clusters(corpus, outcome))
    report = _report(
        corpus,
        outcome,
        recipe.dedup,
        started,
        verified=_verified(outcome, verify),
        output=kept_file,
        dropped_output=dropped_file,
        clusters=clusters_file,
    )
    outputs = [file.name for file in (kept_file, dropped_file, clusters_file)]
    stage.finish(asdict(report), settings, inputs, outputs)
    return report


def dedupe_files(
    files: Sequence[str],
    settings: Dedup,
    progress: Progress,
    output: Path | None = None,
    *,
    clusters: Path | None = None,
    verify: int = 0,
    seed: int = 42,
) -> Report:
    """Drop near-duplicates over several files, taken as one in the order given.

    Args:
        output: where the kept examples go (.json, .jsonl, .parquet); the dropped ones, when there
            are any, go beside it as <stem>.dropped.jsonl. No input is changed.
        clusters: where the groups go, JSONL.
        verify: rows, drawn by `seed`, that rouge-score decides as well.

    Raises:
        DataError: a file is missing or malformed.
        UsageError: an output is one of the inputs, or its suffix is none that we write.
        GateFailed: rouge-score decides otherwise; nothing was written.
    """
    read = [*files, *settings.against, *settings.decontaminate]
    if output is not None:
        output_format(output)
        refuse_overwriting(read, output)
    if clusters is not None:
        refuse_overwriting(read, clusters, "--clusters")
    started = time.monotonic()
    corpus = _read(files, settings)
    outcome = _decide(corpus, settings, progress, verify, seed)
    dropped_file = None
    if output is not None:
        write_examples(output, (corpus.rows[row][1] for row in outcome.kept))
        if outcome.dropped:
            plain = output.with_suffix("") if output.suffix == ".gz" else output
            dropped_file = plain.with_suffix(".dropped.jsonl")
            write_examples(dropped_file, _rows_with_reason(corpus, outcome))
    if clusters is not None:
        write_jsonl(clusters, _clusters(corpus, outcome))
    return _report(
        corpus,
        outcome,
        settings,
        started,
        verified=_verified(outcome, verify),
        output=output,
        dropped_output=dropped_file,
        clusters=clusters,
    )


@dataclass(frozen=True, slots=True)
class _Corpus:
    """What is deduplicated, and what it is compared with: examples with their places."""

    rows: list[Placed]
    against: list[Placed]
    evaluation: list[Placed]
    shared_ids: set[str]  # borne by more than one example

    def name(self, row: Placed) -> str:
        """The example's id, or its place (file:line) where it has none of its own."""
        place, example = row
        return place if example.id is None or example.id in self.shared_ids else example.id

    def other(self, found: Dropped) -> Placed:
        """The example for which one was dropped."""
        sets = {"duplicate": self.rows, "against": self.against, "contaminated": self.evaluation}
        return sets[found.reason][found.other]


def _read(files: Sequence[str], settings: Dedup) -> _Corpus:
    rows, against, evaluation = (
        [pair for source in sources for pair in read_placed(source)]
        for sources in (files, settings.against, settings.decontaminate)
    )
    ids = Counter(example.id for _, example in (*rows, *against, *evaluation))
    shared = {id for id, count in ids.items() if id is not None and count > 1}
    return _Corpus(rows, against, evaluation, shared)


def _decide(
    corpus: _Corpus, settings: Dedup, progress: Progress, verify: int, seed: int
) -> Outcome:
    """Decide, and have rouge-score decide `verify` of the rows.

    Raises:
        GateFailed: it decides otherwise.
    """
    examples = [example for _, example in corpus.rows]
    against = [example for _, example in corpus.against]
    evaluation = [example for _, example in corpus.evaluation]
    outcome = find_duplicates(examples, settings, progress, against=against, evaluation=evaluation)
    if verify:
        wrong = differences(
            examples, outcome, settings, progress, against=against, rows=verify, seed=seed
        )
        if wrong:
            listed = "\n  ".join(wrong[:10])
            raise GateFailed(
                f"rouge-score decides otherwise in {len(wrong)} of "
                f"{_verified(outcome, verify)} rows:\n  {listed}",
                hint="nothing was written; please report this with the rows named",
            )
    return outcome


def _verified(outcome: Outcome, verify: int) -> int:
    return min(verify, len(outcome.order))


def _rows_with_reason(corpus: _Corpus, outcome: Outcome) -> list[Example]:
    """The dropped examples, each with why, for which other, and how similar they are.

    Fields of their own by these names are kept in `meta.replaced`.
    """
    rows = []
    for found in outcome.dropped:
        placed = corpus.rows[found.row]
        why: dict[str, Any] = {
            "reason": found.reason,
            "row": corpus.name(placed),
            "duplicate_of": corpus.name(corpus.other(found)),
            "score": found.score,
        }
        example = placed[1]
        if replaced := {key: example.extra[key] for key in why if key in example.extra}:
            example = example.with_meta(replaced=replaced)
        rows.append(replace(example, extra={**example.extra, **why}))
    return rows


def _clusters(corpus: _Corpus, outcome: Outcome) -> list[dict[str, Any]]:
    """The examples that others were dropped for, with those; most first."""
    groups: dict[str, dict[str, Any]] = {}
    for found in outcome.dropped:
        if found.reason == "contaminated":
            continue
        other = corpus.other(found)
        name = corpus.name(other)
        group = groups.setdefault(
            name,
            {"survivor": name, "instruction": other[1].instruction, "size": 1, "dropped": []},
        )
        group["size"] += 1
        placed = corpus.rows[found.row]
        group["dropped"].append(
            {
                "row": corpus.name(placed),
                "instruction": placed[1].instruction,
                "score": found.score,
            }
        )
    return sorted(groups.values(), key=lambda group: -int(group["size"]))


def _report(
    corpus: _Corpus,
    outcome: Outcome,
    settings: Dedup,
    started: float,
    *,
    verified: int,
    output: Path | None,
    dropped_output: Path | None,
    clusters: Path | None,
) -> Report:
    reasons = Counter(found.reason for found in outcome.dropped)
    groups = _clusters(corpus, outcome)
    compared = len(outcome.order)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        read=len(corpus.rows),
        kept=len(outcome.kept),
        dropped=len(outcome.dropped),
        duplicates=reasons["duplicate"],
        against=reasons["against"],
        contaminated=reasons["contaminated"],
        exact=sum(found.exact for found in outcome.dropped),
        without_words=outcome.without_words,
        threshold=settings.threshold,
        key=settings.key,
        tokenizer=settings.tokenizer,
        keep=settings.keep,
        groups=len(groups),
        largest=[
            {key: group[key] for key in ("survivor", "size", "instruction")}
            for group in groups[:LARGEST]
        ],
        pairs={
            "all": compared * (compared - 1) // 2 + compared * len(corpus.against),
            **{key: outcome.counts[key] for key in ("scanned", "bounded", "compared")},
        },
        verified=verified,
        seconds=round(time.monotonic() - started, 2),
        memory=peak if sys.platform == "darwin" else peak * 1024,
        output=None if output is None else str(output),
        dropped_output=None if dropped_output is None else str(dropped_output),
        clusters=None if clusters is None else str(clusters),
    )


def refuse_overwriting(files: Iterable[str], output: Path, flag: str = "-o") -> None:
    """UsageError when `output` is one of the input files."""
    for source in files:
        if not source.startswith(HUB) and Path(source).resolve() == output.resolve():
            raise UsageError(f"{flag} {output}: is one of the inputs", hint="name another file")
