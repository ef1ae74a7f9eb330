"""Whether a training fits into a memory, and which smaller settings do when it does not.

Every change that is named was reckoned with the formulas of the plan; what they are is the
business of `alpaca_cli.model.memory`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alpaca_cli.core.settings_train import ScratchModel, Train

if TYPE_CHECKING:
    import torch

    from alpaca_cli.model.memory import Memory, Shape
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


@dataclass(frozen=True, slots=True)
class Fitting:
    """What stays the same while settings are tried.

    Attributes:
        tokens: the data, whose tokenizer the model has to have rows for.
        available: bytes of each process; `kind` of device, `cuda` or `cpu`.
        longest: example, in tokens.
        columns: share of the positions that have logits.
    """

    tokens: Tokens
    seed: int
    dtype: torch.dtype
    kind: str
    available: float
    longest: int
    columns: float

    def shape(self, settings: Train) -> Shape:
        """The shape of the model that settings lead to."""
        from alpaca_cli.model.memory import shape_of
        from alpaca_cli.model.student import make_trainee

        tokens = self.tokens
        trainee = make_trainee(
            settings, tokens.tokenizer, tokens.template, self.seed, self.dtype, weights=False
        )
        return shape_of(trainee.model, settings)

    def largest(self, settings: Train) -> int:
        """Positions of the largest micro-batch that these examples can make."""
        if settings.packing:
            room = settings.micro_batch * settings.max_length
            return min(room, settings.global_batch * self.longest)
        return min(settings.micro_batch, settings.global_batch) * self.longest

    def strategy(self, settings: Train, shape: Shape, processes: int) -> Strategy:
        from alpaca_cli.model.memory import choose_strategy

        return choose_strategy(
            shape, settings, self.dtype, processes, self.available, kind=self.kind
        )

    def memory(self, settings: Train, shape: Shape, processes: int) -> Memory:
        """What one process needs."""
        from alpaca_cli.model.memory import memory

        strategy, largest = self.strategy(settings, shape, processes), self.largest(settings)
        columns = round(self.columns * largest)
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
                if self.fits(changed(settings, smaller | cheaper), shape, processes):
                    return _new(settings, smaller | cheaper)
        return None

    def _more_gpus(self, settings: Train, shape: Shape, processes: int) -> Changes | None:
        """The fewest, in powers of two, that the global batch splits over."""
        count = 1
        while (count := count * 2) <= MOST_GPUS:
            if count > processes and settings.global_batch % count == 0:
                for again in (settings.gradient_checkpointing, True):
                    changes = {"gpus": count, "gradient_checkpointing": again}
                    if self.fits(changed(settings, changes), shape, count):
                        return _new(settings, changes)
        return None

    def _adapter(
        self, settings: Train, shape: Shape, method: str, processes: int
    ) -> Changes | None:
        # LoRA's adapters are small: its optimizer and weights may as well be AdamW's in float32.
        base = {"method": method, "weights": "float32", "optimizer": "adamw"}
        for cheaper in _cheaper(settings):
            if self.fits(changed(settings, base | cheaper), shape, processes):
                return _new(settings, base | cheaper)
        return None


def changed(settings: Train, changes: Changes) -> Train:
    """The settings with some keys changed, checked as a recipe's are."""
    return Train.model_validate(settings.model_dump() | changes)


def _cheaper(settings: Train) -> Iterator[Changes]:
    """Changes that leave the result as it is: smaller micro-batches; recomputing, too."""
    for again in sorted({settings.gradient_checkpointing, True}):
        size = settings.micro_batch
        while size:
            yield {"gradient_checkpointing": again, "micro_batch": size}
            size //= 2


def _new(settings: Train, changes: Changes) -> Changes:
    """The changes that change something."""
    return {key: value for key, value in changes.items() if getattr(settings, key) != value}


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
