"""The sections of the report page that have figures, each from its part of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alpaca_cli.core.stats_report import (
    Distribution,
    Funnel,
    Group,
    Languages,
    Lengths,
    Neighbours,
    Openings,
    Tokens,
    Verb,
)
from alpaca_cli.data.report_parts import (
    FOLDS,
    ID,
    ROWS,
    Section,
    figure,
    fold,
    group_folds,
    left_out,
    note,
    rows_fold,
    samples,
    section,
    table,
)
from alpaca_cli.data.report_shapes import (
    LABEL,
    Bar,
    Slice,
    at_least,
    bars,
    histogram,
    slices,
    steps,
)
from alpaca_cli.data.report_svg import bar_table, curve, funnel_table, legend, sunburst
from alpaca_cli.data.report_svg import histogram as draw_histogram
from alpaca_cli.data.report_tags import Html, clean, join, number, percent, tag

PAIRS = 10  # objects of a verb in the table
FIELDS = {
    "instruction": "Instruction",
    "input": "Input, where there is one",
    "output": "Output",
}
QUANTILES = {
    "min": "Min", "p5": "5 %", "p25": "25 %", "median": "Median", "p75": "75 %",
    "p95": "95 %", "p99": "99 %", "max": "Max",
}  # fmt: skip


def funnel(found: Funnel) -> Section:
    """How many tasks the teacher wrote, why some are not here, and how many are."""
    shown = steps(found)
    label = "Tasks at each step"
    plot = {
        "kind": "funnel",
        "names": [step.name for step in shown],
        "counts": [step.count for step in shown],
        "whole": [step.whole for step in shown],
    }
    last = shown[-1]
    text = note(
        f"Of {found.candidates:,} tasks that the teacher wrote {last.count:,} "
        f"({percent(last.count / found.candidates if found.candidates else 0)}) were {last.name}."
    )
    drawn = funnel_table(shown, label)
    return section("funnel", "From candidates to examples", text, figure(label, drawn, plot))


def lengths(fields: Mapping[str, Lengths], tokens: Tokens | None) -> Section:
    """How long the fields are, in words, and whole rows in tokens."""
    figures, rows = [], []
    for field, found in fields.items():
        name = FIELDS.get(field, field)
        if found.words.count:
            figures.append(_histogram_figure(f"{name}, words", "words", found.words))
        for unit in ("words", "characters", "tokens"):
            measured = getattr(found, unit)
            if measured is not None and measured.count:
                rows.append(_distribution_row(f"{field.capitalize()}, {unit}", measured))
    text = [
        note(
            "Words of any script; one per letter where a script has no spaces. The last bar also "
            "holds everything longer."
        )
    ]
    if tokens is not None and tokens.lengths.count:
        text.append(
            note(
                f"{number(tokens.lengths.total)} tokens in all, counted by ",
                tag("code", clean(tokens.tokenizer)),
                f"; {tokens.over:,} training rows ({percent(tokens.over_share)}) are longer than "
                f"max_length, {tokens.max_length:,}.",
            )
        )
        mark = (float(tokens.max_length), f"max_length {tokens.max_length:,}")
        caption = "Training row (prompt, answer and EOS), tokens"
        figures.append(_histogram_figure(caption, "tokens", tokens.lengths, mark))
        rows.append(_distribution_row("Training row, tokens", tokens.lengths))
    heads = ["", "Count", "Sum", "Mean", "SD", *QUANTILES.values()]
    longest = [
        fold(
            f"Longest: {clean(field, ID)}",
            samples(f"Longest {field}", found.longest),
        )
        for field, found in fields.items()
        if found.longest
    ]
    return section(
        "lengths",
        "Lengths",
        *text,
        tag("div", *figures, class_="plots three" if len(figures) == 3 else "plots"),
        table("Lengths", heads, rows),
        *longest,
    )


def openings(found: Openings) -> Section:
    """Verbs that instructions begin with, and their objects."""
    shown = slices(found.verbs)
    method = (
        "by rule, without a parser"
        if found.method == "rule"
        else f"by the spaCy pipeline {clean(found.method, ID)}"
    )
    text = note(
        f"Found {method}: a verb or a question word in {found.recognised:,} of {found.total:,} "
        f"instructions ({percent(found.recognised_share)}), and the verb's object in "
        f"{found.with_object:,}. {found.distinct_pairs:,} different pairs; the most frequent is "
        f"{percent(found.top_pair_share)} of them; entropy {number(found.entropy)} bits."
    )
    if not shown:
        return section("openings", "Verbs and objects", text)
    total = found.total or 1
    counts = [Bar(one.name, one.count, one.count / total) for one in shown if not one.parent]
    return section(
        "openings",
        "Verbs and objects",
        text,
        tag(
            "div",
            _sunburst_figure(shown, found.total),
            tag("div", bar_table(counts, ("Verb", "Instructions"), "Opening verbs")),
            class_="beside",
        ),
        fold("Objects by verb", _objects(found.verbs, total), left_out(len(found.verbs), ROWS)),
        fold("Examples by verb", _verb_examples(found.verbs)),
        fold("First words", group_folds("First word", found.first_words, "first")),
    )


def _sunburst_figure(shown: Sequence[Slice], instructions: int) -> Html:
    total = sum(part.count for part in shown if not part.parent)
    label = (
        "Sunburst of the most frequent opening verbs and, outside, their most frequent objects. "
        "The same counts are in the tables beside and below."
    )
    plot = {
        "kind": "sunburst",
        "total": total,
        "all": instructions,
        "slices": [
            {
                "id": part.id,
                "parent": part.parent,
                "name": part.name,
                "count": part.count,
                "colour": part.colour,
                "rest": part.rest,
            }
            for part in shown
        ],
    }
    return figure("Opening verbs and their objects", sunburst(shown, f"{total:,}", label), plot)


def _objects(verbs: Sequence[Verb], total: int) -> Html:
    rows = []
    for verb in verbs[:ROWS]:
        pairs = [
            tag("span", tag("bdi", clean(pair.object, LABEL)), f" {pair.count:,}", class_="of")
            for pair in verb.objects[:PAIRS]
        ]
        name = tag("bdi", clean(verb.verb, LABEL))
        rows.append((name, f"{verb.count:,}", percent(verb.count / total), join(pairs)))
    return table("Objects by verb", ["Verb", "Instructions", "Share", "Objects"], rows, wide=True)


def _verb_examples(verbs: Sequence[Verb]) -> Html:
    lines = [
        rows_fold(
            clean(verb.verb, LABEL),
            [f"{verb.count:,}"],
            samples(f"Instructions with {clean(verb.verb, LABEL)}", verb.rows),
        )
        for verb in verbs[:FOLDS]
    ]
    return tag("div", *lines, class_="lines")


def task_types(found: Mapping[str, Group], total: int) -> Section:
    """What is asked for."""
    return section(
        "task-types",
        "Task types",
        note("Guessed from the words of the instruction by fixed rules."),
        *_group_chart("Examples by task type", ("Type", "Examples"), found, total, "type"),
        _none(found),
    )


def languages(found: Languages, total: int) -> Section:
    """Languages or scripts of instructions and outputs."""
    what = "Languages" if found.method == "py3langid" else "Scripts"
    how = (
        "Told by py3langid; unknown is what is too short or not prose."
        if found.method == "py3langid"
        else "Told by the letters alone, without a detector of languages."
    )
    charts = []
    for field, groups in (("instruction", found.instruction), ("output", found.output)):
        caption = f"{what} of the {field}s"
        heads = (what[:-1], "Examples")
        parts = _group_chart(caption, heads, groups, total, f"language-{field}")
        charts.append(tag("div", *parts))
    differs = rows_fold(
        "Instruction and output in two languages",
        [f"{found.differs.count:,}", percent(found.differs.share)],
        samples("Instruction and output in two languages", found.differs.rows),
    )
    plots = tag("div", *charts, class_="plots")
    return section("languages", what, note(how), plots, tag("div", differs, class_="lines"))


def similarity(found: Neighbours, seeds: Neighbours | None) -> Section:
    """ROUGE-L with the nearest neighbour, among the examples and against the seeds."""
    named = [("Nearest other example", found), ("Nearest seed task", seeds)]
    present = [(name, one) for name, one in named if one is not None and one.scores is not None]
    text = [
        note(
            f"{name}: ROUGE-L F1 of the {clean(one.key, ID)} for {one.measured:,} examples; "
            f"{one.above:,} ({percent(one.above_share)}) are above {one.threshold:g}."
        )
        for name, one in present
    ]
    if not present:
        return section("similarity", "Similarity", note("Nothing was measured."))
    threshold = present[0][1].threshold
    mark = (threshold, f"threshold {threshold:g}")
    figures, rows, nearest = [], [], []
    for name, one in present:
        assert one.scores is not None
        figures.append(_histogram_figure(f"{name}, ROUGE-L", "ROUGE-L", one.scores, mark))
        rows.append(_distribution_row(name, one.scores, 3))
        if one.nearest:
            nearest.append(fold(f"Most similar: {name.lower()}", samples(name, one.nearest)))
    caption = "Share of examples at least this similar"
    series = [(name, at_least(one)) for name, one in present]
    plot = {
        "kind": "curve",
        "series": [
            {"name": name, "x": [x for x, _ in points], "y": [y for _, y in points]}
            for name, points in series
        ],
        "mark": {"at": threshold, "label": mark[1]},
    }
    drawn = curve(series, f"{caption}. The same counts are in the histograms.", mark)
    lines = legend([name for name, _ in present]) if len(present) > 1 else ""
    heads = ["ROUGE-L F1", "Count", "Mean", "SD", *QUANTILES.values()]
    return section(
        "similarity",
        "Similarity",
        *text,
        tag("div", figure(caption, drawn, plot, lines), *figures, class_="plots three"),
        table("Similarity", heads, rows),
        *nearest,
    )


def group_section(id: str, title: str, found: Mapping[str, Group], total: int) -> Section:
    """Examples by what they say of themselves: a category, a family."""
    parts = _group_chart(f"Examples {title.lower()}", ("Name", "Examples"), found, total, id)
    return section(id, title, *parts)


def _group_chart(
    caption: str, heads: tuple[str, str], groups: Mapping[str, Group], total: int, prefix: str
) -> list[Html]:
    shown = bars(groups, total)
    if not shown:
        return [note("None.")]
    plot = {
        "kind": "bars",
        "names": [bar.name for bar in shown],
        "counts": [bar.count for bar in shown],
        "shares": [bar.share for bar in shown],
        "prefix": prefix,
    }
    return [
        figure(caption, bar_table(shown, heads, caption), plot),
        fold("Examples", group_folds(caption, groups, prefix)),
    ]


def _none(groups: Mapping[str, Group]) -> Html:
    empty = [name for name, found in groups.items() if not found.count]
    return note(f"None of: {', '.join(clean(name, ID) for name in empty)}.") if empty else Html("")


def _histogram_figure(
    caption: str, unit: str, found: Distribution, mark: tuple[float, str] | None = None
) -> Html:
    shape = histogram(found.histogram)
    place = None if mark is None else shape.place(mark[0])
    plot = {
        "kind": "histogram",
        "unit": unit,
        "edges": [shape.edge(at) for at in range(len(shape.edges))],
        "ticks": {"wide": shape.ticks(8), "narrow": shape.ticks(5)},
        "labels": shape.labels,
        "counts": shape.counts,
        "total": shape.total,
        "mark": None if mark is None or place is None else {"at": place, "label": mark[1]},
    }
    label = f"Histogram: {caption}. Median {number(found.median)}, largest {number(found.max)}."
    rows = [
        (name, f"{count:,}", percent(count / shape.total if shape.total else 0))
        for name, count in zip(shape.labels, shape.counts, strict=True)
    ]
    numbers = fold("Numbers", table(caption, [unit.capitalize(), "Count", "Share"], rows))
    return figure(caption, draw_histogram(shape, label, mark), plot, numbers)


def _distribution_row(name: str, found: Distribution, decimals: int = 0) -> list[str]:
    """A line of a table: lengths are whole numbers with a sum, scores have decimals and none."""
    quantiles = [getattr(found, key) for key in QUANTILES]
    if decimals:
        values = [found.mean, found.sd, *quantiles]
        return [name, f"{found.count:,}", *(f"{value:.{decimals}f}" for value in values)]
    values = [f"{found.mean:,.1f}", f"{found.sd:,.1f}"]
    return [name, f"{found.count:,}", number(found.total), *values, *map(number, quantiles)]
