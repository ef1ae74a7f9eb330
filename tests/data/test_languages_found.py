"""Languages of real rows, and examples whose answer is in another language than the question."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import Group
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.languages_found import count_languages
from tests.data.test_language import SENTENCES

GERMAN = "Der Himmel ist blau, denn die Luft streut das blaue Licht der Sonne stärker als das rote."
ENGLISH = "The sky is blue because the air scatters the blue light of the sun more than the red."

language = pytest.mark.skipif(
    find_spec("py3langid") is None,
    reason="the extra [language] is not installed",
)


def counts(groups: dict[str, Group]) -> dict[str, int]:
    return {name: group.count for name, group in groups.items()}


def without_library(source: str, folder: Path) -> dict[str, Any]:
    """What a process says in which py3langid cannot be imported; `source` makes the examples."""
    code = (
        "import sys, json; sys.modules['py3langid'] = None\n"
        "from dataclasses import asdict\n"
        "from alpaca_cli.core.records import Example\n"
        "from alpaca_cli.data.formats import read_examples\n"
        "from alpaca_cli.data.languages_found import count_languages\n"
        f"print(json.dumps(asdict(count_languages({source}))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@language
@pytest.mark.parametrize("code", SENTENCES)
def test_a_sentence_is_in_its_language_or_unknown(code: str) -> None:
    found = count_languages([Example(sentence) for sentence in SENTENCES[code]])
    assert found.method == "py3langid"
    assert set(found.instruction) <= {code, "unknown"}
    assert found.instruction[code].count >= len(SENTENCES[code]) / 2


@language
def test_counts_shares_and_samples() -> None:
    examples = [
        Example("Why is the sky blue at noon?", "", ENGLISH), Example("Add up.", "1 2", "3"),
        Example("Name a river in the north of Spain.", "", "Ebro", "r"),
        Example("Warum ist der Himmel am Mittag so blau?", "", GERMAN),
    ]  # fmt: skip
    found = count_languages(examples)
    assert list(found.instruction) == ["en", "de", "unknown"]
    english = found.instruction["en"]
    assert (english.count, english.share) == (2, 0.5)
    assert [(row.row, row.id) for row in english.rows] == [(1, None), (3, "r")]
    assert counts(found.output) == {"unknown": 2, "de": 1, "en": 1}
    assert found.differs.count == 0


@language
@pytest.mark.parametrize(
    ("example", "note"),
    [
        (Example("Why is the sky blue at noon?", "", GERMAN), "en → de"),
        (Example("Warum ist der Himmel am Mittag so blau?", "", ENGLISH), "de → en"),
        (Example("Translate it: the sky is blue at noon.", "", GERMAN), None),
        (Example("Say in German why the sky is blue.", "", GERMAN), None),
        (Example("Why is the sky blue at noon?", "", "Weil die Luft blau ist."), None),  # short
        (Example("Copy the code of the sky.", "", "for (x of xs) { der = die[das]; }"), None),
        (Example("天空为什么是蓝色的？请解释它的原因。", "", ENGLISH), "zh → en"),
        (Example("用 shimmer 这个词造一个句子，要写得很美。", "", ENGLISH), None),
    ],
    ids=lambda value: value.instruction if isinstance(value, Example) else "",
)
def test_answers_in_another_language(example: Example, note: str | None) -> None:
    differs = count_languages([example]).differs
    assert [row.note for row in differs.rows] == ([] if note is None else [note])
    assert differs.count == (note is not None)


@language
@pytest.mark.parametrize(
    ("file", "code", "instructions", "differs", "first"),
    [
        ("alpaca_en_demo.json", "en", 0.96, 0, []),
        ("code_alpaca_2k.json", "en", 0.98, 0, []),
        ("seed_tasks.jsonl", "en", 0.98, 0, []),
        ("user_oriented_instructions.jsonl", "en", 0.99, 0, []),
        # Looked at by hand: Chinese questions with an English answer that nobody asked for.
        ("alpaca_zh_demo.json", "zh", 0.97, 7, [57, 333, 354, 459, 577]),
    ],
)
def test_real_rows(
    real_data: Path, file: str, code: str, instructions: float, differs: int, first: list[int]
) -> None:
    examples = read_examples([real_data / file])
    found = count_languages(examples)
    assert next(iter(found.instruction)) == code
    assert found.instruction[code].share >= instructions
    others = set(found.instruction) - {code, "unknown"}
    assert sum(found.instruction[name].count for name in others) <= 1
    assert found.differs.count == differs
    assert [row.row for row in found.differs.rows] == first


def test_scripts_without_the_library(real_data: Path) -> None:
    folder = Path(__file__).parents[2]
    file = str(real_data / "alpaca_zh_demo.json")
    found = without_library(f"read_examples([{file!r}])", folder)
    assert found["method"] == "script"
    assert next(iter(found["instruction"])) == "han"
    assert found["instruction"]["han"]["share"] >= 0.96
    assert {row["row"] for row in found["differs"]["rows"]} <= {57, 333, 354}


def test_letters_tell_the_script() -> None:
    texts = {
        "latin": "Schöne Grüße", "cyrillic": "Напиши стихи", "kana": "空はなぜ青いのですか",
        "han": "天空为什么是蓝色的", "hangul": "하늘은 왜 파란가요", "greek": "Γράψε ένα ποίημα",
        "unknown": "12 + 4",
    }  # fmt: skip
    found = without_library(f"[Example(t) for t in {list(texts.values())!r}]", Path.cwd())
    assert {name: group["rows"][0]["text"] for name, group in found["instruction"].items()} == texts


def test_another_script_is_reported_only_when_both_are_clear() -> None:
    rows = [("天空为什么是蓝色的？请解释它的原因。", ENGLISH), ("天空为什么是蓝色的？", "Because.")]
    rows += [("把它翻译成英语，请写得简单一点。", ENGLISH), ("Why is the sky so blue?", ENGLISH)]
    found = without_library(f"[Example(a, '', b) for a, b in {rows!r}]", Path.cwd())
    assert [(row["row"], row["note"]) for row in found["differs"]["rows"]] == [(1, "han → latin")]


def test_nothing_to_count() -> None:
    found = count_languages([])
    assert (found.instruction, found.output, found.differs.count) == ({}, {}, 0)
