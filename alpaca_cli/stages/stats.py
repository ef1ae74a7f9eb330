"""The stats stage: what is in the data, for people, for scripts and for a browser.

    dedup/kept.jsonl (else generate/kept.jsonl) -> stats/report.json, stats/report.html

Nothing is changed and nothing is judged; what lint finds is listed with its rows. A rerun costs
nothing while recipe and inputs are the same; cut short, it starts over.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import read_jsonl, write_json, write_text
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.template import load_template
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.lint import Finding, lint
from alpaca_cli.data.measures import (
    groups,
    histogram,
    length_edges,
    quantiles,
    repeated,
    word_lengths,
)
from alpaca_cli.data.openings import openings
from alpaca_cli.data.report_html import render
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import nearest_others
from alpaca_cli.data.texts import key_text
from alpaca_cli.model.token_counts import count_tokens
from alpaca_cli.stages.dedup import refuse_overwriting

LINT_ROWS = 5  # rows listed for each rule


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was measured; also the content of `report.json`.

    Attributes:
        words: field -> `quantiles` and `histogram` of its length in words; empty inputs left out.
        tokens: the same for whole training examples, with `tokenizer`, `max_length` and `over`
            (examples longer than that); None when no tokenizer is known.
        openings: opening verbs and their objects, by rule.
        similarity: ROUGE-L F1 of each measured example with its nearest neighbour.
        duplicates: rows that repeat an earlier one exactly, by what repeats.
        lint: rule -> `severity`, `count` and the first `rows`.
        groups: category or family -> name -> count, where the examples say so.
        funnel: from the teacher's candidates to these examples; None outside a run.
        notes: what was not measured, and why.
    """

    source: str
    examples: int
    with_input: int
    words: dict[str, dict[str, Any]]
    tokens: dict[str, Any] | None
    openings: dict[str, Any]
    similarity: dict[str, Any]
    duplicates: dict[str, int]
    lint: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, int]]
    funnel: dict[str, Any] | None
    notes: list[str]
    html: str | None


def run(recipe: Recipe, run: RunFolder, progress: Progress, *, fresh: Fresh = "never") -> Report:
    """The run's examples -> stats/report.json and stats/report.html.

    Raises:
        DataError: this run has no examples yet.
        UsageError: the stage was made from other examples or settings.
    """
    made = {
        f"{stage}/{name}": run.stage(stage) / name
        for stage in ("generate", "dedup")
        for name in ("kept.jsonl", "rejected.jsonl", "dropped.jsonl")
    }
    inputs = {name: path for name, path in made.items() if path.is_file()}
    source = inputs.get("dedup/kept.jsonl", inputs.get("generate/kept.jsonl"))
    if source is None:
        raise DataError(
            f"{run.path}: no examples in this run",
            hint="run alpaca generate first, or name FILES",
        )
    tokenizer = _tokenizer_file(recipe)
    if tokenizer is not None:
        inputs["tokenizer"] = tokenizer
    stage = run.stage("stats")
    settings = _settings(recipe)
    if (stored := stage.open(settings, inputs, fresh=fresh)) is not None:
        progress.info(f"stats: up to date in {stage.path}")
        return Report(**stored)
    report = measure(
        read_examples([source]),
        recipe,
        progress,
        source=str(source),
        funnel=_funnel(inputs),
        html=stage / "report.html",
    )
    write_json(stage / "report.json", asdict(report))
    stage.finish(asdict(report), settings, inputs, ["report.json", "report.html"])
    return report


def measure_files(
    files: Sequence[str], recipe: Recipe, progress: Progress, output: Path | None = None
) -> Report:
    """Measure several files as one; `output` is where the HTML report goes.

    Raises:
        DataError: a file is missing or malformed.
        UsageError: the output is one of the inputs.
    """
    if output is not None:
        refuse_overwriting(files, output)
    return measure(read_examples(files), recipe, progress, source=", ".join(files), html=output)


def measure(
    examples: Sequence[Example],
    recipe: Recipe,
    progress: Progress,
    *,
    source: str,
    funnel: dict[str, Any] | None = None,
    html: Path | None = None,
) -> Report:
    """All measurements; writes the HTML report when `html` names a file."""
    lengths = word_lengths(examples)
    tokenizer = _tokenizer_file(recipe)
    notes = []
    if tokenizer is None:
        notes.append(
            "tokens not counted without a tokenizer; e.g. --set stats.tokenizer=RUN/train/final"
        )
    with progress.task("checking examples", total=len(examples)) as task:
        findings = lint(examples, recipe.dedup.threshold, task.advance)
    similarity = _similarity(examples, recipe, progress)
    if similarity["measured"] < len(examples):
        notes.append(
            f"nearest neighbours of {similarity['measured']:,} examples drawn at random, "
            "each compared with all"
        )
    report = Report(
        source=source,
        examples=len(examples),
        with_input=len(lengths["input"]),
        words={name: _distribution(values) for name, values in lengths.items()},
        tokens=None if tokenizer is None else _tokens(examples, recipe, tokenizer),
        openings=openings((example.instruction for example in examples), recipe.stats.top),
        similarity=similarity,
        duplicates=repeated(examples),
        lint=_lint_by_rule(examples, findings),
        groups=groups(examples),
        funnel=funnel,
        notes=notes,
        html=None if html is None else str(html),
    )
    if html is not None:
        write_text(html, render(asdict(report)))
    return report


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe keys that these figures depend on."""
    return {
        "seed": recipe.seed,
        "stats": recipe.stats.model_dump(mode="json"),
        "dedup.key": recipe.dedup.key,
        "dedup.threshold": recipe.dedup.threshold,
        "train.template": recipe.train.template,
        "train.max_length": recipe.train.max_length,
    }


def _distribution(values: Sequence[int]) -> dict[str, Any]:
    return {
        "quantiles": quantiles(values),
        "histogram": histogram(values, length_edges(values)),
    }


def _similarity(examples: Sequence[Example], recipe: Recipe, progress: Progress) -> dict[str, Any]:
    """ROUGE-L with the nearest neighbour, of a sample that the recipe's seed draws.

    Words of every script count, whatever dedup.tokenizer says: Chinese data would else be all 0.
    """
    key, threshold = recipe.dedup.key, recipe.dedup.threshold
    tokens = (tokenize(key_text(example, key), "unicode") for example in examples)
    count = min(recipe.stats.neighbours, len(examples))
    sample = sorted(random.Random(recipe.seed).sample(range(len(examples)), count))
    with progress.task("finding nearest neighbours", total=count) as task:
        found = nearest_others(tokens, sample, step=lambda done, counts: task.set(done))
    scores = found[1].tolist()
    return {
        "key": key,
        "measured": count,
        "threshold": threshold,
        "above": sum(score > threshold for score in scores),
        "quantiles": quantiles([round(score, 4) for score in scores]),
        "histogram": histogram(scores, [number / 20 for number in range(21)]),
    }


def _lint_by_rule(examples: Sequence[Example], findings: Sequence[Finding]) -> dict[str, Any]:
    """Most frequent rule first, errors before warnings."""
    counts = Counter((found.severity, found.rule) for found in findings)
    rules: dict[str, Any] = {}
    for (severity, rule), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1])):
        rows = [
            {
                "row": found.row,
                "id": found.id,
                "reason": found.reason,
                "instruction": examples[found.row - 1].instruction[:200],
            }
            for found in findings
            if found.rule == rule
        ]
        rules[rule] = {"severity": severity, "count": count, "rows": rows[:LINT_ROWS]}
    return rules


def _tokenizer_file(recipe: Recipe) -> Path | None:
    """The tokenizer.json that the recipe names, or that lies in its pretrained model's folder.

    Raises:
        DataError: stats.tokenizer names something else.
    """
    named = recipe.stats.tokenizer
    if named is None:
        model = recipe.train.model
        path = Path(model) / "tokenizer.json" if isinstance(model, str) else None
        return path if path is not None and path.is_file() else None
    path = Path(named)
    if path.is_dir():
        path /= "tokenizer.json"
    if not path.is_file():
        raise DataError(f"stats.tokenizer: {path}: no such file")
    return path


def _tokens(examples: Sequence[Example], recipe: Recipe, tokenizer: Path) -> dict[str, Any]:
    """Tokens of whole training examples: the prompt, the answer, and one for EOS.

    With the tokenizer's own chat template only the three texts are counted.
    """
    template = load_template(recipe.train.template)

    def text(example: Example) -> str:
        if template.chat_template:
            return f"{example.instruction}\n{example.input}\n{example.output}"
        return template.prompt(example.instruction, example.input) + example.output

    counts = count_tokens(tokenizer, [text(example) for example in examples])
    values = [count + 1 for count in counts]
    limit = recipe.train.max_length
    return _distribution(values) | {
        "tokenizer": str(tokenizer),
        "total": sum(values),
        "max_length": limit,
        "over": sum(value > limit for value in values),
    }


def _funnel(files: dict[str, Path]) -> dict[str, Any] | None:
    """How many candidates each stage kept, and why it did not keep the others."""

    def reasons(name: str) -> Counter[str]:
        rows = read_jsonl(files[name]) if name in files else ()
        return Counter(str(row.get("reason", "")) for _, row in rows)

    def count(name: str) -> int | None:
        return sum(1 for _ in read_jsonl(files[name])) if name in files else None

    kept, rejected = count("generate/kept.jsonl"), reasons("generate/rejected.jsonl")
    if kept is None:
        return None
    return {
        "candidates": kept + rejected.total(),
        "rejected": dict(rejected.most_common()),
        "generated": kept,
        "dropped": dict(reasons("dedup/dropped.jsonl").most_common()),
        "kept": count("dedup/kept.jsonl"),
    }
