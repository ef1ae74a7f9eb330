"""Votes as a file: what a row holds, what is no vote, and what votes add up to."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from datasets import load_dataset

from alpaca_cli.core.errors import DataError, TryAgain, UsageError
from alpaca_cli.core.intervals import wilson_interval
from alpaca_cli.data.votes import Vote, VoteFile, read_votes, standings

VOTE = Vote(
    instruction="Sort.",
    input="2 1",
    system="Be kind.",
    model_a="student",
    model_b="teacher",
    answer_a="1 2",
    answer_b="2 1",
    first="b",
    vote="a",
    at="2026-01-01T00:00:00+00:00",
)
SWAPPED = replace(VOTE, model_a="teacher", model_b="student")


def test_votes_are_read_as_they_were_written_and_those_with_a_winner_by_trainers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "votes.jsonl"
    elsewhere = replace(VOTE, vote="b", system="", input="", model_b="somebody else")
    votes = [
        VOTE, replace(VOTE, vote="tie"), SWAPPED, replace(VOTE, answer_b="1 2"), elsewhere,
    ]  # fmt: skip
    for vote in votes:
        with VoteFile(path, ("teacher", "student")) as file:
            file.add(vote)
            assert read_votes(path)[-1] == vote
    assert read_votes(path) == votes
    assert file.votes() == votes[:-1]
    assert file.standing() == standings(votes[:-1])[0]

    # TRL's conversational preference format: an explicit prompt, and two answers to it.
    first = {
        "prompt": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "Sort.\n\n2 1"},
        ],
        "chosen": [{"role": "assistant", "content": "1 2"}],
        "rejected": [{"role": "assistant", "content": "2 1"}],
    }
    other = {
        "prompt": [{"role": "user", "content": "Sort."}],
        "chosen": first["rejected"],
        "rejected": first["chosen"],
    }
    assert file.preferences == tmp_path / "votes.preferences.jsonl"
    rows = load_dataset(
        "json", data_files=str(file.preferences), cache_dir=str(tmp_path), split="train"
    )
    assert list(rows) == [first, first, other]


def test_a_file_of_votes_is_on_two_models_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    with pytest.raises(UsageError, match="a: a blind comparison needs two models"):
        VoteFile(path, ("a", "a"))
    assert not path.exists()
    with VoteFile(path, ("student", "teacher")) as file:
        assert file.standing() is None
        with pytest.raises(TryAgain, match="another process is writing votes there"):
            VoteFile(path, ("student", "teacher"))
        file.add(VOTE)
    path.write_bytes(path.read_bytes() + '{"instruction":"é'.encode()[:-1])  # a power cut
    with VoteFile(path, ("student", "teacher")) as file:
        assert file.votes() == [VOTE]
    path.write_text(path.read_text().rstrip())  # what an editor leaves
    with VoteFile(path, ("student", "teacher")) as file:
        assert file.votes() == [VOTE]
    path.write_text("{}\n")
    with pytest.raises(DataError, match=r"votes\.jsonl:1: not a vote"):
        VoteFile(path, ("student", "teacher"))


@pytest.mark.parametrize(
    "text", ['[{"instruction": "a"}]', '{"instruction":"a","output":"b"}', "notes", "{}\n[1", "é"]
)
def test_another_file_named_by_mistake_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mine\.json: not a file of votes"):
        VoteFile(path, ("student", "teacher"))
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vote": "left"}, '"vote" must be one of a, b, tie'),
        ({"first": "tie"}, '"first" must be one of a, b'),
        ({"answer_a": None}, '"answer_a" must be a string'),
        ({"model_b": 3}, '"model_b" must be a string'),
    ],
)
def test_what_is_no_vote_names_its_line(
    tmp_path: Path, change: dict[str, object], said: str
) -> None:
    path = tmp_path / "votes.jsonl"
    rows = [asdict(VOTE), asdict(VOTE) | change]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=rf"votes\.jsonl:2: not a vote: {said}"):
        read_votes(path)
    path.write_text("[]\n")
    with pytest.raises(DataError, match=":1: not a vote: not an object"):
        read_votes(path)
    with pytest.raises(DataError, match="no such file"):
        read_votes(tmp_path / "none.jsonl")


def test_votes_count_for_a_model_whichever_side_it_had() -> None:
    votes = [VOTE] * 5 + [replace(VOTE, vote="tie")] * 2 + [SWAPPED] * 2
    [found] = standings(votes)
    assert (found.model_a, found.model_b) == ("student", "teacher")
    assert (found.wins_a, found.wins_b, found.ties) == (5, 2, 2)
    assert found.win_rate == (5 + 1) / 9
    assert found.decisive_rate == 5 / 7
    assert found.interval == wilson_interval(5, 7)
    assert found.first_rate == 0.0  # none of those shown first has won


def test_every_pair_of_models_stands_for_itself() -> None:
    other = replace(VOTE, model_b="base", first="a")
    first, second = standings([VOTE, other, replace(VOTE, vote="tie"), other])
    assert (first.model_b, first.wins_a, first.ties) == ("teacher", 1, 1)
    assert (second.model_b, second.wins_a, second.first_rate) == ("base", 2, 1.0)
    [undecided] = standings([replace(VOTE, vote="tie")])
    assert undecided.win_rate == 0.5
    assert (undecided.decisive_rate, undecided.interval, undecided.first_rate) == (None,) * 3
    assert standings([]) == []
