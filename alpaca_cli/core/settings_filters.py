"""The keys of `generate.filters`: what a candidate must be like to be kept.

What the rules look for is in `alpaca_cli.data.filters` and `alpaca_cli.data.lint`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from alpaca_cli.core.errors import did_you_mean
from alpaca_cli.core.section import Section

Rule = Literal[
    "empty_instruction",
    "empty_output",
    "too_short",
    "too_long",
    "input_too_long",
    "output_too_short",
    "output_too_long",
    "bad_start",
    "opening",
    "keyword",
    "prompt_echo",
    "answer_repeats_question",
    "merged_records",
    "leftover_marker",
    "placeholder_input",
    "placeholder",
    "damaged_text",
    "link_as_input",
    "missing_input",
    "refusal",
    "unclosed_code",
    "script_mix",
    "url",
    "personal",
    "language",
]

RULES: Mapping[Rule, str] = MappingProxyType(
    {
        "empty_instruction": "the instruction is empty",
        "empty_output": "the output is empty",
        "too_short": "the instruction has fewer than min_words words",
        "too_long": "the instruction has more than max_words words",
        "input_too_long": "the input has more than max_input_words words",
        "output_too_short": "the output has fewer than min_output_words words",
        "output_too_long": "the output has more than max_output_words words",
        "bad_start": "the instruction begins with debris of a list or a template; see ascii_start",
        "opening": "the instruction begins with one of openings",
        "keyword": "the instruction holds one of keywords",
        "prompt_echo": "a line of the prompt is in a field, or the task is to write such tasks",
        "answer_repeats_question": "the output is the input or the instruction, and adds nothing",
        "merged_records": "a field holds a second task",
        "leftover_marker": "a field holds marks of a prompt or chat format, e.g. <|im_end|>",
        "placeholder_input": "the input says that there is none, e.g. N/A, instead of being empty",
        "placeholder": "a field is a placeholder or holds one, e.g. [insert text]",
        "damaged_text": "a field was decoded wrongly, or holds control characters",
        "link_as_input": "the input is only a link",
        "missing_input": "the instruction needs material, or the output asks for it: there is none",
        "refusal": "the output refuses, or says what a model cannot do",
        "unclosed_code": "a ``` block in the output is not closed",
        "script_mix": "question and output are in different scripts, which nobody asked for",
        "url": "a field of urls holds a link",
        "personal": "a field holds what looks like personal data of the kinds in personal",
        "language": "the instruction or the output is in none of the languages in language",
    }
)
"""Every rule, by the reason that its rejections have, in the order in which they are asked."""

PersonalKind = Literal["email", "phone", "card", "ssn", "iban", "ip"]
PERSONAL_KINDS: tuple[PersonalKind, ...] = ("email", "phone", "card", "ssn", "iban", "ip")

KEYWORD_PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        # Stanford Alpaca, generate_instruction.py: what a language model cannot do.
        "stanford-2023": (
            "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map",
            "maps", "draw", "plot", "go to", "video", "audio", "music", "flowchart", "diagram",
        ),
    }
)  # fmt: skip

# ISO 639-1 codes of the languages that alpaca_cli.data.language tells apart.
LANGUAGES = (
    "af", "am", "an", "ar", "as", "az", "ba", "be", "bg", "bn", "br", "bs", "ca", "cs", "cy", "da",
    "de", "dz", "el", "en", "eo", "es", "et", "eu", "fa", "fi", "fo", "fr", "fy", "ga", "gd", "gl",
    "gu", "ha", "he", "hi", "hr", "ht", "hu", "hy", "id", "ig", "is", "it", "ja", "jv", "ka", "kk",
    "km", "kn", "ko", "ku", "ky", "la", "lb", "lg", "ln", "lo", "lt", "lv", "mg", "mk", "ml", "mn",
    "mr", "ms", "mt", "my", "ne", "nl", "nn", "no", "oc", "om", "or", "pa", "pl", "ps", "pt", "qu",
    "ro", "ru", "rw", "sa", "se", "si", "sk", "sl", "sn", "so", "sq", "sr", "st", "sv", "sw", "ta",
    "te", "tg", "th", "tk", "tl", "tr", "tt", "ug", "uk", "ur", "uz", "vi", "vo", "wa", "xh", "yo",
    "zh", "zu",
)  # fmt: skip


class Filters(Section):
    """Rules a candidate must pass before the novelty check; each rejection names its rule.

    All are on but `url`, `personal` and `language`, and those of empty lists; the first rule that
    a candidate breaks is the reason of its rejection. `off` lists the names of all.
    """

    off: list[Rule] = Field([])
    """Rules that are switched off, by the reason that their rejections have."""

    min_words: int = Field(3, ge=0)
    """Shortest instruction, in words. Source: Stanford Alpaca keeps more than 3. Chinese, Japanese
    and other letters written without spaces count as a word each, here and below."""

    max_words: int = Field(150, ge=1)
    """Longest instruction, in words. Source: Stanford Alpaca."""

    max_input_words: int = Field(2000, ge=0)
    """Longest input, in words. 0 keeps only tasks without an input."""

    min_output_words: int = Field(1, ge=0)
    """Shortest output, in words."""

    max_output_words: int = Field(2000, ge=1)
    """Longest output, in words."""

    ascii_start: bool = False
    """Instructions must begin with an ASCII letter or digit. Source: Stanford Alpaca."""

    openings: list[str] = Field([])
    """Instructions that begin with one of these phrases are rejected, e.g. Write a program, which
    is Stanford Alpaca's."""

    keywords: list[str] = Field([])
    """Instructions with one of these words or phrases are rejected, e.g. `[image, go to]`. The
    name `stanford-2023` stands for the list of Stanford Alpaca, alone or among others."""

    urls: list[Literal["instruction", "input", "output"]] = Field([])
    """Fields that must not hold a link; in an output, links of its own question may stand."""

    personal: list[PersonalKind] = Field([])
    """Kinds of personal data that are rejected: email, phone, card, ssn, iban, ip; `true` for all.
    Only what passes its checksum or number plan counts, and nothing that is reserved for
    documentation. Off by default: most of it in synthetic data is invented."""

    language: list[str] = Field([])
    """ISO 639-1 codes of the languages that instruction and output may be in, e.g. `[en, de]`; all
    when empty. Short texts and code pass, and so do outputs in another language when the task is
    about one. Needs the extra [language]."""

    @field_validator("off", "openings", "keywords", "urls", "language", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("keywords", "openings")
    @classmethod
    def _phrases_say_something(cls, phrases: list[str]) -> list[str]:
        if any(not phrase.strip() for phrase in phrases):
            raise ValueError("an empty phrase is in every instruction")
        return phrases

    @field_validator("keywords")
    @classmethod
    def _presets_exist(cls, keywords: list[str]) -> list[str]:
        for word in keywords:
            if word.startswith("stanford-") and word not in KEYWORD_PRESETS:
                raise ValueError(f'no list "{word}"{did_you_mean(word, KEYWORD_PRESETS)}')
        return keywords

    @field_validator("personal", mode="before")
    @classmethod
    def _true_is_every_kind(cls, value: Any) -> Any:
        if isinstance(value, bool):
            return list(PERSONAL_KINDS) if value else []
        return [value] if isinstance(value, str) else value

    @field_validator("language")
    @classmethod
    def _languages_are_known(cls, codes: list[str]) -> list[str]:
        for code in codes:
            if code not in LANGUAGES:
                raise ValueError(f'"{code}" is not one of the codes {" ".join(LANGUAGES)}')
        return codes

    @model_validator(mode="after")
    def _bounds_leave_something(self) -> Filters:
        for low, high in (("min_words", "max_words"), ("min_output_words", "max_output_words")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low} {getattr(self, low)} is more than {high} {getattr(self, high)}"
                )
        return self
