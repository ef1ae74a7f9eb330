"""`generate`: a teacher writes new tasks from a few seed tasks; the good and new ones are kept.

    seeds -> generate/journal.jsonl     every reply, append-only: the truth, and what was paid for
             generate/kept.jsonl        examples, up to the target
             generate/rejected.jsonl    every other candidate, with its reason
             generate/report.json       figures of the last invocation, however it ended

Kept and rejected are a pure function of (recipe, seeds, journal): the journal is replayed in
request order first, and only then are further requests sent. So the same command goes on after
any interruption, and filters, novelty and target can change without paying for a reply again.
What shapes the requests cannot change under a journal; that takes `--fresh`.

Self-instruct: Wang et al. 2022, as in Stanford Alpaca.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from alpaca_cli.core.errors import AlpacaError, DataError
from alpaca_cli.core.files import write_json, write_jsonl
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher
from alpaca_cli.data.ledger import Row
from alpaca_cli.data.prompts import RequestBuilder
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.asking import ask
from alpaca_cli.stages.generation import Generation
from alpaca_cli.stages.generation_view import View

FREE_OF_THE_TEACHER = (
    "base_url", "api_key_env", "service_tier", "timeout", "max_attempts", "patience", "rpm", "tpm",
    "price",
)  # fmt: skip
OUTPUTS = ["kept.jsonl", "rejected.jsonl"]


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a generation; `candidates` = `kept` + the sum of `rejected`.

    Attributes:
        requests: requests judged, `failed` of them without a reply.
        replayed: replies that came from the journal.
        unused: replies in the journal beyond the one that reached the target.
        tokens: input, cached (part of input), output and reasoning (part of output); None when
            the teacher tells nothing.
        cost: USD for everything in the journal; None when the price is not known.
        judge_cost: USD for the judge alone; None without one, or without its price.
        guessed: attempts without usage, counted in `cost` at their worst case.
        seconds: wall time of this invocation.
        judged_with: the settings that can change without paying again.
    """

    target: int
    kept: int
    candidates: int
    rejected: dict[str, int]
    requests: int
    failed: int
    replayed: int
    unused: int
    kept_per_request: float
    tokens: dict[str, int] | None
    cost: float | None
    judge_cost: float | None
    guessed: int
    seconds: float
    judged_with: dict[str, Any]


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    replay: bool = False,
    probe: int | None = None,
) -> Report:
    """Generate until the target is reached; the module says which files come out.

    Args:
        replay: judge the journal with today's settings, and send nothing.
        probe: send so many requests and no more; to have fewer than the target is no error then.

    Raises:
        DataError: there is nothing to replay.
        UsageError: the journal was made with other requests; says which keys differ.
        BudgetStop: `max_cost`, `max_requests` or `min_yield` ended it before the target.
        TeacherError: the teacher refused (key, quota, model).
        TryAgain: the teacher could not be reached, or was busy too long.
        KeyboardInterrupt: also its subclass Terminated; everything that arrived is kept.
    """
    started = time.monotonic()
    settings = recipe.generate
    seeds = load_seeds(recipe.seeds.source)
    stage = run.stage("generate")
    if replay and not (stage / "journal.jsonl").is_file():
        raise DataError(f"{run.path}: no replies to look at again", hint="is it this --run?")
    paid, judged_with = paid_settings(recipe, seeds), free_settings(settings)
    stored = _reopen(stage, paid, fresh)
    # A replay also serves to see what another version of the parser makes of the replies.
    if stored is not None and stored["judged_with"] == judged_with and not replay:
        progress.info("generate: up to date")
        return Report(**stored)
    work = Generation(recipe, seeds)
    if work.chooser.too_long:
        progress.info(
            f"{work.chooser.too_long} seed tasks are too long to be shown "
            "(generate.demonstrations.max_words)"
        )
    # From here on the outputs may be older than the settings; `started.json` keeps the rest.
    stage.unfinish()
    stage.begin(paid, {})
    with Journal(stage / "journal.jsonl") as journal:
        if journal.torn_bytes:
            progress.info(f"{journal.path}: cut off {journal.torn_bytes} bytes of an unwritten row")
        with progress.live(View(work)) as tick:
            work.replay(_watched(journal, tick), journal.path)
            if probe is not None:
                work.stop_after(probe)
            if not replay and work.wants_more:
                try:
                    asyncio.run(ask(work, journal, progress.info, tick))
                except AlpacaError as error:  # no key: what was replayed is still written
                    work.ended_by = error
    if work.replayed:
        done = "none was asked for again" if work.asked else "nothing was asked for"
        progress.info(f"replayed {work.replayed:,} replies from the journal; {done}")
    report = _report(work, judged_with, time.monotonic() - started)
    write_jsonl(stage / "kept.jsonl", work.pool.kept)
    write_jsonl(stage / "rejected.jsonl", work.pool.rejected)
    write_json(stage / "report.json", asdict(report))
    if work.pool.full:
        stage.finish(asdict(report), paid, {}, OUTPUTS)
    else:
        progress.info(
            f"kept {report.kept:,} of {report.target:,} so far, from {report.requests:,} requests"
        )
        if (reason := work.stopped_by(replay or probe is not None)) is not None:
            raise reason
    if work.interrupt is not None:
        raise work.interrupt
    return report


def _watched(rows: Iterable[Row], tick: Callable[[], None]) -> Iterator[Row]:
    """The rows, with a tick for each."""
    for row in rows:
        tick()
        yield row


def paid_settings(recipe: Recipe, seeds: Sequence[Example]) -> dict[str, Any]:
    """Everything that the requests are made of; another value means other replies."""
    settings = recipe.generate
    rows = json.dumps([seed.to_row() for seed in seeds], ensure_ascii=False).encode()
    teacher = settings.teacher.model_dump(mode="json")
    # Where and how patiently the model is asked, and what it costs, are no part of the question.
    for name in FREE_OF_THE_TEACHER:
        teacher.pop(name, None)
    return {
        "seed": recipe.seed,
        "seeds": sha256(rows).hexdigest(),
        "prompt": RequestBuilder(settings).wording(),
        "generate": {
            "tasks_per_request": settings.tasks_per_request,
            "demonstrations": settings.demonstrations.model_dump(mode="json"),
            "teacher": teacher,
        },
    }


def free_settings(settings: Generate) -> dict[str, Any]:
    """What decides over replies that are there already."""
    names = {"target", "novelty", "novelty_key", "filters", "judge", "min_yield", "max_requests"}
    free: dict[str, Any] = settings.model_dump(mode="json", include=names)
    if isinstance(settings.teacher, OpenAITeacher):
        price = settings.teacher.price
        free["price"] = None if price is None else price.model_dump(mode="json")
    return free


def _reopen(stage: StageFolder, paid: Mapping[str, Any], fresh: Fresh) -> dict[str, Any] | None:
    """The stored report of a finished generation, None when there is something to do."""
    if not all((stage / name).is_file() for name in OUTPUTS):
        stage.unfinish()  # the journal makes them again
    return stage.open(paid, {}, fresh=fresh)


def _report(work: Generation, judged_with: dict[str, Any], seconds: float) -> Report:
    """The figures; checks that no candidate was lost or counted twice."""
    pool, spending = work.pool, work.spending
    rejected = dict(sorted(pool.reasons.items()))
    if pool.candidates != len(pool.kept) + sum(rejected.values()):
        raise AssertionError(f"{pool.candidates} candidates, {len(pool.kept)} + {rejected}")
    priced = spending.price is not None
    free = not isinstance(work.settings.teacher, OpenAITeacher)
    answers = work.ledger.answers.values()
    judge_cost = None
    if work.judging is not None and work.judging.spending.price is not None:
        judge_cost = round(float(work.judging.spending.spent), 6)
    return Report(
        target=work.settings.target,
        kept=len(pool.kept),
        candidates=pool.candidates,
        rejected=rejected,
        requests=pool.requests,
        failed=pool.failed,
        replayed=work.replayed,
        unused=sum(row["kind"] == "reply" for row in answers) - (pool.requests - pool.failed),
        kept_per_request=round(len(pool.kept) / max(1, pool.requests), 3),
        tokens=_tokens(answers),
        cost=round(float(spending.spent), 6) if priced else 0.0 if free else None,
        judge_cost=judge_cost,
        guessed=0 if free else spending.guessed,
        seconds=round(seconds, 1),
        judged_with=judged_with,
    )


def _tokens(rows: Iterable[Row]) -> dict[str, int] | None:
    """Sums over all replies that tell their usage; None when none does."""
    told = [row["usage"] for row in rows if row.get("usage")]
    if not told:
        return None
    return {
        "input": sum(usage["prompt_tokens"] for usage in told),
        "cached": sum(usage.get("cached_tokens", 0) for usage in told),
        "output": sum(usage["completion_tokens"] for usage in told),
        "reasoning": sum(usage.get("reasoning_tokens", 0) for usage in told),
    }
