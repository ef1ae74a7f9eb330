"""Texts that mean nearly the same in other words: approximate, and only where asked for.

Static word vectors (model2vec) are averaged over a text, and near ones are found in an approximate
index (usearch), both through `semhash`, the extra [semantic]. What is found depends on the encoder,
some neighbours are missed, and texts that differ in a number or a "not" count as the same. Exact
similarity of wording is the business of `alpaca_cli.data.rouge_index`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alpaca_cli.core.errors import DataError, missing_extra


@dataclass(frozen=True, slots=True)
class Twin:
    """A text that means nearly the same as another one.

    Attributes:
        text, other: positions, from 0; the other one stays.
        score: cosine of their vectors.
    """

    text: int
    other: int
    score: float


def load_encoder(name: str) -> Any:
    """A model2vec model.

    Args:
        name: its folder, or its name on the Hugging Face hub.

    Raises:
        UsageError: semhash is not installed.
        DataError: the model cannot be loaded.
    """
    if importlib.util.find_spec("semhash") is None:
        raise missing_extra("semhash", "semantic")
    from model2vec import StaticModel

    try:
        return StaticModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"encoder {name}: cannot load: {first}",
            hint="name a folder with a model2vec model, or one on the Hugging Face hub",
        ) from error


def semantic_twins(texts: Sequence[str], threshold: float, encoder: Any) -> list[Twin]:
    """The texts to drop so that no two that stay are nearer than the threshold, nearly.

    Of two the earlier one stays.

    Args:
        threshold: cosine, from 0 to 1; at least so near is the same.
        encoder: what `load_encoder` returned.
    """
    from semhash import SemHash

    if not texts:
        return []
    records = [{"text": text, "position": str(number)} for number, text in enumerate(texts)]
    index = SemHash.from_records(records, columns=["text"], model=encoder)
    twins = []
    for found in index.self_deduplicate(threshold=threshold).filtered:
        text, other = int(found.record["position"]), int(found.duplicate_of["position"])
        twins.append(Twin(text, other, min(1.0, float(found.score))))
    return sorted(twins, key=lambda twin: twin.text)
