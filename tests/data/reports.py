"""A whole report by hand, without the stage that measures: for tests of what shows it.

The figures hang together (histograms add up, groups are of the same examples), but how they are
found is as simple as can be: the first word is the verb, the last one its object.
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

from alpaca_cli.core.stats_report import (
    VERSION,
    Bin,
    Change,
    Check,
    Comparison,
    Contamination,
    Distribution,
    Diversity,
    Findings,
    Funnel,
    GateResult,
    Group,
    Languages,
    Lengths,
    LintRule,
    Neighbours,
    Openings,
    Pair,
    Producer,
    Provenance,
    Report,
    Sample,
    Tokens,
    Verb,
    group,
    sample,
    share,
)

Row = Mapping[str, str]
VERBS = ("Write", "Explain", "Create", "Generate", "Describe", "List", "Find", "Rewrite", "Give")
OBJECTS = ("story", "sentence", "process", "function", "summary", "example")


def synthetic_rows(count: int = 600) -> list[dict[str, str]]:
    """Rows with the shape of real ones."""
    return [
        {
            "instruction": f"{VERBS[i * i % 9]} a short {OBJECTS[i * 7 % 11 % 6]}",
            "input": f"Some text number {i}" if i % 3 == 0 else "",
            "output": " ".join(["word"] * (5 + i * i % 97)) + f" {i}.",
        }
        for i in range(count)
    ]


def read_rows(path: Path, copies: int = 1) -> list[dict[str, str]]:
    """The rows of an Alpaca JSON file, several times over."""
    rows: list[dict[str, str]] = json.loads(path.read_bytes())
    return rows * copies


def distribution(values: Sequence[float], width: float, bins: int = 24) -> Distribution:
    """Figures of numbers from 0 up; the last bar holds what lies further out."""
    ordered = sorted(values)

    def at(part: float) -> float:
        return ordered[min(int(part * len(ordered)), len(ordered) - 1)]

    counts = [0] * bins
    for value in values:
        counts[min(int(value / width), bins - 1)] += 1
    histogram = [
        Bin(round(width * place, 6), round(width * (place + 1), 6), count)
        for place, count in enumerate(counts)
    ]
    last = histogram[-1]
    histogram[-1] = Bin(last.low, max(last.high, ordered[-1]), last.count)
    return Distribution(
        count=len(values),
        total=round(sum(values), 4),
        mean=round(sum(values) / len(values), 4),
        sd=round(statistics.stdev(values), 4) if len(values) > 1 else 0,
        min=ordered[0],
        p5=at(0.05),
        p25=at(0.25),
        median=at(0.5),
        p75=at(0.75),
        p95=at(0.95),
        p99=at(0.99),
        max=ordered[-1],
        histogram=histogram,
    )


def make_report(
    rows: Sequence[Row] | None = None,
    *,
    source: str = "runs/52k/dedup/kept.jsonl",
    verdict: bool = True,
    top: int = 20,
) -> Report:
    """A report with every part; `verdict` adds a comparison and a check."""
    rows = synthetic_rows() if rows is None else rows
    instructions = [row["instruction"] for row in rows]
    total = len(rows)
    with_input = sum(bool(row["input"]) for row in rows)
    funnel = _funnel(total)
    return Report(
        version=VERSION,
        source=source,
        examples=total,
        with_input=with_input,
        with_input_share=share(with_input, total),
        lengths=_lengths(rows),
        tokens=_tokens(rows),
        languages=_languages(instructions),
        openings=_openings(instructions, top),
        task_types=_task_types(instructions),
        diversity={
            "instruction": Diversity(60_123, 5_432, 0.0903, 0.4417, 0.7312, 9.41, 78.25, 2.9),
            "output": Diversity(812_345, 31_234, 0.0384, 0.3312, 0.7154, 10.62, None, 2.61),
        },
        neighbours=_neighbours(instructions, 0.11),
        seeds=_neighbours(instructions, 0.05),
        duplicates={
            "rows": _every(instructions, 211),
            "instructions": _every(instructions, 97),
            "outputs": _every(instructions, 41),
        },
        lint=_lint(instructions),
        findings=Findings(errors=17, warnings=93, rows=101, rows_share=share(101, total)),
        contamination=Contamination(
            ["mmlu.jsonl", "gsm8k.jsonl"], 1_319, _every(instructions, 301)
        ),
        groups={"category": {"closed": _every(instructions, 3), "open": _every(instructions, 2)}},
        provenance=Provenance(
            funnel=funnel,
            requests=2_930,
            cost=41.27,
            seeds=_producers("seed_task", 40),
            teachers=_producers("teacher-mini", 2),
            positions=_producers("", 20),
        ),
        notes=["nearest neighbours of 600 examples drawn at random, each compared with all"],
        html="runs/52k/stats/report.html",
        against=_comparison() if verdict else None,
        check=_check(instructions) if verdict else None,
    )


def _take(texts: Sequence[str], keep: Iterable[bool], note: str = "") -> list[Sample]:
    found = enumerate(zip(texts, keep, strict=True))
    return [sample(i + 1, f"r{i}", text, note) for i, (text, kept) in found if kept]


def _every(texts: Sequence[str], step: int) -> Group:
    return group(len(texts), _take(texts, (i % step == step - 1 for i in range(len(texts)))))


def _by(texts: Sequence[str], names: Sequence[str]) -> dict[str, Group]:
    """Texts with one name each, by name, the most frequent first."""
    return {
        name: group(len(texts), _take(texts, (one == name for one in names)))
        for name, _ in Counter(names).most_common()
    }


def _lengths(rows: Sequence[Row]) -> dict[str, Lengths]:
    found = {}
    for field, width in (("instruction", 2), ("input", 5), ("output", 20)):
        texts = [row[field] for row in rows if row[field]]
        if not texts:
            continue
        words = [len(text.split()) for text in texts]
        longest = sorted(range(len(texts)), key=lambda i: -words[i])[:5]
        found[field] = Lengths(
            words=distribution(words, width),
            characters=distribution([len(text) for text in texts], 6 * width),
            tokens=distribution([len(text) // 4 + 1 for text in texts], 2 * width),
            longest=[sample(i + 1, None, texts[i], f"{words[i]:,} words") for i in longest],
        )
    return found


def _tokens(rows: Sequence[Row]) -> Tokens:
    lengths = [len("".join(row.values())) // 4 + 40 for row in rows]
    over = sum(length > 256 for length in lengths)
    return Tokens(
        "models/llama/tokenizer.json", distribution(lengths, 20), 256, over, share(over, len(rows))
    )


def _languages(texts: Sequence[str]) -> Languages:
    places = range(len(texts))
    return Languages(
        "py3langid",
        _by(texts, ["de" if i % 50 == 1 else "unknown" if i % 31 == 2 else "en" for i in places]),
        _by(texts, ["fr" if i % 70 == 1 else "zh" if i % 91 == 2 else "en" for i in places]),
        _every(texts, 150),
    )


def _openings(texts: Sequence[str], top: int) -> Openings:
    pairs = [(words[0].lower(), words[-1].strip(".?!:").lower()) for words in map(str.split, texts)]
    both = Counter(pairs).most_common()
    by_verb = dict(list(_by(texts, [verb for verb, _ in pairs]).items())[:top])
    return Openings(
        method="rule",
        total=len(texts),
        recognised=len(texts),
        recognised_share=1.0,
        with_object=len(texts),
        distinct_pairs=len(both),
        entropy=8.1234,
        top_pair_share=share(both[0][1], len(texts)),
        first_words=by_verb,
        verbs=[
            Verb(
                verb, found.count, [Pair(o, n) for (v, o), n in both if v == verb][:10], found.rows
            )
            for verb, found in by_verb.items()
        ],
    )


def _task_types(texts: Sequence[str]) -> dict[str, Group]:
    names = ("generation", "open question", "editing", "classification", "code", "maths", "other")
    found = _by(texts, [names[(i * i % 23) % 7] for i in range(len(texts))])
    return {**found, "role play": Group(0, 0.0, [])}


def _neighbours(texts: Sequence[str], base: float) -> Neighbours:
    scores = [min(base + (i * 37 % 101) ** 2 / 11_000, 1.0) for i in range(len(texts))]
    above = sum(score > 0.7 for score in scores)
    nearest = [sample(i + 1, None, texts[i], f"{scores[i]:.2f} with row 9") for i in range(5)]
    return Neighbours(
        "instruction",
        len(texts),
        0.7,
        above,
        share(above, len(texts)),
        distribution(scores, 0.05, 20),
        nearest,
    )


def _lint(texts: Sequence[str]) -> dict[str, LintRule]:
    stop, cut = _every(texts, 37), _every(texts, 59)
    noted = [replace(row, note="I'm sorry, but as an AI") for row in stop.rows]
    return {
        "empty-output": LintRule("error", "the output has no letters", 0, 0.0, []),
        "refusal": LintRule("warning", "the output refuses", stop.count, stop.share, noted),
        "truncated": LintRule("error", "the output breaks off", cut.count, cut.share, cut.rows),
        "url": LintRule("warning", "a link that nobody can follow", 0, 0.0, []),
    }


def _funnel(total: int) -> Funnel:
    rejected = {"similar": total // 5, "too short": total // 20, "blacklist": total // 60}
    dropped = {"near-duplicate": total // 30}
    generated = total + sum(dropped.values())
    return Funnel(generated + sum(rejected.values()), rejected, generated, dropped, total)


def _producers(name: str, count: int) -> list[Producer]:
    return [
        Producer(
            name=f"{name}{i}",
            requests=120 - i,
            candidates=2_000 - 9 * i,
            kept=1_700 - 23 * i,
            kept_share=share(1_700 - 23 * i, 2_000 - 9 * i),
            rejected={"similar": 100 + 11 * i, "too short": 3 * i},
            near_duplicates=60 + i,
            cost=None if i == 1 else 0.0123 * (i + 1),
            cost_per_kept=None if i == 1 else 0.0123 * (i + 1) / (1_700 - 23 * i),
        )
        for i in range(count)
    ]


def _comparison() -> Comparison:
    changes = [
        Change("lengths.output.words.mean", 61.3, 74.9, 13.6, 11.2, 16.0, 0.0, True),
        Change("lint.refusal.share", 0.0123, 0.0041, -0.0082, -0.0101, -0.0063, 0.0004, True),
        Change("with_input_share", 0.391, 0.402, 0.011, -0.004, 0.026, 0.31, False),
        Change("diversity.output.mtld", 71.0, 70.2, -0.8, None, None, None, False),
    ]
    return Comparison("data/alpaca_data.json", 52_002, changes)


def _check(texts: Sequence[str]) -> Check:
    rows = _every(texts, 59).rows
    gates = [
        GateResult("examples", float(len(texts)), 100, None, True, "a set this small", []),
        GateResult("lint.truncated.share", 0.0169, None, 0.01, False, "answers must end", rows),
        GateResult("lint.gone.share", None, None, 0.01, False, "no such rule any more", []),
    ]
    return Check("gates.yaml", False, gates)


ATTACKS = (
    "<script>alert(1)</script>",
    "</script><script>alert(2)//",
    "<img src=x onerror=alert(3)>",
    '<a href="javascript:alert(4)">',
    '"><svg onload=alert(5)>',
    "' autofocus onfocus=alert(6) '",
    "<!--<script>",
    "</style></title><b>bold</b>",
    "&lt;b&gt; &amp;",
    "%{label} ${alert(7)} $\\frac{$",
    "a\u2028b\u202ec\x00\x1b[31m\ud800\r\n",
)


def attacked(report: Report) -> Report:
    """The same report with every text and every name in it replaced by an attack."""
    attacks = cycle(ATTACKS)

    def walk(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            # Fields that may only hold certain words stay.
            kept = {"method", "severity"}
            changed = {
                field.name: walk(getattr(value, field.name))
                for field in fields(value)
                if field.name not in kept
            }
            return replace(value, **changed)
        if isinstance(value, dict):
            return {f"{next(attacks)}{at}": walk(v) for at, v in enumerate(value.values())}
        if isinstance(value, list):
            return [walk(item) for item in value]
        return next(attacks) if isinstance(value, str) else value

    found: Report = walk(report)
    return found


def empty_report() -> Report:
    """The report of a set without examples."""
    none = Group(0, 0.0, [])
    return Report(
        version=VERSION,
        source="empty.json",
        examples=0,
        with_input=0,
        with_input_share=0,
        lengths={},
        tokens=None,
        languages=Languages("script", {}, {}, none),
        openings=Openings("rule", 0, 0, 0, 0, 0, 0, 0, {}, []),
        task_types={"other": none},
        diversity={},
        neighbours=Neighbours("instruction", 0, 0.7, 0, 0, None, []),
        seeds=None,
        duplicates={"rows": none, "instructions": none, "outputs": none},
        lint={},
        findings=Findings(0, 0, 0, 0),
        contamination=None,
        groups={},
        provenance=None,
        notes=[],
        html=None,
    )
