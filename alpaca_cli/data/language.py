"""Is a task in one of the languages that a recipe allows?

Told by py3langid (the extra [language]): 139 languages in a wheel of 4.6 MB. Measured against
lingua 2.1.1 with all its languages, on the 3,443 English and 1,000 Chinese instructions of real
data and on 88 short sentences of our own in ten other languages (one core):

                              py3langid 0.4.0    lingua 2.1.1
    English instructions      99.5 % right       97.9 % right
    Chinese instructions      94.4 % (*)         99.9 %
    short foreign sentences   95.5 %             98.9 %
    one instruction           0.05 ms            2.2 ms
    memory, loading time      120 MB, 0.5 s      1,060 MB, 5.5 s
    wheel                     4.6 MB             96.2 MB

(*) The others as Wu or Cantonese, which count as Chinese here.

Which language is the most likely is not what is asked: a text is foreign when all but the allowed
languages and their near relatives have a probability of 0.99 together. That holds for none of
those instructions in their own languages, and for 83 of the 88 sentences where English is allowed;
the 0.99 was chosen on these very texts. On 10,619 English tasks seen only afterwards (GPTeacher
role play, GSM8K) nothing was rejected. What is short or between languages passes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from functools import cache
from typing import TYPE_CHECKING

from alpaca_cli.core.errors import missing_extra
from alpaca_cli.core.records import Example

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

SURE = 0.99  # probability of all languages that are not allowed, together
MIN_LETTERS, MIN_OUTPUT_LETTERS = 12, 40  # of prose; 3 to a letter of Chinese or Japanese
_MAX_CHARACTERS = 1000  # of prose that are read
LIKELY = 0.5  # probability of a language, with its near relatives
_GLANCE = 200  # characters of prose that are read to tell which language is likely

# What the model cannot keep apart in a sentence or two; dialects have no ISO 639-1 code.
_NEAR = {
    "ar": ("ary", "arz"),
    "az": ("tr",),
    "bg": ("mk",),
    "bs": ("hr", "sr"),
    "da": ("no", "nn"),
    "en": ("pcm",),
    "es": ("an", "ext", "gl"),
    "fa": ("ps",),
    "fr": ("wa", "gcf", "gcr"),
    "gl": ("pt", "es"),
    "he": ("hbo",),
    "hi": ("mr", "ne"),
    "hr": ("bs", "sr"),
    "id": ("ms", "jv"),
    "it": ("vec", "lij"),
    "mk": ("bg",),
    "ms": ("id",),
    "nn": ("no", "da"),
    "no": ("nn", "da"),
    "pt": ("gl",),
    "sr": ("bs", "hr"),
    "uz": ("uzs",),
    "zh": ("wuu", "yue"),
}
_NO_LANGUAGE = "zxx"  # numbers, markup, names of things

# What is quoted, code, or an address: the material of a task, in whatever language.
_MATERIAL = re.compile(
    r"```.*?(?:```|\Z)|`[^`\n]*`|\"[^\"\n]{0,400}\"|“[^”\n]{0,400}”|«[^»\n]{0,400}»"
    r"|„[^“”\n]{0,400}[“”]|「[^」]{0,400}」|《[^》]{0,400}》|(?<!\w)'[^'\n]{2,400}'(?!\w)"
    r"|(?:https?://|www\.)\S+|\S+@\S+",
    re.DOTALL,
)
_SIGN = re.compile(r"[{}=;<>\[\]_\\|#$*+^~@%/()]")
_LIST_OF_NAMES = re.compile(
    r"^[ \t]*(?:[-*•+]|\d{1,3}[.)])[ \t]+(?:[^\s]+[ \t]*){1,4}$", re.MULTILINE
)
_NOT_PROSE = re.compile(r"\d+|[^\w\s'’.,!?;:，。！？、-]|_")
_ENGLISH_WORD = re.compile(r"\b(?:the|and|of|to|with|that|this|you|from|which|are|following)\b")
_LATIN_WORD = re.compile(r"[A-Za-z\u00c0-\u024f]{3,}")
_OTHER_LETTER = re.compile(r"[^\W\d_\u0000-\u024f]")
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3]")
# Tasks whose answer may be in another language: they name one, or say what to do with it.
_ABOUT_LANGUAGES = re.compile(
    r"translat|transcri|transliterat|language|pronounc|bilingual|idiom|phrase ?book|"
    r"übersetz|sprache|traduc|traduis|traduir|traduz|langue|idioma|língua|lingua|vertaal|taal\b|"
    r"tłumacz|przetłum|перев[её]д|перевод|язык|ترجم|अनुवाद|翻译|翻譯|翻訳|訳して|번역|译|语言|"
    r"[英中法德日韩俄][文语]|"
    r"\b(?:english|french|spanish|german|italian|portuguese|dutch|russian|polish|swedish|danish|"
    r"norwegian|finnish|turkish|greek|latin|arabic|hebrew|persian|farsi|hindi|urdu|bengali|tamil|"
    r"chinese|mandarin|cantonese|japanese|korean|vietnamese|thai|indonesian|swahili|irish|welsh|"
    r"hungarian|czech|ukrainian|romanian|esperanto|sanskrit|"
    r"englisch\w*|französisch\w*|spanisch\w*|deutsch\w*|italienisch\w*|latein\w*|"
    r"anglais\w*|français\w*|espagnol\w*|allemand\w*|inglés|francés|español|alemán|inglese|"
    r"francese|tedesco|inglês|francês|alemão)\b|английск|немецк|французск|испанск|русск",
    re.IGNORECASE,
)


def make_language_check(allowed: Collection[str]) -> Callable[[Example], str]:
    """A function from an example to what is in a language that is not allowed; empty if nothing is.

    The instruction is judged as soon as it has a few words, the output when it has prose of some
    length and the task is not about languages; the input, which is material, is not judged.

    Args:
        allowed: ISO 639-1 codes, of `core.settings_filters.LANGUAGES`.

    Raises:
        UsageError: py3langid is not installed.
    """
    foreign = make_detector(allowed)

    def check(example: Example) -> str:
        if found := foreign(example.instruction, MIN_LETTERS):
            return f"the instruction is in {found}"
        question = f"{example.instruction}\n{example.input}"
        found = foreign(example.output, MIN_OUTPUT_LETTERS)
        if found and not _ABOUT_LANGUAGES.search(question) and not _holds_latin_words(question):
            return f"the output is in {found}"
        return ""

    return check


def make_detector(allowed: Collection[str]) -> Callable[[str, int], str]:
    """A function from a text to the code of its language; empty when that may be an allowed one.

    Its second argument is how many letters of prose it takes to judge at all.

    Raises:
        UsageError: py3langid is not installed.
    """
    model = _load_model()
    near = {relative for code in allowed for relative in _NEAR.get(code, ())}
    home = {_NO_LANGUAGE, *allowed, *near}

    def foreign(text: str, at_least: int) -> str:
        words = prose(text)
        if _letters(words) < at_least:
            return ""
        ranking = model.rank(words)
        if sum(share for code, share in ranking if code in home) > 1 - SURE:
            return ""
        return next(str(code) for code, _ in ranking if code not in home)

    return foreign


def make_recogniser() -> Callable[[str, int], str]:
    """A function from a text to the code of its language; empty when none is likely.

    Its second argument is how many letters of prose it takes to judge at all. Only the beginning
    of the text is read. A language is likely when it and its near relatives have half of the
    probability; dialects count as their language.

    Raises:
        UsageError: py3langid is not installed.
    """
    model = _load_model()
    dialects = {code: home for home, near in _NEAR.items() for code in near if len(code) > 2}

    def recognise(text: str, at_least: int) -> str:
        if _is_plain_english(text[:_GLANCE]):
            return "en"
        words = prose(text[: 3 * _GLANCE])[:_GLANCE]
        if _letters(words) < at_least:
            return ""
        label, probability = model.classify(words)
        code = dialects.get(label, label)
        if probability < LIKELY:
            kin = {code, *_NEAR.get(code, ())}
            if sum(share for other, share in model.rank(words) if other in kin) < LIKELY:
                return ""
        return "" if code == _NO_LANGUAGE else str(code)

    return recognise


def _is_plain_english(text: str) -> bool:
    """Whether the commonest English words tell without the model, which takes ten times as long."""
    found = _ENGLISH_WORD.findall(text)
    return len(set(found)) >= 3 and 6 * len(found) >= len(text.split()) and text.isascii()


def may_differ(example: Example) -> bool:
    """Whether its output may be in another language: its task is about one, or quotes one."""
    question = f"{example.instruction}\n{example.input}"
    return bool(_ABOUT_LANGUAGES.search(question)) or _holds_latin_words(question)


@cache
def _load_model() -> LanguageIdentifier:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise missing_extra("py3langid", "language") from error
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def prose(text: str) -> str:
    """The sentences of a text without code, quotations, links, numbers and signs; one line.

    Nothing is left of a text in which one character in twenty is a sign that code is made of.
    """
    text = _LIST_OF_NAMES.sub(" ", _MATERIAL.sub(" ", text[: 2 * _MAX_CHARACTERS]))
    if len(_SIGN.findall(text)) > 0.05 * len(text):
        return ""
    return " ".join(_NOT_PROSE.sub(" ", text).split())[:_MAX_CHARACTERS]


def _holds_latin_words(question: str) -> bool:
    """Whether a question in another script is about words in Latin letters."""
    return len(_OTHER_LETTER.findall(question)) > 3 and bool(_LATIN_WORD.search(question))


def _letters(text: str) -> int:
    """Letters of a text; one of Chinese, Japanese or Korean says as much as three."""
    return sum(map(str.isalpha, text)) + 2 * len(_WIDE.findall(text))
