"""What each request of a run showed and has cost, from the run's journal.

Prices and tiers are applied by `alpaca_cli.data.ledger`, row by row as when the run was paid for,
so that the sum over all requests is what the run has cost. What came of the replies is not known
here, and their texts are not kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from alpaca_cli.core.files import read_json
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.settings_generate import OpenAITeacher, Price, Teacher
from alpaca_cli.data.ledger import CLOSING, Ledger, Row, checked
from alpaca_cli.data.spending import Spending

FREE = Price(input=0, output=0)
_DIGITS = 9  # of a dollar: a request of a cheap model costs some ten-thousandths


@dataclass(slots=True)
class Asked:
    """One request of a run.

    Attributes:
        demonstrations: ids of the tasks it showed.
        teacher: the model that answered; None when none did.
        answered: whether there is a reply, or word that there will be none: then `failed`.
        attempts: how many were billed, or may have been.
        cost: USD, at the worst case where the usage is not known; 0 without a price.
    """

    demonstrations: tuple[str, ...] = ()
    teacher: str | None = None
    answered: bool = False
    failed: bool = False
    attempts: int = 0
    cost: Decimal = Decimal(0)

    @property
    def counts(self) -> bool:
        """Whether it was answered or may have been billed."""
        return self.answered or self.attempts > 0


class Book:
    """Takes the rows of a generation's journal, and keeps of each request what it has cost.

    Reply texts are not kept.

    Args:
        price: None when it is not known; then no dollars are counted.

    Attributes:
        asked: the requests by number.
    """

    def __init__(self, price: Price | None) -> None:
        self.price = price
        self.asked: dict[int, Asked] = {}
        self._open: dict[int, list[Row]] = {}  # attempts that nothing has closed yet

    def reading(self, rows: Iterable[Row], path: Path) -> Iterator[Row]:
        """The rows of the journal `path`, each noted as it passes; what is left open at the end
        was in flight when a process was killed, or still is.

        Raises:
            DataError: a row is not one of a generation's journal.
        """
        for raw in rows:
            row = checked(raw, path)
            if row.get("of") != "judge" and "n" in row:
                self._note(row)
            yield row
        for n, attempts in self._open.items():
            self._pay(n, attempts)
        self._open = {}

    def _note(self, row: Row) -> None:
        n, kind = row["n"], row["kind"]
        asked = self.asked.setdefault(n, Asked())
        if "demonstrations" in row and not asked.answered:
            asked.demonstrations = tuple(map(sys.intern, row["demonstrations"]))
            asked.answered, asked.failed = kind in ("reply", "failed"), kind == "failed"
            asked.teacher = row.get("model")
        if kind in CLOSING:
            self._pay(n, [*self._open.pop(n, ()), row])
        else:
            self._open.setdefault(n, []).append(row)

    def _pay(self, n: int, rows: Iterable[Row]) -> None:
        """Count what a request's rows come to; no other request's rows matter for that."""
        spending = Spending(self.price)
        ledger = Ledger(spending)
        for row in rows:
            ledger.take(row)
        ledger.finish()
        self.asked[n].cost += spending.spent
        self.asked[n].attempts += spending.requests


def price_of_run(generate: Path) -> Price | None:
    """What the run's teacher costs, as its last invocation knew it; None when it did not.

    From generate/report.json; of a run that was killed before it had one, from the run's recipe.
    """
    report = generate / "report.json"
    if report.is_file():
        judged_with = read_json(report).get("judged_with", {})
        price = judged_with.get("price", FREE)  # only teachers that cost something have the key
        return None if price is None else Price.model_validate(price)
    recipe, started = generate.parent / "recipe.yaml", generate / "started.json"
    if not (recipe.is_file() and started.is_file()):
        return None
    teacher = load_recipe(str(recipe), environment={}).generate.teacher
    # A later stage may have been called with another recipe, which then lies there.
    asked = read_json(started)["settings"]["generate"]["teacher"]
    return price_of(teacher) if asked.get("kind") == teacher.kind else None


def price_of(teacher: Teacher) -> Price | None:
    """A teacher's price: the embedded one is free; None when it is not known."""
    return teacher.price if isinstance(teacher, OpenAITeacher) else FREE


def dollars(amount: Decimal) -> float:
    """USD as a report tells them."""
    return round(float(amount), _DIGITS)
