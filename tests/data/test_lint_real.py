"""Every finding of lint in the real data, each judged by reading its row.

A finding is right when the sentence that `RULES` has for its rule is true of the row; nothing else
was asked, in particular not whether the row is worth keeping. The rows are named, not quoted. A
rule that changes shows up here: read what is new and judge it before writing it down.

Of the ten near-duplicates, all of them alike by ROUGE-L, three ask for the same thing in other
words; the others are one sentence with another subject. Several of the rows that refuse say what a
model cannot do and then do something else. Of the two answers that repeat their question, neither
had much to change. Of the other rules nothing is found in these 4,443 rows.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from alpaca_cli.core.records import Example
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import RULES, Finding, lint
from alpaca_cli.data.rouge import score, tokenize
from alpaca_cli.data.texts import plain

# File -> rule -> rows, counted from 1.
FOUND = {
    "alpaca_en_demo.json": {
        "answer-repeats-question": "761",
        "asks-for-media": "433 974",
        "duplicate-instruction": "276 509 547 569 592 611 647 701 703 746 772 848 867 895",
        "invented-link": "484",
        "leftover-marker": "762 822",
        "link-as-input": "156 167 285 437 580 652 712 713",
        "missing-input": "83 577 944",
        "placeholder-input": "37 185 366 515 575 979",
        "refusal": (
            "44 68 81 83 96 118 186 224 240 265 276 408 433 503 527 609 666 692 712 737 795 818 943"
        ),
        "truncated-output": "125 270 346 464 559 689 731 899",
        "unclosed-code": "180",
        "unfenced-code": "396",
        "wrong-arithmetic": "328",
    },
    "alpaca_zh_demo.json": {
        "asks-for-media": "476 727",
        "duplicate-instruction": "517 598 612 780 782 880 908 997",
        "field-label": (
            "2 7 13 49 54 55 58 61 71 72 82 88 100 105 116 121 124 127 167 189 192 197 210 256 "
            "274 301 325 356 359 362 375 389 411 415 416 426 428 433 447 455 472 489 490 499 508 "
            "513 522 544 547 548 550 554 564 592 596 610 612 616 631 656 665 679 682 709 716 720 "
            "729 735 753 763 771 784 801 813 845 861 862 865 893 897 905 909 910 917 925 950 972 "
            "973 977 979 981 993 996 999"
        ),
        "invented-link": "241",
        "leftover-marker": "33",
        "long-instruction": "989",
        "missing-attachment": "546",
        "missing-input": (
            "4 6 83 102 161 180 191 225 228 253 368 466 523 531 585 629 687 705 726 863 895 912 965"
        ),
        "near-duplicate-instruction": "310 364 518 724 896",
        "needs-live-facts": "626",
        "refusal": (
            "5 47 54 77 143 146 159 187 348 377 382 403 416 471 533 559 571 585 660 666 727 754 "
            "760 842 860 962 968"
        ),
        "script-mix": "323 333 354 459 577 626 894",
        "truncated-output": "44 632 807 947 990",
        "unclosed-code": "493",
        "unfenced-code": "362 513 596 993",
        "wrong-language": "57",
    },
    "code_alpaca_2k.json": {
        "answer-repeats-question": "258",
        "empty-output": "238 1860",
        "field-label": "1680 1681 1685",
        "leftover-marker": "141",
        "missing-code": "1948",
        "missing-input": "216 1848 1974",
        "no-code": "239 1165 1494",
        "placeholder-input": "495",
        "unfenced-code": (
            "275 361 470 610 622 1071 1138 1353 1354 1357 1458 1461 1462 1466 1467 1719 1819 1826 "
            "1828 1830 1832 1833 1845 1847 1849 1988"
        ),
        "wrong-arithmetic": "1919",
    },
    "seed_tasks.jsonl": {
        "near-duplicate-instruction": "75 114",
    },
    "user_oriented_instructions.jsonl": {
        "duplicate-instruction": "125",
        "near-duplicate-instruction": "108 122 241",
        "truncated-output": "214",
    },
}
# File, rule and row of what is found and is no fault.
WRONG = {
    # Written by a person, who left out the last full stop.
    ("user_oriented_instructions.jsonl", "truncated-output", 214),
}
LEAST_PRECISION = 0.9


@cache
def checked(path: Path) -> tuple[list[Example], list[Finding]]:
    examples = read_examples([path])
    return examples, lint(examples)


@pytest.mark.parametrize("file", FOUND)
def test_exactly_what_was_judged_is_found(real_data: Path, file: str) -> None:
    pytest.importorskip("py3langid")
    found: dict[str, list[int]] = {}
    for one in checked(real_data / file)[1]:
        found.setdefault(one.rule, []).append(one.row)
    assert found == {rule: [*map(int, rows.split())] for rule, rows in FOUND[file].items()}


def test_precision_of_every_rule() -> None:
    total: Counter[str] = Counter()
    for rules in FOUND.values():
        for rule, rows in rules.items():
            total[rule] += len(rows.split())
    wrong = Counter(rule for _, rule, _ in WRONG)
    assert total.keys() <= RULES.keys()
    precision = {rule: 1 - wrong[rule] / count for rule, count in total.items()}
    assert min(precision.values()) >= LEAST_PRECISION, precision
    assert precision["truncated-output"] == pytest.approx(13 / 14)
    for file, rule, row in WRONG:
        assert str(row) in FOUND[file][rule].split()


@pytest.mark.parametrize("file", FOUND)
def test_rows_that_are_compared_are_alike(real_data: Path, file: str) -> None:
    examples, findings = checked(real_data / file)
    gone = {one.row for one in findings if one.rule == "near-duplicate-instruction"}
    for one in findings:
        if one.other_row is None:
            continue
        mine, other = examples[one.row - 1].instruction, examples[one.other_row - 1].instruction
        assert one.other_row < one.row
        if one.rule == "duplicate-instruction":
            assert plain(mine) == plain(other)
        else:
            assert score(tokenize(mine, "unicode"), tokenize(other, "unicode")) > 0.7
            assert one.other_row not in gone


def test_most_rows_of_real_data_are_clean(real_data: Path) -> None:
    shares = {}
    for file in FOUND:
        examples, findings = checked(real_data / file)
        shares[file] = len({one.row for one in findings}) / len(examples)
    assert shares["seed_tasks.jsonl"] < 0.02
    assert shares["user_oriented_instructions.jsonl"] < 0.03
    assert shares["code_alpaca_2k.json"] < 0.03
    assert shares["alpaca_en_demo.json"] < 0.08
    # Half of these begin the input with its label.
    assert shares["alpaca_zh_demo.json"] < 0.2
