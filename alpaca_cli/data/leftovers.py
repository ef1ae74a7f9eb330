"""What is left of a prompt, of its form or of another task inside the text of a task.

Three kinds: marks of prompt and chat formats, a second task in a field of the first, and lines of
the prompt itself. Each is reported only when nobody writes it on purpose: a program's "## Output:"
heading and a template that somebody asked for stay. Splitting replies into tasks is the business
of `alpaca_cli.data.parsing`; what gets here was read as one task.
"""

from __future__ import annotations

import re

from alpaca_cli.core.records import Example
from alpaca_cli.data.rouge import tokenize

# What prompts and chat formats leave behind when a reply is cut in the wrong place.
_MARKER = re.compile(
    r"""^[ \t]*\#{2,}[ \t]*(?:Instruction|Response)s?[ \t]*:              # Alpaca
      | \A\s*\#{2,}[ \t]*(?:Input|Output)s?[ \t]*:                        # a heading further down
      | \A\s*\#{2,}[ \t]*(?:指令|输入|输出|回答|响应)[ \t]*[:：]            # is also a program's
      | ^\#{3}\s*\Z                                                       # between two tasks
      | <no[ _]?input>
      | <\|[A-Za-z0-9_]{2,32}\|>                                          # ChatML, Llama 3, GPT
      | \A<s>(?!.*</s>) | (?<!\S)</s>\s*\Z | \[/?INST\] | <</?SYS>>        # Llama 2
      | <(?:start|end)_of_turn>                                           # Gemma
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)


def leftover_marker(text: str) -> str:
    """A mark of a prompt or chat format in the text; empty when there is none."""
    if not ("#" in text or "<" in text or "[" in text):
        return ""  # every mark has one of these, and looking for them is a hundred times faster
    found = _MARKER.search(text)
    return found[0] if found else ""


_LABEL = re.compile(
    r"^[ \t#*]{0,8}(\d{1,4})[.)][ \t]{0,4}\**(Instruction|Input|Output)\**[ \t]?:",
    re.IGNORECASE | re.MULTILINE,
)
_BARE_LABEL = re.compile(
    r"^[ \t#*]{0,8}(Instruction|Output|Response)[ \t]?\**:", re.IGNORECASE | re.MULTILINE
)
_KEY = re.compile(r"[{,]\s*\\?\"(instruction|output)\\?\"\s*:\s*\\?\"", re.IGNORECASE)
# Tasks whose answers have such labels and keys of their own.
_ABOUT_RECORDS = re.compile(
    r"\b(?:prompts?|templates?|json|yaml|data ?sets?|training|fine-?tun\w*|few-shot|labels?|"
    r"instructions?|assembl[yer]+|opcodes?|processor|cpu|schema)\b|模板|提示|数据集|指令|训练",
    re.IGNORECASE,
)


def merged_record(text: str, question: str) -> str:
    """The label at which a second task begins inside a field; empty when there is none.

    Args:
        question: the task's instruction, which may ask for such labels: then nothing is merged.
    """
    lower = text.lower()
    if ":" not in text or not ("instruction" in lower or "output" in lower):
        return ""  # one of the two is in every second task
    found = _numbered_record(text) or _second(_BARE_LABEL, text) or _second(_KEY, text)
    return "" if found and _ABOUT_RECORDS.search(question) else found


def _numbered_record(text: str) -> str:
    """`7. Instruction:`, or the labels `7. Input:` and `7. Output:` of one number.

    A list with the items "1. Input: a key" and "2. Output: a letter" is a list.
    """
    inputs: set[str] = set()
    for label in _LABEL.finditer(text):
        name = label[2].lower()
        if name == "instruction" or (name == "output" and label[1] in inputs):
            return label[0].strip()
        if name == "input":
            inputs.add(label[1])
    return ""


def _second(pattern: re.Pattern[str], text: str) -> str:
    """An instruction's label or key with an output's after it."""
    start = ""
    for label in pattern.finditer(text):
        if label[1].lower() == "instruction":
            start = start or label[0].strip()
        elif start:
            return start
    return ""


MIN_LINE_WORDS = 6  # of a line of the prompt that nobody writes by chance
_PLACE = re.compile(r"\{\{.*?\}\}|…")


def prompt_lines(prompt: str) -> tuple[str, ...]:
    """The pieces of a prompt whose appearance in a task shows that they were copied from there.

    A piece is a line, or what stands between the places to fill in, without its number or bullet.
    """
    pieces = [piece.strip() for line in prompt.splitlines() for piece in _PLACE.split(line)]
    bare = [re.sub(r"^(?:\d{1,3}[.)]|[-*•])\s+", "", piece) for piece in pieces]
    return tuple(
        dict.fromkeys(piece for piece in bare if len(tokenize(piece, "unicode")) >= MIN_LINE_WORDS)
    )


# Instructions that ask for instructions: the job of the teacher, not of the assistant.
_META = re.compile(
    r"\b(?:write|generate|create|produce|come up with|compose)\b[^.?!\n]{0,30}?\b"
    r"(?:\d+|several|some|a (?:set|list|series|batch|number) of)\b[^.?!\n]{0,20}?\b(?:new|diverse|"
    r"different|training)\b[^.?!\n]{0,20}?\b(?:tasks?|instructions?)\b[^.?!\n]{0,20}?\b(?:for|to "
    r"(?:train|teach|tune|evaluate|instruct))\b[^.?!\n]{0,40}?\b(?:AI|assistant|language model|"
    r"LLM|GPT)\b"
    r"|\bdiverse task instructions\b|\btasks in the same form, different from all of the above\b",
    re.IGNORECASE,
)


def prompt_echo(example: Example, lines: tuple[str, ...]) -> str:
    """What of the prompt came back as a task: the copied piece, or the wish for such tasks.

    Args:
        lines: of `prompt_lines`.
    """
    if lines:
        text = f"{example.instruction}\n{example.input}\n{example.output}"
        for line in lines:
            if line in text:
                return line
    found = _META.search(example.instruction)
    return found[0] if found else ""
