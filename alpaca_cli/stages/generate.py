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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from alpaca_cli.core.errors import AlpacaError, BudgetStop, DataError
from alpaca_cli.core.files import disk_error, sync_folder, write_json, write_jsonl
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress, Task
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher
from alpaca_cli.data.dispatch import GRACE, Dispatcher, Row
from alpaca_cli.data.pool import WINDOW, Answer, Pool
from alpaca_cli.data.prompts import Request, RequestBuilder, prompt_version
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import open_teacher

OUTPUTS = ["kept.jsonl", "rejected.jsonl"]
KINDS = ("reply", "failed", "lost")  # of journal rows
FIRST_YIELD = 0.7  # of the tasks asked for; until the first replies tell better
AHEAD = 8  # times the concurrency: how far requests may run ahead of a reply that is missing


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a generation; `candidates` = `kept` + the sum of `rejected`.

    Attributes:
        requests: requests judged, `failed` of them without a reply.
        replayed: replies that came from the journal.
        unused: replies in the journal beyond the one that reached the target.
        tokens: input, cached (part of input) and output; None when the teacher tells nothing.
        cost: USD for everything in the journal; None when the price is not known.
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
    seconds: float
    judged_with: dict[str, Any]


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    replay: bool = False,
) -> Report:
    """Generate until the target is reached; the module says which files come out.

    Args:
        replay: judge the journal with today's settings, and send nothing.

    Raises:
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
    paid, judged_with = paid_settings(recipe, seeds), free_settings(settings)
    stored = _reopen(stage, paid, fresh)
    if stored is not None and stored["judged_with"] == judged_with:
        progress.info("generate: up to date")
        return Report(**stored)
    # From here on the outputs may be older than the settings; `started.json` keeps the rest.
    _unfinish(stage)
    stage.begin(paid, {})
    with Journal(stage / "journal.jsonl") as journal:
        if journal.torn_bytes:
            progress.info(f"{journal.path}: cut off {journal.torn_bytes} bytes of an unwritten row")
        work = _Work(recipe, seeds)
        with progress.task("generate", total=settings.target) as task:
            work.watch(task)
            work.replay(journal)
            if not replay and work.wants_more:
                try:
                    asyncio.run(work.ask(journal, progress))
                except AlpacaError as error:  # no key: what was replayed is still written
                    work.ended_by = error
    if work.replayed:
        done = "none was asked for again" if work.asked else "nothing was asked for"
        progress.info(f"replayed {work.replayed:,} replies from the journal; {done}")
    report = work.report(judged_with, time.monotonic() - started)
    write_jsonl(stage / "kept.jsonl", work.pool.kept)
    write_jsonl(stage / "rejected.jsonl", work.pool.rejected)
    write_json(stage / "report.json", asdict(report))
    if work.pool.full:
        stage.finish(asdict(report), paid, {}, OUTPUTS)
    else:
        progress.info(
            f"kept {report.kept:,} of {report.target:,} so far, from {report.requests:,} requests"
        )
        if (reason := work.stopped_by(replay)) is not None:
            raise reason
    if work.interrupt is not None:
        raise work.interrupt
    return report


def paid_settings(recipe: Recipe, seeds: Sequence[Example]) -> dict[str, Any]:
    """Everything that the requests are made of; another value means other replies."""
    settings = recipe.generate
    rows = json.dumps([seed.to_row() for seed in seeds], ensure_ascii=False).encode()
    teacher = settings.teacher.model_dump(mode="json")
    # Where and how patiently the model is asked, and what it costs, are no part of the question.
    for name in ("base_url", "api_key_env", "timeout", "max_attempts", "price"):
        teacher.pop(name, None)
    return {
        "seed": recipe.seed,
        "seeds": sha256(rows).hexdigest(),
        "prompt": prompt_version(),
        "generate": {
            "tasks_per_request": settings.tasks_per_request,
            "demonstrations": settings.demonstrations.model_dump(mode="json"),
            "teacher": teacher,
        },
    }


def free_settings(settings: Generate) -> dict[str, Any]:
    """What decides over replies that are there already."""
    names = {"target", "novelty", "novelty_key", "filters", "min_yield", "max_requests"}
    free: dict[str, Any] = settings.model_dump(mode="json", include=names)
    if isinstance(settings.teacher, OpenAITeacher):
        price = settings.teacher.price
        free["price"] = None if price is None else price.model_dump(mode="json")
    return free


def _reopen(stage: StageFolder, paid: Mapping[str, Any], fresh: Fresh) -> dict[str, Any] | None:
    """The stored report of a finished generation, None when there is something to do."""
    if not all((stage / name).is_file() for name in OUTPUTS):
        _unfinish(stage)  # the journal makes them again
    return stage.open(paid, {}, fresh=fresh)


def _unfinish(stage: StageFolder) -> None:
    """Take the mark of being finished away, before outputs are written anew."""
    done = stage / "done.json"
    try:
        if done.is_file():
            done.unlink()
            sync_folder(stage.path)
    except OSError as error:
        raise disk_error(error, done) from error


def spending_of(settings: Generate) -> Spending:
    """The budget of a recipe, nothing spent."""
    price = settings.teacher.price if isinstance(settings.teacher, OpenAITeacher) else None
    return Spending(price, settings.max_cost)


class _Work:
    """One generation: the requests still to send, and the pool that their replies go into."""

    def __init__(self, recipe: Recipe, seeds: Sequence[Example]) -> None:
        self.settings = recipe.generate
        self.pool = Pool(self.settings, seeds)
        self.spending = spending_of(self.settings)
        self.replayed = self.asked = 0
        self.ended_by: BaseException | None = None
        self._build = RequestBuilder(self.settings, recipe.seed, seeds)
        self._next = 0
        self._requests: dict[int, Request] = {}  # built and not yet judged
        self._rows: dict[int, Row] = {}  # replies and failures by request
        self._task: Task | None = None
        self._dispatcher: Dispatcher | None = None

    def watch(self, task: Task) -> None:
        self._task = task

    def replay(self, journal: Journal) -> None:
        """Take everything that earlier invocations have paid for.

        Raises:
            DataError: a row is not one of ours, or answers another request than we would send.
        """
        for row in journal:
            known = isinstance(row, dict) and row.get("kind") in KINDS
            if not known or not isinstance(row.get("n"), int):
                raise DataError(f"{journal.path}: not a row of this journal: {str(row)[:100]}")
            request = self._at(row["n"])
            if row.get("request_hash") != request.hash:
                raise DataError(
                    f"{journal.path}: request {row['n']}: answers another request",
                    hint="--fresh moves the folder aside and starts anew",
                )
            self.spending.add(request, row)
            if row["kind"] != "lost":
                self._rows.setdefault(row["n"], row)
        self.replayed = len(self._rows)
        for _ in self._judge():
            pass

    async def ask(self, journal: Journal, progress: Progress) -> None:
        """Send requests until the pool is full, or something else ends it."""
        teacher = self.settings.teacher
        concurrency = self.settings.concurrency
        async with open_teacher(teacher, concurrency) as answer:
            self._dispatcher = Dispatcher(
                answer,
                journal,
                self.spending,
                concurrency=concurrency,
                attempts=teacher.max_attempts if isinstance(teacher, OpenAITeacher) else 1,
                say=progress.info,
            )
            await self._dispatcher.run(self)
        self.ended_by = self._dispatcher.ended_by

    @property
    def wants_more(self) -> bool:
        limit = self.settings.max_requests
        return (
            not self.pool.full
            and not self.pool.saturated
            and (limit is None or self.pool.requests < limit)
        )

    def next_request(self) -> Request | None:
        """See `dispatch.Work`: wanted while what is under way is not expected to fill the pool."""
        while self._next in self._rows:
            self._next += 1
        limit = self.settings.max_requests
        if not self.wants_more or (limit is not None and self._next >= limit):
            return None
        under_way = self._next - self.pool.requests
        kept = self.pool.recent_yield
        expected = FIRST_YIELD * self.settings.tasks_per_request if kept is None else kept
        if under_way and len(self.pool.kept) + under_way * expected >= self.settings.target:
            return None
        if under_way >= AHEAD * self.settings.concurrency:
            return None
        self._next += 1
        self.asked += 1
        return self._at(self._next - 1)

    def _at(self, n: int) -> Request:
        if n not in self._requests:
            self._requests[n] = self._build(n)
        return self._requests[n]

    async def land(self, rows: list[Row]) -> None:
        """See `dispatch.Work`."""
        self._rows |= {row["n"]: row for row in rows if row["kind"] != "lost"}
        for _ in self._judge():
            await asyncio.sleep(0)  # what has arrived meanwhile goes first: it frees the teacher
        if not self.wants_more and self._dispatcher is not None:
            # What is still in flight is paid for, but no longer needed.
            self._dispatcher.stop(None, GRACE)

    def _judge(self) -> Iterator[None]:
        """Judge in request order, as far as the replies reach without a gap; one at a step."""
        while self.wants_more and (row := self._rows.get(self.pool.requests)) is not None:
            failed = row["text"] if row["kind"] == "failed" else ""
            answer = Answer(row["text"], row.get("finish_reason"), row.get("model"), failed=failed)
            self.pool.judge(self._at(row["n"]), answer)
            del self._requests[row["n"]]
            if self._task is not None:
                self._task.set(len(self.pool.kept), note=self._note())
            yield

    def _note(self) -> str:
        parts = [f"{self.pool.requests:,} requests", f"{len(self.pool.rejected):,} rejected"]
        if self._dispatcher is not None:
            parts.append(f"{self._dispatcher.in_flight} in flight")
        if self.spending.price is not None:
            parts.append(f"${self.spending.spent:.4f}")
        return " · ".join(parts)

    @property
    def interrupt(self) -> BaseException | None:
        """The signal that came although the target was reached."""
        return self.ended_by if isinstance(self.ended_by, KeyboardInterrupt) else None

    def stopped_by(self, replay: bool) -> BaseException | None:
        """Why the target was not reached; None when nothing was to be asked for."""
        if self.ended_by is not None:
            return self.ended_by
        if replay:
            return None
        if self.pool.saturated:
            most = ", ".join(f"{name} {n}" for name, n in self.pool.reasons.most_common(3))
            return BudgetStop(
                f"generate.min_yield: the last {WINDOW} requests kept only "
                f"{self.pool.recent_yield:.2f} examples each (rejected so far: {most or 'none'}; "
                f"failed requests: {self.pool.failed})",
                hint="add seeds, raise the temperature or novelty; or set target to what is there",
            )
        return BudgetStop(
            f"generate.max_requests: {self.pool.requests} requests are done",
            hint="a higher --limit goes on from here",
        )

    def report(self, judged_with: dict[str, Any], seconds: float) -> Report:
        """The figures; checks that no candidate was lost or counted twice."""
        pool = self.pool
        rejected = dict(sorted(pool.reasons.items()))
        if pool.candidates != len(pool.kept) + sum(rejected.values()):
            raise AssertionError(f"{pool.candidates} candidates, {len(pool.kept)} + {rejected}")
        priced = self.spending.price is not None
        free = not isinstance(self.settings.teacher, OpenAITeacher)
        return Report(
            target=self.settings.target,
            kept=len(pool.kept),
            candidates=pool.candidates,
            rejected=rejected,
            requests=pool.requests,
            failed=pool.failed,
            replayed=self.replayed,
            unused=sum(row["kind"] == "reply" for row in self._rows.values())
            - (pool.requests - pool.failed),
            kept_per_request=round(len(pool.kept) / max(1, pool.requests), 3),
            tokens=_tokens(self._rows),
            cost=round(self.spending.spent, 6) if priced else 0.0 if free else None,
            seconds=round(seconds, 1),
            judged_with=judged_with,
        )


def _tokens(rows: Mapping[int, Row]) -> dict[str, int] | None:
    """Sums over all replies that tell their usage; None when none does."""
    told = [row["usage"] for row in rows.values() if row.get("usage")]
    if not told:
        return None
    return {
        "input": sum(usage["prompt_tokens"] for usage in told),
        "cached": sum(usage.get("cached_tokens", 0) for usage in told),
        "output": sum(usage["completion_tokens"] for usage in told),
    }
