"""How a dataset came about and what it is for, for its card: from a run's recipe and funnel.

Addresses, paths and names of keys of the recipe stay out of it: a card is published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath

from alpaca_cli import __version__
from alpaca_cli.core.settings import Dedup, Recipe
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher
from alpaca_cli.core.stats_report import Report
from alpaca_cli.data.dataset_card_contents import answer, not_known
from alpaca_cli.data.dataset_card_markdown import code, literal, table

RARE = 0.05  # share of outputs in other languages below which a set counts as of one


def motivation(report: Report, recipe: Recipe | None) -> str:
    """Why and by whom it was made, and what that has cost."""
    if recipe is not None and recipe.description:
        reason = f"The recipe says: {literal(recipe.description)}\n\n" + not_known(
            "for which purpose, and which gap it fills"
        )
    else:
        reason = not_known("for which purpose it was made, and which gap it fills")
    made = report.provenance
    if made is not None and made.cost is not None:
        price = f"The teacher's replies have cost {made.cost:,.2f} USD, by the recipe's prices."
        paid = f"{price}\n\n{not_known('who made it, for whom, and who paid')}"
    else:
        paid = not_known("who made it, for whom, and who paid")
    return "\n\n".join(
        ["## Motivation", answer("What was it made for?", reason), answer("By whom?", paid)]
    )


def collection(report: Report, recipe: Recipe | None) -> str:
    """Who wrote the examples, from what, and when."""
    parts = ["## Collection", answer("Where do the examples come from?", _origin(report, recipe))]
    if recipe is not None:
        parts.append(answer("From which seeds, and how were they asked for?", _asking(recipe)))
    parts.append(answer("How many were written, and how many stayed?", _funnel(report)))
    parts.append(
        answer(
            "When, and were people asked?",
            not_known(
                "when the examples were written, who took part and was paid for it, whether people "
                "whom they are about agreed, and whether anyone reviewed the ethics of it"
            ),
        )
    )
    return "\n\n".join(parts)


def preprocessing(report: Report, recipe: Recipe | None) -> str:
    """What was filtered, and whether what was left out is still there."""
    if recipe is None:
        done = not_known("what was filtered, cleaned or labelled, and whether the raw data is kept")
        return f"## Preprocessing\n\n{answer('What was done to the raw data?', done)}"
    rules = _filters(recipe.generate)
    made = report.provenance
    if made is not None and made.funnel is not None and made.funnel.kept is not None:
        rules += _deduplication(recipe.dedup)
    kept = (
        "Every reply of the teacher and every rejected example, with its reason, is in the folder "
        "of the run. " + not_known("whether that is published")
    )
    return "\n\n".join(
        [
            "## Preprocessing",
            answer("What was done to the raw data?", "\n".join(f"- {rule}" for rule in rules)),
            answer("Is what was left out still there?", kept),
        ]
    )


def _filters(generate: Generate) -> list[str]:
    """What a candidate had to be like to be kept."""
    filters = generate.filters
    rules = [
        f"Instructions of {filters.min_words} to {filters.max_words} words, inputs of at most "
        f"{filters.max_input_words:,}, outputs of {filters.min_output_words:,} to "
        f"{filters.max_output_words:,}.",
        "Rejected by rule: empty, refusing, merged or damaged tasks, placeholders, leftovers of "
        "prompts, answers that repeat the question and the like.",
    ]
    if filters.off:
        rules.append(f"Rules switched off: {_listed(filters.off)}.")
    if filters.keywords:
        rules.append(f"Instructions with these words were rejected: {_listed(filters.keywords)}.")
    if filters.openings:
        rules.append(f"Instructions that begin so were rejected: {_listed(filters.openings)}.")
    if filters.personal:
        rules.append(f"What looks like personal data was rejected: {_listed(filters.personal)}.")
    if filters.language:
        rules.append(f"Only these languages were kept: {_listed(filters.language)}.")
    rules.append(
        f"Rejected as known: ROUGE-L F1 of {literal(generate.novelty_key)} above "
        f"{generate.novelty:g} with a seed or an example that was kept before."
    )
    if generate.judge is not None:
        rules.append(
            f"The model {_model(generate.judge.teacher.model)} scored each from 1 to 5; below "
            f"{generate.judge.threshold:g} was rejected."
        )
    return rules


def _deduplication(dedup: Dedup) -> list[str]:
    """What was dropped afterwards."""
    rules = [
        f"Then, of examples whose {literal(dedup.key)} is alike (ROUGE-L F1 above "
        f"{dedup.threshold:g}), one was kept: {literal(dedup.keep)}."
    ]
    if dedup.semantic is not None:
        rules.append(f"Of those that mean the same by word vectors ({dedup.semantic:g}), too.")
    if dedup.against:
        rules.append(f"Examples like those of {_files(dedup.against)} were dropped.")
    if dedup.decontaminate:
        rules.append(f"Examples with tasks of {_files(dedup.decontaminate)} were dropped.")
    if dedup.exclude:
        rules.append("Examples that a person had marked bad were dropped.")
    return rules


def uses(report: Report) -> str:
    """What it is for, and where it falls short as far as figures tell."""
    limits = []
    if computed(report):
        limits.append("Tasks and wording come from a fixed set of families, not from life.")
    elif report.provenance is not None:
        limits.append(
            "A model wrote the answers, and no person is known to have checked them. They carry "
            "the teacher's mistakes, its leanings and its way of writing."
        )
    found = report.languages
    if found.method != "script" and found.output:
        language, group = max(found.output.items(), key=lambda item: item[1].count)
        if group.share > 1 - RARE:
            limits.append(f"{group.share:.1%} of the outputs are in one language ({language}).")
    if report.tokens is not None and report.tokens.over:
        limits.append(
            f"{report.tokens.over_share:.1%} of the rows are longer than "
            f"{report.tokens.max_length:,} tokens and would be cut or left out in training."
        )
    if report.findings.rows:
        limits.append(
            f"{report.findings.rows_share:.1%} of the rows have findings of lint, see above."
        )
    if report.contamination is None:
        limits.append("Scores on benchmarks may be too good: no evaluation tasks were looked for.")
    return "\n\n".join(
        [
            "## Uses",
            answer(
                "What can it be used for?",
                "It has the form of data for training a model to follow instructions.\n\n"
                + not_known("what it has been used for, and what it must not be used for"),
            ),
            answer(
                "Where does it fall short?",
                "\n".join(f"- {limit}" for limit in limits) or not_known("in what"),
            ),
        ]
    )


def distribution(report: Report, license: str | None) -> str:
    """Under which licence, with which restrictions."""
    if license is not None and license.strip():
        terms = f"{code(license)}, as the maker says."
    else:
        terms = (
            "**No licence is stated.** Without one nobody may assume the right to use or share it. "
            + not_known("the licence")
        )
    third = not_known("whether others hold rights in it, and whether export rules apply")
    if report.provenance is not None and not computed(report):
        third = (
            "Terms of the teacher's provider may restrict what its output may be used for. " + third
        )
    return "\n\n".join(
        [
            "## Distribution",
            answer("Under which licence?", terms),
            answer("Which rights do others have?", third),
        ]
    )


def maintenance(report: Report) -> str:
    """Who looks after it, and how these figures came about."""
    notes = "\n".join(f"- {literal(note)}" for note in report.notes)
    figures = f"By `alpaca stats`, version {__version__} (form {report.version} of its report)." + (
        f" What was not measured, and why:\n\n{notes}" if notes else ""
    )
    care = not_known(
        "who looks after it, where mistakes can be reported, and whether there will be new versions"
    )
    return "\n\n".join(
        [
            "## Maintenance",
            answer("Who looks after it?", care),
            answer("How were the figures of this card measured?", figures),
        ]
    )


def computed(report: Report) -> bool:
    """Whether all that is known to have written examples is the embedded teacher."""
    return bool(names := _teachers(report)) and set(names) == {"procedural"}


def _teachers(report: Report) -> list[str]:
    """Their names; those in brackets stand for requests without a reply."""
    made = report.provenance
    return [one.name for one in made.teachers if not one.name.startswith("(")] if made else []


def _origin(report: Report, recipe: Recipe | None) -> str:
    made = report.provenance
    if made is None:
        return not_known("who or what wrote the examples, and from which sources")
    names = _teachers(report)
    rows = [
        [_model(one.name), f"{one.candidates:,}", f"{one.kept:,}", f"{one.kept_share:.1%}"]
        for one in made.teachers
        if one.name in names
    ]
    if computed(report):
        parts = ["The embedded teacher of alpaca: task families whose answers are computed."]
    else:
        parts = ["A language model wrote them, shown a few tasks at a time (self-instruct)."]
    if rows:
        parts.append(table(["teacher", "written>", "kept>", "share>"], rows))
    if recipe is None:
        parts.append(not_known("how the teacher was asked: these rows are not a whole run"))
    elif isinstance(recipe.generate.teacher, OpenAITeacher):
        teacher = recipe.generate.teacher
        parts.append(
            f"Sampled at temperature {teacher.temperature:g} and top_p {teacher.top_p:g}, "
            f"at most {teacher.max_output_tokens:,} tokens a reply."
        )
    return "\n\n".join(parts)


def _asking(recipe: Recipe) -> str:
    seeds, generate = recipe.seeds.source, recipe.generate
    source = (
        "the tasks that come with alpaca"
        if seeds == "builtin"
        else f"{_files([seeds])}, tasks that are taken to be written by people"
    )
    shown = generate.demonstrations
    prompt = "alpaca's own" if generate.prompt == "default" else _files([generate.prompt])
    text = (
        f"Seeds: {source}. Each request asked for {generate.tasks_per_request} tasks and showed "
        f"{shown.seed} seeds"
    )
    if shown.pool:
        text += f" and {shown.pool} examples of the run itself"
    return f"{text}. Prompt: {prompt}. Random choices grow from seed {recipe.seed}."


def _funnel(report: Report) -> str:
    made = report.provenance
    if made is None or made.funnel is None:
        return not_known("how many examples there were before any were left out")
    funnel = made.funnel
    rows = [["written by the teacher", f"{funnel.candidates:,}"]]
    rows += _reasons("rejected", funnel.rejected)
    rows.append(["kept by generate", f"{funnel.generated:,}"])
    if funnel.kept is not None:
        rows += _reasons("dropped", funnel.dropped)
        rows.append(["kept by dedup", f"{funnel.kept:,}"])
    cost = "" if made.cost is None else f" They have cost {made.cost:,.2f} USD."
    return f"{made.requests:,} requests were sent.{cost}\n\n{table(['', 'examples>'], rows)}"


def _reasons(what: str, reasons: Mapping[str, int]) -> list[list[str]]:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return [[f"{what}: {literal(reason)}", f"{count:,}"] for reason, count in ordered]


def _listed(words: Sequence[str]) -> str:
    return ", ".join(map(code, words))


def _files(names: Sequence[str]) -> str:
    """Names without their folders; those of datasets on the hub whole."""
    return ", ".join(
        code(name if name.startswith("hub:") else PurePath(name).name) for name in names
    )


def _model(name: str) -> str:
    """A model's name; of one in a folder of this machine only the folder's own name."""
    return code(PurePath(name).name if name.startswith(("/", "~", ".")) else name)
