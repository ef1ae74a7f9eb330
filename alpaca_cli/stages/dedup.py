"""The dedup stage: of examples that say nearly the same, one stays.

    generate/kept.jsonl -> dedup/kept.jsonl
                           dedup/dropped.jsonl (`reason`, `row`, `duplicate_of`, `score`)
                           dedup/clusters.jsonl (survivors with those dropped for them)

Decisions are those of comparing every pair with `rouge-score` (`alpaca_cli.data.duplicates`). A
rerun costs nothing while recipe, inputs and the rows that a person marked bad are the same; cut
short, it starts over, for it is minutes of CPU at most. Corpora of several machines:
`alpaca_cli.stages.dedup_shards`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.core.files import json_line, write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.data.corpus import Corpus, read_corpus
from alpaca_cli.data.duplicates import Difference, Dropped, Outcome, differences, find_duplicates
from alpaca_cli.data.formats import HUB, output_format, write_examples
from alpaca_cli.data.reviews import exclusion_stamp, stranger_warning, strangers

Row = Mapping[str, Any]

LARGEST = 5  # groups that the report names
SHOWN = 200  # characters of a text in the report


@dataclass(frozen=True, slots=True)
class Report:
    """What happened.

    Attributes:
        against_read, evaluation_read: examples of the sets that were compared with.
        duplicates, against, contaminated, semantic: dropped rows by reason.
        exact: dropped rows whose compared text equals the survivor's.
        without_words: rows whose text has no words for this tokenizer; nothing is similar to them.
        groups: survivors that others were dropped for; `largest` are those of most rows.
        pairs: `all` that are decided about, postings `scanned` to find those that may be similar,
            pairs `bounded` by the words they share, pairs `compared` word by word.
        verified: rows that rouge-score itself decided the same way.
        memory: the most memory that this process used, in bytes.
        output, dropped_output, clusters: the files written; None when none was.
        excluded: dropped rows that a person marked bad in `dedup.exclude`.
    """

    read: int
    against_read: int
    evaluation_read: int
    kept: int
    dropped: int
    duplicates: int
    against: int
    contaminated: int
    semantic: int
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
    excluded: int = 0


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    verify: int = 0,
) -> Report:
    """generate/kept.jsonl -> dedup/, or the stored report when that is up to date.

    The sets that are compared with are inputs as well, by content; of a Hub dataset only the
    name is known. Of review files it is what they mark bad: notes and good marks change nothing.

    Args:
        verify: rows, drawn by the recipe's seed, that rouge-score decides as well; also when the
            stage is up to date, and then its files must be what is written today.

    Raises:
        DataError: nothing was generated in this run yet, or a file is missing or malformed.
        UsageError: the stage was made from other examples or settings.
        GateFailed: rouge-score decides otherwise, or the files are not what is written today.
    """
    source = run.stage("generate") / "kept.jsonl"
    if not source.is_file():
        raise DataError(
            f"{source}: no generated examples in this run",
            hint="run alpaca generate first, or name FILES",
        )
    _refuse_comparing_with_itself([str(source)], recipe.dedup)
    stage = run.stage("dedup")
    settings = recipe.dedup.model_dump(mode="json", exclude={"exclude"})
    settings |= exclusion_stamp(recipe.dedup.exclude)
    inputs = {"generate/kept.jsonl": source} | {
        f"dedup.{key}: {name}": Path(name)
        for key in ("against", "decontaminate")
        for name in settings[key]
        if not name.startswith(HUB)
    }
    stored = stage.open(settings, inputs, fresh=fresh)
    if stored is not None:
        progress.info(f"dedup: up to date in {stage.path}")
        if not verify:
            return Report(**stored)
    started = time.monotonic()
    corpus = read_corpus([str(source)], recipe.dedup)
    outcome = _decide(corpus, recipe.dedup, progress)
    verified = check(corpus, outcome, recipe.dedup, progress, rows=verify, seed=recipe.seed)
    groups = corpus.groups(outcome.dropped, recipe.dedup.key)
    contents: dict[str, Iterable[Row]] = {
        "kept.jsonl": (corpus.example(row).to_row() for row in outcome.kept),
        "dropped.jsonl": (row.to_row() for row in corpus.with_reasons(outcome.dropped)),
        "clusters.jsonl": groups,
    }
    if stored is not None:
        for name, rows in contents.items():
            _refuse_other_content(stage / name, rows)
        return replace(Report(**stored), verified=verified)
    for name, rows in contents.items():
        write_jsonl(stage / name, rows)
    report = _report(
        corpus,
        outcome,
        groups,
        recipe.dedup,
        seconds=time.monotonic() - started,
        verified=verified,
        output=stage / "kept.jsonl",
        dropped_output=stage / "dropped.jsonl",
        clusters=stage / "clusters.jsonl",
    )
    stage.finish(asdict(report), settings, inputs, list(contents))
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
            are any, go beside it as <stem>.dropped.jsonl. No input is changed. It is written
            last: when it is there, so are the others.
        clusters: where the groups go, .jsonl.
        verify: rows, drawn by `seed`, that rouge-score decides as well.

    Raises:
        DataError: a file is missing or malformed.
        UsageError: an output is one of the inputs or cannot be written, or its suffix is none that
            we write; or a set to compare with is one of the files.
        GateFailed: rouge-score decides otherwise; nothing was written.
    """
    _refuse_outputs(
        [*files, *settings.against, *settings.decontaminate, *settings.exclude], output, clusters
    )
    _refuse_comparing_with_itself(files, settings)
    started = time.monotonic()
    corpus = read_corpus(files, settings)
    outcome = _decide(corpus, settings, progress)
    verified = check(corpus, outcome, settings, progress, rows=verify, seed=seed)
    groups = corpus.groups(outcome.dropped, settings.key)
    if clusters is not None:
        write_jsonl(clusters, groups)
    dropped_output = None
    if output is not None:
        # One that an earlier command left would be taken for this one's.
        if outcome.dropped or _beside(output).exists():
            dropped_output = _beside(output)
            write_examples(dropped_output, corpus.with_reasons(outcome.dropped))
        write_examples(output, (corpus.example(row) for row in outcome.kept))
    return _report(
        corpus,
        outcome,
        groups,
        settings,
        seconds=time.monotonic() - started,
        verified=verified,
        output=output,
        dropped_output=dropped_output,
        clusters=clusters,
    )


def _beside(output: Path) -> Path:
    """The file of what is dropped: `a.json` and `a.json.gz` have `a.dropped.jsonl`."""
    plain = output.with_suffix("") if output.suffix == ".gz" else output
    return plain.with_suffix(".dropped.jsonl")


def _decide(corpus: Corpus, settings: Dedup, progress: Progress) -> Outcome:
    examples, against, evaluation = corpus.examples()
    for path in strangers(settings.exclude, examples):
        progress.warn(stranger_warning(path))
    return find_duplicates(
        examples,
        settings,
        progress,
        against=against,
        evaluation=evaluation,
        excluded=corpus.excluded,
        name=corpus.name,
    )


def check(
    corpus: Corpus,
    outcome: Outcome,
    settings: Dedup,
    progress: Progress,
    *,
    rows: int,
    seed: int,
) -> int:
    """Have rouge-score decide so many rows, drawn by `seed`; returns how many there were.

    Raises:
        GateFailed: it decides otherwise; names the rows.
    """
    if not rows:
        return 0
    examples, against, _ = corpus.examples()
    wrong = differences(
        examples, outcome, settings, progress, against=against, rows=rows, seed=seed
    )
    checked = min(rows, len(outcome.order))
    if wrong:
        listed = "\n  ".join(_said(corpus, difference) for difference in wrong[:10])
        raise GateFailed(
            f"rouge-score decides otherwise for {len(wrong):,} of {checked:,} rows:\n  {listed}",
            hint="nothing was written; please report this with the rows named",
        )
    return checked


def _said(corpus: Corpus, difference: Difference) -> str:
    def words(found: Dropped | None) -> str:
        if found is None:
            return "stays"
        return f"goes for {corpus.other(found)} at {found.score!r}"

    name = corpus.name(difference.row)
    return f"{name}: {words(difference.ours)}; rouge-score: {words(difference.theirs)}"


def _refuse_other_content(path: Path, rows: Iterable[Row]) -> None:
    """GateFailed when a file does not hold these rows."""
    with open(path, "rb") as lines:
        for number, (row, line) in enumerate(zip_longest(rows, lines), 1):
            if row is None or json_line(row) != line:
                raise GateFailed(
                    f"{path}:{number}: is not what dedup writes there today",
                    hint="it or alpaca was changed since; --fresh makes it anew",
                )


def _report(
    corpus: Corpus,
    outcome: Outcome,
    groups: Sequence[Row],
    settings: Dedup,
    *,
    seconds: float,
    verified: int,
    output: Path | None,
    dropped_output: Path | None,
    clusters: Path | None,
) -> Report:
    reasons = Counter(found.reason for found in outcome.dropped)
    compared = len(outcome.order)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Report(
        read=len(corpus.rows),
        against_read=len(corpus.against),
        evaluation_read=len(corpus.evaluation),
        kept=len(outcome.kept),
        dropped=len(outcome.dropped),
        duplicates=reasons["duplicate"],
        against=reasons["against"],
        contaminated=reasons["contaminated"],
        semantic=reasons["semantic"],
        exact=sum(found.exact for found in outcome.dropped),
        without_words=outcome.without_words,
        threshold=settings.threshold,
        key=settings.key,
        tokenizer=settings.tokenizer,
        keep=settings.keep,
        groups=len(groups),
        largest=[
            {
                "survivor": group["survivor"],
                "text": group["text"][:SHOWN],
                "size": group["size"],
            }
            for group in groups[:LARGEST]
        ],
        pairs={
            "all": compared * (compared - 1) // 2 + compared * len(corpus.against),
            **{key: outcome.counts[key] for key in ("scanned", "bounded", "compared")},
        },
        verified=verified,
        seconds=round(seconds, 2),
        memory=peak if sys.platform == "darwin" else peak * 1024,
        output=None if output is None else str(output),
        dropped_output=None if dropped_output is None else str(dropped_output),
        clusters=None if clusters is None else str(clusters),
        excluded=reasons["excluded"],
    )


def _refuse_outputs(read: Sequence[str], output: Path | None, clusters: Path | None) -> None:
    """UsageError, before any work, for files that cannot or must not be written."""
    written: list[tuple[str, Path]] = []
    if clusters is not None:
        if clusters.suffix != ".jsonl":
            raise UsageError(f"--clusters {clusters}: must end in .jsonl")
        written.append(("--clusters", clusters))
    if output is not None:
        output_format(output)
        written += [("-o", output), ("-o (dropped rows)", _beside(output))]
    for number, (flag, path) in enumerate(written):
        refuse_overwriting(read, path, flag)
        if any(_same_file(str(path), str(other)) for _, other in written[:number]):
            raise UsageError(f"{flag} {path}: another output goes there")
        folder = next(parent for parent in path.absolute().parents if os.path.exists(parent))
        if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UsageError(f"{flag} {path}: cannot be written")


def refuse_overwriting(files: Iterable[str], output: Path, flag: str = "-o") -> None:
    """UsageError when `output` is one of the input files."""
    if any(_same_file(source, str(output)) for source in files):
        raise UsageError(f"{flag} {output}: is one of the inputs", hint="name another file")


def _refuse_comparing_with_itself(files: Sequence[str], settings: Dedup) -> None:
    """UsageError when a file to compare with is one of those to deduplicate."""
    sets = {"--against": settings.against, "--decontaminate": settings.decontaminate}
    for flag, names in sets.items():
        for name in names:
            if any(_same_file(name, file) for file in files):
                raise UsageError(
                    f"{flag} {name}: is one of the files to deduplicate",
                    hint="every example would be dropped for itself",
                )


def _same_file(one: str, other: str) -> bool:
    if one.startswith(HUB) or other.startswith(HUB):
        return one == other
    return Path(one).resolve() == Path(other).resolve()
