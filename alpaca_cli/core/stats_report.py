"""What `alpaca stats --json` says, figure by figure.

The records below are the documented schema of `stats/report.json`: `alpaca stats --schema` prints
it, and a gate names a figure by its dotted path, for example `lint.refusal.share` or
`lengths.output.words.p95`. Within one `version` figures are added, never renamed or given another
meaning. Shares are parts of 1, not percentages. How the figures come about is known to the
modules of `alpaca_cli.data` that measure them, not here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass

VERSION = 1

_STRICT = ConfigDict(use_attribute_docstrings=True, extra="forbid")


@dataclass(frozen=True, config=_STRICT)
class Sample:
    """An example behind a figure."""

    row: int
    """Position of the example in its source, from 1."""
    id: str | None
    """The example's own id, where it has one."""
    text: str
    """The beginning of its instruction, or of the field that the figure is about."""
    note: str = ""
    """Why it is here: what a rule found, or the value that was measured."""


@dataclass(frozen=True, config=_STRICT)
class Group:
    """Examples that have something in common."""

    count: int
    """How many."""
    share: float
    """Of all examples that were looked at, 0 to 1."""
    rows: list[Sample]
    """The first few of them."""


@dataclass(frozen=True, config=_STRICT)
class Bin:
    """One bar of a histogram: values from `low` up to, but not including, `high`.

    The last bar includes its upper edge. The first and the last hold what lies further out, too,
    and then have the true smallest or largest value as their edge.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True, config=_STRICT)
class Distribution:
    """Numbers of one kind. Quantiles are values that occur (nearest rank)."""

    count: int
    """How many numbers."""
    total: float
    """Their sum."""
    mean: float
    sd: float
    """Standard deviation of the sample (divided by count - 1); 0 for a single number."""
    min: float
    p5: float
    p25: float
    median: float
    p75: float
    p95: float
    p99: float
    max: float
    histogram: list[Bin]


@dataclass(frozen=True, config=_STRICT)
class Lengths:
    """How long one field is, over the examples in which it is not empty."""

    words: Distribution
    """In words of any script; one per letter where a script has no spaces."""
    characters: Distribution
    """In Unicode code points."""
    tokens: Distribution | None
    """In tokens of the student's tokenizer; null when none is known."""
    longest: list[Sample]
    """The longest, with their words in `note`."""


@dataclass(frozen=True, config=_STRICT)
class Tokens:
    """Whole training rows: prompt, answer and EOS."""

    tokenizer: str
    """The tokenizer.json that counted."""
    lengths: Distribution
    max_length: int
    """`train.max_length` of the recipe."""
    over: int
    """Rows longer than that."""
    over_share: float


@dataclass(frozen=True, config=_STRICT)
class Languages:
    """Languages or, without a detector, scripts."""

    method: Literal["py3langid", "script"]
    """What told them: a classifier of languages, or the letters alone."""
    instruction: dict[str, Group]
    """ISO 639-1 code (or script) -> examples; `unknown` is what is too short or not prose."""
    output: dict[str, Group]
    differs: Group
    """Instruction and output are in two languages, and the task is not about languages."""


@dataclass(frozen=True, config=_STRICT)
class Pair:
    """An object of a verb."""

    object: str
    count: int


@dataclass(frozen=True, config=_STRICT)
class Verb:
    """An opening verb with its most frequent objects."""

    verb: str
    count: int
    objects: list[Pair]
    rows: list[Sample]


@dataclass(frozen=True, config=_STRICT)
class Openings:
    """How instructions begin."""

    method: str
    """`rule`, or the name of the spaCy pipeline that parsed them."""
    total: int
    recognised: int
    """Instructions in which a verb or a question word was found."""
    recognised_share: float
    with_object: int
    """Instructions in which the verb's object was found, too."""
    distinct_pairs: int
    """Different pairs of verb and object."""
    entropy: float
    """Shannon entropy of the pairs, in bits."""
    top_pair_share: float
    """Of all pairs, the most frequent one's share."""
    first_words: dict[str, Group]
    """First word, lower case -> examples: the most frequent."""
    verbs: list[Verb]
    """The most frequent."""


@dataclass(frozen=True, config=_STRICT)
class Diversity:
    """How varied the words of one field are, over all its texts together."""

    words: int
    distinct_words: int
    distinct_1: float
    """Distinct words among all words."""
    distinct_2: float
    """Distinct runs of two words among all such runs; runs do not cross texts."""
    distinct_3: float
    entropy: float
    """Shannon entropy of the words, in bits."""
    mtld: float | None
    """Measure of textual lexical diversity at 0.72 (McCarthy and Jarvis 2010), forward and
    backward; null when the texts are too few to have one."""
    compression: float
    """Size of the texts over their compressed size (zlib, level 6); larger is more alike."""


@dataclass(frozen=True, config=_STRICT)
class Neighbours:
    """ROUGE-L F1 of each measured example with the most similar one of a set."""

    key: str
    """The text that is compared: `dedup.key`."""
    measured: int
    threshold: float
    """`dedup.threshold`."""
    above: int
    """Examples above the threshold."""
    above_share: float
    scores: Distribution | None
    """Null when nothing was measured."""
    nearest: list[Sample]
    """The most similar, with score and neighbour in `note`."""


@dataclass(frozen=True, config=_STRICT)
class LintRule:
    """What one rule of lint found."""

    severity: Literal["error", "warning"]
    about: str
    """What the rule looks for."""
    count: int
    share: float
    rows: list[Sample]


@dataclass(frozen=True, config=_STRICT)
class Findings:
    """All of lint together."""

    errors: int
    warnings: int
    rows: int
    """Examples with at least one finding."""
    rows_share: float


@dataclass(frozen=True, config=_STRICT)
class Contamination:
    """Evaluation tasks that occur in the examples."""

    files: list[str]
    """`stats.contamination`."""
    questions: int
    """Evaluation tasks in them; those of fewer than five words cannot be looked for."""
    found: Group
    """Examples in which at least `dedup.containment` of a question's n-grams occur."""


@dataclass(frozen=True, config=_STRICT)
class Producer:
    """What came out of the requests of one teacher, at one position, or with one seed.

    A request shows several seeds; each of them gets the whole request here, so the columns of
    seeds add up to more than the run. Shown examples that are no seeds are `(generated)` together.
    """

    name: str
    requests: int
    candidates: int
    kept: int
    """Of the candidates, those that generate kept and, where it ran on them, dedup too."""
    kept_share: float
    """Kept of the candidates."""
    rejected: dict[str, int]
    """Reason -> candidates that generate or dedup did not keep."""
    near_duplicates: int
    """Those of them that are like another."""
    cost: float | None
    """USD, a request's cost shared equally among what it showed; null when the teacher has no
    price. A judge's cost is not in it."""
    cost_per_kept: float | None
    """USD of whole requests over what they kept: to be compared with the run's own figure."""


@dataclass(frozen=True, config=_STRICT)
class Funnel:
    """From candidates to examples."""

    candidates: int
    """Tasks that the teacher wrote."""
    rejected: dict[str, int]
    """Reason -> candidates that generate did not keep."""
    generated: int
    """Kept by generate."""
    dropped: dict[str, int]
    """Reason -> examples that dedup did not keep."""
    kept: int | None
    """Kept by dedup; null before it ran."""


@dataclass(frozen=True, config=_STRICT)
class Provenance:
    """Where the examples come from: of a run, or of rows that say so in `meta`."""

    funnel: Funnel | None
    """Null outside a run."""
    requests: int
    cost: float | None
    """USD of all requests; null without prices or outside a run."""
    seeds: list[Producer]
    """By demonstration, the most productive first."""
    teachers: list[Producer]
    positions: list[Producer]
    """By place in the reply: `1` is the first task of a reply."""


@dataclass(frozen=True, config=_STRICT)
class Change:
    """One figure of two sets."""

    figure: str
    """Dotted path in the report."""
    before: float
    after: float
    difference: float
    low: float | None
    high: float | None
    """95 % interval of the difference; null where sampling noise is not known."""
    p: float | None
    """Probability of a difference this large between two samples of one source, corrected for
    all the figures compared (Holm 1979)."""
    moved: bool
    """Whether `p` is below 0.05."""


@dataclass(frozen=True, config=_STRICT)
class Comparison:
    """This set beside another one."""

    source: str
    """The other set."""
    examples: int
    changes: list[Change]


@dataclass(frozen=True, config=_STRICT)
class GateResult:
    """One gate of a file of gates."""

    figure: str
    value: float | None
    """Null when the report has no such figure, which fails the gate."""
    minimum: float | None
    maximum: float | None
    passed: bool
    why: str
    """The gate's own explanation."""
    rows: list[Sample]
    """Examples behind the figure."""


@dataclass(frozen=True, config=_STRICT)
class Check:
    """All gates of a file."""

    file: str
    passed: bool
    gates: list[GateResult]


@dataclass(frozen=True, config=_STRICT)
class Report:
    """Everything that was measured of a set of examples."""

    version: int
    source: str
    examples: int
    with_input: int
    with_input_share: float
    lengths: dict[str, Lengths]
    """`instruction`, `input`, `output`; a field that is always empty is left out."""
    tokens: Tokens | None
    """Null when no tokenizer is known."""
    languages: Languages
    openings: Openings
    task_types: dict[str, Group]
    """What is asked for, guessed by rule; every type is there, also with none."""
    diversity: dict[str, Diversity]
    """`instruction` and `output`."""
    neighbours: Neighbours
    """Among the examples themselves."""
    seeds: Neighbours | None
    """Against the seed tasks; null outside a run."""
    duplicates: dict[str, Group]
    """`rows`, `instructions`, `outputs`: what repeats an earlier one exactly."""
    lint: dict[str, LintRule]
    """Every rule, also with none."""
    findings: Findings
    contamination: Contamination | None
    """Null when no evaluation files were given."""
    groups: dict[str, dict[str, Group]]
    """`category` or `family` -> name -> examples, where the examples say so."""
    provenance: Provenance | None
    """Null when nothing is known of where the examples come from."""
    notes: list[str]
    """What was not measured, and why."""
    html: str | None
    """The HTML report, when one was written."""
    against: Comparison | None = None
    check: Check | None = None


def report_from(value: Mapping[str, Any]) -> Report:
    """The report that was written as JSON.

    Raises:
        ValueError: it is not of this version's form.
    """
    return TypeAdapter(Report).validate_python(dict(value))


def schema() -> dict[str, Any]:
    """The JSON Schema of the report, every figure with its description."""
    return TypeAdapter(Report).json_schema()


SHOWN = 5  # samples behind a figure
CUT = 200  # characters of a sample


def sample(row: int, id: str | None, text: str, note: str = "") -> Sample:
    """A sample with its text on one line and cut to length."""
    line = " ".join(text.split())
    return Sample(row, id, line if len(line) <= CUT else f"{line[: CUT - 1]}…", note)


def group(total: int, samples: Iterable[Sample]) -> Group:
    """The group of all `samples` (as many as there are) among `total` examples."""
    first: list[Sample] = []
    count = 0
    for found in samples:
        count += 1
        if len(first) < SHOWN:
            first.append(found)
    return Group(count, share(count, total), first)


def share(part: int, whole: int) -> float:
    """Part of a whole, to six digits; 0 of nothing."""
    return round(part / whole, 6) if whole else 0.0
