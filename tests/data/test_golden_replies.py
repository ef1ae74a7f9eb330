"""Messy replies, each with the tasks that a careful person finds in it, and edits of them.

`golden/NAME.txt` is a reply, byte for byte, written in the manner of many models; `NAME.json` says
how it ended, what the prompt had begun, which tasks are whole, and the faults of the others. The
expected fields were marked in the replies by hand, not taken from the parser.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_cli.core.records import Example
from alpaca_cli.data.parsing import Candidate, parse_reply
from alpaca_cli.data.prompts import render_json, render_text

Task = tuple[str, str, str]
FOLDER = Path(__file__).parent / "golden"
NAMES = sorted(path.stem for path in FOLDER.glob("*.txt"))


@dataclass(frozen=True)
class Golden:
    text: str
    finish_reason: str | None
    opening: str
    tasks: list[Task]
    faults: list[str]


@cache
def golden(name: str) -> Golden:
    text = (FOLDER / f"{name}.txt").read_bytes().decode()
    expected = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    tasks = [(task[0], task[1], task[2]) for task in expected.pop("tasks")]
    return Golden(text, tasks=tasks, **expected)


def whole(candidates: list[Candidate]) -> list[Task]:
    return [(c.instruction, c.input, c.output) for c in candidates if not c.fault]


def test_the_corpus_is_there() -> None:
    assert len(NAMES) >= 80
    assert {path.stem for path in FOLDER.glob("*.json")} == set(NAMES)
    faults = {fault for name in NAMES for fault in golden(name).faults}
    assert faults == {"unparsable", "malformed", "missing_field", "truncated", "ambiguous"}
    # Git has not made them alike.
    assert b"\r\n" in (FOLDER / "windows_line_ends_and_a_bom.txt").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_reply_gives_its_tasks(name: str) -> None:
    reply = golden(name)
    found = parse_reply(reply.text, reply.finish_reason, reply.opening)
    assert whole(found) == reply.tasks
    assert [c.fault for c in found if c.fault] == reply.faults


@pytest.mark.parametrize("name", NAMES)
def test_a_reply_cut_anywhere_keeps_no_stump(name: str) -> None:
    reply = golden(name)
    for size in range(len(reply.text) + 1):
        found = whole(parse_reply(reply.text[:size], "length", reply.opening))
        assert found == reply.tasks[: len(found)]


def in_the_words_of(text: str, reply: str) -> bool:
    """Whether the text stands in the reply in one piece, but for JSON's escapes and blanks."""
    return squeezed(text) in squeezed(reply)


def squeezed(text: str) -> str:
    for _ in range(2):  # JSON in JSON
        text = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), text)
        text = re.sub(r"\\[nrtbf]", " ", text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return re.sub(r"[\s\\]+", "", text)


PIECES = [
    *("\n", "###\n", "---\n", "**", "```\n", "1. Instruction: ", "\n2. Output:\n", "Input: "),
    *('"', "}", "{", "\\", ", ", '{"instruction": "', "<think>", "</think>\n", "\ud83d", "\x00"),
]


@st.composite
def edited(draw: st.DrawFn) -> tuple[str, str]:
    """A reply of the corpus with spans of it taken out, put in twice or moved; and its opening."""
    reply = golden(draw(st.sampled_from(NAMES)))
    text = reply.text
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 80)))
        span = text[start:stop]
        if draw(st.booleans()):
            text = text[:start] + text[stop:]
        if draw(st.booleans()):
            span = draw(st.sampled_from(PIECES)) if draw(st.booleans()) else span
            at = draw(st.integers(0, len(text)))
            text = text[:at] + span + text[at:]
    return text, reply.opening


@settings(max_examples=400)
@given(edited(), st.sampled_from(["stop", "length", None]))
def test_edited_replies_raise_nothing_and_nothing_is_invented(
    edit: tuple[str, str], reason: str | None
) -> None:
    text, opening = edit
    found = parse_reply(text, reason, opening)
    assert found
    for candidate in found:
        json.dumps([candidate.instruction, candidate.detail], ensure_ascii=False).encode()
    for task in whole(found):
        assert task[0]
        assert all(in_the_words_of(field, text) for field in task)


# --- tasks with marked fields --------------------------------------------------------------------

SAFE = st.sampled_from(
    ["plain words", "a *bold* claim", "x = [1, 2]", "1. first\n2. second", "# A heading\n\n- item",
     "```python\nprint(1)\n```", "It costs\n$20.", "| a | b |\n|---|---|", "Zeile\n\nnoch eine",
     '{"a": "b"}', "你好：世界", "x {y} z", 'She said "no".', "C:\\new", "Note: nothing"]
)  # fmt: skip
# Words that look like the form around them.
TRICKY = st.sampled_from(
    ["Output: 3", "### Output", "Input: 5\nOutput: 6", "###", "---", "Instruction: go",
     "\n\n1. Instruction: more\n1. Input:\n1. Output: yes", "**Instruction:** x\n**Output:** y",
     "Task 2:", '{"instruction": "a", "input": "", "output": "b"}', '"}, {"output": "', "```",
     "Answer: 4", "3. Output: w", "N/A", "<think>"]
)  # fmt: skip


@st.composite
def marked_tasks(draw: st.DrawFn, contents: st.SearchStrategy[str]) -> list[Example]:
    """Tasks of which each field begins and ends with a word of its own."""
    tasks = []
    for n in range(draw(st.integers(1, 4))):
        x, y, z = (f"{name}m{n}q {draw(contents)} {name}n{n}q" for name in "xyz")
        tasks.append(Example(x, draw(st.sampled_from([y, ""])), z))
    return tasks


@st.composite
def decorated(draw: st.DrawFn, tasks: list[Example], same: str) -> str:
    """Tasks in labelled text: `same` style, names of the fields, or both in all of them."""
    numbers = draw(
        st.sampled_from([itertools.count(1), itertools.count(4), itertools.repeat(1)])
        if draw(st.booleans())
        else st.lists(st.integers(1, 30), min_size=4, max_size=4).map(iter)
    )
    styles = st.tuples(
        st.sampled_from(["{n}. {name}:", "{n}) {name}:", "**{n}. {name}:**", "**{name} {n}:**",
                         "{name} {n}:", "{name}:", "**{name}:**", "### {name}:", "### {name}",
                         "- {name}:", "🔹 {name}："]),
        st.sampled_from(["\n###\n", "\n##\n", "\n\n---\n\n", "\n\n", "\n", "\n\n**Task 7**\n\n",
                         "\n```\n\n```\n"]),
        st.sampled_from(["<noinput>", "None", "N/A", "", "(no input required)"]),
        st.sampled_from(["\n", " "]),
    )  # fmt: skip
    pairs = st.sampled_from([("Instruction", "Output"), ("Task", "Response"), ("Prompt", "Answer")])
    style, names = draw(styles), draw(pairs)
    parts = []
    for n, task in zip(numbers, tasks, strict=False):
        if same == "style":
            names = draw(pairs)
        elif same == "names":
            style = draw(styles)
        label, between, none, gap = style
        gap = gap if ":" in label or "：" in label else "\n"
        lines = [label.format(n=n, name=names[0]) + gap + task.instruction]
        if task.input or draw(st.booleans()):
            lines.append(label.format(n=n, name="Input") + gap + (task.input or none))
        lines.append(label.format(n=n, name=names[1]) + gap + task.output)
        parts += ["\n".join(lines), between]
    text = "".join(parts[:-1])
    return f"```\n{text}\n```" if draw(st.booleans()) else text


def marks(candidate: Candidate) -> set[str]:
    text = f"{candidate.instruction} {candidate.input} {candidate.output}"
    return set(re.findall(r"[xyz][mn](\d)q", text))


# Other names in another style may be an answer's questions and answers; and with labels of another
# style in every field, nobody could tell what is whose.
@settings(max_examples=600)
@given(
    st.data(),
    st.sampled_from([("all", SAFE | TRICKY), ("style", SAFE), ("names", SAFE)]),
    st.sampled_from(["stop", "length"]),
)
def test_no_decoration_merges_two_tasks(
    data: st.DataObject, kind: tuple[str, st.SearchStrategy[str]], reason: str
) -> None:
    same, contents = kind
    text = data.draw(decorated(data.draw(marked_tasks(contents)), same))
    for candidate in parse_reply(text, reason):
        if not candidate.fault:
            assert len(marks(candidate)) <= 1


@given(st.data(), marked_tasks(SAFE))
def test_tasks_in_one_style_come_back_as_they_were(
    data: st.DataObject, tasks: list[Example]
) -> None:
    expected = [(task.instruction, task.input, task.output) for task in tasks]
    assert whole(parse_reply(render_text(tasks, data.draw(st.integers(1, 99))), "stop")) == expected
    assert whole(parse_reply(render_json(tasks), "stop")) == expected


@given(marked_tasks(st.one_of(SAFE, TRICKY)), st.integers(0, 3))
def test_json_tasks_come_back_whatever_is_in_them(tasks: list[Example], shape: int) -> None:
    expected = [(task.instruction, task.input, task.output) for task in tasks]
    rows = [dict(zip(("instruction", "input", "output"), task, strict=True)) for task in expected]
    text = [
        render_json(tasks),
        "\n".join(map(json.dumps, rows)),
        json.dumps(json.dumps({"tasks": rows})),
        repr(rows),
    ][shape]
    assert whole(parse_reply(f"```\n{text}\n```", "stop")) == expected


NO_INPUT = re.compile(r"`?<?no ?input>?`?\.?", re.IGNORECASE)
STYLES: dict[str, Callable[[str], str]] = {
    "as asked": lambda text: text,
    "bold": lambda text: re.sub(r"(?m)^(\d+\. (?:Instruction|Input|Output):)", r"**\1**", text),
    "dashes": lambda text: text.replace("\n###\n", "\n\n---\n\n"),
    "empty lines": lambda text: text.replace("\n###\n", "\n\n"),
    "bare": lambda text: re.sub(r"(?m)^\d+\. (Instruction|Input|Output):", r"\1:", text),
}


@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
@pytest.mark.parametrize("style", STYLES)
def test_published_tasks_come_back_or_are_doubted(name: str, style: str, real_data: Path) -> None:
    rows = json.loads((real_data / name).read_text(encoding="utf-8"))
    tasks = [
        Example(row["instruction"].strip(), row["input"].strip(), row["output"].strip())
        for row in rows
    ]
    found: list[Candidate] = []
    for first in range(0, len(tasks), 5):
        text = STYLES[style](render_text(tasks[first : first + 5], first + 1))
        found += parse_reply(text, "stop")
    written = {
        (t.instruction, "" if NO_INPUT.fullmatch(t.input) else t.input, t.output) for t in tasks
    }
    assert set(whole(found)) <= written
    assert len(whole(found)) >= 0.99 * len(tasks)
