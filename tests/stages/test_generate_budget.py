"""Budgets against a server's own ledger: what it billed is never more than was allowed, whatever
the prices, however the replies fail, and wherever the process is killed."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property, partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop, TeacherError, TryAgain
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.generate import run as generate
from alpaca_cli.stages.generation import Generation
from tests.forks import Forks
from tests.servers import Asked, Fault, TeacherServer, error

TASKS, TARGET = 4, 120
ROOM = 400  # tokens of a reply at most
# A simpler case is found by running cases for minutes; a failing one is readable as it is.
UNSHRUNK = (Phase.explicit, Phase.generate)
ROUNDED = Decimal("1e-6")  # USD: what a report leaves out


@dataclass(frozen=True)
class Case:
    """A price, limits, and an endpoint that is out to pass them.

    Attributes:
        requests: how many worst cases the limits are worth.
        limited: which limits are set.
        dear: whether every reply is billed all the tokens that it may have.
        seed: decides which attempts fail, and how.
    """

    price: Mapping[str, float]
    requests: float
    limited: frozenset[str]
    concurrency: int
    usage: bool
    dear: bool
    caching: bool
    flex: bool
    failing: float
    seed: int

    def chance(self, asked: Asked, name: str) -> random.Random:
        return random.Random(f"{self.seed}{name}{asked.sha}{asked.attempt}")

    def fault(self, asked: Asked) -> Fault | None:
        chance = self.chance(asked, "fault")
        if chance.random() > self.failing:
            return None
        now = {"retry-after-ms": "1"}
        return chance.choice([
            Fault(429, headers=now),
            Fault(503, headers=now),
            Fault(500, headers=now),
            Fault(502, headers=now, billed=True),  # the gateway gave up, the work went on
            Fault(504, headers=now, billed=True),
            Fault(cut=40),
            Fault(200, b"<html>hello</html>"),
            Fault(200, {"choices": []}),
            error(400, "blocked", code="content_filter"),
        ])  # fmt: skip

    def tokens(self, asked: Asked) -> int:
        return ROOM if self.dear else self.chance(asked, "tokens").randint(0, ROOM)

    def latency(self, asked: Asked) -> float:
        slow = self.chance(asked, "slow").random() < self.failing / 10
        return 0.6 if slow else 0.0  # the client waits half as long

    def tier(self, asked: Asked) -> str | None:
        return self.chance(asked, "tier").choice(["flex", "default"]) if self.flex else None

    def server(self) -> TeacherServer:
        return TeacherServer(
            self.fault,
            usage=self.usage,
            completion_tokens=self.tokens,
            latency=self.latency,
            caching=self.caching,
            cache_writes=self.caching,
            tier=self.tier,
        )

    @cached_property
    def limits(self) -> dict[str, float]:
        """The limits, by their recipe keys."""
        work = Generation(self._recipe("http://127.0.0.1:1", {}), load_seeds("builtin"))
        most = work.request(0).most
        every = {
            "max_cost": float(work.spending.worst_case(most)) * self.requests or 1e-9,
            "max_tokens": int(most.tokens * self.requests) or 1,
            "max_requests": int(self.requests) or 1,
        }
        return {name: every[name] for name in sorted(self.limited)}

    def section(self, url: str, limits: Mapping[str, float]) -> dict[str, Any]:
        teacher = {
            "kind": "openai", "model": "m", "base_url": url, "max_output_tokens": ROOM,
            "timeout": 0.3, "max_attempts": 2, "price": dict(self.price),
        } | ({"service_tier": "flex"} if self.flex else {})  # fmt: skip
        return {
            "target": TARGET, "tasks_per_request": TASKS, "concurrency": self.concurrency,
            "novelty": 1, "novelty_key": "instruction+input", "min_yield": 0, "teacher": teacher,
            "demonstrations": 12,  # prompts so long that the server caches them
        } | dict(limits)  # fmt: skip

    def _recipe(self, url: str, limits: Mapping[str, float]) -> Recipe:
        return Recipe.model_validate({"generate": self.section(url, limits)})

    def recipe(self, server: TeacherServer) -> Recipe:
        return self._recipe(server.url, self.limits)

    def check(self, server: TeacherServer) -> None:
        """Nothing that the server has billed is above a limit."""
        limits = self.limits
        if "max_cost" in limits:
            assert server.billed(self.price) <= Decimal(str(limits["max_cost"]))
        tokens = sum(entry.prompt_tokens + entry.completion_tokens for entry in server.ledger)
        assert tokens <= limits.get("max_tokens", tokens)
        assert len(server.ledger) <= limits.get("max_requests", len(server.ledger))


def drawn(seed: int) -> Case:
    """A case of every kind alike, where Hypothesis would rather draw simple ones."""
    chance = random.Random(seed)
    price = {
        "input": chance.choice([0.0, 0.15, 2.5]),
        "output": chance.choice([0.0, 0.6, 10.0]),
        "flex": chance.choice([0.5, 1.0]),
        "cached_input": chance.choice([0.0, 0.075, 3.0]),
        "cache_write": chance.choice([0.1, 3.125]),
    }
    keys = ["max_cost", "max_tokens", "max_requests"]
    return Case(
        price={
            key: usd for key, usd in price.items() if "cache" not in key or chance.random() < 0.6
        },
        requests=chance.choice([0.9, 1.0, 3.5, 9.0, 18.1, 31.7]),
        limited=frozenset(chance.sample(keys, chance.randint(1, 3))),
        concurrency=chance.randint(1, 40),
        usage=chance.random() < 0.7,
        dear=chance.random() < 0.5,
        caching=chance.random() < 0.5,
        flex=chance.random() < 0.5,
        failing=chance.choice([0.0, 0.1, 0.3]),
        seed=seed,
    )


cases = st.integers(0, 2**32).map(drawn)


def run(folder: Path, what: Recipe) -> None:
    with suppress(BudgetStop, TeacherError, TryAgain):
        generate(what, RunFolder(folder), Progress(Console(file=StringIO())))


@settings(max_examples=40, phases=UNSHRUNK)
@given(cases)
def test_no_more_is_billed_than_allowed(case: Case) -> None:
    with tempfile.TemporaryDirectory() as folder, case.server() as server:
        for _ in range(2):  # the second run knows what the first one spent
            run(Path(folder), case.recipe(server))
            case.check(server)
            report = json.loads((Path(folder) / "generate" / "report.json").read_text())
            assert report["cost"] >= server.billed(case.price) - ROUNDED


@pytest.mark.parametrize("name", ["n", "best_of", "max_tokens", "max_completion_tokens"])
def test_what_would_be_billed_besides_cannot_be_smuggled_in(name: str) -> None:
    teacher = {"kind": "openai", "model": "m", "extra_body": {name: 2}}
    with pytest.raises(ValueError, match=rf"{name} is not for extra_body"):
        Recipe.model_validate({"generate": {"teacher": teacher}})
    teacher["extra_body"] = {name: None}
    Recipe.model_validate({"generate": {"teacher": teacher}})


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with Forks(tmp_path_factory.mktemp("forks")) as opened:
        yield opened


def size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def at_least(path: Path, bytes: int) -> bool:
    return size(path) >= bytes


@settings(max_examples=15, phases=UNSHRUNK)
@given(cases, st.lists(st.integers(1, 6000), min_size=1, max_size=3))
def test_no_more_is_billed_when_killed(forks: Forks, case: Case, kills: list[int]) -> None:
    """Killed as soon as the journal has grown by so many bytes, then run to its end."""
    with tempfile.TemporaryDirectory() as name, case.server() as server:
        folder = Path(name)
        path = folder / "run" / "generate" / "journal.jsonl"
        recipe = folder / "recipe.yaml"
        recipe.write_text(json.dumps({"generate": case.section(server.url, case.limits)}))
        for grown in kills:
            until = size(path) + grown
            forks.start("generate", f"--recipe={recipe}", f"--run={folder / 'run'}")
            if not forks.holds_before_the_end(partial(at_least, path, until)):
                assert forks.finish() in (0, 4, 6, 75), forks.said()
                break
            forks.kill()
            case.check(server)
        run(folder / "run", case.recipe(server))
        case.check(server)
