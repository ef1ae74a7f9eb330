"""Examples that a person marked bad: dedup drops them first, and training leaves them out."""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import digest, read_json, read_jsonl, write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.data.formats import read_examples, read_placed
from alpaca_cli.data.reviews import Mark, ReviewFile, excluded, review_of
from alpaca_cli.data.shards import STAGES, Plan, run_task
from alpaca_cli.stages.dedup import Report, dedupe_files
from alpaca_cli.stages.dedup import run as dedup_run
from tests.processes import run
from tests.training import SMALL

BIRD = Example("Name a large bird.", "", "Owl.")
BIG_BIRD = Example("Name a very large bird.", "", "Ostrich.")
COUNT = Example("Count to three.", "", "1 2 3")


def review(path: Path, *examples: Example, mark: Mark = "bad") -> Path:
    """Marks, added to what the review file says already."""
    file = ReviewFile(path)
    for row, example in enumerate(examples, 1):
        file.add(review_of(example, mark, "", row=row, source="test"))
    file.close()
    return path


def write(path: Path, examples: Iterable[Example]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_jsonl(path, (example.to_row() for example in examples))
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_jsonl(path)]


def heard() -> tuple[Progress, StringIO]:
    out = StringIO()
    return Progress(Console(file=out, width=400), quiet=True), out


def dedupe(folder: Path, examples: Sequence[Example], **changes: Any) -> tuple[Report, str]:
    """`dedupe_files` on these, and what was warned of."""
    progress, out = heard()
    source = write(folder / "in.jsonl", examples)
    settings = Dedup.model_validate(changes)
    found = dedupe_files([str(source)], settings, progress, folder / "out.jsonl", verify=100)
    return found, out.getvalue()


def test_a_bad_row_does_not_take_a_good_one_with_it(tmp_path: Path) -> None:
    before, _ = dedupe(tmp_path, [BIRD, BIG_BIRD, COUNT, BIRD])
    assert [row["reason"] for row in rows_of(tmp_path / "out.dropped.jsonl")] == ["duplicate"] * 2
    assert (before.kept, before.excluded) == (2, 0)

    marks = review(tmp_path / "r.jsonl", BIRD)
    after, warned = dedupe(tmp_path, [BIRD, BIG_BIRD, COUNT, BIRD], exclude=[str(marks)])
    assert rows_of(tmp_path / "out.jsonl") == [BIG_BIRD.to_row(), COUNT.to_row()]
    assert rows_of(tmp_path / "out.dropped.jsonl") == [
        {**BIRD.to_row(), "reason": "excluded", "row": f"{tmp_path}/in.jsonl:{line}",
         "duplicate_of": None, "score": None}
        for line in (1, 4)
    ]  # fmt: skip
    # The mark covers both rows, and all that is read is in exactly one place.
    assert (after.read, after.kept, after.dropped) == (4, 2, 2)
    assert (after.excluded, after.duplicates, after.groups) == (2, 0, 0)
    assert after.verified == 2
    assert warned == ""


def test_other_reasons_come_after_it(tmp_path: Path) -> None:
    known = write(tmp_path / "known.jsonl", [BIRD])
    asked = write(tmp_path / "asked.jsonl", [Example("Please " + COUNT.instruction, "", "")])
    marks = review(tmp_path / "r.jsonl", BIRD, COUNT)
    found, _ = dedupe(
        tmp_path, [BIRD, BIG_BIRD, COUNT], exclude=[str(marks)], against=[str(known)],
        decontaminate=[str(asked)], ngram=2, keep="longest",
    )  # fmt: skip
    reasons = [row["reason"] for row in rows_of(tmp_path / "out.dropped.jsonl")]
    assert reasons == ["excluded", "against", "excluded"]
    assert (found.excluded, found.against, found.contaminated, found.kept) == (2, 1, 0, 0)


def test_a_review_of_other_data_is_warned_of(tmp_path: Path) -> None:
    ours, theirs = review(tmp_path / "ours", BIRD), review(tmp_path / "theirs", COUNT)
    good = review(tmp_path / "good", BIG_BIRD, mark="good")
    names = [str(path) for path in (ours, theirs, good)]
    _, warned = dedupe(tmp_path, [BIRD, BIG_BIRD], exclude=names)
    assert warned.splitlines() == [
        f"warning: {theirs}: no example here is in this review; is it the review of other data?"
    ]


def test_a_review_is_never_written_over(tmp_path: Path) -> None:
    marks = review(tmp_path / "out.jsonl", BIRD)
    with pytest.raises(UsageError, match="is one of the inputs"):
        dedupe(tmp_path, [BIRD], exclude=[str(marks)])


def test_real_files_from_the_command_line(tmp_path: Path, real_data: Path) -> None:
    sources = [str(real_data / f"{name}.json") for name in ("code_alpaca_2k", "alpaca_en_demo")]
    examples, (progress, _) = read_examples(sources), heard()
    dedupe_files(sources, Dedup(), progress, tmp_path / "before.jsonl")
    # Rows that others went for: without them one of the others stays.
    placed = {place: one for source in sources for place, one in read_placed(source)}
    names = {row["duplicate_of"] for row in rows_of(tmp_path / "before.dropped.jsonl")}
    marks = review(tmp_path / "r.jsonl", *(placed[name] for name in names))
    bad_keys = excluded([str(marks)])
    left = [row for row, one in enumerate(examples) if one.review_key() not in bad_keys]
    source = str(write(tmp_path / "left.jsonl", (examples[row] for row in left)))
    expected = dedupe_files([source], Dedup(), progress, tmp_path / "expected.jsonl")

    options = ["--exclude", "r.jsonl", "--verify", 30, "-o", "out.jsonl"]
    done = run("dedup", *sources, *options, cwd=tmp_path)
    gone = len(examples) - len(left)
    assert f"{gone:,} marked bad in --exclude" in done.stdout
    assert "rouge-score decides the same for 30 rows" in done.stdout
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes()
    reasons = [row["reason"] for row in rows_of(tmp_path / "out.dropped.jsonl")]
    assert reasons.count("excluded") == gone >= len(names) > 20
    assert expected.kept + len(reasons) == len(examples)


def test_new_bad_marks_make_the_stage_anew_and_nothing_else_does(tmp_path: Path) -> None:
    folder, marks = RunFolder(tmp_path / "run"), tmp_path / "r.jsonl"
    write(folder.path / "generate/kept.jsonl", [BIRD, BIG_BIRD, COUNT])
    recipe = Recipe.model_validate({"name": "run", "dedup": {"exclude": [str(marks)]}})
    progress, _ = heard()
    with pytest.raises(DataError, match=r"r.jsonl: cannot read"):
        dedup_run(recipe, folder, progress)
    review(marks, COUNT)
    first = dedup_run(recipe, folder, progress)
    assert (first.kept, first.excluded) == (1, 1)

    review(marks, BIG_BIRD, mark="good")
    done = (folder.path / "dedup/done.json").read_bytes()
    assert dedup_run(recipe, folder, progress, verify=10) == first.__class__(
        **{**read_json(folder.path / "dedup/done.json")["report"], "verified": 2}
    )
    assert (folder.path / "dedup/done.json").read_bytes() == done

    review(marks, BIRD)
    said = r"exclude: was '1 marked bad \(\w+\)', now '2 marked bad \(\w+\)'"
    with pytest.raises(UsageError, match=said):
        dedup_run(recipe, folder, progress)
    again = dedup_run(recipe, folder, progress, fresh="changed")
    assert (again.kept, again.excluded) == (1, 2)
    without = Recipe.model_validate({"name": "run"})
    with pytest.raises(UsageError, match=r"exclude: was '2 marked bad \(\w+\)', now not set"):
        dedup_run(without, folder, progress)


def test_shards_decide_as_one_machine_does(tmp_path: Path, real_data: Path) -> None:
    examples = read_examples([real_data / "code_alpaca_2k.json"])[:300]
    # Equal texts and similar ones, in one shard and in several; some of each marked bad.
    examples += [Example(one.instruction, one.input, f"{one.output} ") for one in examples[::7]]
    examples += [Example(one.instruction + " please", "", "") for one in examples[::5]]
    drawn = random.Random(0).sample(range(len(examples)), 100)
    marks = review(tmp_path / "r.jsonl", *(examples[row] for row in drawn))
    known = write(tmp_path / "known.jsonl", [examples[row] for row in drawn[:20]])
    changes = {"exclude": [str(marks)], "against": [str(known)]}
    found, _ = dedupe(tmp_path, examples, **changes)

    size = len(examples) // 3 + 1
    shards = [str(write(tmp_path / f"{part}.jsonl", examples[part * size : (part + 1) * size]))
              for part in range(3)]  # fmt: skip
    digests = {name: digest(Path(name)) for name in (str(known), *shards)}
    plan = Plan(
        tmp_path / "work", tuple(shards), (str(known),), digests,
        Dedup.model_validate(changes), 2, tmp_path / "sharded", excluded([str(marks)]),
    )  # fmt: skip
    for stage in STAGES:
        for task in range(plan.tasks(stage)):
            run_task(plan, stage, task)

    def texts(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(name) for name in ("instruction", "output", "reason", "score"))

    folder = tmp_path / "sharded"
    kept = [row for part in range(3) for row in rows_of(folder / f"{part}.jsonl")]
    gone = [row for part in range(3) for row in rows_of(folder / f"dropped/{part}.jsonl")]
    assert kept == rows_of(tmp_path / "out.jsonl")
    assert [*map(texts, gone)] == [*map(texts, rows_of(tmp_path / "out.dropped.jsonl"))]
    reasons = {row["reason"] for row in gone}
    assert reasons == {"excluded", "duplicate", "against"}
    assert found.excluded == sum(one.review_key() in plan.excluded for one in examples) >= 100


@pytest.mark.skipif(importlib.util.find_spec("datatrove") is None, reason="needs datatrove")
def test_shards_from_the_command_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [BIRD, COUNT])
    write(tmp_path / "b.jsonl", [BIG_BIRD])
    review(tmp_path / "r.jsonl", BIRD)
    command = ["dedup", "a.jsonl", "b.jsonl", "--executor", "local", "--tasks", 1, "-o", "out"]
    done = run(*command, "--exclude", "r.jsonl", cwd=tmp_path)
    assert "kept 2 of 3 in 2 shards, dropped 1, 1 marked bad in --exclude" in done.stdout
    assert rows_of(tmp_path / "out/b.jsonl") == [BIG_BIRD.to_row()]
    [gone] = rows_of(tmp_path / "out/dropped/a.jsonl")
    assert (gone["reason"], gone["row"], gone["duplicate_of"]) == ("excluded", "a.jsonl#1", None)
    report = read_json(tmp_path / "out/report.json")
    assert (report["excluded"], report["duplicates"], report["without_words"]) == (1, 0, 0)


def test_training_leaves_them_out(tmp_path: Path, real_data: Path) -> None:
    from alpaca_cli.core.recipe import load_recipe
    from alpaca_cli.stages.inspection import inspect_rows
    from alpaca_cli.stages.training_data import hold_out, stamp_of, tokens_of

    short = (one for one in read_examples([real_data / "alpaca_en_demo.json"])
             if len(one.output) < 200)  # fmt: skip
    examples = list(islice(short, 40))
    data = str(write(tmp_path / "rows.jsonl", [*examples, examples[1]]))
    marks, other = tmp_path / "r.jsonl", review(tmp_path / "other.jsonl", BIRD)
    review(marks, examples[1], examples[5])  # rows 2, 6 and, with the same texts as 2, 41
    options = ["--exclude", marks, "--exclude", other, *SMALL]
    done = run("train", data, "--dry-run", *options, cwd=tmp_path)
    said = "no example here is in this review"
    assert "marked bad: 3 examples left out" in done.stdout
    assert "epochs of 38 examples" in done.stdout
    assert f"{other}: {said}" in done.stdout.replace("\n", "")
    trained = run("train", data, *options, "--set", "train.epochs=0.2", cwd=tmp_path)
    assert "marked bad: 3 examples left out" in trained.stdout
    assert f"{other}: {said}" in trained.stderr.replace("\n", "")
    assert read_json(tmp_path / "runs/rows/train/done.json")["report"]["excluded"] == 3
    launch = run("train", data, "--print-launch", "torchrun", *options, cwd=tmp_path).stdout
    assert f"--exclude {marks} --exclude {other}" in launch

    def recipe(*names: Path, **keys: str) -> Recipe:
        listed = json.dumps([str(name) for name in names])
        changes = [f"train.exclude={listed}", *(f"train.{key}={keys[key]}" for key in keys)]
        return load_recipe(None, overrides=[*SMALL[1::2], *changes], environment={})

    folder = RunFolder(tmp_path / "run")
    found = inspect_rows(recipe(marks, other), folder, data, 3)
    assert (found.kept, found.excluded) == (38, 3)
    # Places are those of the file: what a message or the log names can be looked up in it.
    assert [row.number for row in found.rows[:3]] == [1, 3, 4]
    assert [said in note for note in found.notes] == [True]

    made = tokens_of(recipe(marks).train, folder, data)
    kept = [number for number in range(1, 41) if number not in (2, 6)]
    assert made.encoded.rows.numbers.tolist() == kept
    assert (made.excluded, made.encoded.dropped, made.cached) == (3, 0, False)
    stored = tokens_of(recipe(marks).train, folder, data)
    assert (stored.excluded, stored.cached) == (3, True)
    rows, held_out = hold_out(recipe(marks, holdout="5").train, stored, 42)
    assert sorted([*rows.numbers.tolist(), *held_out.numbers.tolist()]) == kept
    stamp, _ = stamp_of(recipe(marks), folder, data)
    review(marks, examples[7], mark="good")
    assert stamp_of(recipe(marks), folder, data)[0] == stamp
    assert tokens_of(recipe(marks).train, folder, data).cached
    review(marks, examples[7])
    assert stamp_of(recipe(marks), folder, data)[0] != stamp
    assert not tokens_of(recipe(marks).train, folder, data).cached
    with pytest.raises(DataError, match=r"train\.overlong|is 9|example 1:"):
        tokens_of(recipe(marks, overlong="error", max_length="9").train, folder, data)
    review(marks, *examples)
    with pytest.raises(DataError, match=r"train\.exclude leaves out every example"):
        tokens_of(recipe(marks).train, folder, data)
