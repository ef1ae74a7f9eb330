"""The whole road as one command: killed in every stage, it ends as if nothing had happened."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.processes import kill_when, lines, run, start

SMALL = [
    "run", "--recipe", "quickstart",
    "--set", "generate.target=240",
    "--set", "train.epochs=2",
    "--set", "train.global_batch=16",
    "--set", "train.save_every=5",
    "--set", "train.model={config: {vocab_size: 600, hidden_size: 32, intermediate_size: 64, "
    "layers: 2, heads: 2}}",
    "--set", "eval.count=44",
    "--set", "eval.batch=4",
]  # fmt: skip

# Stage -> when to kill, seen from the run folder.
MOMENTS: dict[str, Callable[[Path], bool]] = {
    "seed": lambda run: (run / "recipe.yaml").is_file(),
    "generate": lambda run: lines(run / "generate" / "journal.jsonl") >= 3,
    "dedup": lambda run: (run / "generate" / "done.json").is_file(),
    "stats": lambda run: (run / "dedup" / "done.json").is_file(),
    "train": lambda run: lines(run / "train" / "log.jsonl") >= 13,
    "eval": lambda run: lines(run / "eval" / "answers.jsonl") >= 1,
}
SAME_BYTES = (
    "seed/kept.jsonl",
    "generate/kept.jsonl",
    "generate/rejected.jsonl",
    "dedup/kept.jsonl",
    "dedup/dropped.jsonl",
    "dedup/clusters.jsonl",
    "train/final/model.safetensors",
    "train/final/tokenizer.json",
    "train/final/prompt_template.json",
    "eval/data.jsonl",
)


def losses(folder: Path) -> list[tuple[int, float]]:
    rows = map(json.loads, (folder / "train" / "log.jsonl").read_text().splitlines())
    return [(row["step"], row["loss"]) for row in rows]


def report_of(run: Path, stage: str) -> Any:
    """A stage's report without what a clock, the machine or the run's own path put into it."""
    text = (run / stage / "done.json").read_text().replace(str(run), "RUN")
    report = without_costs(json.loads(text)["report"])
    if stage == "stats":
        report["provenance"] = without_requests(report["provenance"])
    return report


def without_requests(provenance: dict[str, Any]) -> dict[str, Any]:
    """Provenance without what depends on how many requests were answered before the target was
    reached: those that turn out to be unneeded are paid for, and so counted."""
    rest = {key: value for key, value in provenance.items() if key != "requests"}
    for by in ("seeds", "teachers", "positions"):
        rest[by] = [
            {key: value for key, value in producer.items() if key != "requests"}
            for producer in provenance[by]
            if producer["candidates"]
        ]
    return rest


def without_costs(report: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in report.items() if "second" not in key and key != "memory"}


@pytest.mark.timeout(900)
def test_killed_in_every_stage_it_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    reports = json.loads(run(*SMALL, "--run", straight, "--json", cwd=tmp_path).stdout)
    assert list(reports) == ["seed", "generate", "dedup", "stats", "train", "eval"]

    for moment in MOMENTS.values():
        victim = start(*SMALL, "--run", cut, cwd=tmp_path)
        kill_when(victim, partial(moment, cut))
    done = run(*SMALL, "--run", cut, cwd=tmp_path)
    assert "alpaca chat" in done.stderr

    for name in SAME_BYTES:
        assert (cut / name).read_bytes() == (straight / name).read_bytes(), name
    assert losses(cut) == losses(straight)
    for stage in ("dedup", "stats", "train", "eval"):
        assert report_of(cut, stage) == report_of(straight, stage)

    # Once more: everything is up to date, and the same report costs nothing.
    again = json.loads(run(*SMALL, "--run", cut, "--json", cwd=tmp_path).stdout)
    assert again["eval"] == json.loads((cut / "eval" / "done.json").read_text())["report"]
    for field in ("kept", "candidates", "rejected", "requests"):
        assert again["generate"][field] == reports["generate"][field]

    # A gate that does not hold: the reports are printed all the same.
    gated = run(
        *SMALL, "--set", "eval.gates=['exact_match > 1']", "--run", cut, "--json",
        cwd=tmp_path, code=5,
    )  # fmt: skip
    assert "1 of 1 gates failed" in gated.stderr
    [gate] = json.loads(gated.stdout)["eval"]["gates"]
    assert not gate["passed"]

    # A changed key is refused by name and loses nothing.
    refused = run(*SMALL, "--set", "dedup.threshold=0.5", "--run", cut, cwd=tmp_path, code=2)
    assert "threshold: was" in refused.stderr
    assert "--fresh" in refused.stderr


def test_each_next_line_can_be_pasted(tmp_path: Path) -> None:
    """From the seeds to a question, in a run whose path a shell would take apart."""
    sets = [*SMALL[3:], "--set", "train.epochs=0.3"]
    following = ["seed", "--recipe", "quickstart", "--run", "my [first] run", *sets]
    stages = ["generate", "dedup", "stats", "train", "chat"]
    for stage in stages:
        done = run(*following, cwd=tmp_path)
        line = next(line for line in done.stderr.splitlines() if line.startswith("next: "))
        alpaca, *following = shlex.split(line.removeprefix("next: "))
        assert (alpaca, following[0]) == ("alpaca", stage)
    assert run(*following, "-p", "Name a colour.", cwd=tmp_path).stdout

    exported = run("export", "my [first] run", "a copy", cwd=tmp_path)
    assert "next: alpaca chat 'a copy'" in exported.stderr
    several = ["my [first] run/dedup/kept.jsonl", "my [first] run/seed/kept.jsonl"]
    measured = run("stats", *several, cwd=tmp_path)
    assert f"next: alpaca dedup {shlex.join(several)} -o FILE" in measured.stderr
