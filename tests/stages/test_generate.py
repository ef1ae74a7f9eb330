"""Generation, with the embedded teacher and over HTTP: cut anywhere, it ends in the same bytes."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop, DataError, TeacherError, TryAgain, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.stages.estimate import estimate
from alpaca_cli.stages.generate import Report
from alpaca_cli.stages.generate import run as generate
from alpaca_cli.stages.generation import Generation
from tests import processes
from tests.servers import Asked, Fault, TeacherServer

OUTPUTS = ("kept.jsonl", "rejected.jsonl")
PRICE = {"input": 1.0, "output": 2.0}
KEY = "sk-test-abcdefghijklmnop"


def recipe(server: TeacherServer | None = None, **settings: Any) -> Recipe:
    """60 examples, 5 tasks a request, 4 requests in flight, some mistakes."""
    teacher: dict[str, Any] = {"kind": "procedural", "mistakes": 0.1}
    if server is not None:
        teacher = {"kind": "openai", "model": "m", "base_url": server.url}
    teacher |= settings.pop("teacher", {})
    section = {"target": 60, "tasks_per_request": 5, "concurrency": 4, "teacher": teacher}
    return Recipe.model_validate({"generate": section | settings})


def run(folder: Path, what: Recipe, **options: Any) -> Report:
    return generate(what, RunFolder(folder), Progress(Console(file=StringIO())), **options)


def outputs(folder: Path) -> list[bytes]:
    return [(folder / "generate" / name).read_bytes() for name in OUTPUTS]


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "generate" / "journal.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def journal(folder: Path) -> list[dict[str, Any]]:
    """The replies and failures in a journal."""
    return [row for row in rows(folder) if row["kind"] in ("reply", "failed")]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of an uninterrupted run over HTTP, in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("straight")
    with TeacherServer() as server:
        run(folder, recipe(server))
    return outputs(folder)


# --- what is kept ---------------------------------------------------------------------------------


def test_the_embedded_teacher_fills_the_target(tmp_path: Path) -> None:
    report = run(tmp_path, recipe())
    kept = [json.loads(line) for line in outputs(tmp_path)[0].splitlines()]
    rejected = [json.loads(line) for line in outputs(tmp_path)[1].splitlines()]
    assert report.kept == len(kept) == 60
    assert report.candidates == len(kept) + len(rejected)
    assert sum(report.rejected.values()) == len(rejected)
    assert {row["reason"] for row in rejected} == report.rejected.keys()
    assert report.rejected.keys() > {"repeat", "over_target"}
    assert len({row["id"] for row in kept + rejected}) == report.candidates
    assert all(len(row["meta"]["demonstrations"]) == 3 for row in kept)
    assert (report.cost, report.tokens) == (0.0, None)
    assert report.requests == len(journal(tmp_path)) - report.unused


def test_finished_means_up_to_date(tmp_path: Path) -> None:
    first = run(tmp_path, recipe())
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "generate").iterdir()}
    assert run(tmp_path, recipe(concurrency=1)) == first
    assert {path: path.stat().st_mtime_ns for path in files} == files


@pytest.mark.parametrize(
    "changed",
    [
        {"target": 90},
        {"target": 20},
        {"novelty": 0.4},
        {"novelty_key": "instruction+input"},
        {"filters": {"keywords": ["number", "word"]}},
        {"filters": {"min_words": 6, "ascii_start": True}},
    ],
)
def test_a_free_setting_is_replayed_and_ends_as_if_set_at_once(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    with TeacherServer() as server:
        run(tmp_path / "changed", recipe(server))
        paid = {row["n"]: row for row in journal(tmp_path / "changed")}
        report = run(tmp_path / "changed", recipe(server, **changed))
        run(tmp_path / "at-once", recipe(server, **changed))
    assert outputs(tmp_path / "changed") == outputs(tmp_path / "at-once")
    assert report.replayed == len(paid)
    after = [row for row in journal(tmp_path / "changed") if row["n"] in paid]
    assert after == list(paid.values()), "nothing was asked for, or journalled, again"


def test_a_paid_setting_needs_fresh(tmp_path: Path) -> None:
    run(tmp_path, recipe())
    before = outputs(tmp_path)
    with pytest.raises(UsageError, match=r"generate\.demonstrations\.seed: was 3, now 2"):
        run(tmp_path, recipe(demonstrations=2))
    with pytest.raises(UsageError, match=r"generate\.teacher\.mistakes: was 0\.1, now 0\.2"):
        run(tmp_path, recipe(teacher={"mistakes": 0.2}))
    assert outputs(tmp_path) == before
    run(tmp_path, recipe(demonstrations=2), fresh="changed")
    assert outputs(tmp_path) != before
    assert (tmp_path / "generate.old-1" / "kept.jsonl").read_bytes() == before[0]


def test_changed_seeds_need_fresh(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do thing {n}.", "input": "", "output": "x"} for n in range(9)]
    seeds = tmp_path / "seeds.json"
    seeds.write_text(json.dumps(rows))
    mine = Recipe.model_validate(recipe().model_dump() | {"seeds": {"source": str(seeds)}})
    run(tmp_path / "run", mine)
    seeds.write_text(json.dumps(rows[:-1]))
    with pytest.raises(UsageError, match="seeds: was"):
        run(tmp_path / "run", mine)


def test_what_another_run_has_kept_can_be_its_seeds(tmp_path: Path) -> None:
    """Their ids are those that this run gives to examples, which it shows, too."""
    run(tmp_path / "first", recipe(target=20))
    seeds = {"source": str(tmp_path / "first/generate/kept.jsonl")}
    shown = {"seed": 2, "pool": 2, "window": 1}
    what = recipe(demonstrations=shown).model_dump() | {"seeds": seeds}
    run(tmp_path / "second", Recipe.model_validate(what))
    what["generate"]["target"] = 90
    report = run(tmp_path / "second", Recipe.model_validate(what))
    assert report.kept == 90
    names = {str(seed.id) for seed in load_seeds(seeds["source"])}
    assert not names & {
        json.loads(line)["id"] for line in outputs(tmp_path / "second")[0].splitlines()
    }


def test_replay_never_asks(tmp_path: Path) -> None:
    with TeacherServer() as server:
        with pytest.raises(DataError, match="no replies to look at again"):
            run(tmp_path, recipe(server), replay=True)
        run(tmp_path, recipe(server))
        asked = len(server.asked)
        report = run(tmp_path, recipe(server, target=10_000), replay=True)
        assert len(server.asked) == asked
        assert 60 <= report.kept < 10_000
        assert not (tmp_path / "generate" / "done.json").exists()
        assert run(tmp_path, recipe(server, target=30), replay=True).kept == 30
        assert len(server.asked) == asked


def test_a_replay_judges_again_even_what_is_up_to_date(tmp_path: Path) -> None:
    first = run(tmp_path, recipe())
    before = outputs(tmp_path)
    # What an older parser might have made of the replies.
    (tmp_path / "generate" / "rejected.jsonl").write_bytes(b"x" * len(before[1]))
    again = run(tmp_path, recipe(), replay=True)
    assert outputs(tmp_path) == before
    assert again.kept == first.kept
    assert again.replayed == len(journal(tmp_path))
    assert run(tmp_path, recipe()) == again, "and is up to date after it"


def test_a_lost_output_comes_back_from_the_journal(tmp_path: Path) -> None:
    run(tmp_path, recipe())
    before = outputs(tmp_path)
    (tmp_path / "generate" / "rejected.jsonl").unlink()
    report = run(tmp_path, recipe())
    assert outputs(tmp_path) == before
    assert report.replayed == len(journal(tmp_path))


def test_estimate_sends_nothing(tmp_path: Path) -> None:
    with TeacherServer() as server:
        priced = recipe(server, teacher={"price": PRICE}, target=350, max_cost=9)
        plan = estimate(priced, RunFolder(tmp_path))
        assert server.asked == []
    assert plan.requests == 100
    assert plan.cost == (plan.input_tokens * 1 + plan.output_tokens * 2) / 1e6
    assert plan.worst_case_per_request is not None
    assert plan.worst_case_per_request > 8192 * 2 / 1e6
    assert "Write 5 new tasks" in plan.request["messages"][1]["content"]


# --- arrival order, retries, refusals -------------------------------------------------------------


def test_arrival_order_has_no_say(tmp_path: Path, straight: list[bytes]) -> None:
    others = threading.Event()

    def fault(asked: Asked) -> Fault | None:
        if asked.number == 1:
            others.wait(20)  # the second request is answered after eight others
        elif asked.number == 9:
            others.set()
        return None

    with TeacherServer(fault) as server:
        run(tmp_path / "run", recipe(server))
        assert 2 <= server.most <= 4
    assert journal(tmp_path / "run")[1]["n"] != 1
    assert outputs(tmp_path / "run") == straight


FLAKY = [
    Fault(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "20"}),
    Fault(503, b"<html>", {"retry-after": "0"}),
    Fault(500, {"error": "oops"}, {"retry-after-ms": "5"}),
]


def test_every_first_attempt_fails(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer(lambda a: FLAKY[a.number % 3] if a.attempt == 1 else None) as server:
        run(tmp_path / "run", recipe(server))
    assert {row["attempts"] for row in journal(tmp_path / "run")} == {2}
    assert outputs(tmp_path / "run") == straight


def test_broken_replies_are_asked_for_again_and_counted_as_billed(
    tmp_path: Path, straight: list[bytes]
) -> None:
    broken = [Fault(200, b"<html>hello</html>"), Fault(cut=50), Fault(200, {"choices": []})]
    with TeacherServer(lambda a: broken[a.number] if a.number < 3 else None) as server:
        report = run(tmp_path / "run", recipe(server, teacher={"price": PRICE}))
        billed = server.tokens
    assert sum(row["lost"] for row in journal(tmp_path / "run")) == 3
    assert outputs(tmp_path / "run") == straight
    told = (billed["prompt_tokens"] * 1 + billed["completion_tokens"] * 2) / 1e6
    assert report.tokens is not None
    assert report.tokens["output"] == billed["completion_tokens"]
    assert report.cost is not None
    assert report.cost > told + 3 * 8192 * 2 / 1e6, "a lost attempt counts at its worst case"


def test_a_teacher_that_stays_busy_ends_in_try_again(tmp_path: Path, straight: list[bytes]) -> None:
    patient = {"patience": 0.4}
    with TeacherServer(lambda a: FLAKY[0] if a.number >= 6 else None) as server:
        with pytest.raises(TryAgain, match=r"the teacher has no room: 429: slow down"):
            run(tmp_path / "run", recipe(server, teacher=patient))
        assert 0 < len(journal(tmp_path / "run")) <= 6
    with TeacherServer() as server:
        run(tmp_path / "run", recipe(server, teacher=patient))
    assert outputs(tmp_path / "run") == straight


def test_an_endpoint_that_asks_for_an_hour_gets_it(tmp_path: Path) -> None:
    rest = Fault(429, {"error": {"message": "daily limit"}}, {"retry-after": "3600"})
    with (
        TeacherServer(lambda a: rest) as server,
        pytest.raises(TryAgain, match=r"no room: 429: daily limit \(rest: 3\d\d\d s\)"),
    ):
        run(tmp_path, recipe(server))
    assert len(server.asked) <= 4


def test_a_refused_key_keeps_what_was_in_flight(
    tmp_path: Path, straight: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    refused = threading.Event()

    def fault(asked: Asked) -> Fault | None:
        if asked.number == 4:
            refused.set()
            return Fault(401, {"error": {"message": f"bad key {KEY}"}})
        if asked.number in (3, 5, 6):
            refused.wait(20)  # still in flight when the refusal arrives
        return None

    with TeacherServer(fault) as server:
        with pytest.raises(TeacherError, match=r"401: bad key \[key\]"):
            run(tmp_path / "run", recipe(server))
        assert len(journal(tmp_path / "run")) == server.answered == len(server.asked) - 1
    for file in (tmp_path / "run").rglob("*.*"):
        assert KEY not in file.read_text()
    with TeacherServer() as server:
        run(tmp_path / "run", recipe(server))
    assert outputs(tmp_path / "run") == straight


NO = Fault(400, {"error": {"message": "blocked", "code": "content_filter"}})


def test_a_refused_request_is_left_out_for_good(tmp_path: Path) -> None:
    with TeacherServer(lambda a: NO if a.number in (2, 5) else None) as server:
        report = run(tmp_path, recipe(server))
        assert (report.failed, report.kept) == (2, 60)
        failed = [row for row in journal(tmp_path) if row["kind"] == "failed"]
        assert [row["text"] for row in failed] == ["400: blocked"] * 2
        before, asked = outputs(tmp_path), len(server.asked)
        (tmp_path / "generate" / "done.json").unlink()
        assert run(tmp_path, recipe(server)).failed == 2
        assert (outputs(tmp_path), len(server.asked)) == (before, asked)


def test_half_a_character_in_what_an_endpoint_says_stops_nothing(tmp_path: Path) -> None:
    cut = Fault(400, b'{"error": {"message": "blocked: \\ud83d", "code": "content_filter"}}')
    with TeacherServer(lambda a: cut if a.number == 2 else None) as server:
        assert run(tmp_path, recipe(server)).kept == 60
    (failed,) = (row for row in journal(tmp_path) if row["kind"] == "failed")
    assert failed["text"] == "400: blocked: ?"


def test_a_refusal_of_everything_blames_no_request(tmp_path: Path, straight: list[bytes]) -> None:
    with TeacherServer(lambda a: NO) as server:
        with pytest.raises(TeacherError, match=r"refused 1\d requests in a row; the last: 400"):
            run(tmp_path / "run", recipe(server))
        assert journal(tmp_path / "run") == []
    with TeacherServer() as server:
        run(tmp_path / "run", recipe(server))
    assert outputs(tmp_path / "run") == straight


# --- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [True, False])
def test_no_more_is_billed_than_max_cost(tmp_path: Path, usage: bool) -> None:
    """The server bills the most that it may for every answer, and for some that never arrive."""
    teacher = {"price": PRICE, "max_output_tokens": 1000}
    lost = Fault(200, b"<html>gateway</html>")

    def fault(asked: Asked) -> Fault | None:
        return lost if asked.attempt == 1 and asked.number % 4 == 3 else None

    billed = 0.0
    with TeacherServer(fault, usage=usage, completion_tokens=1000) as server:
        for cap in (0.001, 0.02, 0.05):
            with pytest.raises(BudgetStop, match=r"generate\.max_cost"):
                run(tmp_path, recipe(server, teacher=teacher, concurrency=16, max_cost=cap))
            billed = sum(len(a.text.split()) * 1 + 1000 * 2 for a in server.asked) / 1e6
            assert billed <= cap
            assert (billed > cap / 4) == (cap > 0.01)
        report = json.loads((tmp_path / "generate" / "report.json").read_text())
        assert report["cost"] >= billed - 1e-6
        run(tmp_path, recipe(server, teacher=teacher, concurrency=16, max_cost=5))


def test_a_cost_limit_without_a_price_is_refused() -> None:
    with TeacherServer() as server, pytest.raises(ValueError, match=r"teacher\.price"):
        recipe(server, max_cost=1)


def test_max_requests(tmp_path: Path) -> None:
    with TeacherServer() as server:
        with pytest.raises(BudgetStop, match=r"max_requests: 3 requests"):
            run(tmp_path, recipe(server, max_requests=3))
        assert len(server.asked) == 3
        first = outputs(tmp_path)
        with pytest.raises(BudgetStop, match=r"max_requests: 5 requests"):
            run(tmp_path, recipe(server, max_requests=5))
        assert len(server.asked) == 5
        assert outputs(tmp_path)[0].startswith(first[0])


def test_a_teacher_with_nothing_new_to_say_is_stopped(tmp_path: Path) -> None:
    item = {"instruction": "Name a yellow fruit.", "input": "", "output": "Lemon"}
    message = {"content": json.dumps({"tasks": [item]})}
    same = Fault(200, {"choices": [{"message": message, "finish_reason": "stop"}]})
    with TeacherServer(lambda a: same) as server:
        with pytest.raises(BudgetStop, match=r"0\.02 examples each \(rejected so far: repeat 49"):
            run(tmp_path, recipe(server))
        assert len(server.asked) <= 50 + 8 * 4
        asked = len(server.asked)
        with pytest.raises(BudgetStop, match="min_yield"):
            run(tmp_path, recipe(server))
        assert len(server.asked) == asked, "the answer to the same question is in the journal"
    assert run(tmp_path, recipe(server, target=1)).kept == 1, "take what there is"


def test_little_is_asked_for_beyond_the_target(tmp_path: Path) -> None:
    with TeacherServer() as server:
        report = run(tmp_path, recipe(server, target=120, concurrency=32))
    assert report.unused <= 5


# --- journal --------------------------------------------------------------------------------------


def test_any_cut_of_the_journal_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "generate" / "journal.jsonl"
    with TeacherServer() as server:
        run(tmp_path, recipe(server))
        before, whole = outputs(tmp_path), path.read_bytes()
        for size in (0, 100, len(whole) // 3, len(whole) - 1, len(whole)):
            path.write_bytes(whole[:size])
            (path.parent / "done.json").unlink()
            report = run(tmp_path, recipe(server))
            assert outputs(tmp_path) == before
            kept = whole[:size].rpartition(b"\n")[0].splitlines()
            assert report.replayed == sum(b'"kind":"reply"' in line for line in kept)


def test_a_damaged_journal_is_refused_with_its_place(tmp_path: Path) -> None:
    run(tmp_path, recipe())
    path = tmp_path / "generate" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (tmp_path / "generate" / "done.json").unlink()
    for line, message in (
        (b"{broken\n", "journal.jsonl:2: not a JSON line"),
        (b"[1]\n", "not a row of this journal"),
        (b'{"kind":"reply","n":1,"text":"x"}\n', "not a row of this journal"),
        (lines[1].replace(b'"request_hash":"', b'"request_hash":"0'), "answers another request"),
    ):
        path.write_bytes(b"".join([lines[0], line, *lines[2:]]))
        with pytest.raises(DataError, match=message):
            run(tmp_path, recipe())


def test_a_journal_that_cannot_grow_keeps_what_it_has(
    tmp_path: Path, straight: list[bytes]
) -> None:
    with TeacherServer() as server:
        # No file may pass 8 KiB, as on a full disk.
        limited = ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *processes.COMMAND]
        done = subprocess.run(
            [*limited, *arguments(server, tmp_path / "run")],
            env=processes.environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2, done.stderr
        assert "cannot write: File too large" in done.stderr
        kept = {row["n"] for row in journal(tmp_path / "run")}
        assert kept
        asked = len(server.asked)
        report = run(tmp_path / "run", recipe(server))
    assert report.replayed == len(kept)
    assert len(server.asked) - asked < 20
    assert outputs(tmp_path / "run") == straight


# --- the command ----------------------------------------------------------------------------------


def arguments(server: TeacherServer | None, folder: Path, **more: object) -> list[str]:
    keys: dict[str, object] = {"target": 60, "tasks_per_request": 5, "concurrency": 4}
    if server is None:
        keys |= {"teacher.kind": "procedural", "teacher.mistakes": 0.1}
    else:
        keys |= {"teacher.kind": "openai", "teacher.model": "m", "teacher.base_url": server.url}
    sets = [f"--set=generate.{key}={value}" for key, value in (keys | more).items()]
    return ["generate", f"--run={folder}", *sets]


def test_kill_at_many_instants_over_http(tmp_path: Path, straight: list[bytes]) -> None:
    folder = tmp_path / "run"
    path = folder / "generate" / "journal.jsonl"
    stall = 0

    def fault(asked: Asked) -> Fault | None:
        return Fault(hold=True) if asked.number >= stall else None

    kept_bodies: set[str] = set()
    for count in (1, 6):
        stall = count + 3
        with TeacherServer(fault) as server:
            process = processes.start(*arguments(server, folder), cwd=tmp_path)
            processes.kill_when(process, grown(path, count))
            asked = {json.dumps(a.body["messages"]) for a in server.asked}
            assert not asked & kept_bodies, "a journalled reply was asked for again"
        with path.open("ab") as file:
            file.write(b'{"n": 7, "kind": "re')  # what a crash in the middle of a write leaves
        there = [json.loads(line) for line in path.read_bytes().splitlines()[:-1]]
        replies = [row for row in there if row["kind"] == "reply"]
        kept_bodies |= {json.dumps(body(row["n"])) for row in replies}
        assert not (folder / "generate" / "done.json").exists()
    with TeacherServer() as server:
        processes.run(*arguments(server, folder), cwd=tmp_path)
        assert not {json.dumps(a.body["messages"]) for a in server.asked} & kept_bodies
    assert outputs(folder) == straight


def grown(path: Path, lines: int) -> Callable[[], bool]:
    """Whether a file has got so many more lines since this was called."""
    before = processes.lines(path)
    return lambda: processes.lines(path) >= before + lines


def body(n: int) -> Any:
    """The messages of request n."""
    return Generation(recipe(), load_seeds("builtin")).request(n).body["messages"]


def test_kill_the_embedded_teacher(tmp_path: Path) -> None:
    more = {"target": 6000, "novelty": 1, "novelty_key": "instruction+input"}
    folder = tmp_path / "cut"
    path = folder / "generate" / "journal.jsonl"
    process = processes.start(*arguments(None, folder, **more), cwd=tmp_path)
    processes.kill_when(process, grown(path, 1))
    assert not (folder / "generate" / "done.json").exists()
    processes.run(*arguments(None, folder, **more), cwd=tmp_path)
    processes.run(*arguments(None, tmp_path / "straight", **more), cwd=tmp_path)
    assert outputs(folder) == outputs(tmp_path / "straight")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_the_replies_in_flight(
    number: signal.Signals, code: int, tmp_path: Path, straight: list[bytes]
) -> None:
    folder = tmp_path / "run"
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 5 else None) as server:
        process = processes.start(*arguments(server, folder), cwd=tmp_path)
        processes.wait_until(process, lambda: len(server.asked) == 9)
        process.send_signal(number)
        said = lines_until(process, "for 4 replies that are under way")
        server.release.set()
        _, rest = process.communicate(timeout=30)
        assert process.returncode == code, said + rest
        assert "the same command goes on" in rest
        assert len(journal(folder)) == server.answered == 9, "paid for, so kept"
    assert straight[0].startswith(outputs(folder)[0])
    assert outputs(folder)[0]
    with TeacherServer() as server:
        processes.run(*arguments(server, folder), cwd=tmp_path)
    assert outputs(folder) == straight


def test_a_second_ctrl_c_waits_for_nothing(tmp_path: Path) -> None:
    with TeacherServer(lambda a: Fault(hold=True) if a.number >= 2 else None) as server:
        process = processes.start(*arguments(server, tmp_path / "run"), cwd=tmp_path)
        processes.wait_until(process, lambda: len(server.asked) == 6)
        process.send_signal(signal.SIGINT)
        lines_until(process, "stopping: waiting")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15)
        assert process.returncode == 130
    kinds = [row["kind"] for row in rows(tmp_path / "run") if row["kind"] != "sent"]
    assert sorted(kinds) == ["lost"] * 4 + ["reply"] * 2


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process says on stderr up to the line with `text`."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return said
    raise AssertionError(f"ended without saying {text!r}:\n{said}")


def test_the_command_line(tmp_path: Path) -> None:
    def command(*more: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return processes.run("generate", "--run=run", *more, cwd=tmp_path, code=code)

    done = command("--target=40", "--json")
    assert json.loads(done.stdout)["kept"] == 40
    assert "next: alpaca dedup" not in done.stdout
    done = command("--target=30", "--replay")
    assert "kept" in done.stdout
    assert "replayed 3 replies from the journal; nothing was asked for" in done.stderr
    done = command("--target=9000", "--limit=5", code=4)
    assert "generate.max_requests: 5 requests" in done.stderr
    assert done.stdout == ""
    limits = ["--set=generate.target=9000", "--set=generate.max_requests=5"]
    done = processes.run("run", "--run=run", *limits, cwd=tmp_path, code=4)
    assert "a higher generate.max_requests (--limit of alpaca generate) goes on" in done.stderr
    openai = ["--set=generate.teacher={kind: openai, model: m}"]
    done = processes.run("generate", "--run=other", *openai, cwd=tmp_path, code=6)
    assert "OPENAI_API_KEY is not set" in done.stderr
    assert done.stderr.endswith("hint: export OPENAI_API_KEY=…\n")
    plan = json.loads(command("--estimate", "--json").stdout)
    assert "new tasks" in plan["request"]["messages"][1]["content"]


def test_a_flag_without_sense_is_named(tmp_path: Path) -> None:
    done = processes.run("generate", "--target=0", cwd=tmp_path, code=2)
    assert "--target: generate.target" in done.stderr
