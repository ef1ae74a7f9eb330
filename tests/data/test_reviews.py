"""Review files: what they say, what crashes leave of them, and who may write."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.errors import DataError, TryAgain, UsageError
from alpaca_cli.core.records import Example
from alpaca_cli.data.reviews import (
    Mark,
    Review,
    ReviewFile,
    excluded,
    exclusion_stamp,
    read_reviews,
    review_of,
    strangers,
)
from tests.processes import environment

BIRD = Example("Name a bird.", "", "Owl – Eule", id="b-1", meta={"teacher": "t"})
SUM = Example("Add.", "1 2", "3")
KEYS = BIRD.review_key(), SUM.review_key()


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(example: Example, mark: Mark, **fields: Any) -> dict[str, Any]:
    return {"key": example.review_key(), "mark": mark, **fields}


def test_the_key_is_of_the_three_texts_alone() -> None:
    written = '{"input":"","instruction":"Name a bird.","output":"Owl – Eule"}'
    assert BIRD.review_key() == hashlib.sha256(written.encode()).hexdigest()
    assert Example("Name a bird.", "", "Owl – Eule").review_key() == BIRD.review_key()
    others = [
        Example("Name a bird.", "Owl – Eule", ""),
        Example("Name a bird. ", "", "Owl – Eule"),
        Example("Name a bird", ".", "Owl – Eule"),
    ]
    assert BIRD.review_key() not in {other.review_key() for other in others}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "review.jsonl"
    first = review_of(BIRD, "good", "", row=3, source="a.json")
    last = review_of(BIRD, "bad", "a [bold] owl", row=3, source="a.json")
    other = review_of(Example("x" * 200, "", ""), "none", "", row=4, source="a.json")
    file = ReviewFile(path)
    for review in (first, last, other):
        file.add(review)
    file.close()
    assert list(read_reviews(path).values()) == [last, other]
    stored = json.loads(path.read_text().splitlines()[1])
    assert stored | {"at": ""} == {
        "key": KEYS[0], "mark": "bad", "note": "a [bold] owl", "row": 3, "id": "b-1",
        "source": "a.json", "instruction": "Name a bird.", "at": "",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", stored["at"])
    assert other.instruction == "x" * 80


def test_the_last_mark_counts_and_any_file_excludes(tmp_path: Path) -> None:
    one = write(tmp_path / "1", row(BIRD, "bad"), row(SUM, "bad"), row(BIRD, "good"))
    two = write(tmp_path / "2", row(SUM, "bad"), row(SUM, "none"))
    assert excluded([]) == frozenset()
    assert excluded([str(one)]) == {KEYS[1]}
    assert excluded([str(two)]) == frozenset()
    assert excluded([str(two), str(one)]) == {KEYS[1]}


def test_strangers_have_reviews_of_other_examples_only(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty")
    good = write(tmp_path / "good", row(SUM, "good"))
    other = write(tmp_path / "other", row(BIRD, "bad"))
    paths = [str(path) for path in (empty, good, other)]
    assert strangers(paths, [SUM]) == [str(other)]
    assert strangers(paths, [SUM, BIRD]) == []


def test_the_stamp_follows_what_is_bad_and_nothing_else(tmp_path: Path) -> None:
    one = write(tmp_path / "1", row(BIRD, "bad"))
    same = write(tmp_path / "2", row(SUM, "good"), row(BIRD, "bad", note="no"), row(SUM, "none"))
    more = write(tmp_path / "3", row(BIRD, "bad"), row(SUM, "bad"))
    assert exclusion_stamp([str(one)]) == exclusion_stamp([str(same)]) != {}
    assert exclusion_stamp([str(more)]) != exclusion_stamp([str(one)])
    assert exclusion_stamp([str(write(tmp_path / "4", row(BIRD, "good")))]) == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "not a review: Expecting"),
        ("[]", "a row must be an object, not list"),
        ('{"mark": "bad"}', '"key" must be a sha256'),
        ('{"key": "abc", "mark": "bad"}', '"key" must be a sha256'),
        (json.dumps(row(BIRD, "bad") | {"mark": "Bad"}), '"mark" must be one of good, bad, none'),
        (json.dumps(row(BIRD, "bad", note=7)), '"note" must not be 7'),
        (json.dumps(row(BIRD, "bad", row=True)), '"row" must not be True'),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "review.jsonl"
    path.write_text(f"{json.dumps(row(SUM, 'good'))}\n\n{line}\n{json.dumps(row(SUM, 'bad'))}\n")
    with pytest.raises(DataError, match=re.escape(f"{path}:3: ")) as caught:
        read_reviews(path)
    assert said in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere: cannot read: No such file"):
        excluded([str(tmp_path / "nowhere")])


def test_a_torn_last_line_is_passed_over_then_cut_off(tmp_path: Path) -> None:
    path = write(tmp_path / "review.jsonl", row(SUM, "bad"))
    whole = path.read_bytes()
    torn = json.dumps(row(BIRD, "bad", note="–"), ensure_ascii=False).encode()
    for size in range(1, len(torn)):  # also within the bytes of a character
        path.write_bytes(whole + torn[:size])
        assert excluded([str(path)]) == {KEYS[1]}
    file = ReviewFile(path)
    file.add(review_of(BIRD, "good", "", row=1, source=""))
    file.close()
    assert [review.mark for review in read_reviews(path).values()] == ["bad", "good"]
    assert path.read_bytes().startswith(whole + b'{"key":"')


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text('[{"instruction": "a",\n"output": "b"}]')
    before = path.read_bytes()
    with pytest.raises(DataError, match="not a file of reviews"):
        ReviewFile(path)
    assert path.read_bytes() == before


def test_a_whole_last_line_without_its_end_counts_and_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "review.jsonl", row(SUM, "bad"), row(BIRD, "bad"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))  # as editors leave it
    assert excluded([str(path)]) == set(KEYS)
    file = ReviewFile(path)
    file.add(Review(KEYS[1], "good"))
    file.close()
    assert excluded([str(path)]) == {KEYS[0]}


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    file = ReviewFile(path)
    with pytest.raises(TryAgain, match="another process"):
        ReviewFile(path)
    file.add(Review(KEYS[0], "bad"))
    file.close()
    ReviewFile(path).close()
    assert excluded([str(path)]) == {KEYS[0]}


def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot write"):
        ReviewFile(tmp_path / "file" / "review.jsonl")


ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from alpaca_cli.core.records import Example
from alpaca_cli.data.reviews import ReviewFile, review_of
file = ReviewFile(Path(sys.argv[1]))
for number in count():
    file.add(review_of(Example(str(number)), "bad", "", row=number, source=""))
    print(number, flush=True)
"""


def test_kill_9_loses_no_mark(tmp_path: Path) -> None:
    path = tmp_path / "review.jsonl"
    said = -1
    for stop in (3, 40, 41):  # three processes, one after the other, on one file
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(path)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        assert process.stdout is not None
        for line in process.stdout:
            if (said := int(line)) >= stop:
                break
        process.kill()
        process.communicate()
        found = read_reviews(path)
        assert {str(number) for number in range(said + 1)} <= {
            review.instruction for review in found.values()
        }
