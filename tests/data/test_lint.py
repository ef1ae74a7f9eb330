"""Each rule finds what it names, and leaves ordinary data alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import Finding, lint
from alpaca_cli.data.seeds import load_seeds

GOOD = Example("Name three primary colours.", "", "Red, yellow and blue.", id="good")


def rules(*examples: Example) -> list[str]:
    return [found.rule for found in lint(examples)]


def question(instruction: str, input: str = "", output: str = "Red and blue.") -> Example:
    return Example(instruction, input, output)


def test_a_good_example_has_no_findings() -> None:
    assert lint([GOOD]) == []


def test_a_finding_names_row_id_rule_and_reason() -> None:
    assert lint([GOOD, Example("Say nothing at all.", "", " \n", id="x-7")]) == [
        Finding(2, "x-7", "empty-output", "error", "the output is empty")
    ]


def test_an_empty_instruction_is_an_error() -> None:
    assert rules(question("  ")) == ["empty-instruction"]


def test_a_duplicate_instruction_names_the_first_row() -> None:
    again = Example("name three  PRIMARY colours.", "", "Others.")
    other = Example(GOOD.instruction, "Only warm ones.", "Red and yellow.")
    found = lint([GOOD, question("Count to two."), again, other])
    assert [(one.row, one.rule, one.other_row) for one in found] == [
        (3, "duplicate-instruction", 1),
        (4, "duplicate-instruction", 1),
    ]
    assert found[0].reason == "the same instruction as row 1 (good), and the same input"
    assert found[1].reason == "the same instruction as row 1 (good), with another input"


def test_a_near_duplicate_names_the_nearest_row_and_the_score() -> None:
    rows = [
        question("Write a short poem about the sea in spring."),
        question("Write a short poem about the sea in winter."),
    ]
    (found,) = lint(rows)
    assert (found.rule, found.row, found.other_row) == ("near-duplicate-instruction", 2, 1)
    assert found.reason == "ROUGE-L 0.889 with the instruction of row 1"
    assert lint(rows, near_duplicate=0.9) == []


def test_near_duplicates_in_other_scripts_count() -> None:
    found = rules(
        question("列出五个关于春天的词语", output="花"), question("列出五个关于秋天的词语")
    )
    assert "near-duplicate-instruction" in found


@pytest.mark.parametrize(
    ("example", "rule"),
    [
        (question("Sort these words.", "b a", "b a"), "answer-repeats-question"),
        (question("What is a noun?", "", "What is a noun?"), "answer-repeats-question"),
        (question("Add one and two.", "", "3\n### Instruction:\nAdd"), "leftover-marker"),
        (question("Add one and two.", "", "3\n7. Instruction: Add"), "merged-records"),
        (question("Add one.", "", '2"}, {"instruction": "Add", "output": "3'), "merged-records"),
        (question("Add one and two.", "", "3<|im_end|>"), "leftover-marker"),
        (question("Add one and two.", "", "It is 3. </s>"), "leftover-marker"),
        (question("Add two numbers.", "1 and 2\n<noinput>", "3"), "leftover-marker"),
        (question("Add one and two.", "<noinput>", "3"), "placeholder-input"),
        (question("[INST] Add one and two. [/INST]", "", "3"), "leftover-marker"),
        (question("Translate [insert sentence here]."), "placeholder"),
        (question("Write an advert.", "", "Lorem ipsum dolor sit amet."), "placeholder"),
        (question("Write a short story.", "", "TODO"), "placeholder"),
        (question("Write a short story.", "", "<your answer>"), "placeholder"),
        (question("Name a colour.", "N/A"), "placeholder-input"),
        (question("Name a colour.", "No input."), "placeholder-input"),
        (question("说出一种颜色。", "无", "红色"), "placeholder-input"),
        (question("Summarise this page.", "https://example.com/news/1"), "link-as-input"),
        (question("Sort the words.", "b a", "Sort the words:\nb a"), "answer-repeats-question"),
        (question("Write a short story.", "", "xxxx"), "placeholder"),
        (question("Write a short story.", "", "..."), "placeholder"),
        (
            question("Sum up the text.", "", "Sorry, but you did not give the text."),
            "missing-input",
        ),
        (question("Who won today?", "", "As an AI language model, I cannot know."), "refusal"),
        (question("Who won today?", "", "I'm sorry, but I can't provide that."), "refusal"),
        (question("谁赢了？", "", "对不起，我无法回答。"), "refusal"),
        (question("Write a loop.", "", "```python\nfor x in y:"), "unclosed-code"),
        (question("Summarise the following article."), "missing-input"),
        (question("Correct the sentence below."), "missing-input"),
        (question("总结以下文章。", output="好"), "missing-input"),
        (question("Colour"), "short-instruction"),
        (question("word " * 151), "long-instruction"),
        (question("Count to many.", "", "one " * 2001), "long-output"),
        (question("Describe a cafÃ© in Paris."), "damaged-text"),
        (question("Quote it.", "", "It isnâ€™t here."), "damaged-text"),
        (question("Quote it.", "", "It isn\ufffdt here."), "damaged-text"),
        (question("Quote it.", "", "It is\x00 here."), "damaged-text"),
        (question("列出四张专辑。", "", "Here is a list of four albums for you"), "script-mix"),
        (question("Name a colour.", "", "Красный, жёлтый или голубой цвет"), "script-mix"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_rule_finds_its_kind(example: Example, rule: str) -> None:
    assert rules(example) == [rule]


@pytest.mark.parametrize(
    "example",
    [
        question("Rewrite in capitals: café, naïve, œuvre, 'Ärger', “déjà vu”", "", "CAFÉ"),
        question("Translate into Russian.", "A red house.", "Красный дом на высокой горе"),
        question("用英文说谢谢。", "", "Thank you very much, my dear friend"),
        question("写一段打印的脚本", "", "for x in range(10):\n    print(x); y = {x}"),
        question("Summarise the following article.", "Rain fell."),
        question("Add the following numbers: 1, 2 and 3.", "", "6"),
        question('Explain the following phrase "carpe diem".'),
        question("Answer the following question. Who wrote Faust?", "", "Goethe"),
        question("Name a number below ten.", "", "7"),
        question("Write a formal letter.", "", "Dear [Name],\nYours, [Your Name]"),
        question("Complete the code.", "def f():\n    # TODO: add", "def f():\n    return 1"),
        question("Strike it out in HTML.", "wrong", "<s>wrong</s>"),
        question("Describe a computer.", "", "1. Input: a key\n2. Output: a letter"),
        question("Decline an invitation.", "", "I'm sorry, but I can't make it on Friday."),
        question("Get the domain of the link.", "https://example.com/a", "example.com"),
        question("Is there none?", "none of them", "No."),
        question("Divide it into lines.", "a b", "a\nb"),
        question("Write every vowel in capitals.", "one two", "OnE twO"),
        question("Correct the sentence if needed.", "He is here.", "He is here."),
        question("Find the largest number.", "7", "7"),
        question("Name the opposite of the given word.", "empty", "full"),
        question("Write 30 in Roman numerals.", "", "XXX"),
        question("Say everything in Spanish.", "", "Todo"),
        question("Write the letter S in Morse code.", "", "..."),
        question("Write a template with placeholders such as [insert date].", "", "On [date]"),
        question("Explain this mapper.", '<insert id="a" kind="b">x</insert>', "It inserts."),
        question("Explain code fences.", "", "Use ``` to open a block."),
        question("Add two numbers in Python.", "", "print(1 + 2)\n\n## Output:\n3"),
    ],
    ids=lambda example: example.instruction[:30],
)
def test_ordinary_rows_pass(example: Example) -> None:
    assert rules(example) == []


def test_the_two_pairs_of_the_self_instruct_seeds(real_data: Path) -> None:
    found = lint(read_examples([real_data / "seed_tasks.jsonl"]))
    assert [(one.rule, one.row, one.other_row) for one in found] == [
        ("near-duplicate-instruction", 75, 48),
        ("near-duplicate-instruction", 114, 78),
    ]
    assert "0.824" in found[0].reason
    assert "seed_task_47" in found[0].reason


@pytest.mark.parametrize(
    ("file", "at_most"),
    [
        ("user_oriented_instructions.jsonl", 0.02),
        # Of these, 21 and 26 rows refuse, and 3 and 23 ask for what they were not given.
        ("alpaca_en_demo.json", 0.06),
        ("alpaca_zh_demo.json", 0.08),
        ("code_alpaca_2k.json", 0.01),
    ],
)
def test_real_data_is_not_flooded(real_data: Path, file: str, at_most: float) -> None:
    examples = read_examples([real_data / file])
    found = lint(examples)
    assert 0 < len({one.row for one in found}) <= at_most * len(examples)
    errors = Counter(one.rule for one in found if one.severity == "error")
    assert errors == ({"empty-output": 2} if file.startswith("code") else {})


def test_the_builtin_seeds_are_clean() -> None:
    assert lint(load_seeds("builtin")) == []
