"""The judge's side of a generation: what it is still to score, and the scores it has given.

Scores are journalled beside the replies that they are about, under the judge's own name and
budget; a candidate is asked about once, unless another judge is set.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from alpaca_cli.core.errors import AlpacaError
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Judge
from alpaca_cli.data.dispatch import Dispatcher
from alpaca_cli.data.judge import JudgeBuilder, read_scores
from alpaca_cli.data.ledger import Ledger, Row
from alpaca_cli.data.pool import Answer, Pool
from alpaca_cli.data.prompts import Request
from alpaca_cli.data.spending import Spending
from alpaca_cli.data.teacher import Refused, Unsupported

JUDGE = "generate.judge"
STAMP = {"of": "judge"}  # on every journal row of a judge
_TEACHER = "generate.teacher"  # whose recipe keys the engine of generation names


class Judging:
    """What is asked of a judge; see `dispatch.Work`.

    Args:
        scored: called when scores have come in.
    """

    def __init__(self, settings: Judge, pool: Pool, scored: Callable[[], Awaitable[None]]) -> None:
        self.settings = settings
        price = settings.teacher.price
        self.spending = Spending(price, usd=settings.max_cost, name=JUDGE)
        self.ledger = Ledger(self.spending)
        self.dispatcher: Dispatcher | None = None
        self._build = JudgeBuilder(settings)
        self._pool, self._scored = pool, scored
        self._scores: dict[int, dict[int, float | None]] = {}
        self._promising: dict[int, dict[int, Example]] = {}  # by request, until it is judged
        self._queue: dict[int, dict[int, Example]] = {}
        self._asked: set[int] = set()

    @property
    def pending(self) -> int:
        """Replies whose candidates are to be scored, or being scored."""
        return len(self._queue) + (0 if self.dispatcher is None else self.dispatcher.in_flight)

    @property
    def idle(self) -> bool:
        """Whether nothing is to be scored, nor being scored."""
        return not self._queue and (self.dispatcher is None or self.dispatcher.idle)

    def take(self, row: Row) -> None:
        """Count a row of the journal, and take its scores if they are this judge's."""
        self.ledger.take(row)
        if row["kind"] in ("reply", "failed") and row["judge"] == self._build.digest:
            self._note(row)

    def scores(self, answer: Answer) -> dict[int, float | None] | None:
        """The scores of all promising candidates of an answer; None while some are missing."""
        known = self._scores.get(answer.n, {})
        if answer.n not in self._promising:
            self._promising[answer.n] = self._pool.promising(answer)
        missing = {i: e for i, e in self._promising[answer.n].items() if i not in known}
        if not missing:
            return known
        if answer.n not in self._asked:
            self._asked.add(answer.n)
            self._queue[answer.n] = missing
        return None

    def forget(self, n: int) -> None:
        """Drop what is no longer needed of an answer that was judged."""
        self._scores.pop(n, None)
        self._promising.pop(n, None)
        self._asked.discard(n)

    def next_request(self) -> Request | None:
        """See `dispatch.Work`."""
        if not self._queue:
            return None
        n = min(self._queue)
        return self._build(n, self._queue.pop(n))

    def instead(self, request: Request, problem: Refused | Unsupported) -> Request | None:
        """See `dispatch.Work`: what cannot be judged is rejected as such."""
        return None

    async def land(self, rows: list[Row]) -> None:
        """See `dispatch.Work`."""
        for row in rows:
            if row["kind"] in ("reply", "failed"):
                self._note(row)
        await self._scored()

    def _note(self, row: Row) -> None:
        items = row["items"]
        told = read_scores(row["text"], len(items)) if row["kind"] == "reply" else []
        scores = self._scores.setdefault(row["n"], {})
        scores.update(zip(items, told or [None] * len(items), strict=True))
        for item in items:  # of a replay: they were wanted before their row was read
            self._queue.get(row["n"], {}).pop(item, None)
        if not self._queue.get(row["n"], items):
            del self._queue[row["n"]]
            self._asked.discard(row["n"])


def of_judge(text: str, section: str) -> str:
    """What the engine of generation says, in the words of a judge.

    Args:
        section: its recipe key, such as `eval.judge`.
    """
    return text.replace(_TEACHER, f"{section}.teacher").replace("the teacher", "the judge")


def judges_error(error: BaseException, section: str) -> BaseException:
    """The engine's error in the words of a judge; what is none of ours stays as it is."""
    if not isinstance(error, AlpacaError):
        return error
    hint = of_judge(error.hint, section)
    if "alpaca generate --estimate" in hint:  # which shows the teacher's request
        hint = f"see {section}.teacher"
    return type(error)(of_judge(str(error), section), hint=hint)
