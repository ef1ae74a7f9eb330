"""`alpaca seed --report` on real runs: a planted bad seed is named, no other one is, and what is
said of a seed is what a recount of the run's files says."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop, DataError
from alpaca_cli.core.files import write_jsonl, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import dump_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.rouge import score, tokenize
from alpaca_cli.data.seed_verdicts import (
    Counts,
    Verdict,
    design_effect,
    interval,
    judge_seed,
)
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.generate import run as generate
from alpaca_cli.stages.seed_report import SeedReport, seed_report
from tests import processes
from tests.forks import Forks
from tests.servers import Asked, Fault, TeacherServer, error

PRICE = {"input": 1.5, "output": 4.0}
SEEDS = 12
BAD_ONES: tuple[Verdict, ...] = ("breeds duplicates", "breeds rejections")
SAME = {
    "tasks": [
        {
            "instruction": f"Name {number} birds that live in a wood.",
            "input": "",
            "output": "A jay.",
        }
        for number in ("one", "two", "three", "four", "five")
    ]
}
EMPTY = {"tasks": [task | {"output": ""} for task in SAME["tasks"]]}


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    path = tmp_path / "seeds.jsonl"
    write_jsonl(path, (seed.to_row() for seed in load_seeds("builtin")[:SEEDS]))
    return path


def recipe(server: TeacherServer, seeds: Path, **generate: Any) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": server.url, "price": PRICE}
    settings: dict[str, Any] = {"target": 300, "tasks_per_request": 5, "concurrency": 8}
    settings |= {"novelty": 0.9, "min_yield": 0, "teacher": teacher} | generate
    return Recipe.model_validate({"seeds": {"source": str(seeds)}, "generate": settings})


def made(folder: Path, what: Recipe) -> SeedReport:
    with suppress(BudgetStop):
        generate(what, RunFolder(folder), Progress(Console(file=StringIO())))
    return seed_report(what, RunFolder(folder))


def marks(seeds: Path, row: int) -> tuple[str, Callable[[Asked], bool]]:
    """A seed's id, and whether a request shows it."""
    seed = load_seeds(str(seeds))[row]
    text = json.dumps(seed.instruction, ensure_ascii=False)[1:-1]
    return str(seed.id), lambda asked: text in asked.text or seed.instruction in asked.text


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def named(report: SeedReport) -> list[tuple[str, Verdict]]:
    return [(seed.id, seed.verdict) for seed in report.seeds if seed.verdict in BAD_ONES]


@pytest.mark.parametrize(
    ("reply", "verdict", "reason"),
    [(SAME, "breeds duplicates", "repeat"), (EMPTY, "breeds rejections", "empty_output")],
)
def test_the_seed_that_spoils_its_requests_is_the_only_one_named(
    tmp_path: Path, seeds: Path, reply: dict[str, Any], verdict: Verdict, reason: str
) -> None:
    bad, shows = marks(seeds, 4)
    with TeacherServer(
        answer=lambda asked: json.dumps(reply) if shows(asked) else None, mistakes=0.05
    ) as server:
        report = made(tmp_path / "run", recipe(server, seeds))
        assert report.cost == pytest.approx(float(server.billed(PRICE)), abs=1e-6)
    assert named(report) == [(bad, verdict)]
    worst, *others = report.seeds
    assert worst.id == bad
    assert worst.probability is not None
    assert worst.probability < 0.001
    assert worst.high < min(seed.low for seed in others)
    assert worst.common_rejection == reason
    assert report.finished
    assert report.shown == SEEDS
    assert sum(report.verdicts.values()) == SEEDS
    if reason == "repeat":
        assert worst.near_duplicates == worst.candidates - worst.kept
    prices = [seed.cost_per_kept for seed in others]
    assert report.cost_per_kept is not None
    assert worst.kept == 0 or (worst.cost_per_kept or 0) > max(price or 0 for price in prices)


def test_a_seed_that_the_teacher_refuses_is_named_although_it_has_no_candidates(
    tmp_path: Path, seeds: Path
) -> None:
    bad, shows = marks(seeds, 7)
    blocked = error(400, "blocked", code="content_filter")
    with TeacherServer(lambda asked: blocked if shows(asked) else None) as server:
        report = made(tmp_path / "run", recipe(server, seeds))
    assert named(report) == [(bad, "breeds rejections")]
    worst = report.seeds[0]
    assert (worst.id, worst.candidates, worst.kept_share) == (bad, 0, 0)
    assert worst.requests == worst.lost == report.lost > 5
    assert worst.cost == 0
    assert worst.similarity is None


def test_figures_are_those_of_a_recount(tmp_path: Path, seeds: Path) -> None:
    with TeacherServer(mistakes=0.2) as server:
        report = made(tmp_path / "run", recipe(server, seeds, target=200))
        billed = float(server.billed(PRICE))
    folder = tmp_path / "run" / "generate"
    kept, rejected = rows(folder / "kept.jsonl"), rows(folder / "rejected.jsonl")
    texts = {str(seed.id): seed.instruction for seed in load_seeds(str(seeds))}
    assert (report.kept, report.candidates) == (200, 200 + len(rejected))
    assert report.rejected == dict(Counter(row["reason"] for row in rejected))
    assert sum(seed.cost or 0 for seed in report.seeds) == pytest.approx(billed, abs=1e-6)
    assert report.cost_per_kept == pytest.approx(billed / 200, abs=1e-6)
    assert {seed.id for seed in report.seeds} == set(texts)
    for seed in report.seeds:
        mine, theirs = (
            [row for row in some if seed.id in row["meta"]["demonstrations"]]
            for some in (kept, rejected)
        )
        reasons = Counter(row["reason"] for row in theirs)
        assert seed.rejected == dict(reasons)
        assert (seed.kept, seed.candidates) == (len(mine), len(mine) + len(theirs))
        judged = seed.candidates - reasons["over_target"]
        assert seed.kept_share == pytest.approx(len(mine) / judged, abs=1e-6)
        words = tokenize(texts[seed.id], "unicode")
        scores = [score(words, tokenize(row["instruction"], "unicode")) for row in mine]
        assert seed.similarity is not None
        assert seed.similarity.mean == pytest.approx(np.mean(scores), abs=1e-5)
        assert seed.similarity.max == pytest.approx(max(scores), abs=1e-5)
        near = [row["meta"].get("nearest", {}).get("id") for row in theirs]
        assert seed.copies == near.count(seed.id)


def test_copies_of_a_seed_are_told(tmp_path: Path, seeds: Path) -> None:
    bad, shows = marks(seeds, 2)
    copy = next(seed for seed in load_seeds(str(seeds)) if seed.id == bad)
    task = {"instruction": copy.instruction, "input": copy.input, "output": copy.output}
    reply = json.dumps({"tasks": [task] * 5})
    with TeacherServer(answer=lambda a: reply if shows(a) else None, mistakes=0) as server:
        report = made(tmp_path / "run", recipe(server, seeds))
    assert named(report) == [(bad, "breeds duplicates")]
    worst = report.seeds[0]
    assert worst.copies == worst.candidates > 0
    assert sum(seed.copies for seed in report.seeds[1:]) == 0


def test_a_killed_generation_has_the_report_of_its_journal(tmp_path: Path, seeds: Path) -> None:
    folder = tmp_path / "run"
    journal = folder / "generate" / "journal.jsonl"
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 30 else None) as server:
        what = recipe(server, seeds, max_cost=5)
        write_text(tmp_path / "recipe.yaml", dump_recipe(what))
        with Forks(tmp_path) as forks:
            forks.start("generate", f"--recipe={tmp_path / 'recipe.yaml'}", f"--run={folder}")
            forks.wait_until(
                lambda: len(server.asked) == 38 and journal.read_bytes().count(b'"reply"') == 30
            )
            # Beside the running one, which holds the lock: nothing is written, no file appears.
            before = state(folder)
            beside = told(tmp_path, "--run", folder)
            assert state(folder) == before
            forks.kill()
        with journal.open("ab") as file:
            file.write(b'{"n": 99, "kin')
        report = seed_report(what, RunFolder(folder))
    assert not report.finished
    assert beside == json.loads(json.dumps(as_json(report)))
    assert (report.requests, report.cost is not None) == (38, True)
    assert report.kept > 50
    assert [other.name for other in report.others] == ["(none)"]
    assert "not finished" in report.notes[0]
    with suppress(BudgetStop):
        generate(what, RunFolder(folder), Progress(Console(file=StringIO())), replay=True)
    assert not (folder / "generate" / "done.json").exists()
    kept = rows(folder / "generate" / "kept.jsonl")
    assert report.kept == len(kept)
    for seed in report.seeds:
        assert seed.kept == sum(seed.id in row["meta"]["demonstrations"] for row in kept)


def state(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_json(report: SeedReport) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(report)


def told(cwd: Path, *arguments: object, code: int = 0) -> dict[str, Any]:
    done = processes.run("seed", "--report", *arguments, "--json", cwd=cwd, code=code)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_on_a_terminal_nothing_is_wider_than_it(tmp_path: Path, seeds: Path) -> None:
    bad, shows = marks(seeds, 4)
    folder = tmp_path / "run"
    with TeacherServer(
        answer=lambda asked: json.dumps(SAME) if shows(asked) else None, mistakes=0.05
    ) as server:
        what = recipe(server, seeds)
        made(folder, what)
    write_text(folder / "recipe.yaml", dump_recipe(what))
    for columns in ("60", "100"):
        done = processes.run("seed", "--report", "--run", folder, cwd=tmp_path, COLUMNS=columns)
        lines = done.stdout.splitlines()
        assert max(map(len, lines)) <= int(columns), done.stdout
        table = lines[next(i for i, line in enumerate(lines) if line.startswith("worst")) + 1]
        assert table.startswith(bad[:12])
        assert "breeds duplicates" in table
        assert "to edit or take out" in done.stdout
        assert f"next: alpaca seed {seeds}" in done.stderr
    assert "most often" in done.stdout


def test_a_run_without_a_generation_is_refused(tmp_path: Path) -> None:
    done = processes.run("seed", "--report", "--run", tmp_path / "none", cwd=tmp_path, code=3)
    assert "nothing was generated in this run" in done.stderr
    assert not (tmp_path / "none").exists()
    done = processes.run("seed", "a.json", "--report", cwd=tmp_path, code=2)
    assert "takes no FILES" in done.stderr


def test_seeds_that_were_edited_since(tmp_path: Path, seeds: Path) -> None:
    folder = tmp_path / "run"
    first, *others = rows(seeds)
    with TeacherServer() as server:
        what = recipe(server, seeds, target=100)
        made(folder, what)
        write_jsonl(seeds, [first | {"instruction": "Another one."}, *others[1:]])
        report = seed_report(what, RunFolder(folder))
        assert "have changed" in report.notes[0]
        gone = next(seed for seed in report.seeds if seed.id == others[0]["id"])
        assert (gone.instruction, gone.similarity) == ("", None)
        assert gone.requests > 0
        # As stored by `alpaca seed`, they are found again.
        write_jsonl(folder / "seed" / "kept.jsonl", [first, *others])
        again = seed_report(what, RunFolder(folder))
        assert again.notes == []
        (folder / "generate" / "done.json").unlink()
        assert seed_report(what, RunFolder(folder)).kept == again.kept
        (folder / "seed" / "kept.jsonl").unlink()
        with pytest.raises(DataError, match="not the seeds that"):
            seed_report(what, RunFolder(folder))


def test_seeds_never_shown_are_listed_last(tmp_path: Path) -> None:
    what = Recipe.model_validate({"generate": {"target": 60, "demonstrations": 1}})
    report = made(tmp_path / "run", what)
    assert 0 < report.shown < len(report.seeds)
    unseen = report.seeds[report.shown :]
    assert {(seed.requests, seed.verdict, seed.probability) for seed in unseen} == {
        (0, "too little shown", None)
    }
    assert all(seed.requests for seed in report.seeds[: report.shown])
    assert report.cost == 0


# --- the rule ---------------------------------------------------------------------------------


def drawn(
    chance: np.random.Generator, share: float, scatter: float, requests: int, planted: float = -1
) -> list[Verdict]:
    """Verdicts about 175 seeds, three in a request, that all have the same share; with `planted`,
    another one for requests that show the first."""
    count, tasks = 175, np.full(requests, 20)
    shown = chance.random((requests, count)).argpartition(3, axis=1)[:, :3]
    spread = (1 - scatter) / scatter
    means = chance.beta(share * spread, (1 - share) * spread, requests)
    if planted >= 0:
        means[(shown == 0).any(axis=1)] = planted
    lost = chance.random(requests) < 0.03
    kept = chance.binomial(tasks, means) * ~lost
    alike = chance.binomial(tasks - kept, 0.5) * ~lost
    outcomes = np.stack([np.where(lost, 1, tasks), kept, alike, tasks // 20, lost], axis=1)
    by_seed = np.zeros((count, 5), int)
    for place in range(3):
        np.add.at(by_seed, shown[:, place], outcomes)
    total, pairs = outcomes.sum(axis=0), outcomes[:, :2].tolist()
    effect = design_effect(pairs)
    run = Counts(*total.tolist())
    return [judge_seed(Counts(*each.tolist()), run, count, effect)[0] for each in by_seed]


@pytest.mark.parametrize(("share", "scatter", "requests"), [(0.7, 0.2, 300), (0.95, 0.4, 150)])
def test_of_seeds_that_are_alike_at_most_one_report_in_twenty_names_any(
    share: float, scatter: float, requests: int
) -> None:
    chance = np.random.default_rng(7)
    reports = [drawn(chance, share, scatter, requests) for _ in range(200)]
    assert sum(any(one.startswith("breeds") for one in report) for report in reports) <= 10


@pytest.mark.parametrize(("planted", "verdict"), [(0.2, BAD_ONES), (0.99, ("breeds",))])
def test_a_seed_that_differs_is_found_among_many(
    planted: float, verdict: Sequence[Verdict]
) -> None:
    chance = np.random.default_rng(8)
    for _ in range(5):
        first, *others = drawn(chance, 0.6, 0.05, 3000, planted)
        assert first in verdict
        assert set(others) == {"ordinary"}


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval(part: int, whole: int, low: float, high: float) -> None:
    assert interval(part, whole) == pytest.approx((low, high), abs=5e-5)
    assert interval(2 * part, 2 * whole, 2) == pytest.approx(interval(part, whole))
    assert interval(0, 0) == (0, 1)


def test_the_probability_is_the_exact_one() -> None:
    """Term by term: 3 or fewer of 40 when 30 in 100 are kept, and 20 or more."""
    run, seeds = Counts(1000, 300, 200, 50, 0), 2

    def chance(kept: Sequence[int]) -> float:
        return sum(math.comb(40, k) * 0.3**k * 0.7 ** (40 - k) for k in kept)

    for kept, tail in ((3, range(4)), (20, range(20, 41))):
        found = judge_seed(Counts(40, kept, 5, 2, 0), run, seeds, 1.0)[1]
        assert found == pytest.approx(min(1.0, 2 * chance(tail) * 2 * seeds))
    assert judge_seed(Counts(40, 3, 30, 2, 0), run, seeds, 1.0)[0] == "breeds duplicates"
    assert judge_seed(Counts(40, 3, 2, 2, 0), run, seeds, 1.0)[0] == "breeds rejections"
    assert judge_seed(Counts(40, 33, 2, 2, 0), run, seeds, 1.0)[0] == "breeds"
    assert judge_seed(Counts(5, 0, 5, 1, 0), run, seeds, 1.0)[0] == "too little shown"
    assert judge_seed(Counts(40, 12, 5, 2, 0), run, seeds, 1.0)[0] == "ordinary"
    assert judge_seed(Counts(40, 3, 30, 2, 0), run, seeds, 4.0)[0] != "breeds duplicates"


def test_replies_that_are_all_or_nothing_count_as_one_candidate_each() -> None:
    chance = random.Random(3)
    whole = [(20, 20 * (chance.random() < 0.5)) for _ in range(400)]
    assert design_effect(whole) == pytest.approx(20, rel=0.02)
    apart = [(20, sum(chance.random() < 0.5 for _ in range(20))) for _ in range(400)]
    assert design_effect(apart) == pytest.approx(1, abs=0.2)
    assert design_effect([]) == design_effect([(5, 1)]) == design_effect([(5, 5)] * 9) == 1
