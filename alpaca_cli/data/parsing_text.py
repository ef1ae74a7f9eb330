"""Tasks out of a reply in labelled text: "Instruction:", "Input:", "Output:" at line starts.

Labels count by their order, not by their numbers. How the labels of a reply look (numbered, bold,
as headings) tells them from lines of its answers that begin with the same words; where an answer
may hold a second task all the same, the candidate is called ambiguous. Teachers that say
"Task:" and "Response:", or 指令 and 输出, are understood, but one reply has one set of names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from alpaca_cli.data.candidates import NAMES, Candidate, make_candidate
from alpaca_cli.data.parsing_json import holds_json_tasks

# Every repetition is bounded: a reply may be 100,000 underscores. Only names of ASCII letters are
# names in any case: else "ı" would be an "i".
_SPACE = r"[ \t\u00a0\u202f\u3000]"
# What may decorate a label: spaces, `#`, `*`, `>`, dashes, emoji; no quotes, no brackets, no code.
_DECOR = r"""(?:[^\w\n"'“”‘’{}\[\]()|`/$<\\@=%~+,;.:!?&^]|_)"""
_LABEL = re.compile(
    rf"""^(?P<before>{_DECOR}{{0,12}})
    (?:(?P<number>\d{{1,4}})(?:[\ufe0f\u20e3]{{1,2}}|{_SPACE}?[.):、．）])
       (?P<after>{_DECOR}{{0,8}}))?
    (?P<name>(?a:{"|".join(NAMES)}))
    (?:{_SPACE}{{0,2}}[\#(№]?(?P<index>\d{{1,4}})\)?)?
    (?:{_SPACE}?\([^()\n]{{1,30}}\))?
    (?: {_SPACE}?[*_]{{0,3}}{_SPACE}?(?P<colon>[:：])[*_]{{0,3}}
      | {_SPACE}?[*_]{{0,3}}{_SPACE}{{0,4}}$)""",
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Label:
    """A label at the beginning of a line.

    Attributes:
        end: where the field's text begins.
        number: the task's, -1 without one.
        listed: the number stands in front, as in a list.
        style: how the label looks; labels of one reply mostly look alike.
    """

    start: int
    end: int
    name: str
    number: int
    listed: bool
    style: tuple[bool, ...]

    @property
    def field(self) -> str:
        return NAMES[self.name]

    @property
    def colon(self) -> bool:
        return self.style[-1]

    def like(self, other: _Label) -> int:
        """In how many ways the two labels look alike."""
        return sum(mine == theirs for mine, theirs in zip(self.style, other.style, strict=True))


def _labels(text: str) -> Iterator[_Label]:
    for match in _LABEL.finditer(text):
        decor = match["before"] + (match["after"] or "")
        heading, emphasis = "#" in decor, decor.endswith(("*", "_"))
        if match["colon"] is None and not (heading or emphasis):
            continue  # a word alone on its line
        listed, index = match["number"] is not None, match["index"]
        style = (listed, index is not None, heading, emphasis, match["colon"] is not None)
        number = int(match["number"] or index or -1)
        yield _Label(match.start(), match.end(), match["name"].lower(), number, listed, style)


# Names that nothing else is called by at the beginning of a line.
_SUREST = ("instruction", "指令")


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a reply that has tasks in text, by position.

    Attributes:
        instruction, output: the names that the reply has for them.
        colon: labels end in one; a heading "### Input" without one is an answer's.
    """

    all: tuple[_Label, ...]
    instruction: str
    output: str
    colon: bool

    def surely_before(self, position: int) -> bool:
        """Whether tasks in text begin there, so that what follows is inside of them."""
        first = self.named(self.instruction)[0]
        if self.instruction in _SUREST:
            return first.start < position
        # "Task: write three tasks as JSON" announces, it does not begin one.
        return any(first.start < label.start < position for label in self.named(self.output))

    def own(self, label: _Label) -> bool:
        """Whether the label is one of those that this reply has for its tasks."""
        named = label.field == "input" or label.name in (self.instruction, self.output)
        return named and label.colon >= self.colon

    def named(self, name: str) -> list[_Label]:
        return [label for label in self.all if label.name == name and self.own(label)]


def begins_with_label(text: str) -> bool:
    """Whether an instruction's label is the first thing in the text."""
    first = next(_labels(text[:200]), None)
    return first is not None and first.start == 0 and first.field == "instruction"


def find_labels(text: str) -> Labels | None:
    """The labels of a reply and its names of the fields; nothing when it has no tasks in text."""
    found = tuple(_labels(text))
    names: set[str] = set()
    for label in found:
        if label.field != "instruction" and names:
            break
        if label.field == "instruction":
            names.add(label.name)
    if not names:
        return None
    # A heading "Task 4" may precede "Instruction:", which is the surer name.
    instruction = min(names, key=list(NAMES).index)
    begun = next(n for n, label in enumerate(found) if label.name == instruction)
    colon = found[begun].colon
    tasks: Counter[str] = Counter()
    seen: set[str] = set()
    for label in found[begun:]:
        if label.name == instruction:
            seen = set()
        elif label.field == "output" and label.name not in seen and label.colon >= colon:
            seen.add(label.name)
            tasks[label.name] += 1
    if not tasks and instruction not in _SUREST:
        return None
    # In most tasks; the surest name, or for other pairs of names the first, when there are several.
    order = list(NAMES) if instruction in _SUREST else list(tasks)
    output = max(tasks, key=lambda name: (tasks[name], -order.index(name)), default="output")
    return Labels(found, instruction, output, colon)


def text_candidates(text: str, labels: Labels, cut: bool) -> list[Candidate]:
    """Candidates of a reply in labelled text.

    Args:
        labels: of `find_labels`.
        cut: the reply ended at a limit: so did its last task.
    """
    text = text if cut else _without_ending(text)
    starts = _starts(text, labels)
    wrapped = len(_FENCE.findall(text, 0, starts[0].start)) % 2 == 1
    place = {label.start: n for n, label in enumerate(labels.all)}
    bounds = [place[start.start] for start in starts] + [len(labels.all)]
    stops = [start.start for start in starts[1:]] + [len(text)]
    found: list[Candidate] = []
    for (first, over), stop in zip(pairwise(bounds), stops, strict=True):
        part = [label for label in labels.all[first:over] if label.end <= stop]
        last = stop == len(text)
        chosen = _chosen(part, labels)
        end = _trimmed(text, chosen[-1].end, stop, wrapped, last)[0]
        part = [label for label in part if label.start < end or label in chosen]
        found.append(_task(text, part, chosen, end, labels, cut and last))
    return found


def _starts(text: str, labels: Labels) -> list[_Label]:
    """The labels that begin tasks.

    In a numbered list a bare "Instruction:" is a line of somebody's answer, and the other way
    round. So is one that breaks the count and is set off from what is before it by less than the
    others are.
    """
    found = [label for label in labels.named(labels.instruction) if label.start < len(text)]
    numbered = [label for label in found if label.number >= 0]
    if numbered:
        begun, listed = found[0].start, numbered[0].start
        between = [label for label in labels.all if begun < label.start < listed]
        bare = any(label.field != "instruction" and labels.own(label) for label in between)
        found = [label for label in found if label.number < 0] if bare else numbered
    gaps = [
        _trimmed(text, before.end, after.start, False, False)[1]
        for before, after in pairwise(found)
    ]
    counts = Counter(gaps)
    usual = max(counts, key=lambda gap: (counts[gap], gap), default=0)
    starts = found[:1]
    for label, gap in zip(found[1:], gaps, strict=True):
        if gap >= usual or label.number == starts[-1].number + 1 > 0:
            starts.append(label)
    return starts


def _chosen(part: list[_Label], labels: Labels) -> list[_Label]:
    """The labels of a task's fields, of those from its instruction to before the next one's."""
    start = part[0]
    outputs = [label for label in part if label.name == labels.output and labels.own(label)]
    last = max(outputs, key=start.like, default=None)
    inputs = [label for label in part if label.field == "input" and labels.own(label)]
    if last is not None:
        inputs = [label for label in inputs if label.start < last.start]
    input = max(inputs, key=start.like, default=None)
    return [label for label in (start, input, last) if label is not None]


def _task(
    text: str, part: list[_Label], chosen: list[_Label], end: int, labels: Labels, cut: bool
) -> Candidate:
    """The candidate whose fields begin at the chosen labels."""
    ends = [label.start for label in chosen[1:]] + [end]
    fields = {label.field: text[label.end : stop] for label, stop in zip(chosen, ends, strict=True)}
    if cut:
        return make_candidate(fields, "truncated", f"the reply ends in its {chosen[-1].field}")
    if any(
        _YAML_BLOCK.match(text, label.end) and text[label.start : label.end].islower()
        for label in chosen
    ):
        return make_candidate(fields, "malformed", "a YAML block, which this form does not have")
    plain = make_candidate(fields)
    rest = [label for label in part if label not in chosen]
    doubt = _doubt(text, rest, chosen, labels, bool(plain.input))
    if not doubt and _THOUGHT_LINE.search(text, chosen[0].end, end):
        doubt = "a thought stands in a field"
    if not doubt and holds_json_tasks(text[chosen[0].end : end]):
        doubt = "a list of tasks in JSON stands in a field"
    return make_candidate(fields, "ambiguous", doubt) if doubt else plain


def _doubt(
    text: str, rest: list[_Label], chosen: list[_Label], labels: Labels, with_input: bool
) -> str:
    """Why the fields may be those of two tasks, by the labels inside them; empty when they are one.

    Questions and answers may well stand in an answer, code prints "Output: 3": labels count when
    they look like this task's own, or are set off like a task.
    """
    start, last = chosen[0], chosen[-1]
    # Where the last output's label of each style is; of any style under None.
    outputs: dict[tuple[bool, ...] | None, int] = {}
    if last.field == "output":
        outputs = {last.style: last.start, None: last.start}
    answered = {label.style for label in (*rest, last) if label.field == "output"}
    for label in reversed(rest):
        own = labels.own(label)
        if label.listed and own:
            return "a field holds labels of another task"
        if label.field == "instruction":
            off = _SET_OFF.search(text, max(start.end, label.start - 120), label.start)
            # One that counts like the start was nearly taken for the next.
            counted = (label.number < 0) == (start.number < 0)
            if own and (off or counted or outputs.get(label.style, -1) > label.start):
                return "a field holds another task"
            if not own and _foreign(label, off, chosen, answered, outputs.get(None, -1)):
                return "a field holds another task, with other labels"
        elif own and last.field == "output" and label.start > last.start:
            close = start.like(label) >= start.like(last)
            if close and (label.field == "input" or with_input):
                return f"a second {label.field} follows the output"
        if label.field == "output":
            for style in (label.style, None):
                outputs[style] = max(label.start, outputs.get(style, -1))
    return ""


def _foreign(
    label: _Label,
    off: re.Match[str] | None,
    chosen: list[_Label],
    answered: set[tuple[bool, ...]],
    last_output: int,
) -> bool:
    """Whether an instruction's label of another name may begin a task.

    Args:
        off: the separator or heading right before it.
        answered: the styles of the outputs' labels.
        last_output: where the last of these stands.
    """
    question = label.name in ("question", "问题")
    paired = label.style in answered
    alike = label.style in (chosen[0].style, chosen[-1].style)
    ruled = off is not None and off["rule"] is not None
    return (paired and (alike or not question)) or (
        ruled and (label.start < last_output or not question)
    )


_YAML_BLOCK = re.compile(r"[ \t]*[|>][+-]?[ \t]*\n[ \t]{2}")
_THOUGHT_LINE = re.compile(r"^</?think(?:ing)?>", re.MULTILINE)


# --- what stands between tasks ------------------------------------------------------------------

_FENCE = re.compile(r"^[ \t]*```\w{0,20}[ \t]*$", re.MULTILINE)
_RULE = re.compile(r"[ \t]*(?:#{2,}|-{3,}|\*{3,}|={3,}|_{3,})[ \t]*")
_NUMBERED = r"(?:Task|Example)[ \t]*\#?\d{1,4}"
# "### Task 3: Grammar"
_HEADING = re.compile(
    rf"[ \t]*(?:\#{{1,6}}|[*_]{{2,3}})[ \t]*{_NUMBERED}\b.{{0,80}}", re.IGNORECASE
)
_SET_OFF = re.compile(rf"\n(?:(?P<rule>{_RULE.pattern})|{_HEADING.pattern})\s*\Z", re.IGNORECASE)
# "Task 3:", "Here are the new tasks:"; between two tasks, after an empty line.
_ANNOUNCEMENT = re.compile(
    rf"[ \t>*_-]{{0,8}}(?:{_NUMBERED}[ \t]*[.:]?"
    r"|[^:\n]{0,80}\b(?:tasks?|examples?|instructions?|prompts?)\b[^:\n]{0,40}:)[ \t*_]{0,8}",
    re.IGNORECASE,
)
_LONGEST_LINE = 200
_SOMETHING = re.compile(r"\S")


def _trimmed(text: str, begin: int, end: int, wrapped: bool, last: bool) -> tuple[int, int]:
    """Where the text of a task ends that stands before `end`, and how clearly it is set off.

    Args:
        wrapped: the first task of the reply stands in a code fence.
        last: no other task follows.

    Returns:
        The end without separators, headings and fences of the tasks around it; 0 when the next
        task follows on the next line, 1 after an empty line, 2 after a separator or heading.
    """
    end, gap = _without_rules(text, begin, end, 0, last)
    fence = _fence_at(text, begin, end) if wrapped else 0
    if not fence:
        return end, gap
    if last:
        odd = len(_FENCE.findall(text, begin, end)) % 2 == 1
        return _without_rules(text, begin, fence, gap, last) if odd else (end, gap)
    # The fence of the next task: this one's was closed before it.
    closed, wider = _without_rules(text, begin, fence, gap, last)
    closing = _fence_at(text, begin, closed)
    return _without_rules(text, begin, closing, wider, last) if closing else (end, gap)


def _without_rules(text: str, begin: int, end: int, gap: int, last: bool) -> tuple[int, int]:
    """The end without empty lines, separators and headings; and how clear the gap is."""
    below = ""
    while True:
        stop = end
        while stop > begin and text[stop - 1].isspace():
            stop -= 1
        if text.count("\n", stop, end) > 1:
            below, gap = "", max(gap, 1)
        line = text.rfind("\n", begin, stop) + 1
        if line <= begin or stop - line > _LONGEST_LINE:
            return stop, gap
        words = text[line:stop]
        line_before = text[max(begin, line - _LONGEST_LINE) : line].split("\n")[-2]
        if _RULE.fullmatch(words):
            # Rows of stars, or several rules without a gap, are somebody's drawing.
            if below == "rule" or (words.strip()[0] in "*_" and line_before.strip()):
                return stop, gap
            below = "rule"
        elif _HEADING.fullmatch(words):
            below = "heading"
        else:
            # An announcement never is the whole of an answer: "Task 3" may be one.
            content = _SOMETHING.search(text, begin, line)
            set_off = not line_before.strip() or _RULE.fullmatch(line_before)
            if last or not (content and set_off and _ANNOUNCEMENT.fullmatch(words)):
                return stop, gap
            below = "announcement"
        end, gap = line, 2


def _fence_at(text: str, begin: int, end: int) -> int:
    """Where the last line before `end` begins, if it is a code fence; else 0."""
    line = text.rfind("\n", begin, end) + 1
    return line if line > begin and _FENCE.fullmatch(text, line, end) else 0


# A stop sequence that the server has left in the text, or the half of one.
_BEGUN = re.compile(r"\n\#{2,}[ \t]*\n\s{0,4}\d{1,4}\.?[ \t]*(?:I\w{0,10})?\s*\Z")
_FAREWELL = re.compile(
    r"\n[ \t]*\n(?:let me know|please let|i hope|hope|feel free|would you like|these|those|if you)"
    r"\b[^\n]{0,200}\b(?:tasks|instructions|prompts|(?:more|other|additional) examples)\b"
    r"[^\n]{0,120}\Z",
    re.IGNORECASE,
)


def _without_ending(text: str) -> str:
    """The reply without what teachers say after the last task, and without a begun next one."""
    if farewell := _FAREWELL.search(text, max(0, len(text) - 400)):
        text = text[: farewell.start()]
    if begun := _BEGUN.search(text, max(0, len(text) - 60)):
        text = text[: begun.start()]
    return text
