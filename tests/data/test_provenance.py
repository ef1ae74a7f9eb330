"""Where examples come from, added up from the files of real runs: nothing is lost or counted twice,
and what the requests have cost is what the server billed."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.files import write_text
from alpaca_cli.core.journal import whole_rows
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import dump_recipe
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import Producer, Provenance
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.provenance import GENERATED, NO_REPLY, NONE, rows_provenance, run_provenance
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.dedup import run as dedup
from alpaca_cli.stages.generate import run as generate
from alpaca_cli.stages.generation import Generation
from tests.forks import Forks
from tests.servers import Asked, Fault, TeacherServer, error

PRICE = {"input": 1.5, "cached_input": 0.3, "output": 4.0, "batch": 0.5}
EXACT = pytest.approx  # of sums of figures that are rounded to a billionth of a dollar
BILLIONTHS = 1e-6


def recipe(server: TeacherServer, **generate: Any) -> Recipe:
    teacher = {"kind": "openai", "model": "m", "base_url": server.url, "price": PRICE}
    teacher |= {"timeout": 10, "max_attempts": 2} | generate.pop("teacher", {})
    settings = {"target": 150, "tasks_per_request": 5, "concurrency": 8, "teacher": teacher}
    return Recipe.model_validate({"generate": settings | generate, "dedup": {"threshold": 0.55}})


def made(folder: Path, what: Recipe) -> Provenance:
    """The provenance of a generation that ends as it ends."""
    with suppress(BudgetStop):
        generate(what, RunFolder(folder), Progress(Console(file=StringIO())))
    return provenance(folder)


def provenance(folder: Path) -> Provenance:
    return run_provenance(folder / "generate", folder / "dedup")


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def failing(asked: Asked) -> Fault | None:
    """One attempt in five goes wrong; some of these are billed all the same."""
    chance = random.Random(f"{asked.sha}{asked.attempt}")
    if chance.random() > 0.2:
        return None
    now = {"retry-after-ms": "1"}
    return chance.choice([
        Fault(503, headers=now),
        Fault(502, headers=now, billed=True),
        Fault(cut=40),
        error(400, "blocked", code="content_filter"),
    ])  # fmt: skip


def costs(producers: Iterable[Producer]) -> float:
    found = [one.cost for one in producers]
    assert None not in found
    return sum(cost or 0.0 for cost in found)


def check(found: Provenance, report: dict[str, Any]) -> None:
    """All sums of a run agree, and with what generate itself has said."""
    funnel = found.funnel
    assert funnel is not None
    assert funnel.candidates == funnel.generated + sum(funnel.rejected.values())
    assert (funnel.candidates, funnel.generated) == (report["candidates"], report["kept"])
    assert funnel.rejected == report["rejected"]
    dropped = sum(funnel.dropped.values())
    assert funnel.kept in (None, funnel.generated - dropped)
    for producers in (found.teachers, found.positions):
        assert sum(one.candidates for one in producers) == funnel.candidates
        assert sum(one.kept for one in producers) == funnel.generated - dropped
        reasons = Counter[str]()
        for one in producers:
            reasons.update(one.rejected)
        assert reasons == Counter(funnel.rejected) + Counter(funnel.dropped)
    for one in (*found.seeds, *found.teachers, *found.positions):
        assert one.candidates == one.kept + sum(one.rejected.values())
        assert one.kept_share == pytest.approx(one.kept / max(1, one.candidates), abs=1e-6)
    assert sum(one.requests for one in found.teachers) == found.requests
    assert found.cost == EXACT(report["cost"], abs=BILLIONTHS)
    assert costs(found.seeds) == EXACT(found.cost, abs=BILLIONTHS)
    assert costs(found.teachers) == EXACT(found.cost, abs=BILLIONTHS)


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "generate" / "report.json").read_text())
    return report


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Decimal]:
    """The folder of a run with examples of its own among the demonstrations, and its bill."""
    folder = tmp_path_factory.mktemp("run")
    with TeacherServer(caching=True) as server:
        what = recipe(server, demonstrations={"seed": 3, "pool": 2, "window": 8})
        made(folder, what)
        dedup(what, RunFolder(folder), Progress(Console(file=StringIO())))
        return folder, server.billed(PRICE)


def test_a_run_adds_up_to_what_was_billed(run: tuple[Path, Decimal]) -> None:
    folder, billed = run
    found = provenance(folder)
    check(found, report_of(folder))
    assert found.cost == EXACT(float(billed), abs=BILLIONTHS)
    assert found.funnel is not None
    assert found.funnel.dropped["duplicate"] > 3, "dedup had something to do"
    assert found.funnel.kept == len(rows(folder / "dedup" / "kept.jsonl"))
    assert [one.name for one in found.positions] == ["1", "2", "3", "4", "5"]
    assert {one.cost for one in found.positions} == {None}
    assert [one.name for one in found.teachers] == ["m"]
    kept = [one.kept for one in found.seeds if one.name != GENERATED]
    assert kept == sorted(kept, reverse=True)


def test_a_seed_has_what_a_recount_gives_it(run: tuple[Path, Decimal]) -> None:
    folder, _ = run
    found = provenance(folder)
    journal = [row for row in rows(folder / "generate" / "journal.jsonl") if row["kind"] == "reply"]
    dropped = {row["id"]: row["reason"] for row in rows(folder / "dedup" / "dropped.jsonl")}
    made = rows(folder / "generate" / "kept.jsonl"), rows(folder / "generate" / "rejected.jsonl")
    names = {name for row in journal for name in row["demonstrations"] if name[:2] != "g-"}
    assert {one.name for one in found.seeds} == names | {GENERATED}
    for seed in found.seeds[:20]:
        mine = [row for row in journal if seed.name in row["demonstrations"]]
        kept, rejected = (
            [row for row in some if seed.name in row["meta"]["demonstrations"]] for some in made
        )
        lost = [dropped[row["id"]] for row in kept if row["id"] in dropped]
        reasons = Counter(row["reason"] for row in rejected) + Counter(lost)
        assert (seed.requests, seed.kept) == (len(mine), len(kept) - len(lost))
        assert seed.candidates == len(kept) + len(rejected)
        assert seed.rejected == dict(reasons)
        alike = ("repeat", "near_duplicate", "duplicate")
        assert seed.near_duplicates == sum(reasons[reason] for reason in alike)
        paid = [usd(row["usage"]) for row in mine]
        shared = [part / len(row["demonstrations"]) for part, row in zip(paid, mine, strict=True)]
        assert seed.cost == EXACT(sum(shared), abs=1e-9)
        assert seed.cost_per_kept == EXACT(sum(paid) / seed.kept, abs=1e-9)


def usd(usage: dict[str, int]) -> float:
    cached = usage.get("cached_tokens", 0)
    plain = usage["prompt_tokens"] - cached
    return (plain * 1.5 + cached * 0.3 + usage["completion_tokens"] * 4.0) / 1e6


def test_examples_of_the_run_that_were_shown_are_one_entry(run: tuple[Path, Decimal]) -> None:
    folder, _ = run
    journal = [row for row in rows(folder / "generate" / "journal.jsonl") if row["kind"] == "reply"]
    mixed = [row for row in journal if any(name[:2] == "g-" for name in row["demonstrations"])]
    generated = provenance(folder).seeds[-1]
    assert (generated.name, generated.requests) == (GENERATED, len(mixed))
    part = [usd(row["usage"]) * 2 / 5 for row in mixed]
    assert generated.cost == EXACT(sum(part), abs=1e-9)
    own = next(name for name in mixed[0]["demonstrations"] if name[:2] == "g-")
    named = run_provenance(folder / "generate", folder / "dedup", seeds={own}).seeds
    assert own in {one.name for one in named}, "a seed, if its owner says so"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("usage", [True, False])
def test_whatever_goes_wrong_is_in_the_sums(tmp_path: Path, seed: int, usage: bool) -> None:
    with TeacherServer(failing, mistakes=0.3, usage=usage) as server:
        limits = {"max_cost": 5, "max_requests": 40, "min_yield": 0}
        what = recipe(server, target=90, demonstrations=seed + 1, **limits)
        found = made(tmp_path, what.model_copy(update={"seed": seed}))
        billed = float(server.billed(PRICE))
    check(found, report_of(tmp_path))
    assert found.cost is not None
    assert found.cost >= billed - BILLIONTHS, "at the worst case where it is not known"
    failed = [row for row in rows(tmp_path / "generate/journal.jsonl") if row["kind"] == "failed"]
    assert failed
    nobody = next(one for one in found.teachers if one.name == NO_REPLY)
    assert (nobody.requests, nobody.candidates) == (len(failed), 0)


def test_a_batch_costs_what_a_batch_costs(tmp_path: Path) -> None:
    with TeacherServer() as server:
        what = recipe(server, mode="batch", batch={"poll": 0.05})
        found = made(tmp_path, what)
        assert any(entry.batch for entry in server.ledger)
        assert found.cost == EXACT(float(server.billed(PRICE)), abs=BILLIONTHS)
    check(found, report_of(tmp_path))


def test_a_killed_generation_counts_what_was_in_flight(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    journal = folder / "generate" / "journal.jsonl"
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 9 else None) as server:
        what = recipe(server, max_cost=5, concurrency=4, demonstrations=2)
        write_text(tmp_path / "recipe.yaml", dump_recipe(what))
        with Forks(tmp_path) as forks:
            forks.start("generate", f"--recipe={tmp_path / 'recipe.yaml'}", f"--run={folder}")
            forks.wait_until(
                lambda: len(server.asked) == 13 and journal.read_bytes().count(b'"reply"') == 9
            )
            forks.kill()
        with journal.open("ab") as file:
            file.write(b'{"n": 99, "kin')  # what a crash in the middle of a write leaves
        before = journal.read_bytes()
        found = provenance(folder)
        assert journal.read_bytes() == before
        work = Generation(what, load_seeds("builtin"))
        work.replay(whole_rows(journal), journal)
        assert found.funnel is None
        assert found.requests == 13
        assert found.cost == EXACT(float(work.spending.spent), abs=BILLIONTHS)
        assert costs(found.seeds) == EXACT(found.cost, abs=BILLIONTHS)
        flying = found.seeds[-1]
        assert (flying.name, flying.requests) == (NONE, 4)
        server.release.set()
        finished = made(folder, what)
    check(finished, report_of(folder))
    assert finished.cost is not None
    assert finished.cost > costs([flying]), "what was lost then is still paid"
    assert NONE not in {one.name for one in finished.seeds}, "they were asked for again"


def test_costs_are_zero_when_free_and_null_when_not_known(tmp_path: Path) -> None:
    free = Recipe.model_validate({"generate": {"target": 40}})
    found = made(tmp_path / "free", free)
    check(found, report_of(tmp_path / "free"))
    assert found.cost == 0
    with TeacherServer() as server:
        found = made(tmp_path / "unpriced", recipe(server, target=40, teacher={"price": None}))
    assert found.cost is None
    assert {one.cost for one in (*found.seeds, *found.teachers)} == {None}
    assert {one.cost_per_kept for one in found.seeds} == {None}


def test_dedup_of_other_examples_is_not_counted(run: tuple[Path, Decimal], tmp_path: Path) -> None:
    folder, _ = run
    kept = (folder / "generate" / "kept.jsonl").read_bytes()
    for stage in ("generate", "dedup"):
        (tmp_path / stage).mkdir()
        for file in (folder / stage).iterdir():
            (tmp_path / stage / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generate" / "kept.jsonl").write_bytes(kept[: kept[:-1].rindex(b"\n") + 1])
    funnel = provenance(tmp_path).funnel
    assert funnel is not None
    assert (funnel.kept, funnel.dropped) == (None, {})


def test_rows_say_where_they_come_from(run: tuple[Path, Decimal]) -> None:
    folder, _ = run
    path = folder / "generate" / "kept.jsonl"
    examples = read_examples([str(path)])
    found = rows_provenance(examples)
    assert found is not None
    assert (found.funnel, found.cost) == (None, None)
    assert found.requests == len({row["meta"]["request"] for row in rows(path)})
    for producers in (found.teachers, found.positions):
        assert sum(one.kept for one in producers) == len(examples)
    of_run = {one.name: one for one in provenance(folder).seeds}
    for one in found.seeds:
        assert (one.rejected, one.kept_share, one.cost, one.cost_per_kept) == ({}, 1, None, None)
        assert one.kept - of_run[one.name].kept == of_run[one.name].rejected.get("duplicate", 0)


def test_rows_that_say_nothing_have_no_provenance(real_data: Path) -> None:
    assert rows_provenance([]) is None
    assert rows_provenance(read_examples([str(real_data / "alpaca_en_demo.json")])) is None
    meta = {"demonstrations": "three", "teacher": 7, "request": "x", "item": None, "nearest": []}
    foreign = Example("Say hello.", "", "Hello.", meta=meta)
    assert rows_provenance([foreign]) is None
    some = rows_provenance([foreign, Example("Say bye.", "", "Bye.", meta={"teacher": "t"})])
    assert some is not None
    assert [(one.name, one.kept) for one in some.teachers] == [("t", 1)]
    assert (some.seeds, some.positions, some.requests) == ([], [], 0)
