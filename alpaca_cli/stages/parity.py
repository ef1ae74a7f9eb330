"""Proves that a model is asked in chat as it was trained: token for token, on a file of examples.

Where the file is the one that the model's run was trained on, the ids that the training itself
stored are compared; else those that a training would make of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from alpaca_cli.core.errors import GateFailed
from alpaca_cli.core.files import digest, read_json
from alpaca_cli.core.progress import Progress
from alpaca_cli.data.formats import HUB, read_placed
from alpaca_cli.model.locate import find_model, run_of
from alpaca_cli.stages.local_speaker import open_local

if TYPE_CHECKING:
    from alpaca_cli.model.rows import Rows


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row that is not the same, see `alpaca_cli.model.parity.Mismatch`."""

    row: str
    """Its place: `file:line` or `file#row`."""
    what: str
    position: int
    chat: tuple[str, ...]
    training: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parity:
    """What was compared, and what came out."""

    model: str
    data: str
    ids: Literal["of the training", "as encoded for training"]
    compared: int
    """Rows that are the same, up to the first that is not."""
    examples: int
    """Examples of the file; those that training left out as too long are not compared."""
    difference: Difference | None


def run(model: str, data: str, progress: Progress) -> Parity:
    """Compare every example of a file.

    Raises:
        DataError: no such model, or the file holds no examples.
    """
    placed = read_placed(data)
    examples = [example for _, example in placed]
    student = open_local(model, progress).student
    from alpaca_cli.model.parity import encoded, first_mismatch

    stored = _stored_rows(find_model(model), data)
    rows = encoded(student, examples) if stored is None else stored
    compared = 0
    with progress.task("compared", len(rows)) as task:

        def tick() -> None:
            nonlocal compared
            compared += 1
            task.advance()

        found = first_mismatch(student, rows, examples, tick)
    difference = None
    if found is not None:
        place = placed[found.number - 1][0]
        difference = Difference(place, found.what, found.position, found.chat, found.training)
    ids: Literal["of the training", "as encoded for training"]
    ids = "as encoded for training" if stored is None else "of the training"
    return Parity(model, data, ids, compared, len(examples), difference)


def check(parity: Parity) -> None:
    """GateFailed when a row is not the same; shows where, and what stands there."""
    if (found := parity.difference) is None:
        return
    raise GateFailed(
        f"{found.row}: {found.what}: token {found.position} is another one in chat than in "
        f"training\nchat:     {_told(found.chat)}\ntraining: {_told(found.training)}",
        hint="prompt_template.json and tokenizer beside the model must be those of its training",
    )


def _told(tokens: Sequence[str]) -> str:
    return "·".join(repr(token)[1:-1] for token in tokens)


def _stored_rows(folder: Path, data: str) -> Rows | None:
    """The rows of a model's own training, when this file is what it was trained on."""
    run = run_of(folder)
    if run is None or data.startswith(HUB):
        return None
    from alpaca_cli.model.rows import load_rows

    train = run / "train"
    told = [train / name for name in ("done.json", "started.json") if (train / name).is_file()]
    kept = sorted((train / "tokens").glob("*/about.json"), key=lambda path: path.stat().st_mtime)
    if not told or not kept or read_json(told[0])["inputs"].get("data") != digest(Path(data)):
        return None
    return load_rows(kept[-1].parent)
