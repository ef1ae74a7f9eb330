"""Every rule rejects what it is for, names itself, and leaves its neighbours alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import Filters
from alpaca_cli.core.settings_generate import Generate
from alpaca_cli.data.filters import make_filter
from alpaca_cli.data.pool import Answer, Pool
from alpaca_cli.data.procedural import draw, family_names
from alpaca_cli.data.prompts import Request, render_json
from alpaca_cli.data.seeds import load_seeds


def reason(example: Example, **settings: Any) -> str:
    verdict = make_filter(Filters.model_validate(settings))(example)
    return verdict[0] if verdict else ""


@pytest.mark.parametrize(
    ("example", "settings", "expected"),
    [
        (Example("Do it.", "", "Done."), {}, "too_short"),
        (Example("Do it now.", "", "Done."), {}, ""),
        (Example("Do it now.", "", "Done."), {"min_words": 4}, "too_short"),
        (Example("word " * 150, "", "Done."), {}, ""),
        (Example("word " * 151, "", "Done."), {}, "too_long"),
        (Example("word " * 200, "", "Done."), {"max_words": 300}, ""),
        (Example("Say it all.", "", "word " * 11), {"max_output_words": 10}, "output_too_long"),
        (Example("Draw a map of Rome.", "", "No."), {"keywords": ["map"]}, "keyword"),
        (Example("Draw a MAP.", "", "No."), {"keywords": ["map"]}, "keyword"),
        (Example("Name a mapping type.", "", "dict"), {"keywords": ["map"]}, ""),
        (Example("Please go to Rome.", "", "No."), {"keywords": ["go to"]}, "keyword"),
        (Example("Explain C++ briefly.", "", "A language."), {"keywords": ["c++"]}, "keyword"),
        (Example("Explain C briefly.", "", "A language."), {"keywords": ["c++"]}, ""),
        (Example("Write a program, now.", "", "x"), {"openings": ["Write a program"]}, "opening"),
        (Example("Now write a program.", "", "x = 1"), {"openings": ["Write a program"]}, ""),
        (Example("- Name a fruit.", "", "Apple"), {}, "bad_start"),
        (Example(": name a fruit.", "", "Apple"), {}, "bad_start"),
        (Example('"Apple" is a what?', "", "A fruit"), {}, ""),
        (Example('"Apple" is a what?', "", "A fruit"), {"ascii_start": True}, "bad_start"),
        (Example("Épelez le mot.", "pomme", "p, o, m, m, e"), {}, ""),
        (Example("Épelez le mot.", "pomme", "p, o, m, m, e"), {"ascii_start": True}, "bad_start"),
        (Example("Name a fruit, please.", "", ""), {}, "empty_output"),
        (Example("Repeat the given word.", "Apple", "Apple "), {}, "answer_repeats_question"),
        (Example("Name a fruit.", "", "Name a fruit."), {}, "answer_repeats_question"),
        (Example("Sum up the text.", "[insert text here]", "It is short."), {}, "placeholder"),
        (Example("Sum up the text.", "Lorem ipsum dolor", "Latin."), {}, "placeholder"),
        (
            Example("Open my file.", "", "I'm sorry, but I cannot open files."),
            {},
            "refusal",
        ),
        (Example("Summarise the following article.", "", "It is short."), {}, "missing_input"),
        (Example("Name a fruit, please.", "", "Apple\n5. Input: <noinput>"), {}, "leftover_marker"),
    ],
)  # fmt: skip
def test_rules(example: Example, settings: dict[str, Any], expected: str) -> None:
    assert reason(example, **settings) == expected


def test_our_own_seeds_pass() -> None:
    assert {
        example.id: reason(example) for example in load_seeds("builtin") if reason(example)
    } == {}


def test_the_embedded_teacher_passes_but_for_unlucky_words() -> None:
    rng = random.Random(7)
    tasks = [draw(rng, rng.choice(family_names())) for _ in range(3000)]
    rejected = [
        task for task in tasks if reason(Example(task.instruction, task.input, task.output))
    ]
    assert len(rejected) <= 3, rejected


def test_real_seeds_that_are_rejected_deserve_it(real_data: Path) -> None:
    rejected = {
        example.id: reason(example)
        for example in load_seeds(str(real_data / "seed_tasks.jsonl"))
        if reason(example)
    }
    # One asks for nothing but a language model's refusal-like answer; the rest are what they say.
    assert len(rejected) <= 6, rejected


# --- the pool: filters, novelty, target -----------------------------------------------------------

REQUEST = Request(0, 20, ("a",), {"model": "m", "prompt": ""})


def pooled(*tasks: Example, seeds: tuple[Example, ...] = (), **settings: Any) -> Pool:
    pool = Pool(Generate.model_validate(settings), seeds)
    pool.judge(REQUEST, Answer(render_json(tasks), "stop", "m"))
    return pool


FRUIT = Example("Name three kinds of fruit.", "", "Apple, pear, plum", id="fruit")
NEARLY = Example("Name three kinds of fruits.", "", "Fig, date, lime")
OTHER = Example("Add the numbers up.", "1, 2", "3")


def test_novelty_against_seeds_and_earlier_ones() -> None:
    pool = pooled(NEARLY, OTHER, OTHER, seeds=(FRUIT,))
    assert [row["instruction"] for row in pool.kept] == [OTHER.instruction]
    near, repeat = pool.rejected
    assert (near["reason"], near["meta"]["nearest"]) == (
        "near_duplicate", {"id": "fruit", "score": 0.8},
    )  # fmt: skip
    assert (repeat["reason"], repeat["meta"]["nearest"]) == (
        "repeat", {"id": "g-0-1", "score": 1.0},
    )  # fmt: skip
    assert len(pooled(NEARLY, seeds=(FRUIT,), novelty=0.81).kept) == 1


def test_novelty_of_instruction_and_input() -> None:
    more = Example(OTHER.instruction, "500, 17, 4, 9", "530")
    assert pooled(OTHER, more).reasons == {"repeat": 1}
    assert len(pooled(OTHER, more, novelty_key="instruction+input").kept) == 2


def test_only_exact_repeats_with_novelty_one() -> None:
    shouted = Example(f"  {OTHER.instruction.upper()} ", OTHER.input, OTHER.output)
    pool = pooled(FRUIT, NEARLY, OTHER, shouted, novelty=1, novelty_key="instruction+input")
    assert len(pool.kept) == 3
    assert pool.reasons == {"repeat": 1}


def test_every_candidate_is_in_one_place_with_its_provenance() -> None:
    pool = pooled(FRUIT, Example("Do.", "", "Done"), OTHER, NEARLY, target=2)
    assert pool.candidates == 4 == len(pool.kept) + len(pool.rejected)
    assert pool.reasons == {"too_short": 1, "over_target": 1}
    assert [row["id"] for row in pool.kept] == ["g-0-0", "g-0-2"]
    assert pool.kept[0]["meta"] == {
        "request": 0, "item": 0, "demonstrations": ["a"], "teacher": "m", "finish_reason": "stop",
    }  # fmt: skip
    assert pool.full


def test_saturation_is_a_whole_window_without_yield() -> None:
    pool = Pool(Generate.model_validate({"min_yield": 0.1}), ())
    for n in range(50):
        assert not pool.saturated
        pool.judge(Request(n, 1, (), {}), Answer(render_json([FRUIT]), "stop", "m"))
    assert len(pool.kept) == 1
    assert pool.saturated
    assert pool.recent_yield == 1 / 50
