"""How a training's micro-batches are filled, whether it fits into a memory, and which smaller
settings do when it does not.

Every change that is named was reckoned with the formulas of the plan; what they are is the
business of `alpaca_cli.model.memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.settings_train import ScratchModel, Train

if TYPE_CHECKING:
    from alpaca_cli.model.batches import Schedule
    from alpaca_cli.model.memory import Memory, Shape
    from alpaca_cli.model.rows import Row, Rows
    from alpaca_cli.model.strategy import Strategy
    from alpaca_cli.model.tokens import Tokens

Changes = dict[str, Any]
# Full training in less and less memory: the moments in 8 bits, then the weights in 16.
SMALLER: tuple[Changes, ...] = (
    {},
    {"optimizer": "adamw_8bit"},
    {"optimizer": "adamw_8bit", "weights": "bfloat16"},
)
MOST_GPUS = 64
LOOKED_AT = 20  # steps that are dealt to see how well micro-batches are filled


@dataclass(frozen=True, slots=True)
class Dealt:
    """How steps fill their micro-batches.

    Attributes:
        micro_batches: of a step of one process, on average.
        padding: share of their positions that hold no token.
        columns: largest share of the positions of one that have logits.
    """

    micro_batches: float
    padding: float
    columns: float


@dataclass(frozen=True, slots=True)
class Fitting:
    """What stays the same while settings are tried.

    Attributes:
        tokens: the data, whose tokenizer the model has to have rows for.
        dtype: torch's, that is computed in.
        available: bytes of each process; `kind` of device, `cuda` or `cpu`.
    """

    tokens: Tokens
    rows: Rows
    schedule: Schedule
    dtype: Any
    kind: str
    available: float

    def shape(self, settings: Train) -> Shape:
        """The shape of the model that settings lead to."""
        from alpaca_cli.model.memory import shape_of
        from alpaca_cli.model.student import make_trainee

        tokens = self.tokens
        trainee = make_trainee(
            settings,
            tokens.tokenizer,
            tokens.template,
            self.schedule.seed,
            self.dtype,
            weights=False,
        )
        return shape_of(trainee.model, settings)

    def largest(self, settings: Train) -> int:
        """Positions of the largest micro-batch that these examples can make."""
        longest = int(self.rows.lengths.max())
        if settings.packing:
            room = settings.micro_batch * settings.max_length
            return min(room, settings.global_batch * longest)
        return min(settings.micro_batch, settings.global_batch) * longest

    def dealt(self, settings: Train, processes: int) -> Dealt:
        """How the first steps fill their micro-batches."""
        from alpaca_cli.model.batches import deal, positions

        steps = min(LOOKED_AT, self.schedule.steps)
        batches = [
            batch
            for step in range(steps)
            for own in deal(
                [self.rows[index] for index in self.schedule.indices(step)],
                processes,
                settings.micro_batch,
                settings.max_length,
                settings.packing,
            )
            for batch in own
        ]
        computed = sum(map(positions, batches))
        held = sum(len(row.ids) for batch in batches for packed in batch for row in packed)
        return Dealt(
            micro_batches=len(batches) / processes / steps,
            padding=1 - held / computed,
            columns=max(_columns(batch) / positions(batch) for batch in batches),
        )

    def strategy(self, settings: Train, shape: Shape, processes: int) -> Strategy:
        from alpaca_cli.model.memory import choose_strategy

        return choose_strategy(
            shape, settings, self.dtype, processes, self.available, kind=self.kind
        )

    def memory(self, settings: Train, shape: Shape, processes: int) -> Memory:
        """What one process needs."""
        from alpaca_cli.model.memory import memory

        strategy, largest = self.strategy(settings, shape, processes), self.largest(settings)
        columns = round(self.dealt(settings, processes).columns * largest)
        return memory(
            shape, settings, self.dtype, processes, strategy, largest, columns, kind=self.kind
        )

    def fits(self, settings: Train, shape: Shape, processes: int) -> bool:
        from alpaca_cli.model.memory import USABLE

        needed = self.memory(settings, shape, processes).total
        return needed <= USABLE * self.available

    def smaller_settings(self, settings: Train, shape: Shape, processes: int) -> list[list[str]]:
        """Changes that make a training fit, each as `key=value`s; what costs least comes first.

        At most one of each kind: the same training in less memory, more GPUs, LoRA, 4 bits.
        """
        kinds = [self._same_method(settings, shape, processes)]
        if self.kind == "cuda":
            kinds.append(self._more_gpus(settings, shape, processes))
        if settings.method == "full" and not isinstance(settings.model, ScratchModel):
            adapted = self.shape(changed(settings, {"method": "lora"}))
            for method in ("lora", "qlora"):
                kinds.append(self._adapter(settings, adapted, method, processes))
        elif settings.method == "lora":
            kinds.append(self._adapter(settings, shape, "qlora", processes))
        return [
            [f"train.{key}={_yaml(value)}" for key, value in each.items()]
            for each in kinds
            if each is not None
        ]

    def _same_method(self, settings: Train, shape: Shape, processes: int) -> Changes | None:
        for smaller in SMALLER if settings.method == "full" else SMALLER[:1]:
            for cheaper in _cheaper(settings):
                changes = _split(settings, processes) | smaller | cheaper
                if self.fits(changed(settings, changes), shape, processes):
                    return _new(settings, changes)
        return None

    def _more_gpus(self, settings: Train, shape: Shape, processes: int) -> Changes | None:
        """The fewest, in powers of two, that the global batch splits over; `gpus` of each node."""
        count = settings.nodes
        while (count := count * 2) <= MOST_GPUS:
            if count > processes and settings.global_batch % count == 0:
                for again in (settings.gradient_checkpointing, True):
                    changes = _split(settings, count) | {"gradient_checkpointing": again}
                    if self.fits(changed(settings, changes), shape, count):
                        return {"gpus": count // settings.nodes} | _new(settings, changes)
        return None

    def _adapter(
        self, settings: Train, shape: Shape, method: str, processes: int
    ) -> Changes | None:
        # LoRA's adapters are small: its optimizer and weights may as well be AdamW's in float32.
        base: Changes = {"method": method, "weights": "float32", "optimizer": "adamw"}
        if method == "qlora":  # cannot be split
            base["strategy"] = "auto"
        for cheaper in _cheaper(settings):
            if self.fits(changed(settings, base | cheaper), shape, processes):
                return _new(settings, base | cheaper)
        return None


def _columns(batch: Sequence[Sequence[Row]]) -> int:
    """Positions with logits: those at which some row has a trained next token, in every row."""
    if len(batch) == 1:
        return sum(row.trained for row in batch[0])
    rows = [row for packed in batch for row in packed]
    return len(rows) * (max(len(row.ids) for row in rows) - min(row.prompt for row in rows))


def changed(settings: Train, changes: Changes) -> Train:
    """The settings with some keys changed, checked as a recipe's are."""
    return Train.model_validate(settings.model_dump() | changes)


def _split(settings: Train, processes: int) -> Changes:
    """FSDP2 where DDP is asked for, does not have to be, and there is something to split over."""
    splits = settings.method != "qlora" and settings.optimizer != "muon"
    return {"strategy": "fsdp2"} if settings.strategy == "ddp" and splits and processes > 1 else {}


def _cheaper(settings: Train) -> Iterator[Changes]:
    """Changes that leave the result as it is: micro-batches of half the size; then recomputing,
    which costs less time than still smaller ones; then both.
    """
    sizes = [settings.micro_batch]
    while sizes[-1] > 1:
        sizes.append(sizes[-1] // 2)
    if not settings.gradient_checkpointing:
        for size in sizes[:2]:
            yield {"micro_batch": size}
    for size in sizes:
        yield {"gradient_checkpointing": True, "micro_batch": size}


def _new(settings: Train, changes: Changes) -> Changes:
    """The changes that change something."""
    return {key: value for key, value in changes.items() if getattr(settings, key) != value}


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
