"""The words of the embedded teacher: `lexicon.yaml` as one typed, immutable value.

Why one place: a tiny model must meet each word often, so every family draws from the same
few hundred. It knows words and the small rules that belong to a word (article, plural), not
tasks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
ONES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEENS = ("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen")
NUMBER_WORDS = (*ONES, *TEENS, "eighteen", "nineteen")
TENS_WORDS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


@dataclass(frozen=True, slots=True)
class Action:
    """A verb that takes an object, with the objects that make sense."""

    base: str
    third: str
    past: str
    participle: str
    objects: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """What `lexicon.yaml` says; the comments there say what each list promises."""

    girls: tuple[str, ...]
    boys: tuple[str, ...]
    kinds: dict[str, tuple[str, ...]]
    colors: tuple[str, ...]
    goods: tuple[str, ...]
    plurals: dict[str, str]
    antonyms: tuple[tuple[str, str], ...]
    degrees: dict[str, tuple[str, str]]
    actions: tuple[Action, ...]
    motions: dict[str, tuple[str, str]]
    countries: dict[str, tuple[str, str]]
    thing_colors: dict[str, str]
    young: dict[str, str]
    sounds: dict[str, str]
    jobs: dict[str, str]
    rhymes: tuple[tuple[str, ...], ...]
    titles: tuple[tuple[str, ...], ...]
    reviewed: tuple[str, ...]
    praise: tuple[str, ...]
    blame: tuple[str, ...]
    months: tuple[str, ...]
    weekdays: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All first names."""
        return self.girls + self.boys

    @property
    def nouns(self) -> tuple[str, ...]:
        """Every countable thing, of all kinds and the goods."""
        return tuple(word for words in self.kinds.values() for word in words) + self.goods

    @property
    def items(self) -> tuple[str, ...]:
        """The words that lists are made of: few, so that each is met often."""
        return self.colors + self.kinds["animal"]

    @property
    def cities(self) -> tuple[str, ...]:
        """The capitals, which serve as cities everywhere."""
        return tuple(capital for capital, _ in self.countries.values())


@cache
def lexicon() -> Lexicon:
    """The lexicon, read once."""
    raw = read_yaml(HERE / "lexicon.yaml")
    actions = tuple(
        Action(**{**row, "objects": tuple(row["objects"])}) for row in raw.pop("actions")
    )
    return Lexicon(actions=actions, **{key: frozen(value) for key, value in raw.items()})


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping of this package, through the C loader where PyYAML has one."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    document: dict[str, Any] = yaml.load(path.read_text("utf-8"), Loader=loader)
    return document


def frozen(value: Any) -> Any:
    """The same YAML value with tuples for lists."""
    if isinstance(value, list):
        return tuple(frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: frozen(item) for key, item in value.items()}
    return value


def with_article(word: str) -> str:
    """`apple` -> `an apple`; by its first letter, which the lexicon keeps honest."""
    return f"an {word}" if word[0].lower() in "aeiou" else f"a {word}"


def plural(noun: str) -> str:
    """`wolf` -> `wolves`; irregular ones are in the lexicon."""
    return lexicon().plurals.get(noun, noun + "s")


def number_word(number: int) -> str:
    """`37` -> `thirty-seven`, for 0 to 99."""
    if number < 20:
        return NUMBER_WORDS[number]
    tens, ones = divmod(number, 10)
    return TENS_WORDS[tens - 2] + (f"-{NUMBER_WORDS[ones]}" if ones else "")


def series(words: list[str], last: str = "and") -> str:
    """`a, b, and c` (or `a and b`)."""
    if len(words) == 2:
        return f"{words[0]} {last} {words[1]}"
    return f"{', '.join(words[:-1])}, {last} {words[-1]}"
