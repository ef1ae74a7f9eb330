"""Who answers an evaluation's questions, and their answers: asked for here, or read from a file.

Each contender has a file of its own in the eval folder, append-only while a model is asked, so
that `kill -9` costs at most one batch. What answers are worth is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import digest, write_jsonl
from alpaca_cli.core.journal import Journal
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder, StageFolder
from alpaca_cli.core.settings_eval import Eval
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.model.locate import find_model, weight_files
from alpaca_cli.stages.questions import Question, pair

GIVEN = "given"  # the finish reason of an answer that a file has brought
Rows = dict[int, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Contender:
    """One who answers.

    Attributes:
        name: what it is called in reports: a model relative to the run where it is part of it, a
            file without its suffix.
        folder: the model's; None for a file of answers.
        source: the file of answers, or a hub data set; empty for a model.
        inputs: name -> the files whose content tells it from another.
    """

    name: str
    folder: Path | None
    source: str
    inputs: Mapping[str, Path]

    @property
    def digest(self) -> str:
        """sha256 of its files' digests: another content, another contender."""
        listed = [f"{name} {digest(path)}" for name, path in sorted(self.inputs.items())]
        return sha256("\n".join([self.source * (not listed), *listed]).encode()).hexdigest()


def evaluated(run: RunFolder, model: str | None) -> Contender:
    """The model that is evaluated; the run's own final one when None.

    Raises:
        DataError: there is none.
    """
    if model is not None:
        return _model(run, model)
    final = run.path / "train" / "final"
    if not final.is_dir():
        raise DataError(
            f"{run.path}: no trained model in this run",
            hint="train one with alpaca train, or name a MODEL",
        )
    return _model(run, str(final))


def opponents(run: RunFolder, first: Contender, names: Sequence[str]) -> list[Contender]:
    """Those who answer the same questions: models, or files of answers.

    Raises:
        DataError: no such model or file.
        UsageError: two of them have the same name.
    """
    found: list[Contender] = []
    for name in names:
        is_file = name.startswith(HUB) or Path(name).is_file()
        each = _file(name) if is_file else _model(run, name)
        if each.name in [first.name, *(other.name for other in found)]:
            raise UsageError(
                f"eval.against: two models or files are called {each.name}",
                hint="name each once; files are called by their names without the suffix",
            )
        found.append(each)
    return found


def _model(run: RunFolder, model: str) -> Contender:
    """A model's folder and what to call it: relative to the run where it is inside."""
    folder = find_model(model)
    absolute, home = folder.resolve(), run.path.resolve()
    name = str(absolute.relative_to(home)) if absolute.is_relative_to(home) else model
    return Contender(name, folder, "", model_files(folder))


def model_files(folder: Path) -> dict[str, Path]:
    """The files whose content tells one model from another, by the names that stamps have."""
    done = folder.parent / "done.json"
    if folder.name == "final" and done.is_file():
        return {"train/done.json": done}  # far smaller than weights, and written once per model
    return {file.name: file for file in weight_files(folder)}


def _file(source: str) -> Contender:
    if source.startswith(HUB):
        return Contender(source.removeprefix(HUB), None, source, {})
    path = Path(source)
    stem = re.sub(r"\.(json|jsonl|parquet)(\.gz)?$", "", path.name)
    return Contender(stem, None, source, {path.name: path})


def answers_file(contender: Contender) -> str:
    """The name of an opponent's file in the eval folder: readable, and its own."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", contender.name).strip("-")[-60:]
    own = sha256(f"{contender.name} {contender.digest}".encode()).hexdigest()[:8]
    return f"answers-{slug}-{own}.jsonl"


def given_answers(contender: Contender, questions: Sequence[Question], path: Path) -> Rows:
    """The answers of a file to the questions that it has, matched by instruction and input.

    Where none has the very text, case and white space do not matter; of several answers to a
    question the first counts. They are also written to `path`, in the form of a model's answers.

    Raises:
        DataError: the file is malformed, or answers none of the questions.
    """
    exact: dict[tuple[str, str], str] = {}
    alike: dict[tuple[str, str], str] = {}
    for example in read_examples([contender.source]):
        exact.setdefault((example.instruction, example.input), example.output)
        alike.setdefault(pair(example.instruction, example.input), example.output)
    rows = {}
    for index, question in enumerate(questions):
        asked = question.instruction, question.input
        text = exact.get(asked, alike.get(pair(*asked)))
        if text is not None:
            rows[index] = _row(index, question, {"text": text, "finish_reason": GIVEN})
    if not rows:
        raise DataError(
            f"{contender.source}: answers none of the {len(questions):,} questions",
            hint="its rows must have the instruction and input of the questions",
        )
    write_jsonl(path, rows.values())
    return rows


def asked_answers(
    contender: Contender,
    questions: Sequence[Question],
    path: Path,
    settings: Eval,
    progress: Progress,
) -> Rows:
    """A model's answers by question, asking for what its file does not have yet.

    Raises:
        DataError: the model cannot be loaded, or its file is damaged.
    """
    assert contender.folder is not None
    places = {(each.instruction, each.input): index for index, each in enumerate(questions)}
    with Journal(path) as journal:
        rows: Rows = {}
        for row in journal:  # the first answer counts: verdicts may be about it
            place = places.get((row["instruction"], row["input"]))
            if place is not None:
                rows.setdefault(place, row)
        if len(rows) == len(questions):
            return rows
        from alpaca_cli.model.loading import load_student
        from alpaca_cli.model.sampling import answers

        progress.info(f"eval: {contender.name} on {len(questions):,} questions")
        student = load_student(contender.folder, contender.name)
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
                new = [
                    _row(answer.index, questions[answer.index], asdict(answer))
                    for answer in batch
                    if answer.index not in rows
                ]
                journal.append(new)
                rows |= {row["index"]: row for row in new}
                task.set(len(rows))
    return rows


def all_answers(
    stage: StageFolder,
    contenders: Sequence[Contender],
    questions: Sequence[Question],
    settings: Eval,
    progress: Progress,
) -> dict[str, Rows]:
    """Everyone's answers by name, the evaluated model's first, one model in memory at a time."""
    found = {}
    for number, each in enumerate(contenders):
        path = stage / ("answers.jsonl" if number == 0 else answers_file(each))
        if each.folder is None:
            found[each.name] = given_answers(each, questions, path)
            missing = len(questions) - len(found[each.name])
            if missing:
                progress.warn(f"{each.source}: no answer to {missing:,} of {len(questions):,}")
        else:
            found[each.name] = asked_answers(each, questions, path, settings, progress)
    return found


def _row(index: int, question: Question, answer: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a file of answers: the question beside the answer, for people who read it."""
    row = {
        "index": index,
        "instruction": question.instruction,
        "input": question.input,
        "references": question.references,
        "answer": answer["text"],
        "finish_reason": answer["finish_reason"],
    }
    if "tokens" in answer:
        row |= {"prompt_tokens": answer["prompt_tokens"], "completion_tokens": answer["tokens"]}
    return row
