"""Replies as teachers write them, and what must be found in them."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.data.parsing import FIELDS, Candidate, parse_reply
from alpaca_cli.data.prompts import render_json, render_text

Task = tuple[str, str, str]
A: Task = ("Name a fruit.", "", "Apple")
B: Task = ("Sort the numbers.", "3, 1, 2", "1, 2, 3")
C: Task = ("Write a haiku about rain.", "", "Rain\non\nroofs")


def examples(*tasks: Task) -> list[Example]:
    return [Example(*task) for task in tasks]


def whole(candidates: list[Candidate]) -> list[Task]:
    return [(c.instruction, c.input, c.output) for c in candidates if not c.fault]


def faults(candidates: list[Candidate]) -> list[str]:
    return [c.fault for c in candidates if c.fault]


JSON = render_json(examples(A, B, C))
ROWS = [dict(zip(FIELDS, task, strict=True)) for task in (A, B, C)]


@pytest.mark.parametrize(
    "text",
    [
        JSON,
        f"```json\n{JSON}\n```",
        f"Sure! Here are the tasks:\n\n{JSON}\n\nTell me if you need more.",
        json.dumps({"tasks": ROWS}, indent=4),
        json.dumps(ROWS),
        json.dumps({"examples": ROWS}),
        "\n".join(map(json.dumps, ROWS)),
        "\n\n".join(json.dumps({"tasks": [row]}) for row in ROWS),
        json.dumps({"tasks": [{"id": n, **row} for n, row in enumerate(ROWS)]}),
        json.dumps({"tasks": [{k.title(): v for k, v in row.items()} for row in ROWS]}),
        f'<think>\nFirst {{"tasks": []}}, then 1. Instruction: no\n</think>\n{JSON}',
        f"\ufeff{JSON}",
        # Trailing commas: the container is broken, the items are not.
        JSON.replace("}\n]}", "},\n]}"),
    ],
)
def test_json_in_many_wrappings(text: str) -> None:
    assert parse_reply(text) == [Candidate(*task) for task in (A, B, C)]


TEXT = render_text(examples(A, B, C), first=4)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TEXT.replace("4.", "1.").replace("5.", "2.").replace("6.", "3."),  # starts again at 1
        TEXT.replace("5.", "17.").replace("6.", "4."),  # skipped, and out of order
        TEXT.replace("6. Input", "7. Input"),  # one label misnumbered
        TEXT.replace("###\n", "## \n"),
        TEXT.replace("###\n", "---\n"),
        TEXT.replace("###\n", ""),
        TEXT.replace("###\n", "\n\n"),
        TEXT.replace("###\n", "###\n\n**Task 2**\n\n"),
        f"###\n{TEXT}\n###\n",
        re.sub(r"(\d\. \w+):", r"**\1:**", TEXT),
        re.sub(r"(\d\. \w+):", r"### \1:", TEXT),
        re.sub(r"\d\. (Input|Output)", r"\1", TEXT),  # only the instruction is numbered
        re.sub(r"\d\. ", "", TEXT),  # nothing is
        TEXT.replace(":\n", ": "),
        TEXT.replace("<noinput>", "No input"),
        TEXT.replace("<noinput>", "N/A"),
        TEXT.replace("<noinput>", "(no input required)."),
        TEXT.replace("<noinput>", '""'),
        re.sub(r"(\d)\. (\w+):", r"\2 (task \1):", TEXT),
        TEXT.replace(". ", "．").replace(":", "："),
        TEXT.replace("\n4. Input:\n<noinput>", ""),
        f"Here are more tasks.\n\n{TEXT}",
        TEXT.replace("\n", "\r\n").replace("Rain\r\non\r\nroofs", "Rain\non\nroofs"),
    ],
)
def test_numbered_text_in_many_styles(text: str) -> None:
    assert parse_reply(text, "stop") == [Candidate(*task) for task in (A, B, C)]


def test_a_continuation_begins_inside_the_first_task() -> None:
    text = TEXT.removeprefix("4. Instruction:")
    assert whole(parse_reply(text, "stop", opening="4. Instruction:")) == [A, B, C]
    # A chat model behind the completion endpoint may write the label again, or JSON.
    assert whole(parse_reply(TEXT, "stop", opening="4. Instruction:")) == [A, B, C]
    assert whole(parse_reply(JSON, "stop", opening="4. Instruction:")) == [A, B, C]
    first = ('Give {"input": 1} as YAML.', "", '{"output": "input: 1"}')
    text = render_text(examples(first, B)).removeprefix("1. Instruction:")
    assert whole(parse_reply(text, "stop", opening="1. Instruction:")) == [first, B]


def test_markdown_and_code_inside_answers_stay_untouched() -> None:
    answer = (
        "### Plan\n\n1. **Buy** flour.\n2. Instructions: read them.\n\n## Notes\n> a quote\n"
        "```python\n# Output: 3\nprint(1 + 2)  # 4. not a label\n```\n"
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n---\nInput: the word\nOutput: the result\n21. last"
    )
    task = ("Plan a cake.", "", answer)
    for text in (render_text(examples(task, B)), render_json(examples(task, B))):
        assert whole(parse_reply(text, "stop")) == [task, B]


def test_json_inside_an_answer_is_not_a_task() -> None:
    task = ("Make a record.", "", '{"instruction": "x", "input": "", "output": "y"}')
    assert whole(parse_reply(render_text(examples(task, B)))) == [task, B]
    assert whole(parse_reply(render_json(examples(task, B)))) == [task, B]


def test_cut_json_keeps_what_was_whole_and_nothing_else() -> None:
    ends = [JSON.index("Apple") + 7, JSON.index('1, 2, 3"') + 9, JSON.index("roofs") + 7]
    for size in range(len(JSON)):
        found = parse_reply(JSON[:size], "length")
        assert whole(found) == [A, B, C][: sum(size >= end for end in ends)]
        assert set(faults(found)) <= {"truncated", "unparsable"}
        assert found


def test_cut_text_never_keeps_a_stump() -> None:
    for size in range(1, len(TEXT)):
        found = parse_reply(TEXT[:size], "length")
        assert whole(found) == [A, B, C][: len(whole(found))]
        assert len(whole(found)) < 3
        assert found[-1].fault in ("truncated", "unparsable")


def test_truncation_says_where() -> None:
    cut = parse_reply(TEXT[: TEXT.index("on\nroofs")], "length")[-1]
    assert (cut.instruction, cut.fault) == (C[0], "truncated")
    assert cut.detail == "the reply ends in its output"
    cut = parse_reply(JSON[: JSON.index("1, 2, 3")], "length")[-1]
    assert cut.fault == "truncated"
    assert "Sort the numbers." in cut.detail


@pytest.mark.parametrize(
    ("middle", "fault"),
    [
        ('{"instruction": "Say "hi" to me", "input": "", "output": "hi"}', "malformed"),
        ('{"instruction": "A 5" nail", "input": "", "output": "no"}', "malformed"),
        ('{"instruction": "a" "input": "", "output": "no comma"}', "malformed"),
        ('{"instruction": "a", "input": "", "output": ["a", "list"]}', "malformed"),
        ('{"instruction": "a", "output": "b", "instruction": "c"}', "malformed"),
        ('{"instruction": "a", "Instruction": "b", "output": "c"}', "malformed"),
        ('{"instruction": "half a pair \\ud83d", "output": "b"}', "malformed"),
        ('"just a string"', "malformed"),
        ('{"instruction": "a", "input": ""}', "missing_field"),
        ('{"input": "a", "output": "b"}', "missing_field"),
        ('{"instruction": " ", "output": "b"}', "missing_field"),
    ],
)
def test_a_broken_item_does_not_take_its_neighbours_along(middle: str, fault: str) -> None:
    first, last = (json.dumps(ROWS[n]) for n in (1, 2))
    found = parse_reply('{"tasks": [' + ", ".join((first, middle, last)) + "]}")
    assert whole(found) == [B, C]
    assert faults(found) == [fault]
    json.dumps([f"{c.instruction}{c.detail}" for c in found], ensure_ascii=False).encode()


def test_values_that_are_almost_text() -> None:
    text = '{"tasks": [{"instruction": "Add.", "input": null, "output": 0.50},'
    text += '{"instruction": "True?", "input": "", "output": true},'
    text += '{"instruction": "Two\nlines", "input": "", "output": "a\tb"}]}'
    assert whole(parse_reply(text)) == [
        ("Add.", "", "0.50"), ("True?", "", "true"), ("Two\nlines", "", "a\tb")
    ]  # fmt: skip


def test_text_without_an_output_is_not_merged_with_the_next() -> None:
    text = TEXT.replace("4. Output:\nApple\n", "")
    found = parse_reply(text, "stop")
    assert whole(found) == [B, C]
    assert (found[0].instruction, found[0].fault) == (A[0], "missing_field")


def test_labels_inside_a_field_are_doubtful() -> None:
    text = TEXT.replace("1, 2, 3", "1, 2, 3\n5. Input:\nmore\n5. Output:\nof it")
    found = parse_reply(text, "stop")
    assert whole(found) == [A, C]
    assert faults(found) == ["ambiguous"]


@pytest.mark.parametrize(
    "text",
    [
        *("", "   \n", "I'm sorry, I cannot do that.", "<think>x", "Taſk: a\nıNPUT: b\nOutput: c"),
        *("{}", "[]", '{"tasks": []}', '{"ınstructıon": "a"}'),
    ],
)
def test_a_reply_without_tasks_is_one_candidate(text: str) -> None:
    (candidate,) = parse_reply(text, "stop")
    assert candidate.fault == "unparsable"


@pytest.mark.parametrize(
    "word", ["empty", "Nothing", "null and void", "no", "none of it", "NA", "no inputs left"]
)
def test_an_input_that_only_looks_like_none_stays(word: str) -> None:
    task = ("Write the opposite.", word, "x")
    assert whole(parse_reply(render_json(examples(task)))) == [task]


# Without what a backslash too few makes of a formula in JSON: "\frac" has a form feed.
LETTERS = st.characters(codec="utf-8", exclude_characters="\r\b\f")
PLAIN = st.text(LETTERS, min_size=1).map(str.strip)
NONEMPTY = PLAIN.filter(bool)
INPUT = PLAIN.filter(lambda text: not re.search(r"no|n/a|[无不没]|^[\"'“]", text, re.I))


@given(st.lists(st.tuples(NONEMPTY, INPUT, PLAIN), min_size=1, max_size=5))
def test_json_round_trip(tasks: list[Task]) -> None:
    text = render_json(examples(*tasks))
    assert whole(parse_reply(text)) == tasks
    assert whole(parse_reply(text[:-3], "length")) == tasks


# Without these letters no label can come about, nor "none"; a last letter that is no separator.
UNLABELLED = st.characters(
    codec="ascii", categories=["L", "N", "Zs", "P", "S"], exclude_characters="IOTEXNiotexn"
)
PROSE = st.lists(st.text(UNLABELLED, max_size=60), max_size=4).map(
    lambda lines: "\n".join([*lines, "z"]).strip()
)


@given(st.lists(st.tuples(PROSE, PROSE, PROSE), min_size=1, max_size=4))
def test_text_round_trip(tasks: list[Task]) -> None:
    assert whole(parse_reply(render_text(examples(*tasks)), "stop")) == tasks


FRAGMENTS = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            [
                '{"tasks": [',
                '{"instruction": "',
                '", "input": "',
                '", "output": "',
                '"}',
                "]}",
                "[",
                "{",
                "}",
                ",",
                "\\",
                "1. Instruction:",
                "\n2. Output:",
                "\nInput: ",
                "\n###\n",
                "```",
                "<think>",
                "</think>",
                "\ud800",
                "\\ud800",
                "N/A",
            ]
        ),
    ),
    max_size=30,
).map("".join)


@given(
    FRAGMENTS, st.sampled_from(["stop", "length", None]), st.sampled_from(["", "4. Instruction:"])
)
def test_nothing_raises_and_nothing_is_invented(
    text: str, reason: str | None, opening: str
) -> None:
    found = parse_reply(text, reason, opening)
    assert found
    for candidate in found:
        json.dumps(candidate.detail, ensure_ascii=False).encode()
        if not candidate.fault:
            assert candidate.instruction
            for value in (candidate.instruction, candidate.input, candidate.output):
                value.encode()
                first = value.split("\n")[0]
                assert first in text or json.dumps(first)[1:-1] in text or "\\" in text


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"tasks": [' * 20_000,
        '{"instruction": ' * 20_000,
        "_" * 200_000,
        "# " * 100_000,
        "1. Instruction: " + "*" * 200_000,
        '"' * 200_000,
        "\n" * 200_000,
        '{"instruction": "a", "output": "' + "b" * 200_000,
        "1. Instruction:\n" * 5_000,
        '{"instruction": "a" "b"},\n' * 2_000,
        "{'instruction': 'a', " * 10_000,
        "{“instruction”: “" * 12_000,
        '"{' + '\\"instruction\\":' * 12_000,
        '"id": 1, ' * 20_000 + '"instruction":',
        "<think></think>" * 13_000,
        "<|a|>" * 40_000,
        "🔹" * 100_000,
        "Instruction: a\nOutput: b\n" * 8_000,
        "1. Instruction: a\n1. Output: b\n" + "###\nInstruction: c\n" * 10_000,
        "1. Instruction: a\n1. Output:\nb\n" + "Task 1:\n\n" * 20_000,
        "1. Instruction: a\n1. Output:\n" + "---\n" * 50_000,
        "1. Instruction: a\n" + "Output: b\n" * 20_000,
        "```\n" + "Instruction: a\nOutput: b\n```\n\n```\n" * 6_000,
    ],
    ids=lambda text: text[:16] + text[-8:],
)
def test_degenerate_replies_take_no_time(text: str) -> None:
    before = time.process_time()
    assert parse_reply(text, "length")
    assert parse_reply(text, "stop", "4. Instruction:")
    assert time.process_time() - before < 2
