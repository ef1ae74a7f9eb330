"""Texts in other words are found by real word vectors, made here: what is asked for, no more."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.duplicates import differences, find_duplicates
from alpaca_cli.data.semantic import Twin, load_encoder, semantic_twins

TEXTS = [
    "name a big animal",
    "tell me a huge beast",  # the same in other words
    "count to three",
    "name a huge animal",
    "write a poem",
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model2vec folder in which words of one meaning share a vector."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer, models, pre_tokenizers

    meanings = [["name", "tell"], ["big", "huge"], ["animal", "beast"], ["a", "me", "to"]]
    meanings += [["count"], ["three"], ["write"], ["poem"]]
    words = ["[UNK]", *(word for group in meanings for word in group)]
    rng = np.random.default_rng(1)
    vectors = [np.zeros(16)]
    for group in meanings:
        vector = rng.normal(size=16) * (0.01 if "a" in group else 1)
        vectors += [vector] * len(group)
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    model = StaticModel(np.array(vectors, np.float32), tokenizer, normalize=True)
    folder = tmp_path_factory.mktemp("encoder")
    model.save_pretrained(str(folder))
    return str(folder)


def test_the_earlier_of_two_that_mean_the_same_stays(encoder: str) -> None:
    model = load_encoder(encoder)
    twins = semantic_twins(TEXTS, 0.9, model)
    assert [(twin.text, twin.other) for twin in twins] == [(1, 0), (3, 0)]
    assert all(twin.score > 0.99 for twin in twins)
    assert semantic_twins([], 0.9, model) == []
    assert isinstance(twins[0], Twin)


def test_dedup_drops_them_after_the_exact_comparison(encoder: str) -> None:
    examples = [Example(text, "", "x" * length) for length, text in enumerate(TEXTS)]
    progress = Progress(Console(file=StringIO()))
    exact = find_duplicates(examples, Dedup(), progress)
    assert [(found.row, found.reason) for found in exact.dropped] == [(3, "duplicate")]
    settings = Dedup(semantic=0.9, encoder=encoder, keep="longest")
    outcome = find_duplicates(examples, settings, progress)
    assert [(found.row, found.reason, found.other) for found in outcome.dropped] == [
        (0, "duplicate", 3),
        (1, "semantic", 3),
    ]
    assert outcome.kept == [2, 3, 4]
    # rouge-score is not asked about meanings.
    assert differences(examples, outcome, settings, progress, rows=9, seed=1) == []


def test_an_encoder_that_is_not_there_ends_it_before_any_work(tmp_path: Path) -> None:
    shown = StringIO()
    settings = Dedup(semantic=0.9, encoder=str(tmp_path / "none"))
    with pytest.raises(DataError, match="cannot load"):
        find_duplicates([Example("x")], settings, Progress(Console(file=shown)))
    assert "comparing" not in shown.getvalue()
