"""How many faults lint finds: each rule is given real rows with its fault put into them.

A row is used only where the rule finds nothing before, so that it must be the fault that is found.
The share that has to be found is what was measured, rounded down; a rule that is meant to be right
rather than to find everything finds less. Faults are drawn with a fixed seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import row_findings

Plant = Callable[[Example, random.Random], Example | None]

ENGLISH, CHINESE, CODE = "alpaca_en_demo.json", "alpaca_zh_demo.json", "code_alpaca_2k.json"
BOTH = f"{ENGLISH} {CHINESE}"
ROWS = 100  # of a file, for each fault

GERMAN = (
    "Die wichtigste Regel ist, dass jeder Abschnitt nur einen einzigen Gedanken enthält. Wer das "
    "beachtet, schreibt klarer und wird leichter verstanden.",
    "Zuerst sollte man die Zutaten vorbereiten und den Ofen vorheizen. Danach wird der Teig eine "
    "Stunde lang an einem warmen Ort stehen gelassen.",
)
FRENCH = (
    "La règle la plus importante est que chaque paragraphe ne contienne qu'une seule idée. Celui "
    "qui la respecte écrit plus clairement et se fait mieux comprendre.",
    "Il faut d'abord préparer les ingrédients et préchauffer le four. Ensuite, on laisse reposer "
    "la pâte pendant une heure dans un endroit chaud.",
)
SPANISH = (
    "La regla más importante es que cada párrafo contenga una sola idea. Quien la respeta escribe "
    "con más claridad y los lectores lo entienden mejor.",
    "Primero hay que preparar los ingredientes y calentar el horno. Después se deja reposar la "
    "masa durante una hora en un lugar cálido.",
)


def cut_anywhere(example: Example, draw: random.Random) -> Example | None:
    """The output up to a place in its second half."""
    text = example.output
    if len(text) < 400 or "```" in text:
        return None
    cut = text[: draw.randrange(len(text) // 2, len(text) - 10)].rstrip()
    return replace(example, output=cut)


def cut_chinese(example: Example, draw: random.Random) -> Example | None:
    """The same for Chinese, where a letter is a word."""
    text = example.output
    if len(text) < 200 or "```" in text:
        return None
    return replace(example, output=text[: draw.randrange(100, len(text) - 5)].rstrip())


def cut_program(example: Example, draw: random.Random) -> Example | None:
    """An output that is only a program, up to a place in its second half."""
    text = example.output
    if text.count("\n") < 5 or not re.match(r"(?:def|class|import|function|public|#include)", text):
        return None
    return replace(example, output=text[: draw.randrange(len(text) // 2, len(text) - 5)].rstrip())


def unclose(example: Example, draw: random.Random) -> Example | None:
    """The last fence and what follows is gone."""
    head, fence, _ = example.output.rpartition("```")
    return replace(example, output=head) if fence and head.count("```") % 2 else None


def change_result(example: Example, draw: random.Random) -> Example | None:
    """Another digit in the result of an equation between whole numbers."""
    sums = [*re.finditer(r"\d+ ?[-+*×/x] ?\d+ ?= ?(\d+)(?![\d.,]|\w)", example.output)]
    if not sums:
        return None
    found = draw.choice(sums)
    place = draw.randrange(found.start(1), found.end(1))
    digit = draw.choice([d for d in "123456789" if d != example.output[place]])
    return replace(example, output=example.output[:place] + digit + example.output[place + 1 :])


def add_wrong_sum(example: Example, draw: random.Random) -> Example | None:
    """A sentence with a sum in one of the ways that people write them."""
    a, b = draw.randrange(12, 99), draw.randrange(2, 40)
    off = draw.choice([1, 2, 10])
    written = draw.choice(
        [
            f"Together that is {a} + {b} = {a + b + off}.",
            f"This leaves {a + b} - {b} = {a - off}.",
            f"In all, {a} × {b} = {a * b + off} pieces.",
            f"The price is ${a} * {b} = ${a * b + off}.",
            f"Per head: {a * b} / {b} = {a + off}",
            f"{a * 1000:,} + {b * 1000:,} = {(a + b + off) * 1000:,}",
            f"With 50% of {2 * a} = {a + off} we are done.",
            f"({a} + {b}) * 2 = {2 * (a + b) + off}",
            f"{a} apples + {b} apples = {a + b + off} apples",
            f"sum = {a} + {b} + 1 = {a + b + 1 + off}",
        ]
    )
    return replace(example, output=f"{example.output}\n{written}")


def unfence(example: Example, draw: random.Random) -> Example | None:
    """A program between sentences loses its fence."""
    fenced = re.search(r"```\w*\n((?:.*\n){3,}?)```", example.output)
    if not fenced or example.output.count("```") != 2 or len(example.output) < len(fenced[0]) + 30:
        return None
    return replace(example, output=re.sub(r"```\w*\n?", "", example.output))


def answer_in(texts: tuple[str, ...]) -> Plant:
    def plant(example: Example, draw: random.Random) -> Example | None:
        if len(example.instruction) < 40 or re.search(r"translat|language", example.instruction):
            return None
        return replace(example, output=draw.choice(texts))

    return plant


def change_count(example: Example, draw: random.Random) -> Example | None:
    """One item of a numbered list is gone, or there is one more than was asked for."""
    count = re.search(r"\b(three|four|five|ten|\d{1,2})\b", example.instruction)
    numbers = {"three": 3, "four": 4, "five": 5, "ten": 10}
    items = [*re.finditer(r"^(\d{1,2})\. .*$", example.output, re.MULTILINE)]
    if not count or len(items) < 3 or [int(one[1]) for one in items] != [*range(1, len(items) + 1)]:
        return None
    if len(items) != (numbers.get(count[1]) or int(count[1])):
        return None
    if draw.random() < 0.5:
        more = f"\n{len(items) + 1}. Another one that nobody asked for."
        return replace(example, output=example.output[: items[-1].end()] + more)
    return replace(example, output=example.output[: items[-1].start()].rstrip())


def ask_for_length(example: Example, draw: random.Random) -> Example | None:
    words = len(example.output.split())
    if not re.match(r"(?:Write|Describe|Explain|Create|Generate)\b", example.instruction):
        return None
    if not 20 < words < 400 or re.search(r"\d|less|short", example.instruction):
        return None
    bound = draw.choice(["at least {} words", "{} words", "about {} words"])
    asked = f"{example.instruction.rstrip('.')} in " + bound.format(3 * words)
    return replace(example, instruction=asked)


def say_again(example: Example, draw: random.Random) -> Example | None:
    """The output goes on with one of its sentences until the end."""
    sentences = [one for one in re.split(r"(?<=[.!?。]) *", example.output) if len(one) > 25]
    if len(sentences) < 2 or "```" in example.output:
        return None
    again = draw.choice(sentences).strip()
    return replace(example, output=" ".join([again] * draw.randrange(8, 20)))


def escape(example: Example, draw: random.Random) -> Example | None:
    if "\n\n" not in example.output or "`" in example.output:
        return None
    return replace(example, output=example.output.replace("\n", "\\n"))


def html_entities(example: Example, draw: random.Random) -> Example | None:
    if not re.search(r"[\"&]", example.output) or re.search(r"[<>`]", example.output):
        return None
    escaped = example.output.replace("&", "&amp;").replace('"', "&quot;")
    return replace(example, output=escaped)


def mojibake(example: Example, draw: random.Random) -> Example | None:
    try:
        broken = example.output.encode("utf-8").decode("cp1252")
    except UnicodeDecodeError:
        return None
    return replace(example, output=broken) if broken != example.output else None


def with_input(*texts: str) -> Plant:
    def plant(example: Example, draw: random.Random) -> Example | None:
        return None if example.input else replace(example, input=draw.choice(texts))

    return plant


def with_output(*texts: str) -> Plant:
    return lambda example, draw: replace(example, output=draw.choice(texts))


def with_instruction(*texts: str) -> Plant:
    return lambda example, draw: replace(example, instruction=draw.choice(texts), input="")


def merge(example: Example, draw: random.Random) -> Example | None:
    number = draw.randrange(2, 20)
    second = draw.choice(
        [
            f"\n##\n{number}. Instruction: Name a bird.\n{number}. Input:\n{number}. Output: Wren",
            "\n\nInstruction: Name a bird.\nOutput: A wren.",
            '"}, {"instruction": "Name a bird.", "output": "A wren.',
        ]
    )
    return replace(example, output=example.output + second)


def mark(example: Example, draw: random.Random) -> Example | None:
    marks = ["<|im_end|>", "\n###", " </s>", "\n### Instruction:\nMore", "[/INST]", "<|eot_id|>"]
    return replace(example, output=example.output + draw.choice(marks))


def label(example: Example, draw: random.Random) -> Example | None:
    if not example.input or "utput" in example.input:
        return None
    return replace(example, input=f"{draw.choice(['Input: ', 'input:', '输入：'])}{example.input}")


def blank_input(example: Example, draw: random.Random) -> Example | None:
    """What the instruction points to is gone."""
    if not re.search(r"\b(?:the following|below)\b", example.instruction) or not example.input:
        return None
    return replace(example, input="")


def blank_code(example: Example, draw: random.Random) -> Example | None:
    pointer = r"\b(?:this|the following|the given|the below)\b.*\b(?:code|function|program|snippet)"
    if not re.search(pointer, example.instruction) or not re.search(r"[(){};=]", example.input):
        return None
    return replace(example, input="")


def answer_in_words(example: Example, draw: random.Random) -> Example | None:
    if not re.match(r"(?:Write|Create) an? .*\b(?:program|function|script)\b", example.instruction):
        return None
    told = [
        "A program can do this by going through the list once and keeping the largest number.",
        "The answer is 42",
        "First read the file, then count the lines. Print the count at the end.",
    ]
    return replace(example, output=draw.choice(told))


def echo(example: Example, draw: random.Random) -> Example | None:
    if len(example.input.split()) < 3:
        return None
    return replace(example, output=draw.choice([example.input, example.instruction]))


def cite_page(example: Example, draw: random.Random) -> Example | None:
    if "http" in example.output or "```" in example.output:
        return None
    page = draw.choice(
        [
            "https://www.nytimes.com/2021/03/05/science/moon-dust.html",
            "https://hbr.org/2019/07/how-to-listen",
            "www.healthline.com/nutrition/10-benefits-of-tea",
        ]
    )
    return replace(example, output=f"{example.output}\n\nRead more at {page}.")


REFUSALS = (
    "I'm sorry, but I cannot help with that.",
    "As an AI language model, I do not have personal opinions on this.",
    "Unfortunately, I am unable to provide this information.",
    "I'm sorry, but as an AI I can't browse the internet.",
    "As a language model, I cannot see pictures.",
)
LINK = "https://www.bbc.com/news/world-12345678"
PAGES = (
    f"Summarize the article at {LINK}.",
    f"Read {LINK} and list its main points.",
    f"What does this page say about tea? {LINK}",
)
NO_INPUT = ("No input", "N/A", "<noinput>", "noinput", "(no input)", "Not applicable", "none")
NO_OUTPUT = ("N/A", "<No output>", "No output", "<noinput>", "Not applicable.", "[no answer]")
FILLERS = ("...", "TODO", "Lorem ipsum dolor sit amet.", "[Your answer]")
MEDIA = (
    "Create a graphic or logo that visually represents courage.",
    "Draw a picture of a cat on a roof.",
    "Design a poster for the school play.",
    "Generate an image of a sunset over the sea.",
    "Make a short video about recycling.",
    "Record an audio clip of rain.",
)
ATTACHMENTS = (
    "Describe the following image.",
    "What is the man in this picture doing?",
    "Transcribe the attached audio file.",
    "Caption the photo below.",
    "Classify the shape in the given image.",
)
LIVE = (
    "What is the current temperature in Rome?",
    "Find today's weather forecast.",
    "What time is it?",
    "Search the web for good hotels in Oslo.",
    "What are the latest news headlines?",
    "Tell me the current stock price of Acme.",
)
LONG_ANSWER = " ".join(f"number{number}" for number in range(2001))
CHINESE_ANSWER = "这是一个很长的回答，里面没有一个英文单词，大家都看得懂。"

# Rule (and another that says the same), fault, files, and the share that is found at least.
FAULTS: list[tuple[str, str, Plant, str, float]] = [
    ("truncated-output", "unclosed-code", cut_anywhere, ENGLISH, 0.65),
    ("truncated-output", "unclosed-code", cut_chinese, CHINESE, 0.50),
    ("truncated-output", "", cut_program, CODE, 0.60),
    ("unclosed-code", "", unclose, ENGLISH, 1.00),
    ("wrong-arithmetic", "", change_result, BOTH, 0.65),
    ("wrong-arithmetic", "", add_wrong_sum, ENGLISH, 0.95),
    ("wrong-arithmetic", "", add_wrong_sum, CHINESE, 1.00),
    ("unfenced-code", "", unfence, BOTH, 0.70),
    ("wrong-language", "script-mix", answer_in(GERMAN), ENGLISH, 1.00),
    ("wrong-language", "script-mix", answer_in(FRENCH), ENGLISH, 0.95),
    ("wrong-language", "script-mix", answer_in(SPANISH), ENGLISH, 0.90),
    ("script-mix", "wrong-language", with_output(CHINESE_ANSWER), ENGLISH, 1.00),
    ("wrong-count", "", change_count, ENGLISH, 0.80),
    ("short-output", "", ask_for_length, ENGLISH, 0.95),
    ("repeated-text", "", say_again, ENGLISH, 0.90),
    ("repeated-text", "", say_again, CHINESE, 0.70),
    ("escaped-text", "", escape, ENGLISH, 0.95),
    ("escaped-text", "", html_entities, ENGLISH, 0.90),
    ("damaged-text", "", mojibake, ENGLISH, 1.00),
    ("placeholder-input", "leftover-marker", with_input(*NO_INPUT), ENGLISH, 0.95),
    ("placeholder-output", "leftover-marker", with_output(*NO_OUTPUT), ENGLISH, 0.95),
    ("placeholder", "", with_output(*FILLERS), ENGLISH, 1.00),
    ("link-as-input", "", with_input(LINK, "www.example.org/page"), ENGLISH, 0.90),
    ("link-to-open", "", with_instruction(*PAGES), ENGLISH, 1.00),
    ("invented-link", "", cite_page, ENGLISH, 0.90),
    ("merged-records", "", merge, ENGLISH, 0.95),
    ("leftover-marker", "", mark, ENGLISH, 1.00),
    ("field-label", "", label, ENGLISH, 1.00),
    ("missing-input", "", blank_input, ENGLISH, 0.65),
    ("missing-code", "missing-input", blank_code, CODE, 0.85),
    ("no-code", "", answer_in_words, CODE, 0.60),
    ("answer-repeats-question", "", echo, ENGLISH, 0.95),
    ("refusal", "", with_output(*REFUSALS), ENGLISH, 0.90),
    ("asks-for-media", "", with_instruction(*MEDIA), ENGLISH, 0.90),
    ("missing-attachment", "missing-input", with_instruction(*ATTACHMENTS), ENGLISH, 1.00),
    ("needs-live-facts", "", with_instruction(*LIVE), ENGLISH, 0.95),
    ("empty-output", "", with_output("", "  \n"), ENGLISH, 1.00),
    ("empty-instruction", "", with_instruction("", " "), ENGLISH, 1.00),
    ("short-instruction", "", with_instruction("Colour", "Why?"), ENGLISH, 1.00),
    ("long-instruction", "", with_instruction("Explain in detail, please, " * 40), ENGLISH, 1.00),
    ("long-output", "", with_output(LONG_ANSWER), ENGLISH, 1.00),
]


@cache
def rows_of(folder: Path, files: str) -> tuple[Example, ...]:
    return tuple(read_examples([folder / name for name in files.split()]))


def share_found(rule: str, also: str, plant: Plant, rows: tuple[Example, ...]) -> tuple[int, int]:
    """Rows with the fault, and how many of them were found."""
    draw = random.Random(f"{rule} {getattr(plant, '__name__', '')}")
    wanted = {rule, also} - {""}
    planted = found = 0
    for example in draw.sample(rows, len(rows)):
        faulty = plant(example, draw)
        if faulty is None or wanted & {name for name, _ in row_findings(example)}:
            continue
        planted += 1
        found += bool(wanted & {name for name, _ in row_findings(faulty)})
        if planted == ROWS:
            break
    return planted, found


@pytest.mark.parametrize(
    ("rule", "also", "plant", "files", "at_least"),
    FAULTS,
    ids=[f"{rule}-{number}" for number, (rule, *_) in enumerate(FAULTS)],
)
def test_faults_are_found(
    real_data: Path, rule: str, also: str, plant: Plant, files: str, at_least: float
) -> None:
    if rule == "wrong-language":
        pytest.importorskip("py3langid")
    planted, found = share_found(rule, also, plant, rows_of(real_data, files))
    assert planted >= 10
    assert found >= at_least * planted
