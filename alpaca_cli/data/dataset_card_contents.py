"""What is in a dataset, for its card: the section on composition, from a stats report alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from alpaca_cli.core.stats_report import Distribution, Group, Neighbours, Report
from alpaca_cli.data.dataset_card_markdown import code, fenced, literal, table

SHOWN = 12  # rows of a table of what is most frequent
EXAMPLES = 5  # instructions shown


def composition(report: Report) -> str:
    """The section: what an example is, how many, in which languages, how varied, how clean."""
    return "\n\n".join(
        [
            "## Composition",
            answer("What is one example?", _fields(report)),
            answer("How many are there, and how long?", _sizes(report)),
            answer("Which languages?", _languages(report)),
            answer("What is asked for?", _tasks(report)),
            answer("How varied is it, and does it repeat itself?", _variety(report)),
            answer("Which mistakes are known?", _mistakes(report)),
            answer("Does it hold evaluation tasks?", _contamination(report)),
            answer(
                "Does it hold data about people, or what could offend?",
                not_known("personal data and offensive text were not looked for here"),
            ),
            answer(
                "Is it complete, and how is it to be split?",
                "Every example that was measured is counted; no split was made here. "
                + not_known("what larger set it may be a sample of"),
            ),
        ]
    )


def answer(question: str, text: str) -> str:
    """One question of the datasheet and what is known."""
    return f"### {question}\n\n{text}"


def not_known(what: str) -> str:
    """Says so, and who could know."""
    return f"*Not known:* {what}; the maker of this dataset has to say."


def shares(groups: Mapping[str, Group], head: str, most: int = SHOWN) -> str:
    """A table of the largest groups; those of no example are left out."""
    largest = sorted(
        ((name, group) for name, group in groups.items() if group.count),
        key=lambda item: -item[1].count,
    )
    rows = [
        [literal(name), f"{group.count:,}", f"{group.share:.1%}"] for name, group in largest[:most]
    ]
    text = table([head, "examples>", "share>"], rows)
    left = len(largest) - most
    return f"{text}\n\n… and {left:,} more." if left > 0 else text


def _fields(report: Report) -> str:
    text = (
        "`instruction` says what to do, `input` is the material for it (empty in "
        f"{1 - report.with_input_share:.1%}), `output` is the answer."
    )
    samples = list(_one_of_each_type(report))
    if not samples:
        return text
    return f"{text} The beginnings of some instructions:\n\n{fenced(chr(10).join(samples))}"


def _one_of_each_type(report: Report) -> Iterable[str]:
    """The first instruction of each of the most frequent task types."""
    largest = sorted(report.task_types.values(), key=lambda group: -group.count)
    return (group.rows[0].text for group in largest[:EXAMPLES] if group.rows)


def _sizes(report: Report) -> str:
    rows = [
        _length_row(f"{field}, words", lengths.words) for field, lengths in report.lengths.items()
    ]
    if report.tokens is not None:
        rows.append(_length_row("whole row, tokens", report.tokens.lengths))
    text = f"{report.examples:,} examples."
    if rows:
        heads = ["", "texts>", "mean>", "median>", "95 % have at most>", "longest>"]
        text += (
            f"\n\n{table(heads, rows)}\n\nWords of any script; one per letter where a script has "
            "no spaces."
        )
    if report.tokens is not None:
        text += (
            f" Rows longer than {report.tokens.max_length:,} tokens: {report.tokens.over:,} "
            f"({report.tokens.over_share:.1%}), by the tokenizer of the student."
        )
    return text


def _length_row(name: str, found: Distribution) -> list[str]:
    whole = (found.median, found.p95, found.max)
    return [name, f"{found.count:,}", f"{found.mean:,.1f}", *(f"{value:,.0f}" for value in whole)]


def _languages(report: Report) -> str:
    found = report.languages
    by_script = found.method == "script"
    parts = [
        f"Of the instructions:\n\n{shares(found.instruction, 'script' if by_script else 'code')}",
        f"Of the outputs:\n\n{shares(found.output, 'script' if by_script else 'code')}",
        f"In {found.differs.share:.1%} instruction and output differ without being asked to.",
    ]
    if by_script:
        parts.append(not_known("the languages; only the scripts were measured"))
    else:
        parts.append("Told by py3langid; `unknown` is too short to tell, or no prose.")
    return "\n\n".join(parts)


def _tasks(report: Report) -> str:
    parts = ["Guessed by rules from the words of each instruction:"]
    parts.append(shares(report.task_types, "task"))
    verbs = ", ".join(
        f"{literal(verb.verb)} ({verb.count:,})" for verb in report.openings.verbs[:SHOWN]
    )
    if verbs:
        parts.append(f"Instructions mostly open with: {verbs}.")
    for kind, groups in report.groups.items():
        parts += [f"As the examples themselves say, by {literal(kind)}:", shares(groups, kind)]
    return "\n\n".join(parts)


def _variety(report: Report) -> str:
    rows = [
        [
            field,
            f"{found.words:,}",
            f"{found.distinct_words:,}",
            f"{found.distinct_2:.3f}",
            "–" if found.mtld is None else f"{found.mtld:.1f}",
            f"{found.compression:.2f}",
        ]
        for field, found in report.diversity.items()
    ]
    heads = ["", "words>", "different>", "distinct-2>", "MTLD>", "compression>"]
    parts = [table(heads, rows)] if rows else []
    repeats = report.duplicates
    if repeats:
        listed = ", ".join(f"{group.count:,} {kind}" for kind, group in repeats.items())
        parts.append(f"Exact repeats of an earlier one: {listed}.")
    parts.append(_nearest("other example", report.neighbours))
    if report.seeds is not None:
        parts.append(_nearest("seed task", report.seeds))
    return "\n\n".join(parts)


def _nearest(other: str, found: Neighbours) -> str:
    if found.scores is None:
        return not_known(f"how like the most similar {other} each example is")
    return (
        f"ROUGE-L with the most similar {other}: mean {found.scores.mean:.3f}, above "
        f"{found.threshold:g} for {found.above:,} of {found.measured:,} "
        f"({found.above_share:.1%}); compared is {literal(found.key)}."
    )


def _mistakes(report: Report) -> str:
    found = {name: rule for name, rule in report.lint.items() if rule.count}
    if not found:
        return "No rule of `alpaca stats` found anything. No example was checked by a person here."
    rows = [
        [code(name), rule.severity, literal(rule.about), f"{rule.count:,}", f"{rule.share:.2%}"]
        for name, rule in sorted(found.items(), key=lambda item: -item[1].count)
    ]
    return (
        f"Rules found something in {report.findings.rows:,} examples "
        f"({report.findings.rows_share:.1%}); they see form, not whether an answer is true.\n\n"
        + table(["rule", "", "looks for", "examples>", "share>"], rows)
        + "\n\n"
        + not_known("whether a person has read the examples, and how many answers are wrong")
    )


def _contamination(report: Report) -> str:
    found = report.contamination
    if found is None:
        return not_known("no evaluation tasks were looked for")
    files = ", ".join(code(name.rpartition("/")[2]) for name in found.files)
    return (
        f"{found.questions:,} tasks of {files} were looked for, word by word; "
        f"examples that hold one: {found.found.count:,} ({found.found.share:.2%}). Paraphrases "
        "and translations cannot be found so, and other benchmarks were not looked for."
    )
