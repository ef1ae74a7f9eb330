"""Marks, second tasks and lines of the prompt are found; what was asked for stays."""

from __future__ import annotations

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.leftovers import leftover_marker, merged_record, prompt_echo, prompt_lines


@pytest.mark.parametrize(
    ("question", "text", "label"),
    [
        ("Add one and two.", "3\n7. Instruction: Add two and three.", "7. Instruction:"),
        ("Add one and two.", "3\n**7. Instruction:** Add more.", "**7. Instruction:"),
        ("Add one and two.", "3\n\n7. Input:\n2 and 3\n7. Output:\n5", "7. Output:"),
        ("Add one and two.", "3\nInstruction: Name a fruit.\nOutput: Apple", "Instruction:"),
        (
            "Add one and two.",
            "3\n## Instruction:\nName one.\n## Response:\nPear",
            "## Instruction:",
        ),
        ("Add one.", '2"}, {"instruction": "Name one.", "output": "Pear', '{"instruction": "'),
        ("Add one.", '{"instruction": "Name one.", "output": "x"}', '{"instruction": "'),
    ],
)
def test_a_second_task_in_a_field(question: str, text: str, label: str) -> None:
    assert merged_record(text, question) == label


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Describe a computer.", "1. Input: a key\n2. Output: a letter"),
        ("Describe a computer.", "Output: what comes out\nInstruction: what it is told"),
        ("Write one JSON object.", '{"instruction": "Name a fruit.", "output": "Apple"}'),
        ("Show a prompt template.", "Instruction: {x}\nInput: {y}\nOutput: {z}"),
        ("Explain each line of assembly.", "Instruction: ADD R1, R2\nOutput: the sum"),
        ("Explain each CPU instruction.", "Instruction: NOP\nOutput: nothing"),
        ("Write a recipe.", "Instructions:\n1. Boil.\n2. Serve."),
        ("Explain a function.", "Input: a list\nOutput: its length"),
    ],
)
def test_labels_that_belong_there(question: str, text: str) -> None:
    assert merged_record(text, question) == ""


@pytest.mark.parametrize(
    "text",
    [
        "3\n### Instruction:\nAdd",
        "3\n### Response:\n4",
        "### Output:\n3",
        "## Input: x",
        "### 输入：\n3",
        "3\n###",
        "3<|im_end|>",
        "<|eot_id|>3",
        "[INST] Add. [/INST]",
        "<<SYS>>Be kind.<</SYS>>",
        "It is 3. </s>",
        "<s>It is 3.",
        "3<end_of_turn>",
        "a <noinput> b",
    ],
)
def test_marks(text: str) -> None:
    assert leftover_marker(text)


@pytest.mark.parametrize(
    "text",
    [
        "print(1 + 2)\n\n## Output:\n3",
        "Run it.\n\n### Output:\n3",
        "####\n# Title\n####",
        "### Ingredients\n- salt",
        "<s>wrong</s>",
        "a <b> c",
        "if (a <| b |> c)",
        "输入：三个数\n输出：和",
    ],
)
def test_no_marks(text: str) -> None:
    assert leftover_marker(text) == ""


PROMPT = """\
You write tasks for an assistant that answers in text.
Rules for the tasks:
1. Every task must be unlike all of the others in {{tasks}} tasks that you write for us here.
- Never refuse inside an output, and never mention a model.
请用中文写出二十个互不相同的任务，并且给出答案。
"""


def test_lines_of_a_prompt() -> None:
    assert prompt_lines(PROMPT) == (
        "You write tasks for an assistant that answers in text.",
        "Every task must be unlike all of the others in",
        "tasks that you write for us here.",
        "Never refuse inside an output, and never mention a model.",
        "请用中文写出二十个互不相同的任务，并且给出答案。",
    )


def test_a_line_of_the_prompt_in_any_field() -> None:
    lines = prompt_lines(PROMPT)
    echo = "4. Never refuse inside an output, and never mention a model."
    for example in (Example(echo, "", "x"), Example("x", echo, "x"), Example("x", "", echo)):
        assert prompt_echo(example, lines) == echo.removeprefix("4. ")
        assert prompt_echo(example, ()) == ""
    assert prompt_echo(Example("Rules for the tasks:", "", "None."), lines) == ""


@pytest.mark.parametrize(
    ("instruction", "echo"),
    [
        ("Write 20 new training tasks for an AI assistant.", True),
        ("Come up with a set of 20 diverse task instructions.", True),
        ("Write 5 new tasks in the same form, different from all of the above.", True),
        ("Generate several diverse instructions to evaluate a language model.", True),
        ("Write a list of tasks for my assistant, who starts on Monday.", False),
        ("Write instructions for a new assistant in our shop.", False),
        ("Generate ten training examples for a classifier of birds.", False),
        ("List five different tasks that a virtual assistant can do.", False),
        ("Create a list of new tasks for the team, different for each day.", False),
        ("Write a plan to train a language model on new data.", False),
    ],
)
def test_the_task_to_write_tasks(instruction: str, echo: bool) -> None:
    assert bool(prompt_echo(Example(instruction, "", "x"), ())) == echo
