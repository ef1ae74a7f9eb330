"""What a generation would send, cost and take, told without sending anything.

As soon as the run has replies, the figures are measured on them; before, they rest on assumptions
that are told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from alpaca_cli.core.journal import whole_rows
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import OpenAITeacher, Price
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.data.spending import cost
from alpaca_cli.stages.generation import FIRST_YIELD, Generation

TASK_TOKENS = 125  # of one task, JSON and all: the Alpaca data by o200k, about
REPLY_SECONDS = 25.0  # for twenty tasks from a chat model, about


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a generation comes to from here to its target.

    Attributes:
        request: the body of the next request.
        kept, target: examples kept so far and wanted.
        requests, input_tokens, cached_tokens, output_tokens, cost, seconds: still to come;
            `cost` in USD, None without a price; cached tokens are part of the input.
        spent: USD so far.
        kept_per_request, cost_per_kept: measured, or assumed.
        worst_case_per_request: USD, a bound, and what `max_cost` reckons with.
        measured_on: requests that the figures were measured on; 0 when all is assumed.
        assumptions: in words.
    """

    request: dict[str, Any]
    demonstrations: tuple[str, ...]
    seeds: int
    kept: int
    target: int
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost: float | None
    spent: float | None
    cost_per_kept: float | None
    kept_per_request: float
    seconds: float | None
    worst_case_per_request: float | None
    max_cost: float | None
    measured_on: int
    assumptions: str


def estimate(recipe: Recipe, run: RunFolder) -> Estimate:
    """The next request, and what the rest of the generation would come to. Sends nothing.

    Raises:
        DataError: the run has a journal that is damaged or was made with other requests.
    """
    settings = recipe.generate
    seeds = load_seeds(recipe.seeds.source)
    work = Generation(recipe, seeds)
    journal = run.stage("generate") / "journal.jsonl"
    if journal.is_file():
        work.replay(whole_rows(journal), journal)
    request = work.request(work.pool.requests)
    replies = [row for row in work.ledger.answers.values() if row["kind"] == "reply"]
    usage = _usage(replies) if work.pool.kept else None
    assumptions = ""
    if work.pool.kept:
        kept_per_request = len(work.pool.kept) / work.pool.requests
    else:
        kept_per_request = FIRST_YIELD * request.tasks
        assumptions = f"{FIRST_YIELD:.0%} of the tasks are kept, "
    if usage is None:
        usage = _guess(request)
        assumptions += (
            f"4 bytes of prompt are a token, a task has {TASK_TOKENS} tokens, nothing is cached, "
            "no hidden reasoning, "
        )
    seconds = [row["seconds"] for row in replies if row.get("seconds")]
    if not seconds:
        assumptions += f"a reply takes {REPLY_SECONDS:.0f} s, "
    if settings.judge is not None:
        assumptions += "nothing for the judge, "
    left = max(0, settings.target - len(work.pool.kept))
    requests = -int(-left // kept_per_request)
    price = settings.teacher.price if isinstance(settings.teacher, OpenAITeacher) else None
    per_request = _cost(settings.teacher, price, usage, batch=settings.mode == "batch")
    online = isinstance(settings.teacher, OpenAITeacher) and settings.mode == "online"
    pace = fmean(seconds) if seconds else REPLY_SECONDS
    worst = float(work.spending.worst_case(request.most))
    return Estimate(
        request=dict(request.body),
        demonstrations=request.demonstrations,
        seeds=len(seeds),
        kept=len(work.pool.kept),
        target=settings.target,
        requests=requests,
        input_tokens=round(requests * usage["prompt_tokens"]),
        cached_tokens=round(requests * usage.get("cached_tokens", 0)),
        output_tokens=round(requests * usage["completion_tokens"]),
        cost=None if per_request is None else requests * per_request,
        spent=None if per_request is None else float(work.spending.spent),
        cost_per_kept=None if per_request is None else per_request / kept_per_request,
        kept_per_request=kept_per_request,
        seconds=requests * pace / settings.concurrency if online else None,
        worst_case_per_request=None if per_request is None else worst,
        max_cost=settings.max_cost,
        measured_on=work.pool.requests if work.pool.kept else 0,
        assumptions=assumptions.rstrip(", "),
    )


def _usage(replies: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """The mean usage of a reply; None when the endpoint tells none."""
    told = [row["usage"] for row in replies if row["usage"]]
    if not told:
        return None
    names = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens")
    return {name: round(fmean(usage.get(name, 0) for usage in told)) for name in names}


def _guess(request: Request) -> dict[str, int]:
    return {
        "prompt_tokens": request.likely_prompt_tokens,
        "completion_tokens": request.tasks * TASK_TOKENS,
    }


def _cost(
    teacher: object, price: Price | None, usage: Mapping[str, int], *, batch: bool
) -> float | None:
    if not isinstance(teacher, OpenAITeacher):
        return 0.0
    if price is None:
        return None
    return float(cost(price, usage, "batch" if batch else teacher.service_tier))
