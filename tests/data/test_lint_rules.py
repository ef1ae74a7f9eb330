"""The rules that only point a person at a row: what each finds, and what it leaves alone."""

from __future__ import annotations

import time

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.lint import lint

LONG = (
    "The first paragraph says what the text is about, and it ends as a sentence should. It has a "
    "second sentence, which is a little longer than the first one and ends as well.\n\n"
    "The second paragraph goes on with the same matter and says more about it. It ends, too, and "
    "nobody who reads it would think that something was missing from it.\n\n"
)
ITEMS = "1. Eat well: Fruit is good for you.\n2. Sleep: Eight hours are enough.\n"
PROGRAM = "def add(a, b):\n    total = a + b\n    return total\n\nprint(add(1, 2))\n"
PAGE = "<html>\n<head>\n<title>A</title>\n</head>\n<body>\n<p>One</p>\n<p>Two</p>\n"

CHINESE = (
    "这一段话说的是各种各样的事情，也说了别的许多东西，真的很多，多得很。"
    "接着又讲了昨天的天气、今天的早饭和明天的会议，还有一点家里的小事。"
    "到这里为止，前面的几句话都已经好好地说完了，一个字也没有少。"
)


def row(instruction: str, input: str = "", output: str = "Red and blue.") -> Example:
    return Example(instruction, input, output)


def answer(output: str, instruction: str = "Describe it.") -> Example:
    return Example(instruction, "", output)


@pytest.mark.parametrize(
    ("rule", "example"),
    [
        ("truncated-output", answer(LONG + "The third paragraph is only begun. While the")),
        ("truncated-output", answer(LONG + "The third paragraph is begun and it is not")),
        ("truncated-output", answer(LONG + "This one ends in the middle because of the")),
        ("truncated-output", answer(LONG + "This one has an open bracket (see the")),
        ("truncated-output", answer(ITEMS + "3.")),
        ("truncated-output", answer(ITEMS + "3. Move:")),
        ("truncated-output", answer(PAGE)),
        ("truncated-output", answer(PROGRAM + "print(add(1, (2 +\n    3")),
        ("truncated-output", answer(PROGRAM + "for number in range(10):")),
        ("truncated-output", answer(CHINESE + "然后又开始说另一句而", "描述一下。")),
        ("wrong-language", answer("La mer est calme ce soir et le vent souffle doucement du sud.",
                                  "Describe the sea on a calm evening.")),
        ("unfenced-code", answer(f"This program adds two numbers.\n\n{PROGRAM}")),
        ("unfenced-code", answer(f"{PROGRAM}\nThe function returns the sum of the two numbers.")),
        ("unfenced-code", answer("Use two queries:\n\nSELECT 1 FROM b;\nSELECT 2 FROM b;\n\n"
                                 "They list every number there is in the table.")),
        ("no-code", answer("The sum is 7.", "Write a Python program to add two numbers.")),
        ("missing-code", answer("x = 1", "Modify the following code to log 3 numbers.")),
        ("missing-code", answer("x = 1", "Explain what this code does.")),
        ("wrong-arithmetic", answer("He has 3 + 4 = 8 apples.")),
        ("wrong-count", answer("1. Red\n2. Blue\n3. Green\n4. Pink", "List five colours.")),
        ("wrong-count", answer("1. 红\n2. 蓝\n3. 绿", "列出两种颜色。")),
        ("short-output", answer("Tea is good.", "Write an essay about tea in at least 200 words.")),
        ("short-output", answer("茶很好。", "写一篇关于茶的文章，不少于300字的。")),
        ("repeated-text", answer("I like tea a lot, and you do too. " * 9)),
        ("repeated-text", answer("我很喜欢喝茶，你也喜欢。" * 12, "说点什么。")),
        ("escaped-text", answer("First line of it.\\nSecond line of it.\\nThird line.")),
        ("escaped-text", answer("Salt &amp; pepper are on the table.")),
        ("escaped-text", answer("She said \\u201cno\\u201d to all of it.")),
        ("field-label", row("Sort the words.", "Input: b a", "a b")),
        ("field-label", row("给句子分类。", "输入：今天很好。", "陈述句")),
        ("field-label", row("Instruction: Name a colour.")),
        ("field-label", row("Name a colour.", "", "Output: red")),
        ("placeholder-output", row("Create a melody.", "", "<No Output>")),
        ("placeholder-output", row("Name a colour.", "", "N/A")),
        ("placeholder-output", row("说出一种颜色。", "", "不适用")),
        ("link-to-open", row("Summarize the article at https://www.bbc.com/news/world-1.")),
        ("link-to-open", row("Outline this page.", "Page: https://example.com/a")),
        ("invented-link", answer("Read https://www.nytimes.com/2021/moon.html about it.")),
        ("asks-for-media", row("Draw a picture of a cat.")),
        ("asks-for-media", row("Create a graphic or logo that represents courage.")),
        ("asks-for-media", row("设计一张关于网络安全的海报。", "", "蓝色的背景")),
        ("missing-attachment", row("Classify the shape by geometry.", "<Picture Attached>")),
        ("missing-attachment", row("Describe it.", "![a cat](http://a.b/c.png)")),
        ("missing-attachment", row("Transcribe the attached recording.")),
        ("missing-attachment", row("Say what it shows.", "holiday.jpg")),
        ("needs-live-facts", row("What is the current temperature in Rome?")),
        ("needs-live-facts", row("找到今天纽约的天气预报。", "", "晴天")),
    ],
)  # fmt: skip
def test_each_rule_finds_its_kind(rule: str, example: Example) -> None:
    if rule == "wrong-language":
        pytest.importorskip("py3langid")
    assert [one.rule for one in lint([example])] == [rule]


@pytest.mark.parametrize(
    "example",
    [
        answer(LONG + "The third paragraph is as whole as the others."),
        answer(LONG + "Yours sincerely, Jane Miller"),
        answer(LONG + "It was said by Dr. Jane Miller"),
        answer(LONG + "Read it and tell me. #tea #morning"),
        answer(LONG + "The colours are:\n- red\n- blue"),
        answer("The chill, worming in\nShock, pleasure, bursting within\nSummer tongue awakes"),
        answer("Looking forward to seeing you,"),
        answer(ITEMS + "3. Move: Walk a little."),
        answer("1. Java\n2. Python\n3. C++"),
        answer("Colours of the\nrainbow and of the", "Complete the line."),
        answer(PAGE + "</body>\n</html>", "Write a page."),
        answer("Use <html> to begin a page.", "How does a page begin?"),
        answer(PROGRAM, "Write a program."),
        answer("def gcd(x, y):", "Write the signature of a function."),
        answer("s = '('\nt = 1\nprint(s) # (a comment\n", "Write a program."),
        answer("^(?=.*[a-z])(?=.*[(]).{8,}$", "Write a regular expression."),
        answer("La mer est calme ce soir et le vent souffle doucement du sud.",
               "Translate into French: the sea is calm tonight."),
        answer(f"This program adds two numbers.\n\n```python\n{PROGRAM}```"),
        answer("The angle is found so.\n\nAB = sqrt(8) = 2.83\ncos(ABC) = (a + b) / c\nIt is 60."),
        answer("Use print(x) to see a value.\nThe value is then on the screen."),
        answer("# Adds two numbers\n" + PROGRAM, "Write a program."),
        answer('"""\nThis program adds two numbers.\n"""\n' + PROGRAM, "Write a program."),
        answer("SELECT 1", "Write a query in SQL."),
        answer("Fade in. A man enters.", "Write a script for a short film."),
        answer("It adds numbers.", "Explain what this code does: print(1 + 2)"),
        answer("1. Red\n2. Blue\n3. Green", "List at least two colours."),
        answer("1. Red\n2. Blue\n3. Green", "List three colours."),
        answer("1. Red\n2. Blue\n3. Green\n1. Tea\n2. Milk", "List three colours and two drinks."),
        answer("3.14, 2.5, 1.0", "Give three numbers."),
        answer("Tea is good.", "Write a note on tea in at most 200 words."),
        answer("I like tea, and you do too. " * 9, "Write a song with a refrain."),
        answer("<tr><td>1</td></tr>\n" * 12, "Write a table in HTML."),
        answer("a & b, C:\\new folder, 5 < 6"),
        answer("Use &amp; for it.", "Which HTML entity is the sign of and?"),
        row("What is the output of print(1)?", "", "Output: 1"),
        row("Convert the pseudocode.", "Input: n\nOutput: n + 1", "n = n + 1"),
        row("Sort the words.", "inputs are slow", "are inputs slow"),
        row("Is there an input?", "", "N/A means that there is none."),
        row("Classify the value.", "The value is n/a", "N/A"),
        row("What is the opposite of full?", "", "empty"),
        row("Write a request with curl to https://www.example.com/a", "", "curl -L https://a.b"),
        row("Extract the domain.", "Link: https://www.example.com/a", "example.com"),
        answer("See https://www.nytimes.com/2021/moon.html.", "Give me a link to an article."),
        answer("The shop is at www.acme.com.", "Where can I buy tea?"),
        answer("```\nfetch('https://api.acme.com/v1/tea')\n```", "How do I call it?"),
        row("Draw a picture of a cat in ASCII.", "", "=^.^="),
        row("Create an image with Python.", "", "import turtle"),
        row("Write a caption for a photo of a cat.", "", "Cat."),
        row("Generate a title for a video about tea."),
        row("Create a list of images that fit."),
        row("Draw a conclusion from the facts."),
        row("Rename the file.", "holiday.jpg", "beach.jpg"),
        row("Describe the following painting.", "Mona Lisa, by Leonardo da Vinci"),
        row("Explain the impact of the current exchange rate on tourism."),
        row("Write a dialogue about the weather in Rome today."),
        row("Find today's date in Python.", "", "date.today()"),
    ],
    ids=lambda example: f"{example.instruction[:20]}-{example.output[:20]}",
)  # fmt: skip
def test_ordinary_rows_pass(example: Example) -> None:
    assert lint([example]) == []


def test_a_row_is_not_told_the_same_thing_twice() -> None:
    link = row("Describe the following photo.", "https://example.com/1.jpg", "Done.")
    assert [one.rule for one in lint([link])] == ["link-as-input"]
    other = answer("Красный, жёлтый или голубой цвет, какой кому нравится", "Name a nice colour.")
    assert [one.rule for one in lint([other])] == ["script-mix"]
    marked = row("Create a melody.", "", "<noinput>")
    assert [one.rule for one in lint([marked])] == ["leftover-marker"]
    page = answer(f"```html\n{PAGE}", "Write a page.")
    assert [one.rule for one in lint([page])] == ["unclosed-code"]


@pytest.mark.parametrize(
    "piece",
    ["a", "_", "a_", "\n", " ", "(", "((a", "1 + ", "= 1 ", "`", "<a ", "A b. ", "的。"],
)
def test_no_text_takes_long(piece: str) -> None:
    text = (piece * 30_000)[:30_000]
    begin = time.process_time()
    lint([answer(text), row("Draw it", text), row("Create a function", "", PROGRAM + text)])
    lint([answer(f"Say{text}it"), answer(f"Call it.\na(b){text}b\nif (a){text}b")])
    assert time.process_time() - begin < 3
