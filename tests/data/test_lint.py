"""Each rule finds what it names, and leaves ordinary data alone."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from types import ModuleType

import pytest

from alpaca_cli.core import settings_filters
from alpaca_cli.core.records import Example
from alpaca_cli.data import lint as lint_module
from alpaca_cli.data import lint_content
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import RULES, Finding, by_rule, lint
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
        (question("Count to many.", "", " ".join(map(str, range(2001)))), "long-output"),
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


def test_the_builtin_seeds_are_clean() -> None:
    assert lint(load_seeds("builtin")) == []


def yielded_rules(module: ModuleType) -> set[str]:
    """The rules that the source of a module yields, each with its reason."""
    nodes = ast.walk(ast.parse(inspect.getsource(module)))
    pairs = [node.value for node in nodes if isinstance(node, ast.Yield)]
    names = [pair.elts[0] for pair in pairs if isinstance(pair, ast.Tuple)]
    return {str(name.value) for name in names if isinstance(name, ast.Constant)}


def test_every_rule_says_what_it_looks_for() -> None:
    content = yielded_rules(lint_content)
    assert yielded_rules(lint_module) | content == set(RULES)
    assert {rule.replace("-", "_") for rule in content} <= set(settings_filters.RULES)
    for about in RULES.values():
        assert 10 < len(about) <= 90
        assert "\n" not in about


def test_findings_by_rule() -> None:
    rows = [
        GOOD,
        question("Say nothing at all.", "", ""),
        question("name three  PRIMARY colours."),
        question("Name a colour.", "N/A", "N/A"),
        question("Name a fruit.", "N/A"),
        *[question(f"Write {word} good lines.", "", "") for word in range(6)],
    ]
    rules, together = by_rule(rows, lint(rows))
    assert set(rules) == set(RULES)
    assert list(rules)[:2] == ["empty-output", "empty-instruction"]
    counts = [rule.count for rule in rules.values() if rule.severity == "warning"]
    assert counts == sorted(counts, reverse=True)
    assert (rules["empty-output"].count, len(rules["empty-output"].rows)) == (7, 5)
    assert rules["empty-output"].share == round(7 / 11, 6)
    assert rules["placeholder-input"].count == 2
    assert rules["refusal"].count == 0
    assert rules["refusal"].rows == []
    assert rules["refusal"].about == RULES["refusal"]
    (repeat,) = rules["duplicate-instruction"].rows
    assert (repeat.row, repeat.text) == (3, "name three PRIMARY colours.")
    assert repeat.note == "the same instruction as row 1 (good), and the same input"
    assert together.errors == 7
    assert together.warnings == sum(counts)
    assert together.rows == len({one.row for one in lint(rows)})
    assert together.rows_share == round(together.rows / 11, 6)


def test_a_row_counts_once_for_a_rule() -> None:
    both = question("Translate [insert a word].", "[paste it here]")
    found = lint([both])
    assert [one.rule for one in found] == ["placeholder", "placeholder"]
    rules, together = by_rule([both], found)
    assert (rules["placeholder"].count, together.warnings) == (1, 1)


def test_nothing_at_all() -> None:
    rules, together = by_rule([], lint([]))
    assert set(rules) == set(RULES)
    assert (together.errors, together.warnings, together.rows, together.rows_share) == (0, 0, 0, 0)


def test_a_near_duplicate_is_like_a_row_that_stays() -> None:
    rows = [
        question("Write a short poem about the sea in spring."),
        question("Write a short poem about the sea in winter."),
        question("Write a long poem about the sea in winter."),
        question("Write a long poem about the hills in winter."),
    ]
    # The third is like the second, which is to go; the fourth is like the third only.
    found = lint(rows, near_duplicate=0.75)
    assert [(one.row, one.other_row) for one in found] == [(2, 1), (3, 1)]
