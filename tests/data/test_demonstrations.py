"""Which tasks a request shows: by its number and what was kept before, never by timing."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_generate import Demonstrations
from alpaca_cli.data.demonstrations import Chooser, Outcome
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from tests.servers import Asked, TeacherServer

SEEDS = [Example(f"Do thing number {n}.", "", f"done {n}", f"s{n}") for n in range(10)]


@dataclass
class Past:
    """What a run has kept so far."""

    kept: Sequence[Mapping[str, Any]] = ()
    outcomes: list[Outcome] = field(default_factory=list)


def kept(n: int, text: str = "Kept") -> dict[str, Any]:
    return Example(f"{text} {n}", "", "out", f"g-{n}-0").to_row()


def ids(shown: Sequence[Example]) -> list[str]:
    return [str(example.id) for example in shown]


# --- seeds ----------------------------------------------------------------------------------------


def test_seeds_are_drawn_by_the_number_alone() -> None:
    forward, backward = (Chooser(Demonstrations(), 1, SEEDS) for _ in range(2))
    drawn = [ids(forward(n, Past())) for n in range(300)]
    assert drawn == [ids(backward(n, Past())) for n in reversed(range(300))][::-1]
    assert all(len(set(shown)) == 3 for shown in drawn)
    counted = Counter(name for shown in drawn for name in shown)
    assert len(counted) == 10
    assert max(counted.values()) < 1.4 * min(counted.values()), "all alike"
    assert drawn != [ids(Chooser(Demonstrations(), 2, SEEDS)(n, Past())) for n in range(300)]


def test_seeds_that_are_too_long_are_not_shown() -> None:
    seeds = [*SEEDS, Example("Long", "word " * 50, "out", "long")]
    chooser = Chooser(Demonstrations(seed=10, max_words=20), 1, seeds)
    assert chooser.too_long == 1
    assert sorted(ids(chooser(0, Past()))) == sorted(ids(SEEDS))
    assert Chooser(Demonstrations(max_words=52), 1, seeds).too_long == 0


def test_seeds_that_are_all_too_long_are_an_error() -> None:
    with pytest.raises(UsageError, match=r"max_words: all 10 seed tasks have more than 5 words"):
        Chooser(Demonstrations(max_words=5), 1, SEEDS)
    none = Chooser(Demonstrations(seed=0, max_words=5), 1, SEEDS)
    assert none(0, Past()) == []


def test_fewer_seeds_than_wanted_are_all_shown() -> None:
    assert len(Chooser(Demonstrations(seed=20), 1, SEEDS)(0, Past())) == 10


# --- kept examples --------------------------------------------------------------------------------


def test_kept_examples_come_from_a_window_earlier() -> None:
    settings = Demonstrations(seed=2, pool=2, window=8)
    chooser = Chooser(settings, 1, SEEDS)
    past = Past([kept(n) for n in range(100)], [Outcome((), 20, 1) for _ in range(100)])
    shown = {n: ids(chooser(n, past)) for n in range(60)}
    assert [chooser.needs(n) for n in (0, 7, 8, 20)] == [0, 0, 1, 13]
    assert all(len(shown[n]) == 2 for n in range(8)), "nothing had been kept"
    assert all(len(shown[n]) == 4 for n in range(9, 60))
    for n, names in shown.items():
        assert all(int(name.split("-")[1]) <= n - 8 for name in names[2:])
    assert len({name for names in shown.values() for name in names[2:]}) > 25


def test_what_was_kept_later_has_no_say() -> None:
    settings = Demonstrations(pool=3, weighting="yield", window=5)
    outcomes = [Outcome((f"s{n % 10}",), 20, n % 3) for n in range(40)]
    rows = [kept(n) for n in range(sum(outcome.kept for outcome in outcomes))]
    early, late = (Chooser(settings, 1, SEEDS) for _ in range(2))
    for n in range(40):
        judged = max(0, n - 4)
        then = Past(rows[: sum(o.kept for o in outcomes[:judged])], outcomes[:judged])
        assert early(n, then) == late(n, Past(rows, outcomes))


def test_a_view_that_was_never_asked_before_sees_the_same() -> None:
    """A resumed run asks for request n first of all."""
    settings = Demonstrations(pool=2, weighting="yield", window=4)
    past = Past([kept(n) for n in range(90)], [Outcome((f"s{n % 7}",), 20, 3) for n in range(30)])
    going = Chooser(settings, 1, SEEDS)
    shown = [going(n, past) for n in range(30)]
    for n in (0, 5, 29):
        assert Chooser(settings, 1, SEEDS)(n, past) == shown[n]


def test_kept_examples_that_are_too_long_are_not_shown() -> None:
    settings = Demonstrations(pool=2, window=1, max_words=20)
    chooser = Chooser(settings, 1, SEEDS)
    rows = [kept(n, "word " * 30 if n % 2 else "Kept") for n in range(100)]
    past = Past(rows, [Outcome((), 20, 100)])
    for n in range(1, 50):
        assert all(int(name.split("-")[1]) % 2 == 0 for name in ids(chooser(n, past))[3:])
    long = Past([row for row in rows if len(row["instruction"]) > 50], [Outcome((), 20, 50)])
    assert len(Chooser(settings, 1, SEEDS)(1, long)) == 3, "none is left: it goes on without"


# --- weights --------------------------------------------------------------------------------------


def test_productive_seeds_are_shown_more_often() -> None:
    """Two seeds of ten bring 16 tasks of 20, the others 4: the weights are about 4 to 1."""
    settings = Demonstrations(seed=1, weighting="yield", window=1)
    chance = random.Random(3)
    outcomes = [
        Outcome((name,), 20, 16 if name in ("s0", "s1") else 4)
        for name in (f"s{chance.randrange(10)}" for _ in range(2000))
    ]
    chooser = Chooser(settings, 1, SEEDS)
    past = Past([], outcomes)
    counted = Counter(ids(chooser(n, past))[0] for n in range(2000, 6000))
    weight = 2 * 0.8 / (2 * 0.8 + 8 * 0.2)
    assert (counted["s0"] + counted["s1"]) / 4000 == pytest.approx(weight, abs=0.03)
    assert min(counted.values()) > 100, "none is left out for good"


def test_a_new_seed_gets_its_chance() -> None:
    settings = Demonstrations(seed=1, weighting="yield", window=1)
    shown = [Outcome((f"s{n % 9}",), 20, 2) for n in range(900)]  # s9 never was
    chooser = Chooser(settings, 1, SEEDS)
    counted = Counter(ids(chooser(n, Past([], shown)))[0] for n in range(900, 1900))
    assert counted["s9"] > 4 * max(counted[f"s{n}"] for n in range(9))


# --- in a run -------------------------------------------------------------------------------------

ASKED = {"seed": 2, "pool": 2, "weighting": "yield", "window": 8}


def recipe(server: TeacherServer, **settings: Any) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": server.url}
    section = {
        "target": 150, "tasks_per_request": 5, "concurrency": 8, "teacher": teacher,
        "demonstrations": ASKED,
    }  # fmt: skip
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, **options: Any) -> Report:
    return generate(what, RunFolder(folder), Progress(Console(file=StringIO())), **options)


def replies(folder: Path) -> dict[int, dict[str, Any]]:
    lines = (folder / "generate" / "journal.jsonl").read_text().splitlines()
    return {row["n"]: row for row in map(json.loads, lines) if row["kind"] == "reply"}


def outputs(folder: Path) -> list[bytes]:
    return [(folder / "generate" / name).read_bytes() for name in ("kept.jsonl", "rejected.jsonl")]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-by-one")
    with TeacherServer() as server:
        run(folder, recipe(server, concurrency=1))
    return folder


def test_kept_examples_are_really_shown(one_by_one: Path) -> None:
    rows = [json.loads(line) for line in outputs(one_by_one)[0].splitlines()]
    known = {row["id"]: row for row in rows}
    shown = {n: row["demonstrations"][2:] for n, row in replies(one_by_one).items()}
    assert not any(shown[n] for n in range(8))
    assert all(len(shown[n]) == 2 for n in range(10, len(shown)))
    for n, names in shown.items():
        assert all(known[name]["meta"]["request"] <= n - 8 for name in names)


@pytest.mark.parametrize("concurrency", [3, 8, 32])
def test_arrival_order_has_no_say(one_by_one: Path, tmp_path: Path, concurrency: int) -> None:
    def latency(asked: Asked) -> float:
        return random.Random(asked.sha).random() * 0.05

    with TeacherServer(latency=latency) as server:
        run(tmp_path, recipe(server, concurrency=concurrency))
        assert server.most <= 8, "no more than the window"
    straight, mixed = replies(one_by_one), replies(tmp_path)
    assert list(mixed) != sorted(mixed)
    common = straight.keys() & mixed.keys()
    assert len(common) >= len(straight) - 1
    assert [straight[n]["request_hash"] for n in common] == [
        mixed[n]["request_hash"] for n in common
    ]
    assert outputs(tmp_path) == outputs(one_by_one)


def test_a_cut_journal_is_continued_with_the_same_requests(
    one_by_one: Path, tmp_path: Path
) -> None:
    stage = tmp_path / "generate"
    with TeacherServer() as server:
        run(tmp_path, recipe(server))
        lines = (stage / "journal.jsonl").read_bytes().splitlines(keepends=True)
        chance = random.Random(5)
        for _ in range(5):
            (stage / "done.json").unlink()
            keep = chance.randrange(len(lines))
            (stage / "journal.jsonl").write_bytes(b"".join(lines[:keep]))
            run(tmp_path, recipe(server, concurrency=chance.choice([1, 4, 20])))
            assert outputs(tmp_path) == outputs(one_by_one)


def test_other_filters_are_replayed_over_kept_examples(tmp_path: Path) -> None:
    with TeacherServer() as server:
        run(tmp_path, recipe(server))
        before, asked = replies(tmp_path), len(server.asked)
        changed = recipe(server, novelty=0.6, filters={"min_words": 5})
        report = run(tmp_path, changed, replay=True)
        assert len(server.asked) == asked
        assert report.replayed == len(before)
        assert 0 < report.kept < 150
        report = run(tmp_path, changed)
        assert report.kept == 150
        assert report.replayed == len(before)
    assert {n: replies(tmp_path)[n] for n in before} == before
