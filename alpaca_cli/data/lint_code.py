"""Code in answers: without a fence among sentences, and missing where a program was asked for.

An output that is nothing but code is no finding: in sets of code that is the form of every answer,
and it is clear where the code begins and ends. Sentences with code between them are one, for there
a reader, a renderer and a student that learns from it have to guess. Which language the code is
in, or whether it runs, is not known here.
"""

from __future__ import annotations

import re
from itertools import pairwise

from alpaca_cli.core.records import Example

MIN_CODE_LINES = 2  # among sentences; one line may be a formula or a command

_FENCED = re.compile(r"```.*?(?:```|\Z)|~~~.*?(?:~~~|\Z)", re.DOTALL)
_COMMENT = re.compile(
    r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|'
    r"/\*[\s\S]*?\*/|<!--[\s\S]*?-->|^[ \t]*(?:#|//|--|\*|%).*$",
    re.MULTILINE,
)
_QUOTED = re.compile(r"`[^`\n]*`")
# Lines that only a programmer writes; sums such as "AB = 3 + 4" are not among them.
_CODE_LINE = re.compile(
    r"""[ \t]*(?:
        (?:async\ )?def\ \w+\s*\(.*\)\s*(?:->.*)?:\s*$ | class\ \w+[\w\ ,.<>():]*[:{]\s*$
      | (?:from\ [\w.]+\ )?import\ [\w.*{][\w.{}*,\ ]*(?:\ as\ \w+)?;?\s*$
      | \#include\s*[<"] | using\ [\w.]+;
      | (?:public|private|protected|static)\ [\w<>\[\]]+\ .*[{;(]
      | (?:const|let|var|int|float|double|char|string|String|bool|auto)\ [\w\[\]]+\s*=.*
      | (?:export\ |async\ )*function\s*\w*\s*\(.*\)\s*\{?
      | (?:\}\s*)?(?:else\ )?(?:for|if|while|switch|catch)\s*\(.*\)\s*(?:\{\s*)?$
      | (?:for\ .+\ in\ .+|while\ \S.*|(?:el)?if\ \S.*|with\ .+|except.*|else|try|finally):\s*$
      | return\b(?!\ to\b)[^.]*;?\s*$ | [)\]}]+[;,)]*\s*$ | \}\s*else\b.*
      | [a-z_$][\w.]*(?:\[[^\]]*\])*\s*[-+*/|]?=\s*[^=\s].*[;)\]}'"]\s*$
      | (?!\w+\([^)]*\)\s*=)[a-z_$][\w.]*\(.*\)\s*(?:;\s*)?$ | \.\w+\(.*\)\s*(?:;\s*)?$
      | (?:SELECT|INSERT\ INTO|UPDATE|DELETE\ FROM|CREATE\ TABLE)\ .+
      | </?[a-z][a-z0-9]*(?:\s[^>]*)?>.*
    )""",
    re.VERBOSE,
)
_SENTENCE = re.compile(
    r"[ \t]*(?:[A-Z][\w'’,\"“” ()/+#&.-]{24,}[.:!]|[^\n]*[\u4e00-\u9fff]{8,}[^\n]*[。：:！])\s*$"
    # Or several sentences in one line.
    r"|[ \t]*[A-Z][\w'’,\"“” ()/+#&.-]{15,}\. [A-Z][^{};=<>]{20,}"
)
_CODE_SIGNS = re.compile(r"[{}<>;=]|\w\(")
_ABOUT_FENCES = re.compile(r"markdown|code block|fence|latex", re.I)


def unfenced_code(example: Example) -> str:
    """The first line of code that stands without a fence among sentences; empty if none does."""
    output = example.output
    if "\n" not in output or not (":" in output or _CODE_SIGNS.search(output)):
        return ""
    bare = _QUOTED.sub("x", _COMMENT.sub("", _FENCED.sub("\n", output)))
    lines = [line for line in bare.split("\n") if line.strip()]
    code = [line for line in lines if _CODE_LINE.match(line)]
    if len(code) < MIN_CODE_LINES or not _stands_together(lines):
        return ""
    if not any(_SENTENCE.match(line) and not _CODE_LINE.match(line) for line in lines):
        return ""
    return "" if _ABOUT_FENCES.search(example.instruction) else code[0].strip()


def _stands_together(lines: list[str]) -> bool:
    """Whether two lines of code follow one another: a program, not formulas in a text."""
    return any(_CODE_LINE.match(a) and _CODE_LINE.match(b) for a, b in pairwise(lines))


_ASKS_FOR_CODE = re.compile(
    r"\s*(?:please )?(?:write|create|generate|develop|construct|implement|build|code|produce)\b"
    r"(?: me| us)?(?: an?| the| some)?"
    r"(?: (?!that\b|for\b|to\b|of\b|about\b|which\b|explaining|describing)[\w.#+-]+){0,3}?"
    r" (?:programs?|functions?|snippets?|scripts?|class|method|query)\b"
    r"(?! (?:name|call|signature|description|outline|for (?:an?|the) (?:play|movie|film|video|show|"
    r"podcast|phone|call|scene|speech|event|party|meeting|conference)))",
    re.I,
)
_LANGUAGES = re.compile(
    r"\b(?:python|java|javascript|js|typescript|c\+\+|c#|c|ruby|php|perl|swift|kotlin|golang|go|"
    r"rust|scala|bash|shell|sql|mysql|html|css|matlab|r|node(?:\.js)?|react|jquery|powershell)\b",
    re.I,
)
_ANY_CODE = re.compile(
    r"[{};=\\]|\w\(|</?\w+|->|:=|=>|^\s*(?:SELECT|select|echo|print|puts|import|def|begin|end|if|for|"
    r"while|do|set|ls|cd|mkdir|rm|cp|mv|grep|find|cat|git|awk|sed)\b|[|&$]\s*\w|^\s*[#.]\w|--\w",
    re.MULTILINE,
)


def no_code(example: Example) -> str:
    """The words that ask for a program where the output has nothing of one; empty otherwise."""
    found = _ASKS_FOR_CODE.match(example.instruction)
    if not found or not _LANGUAGES.search(example.instruction):
        return ""
    if not example.output.strip() or _ANY_CODE.search(example.output) or "`" in example.output:
        return ""
    return found[0]


_MISSING = re.compile(
    r"\s*(?:fix|debug|edit|modify|correct|rewrite|optimi[sz]e|refactor|explain|convert|translate|"
    r"update|improve|complete|change|simplify|revise|find the (?:bugs?|errors?|mistakes?) in|"
    r"what (?:is|does|will)|tell me what|describe what|predict the output of|analy[sz]e|transform|"
    r"reformat|add \w+ to|identify the (?:bugs?|errors?|mistakes?|output) (?:in|of))\b"
    r"[^.?!:\n]{0,40}?\b(?:the (?:following|given|provided|above|below)|this|the below|"
    r"the above)\s+"
    r"(?:[\w#+.-]+ ){0,2}?(?:code|function|program|script|snippet|method|query|pseudocode)\b",
    re.I,
)


def missing_code(example: Example) -> str:
    """The words that point to code which is nowhere in the question; empty otherwise."""
    if example.input.strip():
        return ""
    text = example.instruction
    found = _MISSING.match(text)
    if not found:
        return ""
    rest = text[found.end() :]
    # What comes after may be the code itself, or its name.
    if re.search(r"[\n`{}()=<>;:\"“'‘\[\]]|\b(?:named|called)\b", rest):
        return ""
    return found[0]
