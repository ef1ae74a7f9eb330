"""The keys of `eval`: what is asked, how answers are scored, and who judges.

How they are carried out is `alpaca_cli.stages.eval` and `alpaca_cli.stages.pairwise`.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from alpaca_cli.core.section import Section
from alpaca_cli.core.settings_generate import OpenAITeacher


class PairwiseJudge(Section):
    """A model that says which of two answers is better; each pair is asked in both orders."""

    teacher: OpenAITeacher
    """Who judges; its protocol is chat. Verdicts are journalled and never asked for again."""

    concurrency: int = Field(16, ge=1, le=1024)
    """Requests in flight at most."""

    max_cost: float | None = Field(None, gt=0)
    """USD. No request is sent whose worst case could take the spending above this; needs
    `teacher.price`."""

    @model_validator(mode="after")
    def _cost_needs_a_price(self) -> PairwiseJudge:
        if self.max_cost is not None and self.teacher.price is None:
            raise ValueError("max_cost needs teacher.price: without it spending is unknown")
        return self


class Eval(Section):
    """Greedy answers on held-out examples, scored against the reference or by a judge."""

    data: str = "procedural"
    """A file of examples, or `procedural`: unseen tasks of the embedded teacher's families."""

    count: int = Field(440, ge=1)
    """How many `procedural` examples to make."""

    batch: int = Field(64, ge=1)
    """Prompts answered at once."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest answer, in tokens."""

    resamples: int = Field(2000, ge=100)
    """Bootstrap resamples of the questions, for the intervals of means."""

    against: list[str] = Field([])
    """Models, or files of answers, that answer the same questions to be compared with."""

    judge: PairwiseJudge | None = None
    """Compare answers pairwise by a model; needs `against`. Off when not given."""

    gates: list[str] = Field([])
    """What must hold of the report, e.g. `exact_match >= 0.6`; exit 5 when it does not."""
