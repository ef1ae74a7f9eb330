"""The sections of the report page that are tables: what was found, where it comes from, and what
was decided about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alpaca_cli.core.stats_report import (
    Change,
    Check,
    Comparison,
    Contamination,
    Diversity,
    Findings,
    GateResult,
    Group,
    LintRule,
    Producer,
    Provenance,
)
from alpaca_cli.data.report_parts import (
    ID,
    ROWS,
    Section,
    cut,
    fold,
    left_out,
    note,
    rows_fold,
    samples,
    section,
    table,
)
from alpaca_cli.data.report_tags import (
    NONE,
    Html,
    clean,
    dollars,
    join,
    number,
    percent,
    probability,
    signed,
    tag,
)

PRODUCERS = 30  # rows of a table of seeds, teachers or positions
REASONS = 12  # of one producer, all in one cell
NOTES = 50
REPEATS = {"rows": "Whole rows", "instructions": "Instructions", "outputs": "Outputs"}


def gates(check: Check) -> Section:
    """Which gates hold; those that do not come first, with examples."""
    failed = [gate for gate in check.gates if not gate.passed]
    held = [gate for gate in check.gates if gate.passed]
    verdict = "All gates hold" if not failed else f"{len(failed):,} of {len(check.gates):,} fail"
    examples = [
        fold(f"Examples: {clean(gate.figure, ID)}", samples(gate.figure, gate.rows))
        for gate in failed[:ROWS]
        if gate.rows
    ]
    parts = [note(f"{verdict}, by ", tag("code", cut(check.file)), ".")]
    if failed:
        parts += [_gate_table("Gates that fail", failed), *examples]
    if held:
        parts.append(fold(f"{len(held):,} gates that hold", _gate_table("Gates that hold", held)))
    return section("gates", "Gates", *parts)


def duplicates(found: Mapping[str, Group]) -> Section:
    """What repeats an earlier example exactly."""
    lines = [
        rows_fold(
            REPEATS.get(name, clean(name, ID)),
            [f"{group.count:,}", percent(group.share)],
            samples(f"Repeated: {REPEATS.get(name, name)}", group.rows),
        )
        for name, group in found.items()
    ]
    return section(
        "duplicates",
        "Exact duplicates",
        note("Examples that repeat an earlier one letter by letter."),
        tag("div", *lines, class_="lines"),
    )


def diversity(found: Mapping[str, Diversity]) -> Section:
    """How varied the words are."""
    heads = [
        "Field", "Words", "Distinct", "Distinct 1", "Distinct 2", "Distinct 3", "Entropy, bits",
        "MTLD", "Compression",
    ]  # fmt: skip
    rows = [
        (
            clean(field, ID).capitalize(),
            f"{one.words:,}",
            f"{one.distinct_words:,}",
            f"{one.distinct_1:.4f}",
            f"{one.distinct_2:.4f}",
            f"{one.distinct_3:.4f}",
            f"{one.entropy:.2f}",
            NONE if one.mtld is None else f"{one.mtld:.1f}",
            f"{one.compression:.2f}",
        )
        for field, one in found.items()
    ]
    text = note(
        "Distinct 1, 2, 3: different runs of one, two and three words among all such runs. MTLD: "
        "measure of textual lexical diversity at 0.72. Compression: size over compressed size; "
        "larger is more alike."
    )
    return section("diversity", "Lexical diversity", text, table("Lexical diversity", heads, rows))


def lint(rules: Mapping[str, LintRule], findings: Findings) -> Section:
    """What each rule found, errors first; the rules that found nothing in one line."""
    found = sorted(
        ((name, rule) for name, rule in rules.items() if rule.count),
        key=lambda item: (item[1].severity != "error", -item[1].count),
    )
    clear = [name for name, rule in rules.items() if not rule.count]
    text = note(
        f"{findings.rows:,} examples ({percent(findings.rows_share)}) have at least one finding: "
        f"{findings.errors:,} errors and {findings.warnings:,} warnings."
    )
    lines = [
        rows_fold(
            join([tag("b", rule.severity, class_=f"badge {rule.severity}"), clean(name, ID)]),
            [f"{rule.count:,}", percent(rule.share)],
            join([note(cut(rule.about)), samples(f"Lint: {clean(name, ID)}", rule.rows)]),
        )
        for name, rule in found
    ]
    none = f"Nothing found by: {', '.join(clean(name, ID) for name in clear)}." if clear else ""
    return section(
        "lint",
        "Lint",
        text,
        tag("div", *lines, class_="lines"),
        note(none) if none else "",
    )


def contamination(found: Contamination) -> Section:
    """Evaluation tasks that occur in the examples."""
    line = rows_fold(
        "Examples in which an evaluation task occurs",
        [f"{found.found.count:,}", percent(found.found.share)],
        samples("Examples in which an evaluation task occurs", found.found.rows),
    )
    files = ", ".join(clean(file, ID) for file in found.files[:20])
    return section(
        "contamination",
        "Contamination",
        note(f"Looked for {found.questions:,} evaluation tasks of {files}."),
        tag("div", line, class_="lines"),
    )


def provenance(found: Provenance) -> Section:
    """Yield, rejections and cost by seed, by teacher and by place in the reply."""
    kinds = (
        ("Seed tasks", "Seed", found.seeds),
        ("Teachers", "Teacher", found.teachers),
        ("Places in the reply", "Place", found.positions),
    )
    text = f"{found.requests:,} requests"
    text += f", {dollars(found.cost)} in all." if found.cost is not None else "; cost not known."
    parts: list[Html] = [note(text)]
    for title, head, producers in kinds:
        if producers:
            parts.append(tag("h3", title))
            if head == "Seed":
                parts.append(
                    note(
                        "A request shows several seeds; each gets the whole request here, so "
                        "these rows add up to more than the run."
                    )
                )
            parts += [_producers(title, head, producers), left_out(len(producers), PRODUCERS)]
    return section("provenance", "Provenance", *parts)


def comparison(found: Comparison) -> Section:
    """What moved against another set, and the rest in a fold."""
    moved = [change for change in found.changes if change.moved]
    same = [change for change in found.changes if not change.moved]
    text = note(
        "Against ",
        tag("code", cut(found.source)),
        f" ({found.examples:,} examples): {len(moved):,} of {len(found.changes):,} figures moved "
        "by more than sampling noise (p below 0.05, corrected for all of them). Shares are parts "
        "of 1.",
    )
    parts = [text]
    if moved:
        parts += [_changes("Figures that moved", moved), left_out(len(moved), ROWS)]
    if same:
        body = [_changes("Other figures", same), left_out(len(same), ROWS)]
        parts.append(fold(f"{len(same):,} figures that did not", *body))
    return section("comparison", "Comparison", *parts)


def notes(found: Sequence[str]) -> Section:
    """What was not measured, and why."""
    items = tag("ul", *(tag("li", cut(one)) for one in found[:NOTES]))
    return section("notes", "Notes", items, left_out(len(found), NOTES))


def _gate_table(label: str, gates: Sequence[GateResult]) -> Html:
    heads = ["Figure", "Result", "Value", "At least", "At most", "Why"]
    rows = [
        (
            clean(gate.figure, ID),
            tag("b", "passed", class_="badge good")
            if gate.passed
            else tag("b", "failed", class_="badge error"),
            number(gate.value),
            number(gate.minimum),
            number(gate.maximum),
            cut(gate.why),
        )
        for gate in gates[:ROWS]
    ]
    return join([table(label, heads, rows, texts=2, wide=True), left_out(len(gates), ROWS)])


def _producers(label: str, head: str, found: Sequence[Producer]) -> Html:
    heads = [
        head, "Requests", "Candidates", "Kept", "Yield", "Near-duplicates", "Cost",
        "Per 1,000 kept", "Rejected",
    ]  # fmt: skip
    rows = [
        (
            clean(one.name, ID),
            f"{one.requests:,}",
            f"{one.candidates:,}",
            f"{one.kept:,}",
            percent(one.kept_share),
            f"{one.near_duplicates:,}",
            dollars(one.cost),
            dollars(None if one.cost_per_kept is None else 1000 * one.cost_per_kept),
            _reasons(one.rejected),
        )
        for one in found[:PRODUCERS]
    ]
    return table(label, heads, rows, wide=True)


def _reasons(rejected: Mapping[str, int]) -> Html:
    ordered = sorted(rejected.items(), key=lambda item: -item[1])[:REASONS]
    return join(tag("span", f"{clean(name, ID)} {count:,}", class_="of") for name, count in ordered)


def _difference(change: Change) -> tuple[str, str]:
    """The difference and its interval, all to the same decimals."""
    if change.low is None or change.high is None:
        return signed(change.difference)[0], NONE
    difference, low, high = signed(change.difference, change.low, change.high)
    return difference, f"{low} to {high}"


def _changes(label: str, found: Sequence[Change]) -> Html:
    heads = ["Figure", "Before", "After", "Difference", "95 % interval", "p"]
    rows = [
        (
            clean(change.figure, ID),
            number(change.before),
            number(change.after),
            *_difference(change),
            probability(change.p),
        )
        for change in found[:ROWS]
    ]
    return table(label, heads, rows)
