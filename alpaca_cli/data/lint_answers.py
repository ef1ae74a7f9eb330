"""Answers that are there but are not what was asked for: words for nothing, too few items, loops.

Counts are judged only where both the task and the answer state them: "list five" against a
numbered list, "in 200 words" against the words that there are.
"""

from __future__ import annotations

import re

from alpaca_cli.core.records import Example
from alpaca_cli.data.rouge import tokenize

_NOTHING = re.compile(
    r"[<(\[{]?\s*(?:no[ _-]?(?:output|input|answer|response|code|text|"
    r"content)(?: (?:is )?(?:needed|"
    r"required|available|provided|given|found))?|n\s?/\s?a|not applicable|null|nil|empty|blank|"
    r"无输出|没有输出|无答案|不适用|暂无)\s*[>)\]}]?\s*[.。!]?",
    re.I,
)
_ABOUT_NOTHING = re.compile(
    r"\b(?:n/?a|null|nil|empty|blank|none|not applicable|no (?:output|answer|response)|missing|"
    r"undefined|classif\w*|value|keyword|output|result|returns?|prints?|antonyms?|synonyms?|"
    r"opposite|"
    r"translate)\b|无|空|输出|结果",
    re.I,
)


def says_nothing(example: Example) -> str:
    """An output that says there is none; empty when it says something, or was asked for that."""
    output = example.output.strip()
    if len(output) > 40 or not _NOTHING.fullmatch(output):
        return ""
    if _ABOUT_NOTHING.search(example.instruction) and output[:1] not in "<[({":
        return ""
    bare = output.strip("<>()[]{} .").lower()
    return "" if bare in example.input.lower() or bare in example.instruction.lower() else output


_LABELS = {
    "instruction": re.compile(r"\s*(?:instruction|指令)[ \t]*[:：]", re.I),
    "input": re.compile(r"\s*(?:input|输入)[ \t]*[:：]", re.I),
    "output": re.compile(r"\s*(?:output|response|输出|回答|响应)[ \t]*[:：]", re.I),
}
_ABOUT_OUTPUT = re.compile(
    r"\b(?:outputs?|prints?|printed|results?|returns?|response|reply|format|template|input)\b|"
    r"打印|结果|返回|格式|模板|回答|响应|输出",
    re.I,
)


def own_label(example: Example) -> str:
    """The field that begins with its own name, such as "Input:" in an input; empty if none does.

    An input that shows inputs and outputs, and an output that was asked for as one, may.
    """
    for name, label in _LABELS.items():
        text = getattr(example, name)
        if not label.match(text):
            continue
        if name == "output" and _ABOUT_OUTPUT.search(example.instruction):
            continue
        if re.search(r"\b(?:output|pseudocode|algorithm)\b|输出\s*[:：]", text[10:], re.I):
            continue
        if name == "input" and re.search(r"pseudo", example.instruction, re.I):
            continue
        return name
    return ""


_NUMBERS = {
    word: number
    for number, words in enumerate(
        (
            "two 两 二",
            "three 三",
            "four 四",
            "five 五",
            "six 六",
            "seven 七",
            "eight 八",
            "nine 九",
            "ten 十",
        ),
        2,
    )
    for word in words.split()
}
_ASKED = re.compile(
    r"\b(?:list|name|give|suggest|provide|write|generate|create|come up with|brainstorm|identify|"
    r"think of|describe|find|make|propose|offer|share|state|recommend|outline|compile|develop)\b"
    r"(?: me| us| out| down| up)?(?: an?)?(?: (?:list|set|series) of)?(?: the)?(?: top)? "
    r"(two|three|four|five|six|seven|eight|nine|ten|\d{1,2})"
    r" (?!or\b|to\b|and\b|words?\b|sentences?\b|lines?\b|paragraphs?\b|digits?\b|letters?\b|"
    r"characters?\b|times\b|pages?\b|percent\b|minutes?\b|hours?\b|verses?\b|stanzas?\b|columns?\b|"
    r"rows?\b|more\b|different ways of\b)[a-z]",
    re.I,
)
_ASKED_ZH = re.compile(
    r"(?:列出|列举|给出|提供|写出|说出|生成|推荐|提出|找出|举出)(?:出)?([两二三四五六七八九十]|"
    r"\d{1,2})"
    r"(?:个|种|条|项|本|部|首|款|位)(?!字|词|句|数字)"
)
_LOOSE = re.compile(
    r"\bat least|\bor more|\bup to|\bat most|\bminimum|至少|以上|each|per |every|各|每", re.I
)
_SECOND_ITEM = re.compile(r"\n[ \t]*(?:\*\*)?2[.)、．]")
_ITEM = re.compile(r"^[ \t]*(?:\*\*)?(\d{1,2})[.)、．][ \t]*(?:\*\*)?[^\s\d]", re.MULTILINE)


def wrong_count(example: Example) -> str:
    """How many items were asked for and how many a numbered list has; empty when that fits."""
    instruction = example.instruction
    if not _SECOND_ITEM.search(example.output):
        return ""
    found = [*_ASKED.finditer(instruction), *_ASKED_ZH.finditer(instruction)]
    if len(found) != 1 or _LOOSE.search(instruction):
        return ""
    word = found[0][1].lower()
    wanted = _NUMBERS.get(word) or int(word)
    numbers = [int(item[1]) for item in _ITEM.finditer(example.output)]
    if wanted < 2 or len(numbers) < 2 or numbers != list(range(1, len(numbers) + 1)):
        return ""
    if len(numbers) == wanted:
        return ""
    return f"{wanted} asked for, {len(numbers)} in the list"


_LENGTH = re.compile(
    r"\b(at least |minimum (?:of )?|(?:no|not) (?:less|fewer) than |more than |over |about |"
    r"around |"
    r"approximately |exactly |in |of |an? )?(\d{2,3}(?:,\d{3})?|\d{2,4})(?:[- ](?:to |"
    r"\d+ ))?[- ]?words?\b"
    r"( (?:long|essay|story|article|paragraph|summary|description|review|report|speech|letter|poem|"
    r"blog post|post|biography|response|answer|text))?",
    re.I,
)
_LENGTH_ZH = re.compile(r"(?:至少|不少于|大约|约)?(\d{2,4})[个]?字(?:的|左右|以上)")
_WRITES = re.compile(
    r"^\s*(?:please )?(?:write|compose|create|generate|produce|craft|draft|describe|provide|"
    r"explain|"
    r"summari[sz]e|tell)\b|^(?:请)?(?:写|创作|撰写|编写|生成|描述)",
    re.I,
)
_UPPER = re.compile(
    r"\b(?:less|fewer) than|at most|maximum|max\b|up to|under|within|or less|or fewer|no more than|"
    r"not (?:exceed|more)|limit|shorter|以内|以下|不超过|最多|\d\s*[-–~到至]\s*\d|\b(?:not?|no) ",
    re.I,
)
MIN_STATED = 30  # words; shorter texts are counted in other ways as often as not


def far_too_short(example: Example) -> str:
    """A stated length of which the output has not even half; empty when it is near enough."""
    instruction = example.instruction
    if not ("word" in instruction or "字" in instruction):
        return ""
    if not _WRITES.match(instruction) or _UPPER.search(instruction):
        return ""
    found = _LENGTH.search(instruction)
    stated = found[2] if found else ""
    if not stated and (other := _LENGTH_ZH.search(instruction)):
        stated = other[1]
    if not stated or (wanted := int(stated.replace(",", ""))) < MIN_STATED:
        return ""
    words = len(tokenize(example.output, "unicode"))
    if not words or 2 * words >= wanted:
        return ""
    return f"{wanted} words asked for, {words} written"


_ABOUT_LOOPS = re.compile(r"repeat|times\b|refrain|chorus|loop|lyrics|pattern|重复|遍", re.I)
_ROUNDS, _SPAN = 4, 24  # times that something is said, and words (or letters) in all
_LONG_WORD = 14  # letters of an average word that no language with spaces has


def repeats_itself(example: Example) -> str:
    """What an output says over and over, as a model that is stuck does; empty when nothing is."""
    output = example.output
    if len(output) < 80:
        return ""
    words = output.split()
    if len(output) > _LONG_WORD * len(words):  # no spaces between words: letters
        words = list("".join(words))
    # A quick look: hardly any text has at most half as many different words as words.
    if 2 * len(set(words)) > len(words) or _ABOUT_LOOPS.search(example.instruction):
        return ""
    found = _loop(words)
    if not re.search(r"[^\W\d_]{3,}|[\u4e00-\u9fff]", found) or re.search(r"[{}<>=;|()/\\]", found):
        return ""
    return found


def _loop(words: list[str]) -> str:
    """What is said `_ROUNDS` times in a row; empty when nothing is.

    A run in which each triple of words was last seen the same number of words before.
    """
    last: dict[tuple[str, str, str], int] = {}
    period = length = 0
    for place in range(len(words) - 2):
        triple = (words[place], words[place + 1], words[place + 2])
        distance = place - last.get(triple, place)
        last[triple] = place
        length = length + 1 if distance and distance == period else 1
        period = distance
        # The first round is not in the run, and its last two triples need the next words.
        if period and length + period + 2 >= max(_ROUNDS * period, _SPAN):
            begin = place + 3 - period
            return ("" if len(words[0]) == 1 else " ").join(words[begin : begin + period])
    return ""


_ENTITY = re.compile(r"&(?:amp|quot|lt|gt|nbsp|apos|#\d{2,5}|#x[0-9a-f]{2,4});", re.I)
_UNICODE_ESCAPE = re.compile(r"(?<!\\)\\u[0-9a-fA-F]{4}")
_NEW_LINE = re.compile(r"(?<=[\w.,:;!?'\")])\\n(?:\\n)?(?=[A-Z\d*\-\u4e00-\u9fff\s\\])")
_CODE = re.compile(r"</\w+>|[{};]\s*$|\w\(.*\)\s*[;{]", re.MULTILINE)
_ABOUT_ESCAPES = re.compile(
    r"html|xml|escap|encod|decod|unicode|json|entit|url|regex|regular|string|code|program|function|"
    r"script|print|newline|line break|character|web ?page|css|python|java|sql|php|bash|shell|c\+\+|"
    r"c#|"
    r"format|latex|代码|编程|字符|函数|程序",
    re.I,
)


def escaped_text(example: Example) -> str:
    """An escape or an HTML entity left in a text that is neither code nor about it; else empty."""
    if (
        "\\" not in example.instruction + example.input + example.output
        and "&" not in example.output
    ):
        return ""
    if _ABOUT_ESCAPES.search(example.instruction):
        return ""
    for text in (example.instruction, example.input, example.output):
        if "```" in text or _CODE.search(_ENTITY.sub("", text)):
            continue
        if found := _ENTITY.search(text) or _UNICODE_ESCAPE.search(text):
            return found[0]
        if len(_NEW_LINE.findall(text)) >= (1 if "\n" not in text else 2):
            return "\\n"
    return ""
