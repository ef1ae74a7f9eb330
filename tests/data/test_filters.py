"""Every rule rejects what it is for, names itself, and leaves its neighbours alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_filters import KEYWORD_PRESETS, RULES, Filters, Rule
from alpaca_cli.core.settings_generate import Generate
from alpaca_cli.data.filters import count_words, make_filter
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.pool import Answer, Pool
from alpaca_cli.data.procedural import draw, family_names
from alpaca_cli.data.prompts import RULES as PROMPT
from alpaca_cli.data.prompts import render_json
from alpaca_cli.data.seeds import load_seeds


def reason(example: Example, **settings: Any) -> str:
    verdict = make_filter(Filters.model_validate(settings), PROMPT)(example)
    return verdict[0] if verdict else ""


@pytest.mark.parametrize(
    ("example", "settings", "expected"),
    [
        (Example(" ", "", "Done."), {}, "empty_instruction"),
        (Example("Do it.", "", "Done."), {}, "too_short"),
        (Example("Do it now.", "", "Done."), {}, ""),
        (Example("Do it now.", "", "Done."), {"min_words": 4}, "too_short"),
        (Example("word " * 150, "", "Done."), {}, ""),
        (Example("word " * 151, "", "Done."), {}, "too_long"),
        (Example("word " * 200, "", "Done."), {"max_words": 300}, ""),
        (Example("解释光合作用。", "", "植物用光制造糖。"), {}, ""),
        (Example("友谊", "", "朋友之间的感情。"), {}, "too_short"),
        (Example("Add the numbers.", "1 2 3", "6"), {"max_input_words": 2}, "input_too_long"),
        (Example("Add the numbers.", "1 2", "3"), {"max_input_words": 2}, ""),
        (Example("Say it all.", "", "word " * 11), {"max_output_words": 10}, "output_too_long"),
        (Example("Say it all.", "", "One word"), {"min_output_words": 3}, "output_too_short"),
        (Example("Draw a map of Rome.", "", "No."), {"keywords": ["map"]}, "keyword"),
        (Example("Draw a MAP.", "", "No."), {"keywords": ["map"]}, "keyword"),
        (Example("Name a mapping type.", "", "dict"), {"keywords": ["map"]}, ""),
        (Example("Please go to Rome.", "", "No."), {"keywords": ["go to"]}, "keyword"),
        (Example("Explain C++ briefly.", "", "A language."), {"keywords": ["c++"]}, "keyword"),
        (Example("Explain C briefly.", "", "A language."), {"keywords": ["c++"]}, ""),
        (Example("画一张地图。", "", "不行。"), {"keywords": ["地图"]}, "keyword"),
        (Example("Please draw a cat.", "", "No."), {"keywords": "stanford-2023"}, "keyword"),
        (Example("Name a podcast, please.", "", "S-Town"), {"keywords": "stanford-2023"}, ""),
        (
            Example("Name a podcast, please.", "", "S-Town"),
            {"keywords": ["stanford-2023", "podcast"]},
            "keyword",
        ),
        (Example("Write a program, now.", "", "x"), {"openings": ["Write a program"]}, "opening"),
        (Example("Now write a program.", "", "x = 1"), {"openings": ["Write a program"]}, ""),
        (Example("- Name a fruit.", "", "Apple"), {}, "bad_start"),
        (Example(": name a fruit.", "", "Apple"), {}, "bad_start"),
        (Example('"Apple" is a what?', "", "A fruit"), {}, ""),
        (Example('"Apple" is a what?', "", "A fruit"), {"ascii_start": True}, "bad_start"),
        (Example("Épelez le mot.", "pomme", "p, o, m, m, e"), {}, ""),
        (Example("Épelez le mot.", "pomme", "p, o, m, m, e"), {"ascii_start": True}, "bad_start"),
        (Example("Name a fruit, please.", "", ""), {}, "empty_output"),
        (Example("Repeat the words.", "An apple", "An apple "), {}, "answer_repeats_question"),
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
        (Example("Name a fruit, please.", "", "Apple\n5. Instruction: x"), {}, "merged_records"),
        (Example(PROMPT.splitlines()[0], "", "Yes."), {}, "prompt_echo"),
        (Example("Read www.acme.com aloud.", "", "Acme"), {}, ""),
        (Example("Read www.acme.com aloud.", "", "Acme"), {"urls": ["instruction"]}, "url"),
        (Example("Read www.acme.com aloud.", "", "Acme"), {"urls": ["input", "output"]}, ""),
        (Example("Name a site.", "", "See https://a.org/b."), {"urls": ["output"]}, "url"),
        (
            Example("Cite the page of Rae.", "Rae, https://a.org/b", "Rae (https://a.org/b)."),
            {"urls": ["output"]},
            "",
        ),
        (Example("Who is it from?", "From: joe@acme.io", "Joe"), {}, ""),
        (Example("Who is it from?", "From: joe@acme.io", "Joe"), {"personal": True}, "personal"),
        (Example("Who is it from?", "From: joe@acme.io", "Joe"), {"personal": ["card"]}, ""),
        (Example("Who is it from?", "From: joe@example.com", "Joe"), {"personal": True}, ""),
    ],
)  # fmt: skip
def test_rules(example: Example, settings: dict[str, Any], expected: str) -> None:
    assert reason(example, **settings) == expected


def test_the_list_of_the_original() -> None:
    """generate_instruction.py: `blacklist` without "Write a program", which is an opening."""
    assert KEYWORD_PRESETS["stanford-2023"] == (
        "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
        "maps", "draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram",
    )  # fmt: skip
    filters = load_recipe("stanford-2023").generate.filters
    for word in KEYWORD_PRESETS["stanford-2023"]:
        verdict = make_filter(filters)(Example(f"Now please {word} the thing", "", "No."))
        assert verdict == ("keyword", word)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("Don't stop me now.", 4),
        ("naïve — and sure", 4),
        ("写一首诗。", 4),
        ("用 Python 写 3 行。", 5),
    ],
)
def test_words(text: str, words: int) -> None:
    assert count_words(text) == words


# --- switching rules off, and their order ---------------------------------------------------------

BROKEN: list[tuple[Rule, Example, dict[str, Any]]] = [
    ("empty_instruction", Example("", "", "x"), {"min_words": 0}),
    ("empty_output", Example("Name a fruit.", "", ""), {"min_output_words": 0}),
    ("too_short", Example("Name one.", "", "x"), {}),
    ("too_long", Example("word " * 200, "", "x"), {}),
    ("input_too_long", Example("Name a fruit.", "a b", "x"), {"max_input_words": 1}),
    ("output_too_short", Example("Name a fruit.", "", "x"), {"min_output_words": 2}),
    ("output_too_long", Example("Name a fruit.", "", "x y"), {"max_output_words": 1}),
    ("bad_start", Example("- Name a fruit.", "", "x"), {}),
    ("opening", Example("Name a fruit.", "", "x"), {"openings": ["Name"]}),
    ("keyword", Example("Name a fruit.", "", "x"), {"keywords": ["fruit"]}),
    ("prompt_echo", Example("Write 20 new tasks for an AI assistant.", "", "x"), {}),
    ("answer_repeats_question", Example("Name a fruit.", "", "Name a fruit"), {}),
    ("merged_records", Example("Name a fruit.", "", "x\n5. Instruction: y"), {}),
    ("leftover_marker", Example("Name a fruit.", "", "x<|im_end|>"), {}),
    ("placeholder_input", Example("Name a fruit.", "N/A", "x"), {}),
    ("placeholder", Example("Name a fruit.", "", "TODO"), {}),
    ("damaged_text", Example("Name a fruit.", "", "\ufffd"), {}),
    ("link_as_input", Example("Sum up this page.", "https://a.org/b", "x"), {}),
    ("missing_input", Example("Sum up the following text.", "", "x"), {}),
    ("refusal", Example("Name a fruit.", "", "As an AI, I cannot eat."), {}),
    ("unclosed_code", Example("Name a fruit.", "", "```\nx"), {}),
    ("script_mix", Example("Name a fruit.", "", "Яблоко или груша, как угодно тебе"), {}),
    ("url", Example("Name www.a.org.", "", "x"), {"urls": "instruction", "min_words": 2}),
    ("personal", Example("Name the address.", "joe@acme.io", "x"), {"personal": "email"}),
]


@pytest.mark.parametrize(("rule", "example", "settings"), BROKEN, ids=[b[0] for b in BROKEN])
def test_every_rule_can_be_switched_off(
    rule: Rule, example: Example, settings: dict[str, Any]
) -> None:
    assert reason(example, **settings) == rule
    assert reason(example, off=[rule], **settings) == ""


def test_every_rule_is_documented_and_tested() -> None:
    assert tuple(RULES) == get_args(Rule)
    # tests/data/test_language.py has the last one.
    assert [rule for rule, _, _ in BROKEN] + ["language"] == list(RULES)


def test_the_first_broken_rule_in_the_order_of_the_list_is_the_reason() -> None:
    parts = [example for _, example, _ in BROKEN]
    settings = {
        "min_output_words": 2, "max_output_words": 4, "max_input_words": 1, "openings": ["Name"],
        "keywords": ["fruit"], "urls": ["instruction"], "personal": True,
    }  # fmt: skip
    rng = random.Random(3)
    order: list[str] = list(RULES)
    seen: set[str] = set()
    for _ in range(400):
        a, b, c = rng.sample(parts, 3)
        example = Example(a.instruction, b.input, c.output)
        reasons: list[str] = []
        while found := reason(example, off=reasons, **settings):
            reasons.append(found)
        assert reasons == sorted(reasons, key=order.index)
        seen.update(reasons)
    assert len(seen) > 15


def test_a_filter_is_a_pure_function() -> None:
    rows = [example for _, example, _ in BROKEN]
    check = make_filter(Filters(), PROMPT)
    forwards = [check(row) for row in rows]
    backwards = [check(row) for row in reversed(rows)]
    assert forwards == backwards[::-1] == [make_filter(Filters(), PROMPT)(row) for row in rows]


# --- mistakes in a recipe -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ("off: [refusl]", 'r.yaml:1: generate.filters.off.0: .* did you mean "refusal"?'),
        ("keywords: [stanford-2032]", 'no list "stanford-2032", did you mean "stanford-2023"?'),
        ("keywords: ['']", "generate.filters.keywords: an empty phrase"),
        ("openings: [' ']", "generate.filters.openings: an empty phrase"),
        ("language: [english]", '"english" is not one of the codes af am'),
        ("personal: [emails]", 'did you mean "email"?'),
        ("urls: [answer]", "generate.filters.urls.0: "),
        ("min_words: 9, max_words: 8", "min_words 9 is more than max_words 8"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, filters: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"generate: {{filters: {{{filters}}}}}\n", "utf-8")
    with pytest.raises(UsageError, match=message.replace("[", r"\[").replace("?", r"\?")):
        load_recipe(str(path))


def test_settings_are_frozen_and_strict() -> None:
    with pytest.raises(ValidationError):
        Filters.model_validate({"offf": []})
    with pytest.raises(ValidationError):
        Filters().__setattr__("min_words", 3)


# --- good rows ------------------------------------------------------------------------------------


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


# Every rejection was looked at by hand: row -> the rule that is right about it.
LOOKED_AT: dict[str, dict[str, list[int]]] = {
    "alpaca_en_demo.json": {
        "refusal": [44, 68, 81, 96, 118, 186, 224, 240, 265, 276, 408, 433, 503, 527, 609, 666,
                    692, 737, 795, 818, 943],
        "link_as_input": [156, 167, 285, 437, 580, 652, 712, 713],
        "placeholder_input": [37, 185, 366, 515, 575, 979],
        "missing_input": [83, 577, 944],
        "leftover_marker": [762, 822],
        "unclosed_code": [180],
        "answer_repeats_question": [761],
    },
    "code_alpaca_2k.json": {
        "missing_input": [216, 1848, 1974],
        "empty_output": [238, 1860],
        "leftover_marker": [141],
        "answer_repeats_question": [258],
        "placeholder_input": [495],
    },
    "seed_tasks.jsonl": {},
    "user_oriented_instructions.jsonl": {},
}  # fmt: skip


@pytest.mark.parametrize("file", LOOKED_AT)
def test_real_rows_that_are_rejected_deserve_it(real_data: Path, file: str) -> None:
    rejected: dict[str, list[int]] = {}
    for row, example in enumerate(read_examples([real_data / file]), 1):
        if found := reason(example):
            rejected.setdefault(found, []).append(row)
    assert rejected == LOOKED_AT[file]


def test_chinese_rows_pass_as_english_ones_do(real_data: Path) -> None:
    """62 of 1,000 are rejected: refusals, requests for material, English answers."""
    reasons = [reason(example) for example in read_examples([real_data / "alpaca_zh_demo.json"])]
    counts = {name: reasons.count(name) for name in dict.fromkeys(reasons) if name}
    assert counts == {
        "missing_input": 23, "refusal": 26, "leftover_marker": 1, "too_short": 3,
        "script_mix": 7, "unclosed_code": 1, "too_long": 1,
    }  # fmt: skip


# --- the pool: filters, novelty, target -----------------------------------------------------------


def pooled(*tasks: Example, seeds: tuple[Example, ...] = (), **settings: Any) -> Pool:
    pool = Pool(Generate.model_validate(settings), seeds)
    text = render_json(tasks)
    pool.judge(Answer(0, ("a",), 20, text=text, finish_reason="stop", model="m"))
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
        pool.judge(Answer(n, text=render_json([FRUIT]), finish_reason="stop", model="m"))
    assert len(pool.kept) == 1
    assert pool.saturated
    assert pool.recent_yield == 1 / 50
