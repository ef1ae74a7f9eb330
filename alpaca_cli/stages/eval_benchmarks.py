"""Standard benchmarks, by lm-evaluation-harness: nothing of them is written anew here.

    tasks -> eval/lm-eval.json    task -> results as the harness gives them

The model is asked as the harness asks any model: raw prompts, no template, log-likelihoods where
the task wants them. Which data sets a task downloads is the task's business.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError, did_you_mean, missing_extra
from alpaca_cli.core.files import digest, read_json, write_json
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import StageFolder
from alpaca_cli.stages.eval_answers import Contender

RESULTS = "lm-eval.json"
YAML = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A task of the harness; `file` defines it where it is not one of the harness's own."""

    name: str
    file: Path | None = None

    @property
    def digest(self) -> str:
        """sha256 of its file; empty for the harness's own tasks."""
        return "" if self.file is None else digest(self.file)


def parse_benchmarks(tasks: Sequence[str]) -> list[Benchmark]:
    """Tasks by name, or by the YAML file that defines one.

    Raises:
        DataError: there is no such file, or it names no task.
    """
    return [
        Benchmark(_task_name(Path(task)), Path(task)) if task.endswith(YAML) else Benchmark(task)
        for task in tasks
    ]


def benchmarked(
    stage: StageFolder, contender: Contender, benchmarks: Sequence[Benchmark], progress: Progress
) -> dict[str, Any]:
    """The results of some tasks; the harness is asked for those that are not there yet.

    Raises:
        UsageError: the harness is not installed, or knows no such task.
        DataError: a task's data cannot be had.
    """
    if not benchmarks:
        return {}
    path = stage / RESULTS
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    missing = [each for each in benchmarks if known.get(each.name, {}).get("file") != each.digest]
    if missing:
        progress.info(f"lm-eval: {contender.name} on {', '.join(each.name for each in missing)}")
        known |= _evaluate(contender, missing)
        write_json(path, known)
    return {each.name: known[each.name] for each in benchmarks}


def _evaluate(contender: Contender, benchmarks: Sequence[Benchmark]) -> dict[str, Any]:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise missing_extra("lm-evaluation-harness", "lm-eval") from error
    from alpaca_cli.model.loading import load_student

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    folders = {str(each.file.parent) for each in benchmarks if each.file is not None}
    manager = TaskManager(include_path=sorted(folders) or None)
    for each in benchmarks:
        if each.name not in manager.all_tasks:
            known = did_you_mean(each.name, manager.all_tasks)
            raise UsageError(f'--lm-eval: the harness has no task "{each.name}"{known}')
    assert contender.folder is not None
    student = load_student(contender.folder, contender.name)
    try:
        with redirect_stdout(sys.stderr):  # the harness prints, and stdout is for our report
            found = simple_evaluate(
                HFLM(pretrained=student.model, tokenizer=student.tokenizer, batch_size="auto"),
                tasks=[each.name for each in benchmarks],
                task_manager=manager,
                log_samples=False,
            )
    except (OSError, ValueError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"--lm-eval: {first}") from error
    return {each.name: _result(found, each) for each in benchmarks}


def _task_name(file: Path) -> str:
    """The name that a task's YAML file gives it; tags such as `!function` are not carried out."""
    import yaml

    try:
        node = yaml.compose(file.read_text("utf-8"), yaml.SafeLoader)
    except OSError as error:
        raise DataError(f"{file}: cannot read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file}: not YAML: {str(error).splitlines()[0]}") from error
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == "task" and isinstance(value, yaml.ScalarNode):
                return str(value.value)
    raise DataError(f"{file}: it names no task")


def _result(found: Mapping[str, Any], benchmark: Benchmark) -> dict[str, Any]:
    return {
        "file": benchmark.digest,
        "version": found["versions"].get(benchmark.name),
        "n": found.get("n-samples", {}).get(benchmark.name),
        "results": found["results"][benchmark.name],
    }
