"""The stats stage: what is in the data, for people, for scripts, for CI and for a browser.

    dedup/kept.jsonl (else generate/kept.jsonl) -> stats/report.json, stats/report.html

Nothing is changed. What every figure means is said where it is defined, in
`alpaca_cli.core.stats_report`; this module reads the examples once and asks each measure in turn.
A rerun costs nothing while recipe and inputs are the same; cut short, it starts over.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import read_json, write_json
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.records import Example
from alpaca_cli.core.runfolder import Fresh, RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.core.stats_report import (
    VERSION,
    Contamination,
    Neighbours,
    Provenance,
    Report,
    Sample,
    group,
    report_from,
    sample,
    share,
)
from alpaca_cli.data.compare import compare
from alpaca_cli.data.diversity import measure_diversity
from alpaca_cli.data.duplicates import find_contaminated
from alpaca_cli.data.formats import HUB, read_examples
from alpaca_cli.data.languages_found import count_languages
from alpaca_cli.data.lint import by_rule, lint
from alpaca_cli.data.measures import (
    Words,
    groups,
    lengths,
    neighbours,
    read_words,
    repeated,
)
from alpaca_cli.data.openings import measure_openings
from alpaca_cli.data.provenance import rows_provenance, run_provenance
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import nearest_among, nearest_others
from alpaca_cli.data.seeds import BUILTIN, load_seeds
from alpaca_cli.data.task_types import count_task_types
from alpaca_cli.data.texts import key_text
from alpaca_cli.stages.browsing import Tally, browse, refuse_without_screen
from alpaca_cli.stages.stats_outputs import write_page
from alpaca_cli.stages.stats_tokens import tokenizer_file, tokens_of


def run(recipe: Recipe, run: RunFolder, progress: Progress, *, fresh: Fresh = "never") -> Report:
    """The run's examples -> stats/report.json and stats/report.html.

    Raises:
        DataError: this run has no examples yet.
        UsageError: the stage was made from other examples or settings.
    """
    made = {
        f"{stage}/{name}": run.stage(stage) / name
        for stage, names in (
            ("generate", ("journal.jsonl", "kept.jsonl", "rejected.jsonl")),
            ("dedup", ("kept.jsonl", "dropped.jsonl")),
        )
        for name in names
    }
    inputs = {name: path for name, path in made.items() if path.is_file()}
    source = examples_of(run)
    inputs |= _files_of(recipe)
    if not recipe.seeds.source.startswith(HUB):
        builtin = recipe.seeds.source == "builtin"
        inputs["seeds"] = BUILTIN if builtin else Path(recipe.seeds.source)
    stage = run.stage("stats")
    settings = _settings(recipe)
    if (stored := stage.open(settings, inputs, fresh=fresh)) is not None:
        progress.info(f"stats: up to date in {stage.path}")
        return report_from(stored)
    examples = read_examples([source])
    report = measure(
        examples,
        recipe,
        progress,
        source=str(source),
        seeds=load_seeds(recipe.seeds.source),
        provenance=run_provenance(run.stage("generate").path, run.stage("dedup").path),
    )
    report = write_page(report, stage / "report.html")
    write_json(stage / "report.json", asdict(report))
    stage.finish(asdict(report), settings, inputs, ["report.json", "report.html"])
    return report


def examples_of(run: RunFolder) -> Path:
    """The file with the examples of a run: deduplicated when they are.

    Raises:
        DataError: this run has no examples yet.
    """
    for stage in ("dedup", "generate"):
        path = run.stage(stage) / "kept.jsonl"
        if path.is_file():
            return path
    raise DataError(
        f"{run.path}: no examples in this run", hint="run alpaca generate first, or name FILES"
    )


def measure_files(files: Sequence[str], recipe: Recipe, progress: Progress) -> Report:
    """Measure several files as one.

    Raises:
        DataError: a file is missing or malformed.
    """
    examples = read_examples(files)
    found = rows_provenance(examples)
    return measure(examples, recipe, progress, source=", ".join(files), provenance=found)


def against(report: Report, name: str, recipe: Recipe, progress: Progress) -> Report:
    """The report with a comparison to another set: a report.json, or a file of examples.

    Raises:
        DataError: the file is missing or malformed, or a report of another version.
    """
    path = Path(name)
    value = read_json(path) if path.suffix == ".json" and path.is_file() else None
    if isinstance(value, Mapping) and "version" in value:
        if value["version"] != VERSION:
            raise DataError(
                f"{name}: a report of version {value['version']}, not {VERSION}",
                hint="measure its examples again, or name the file of examples itself",
            )
        try:
            other = report_from(value)
        except ValueError as error:
            raise DataError(f"{name}: not a whole stats report: {error}") from error
    else:
        other = measure_files([name], recipe, progress)
    return replace(report, against=compare(report, other))


def look(
    files: Sequence[str], recipe: Recipe, run: RunFolder, progress: Progress, review: Path | None
) -> Tally:
    """Browse these files, or the run's examples, in the terminal.

    Args:
        review: where marks are kept; by default beside the first file, or in the run.

    Raises:
        DataError: a file is missing or malformed, or the run has no examples.
        UsageError: there is no terminal, or textual is not installed.
    """
    refuse_without_screen()
    sources = list(files) or [str(examples_of(run))]
    if review is None:
        review = Path(f"{files[0]}.review.jsonl") if files else run.path / "review.jsonl"
    examples = read_examples(sources)
    with progress.task("checking examples", total=len(examples)) as task:
        findings = lint(examples, recipe.dedup.threshold, task.advance)
    return browse(sources, examples, findings, review)


def measure(
    examples: Sequence[Example],
    recipe: Recipe,
    progress: Progress,
    *,
    source: str,
    seeds: Sequence[Example] = (),
    provenance: Provenance | None = None,
) -> Report:
    """All measurements of a set of examples.

    Args:
        source: where they are from, as people know it.
        seeds: the seed tasks, to compare with.
    """
    notes = []
    with progress.task("reading words", total=len(examples)) as task:
        words = read_words(examples, task.advance)
    with progress.task("checking examples", total=len(examples)) as task:
        findings = lint(examples, recipe.dedup.threshold, task.advance)
    rules, all_findings = by_rule(examples, findings)
    fields, tokens = None, None
    if (tokenizer := tokenizer_file(recipe)) is None:
        notes.append(
            "tokens not counted without a tokenizer; e.g. --set stats.tokenizer=RUN/train/final"
        )
    else:
        fields, tokens = tokens_of(examples, recipe, tokenizer, progress)
    among = _neighbours(examples, words, recipe, progress)
    if among.measured < len(examples):
        notes.append(
            f"nearest neighbours of {among.measured:,} examples drawn at random, "
            "each compared with all"
        )
    with_input = sum(bool(example.input.strip()) for example in examples)
    with progress.task("counting verbs, types, languages, words", total=4) as task:
        openings = measure_openings(examples, recipe.stats.top, recipe.stats.nlp)
        task.advance()
        task_types = count_task_types(examples)
        task.advance()
        languages = count_languages(examples)
        task.advance()
        diversity = {
            name: measure_diversity(words[name], [getattr(example, name) for example in examples])
            for name in ("instruction", "output")
        }
        task.advance()
    if languages.method == "script":
        notes.append("scripts instead of languages: py3langid (extra [language]) tells those")
    return Report(
        version=VERSION,
        source=source,
        examples=len(examples),
        with_input=with_input,
        with_input_share=share(with_input, len(examples)),
        lengths=lengths(examples, words, fields),
        tokens=tokens,
        languages=languages,
        openings=openings,
        task_types=task_types,
        diversity=diversity,
        neighbours=among,
        seeds=_to_seeds(examples, words, seeds, recipe, progress) if seeds else None,
        duplicates=repeated(examples),
        lint=rules,
        findings=all_findings,
        contamination=_contamination(examples, recipe, progress),
        groups=groups(examples),
        provenance=provenance,
        notes=notes,
        html=None,
    )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe keys that these figures depend on."""
    return {
        "seed": recipe.seed,
        "stats": recipe.stats.model_dump(mode="json"),
        "seeds.source": recipe.seeds.source,
        "dedup.key": recipe.dedup.key,
        "dedup.threshold": recipe.dedup.threshold,
        "dedup.ngram": recipe.dedup.ngram,
        "dedup.containment": recipe.dedup.containment,
        "generate.teacher.price": _price(recipe),
        "train.template": recipe.train.template,
        "train.max_length": recipe.train.max_length,
    }


def _price(recipe: Recipe) -> Any:
    return recipe.generate.teacher.model_dump(mode="json").get("price")


def _files_of(recipe: Recipe) -> dict[str, Path]:
    """Name -> file of everything that the recipe has read besides the examples."""
    files = {
        f"stats.contamination: {name}": Path(name)
        for name in recipe.stats.contamination
        if not name.startswith(HUB)
    }
    tokenizer = tokenizer_file(recipe)
    return files if tokenizer is None else files | {"tokenizer": tokenizer}


def _compared(examples: Sequence[Example], words: Words, key: str) -> list[Sequence[str]]:
    """The words that are compared with those of other examples.

    Of every script, whatever dedup.tokenizer says: Chinese data would else be all 0.
    """
    if key == "instruction+input":
        return [tokenize(key_text(example, key), "unicode") for example in examples]
    return list(words[key])


def _neighbours(
    examples: Sequence[Example], words: Words, recipe: Recipe, progress: Progress
) -> Neighbours:
    """ROUGE-L with the nearest neighbour, of a sample that the recipe's seed draws."""
    key = recipe.dedup.key
    count = min(recipe.stats.neighbours, len(examples))
    rows = sorted(random.Random(recipe.seed).sample(range(len(examples)), count))
    with progress.task("finding nearest neighbours", total=count) as task:
        others, scores = nearest_others(
            _compared(examples, words, key), rows, step=lambda done, counts: task.set(done)
        )

    def shown(place: int) -> Sample:
        example, other = examples[rows[place]], int(others[place])
        note = f"{scores[place]:.3f} with row {other + 1:,}: {key_text(examples[other], key)}"
        return _pair(rows[place], example, key, note)

    return neighbours(key, recipe.dedup.threshold, scores.tolist(), shown)


def _to_seeds(
    examples: Sequence[Example],
    words: Words,
    seeds: Sequence[Example],
    recipe: Recipe,
    progress: Progress,
) -> Neighbours:
    """ROUGE-L of every example with the most similar seed task."""
    key = recipe.dedup.key
    with progress.task("comparing with the seeds", total=len(examples)) as task:
        nearest, scores = nearest_among(
            _compared(examples, words, key),
            [tokenize(key_text(seed, key), "unicode") for seed in seeds],
            step=lambda done, counts: task.set(done),
        )

    def shown(row: int) -> Sample:
        seed = seeds[int(nearest[row])]
        note = f"{scores[row]:.3f} with seed {seed.id or ''}: {key_text(seed, key)}"
        return _pair(row, examples[row], key, note)

    return neighbours(key, recipe.dedup.threshold, scores.tolist(), shown)


def _pair(row: int, example: Example, key: str, note: str) -> Sample:
    """An example and, in its note, what it is like; both on a line and cut."""
    return sample(row + 1, example.id, key_text(example, key), sample(0, None, note).text)


def _contamination(
    examples: Sequence[Example], recipe: Recipe, progress: Progress
) -> Contamination | None:
    files = recipe.stats.contamination
    if not files:
        return None
    questions = read_examples(files)
    found = find_contaminated(examples, questions, recipe.dedup, progress)
    shown = (
        sample(
            pair.row + 1,
            examples[pair.row].id,
            examples[pair.row].instruction,
            f"{pair.score:.0%} of: {sample(0, None, questions[pair.other].instruction).text}",
        )
        for pair in found
    )
    return Contamination(
        files=list(files), questions=len(questions), found=group(len(examples), shown)
    )
