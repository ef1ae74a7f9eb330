"""Lint: rows that a person would want to see before money or GPU time is spent on them.

Each rule is one question with one reason as the answer. The rules are those of the clean-ups of
the published Alpaca data (AlpacaDataCleaned, GPT-4-LLM, the issues of Stanford Alpaca) that can be
told from the text alone, and they are meant to be right rather than to find everything: a rule that
fires on good data is worse than none. Whether an answer is true is not known here, sums aside.

The rules of `lint_content` are also those that `generate` rejects by; the others only point a
person at a row. `error` means that the row cannot be used; everything else is a `warning`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from alpaca_cli.core.records import Example
from alpaca_cli.core.stats_report import SHOWN, Findings, LintRule, sample, share
from alpaca_cli.data.lint_answers import (
    escaped_text,
    far_too_short,
    own_label,
    repeats_itself,
    says_nothing,
    wrong_count,
)
from alpaca_cli.data.lint_arithmetic import wrong_sum
from alpaca_cli.data.lint_code import missing_code, no_code, unfenced_code
from alpaca_cli.data.lint_content import content_findings, quote
from alpaca_cli.data.lint_cut_off import cut_off
from alpaca_cli.data.lint_language import other_language
from alpaca_cli.data.lint_links import invented_link, link_to_open
from alpaca_cli.data.lint_tasks import asks_for_media, needs_live_facts, points_to_attachment
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import first_stays
from alpaca_cli.data.texts import plain

__all__ = ["RULES", "Finding", "by_rule", "content_findings", "lint", "row_findings"]

MIN_WORDS, MAX_WORDS = 2, 150  # of an instruction; the upper bound is Stanford Alpaca's
MAX_OUTPUT_WORDS = 2000

RULES: Mapping[str, str] = MappingProxyType(
    {
        "empty-instruction": "the instruction is empty",
        "empty-output": "the output is empty",
        "short-instruction": f"the instruction has fewer than {MIN_WORDS} words",
        "long-instruction": f"the instruction has more than {MAX_WORDS} words",
        "long-output": f"the output has more than {MAX_OUTPUT_WORDS:,} words",
        "duplicate-instruction": "the same instruction as an earlier row, case and spaces aside",
        "near-duplicate-instruction": "an instruction much like that of an earlier row (ROUGE-L)",
        "answer-repeats-question": "the output is the input or the instruction, and adds nothing",
        "merged-records": "a field holds a second task",
        "leftover-marker": "a field holds marks of a prompt or chat format, e.g. <|im_end|>",
        "field-label": 'a field begins with its own name, e.g. "Input:" in the input',
        "placeholder-input": "the input says that there is none, e.g. N/A, instead of being empty",
        "placeholder-output": "the output says that there is none, e.g. <no output>",
        "placeholder": "a field is a placeholder or holds one, e.g. [insert text]",
        "damaged-text": "a field was decoded wrongly, or holds control characters",
        "escaped-text": "an escape or an HTML entity is left in a text, e.g. \\n or &amp;",
        "link-as-input": "the input is only a link, which a model cannot open",
        "link-to-open": "the task is about a page that only a link stands for",
        "invented-link": "the output holds the address of a page that nobody asked for",
        "missing-input": "the instruction needs material, or the output asks for it: there is none",
        "missing-code": "the instruction is about code that is nowhere in the question",
        "missing-attachment": "the task is about a picture, a sound or a file that is not there",
        "asks-for-media": "the task is to make a picture, a sound or a film, not a text",
        "needs-live-facts": "the task needs the web or a clock: the weather, a price, the time",
        "refusal": "the output refuses, or says what a model cannot do",
        "truncated-output": "the output ends in the middle of a sentence, a list or a program",
        "unclosed-code": "a ``` block in the output is not closed",
        "unfenced-code": "code stands among the sentences of the output without a ``` fence",
        "no-code": "a program was asked for, and the output has no code",
        "wrong-arithmetic": "an equation in the output does not compute",
        "wrong-count": "a numbered list has more or fewer items than were asked for",
        "short-output": "the output has not half of the words that were asked for",
        "repeated-text": "the output says the same thing over and over",
        "script-mix": "question and output are in different scripts, which nobody asked for",
        "wrong-language": "the output is in another language than the instruction (py3langid)",
    }
)
"""Every rule, and what it looks for; `wrong-language` needs the extra [language]."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or looks wrong, with a row.

    Attributes:
        row: position of the row, counted from 1.
        id: the row's id, when it has one.
        other_row: the row that this one repeats, for the rules that compare rows.
    """

    row: int
    id: str | None
    rule: str
    severity: Literal["error", "warning"]
    reason: str
    other_row: int | None = None


def lint(
    examples: Sequence[Example],
    near_duplicate: float = 0.7,
    step: Callable[[], None] = lambda: None,
) -> list[Finding]:
    """Everything found, in the order of the rows.

    Args:
        near_duplicate: an instruction with a ROUGE-L F1 above this is a near-duplicate, when the
            other one comes earlier and is none itself: as `alpaca dedup` decides, so that a row
            which is named as the other one never is to go. Scripts other than Latin count, too.
        step: called once for each row.
    """
    repeats = _repeated_instructions(examples, near_duplicate)
    findings = []
    for row, (example, repeat) in enumerate(zip(examples, repeats, strict=True), 1):
        for rule, reason in row_findings(example):
            findings.append(Finding(row, example.id, rule, _severity(rule), reason))
        if repeat is not None:
            rule, reason, other = repeat
            findings.append(Finding(row, example.id, rule, _severity(rule), reason, other))
        step()
    return findings


def by_rule(
    examples: Sequence[Example], findings: Sequence[Finding]
) -> tuple[dict[str, LintRule], Findings]:
    """What each rule found, and all of them together.

    Every rule is there, also with none: errors first, then the most frequent. Rows are counted, so
    that a rule which two fields of a row break counts once; a sample's note is the reason.
    """
    first: dict[str, dict[int, Finding]] = {rule: {} for rule in RULES}
    for found in findings:
        first[found.rule].setdefault(found.row, found)
    counts = {rule: len(rows) for rule, rows in first.items()}
    order = sorted(RULES, key=lambda rule: (_severity(rule), -counts[rule]))
    rules = {
        rule: LintRule(
            severity=_severity(rule),
            about=RULES[rule],
            count=counts[rule],
            share=share(counts[rule], len(examples)),
            rows=[
                sample(one.row, one.id, examples[one.row - 1].instruction, one.reason)
                for one in list(first[rule].values())[:SHOWN]
            ],
        )
        for rule in order
    }
    errors = sum(count for rule, count in counts.items() if rule in _ERRORS)
    rows = len({found.row for found in findings})
    together = Findings(errors, sum(counts.values()) - errors, rows, share(rows, len(examples)))
    return rules, together


_ERRORS = frozenset({"empty-instruction", "empty-output"})


def _severity(rule: str) -> Literal["error", "warning"]:
    return "error" if rule in _ERRORS else "warning"


def _repeated_instructions(
    examples: Sequence[Example], threshold: float
) -> Iterator[tuple[str, str, int] | None]:
    """Rule, reason and earlier row for each example, None where nothing earlier is like it."""
    stays = first_stays(
        (tokenize(example.instruction, "unicode") for example in examples), threshold
    )
    near, scores = stays.survivors.tolist(), stays.scores.tolist()
    first: dict[str, int] = {}
    for row, example in enumerate(examples, 1):
        question = plain(example.instruction)
        other = first.setdefault(question, row)
        if not question:
            yield None
        elif other != row:
            same_input = plain(examples[other - 1].input) == plain(example.input)
            inputs = "and the same input" if same_input else "with another input"
            reason = f"the same instruction as {_name(examples, other)}, {inputs}"
            yield "duplicate-instruction", reason, other
        elif near[row - 1] >= 0:
            other = near[row - 1] + 1
            reason = f"ROUGE-L {scores[row - 1]:.3f} with the instruction of "
            yield "near-duplicate-instruction", reason + _name(examples, other), other
        else:
            yield None


def _name(examples: Sequence[Example], row: int) -> str:
    identifier = examples[row - 1].id
    return f"row {row}" if identifier is None else f"row {row} ({identifier})"


def row_findings(example: Example) -> Iterator[tuple[str, str]]:
    """Rule and reason of every finding that needs no other row."""
    if not example.instruction.strip():
        yield "empty-instruction", "the instruction is empty"
    if not example.output.strip():
        yield "empty-output", "the output is empty"
    yield from _length(example)
    found = list(content_findings(example))
    yield from found
    known = {rule for rule, _ in found}
    yield from _questions(example, known)
    yield from _answers(example, known)


def _length(example: Example) -> Iterator[tuple[str, str]]:
    words = len(tokenize(example.instruction, "unicode"))
    if example.instruction.strip() and words < MIN_WORDS:
        yield "short-instruction", f"the instruction has {words} of at least {MIN_WORDS} words"
    if words > MAX_WORDS:
        yield "long-instruction", f"the instruction has {words} words, more than {MAX_WORDS}"
    if len(example.output) <= MAX_OUTPUT_WORDS:
        return  # fewer letters than that are fewer words, too
    words = len(tokenize(example.output, "unicode"))
    if words > MAX_OUTPUT_WORDS:
        yield "long-output", f"the output has {words} words, more than {MAX_OUTPUT_WORDS}"


def _questions(example: Example, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is asked for and cannot be done.

    Args:
        known: rules that found something in the row, so that nothing is said twice.
    """
    if name := own_label(example):
        yield "field-label", f"the {name} begins with its own name: {quote(getattr(example, name))}"
    if escape := escaped_text(example):
        yield "escaped-text", f"{quote(escape)} is left in a text"
    if "missing-input" not in known and (words := missing_code(example)):
        yield "missing-code", f"the instruction says {quote(words)}, and there is no code"
    absent = {"link-as-input", "missing-input"} & set(known)
    if not absent and (words := points_to_attachment(example)):
        yield "missing-attachment", f"the task says {quote(words)}, and nothing is attached"
    elif link := link_to_open(example):
        yield "link-to-open", f"there is only {quote(link)} to go by"
    if words := asks_for_media(example):
        yield "asks-for-media", f"the instruction says {quote(words)}"
    if words := needs_live_facts(example):
        yield "needs-live-facts", f"the instruction says {quote(words)}"


def _answers(example: Example, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with an output; `known` as above."""
    if not {"placeholder", "leftover-marker"} & set(known) and (words := says_nothing(example)):
        yield "placeholder-output", f"the output says {quote(words)}"
    if link := invented_link(example):
        yield "invented-link", f"nobody asked for {quote(link)}"
    if "unclosed-code" not in known and (reason := cut_off(example)):
        yield "truncated-output", reason
    if line := unfenced_code(example):
        yield "unfenced-code", f"there is no fence around {quote(line)}"
    if words := no_code(example):
        yield "no-code", f"the instruction says {quote(words)}, and the output has no code"
    if equation := wrong_sum(example):
        yield "wrong-arithmetic", equation
    if counts := wrong_count(example):
        yield "wrong-count", counts
    if counts := far_too_short(example):
        yield "short-output", counts
    if words := repeats_itself(example):
        yield "repeated-text", f"the output repeats {quote(words)}"
    if "script-mix" not in known and (languages := other_language(example)):
        yield "wrong-language", languages
