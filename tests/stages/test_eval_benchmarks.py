"""Standard benchmarks through lm-evaluation-harness: a real task from a local file."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import StageFolder
from alpaca_cli.stages.eval_answers import Contender
from alpaca_cli.stages.eval_benchmarks import benchmarked, parse_benchmarks
from tests import processes
from tests.tiny import save_tiny_model

TASK = """
task: capitals_of_the_test
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 3.0}}
"""


def task(folder: Path) -> Path:
    """A multiple-choice task of four questions."""
    capitals = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo"}
    rows = [
        {"question": f"The capital of {country} is", "choices": [right, "Rio"], "answer": 0}
        for country, right in capitals.items()
    ]
    data = folder / "capitals.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    path = folder / "capitals.yaml"
    path.write_text(TASK.format(data=data))
    return path


def test_tasks_are_named_or_defined_by_a_file(tmp_path: Path) -> None:
    named, defined = parse_benchmarks(["arc_easy", str(task(tmp_path))])
    assert (named.name, named.file, named.digest) == ("arc_easy", None, "")
    assert (defined.name, len(defined.digest)) == ("capitals_of_the_test", 64)
    with pytest.raises(DataError, match="cannot read"):
        parse_benchmarks([str(tmp_path / "none.yaml")])
    (tmp_path / "other.yaml").write_text("dataset_path: json\nfunction: !function utils.x\n")
    with pytest.raises(DataError, match="names no task"):
        parse_benchmarks([str(tmp_path / "other.yaml")])


@pytest.mark.skipif(importlib.util.find_spec("lm_eval") is not None, reason="it is installed")
def test_without_the_harness_the_extra_is_named(tmp_path: Path) -> None:
    contender = Contender("tiny", tmp_path, "", {})
    progress = Progress(Console(file=StringIO()))
    with pytest.raises(UsageError, match="not installed") as caught:
        benchmarked(StageFolder(tmp_path), contender, parse_benchmarks(["arc_easy"]), progress)
    assert ".[lm-eval]" in caught.value.hint


@pytest.mark.slow
def test_a_task_of_the_harness_on_our_model(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    model, defined = save_tiny_model(tmp_path / "tiny"), task(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "Say yes.", "input": "", "output": "yes"}\n')
    command = ["eval", model, "--data", data, "--lm-eval", defined, "--run", tmp_path / "run",
               "--set=eval.max_new_tokens=2", "--json"]  # fmt: skip

    def alpaca(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        home = str(tmp_path / "home")
        return processes.run(
            *arguments, cwd=tmp_path, code=code, HF_DATASETS_OFFLINE="1", HF_HOME=home
        )

    done = alpaca(*command)
    found = json.loads(done.stdout)["lm_eval"]["capitals_of_the_test"]
    assert found["version"] == 3
    assert found["n"] == {"original": 4, "effective": 4}
    assert found["results"]["acc,none"] in (0, 0.25, 0.5, 0.75, 1)
    stored = json.loads((tmp_path / "run" / "eval-data" / "lm-eval.json").read_text())
    assert stored["capitals_of_the_test"]["results"] == found["results"]
    again = alpaca(*command[:-1])
    assert "up to date" in again.stderr
    wrong = alpaca(*command[:5], "capitols", *command[6:], code=2)
    assert 'the harness has no task "capitols"' in wrong.stderr
