"""What a generation would send and cost, told without sending anything (`generate --estimate`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import OpenAITeacher
from alpaca_cli.data.prompts import RequestBuilder
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.generate import FIRST_YIELD, spending_of


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a generation would send and cost, told without sending anything.

    `requests`, tokens and `cost` rest on the assumptions named; `worst_case_per_request` is a
    bound (USD), and what `max_cost` reckons with.
    """

    request: dict[str, Any]
    demonstrations: tuple[str, ...]
    seeds: int
    target: int
    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    worst_case_per_request: float | None
    max_cost: float | None
    assumptions: str


def estimate(recipe: Recipe) -> Estimate:
    """Request 0, and what the whole generation would come to. Sends and writes nothing."""
    settings = recipe.generate
    seeds = load_seeds(recipe.seeds.source)
    request = RequestBuilder(settings, recipe.seed, seeds)(0)
    spending = spending_of(settings)
    kept = FIRST_YIELD * settings.tasks_per_request
    requests = -int(-settings.target // kept)
    sent = requests * len(request.text.encode()) // 4
    received = requests * settings.tasks_per_request * 125
    cost: float | None = 0.0
    if isinstance(settings.teacher, OpenAITeacher):
        price = settings.teacher.price
        cost = None if price is None else (sent * price.input + received * price.output) / 1e6
    return Estimate(
        request=dict(request.body),
        demonstrations=request.demonstrations,
        seeds=len(seeds),
        target=settings.target,
        requests=requests,
        input_tokens=sent,
        output_tokens=received,
        cost=cost,
        worst_case_per_request=None if cost is None else spending.worst_case(request),
        max_cost=settings.max_cost,
        assumptions=f"{FIRST_YIELD:.0%} of the tasks are kept, 4 bytes of prompt are a token, a "
        "task has 125 tokens, nothing is cached, no hidden reasoning",
    )
