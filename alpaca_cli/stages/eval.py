"""The eval stage: greedy answers to held-out questions, scored against their references.

    train/final + a file of examples or unseen tasks
    -> eval/data.jsonl, eval/answers.jsonl (append-only), eval/report.json

Killed at any instant, the same command asks only what has no answer yet, in the same batches, and
ends with the same report. Exact match and ROUGE-L say whether an answer is the reference, not
whether it is good: where many answers are right they say little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import digest, read_json, write_json, write_jsonl
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder, newest_model
from alpaca_cli.core.settings import Eval, Recipe
from alpaca_cli.core.settings_generate import ProceduralTeacher
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.data.procedural import family_names
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.model.locate import find_model, run_of, weight_files
from alpaca_cli.stages.questions import (
    Question,
    merge,
    pair,
    trained_pairs,
    training_files,
    unseen_tasks,
)
from alpaca_cli.stages.scoring import Score, Summary, by_group, score_answers, summarize

PROCEDURAL = "procedural"
MISSES = 10  # wrong answers shown in the report


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured; also the content of `report.json`.

    Attributes:
        model: relative to the run where it is part of it.
        rows: rows of the data; rows that ask the same are one question.
        without_reference: rows left out because they have no answer to compare with.
        in_training: questions whose instruction and input are in the run's training data.
        exact_match_interval: Wilson's, at 95 %.
        by_family: family or category -> the four figures; empty where rows name none.
        families_at_90: families with an exact match of 0.9 and more.
        seen_phrasings, unseen_phrasings: the four figures of questions whose wordings training
            data may and never does use; None where rows do not say.
        cut: answers that max_new_tokens or the context ended.
        too_long: questions that do not fit into the model's context; their answers are empty.
        misses: wrong answers, of different families where rows name them.
    """

    model: str
    data: str
    rows: int
    without_reference: int
    questions: int
    in_training: int
    exact_match: float
    exact_match_interval: Sequence[float]
    rouge_l: float
    by_family: Mapping[str, Mapping[str, Any]]
    families_at_90: int
    seen_phrasings: Mapping[str, Any] | None
    unseen_phrasings: Mapping[str, Any] | None
    cut: int
    too_long: int
    misses: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an evaluation belongs: a run folder, and whether its own recipe is to be used."""

    run: Path
    recipe: Path | None


def place(model: str | None, run: Path | None, runs: Path) -> Place:
    """The run folder for `alpaca eval` without a recipe.

    That is `run` when given, else the run that MODEL is part of, else a folder of its own; with
    neither, the newest finished training run.

    Raises:
        DataError: no such model, or no run has finished training.
    """
    if run is None and model is None:
        run = newest_model(runs).parents[1]
    elif run is None and model is not None:
        folder = find_model(model)
        run = run_of(folder)
        if run is None:
            run = runs / f"eval-{Path(model).resolve().name}"
    assert run is not None
    recipe = run / "recipe.yaml"
    return Place(run, recipe if recipe.is_file() else None)


def results_folder(run: Path, model: str | None, data: str | None) -> str:
    """The folder in a run for an evaluation asked for by hand: each model and data set its own.

    `eval` is the one that the run's recipe asks for: its own final model on the recipe's data.
    """
    parts = ["eval"]
    if model is not None:
        folder = find_model(model).resolve()
        if run_of(folder) is not None and folder != (run / "train" / "final").resolve():
            parts.append(folder.name)
    if data is not None:
        stem = Path(data.removeprefix(HUB)).name.split(".")[0]
        parts.append(re.sub(r"[^A-Za-z0-9_-]+", "-", stem) or "data")
    return "-".join(parts)


def run(
    recipe: Recipe,
    run: RunFolder,
    progress: Progress,
    *,
    fresh: Fresh = "never",
    model: str | None = None,
    into: str = "eval",
) -> Report:
    """Answer and score; the stored report when that is up to date.

    Args:
        model: a model folder, run or hub id; the run's own final model when None.
        into: the folder in the run that the results go to; see `results_folder`.

    Raises:
        DataError: no model or no data, or no row of it has a reference.
        UsageError: the stage was made from something else.
    """
    settings = recipe.eval or Eval()
    folder, name = _model(run, model)
    training = training_files(run)
    stage = run.stage(into)
    families = _families(recipe)
    stamp = {"model": name, **_stamp(settings, recipe.seed, families)}
    inputs = {**_model_files(folder), **training}
    if settings.data != PROCEDURAL and not settings.data.startswith(HUB):
        inputs["eval.data"] = Path(settings.data)
    if (stored := stage.open(stamp, inputs, fresh=fresh)) is not None:
        progress.info(f"eval: up to date in {stage.path}")
        return Report(**stored)
    seen = trained_pairs(training.values())
    examples = _examples(settings, recipe.seed, seen, families, progress)
    if "eval.data" in inputs and _trained_on(run, inputs["eval.data"]):
        seen |= {pair(each.instruction, each.input) for each in examples}
    questions, without_reference = merge(examples)
    if not questions:
        raise DataError(f"{settings.data}: no row has an output to compare with")
    stage.begin(stamp, inputs)
    write_jsonl(stage / "data.jsonl", (example.to_row() for example in examples))
    answered = _answered(stage, questions, settings, folder, name, progress)
    scores = score_answers(
        [answered[index]["answer"] for index in range(len(questions))],
        [question.references for question in questions],
    )
    report = _report(questions, answered, scores, name, settings.data, seen)
    report = {"rows": len(examples), "without_reference": without_reference, **report}
    _warn(report, questions, progress)
    write_json(stage / "report.json", report)
    stage.finish(report, stamp, inputs, ["data.jsonl", "answers.jsonl", "report.json"])
    return Report(**report)


def _families(recipe: Recipe) -> tuple[str, ...]:
    """The embedded teacher's families that the run's teacher draws from."""
    teacher = recipe.generate.teacher
    return family_names(teacher.families if isinstance(teacher, ProceduralTeacher) else ())


def _stamp(settings: Eval, seed: int, families: Sequence[str]) -> dict[str, Any]:
    """The keys that decide what is asked and how long answers may be."""
    chosen = {"eval": {"data": settings.data, "max_new_tokens": settings.max_new_tokens}}
    if settings.data != PROCEDURAL:
        return chosen
    asked = {"count": settings.count, "families": list(families)}
    return {"seed": seed, "eval": {**chosen["eval"], **asked}}


def _model(run: RunFolder, model: str | None) -> tuple[Path, str]:
    """The model's folder and what to call it: relative to the run where it is inside."""
    if model is None:
        final = run.path / "train" / "final"
        if not final.is_dir():
            raise DataError(
                f"{run.path}: no trained model in this run",
                hint="train one with alpaca train, or name a MODEL",
            )
        folder, name = find_model(str(final)), str(final)
    else:
        folder, name = find_model(model), model
    absolute, home = folder.resolve(), run.path.resolve()
    return folder, str(absolute.relative_to(home)) if absolute.is_relative_to(home) else name


def _model_files(folder: Path) -> dict[str, Path]:
    """The files whose content tells one model from another."""
    done = folder.parent / "done.json"
    if folder.name == "final" and done.is_file():
        return {"train/done.json": done}  # far smaller than weights, and written once per model
    return {file.name: file for file in weight_files(folder)}


def _trained_on(run: RunFolder, data: Path) -> bool:
    """Whether this very file is what the run's model was trained on."""
    done = run.path / "train" / "done.json"
    trained = read_json(done).get("inputs", {}) if done.is_file() else {}
    return digest(data) in trained.values()


def _examples(
    settings: Eval,
    seed: int,
    seen: set[tuple[str, str]],
    families: Sequence[str],
    progress: Progress,
) -> list[Example]:
    if settings.data != PROCEDURAL:
        return read_examples([settings.data])
    if not seen:
        progress.warn("this run has no training data: every procedural task counts as unseen")
    tasks = unseen_tasks(settings.count, seed, seen, families)
    if len(tasks) < settings.count:
        progress.warn(
            f"only {len(tasks):,} of {settings.count:,} tasks: some families have no more"
        )
    return tasks


def _answered(
    stage: StageFolder,
    questions: Sequence[Question],
    settings: Eval,
    folder: Path,
    name: str,
    progress: Progress,
) -> dict[int, dict[str, Any]]:
    """Index -> row of answers.jsonl for every question, asking what has no answer yet."""
    with Journal(stage / "answers.jsonl") as journal:
        rows = {row["index"]: row for row in journal}
        if len(rows) == len(questions):
            return rows
        from alpaca_cli.model.loading import load_student
        from alpaca_cli.model.sampling import answers

        progress.info(f"eval: {name} on {len(questions):,} questions")
        student = load_student(folder, name)
        for warning in student.warnings:
            progress.warn(warning)
        asked = [(question.instruction, question.input) for question in questions]
        with progress.task("answering", total=len(questions)) as task:
            task.set(len(rows))
            for batch in answers(
                student,
                asked,
                max_new_tokens=settings.max_new_tokens,
                batch=settings.batch,
                done=rows.keys(),
            ):
                new = [_row(questions[answer.index], asdict(answer)) for answer in batch]
                journal.append(new)
                rows |= {row["index"]: row for row in new}
                task.set(len(rows))
    return rows


def _row(question: Question, answer: dict[str, Any]) -> dict[str, Any]:
    """A line of answers.jsonl: the question beside the answer, for people who read it."""
    return {
        "index": answer["index"],
        "instruction": question.instruction,
        "input": question.input,
        "references": question.references,
        "answer": answer["text"],
        "finish_reason": answer["finish_reason"],
        "prompt_tokens": answer["prompt_tokens"],
        "completion_tokens": answer["tokens"],
    }


def _report(
    questions: Sequence[Question],
    answered: Mapping[int, Mapping[str, Any]],
    scores: Sequence[Score],
    model: str,
    data: str,
    seen: set[tuple[str, str]],
) -> dict[str, Any]:
    """The report's fields that come from answers and scores, JSON-able."""
    scored = list(zip(questions, scores, strict=True))
    families = by_group((question.family, score) for question, score in scored if question.family)
    reasons = [answered[index]["finish_reason"] for index in range(len(questions))]
    overall = summarize(scores)
    return {
        "model": model,
        "data": data,
        "questions": len(questions),
        "in_training": sum(pair(each.instruction, each.input) in seen for each in questions),
        "exact_match": overall.exact_match,
        "exact_match_interval": list(overall.exact_match_interval),
        "rouge_l": overall.rouge_l,
        "by_family": {name: _figures(summary) for name, summary in families.items()},
        "families_at_90": sum(summary.exact_match >= 0.9 for summary in families.values()),
        "seen_phrasings": _part(scored, held_out=False),
        "unseen_phrasings": _part(scored, held_out=True),
        "cut": reasons.count("length"),
        "too_long": reasons.count("prompt_too_long"),
        "misses": _misses(scored, answered),
    }


def _misses(
    scored: Sequence[tuple[Question, Score]], answered: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The first wrong answer of each family, at most MISSES; without families, the first ones."""
    found: dict[str, dict[str, Any]] = {}
    for index, (question, score) in enumerate(scored):
        key = question.family or str(index)
        if not score.exact and key not in found and len(found) < MISSES:
            found[key] = {
                "instruction": question.instruction,
                "input": question.input,
                "expected": question.references[0],
                "answer": answered[index]["answer"],
                "family": question.family,
            }
    return list(found.values())


def _part(scored: Sequence[tuple[Question, Score]], *, held_out: bool) -> dict[str, Any] | None:
    chosen = [score for question, score in scored if question.held_out is held_out]
    return _figures(summarize(chosen)) if chosen else None


def _figures(summary: Summary) -> dict[str, Any]:
    return {**asdict(summary), "exact_match_interval": list(summary.exact_match_interval)}


def _warn(report: Mapping[str, Any], questions: Sequence[Question], progress: Progress) -> None:
    """What makes the figures mean less than they seem to."""
    if report["in_training"]:
        progress.warn(f"questions that are in the run's training data: {report['in_training']:,}")
    if report["too_long"]:
        progress.warn(f"questions too long for the model, not asked: {report['too_long']:,}")
    wordless = sum(
        not any(tokenize(each, "rouge") for each in question.references) for question in questions
    )
    if wordless > 0.05 * len(questions):
        progress.warn(f"references without a-z or 0-9, whose ROUGE-L is always 0: {wordless:,}")
