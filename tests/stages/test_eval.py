"""`alpaca eval`: figures against their definitions, unseen tasks, and `kill -9` in the middle."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.cli.eval import show
from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_eval import Eval
from alpaca_cli.data.procedural import families, family_names
from alpaca_cli.stages import eval as stage
from alpaca_cli.stages import eval_report
from alpaca_cli.stages.questions import merge, pair, unseen_tasks
from tests.processes import kill_when, lines, run, start
from tests.tiny import save_tiny_model

TASKS = [Example(f"Say {number}.", "" if number % 2 else "now", "yes") for number in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", endless=True)


@pytest.fixture
def progress() -> Iterator[Progress]:
    with open("/dev/null", "w") as nowhere:
        yield Progress(Console(file=nowhere))


def data_file(path: Path, examples: list[Example]) -> Path:
    write_jsonl(path, (example.to_row() for example in examples))
    return path


def reported(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "eval" / "report.json").read_text())
    return report


# --- questions -----------------------------------------------------------------------------------


def test_rows_that_ask_the_same_are_one_question() -> None:
    rows = [
        Example("A", "", "1", meta={"family": "f", "held_out": True}),
        Example("B", "", " "),
        Example("A", "", "2"),
        Example("A", "x", "3", extra={"category": "c"}),
    ]
    questions, left_out = merge(rows)
    assert left_out == 1
    found = [(each.input, each.references, each.family, each.held_out) for each in questions]
    assert found == [("", ["1", "2"], "f", True), ("x", ["3"], "c", None)]


# --- unseen tasks --------------------------------------------------------------------------------


def test_unseen_tasks_are_balanced_and_never_those_of_training() -> None:
    count = 2 * len(families()) + 7
    first = unseen_tasks(count, 1, set(), family_names())
    assert len(first) == count
    assert first == unseen_tasks(count, 1, set(), family_names())
    held_out = [each.meta["held_out"] for each in first]
    assert sum(held_out) == count // 3
    assert all(each.meta["held_out"] == ("/held-out-" in each.meta["form"]) for each in first)
    per_family = Counter(each.meta["family"] for each in first)
    assert set(per_family.values()) == {2, 3}
    assert len(per_family) == len(families())

    seen = {pair(f" {each.instruction.upper()} ", each.input) for each in first}
    assert len(seen) == count
    second = unseen_tasks(count, 1, seen, family_names())
    assert not seen & {pair(each.instruction, each.input) for each in second}


# --- the stage -----------------------------------------------------------------------------------


def test_procedural_questions_of_a_run(model: Path, tmp_path: Path, progress: Progress) -> None:
    final = tmp_path / "run" / "train" / "final"
    final.parent.mkdir(parents=True)
    final.symlink_to(model)
    trained = unseen_tasks(
        90, 42, set(), family_names()
    )  # what would be asked if nothing had been trained on
    data_file(tmp_path / "run" / "generate" / "kept.jsonl", trained)
    recipe = Recipe(eval=Eval(count=90, max_new_tokens=2))
    report, _ = stage.run(recipe, RunFolder(tmp_path / "run"), progress)
    rows = [
        json.loads(line) for line in (tmp_path / "run/eval/data.jsonl").read_text().splitlines()
    ]
    asked = {pair(row["instruction"], row["input"]) for row in rows}
    assert not asked & {pair(each.instruction, each.input) for each in trained}
    assert report.questions == len(asked) == len(rows) == report.cut
    assert report.in_training == 0
    assert report.seen_phrasings is not None
    assert report.unseen_phrasings is not None
    assert report.seen_phrasings["n"] + report.unseen_phrasings["n"] == report.questions
    assert sum(part["n"] for part in report.by_family.values()) == report.questions
    assert len({miss["family"] for miss in report.misses}) == eval_report.MISSES

    shown = io.StringIO()
    Console(file=shown, width=80).print(show(report))
    assert "unseen phrasings: 0.0% of 30" in shown.getvalue()
    assert all(name in shown.getvalue() for name in report.by_family)

    # Up to date: the same report, and nothing is loaded or written.
    before = (tmp_path / "run/eval/done.json").stat().st_mtime_ns
    assert stage.run(recipe, RunFolder(tmp_path / "run"), progress)[0] == report
    assert (tmp_path / "run/eval/done.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"eval\.count: was 90, now 91"):
        stage.run(
            Recipe(eval=Eval(count=91, max_new_tokens=2)), RunFolder(tmp_path / "run"), progress
        )


def test_right_answers_leaks_and_long_questions_are_counted(
    model: Path, tmp_path: Path, progress: Progress
) -> None:
    def evaluate(name: str, examples: list[Example]) -> stage.Report:
        data = data_file(tmp_path / f"{name}.jsonl", examples)
        recipe = Recipe(eval=Eval(data=str(data), max_new_tokens=6))
        return stage.run(recipe, RunFolder(tmp_path / name), progress, model=str(model))[0]

    evaluate("first", TASKS)
    rows = map(json.loads, (tmp_path / "first/eval/answers.jsonl").read_text().splitlines())
    answers = {row["index"]: row["answer"] for row in rows}
    data_file(tmp_path / "second/dedup/kept.jsonl", TASKS[:5])
    known = []
    for at, each in enumerate(TASKS):
        right = at % 4 == 0
        family = {"family": "right" if right else "wrong"}
        answer = answers[at] if right else "no"
        known.append(Example(each.instruction, each.input, answer, meta=family))
    long = Example("Say it. " * 500, "", "no")
    report = evaluate("second", [*known, long, Example("Say nothing.", "", "")])
    assert (report.rows, report.questions, report.without_reference) == (26, 25, 1)
    assert (report.exact_match, report.families_at_90) == (6 / 25, 1)
    assert report.by_family["right"]["exact_match"] == 1
    assert report.by_family["wrong"]["exact_match"] == 0
    assert report.seen_phrasings is None
    assert (report.in_training, report.too_long, report.cut) == (5, 1, 24)
    assert report.model == str(model)
    with pytest.raises(DataError, match="no row has an output"):
        evaluate("third", [Example("Say nothing.", "", "")])


def test_killed_in_the_middle_it_goes_on(model: Path, tmp_path: Path) -> None:
    data = data_file(tmp_path / "data.jsonl", TASKS)
    keys = (f"eval.data={data}", "eval.batch=3", "eval.max_new_tokens=120")
    command = ["eval", model, *(part for key in keys for part in ("--set", key))]
    straight = json.loads(
        run(*command, "--run", tmp_path / "straight", "--json", cwd=tmp_path).stdout
    )
    assert straight["questions"] == 24

    answers = tmp_path / "cut" / "eval" / "answers.jsonl"
    victim = start(*command, "--run", tmp_path / "cut", cwd=tmp_path)
    kill_when(victim, lambda: lines(answers) >= 3)
    kept = answers.read_bytes()
    assert 3 <= kept.count(b"\n") < 24
    assert not (tmp_path / "cut" / "eval" / "done.json").exists()
    answers.write_bytes(kept + b'{"index":')  # a line torn by the crash

    done = run(*command, "--run", tmp_path / "cut", cwd=tmp_path)
    assert "exact match" in done.stdout
    assert reported(tmp_path / "cut") == straight
    assert answers.read_bytes().startswith(kept)
    assert lines(answers) == 24


def test_a_missing_model_or_file_is_said_at_once(model: Path, tmp_path: Path) -> None:
    assert "no finished training run" in run("eval", code=3, cwd=tmp_path).stderr
    wrong = run("eval", model.parent / "tinny", "--data", "x", code=3, cwd=tmp_path).stderr
    assert f"did you mean {model}?" in wrong
    missing = run("eval", model, "--data", "none.jsonl", code=3, cwd=tmp_path)
    assert "none.jsonl: cannot read: No such file" in missing.stderr
    assert not (tmp_path / "runs" / "eval-tiny" / "eval-none").exists()


def test_what_is_asked_by_hand_has_a_folder_of_its_own(model: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("final", "checkpoints/step-000200"):
        (run / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(model, run / "train" / name)
    (run / "recipe.yaml").touch()
    checkpoint = str(run / "train" / "checkpoints" / "step-000200")
    assert stage.results_folder(run, None, None) == "eval"
    assert stage.results_folder(run, str(run), None) == "eval"
    assert stage.results_folder(run, str(model), None) == "eval"
    assert stage.results_folder(run, checkpoint, None) == "eval-step-000200"
    assert stage.results_folder(run, None, "a/held out.jsonl.gz") == "eval-held-out"
    assert stage.results_folder(run, checkpoint, "hub:me/set") == "eval-step-000200-set"
