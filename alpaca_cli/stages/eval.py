"""The eval stage: greedy answers to held-out questions, scored, compared and judged.

    train/final + a file of examples or unseen tasks
    -> eval/data.jsonl, eval/answers.jsonl (append-only), eval/report.json
       eval/comparison.jsonl    question by question: everyone's answers, scores and verdicts
       eval/answers-….jsonl     of each opponent; eval/judge.jsonl, the judge's journal
       eval/report.html         with opponents: all of it on one page

Killed at any instant, the same command asks only what has no answer or verdict yet, in the same
batches, and ends with the same report. What is compared, who judges and the gates can change
without asking anything again. Exact match and ROUGE-L say whether an answer is the reference, not
whether it is good: where many answers are right they say little.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import (
    digest,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)
from alpaca_cli.core.journal import Journal, whole_rows
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder, StageFolder, newest_model
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.settings_eval import Eval
from alpaca_cli.core.settings_generate import ProceduralTeacher
from alpaca_cli.data.eval_html import render
from alpaca_cli.data.formats import HUB
from alpaca_cli.data.pairwise import VerdictBuilder
from alpaca_cli.data.procedural import family_names
from alpaca_cli.model.locate import find_model, run_of
from alpaca_cli.stages.eval_answers import Contender, all_answers, evaluated, opponents
from alpaca_cli.stages.eval_benchmarks import Benchmark, benchmarked, parse_benchmarks
from alpaca_cli.stages.eval_comparison import pairs, rows, scores_of
from alpaca_cli.stages.eval_gates import Gate, check_gates, parse_gates, refuse
from alpaca_cli.stages.eval_report import (
    Report as Report,
)
from alpaca_cli.stages.eval_report import (
    opponents_figures,
    own_figures,
    preference_figures,
    warn,
)
from alpaca_cli.stages.pairwise import JOURNAL, Judged, about, judge
from alpaca_cli.stages.questions import (
    merge,
    pair,
    read_questions,
    trained_pairs,
    training_files,
    unseen_tasks,
)
from alpaca_cli.stages.scoring import Bootstrap

PROCEDURAL = "procedural"
OUTPUTS = ["data.jsonl", "answers.jsonl", "comparison.jsonl", "report.json"]


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
    # A folder that holds evaluations only has the flags of the last one as its recipe.
    walked = any((run / stage).is_dir() for stage in ("seed", "generate", "dedup", "train"))
    return Place(run, recipe if walked and recipe.is_file() else None)


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
    page: Path | None = None,
    benchmarks: Sequence[str] = (),
) -> tuple[Report, BaseException | None]:
    """The report, and what is wrong although there is one: a stopped judge, or a failed gate.

    Args:
        model: a model folder, run or hub id; the run's own final model when None.
        into: the folder in the run that the results go to; see `results_folder`.
        page: where an HTML report goes, beside the one in the eval folder.
        benchmarks: tasks of lm-evaluation-harness, by name or as YAML files.

    Raises:
        DataError: no model or no data, or no row of it has a reference and nobody is compared.
        UsageError: the stage was made from something else, or a gate is on no figure.
    """
    settings = recipe.eval or Eval()
    gates = parse_gates(settings.gates, [each.name for each in fields(Report)])
    if settings.judge is not None and not settings.against:
        raise UsageError(
            "eval.judge: a judge compares two answers, and there is only one",
            hint="name who else answers: --against MODEL, or a file of answers",
        )
    first = evaluated(run, model)
    others = opponents(run, first, settings.against)
    stage = run.stage(into)
    job = _Job(recipe, settings, run, stage, first, others, parse_benchmarks(benchmarks))
    stamp, inputs = job.stamp(), job.inputs()
    verdicts = stage / JOURNAL
    paid = list(whole_rows(verdicts)) if verdicts.is_file() else []
    stored = stage.open(stamp, inputs, fresh=fresh)
    if paid and not verdicts.is_file():  # --fresh begins anew, but for what was paid for
        with Journal(verdicts) as journal:
            journal.append(paid)
    problem: BaseException | None = None
    if stored is not None and stored.get("measured_with") == job.measured_with():
        progress.info(f"eval: up to date in {stage.path}")
        report = Report(**stored)
    else:
        stage.unfinish()
        report, problem = _measured(job, stamp, inputs, progress)
        if problem is None:
            stage.finish(asdict(report), stamp, inputs, OUTPUTS)
    if page is not None:
        write_text(page, _page(report, stage))
        progress.info(f"page: {page}")
    return _gated(report, problem, gates)


@dataclass(frozen=True, slots=True)
class _Job:
    """One evaluation: who is asked what, and where it goes."""

    recipe: Recipe
    settings: Eval
    run: RunFolder
    stage: StageFolder
    first: Contender
    others: Sequence[Contender]
    benchmarks: Sequence[Benchmark]

    @property
    def families(self) -> tuple[str, ...]:
        """The embedded teacher's families that the run's teacher draws from."""
        teacher = self.recipe.generate.teacher
        return family_names(teacher.families if isinstance(teacher, ProceduralTeacher) else ())

    @property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.settings.resamples, self.recipe.seed)

    def stamp(self) -> dict[str, Any]:
        """What decides which questions are asked and how long answers may be."""
        settings = self.settings
        chosen = {"data": settings.data, "max_new_tokens": settings.max_new_tokens}
        if settings.data != PROCEDURAL:
            return {"model": self.first.name, "eval": chosen}
        asked = {"count": settings.count, "families": list(self.families)}
        return {"model": self.first.name, "seed": self.recipe.seed, "eval": {**chosen, **asked}}

    def inputs(self) -> dict[str, Path]:
        """The files that this depends on in the same way."""
        inputs = {**self.first.inputs, **training_files(self.run)}
        if self.settings.data != PROCEDURAL and not self.settings.data.startswith(HUB):
            inputs["eval.data"] = Path(self.settings.data)
        return inputs

    def measured_with(self) -> dict[str, Any]:
        """What can change without asking the model anything again."""
        judge = self.settings.judge
        price = None if judge is None else judge.teacher.price
        return {
            "resamples": self.settings.resamples,
            "seed": self.recipe.seed,
            "against": {each.name: each.digest for each in self.others},
            "judge": None if judge is None else VerdictBuilder(judge.teacher).digest,
            "price": None if price is None else price.model_dump(mode="json"),
            "lm_eval": {each.name: each.digest for each in self.benchmarks},
        }


def _measured(
    job: _Job, stamp: Mapping[str, Any], inputs: Mapping[str, Path], progress: Progress
) -> tuple[Report, BaseException | None]:
    """Ask for what is missing, and write every output but `done.json`."""
    settings, stage, bootstrap = job.settings, job.stage, job.bootstrap
    seen = trained_pairs(training_files(job.run).values())
    examples = _examples(job, seen, progress)
    if "eval.data" in inputs and _trained_on(job.run, inputs["eval.data"]):
        seen |= {pair(each.instruction, each.input) for each in examples}
    questions, without_reference = merge(examples, unreferenced=bool(job.others))
    if not questions:
        raise DataError(
            f"{settings.data}: no row has an output to compare with",
            hint="answers without references can be compared with others': --against",
        )
    stage.begin(stamp, inputs)
    write_jsonl(stage / "data.jsonl", (example.to_row() for example in examples))
    answers = all_answers(stage, [job.first, *job.others], questions, settings, progress)
    scores = {name: scores_of(questions, found) for name, found in answers.items()}
    others = {each.name: answers[each.name] for each in job.others}
    judged: list[Judged] = []
    told, problem = None, None
    if settings.judge is not None:
        asked = pairs(questions, answers[job.first.name], others)
        work, problem = judge(settings.judge, asked, stage / JOURNAL, progress)
        judged, told = work.results(), about(work, settings.judge)
    report = Report(
        model=job.first.name,
        data=settings.data,
        rows=len(examples),
        without_reference=without_reference,
        **own_figures(questions, answers[job.first.name], scores[job.first.name], seen, bootstrap),
        against=opponents_figures(questions, answers, scores, bootstrap),
        pairwise=preference_figures(questions, judged, bootstrap),
        judge=told,
        lm_eval=benchmarked(stage, job.first, job.benchmarks, progress),
        measured_with=job.measured_with(),
    )
    warn(report, questions, progress)
    write_jsonl(stage / "comparison.jsonl", rows(questions, answers, scores, judged))
    write_json(stage / "report.json", asdict(report))
    if job.others:
        write_text(stage / "report.html", _page(report, stage))
    return report, problem


def _gated(
    report: Report, problem: BaseException | None, gates: Sequence[Gate]
) -> tuple[Report, BaseException | None]:
    """The report with its gates; a stopped judge outranks a failed gate."""
    try:
        results = check_gates(gates, asdict(report))
    except UsageError:
        if problem is None:
            raise
        results = []  # what was stopped may lack the figure
    return replace(report, gates=results), problem or refuse(results)


def _page(report: Report, stage: StageFolder) -> str:
    return render(asdict(report), [row for _, row in read_jsonl(stage / "comparison.jsonl")])


def _trained_on(run: RunFolder, data: Path) -> bool:
    """Whether this very file is what the run's model was trained on."""
    done = run.path / "train" / "done.json"
    trained = read_json(done).get("inputs", {}) if done.is_file() else {}
    return digest(data) in trained.values()


def _examples(job: _Job, seen: set[tuple[str, str]], progress: Progress) -> list[Example]:
    settings = job.settings
    if settings.data != PROCEDURAL:
        return read_questions(settings.data)
    if not seen:
        progress.warn("this run has no training data: every procedural task counts as unseen")
    tasks = unseen_tasks(settings.count, job.recipe.seed, seen, job.families)
    if len(tasks) < settings.count:
        progress.warn(
            f"only {len(tasks):,} of {settings.count:,} tasks: some families have no more"
        )
    return tasks
