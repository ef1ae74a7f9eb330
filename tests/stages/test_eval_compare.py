"""`alpaca eval --against … --judge …`: several contenders on the same questions, and `kill -9`."""

from __future__ import annotations

import json
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.cli.eval import show
from alpaca_cli.core.errors import BudgetStop, DataError, UsageError
from alpaca_cli.core.files import write_json, write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages import eval as stage
from tests import processes
from tests.servers import Asked, Fault, TeacherServer
from tests.serving import judge_server as judges
from tests.tiny import save_tiny_model

COUNT = 12
PRICE = {"input": 1.0, "output": 2.0}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [save_tiny_model(folder / name, endless=name == "b") for name in ("a", "b")]


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """Twelve questions of two categories with a reference each."""
    path = tmp_path / "questions.jsonl"
    write_jsonl(path, [
        {"instruction": f"Say {at}.", "input": "now" if at % 2 else "", "output": f"Yes, {at}.",
         "category": "odd" if at % 2 else "even"}
        for at in range(COUNT)
    ])  # fmt: skip
    return path


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """Answers to ten of them from elsewhere, with other white space and case in the questions."""
    path = tmp_path / "davinci.json"
    write_json(path, [
        {"instruction": f"say  {at}. ", "input": "Now" if at % 2 else "",
         "output": f"Yes, {at}." if at < 6 else "<script>alert(1)</script> No."}
        for at in range(10)
    ])  # fmt: skip
    return path


def measure(
    folder: Path, model: Path, *, into: str = "eval", **settings: Any
) -> tuple[stage.Report, BaseException | None, str]:
    """The report of an evaluation in `folder`, what is wrong with it, and what was said."""
    said = StringIO()
    usual: dict[str, Any] = {"max_new_tokens": 4, "resamples": 200}
    recipe = Recipe.model_validate({"eval": usual | settings})
    report, problem = stage.run(
        recipe, RunFolder(folder), Progress(Console(file=said)), model=str(model), into=into
    )
    return report, problem, said.getvalue()


def judge(server: TeacherServer, **changes: Any) -> dict[str, Any]:
    teacher: dict[str, Any] = {"kind": "openai", "model": "j", "price": PRICE}
    teacher |= {"base_url": server.url, "max_output_tokens": 60}
    return {"teacher": teacher, "concurrency": 4} | changes


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "eval" / name).read_text().splitlines()]


def test_models_and_files_answer_the_same_questions(
    models: list[Path], questions: Path, given: Path, tmp_path: Path
) -> None:
    a, b = models
    run = tmp_path / "run"
    report, problem, said = measure(
        run, a, data=str(questions), against=[str(given), str(b)], resamples=500
    )
    assert problem is None
    assert "no answer to 2 of 12" in said
    assert list(report.against) == ["davinci", str(b)]
    davinci = report.against["davinci"]
    assert (davinci["scored"], davinci["missing"], davinci["exact_match"]) == (10, 2, 0.6)
    assert davinci["by_family"]["odd"]["exact_match"] == 0.6
    # The paired difference: the same ten questions, none of which the tiny model gets right.
    apart = davinci["difference"]
    assert (apart["n"], apart["exact_match"]) == (10, 0.6)
    assert apart["exact_match_interval"][0] < 0.6 < apart["exact_match_interval"][1]
    assert report.against[str(b)]["cut"] == 12

    compared = rows(run, "comparison.jsonl")
    assert len(compared) == COUNT
    assert compared[0]["answers"]["davinci"] == {
        "text": "Yes, 0.", "finish_reason": "given", "exact": 1, "rouge_l": 1.0,
    }  # fmt: skip
    assert set(compared[11]["answers"]) == {str(a), str(b)}
    shown = StringIO()
    Console(file=shown, width=100).print(show(report))
    assert "davinci: no answer to 2 questions" in shown.getvalue()
    page = (run / "eval" / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page

    # Up to date; and what is free to change asks no model again.
    again, _, said = measure(
        run, a, data=str(questions), against=[str(given), str(b)], resamples=500
    )
    assert again == report
    assert "up to date" in said
    fewer, _, said = measure(run, a, data=str(questions))
    assert said == "", "nobody is asked"
    assert fewer.against == {}
    assert fewer.exact_match == report.exact_match
    answers = {path.name for path in (run / "eval").glob("answers*")}
    assert len(answers) == 3


def test_questions_that_differ_in_case_get_their_own_answers(
    models: list[Path], tmp_path: Path
) -> None:
    asked = [("a", "lower"), ("A", "upper"), (" A", "indented")]
    data = [{"instruction": "Which?", "input": input, "output": said} for input, said in asked]
    write_json(tmp_path / "right.json", data)
    report, _, _ = measure(
        tmp_path / "run", models[0], data=str(tmp_path / "right.json"),
        against=[str(tmp_path / "right.json")],
    )  # fmt: skip
    assert report.against["right"]["exact_match"] == 1.0


def test_bare_questions_are_judged_without_references(models: list[Path], tmp_path: Path) -> None:
    bare = tmp_path / "bare.jsonl"
    write_jsonl(bare, ({"instruction": f"Say {at}."} for at in range(5)))
    others = tmp_path / "other.jsonl"
    answers = [{"instruction": f"Say {at}.", "output": "A good one."} for at in range(5)]
    write_jsonl(others, answers)
    with pytest.raises(DataError, match="no row has an output"):
        measure(tmp_path / "alone", models[0], data=str(bare))
    with TeacherServer(answer=judges.judge(judges.marked("good"))) as server:
        report, problem, _ = measure(
            tmp_path / "run", models[0], data=str(bare), against=[str(others)], judge=judge(server)
        )
    assert problem is None
    assert (report.exact_match, report.rouge_l, report.scored) == (None, None, 0)
    assert report.questions == report.without_reference == 5
    found = report.pairwise["other"]
    assert (found["losses"], found["win_rate"], found["position_bias"]) == (5, 0, 0.5)
    assert report.judge is not None
    assert report.judge["requests"] == 10
    assert rows(tmp_path / "run", "comparison.jsonl")[0]["verdicts"]["other"]["result"] == "b"
    shown = StringIO()
    Console(file=shown, width=100).print(show(report))
    assert "5 questions without references" in shown.getvalue()
    assert "0/0/5" in shown.getvalue()


def test_more_questions_pay_for_no_verdict_again(models: list[Path], tmp_path: Path) -> None:
    asked = [{"instruction": f"Say {at}.", "output": f"Yes, {at}."} for at in range(4)]
    write_json(tmp_path / "other.json", asked)
    with TeacherServer(answer=judges.judge(judges.longer)) as server:
        for count, sent in ((3, 6), (4, 8)):
            write_json(tmp_path / "data.json", asked[:count])
            arguments = (
                "eval", models[0], "--data", "data.json", "--against", "other.json", "--fresh",
                "--judge", "j", "--judge-base-url", server.url, "--set", "eval.max_new_tokens=4",
                "--run", "run", "--json",
            )  # fmt: skip
            done = processes.run(*arguments, cwd=tmp_path)
            assert json.loads(done.stdout)["judge"]["verdicts"] == 2 * count
            assert len(server.asked) == sent


def test_a_judge_at_the_end_of_its_budget_leaves_a_partial_report(
    models: list[Path], questions: Path, given: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with TeacherServer(answer=judges.judge(judges.marked("Yes"))) as server:
        keys: dict[str, Any] = {"data": str(questions), "against": [str(given)]}
        report, problem, _ = measure(
            run, models[0], **keys, judge=judge(server, max_cost=0.003),
            gates=["pairwise.davinci.win_rate >= 0", "exact_match >= 0.9"],
        )  # fmt: skip
        assert isinstance(problem, BudgetStop), "a stopped judge outranks a failed gate"
        assert report.judge is not None
        assert 0 < report.judge["pending"] < 20
        assert server.billed(PRICE) <= Decimal("0.003")
        assert not (run / "eval" / "done.json").exists()
        written = json.loads((run / "eval" / "report.json").read_text())
        assert written["judge"]["pending"] == report.judge["pending"]
        report, problem, _ = measure(run, models[0], **keys, judge=judge(server))
        assert problem is None
        assert {asked.attempt for asked in server.asked} == {1}
    found = report.pairwise["davinci"]
    assert (found["losses"], found["ties"], found["pending"]) == (6, 4, 0)


def test_killed_while_judging_it_pays_for_nothing_twice(
    models: list[Path], questions: Path, given: Path, tmp_path: Path
) -> None:
    """Answers are there before, so that the processes that are killed load no model."""
    keys: dict[str, Any] = {"data": str(questions), "against": [str(given)]}
    answer = judges.judge(judges.marked("Yes"))
    by_hand = "eval-questions"  # where the command puts it
    measure(tmp_path / "straight", models[0], **keys)
    measure(tmp_path / "cut", models[0], into=by_hand, **keys)
    with TeacherServer(answer=answer) as server:
        straight, _, _ = measure(tmp_path / "straight", models[0], **keys, judge=judge(server))

    def hold(asked: Asked) -> Fault | None:
        return Fault(hold=True) if asked.number in (9, 10) else None

    def command(url: str) -> list[str]:
        sets = {"eval.max_new_tokens": "4", "eval.resamples": "200", "eval.judge.concurrency": "2",
                "eval.judge.teacher.max_output_tokens": "60",
                "eval.judge.teacher.price": "{input: 1, output: 2}"}  # fmt: skip
        return [
            "eval", str(models[0]), "--data", str(questions), "--against", str(given),
            "--judge", "j", "--judge-base-url", url, "--max-cost", "0.02",
            "--run", str(tmp_path / "cut"), "--quiet",
            *(f"--set={key}={value}" for key, value in sets.items()),
        ]  # fmt: skip

    journal = tmp_path / "cut" / by_hand / "judge.jsonl"
    with TeacherServer(hold, answer=answer) as server:
        victim = processes.start(*command(server.url), cwd=tmp_path)
        processes.kill_when(victim, lambda: len(server.asked) == 11)
        paid = {row["key"] for row in map(json.loads, journal.read_text().splitlines())
                if row["kind"] == "reply"}  # fmt: skip
        assert len(paid) == 9
    with TeacherServer(answer=answer) as server:
        done = processes.run(*command(server.url), "--json", cwd=tmp_path)
        assert len(server.asked) == 20 - 9
    report = json.loads(done.stdout)
    assert report["pairwise"]["davinci"] == straight.pairwise["davinci"]
    assert report["judge"]["guessed"] == 2, "in flight when it was killed, maybe billed"
    assert straight.judge is not None
    assert report["judge"]["cost"] > straight.judge["cost"]


def test_gates_end_in_five_and_the_report_is_shown(
    models: list[Path], questions: Path, given: Path, tmp_path: Path
) -> None:
    command = ["eval", models[0], "--data", questions, "--against", given, "--run", tmp_path / "r",
               "--set=eval.max_new_tokens=4", "--set=eval.resamples=200"]  # fmt: skip
    # Answers are there before: none of these processes loads a model.
    measure(tmp_path / "r", models[0], into="eval-questions", data=str(questions))
    passing, failing = "against.davinci.exact_match >= 0.5", "exact>=0.6"
    done = processes.run(*command, "--gate", passing, "--gate", failing, code=5, cwd=tmp_path)
    assert "FAILED" in done.stdout
    assert "1 of 2 gates failed" in done.stderr
    done = processes.run(*command, "--gate", passing, "--json", cwd=tmp_path)
    [gate] = json.loads(done.stdout)["gates"]
    assert (gate["value"], gate["passed"]) == (0.6, True)
    wrong = processes.run(*command, "--gate", "exact_mach >= 1", code=2, cwd=tmp_path)
    assert 'did you mean "exact_match"?' in wrong.stderr
    page = tmp_path / "page.html"
    processes.run(*command, "-o", page, cwd=tmp_path)
    assert "davinci" in page.read_text()


def test_what_cannot_be_compared_is_said_at_once(
    models: list[Path], questions: Path, given: Path, tmp_path: Path
) -> None:
    teacher = {"kind": "openai", "model": "j"}
    with pytest.raises(UsageError, match=r"eval\.judge: a judge compares two answers"):
        measure(tmp_path / "r", models[0], data=str(questions), judge={"teacher": teacher})
    with pytest.raises(UsageError, match="are called davinci"):
        measure(tmp_path / "r", models[0], data=str(questions), against=[str(given)] * 2)
    with pytest.raises(DataError, match="no such folder"):
        measure(tmp_path / "r", models[0], data=str(questions), against=["x/none"])
    strange = tmp_path / "strange.jsonl"
    write_jsonl(strange, [{"instruction": "Something else.", "output": "x"}])
    with pytest.raises(DataError, match="answers none of the 12 questions"):
        measure(tmp_path / "r", models[0], data=str(questions), against=[str(strange)])


def test_the_self_instruct_evaluation_tasks_load_as_they_are(
    models: list[Path], real_data: Path, tmp_path: Path
) -> None:
    data = real_data / "user_oriented_instructions.jsonl"
    report, _, _ = measure(tmp_path / "r", models[0], data=str(data), against=[str(data)])
    assert (report.questions, report.scored, report.without_reference) == (252, 252, 0)
    assert len(report.by_family) == 71
    itself = report.against["user_oriented_instructions"]
    assert (itself["exact_match"], itself["missing"]) == (1, 0)
    assert itself["rouge_l"] == 0.996, "one reference has no a-z or 0-9"


def test_votes_of_people_are_counted(tmp_path: Path) -> None:
    vote = {"instruction": "Hi", "input": "", "system": "", "answer_a": "1", "answer_b": "2",
            "model_a": "mine", "model_b": "theirs\x1b[2J",
            "at": "2026-11-22T10:00:00+00:00"}  # fmt: skip
    for name, votes in (("one", ["a"] * 9 + ["tie"] * 3), ("two", ["b"] * 2)):
        path = tmp_path / f"{name}.jsonl"
        write_jsonl(path, [
            vote | {"first": "ab"[at % 2], "vote": said}
            for at, said in enumerate(votes)
        ])  # fmt: skip
    files = ["--votes", tmp_path / "one.jsonl", "--votes", tmp_path / "two.jsonl"]
    [pair] = json.loads(processes.run("eval", *files, "--json", cwd=tmp_path).stdout)["pairs"]
    assert (pair["wins_a"], pair["wins_b"], pair["ties"]) == (9, 2, 3)
    assert pair["decisive_rate"] == pytest.approx(9 / 11)
    shown = processes.run("eval", *files, cwd=tmp_path).stdout
    assert "14 votes" in shown
    assert "52.3 to 94.9" in shown
    assert "\x1b" not in shown, "a name in a file of votes steers no terminal"
    (tmp_path / "empty.jsonl").touch()
    wrong = processes.run("eval", "--votes", tmp_path / "empty.jsonl", code=3, cwd=tmp_path)
    assert "no votes" in wrong.stderr
