"""Outputs that end in the middle: of a sentence, a list, a program or a page.

A missing full stop is not enough, as people leave it out. An end counts as cut off when it cannot
be one (a word such as "the", an open bracket, an item without text, `<html>` without `</html>`), or
when everything of its kind in the same output ends properly and the last one does not. Where the
cut happens to fall between two sentences it cannot be told, and is not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from alpaca_cli.core.records import Example

LONG = 300  # characters; shorter outputs are not cut off by a limit on tokens
LONG_WIDE = 100  # the same where a letter is a word
MIN_PEERS = 2  # lines of the same kind that end properly

_PROPER = re.compile(r"[.!?…。！？:：;；~～][*_\"”’'»)）\]】」』》`]*$|[`|>}]$")
_ENDED = re.compile(r"[.!?…。！？][*_\"”’'»)）\]】」』》]*$")
_SIGNED = re.compile(
    r"\b(?:sincerely|regards|wishes|yours|love|cheers|truly|faithfully|respect|hope|luck|from|"
    r"by)\b|"
    r"#\w|https?:|www\.|@|[=→|<>{}\\]|^\s*[\"“'—–~-]|[^\w\s,'’()\-–—/&%$°\"“”]\s*$|\d\s*$",
    re.I,
)
_ITEM = re.compile(r"\s*(?:(?:\*\*)?\d{1,3}[.)、](?!\d)|[-*•+])\s*")
_EMPTY_ITEM = re.compile(r"\s*(\d{1,3})[.)、]\s*([^:：]{1,40}[:：](?:\*\*)?)?\s*")
_SENTENCE_BREAK = re.compile(
    r"[a-z0-9)\]\"”’%][.!?](?<!\b[DMS]r\.)(?<!\b[DMS]t\.)(?<!\bMrs\.)(?<!\bProf\.)(?<!\bvs\.)"
    r"(?<!\bNo\.)(?<!\bInc\.)[\"”’)]?\s+(?=[A-Z\"“(])"
)
_WIDE = re.compile("[\u3040-\u30ff\u3400-\u9fff]")
_WORD = re.compile(r"[A-Za-z][A-Za-z'’-]*|[\u3040-\u30ff\u3400-\u9fff]")
# No sentence ends with these; a line of verse, a table and code may.
_OPEN_WORD = re.compile(
    r"[a-z,;] (?:the|a|an|of the|of|and|or|from|than|is|are|was|were|has been|have been|which|"
    r"whose|"
    r"because|although|unless|their|its|into|between|such as|can be|will be|should be|with the|"
    r"to the|in the|for the|on the|(?:but|and|or|because|that|if|when|while|as) (?:they|he|she|we|"
    r"it|"
    r"the|a|there))$"
)
_WIDE_OPEN = re.compile(r"[\u3400-\u9fff](?:的|和|与|或|在|是|被|把|以及|并且|因为|，|、|（|《|“)$")
_FENCED = re.compile(r"```.*?```", re.DOTALL)
_FRAGMENT = re.compile(
    r"\b(?:complete|continue|fill|finish|fragment|prefix|unfinished|incomplete|beginning of|"
    r"start of|"
    r"first (?:line|part|half)|rhymes?|anagram|palindrome|acrostic|haiku|poem|lyrics|title|"
    r"headline|"
    r"hashtag|signature|tweet|tokens?|tokeni[sz]e|words?|preposition|phrase|conjunctions?|"
    r"articles?|stop ?words|"
    r"preposit\w+)\b",
    re.I,
)


def cut_off(example: Example) -> str:
    """How an output ends that does not end; empty when it does, or when that is not certain."""
    output = example.output.rstrip()
    if len(output) < 40:
        return ""
    wide = len(_WIDE.findall(output[:200])) > 40
    for found in (_page(output), _program(output)):
        if found:
            return found
    prose = _FENCED.sub("", output).rstrip()
    if not output.endswith(prose[-20:]) or _PROPER.search(output):
        return _empty_item(output)
    lines = [line for line in prose.split("\n") if line.strip()]
    if len(output) < (LONG_WIDE if wide else LONG) or not lines or _looks_like_code(lines):
        return ""
    found = _open_end(lines[-1], example) or _unlike_others(lines) or _in_a_sentence(lines[-1])
    return f"the output ends with {_tail(found)}" if found else ""


def _tail(line: str) -> str:
    words = " ".join(line.split())
    return f'"{words}"' if len(words) <= 40 else f'"…{words[-39:]}"'


def _empty_item(output: str) -> str:
    """The last item of a numbered list when it has a number, or a heading, and nothing else."""
    lines = [line for line in output.split("\n") if line.strip()]
    last = _EMPTY_ITEM.fullmatch(lines[-1])
    if last is None or int(last[1]) < 2:
        return ""
    filled = r"[^:：\n]{1,40}[:：].{8}" if last[2] else r"\S"
    before = rf"^\s*(?:\*\*)?{int(last[1]) - 1}[.)、]\s*{filled}"
    numbered = any(re.match(before, line) for line in lines[:-1])
    return f'the last item of the list is "{lines[-1].strip()}"' if numbered else ""


def _open_end(line: str, example: Example) -> str:
    """The line when its last word or sign cannot end anything."""
    if _FRAGMENT.search(example.instruction) and not _WIDE.search(line):
        return ""
    words = len(_WORD.findall(line))
    if words >= 6 and (_OPEN_WORD.search(line) or _WIDE_OPEN.search(line)):
        return line
    opened = max(line.rfind("("), line.rfind("（"))
    closed = max(line.rfind(")"), line.rfind("）"))
    smiley = opened and line[opened - 1 : opened] in ":;=-"
    return line if opened > closed and not smiley else ""


def _unlike_others(lines: Sequence[str]) -> str:
    """The last line when it alone of its kind, items or paragraphs, ends without a full stop."""
    last = lines[-1]
    item = bool(_ITEM.match(last))
    peers = [
        line
        for line in lines[:-1]
        if bool(_ITEM.match(line)) == item and len(_WORD.findall(line)) >= 6
    ]
    if len(peers) < MIN_PEERS or not all(map(_ENDED.search, peers)):
        return ""
    words = len(_WORD.findall(last))
    if words < (3 if item and len(peers) > MIN_PEERS else 6) or _SIGNED.search(last):
        return ""
    return last


def _in_a_sentence(line: str) -> str:
    """The rest of a line after its last full stop, when that is the beginning of a sentence."""
    item = _ITEM.match(line)
    text = line[item.end() :] if item else line
    breaks = list(_SENTENCE_BREAK.finditer(text))
    if not breaks:
        return _in_a_wide_sentence(text)
    rest = text[breaks[-1].end() :]
    if _SIGNED.search(rest) or not rest[:1].isupper() or re.search(r"\. ?[A-Z]\.?$", rest):
        return ""
    if len(breaks) == 1 and len(_WORD.findall(text[: breaks[0].start()])) < 5:
        return ""
    return rest


def _in_a_wide_sentence(text: str) -> str:
    """The same for a line in Chinese or Japanese."""
    head, stop, rest = text.rpartition("。")
    if not stop or len(_WIDE.findall(head)) < 20 or len(_WIDE.findall(rest)) < 4:
        return ""
    return "" if re.search(r"[#@=]|https?:|——", rest) else rest


_PAGES = ("html", "body", "script", "style", "svg", "table")


def _page(output: str) -> str:
    """A page, or a part of one, that is opened and not closed."""
    if "<" not in output:
        return ""
    low = output.lower()
    # Mentioned in a sentence, an element is opened and not closed, too.
    if not (low.startswith("<") or "```" in low) or low.count("</") < 3 or low.count("\n") < 5:
        return ""
    for name in _PAGES[:2] if "</html>" in low else _PAGES:
        opened = len(re.findall(rf"<{name}(?:\s[^>]*)?>", low))
        if opened > low.count(f"</{name}>"):
            return f"<{name}> is not closed"
    return ""


_STRINGS = re.compile(
    r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|`(?:\\.|[^`\\])*`'
    r"|/\*[\s\S]*?\*/|<!--[\s\S]*?-->"
)
# What begins a comment in one language is a sign in another: `#` and `//`, for example.
_COMMENTS = tuple(re.compile(mark) for mark in (r"$^", r"#.*", r"//.*", r"--.*", r"%.*"))
_CODE_START = re.compile(
    r"\s*(?:#include|#!|import |from \w|def |class |public |function |const |let |var |package |"
    r"using |"
    r"<\?php|\w+\s*=\s|SELECT |CREATE |//|/\*|\"\"\"|async |export |for |while |if |fn |func |@\w)",
)


def _program(output: str) -> str:
    """The bracket that an output which is nothing but code leaves open at its end."""
    if not _CODE_START.match(output) or output.count("\n") < 2:
        return ""
    bare = _STRINGS.sub("", output)
    if re.search(r"[\"'`]", bare):
        return ""  # a quote inside a comment or a regular expression: brackets cannot be told
    for opening, closing in ("()", "[]", "{}"):
        depths = []
        for comment in _COMMENTS:
            text = comment.sub("", bare)
            depths.append(text.count(opening) - text.count(closing))
        if min(depths) > 0:
            return f'a "{opening}" in the output is not closed'
    last = output.rsplit("\n", 1)[-1]
    if re.match(r"\s*(?:def|class|for|while|if|elif|else|try|except|with)\b.*:$", last):
        return f"the output ends with {_tail(last)}"
    return ""


_CODE_SIGN = re.compile(r"[{}=<>|\\]|^\s{4,}\S|\b[a-z_]\w*\(\S")


def _looks_like_code(lines: Sequence[str]) -> bool:
    """Whether the end of an output is code, a table or markup instead of sentences."""
    return _CODE_SIGN.search(lines[-1]) is not None
