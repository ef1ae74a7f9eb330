"""The rules of lint for the texts of one row that `generate` rejects by, too.

Those of the clean-ups of the published Alpaca data that are right often enough to throw a
candidate away for: what is left of prompts and other tasks, placeholders, damaged text, refusals,
material that is not there. Each rule is one question with one reason as the answer. Rules that only
point a person at a row are in `alpaca_cli.data.lint` and the modules that it asks; a rule that is
added here changes what `generate` keeps, and has a name in `core.settings_filters.RULES`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from string import punctuation, whitespace

from alpaca_cli.core.records import Example
from alpaca_cli.data.leftovers import leftover_marker, merged_record
from alpaca_cli.data.refusals import asks_for_material, refusal


def content_findings(example: Example) -> Iterator[tuple[str, str]]:
    """Rule and reason of what is wrong with the texts of a row, one rule after the other.

    Lengths and empty fields aside, which have bounds of their own in a recipe.
    """
    if repeated := _repeats_question(example):
        yield "answer-repeats-question", repeated
    says_none = _says_none(example)
    names = ("instruction", "output") if says_none else ("instruction", "input", "output")
    fields = [(name, getattr(example, name)) for name in names]
    for name, text in fields:
        if label := merged_record(text, example.instruction):
            yield "merged-records", f"{name} holds a second task, at {quote(label)}"
    for name, text in fields:
        if mark := leftover_marker(text):
            yield "leftover-marker", f"{name} holds {quote(mark)}"
    if says_none:
        yield "placeholder-input", f"input says {quote(example.input)} instead of being empty"
    for name, text in fields:
        filler = _filler(text.strip())
        if filler and _ABOUT_DOTS.search(example.instruction):
            filler = ""
        # An answer may be a template with [insert date]; a question may not.
        found = None if filler or name == "output" else _INSERT.search(text)
        if found and not _ABOUT_TEMPLATES.search(example.instruction):
            filler = found[0]
        if filler:
            yield "placeholder", f"{name} holds {quote(filler)}"
    for name, text in fields:
        if broken := _broken_text(text):
            yield "damaged-text", f"{name} holds {broken}"
    if _URL.fullmatch(example.input.strip()) and not _ABOUT_LINKS.search(example.instruction):
        yield "link-as-input", "the input is only a link, which a model cannot open"
    if not example.input.strip() and (words := _refers_to_missing(example.instruction)):
        yield "missing-input", f"the instruction says {quote(words)}, and there is no input"
    elif words := asks_for_material(example):
        yield "missing-input", f"the output asks for material: {quote(words)}"
    if words := refusal(example):
        yield "refusal", f"the output begins with {quote(words)}"
    if example.output.count("```") % 2 and len(_FENCE.findall(example.output)) % 2:
        yield "unclosed-code", "a ``` block in the output is not closed: cut off?"
    if scripts := _other_script(example):
        yield "script-mix", "the question is in {} script, the output in {}".format(*scripts)


def _repeats_question(example: Example) -> str:
    """Which part of the question the output is, and nothing more; empty when it says more.

    One unchanged word is a right answer to much that can be asked about a word, and so is an
    unchanged text where the instruction leaves it open whether there is anything to change.
    """
    instruction, input = example.instruction.strip(), example.input.strip()
    output = example.output.strip()
    if not output:
        return ""
    if output == input:
        if len(output.split()) == 1 and len(output) < 20:
            return ""
        if _MAY_STAY.search(instruction):
            return ""
        return "the output is the input, word for word"
    asked = instruction.rstrip(".:!?。：！？ ")
    if asked and output.startswith(asked):
        rest = output[len(asked) :].lstrip(".:!?。：！？ \n")
        if rest == input or not re.search(r"\w", rest):
            return "the output is the instruction, word for word"
    return ""


def quote(text: str) -> str:
    """A text on one line, in quotation marks, cut to forty characters."""
    text = " ".join(text.split())
    return f'"{text}"' if len(text) <= 40 else f'"{text[:37]}…"'


# Only what nobody writes on purpose: letters hold [Your Name], code to complete holds TODO.
# XXX is also 30, "todo" Spanish, "..." the letter S in Morse code.
_FILLER = re.compile(r"(?i:lorem ipsum\b).*|TODO|TBD|tbd|[xX]{4,}", re.DOTALL)
_ABOUT_DOTS = re.compile(r"morse|ellips|\bdots?\b|punctuat|periods", re.IGNORECASE)
_FILLER_IN_BRACKETS = re.compile(
    r"[\[<{](?:your|my|the)?[ _-]?"
    r"(?:instruction|input|output|response|answer|text)[^\]>}\n]*[\]>}]",
    re.IGNORECASE,
)
_EDGES = f"{punctuation}{whitespace}…“”‘’«»"
_INSERT = re.compile(r"[\[<{](?:insert|enter|paste)[ _-][^\]>}\n=\"']{1,60}[\]>}]", re.IGNORECASE)
_ABOUT_TEMPLATES = re.compile(r"placeholder|template|fill(?:ed)? in|blanks?\b|form letter", re.I)
_MAY_STAY = re.compile(
    r"\b(?:if|whether|unless|any|where|necessary|needed|already|otherwise)\b|如果|是否|任何", re.I
)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)
_NO_INPUT = re.compile(
    r"[<(\[]?(?:no[ _-]?input(?: (?:is )?(?:needed|required|necessary))?|not? applicable|n/?a|"
    r"无输入|没有输入)[>)\]]?[.。]?",
    re.I,
)
_MAY_BE_INPUT = re.compile(r"[<(\[]?(?:none|null|nil|empty|无)[>)\]]?[.。]?", re.I)
_ABOUT_WORDS = re.compile(
    r"\b(?:words?|terms?|given|following|inputs?|values?|keywords?|types?|literals?|below|above|"
    r"synonyms?|antonyms?|opposite|define|definition|spell|translate|rhymes?)\b|词|字|翻译",
    re.I,
)
_URL = re.compile(r"(?:https?://|www\.)\S+", re.I)
_ABOUT_LINKS = re.compile(
    r"domain|pars(?:e|ing)|extract|protocol|valid|regex|regular|function|program|script|code|"
    r"class\b|query|encod|decod|shorten|request|html|hyperlink",
    re.I,
)


def _says_none(example: Example) -> bool:
    """Whether the input says that there is none. "Empty" may be the word that is asked about."""
    input = example.input.strip()
    if _MAY_BE_INPUT.fullmatch(input):
        return not _ABOUT_WORDS.search(example.instruction)
    return _NO_INPUT.fullmatch(input) is not None


def _filler(text: str) -> str:
    """The text when all of it stands in for one; empty when it does not."""
    if _FILLER_IN_BRACKETS.fullmatch(text):
        return text
    core = text.strip(_EDGES)
    if core:
        return text if _FILLER.fullmatch(core) else ""
    return text if "..." in text or "…" in text else ""


def _broken_text(text: str) -> str:
    """What shows that bytes were decoded or kept wrongly; empty when nothing does."""
    if text.isascii() and text.isprintable():
        return ""
    if "\ufffd" in text:
        return "U+FFFD, the mark of bytes that could not be decoded"
    for run in re.findall(r"[^\x00-\x7f]{2,}", text):
        if repaired := _utf8_read_as_latin(run):
            return f'"{run}", which is "{repaired}" in UTF-8'
    if control := re.search(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x84\x86-\x9f]", text):
        return f"the control character U+{ord(control[0]):04X}"
    return ""


def _utf8_read_as_latin(run: str) -> str:
    """The text that `run` was before UTF-8 was read as Windows-1252; empty when it was not."""
    try:
        data = b"".join(
            character.encode("latin-1" if "\x80" <= character <= "\x9f" else "cp1252")
            for character in run
        )
        return data.decode("utf-8")
    except UnicodeError:
        return ""


_THINGS = "articles?|text|passage|paragraphs?|sentences?|questions?|code|poem|story|list|table"
_POINTER = re.compile(
    rf"\bthe following\b|\b(?:{_THINGS}) below\b|\bbelow[.:?]?$|以下|下面的|下列", re.I
)


def _refers_to_missing(instruction: str) -> str:
    """The words that point to something that is not there; empty unless that is quite certain.

    Certain means: one sentence, and nothing after the pointer that could be the thing itself.
    """
    text = instruction.strip()
    found = _POINTER.search(text)
    if found is None or re.search(r"[.!?。！？;；]\s*\S", text):
        return ""
    rest = text[found.end() :]
    if re.search(r"[\n\d,，、\"“”‘’«「『《`#(\[{<=/-]|[:：]\s*\S|\W'", rest) or len(rest) > 100:
        return ""
    return found[0]


# First word of the Unicode name of a letter -> script. Chinese, Japanese and Korean mix theirs.
_SCRIPTS = {
    "LATIN": "Latin",
    "FULLWIDTH": "Latin",
    "CJK": "East Asian",
    "HIRAGANA": "East Asian",
    "KATAKANA": "East Asian",
    "HANGUL": "East Asian",
    "CYRILLIC": "Cyrillic",
    "GREEK": "Greek",
    "ARABIC": "Arabic",
    "HEBREW": "Hebrew",
    "DEVANAGARI": "Devanagari",
    "BENGALI": "Bengali",
    "TAMIL": "Tamil",
    "TELUGU": "Telugu",
    "THAI": "Thai",
}
_LANGUAGE_TASK = re.compile(
    r"translat|transcri|transliterat|language|script|alphabet|pronounc|unicode|emoji|encod|decod|"
    r"morse|chinese|japanese|korean|russian|ukrainian|greek|arabic|hebrew|hindi|thai|persian|"
    r"mandarin|cantonese|english|latin|翻译|译|英文|英语|拼音|字母|代码|编程|程序|函数|缩写|符号",
    re.I,
)


def _other_script(example: Example) -> tuple[str, str] | None:
    """The scripts of question and output when they differ and the task does not ask for it.

    Only prose counts: at least 20 letters of one script, nine in ten of all, and not code.
    """
    question = f"{example.instruction}\n{example.input}"
    if question.isascii() and example.output.isascii():
        return None
    if _LANGUAGE_TASK.search(question) or re.search(r"[{}=;`<>]", example.output):
        return None
    asked, answered = _script(question, 1), _script(example.output, 20)
    if asked is None or answered is None or asked[0] == answered[0] or answered[0] in asked[1]:
        return None
    return asked[0], answered[0]


def _script(text: str, at_least: int) -> tuple[str, set[str]] | None:
    """The script of nine in ten letters of a text, and all its scripts; None when there is none."""
    counts = Counter(_letter_scripts(text))
    if not counts:
        return None
    script, count = counts.most_common(1)[0]
    if script == "other" or count < max(at_least, 0.9 * counts.total()):
        return None
    return script, set(counts)


def _letter_scripts(text: str) -> Iterable[str]:
    return filter(None, map(_script_of, text))


@lru_cache(maxsize=1 << 16)
def _script_of(character: str) -> str:
    """The script of a letter, `other` for one that is not listed; empty for what is no letter."""
    if not character.isalpha():
        return ""
    if character.isascii():
        return "Latin"
    return _SCRIPTS.get(unicodedata.name(character, "?").split()[0], "other")
