"""From the text of a reply to the tasks in it, one by one, whole or with what is wrong with them.

Whatever form was asked for, both are understood: JSON (fenced, with text around it, one object a
line, broken in the middle, cut at the end) and labelled text (numbers restarted, skipped or
absent, `###` between tasks or not, bold labels, other names of the fields). Three promises: never
an exception, never a task that the teacher did not write, never two tasks in one. Where the text
leaves doubt, the candidate is returned with a fault, for the caller to reject and count.

Here is decided what of a reply is the answer, and in which form it is; the forms themselves are
read by `alpaca_cli.data.parsing_json` and `alpaca_cli.data.parsing_text`. What makes a whole task
good is not known here (`alpaca_cli.data.filters`), nor which tasks the prompt has shown: examples
that a teacher repeats are tasks, for the check for novelty to find.
"""

from __future__ import annotations

import json
import re

from alpaca_cli.data.candidates import FIELDS, Candidate, Fault, excerpt
from alpaca_cli.data.parsing_json import find_json, json_candidates
from alpaca_cli.data.parsing_text import begins_with_label, find_labels, text_candidates

__all__ = ["CUT", "FIELDS", "Candidate", "Fault", "parse_reply"]
CUT = frozenset({"length", "max_tokens", "content_filter"})


def parse_reply(text: str, finish_reason: str | None = None, opening: str = "") -> list[Candidate]:
    """The tasks of a reply in their order; at least one candidate, be it an unparsable one.

    Args:
        finish_reason: as the endpoint gave it; `length` and its like mean that the last task of a
            text reply is cut off.
        opening: the beginning of the first task that stood in the prompt already.
    """
    cut = finish_reason in CUT
    body = _encoded_once(_answer(text.replace("\r\n", "\n")))
    if opening and body and body[0] not in "{[`" and not begins_with_label(body):
        body = f"{opening} {body}"
    found: list[Candidate] = []
    start, labelled = find_json(body), find_labels(body)
    if start is not None and not (labelled is not None and labelled.surely_before(start)):
        found, end = json_candidates(body, start, cut)
        body = body[end:]
        labelled = find_labels(body)
    if labelled is not None:
        found += text_candidates(body, labelled, cut)
    if found:
        return found
    detail = f"finish_reason {finish_reason}: {excerpt(text)}"
    return [Candidate(fault="unparsable", detail=detail)]


# --- what of a reply is the answer --------------------------------------------------------------

_TAGS = r"think|thinking|thought|reasoning|analysis|reflection|scratchpad"
_THOUGHT = re.compile(rf"\s*(?:<(?:{_TAGS})>|\[THINK\])", re.IGNORECASE)
_THOUGHT_OVER = re.compile(rf"</(?:{_TAGS})>|\[/THINK\]", re.IGNORECASE)
# Templates that open a thought in the prompt leave only its end in the reply.
_THOUGHT_END = re.compile(r"^[ \t]*</think(?:ing)?>|</think(?:ing)?>[ \t]*$", re.MULTILINE)
_THOUGHT_BEGUN = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
# The channels of gpt-oss, with its special tokens and with those lost.
_FINAL = re.compile(r"<\|channel\|>final[^<\n]{0,80}<\|message\|>|assistantfinal")
_CHANNELS = re.compile(r"<\|(?:channel|start)\|>|analysis(?=[A-Z])")
_WRAP = re.compile(r"<(answer|response|final_answer|result|tasks)>", re.IGNORECASE)
_END_MARK = re.compile(r"(?:<\|[A-Za-z0-9_]{2,32}\|>|</s>|<end_of_turn>)\s*\Z")


def _answer(text: str) -> str:
    """The reply without the reasoning, the chat marks and the tags that servers leave around it."""
    text = text.strip("\ufeff\u200b \t\r\n")
    begin, end = 0, len(text)
    if _CHANNELS.match(text):
        final = _FINAL.search(text)
        begin = final.end() if final else end
    while _THOUGHT.match(text, begin):
        over = _THOUGHT_OVER.search(text, begin)
        begin = over.end() if over else end
    orphan = _THOUGHT_END.search(text, begin)
    if orphan and not _THOUGHT_BEGUN.search(text, begin, orphan.start()):
        begin = orphan.end()
    while mark := _END_MARK.search(text, max(begin, end - 40), end):
        end = mark.start()
    text = text[begin:end].strip()
    if wrap := _WRAP.match(text):
        text = text[wrap.end() :].removesuffix(f"</{wrap[1]}>").strip()
    return text


_ENCODED_TWICE = re.compile(r'(?:```\w{0,10}\s{0,4})?"?(?=(?:\\[nrt]|\s|[\[{]){1,40}\\")')
_STRING_PART = re.compile(r'(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*+')


def _encoded_once(text: str) -> str:
    """The JSON inside a JSON string, or the text itself when it is none."""
    begin = _ENCODED_TWICE.match(text)
    if begin is None:
        return text
    inside = _STRING_PART.match(text, begin.end())
    try:
        decoded = json.loads(f'"{inside[0]}"', strict=False) if inside else text
    except ValueError:
        return text
    return str(decoded).lstrip()
