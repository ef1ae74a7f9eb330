"""The embedded teacher: answers a request's text as a language model would, with computed tasks.

It reads what a model reads, the text, and finds in it how many tasks are asked for and in which
form; the text is also the source of its randomness, so the same request gets the same reply. Now
and then it makes a mistake that models make, so that parser and filters have real work: every
mistake is one that can be told from the reply alone, so no wrong answer ever passes for a right
one.

The tasks themselves are `alpaca_cli.data.procedural`'s.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from random import Random

from alpaca_cli.core.records import Example
from alpaca_cli.data.procedural import draw
from alpaca_cli.data.prompts import NO_INPUT, SEPARATOR
from alpaca_cli.data.teacher import Reply

_ASKED = re.compile(r"(?:Write|the last) (\d+) new tasks")
_CONTINUED = re.compile(r"^(\d+)\. Instruction:\Z", re.MULTILINE)
MISTAKES = ("repeat", "no output", "empty output", "placeholder", "cut")


@dataclass(frozen=True, slots=True)
class Written:
    """A reply, and the tasks that went into it as they were before any mistake."""

    reply: Reply
    tasks: tuple[Example, ...]


def reply(text: str, mistakes: float, families: Sequence[str]) -> Reply:
    """The reply to a request's text.

    Args:
        mistakes: share of tasks with a mistake.
        families: names of those to draw from.
    """
    return write(text, mistakes, families).reply


def write(text: str, mistakes: float, families: Sequence[str]) -> Written:
    """As `reply`, together with what it was made of."""
    rng = Random(sha256(text.encode()).digest())
    asked = _ASKED.findall(text)
    wrong: dict[int, str] = {}
    tasks: list[Example] = []
    for number in range(int(asked[-1]) if asked else 1):
        task = draw(rng, rng.choice(families))
        tasks.append(Example(task.instruction, task.input, task.output))
        if rng.random() < mistakes:
            wrong[number] = rng.choice(MISTAKES)
    cut_at = next((number for number, mistake in wrong.items() if mistake == "cut"), None)
    if cut_at is not None:
        tasks = tasks[: cut_at + 1]
    written = [_spoilt(task, wrong.get(i, ""), tasks[i - 1]) for i, task in enumerate(tasks)]
    body = _rendered(written, text)
    if cut_at is not None:
        body = body[: (len(_rendered(written[:-1], text)) + len(body)) // 2]
    finish_reason = "stop" if cut_at is None else "length"
    return Written(Reply(body, finish_reason, "procedural"), tuple(tasks))


Fields = dict[str, str]


def _spoilt(task: Example, mistake: str, before: Example) -> Fields:
    """The task's fields with the mistake made; `before` is an earlier task of the same reply."""
    if mistake == "repeat":
        task = before
    elif mistake == "empty output":
        task = replace(task, output="")
    elif mistake == "placeholder":
        task = replace(task, input="[insert text here]")
    fields = {"instruction": task.instruction, "input": task.input, "output": task.output}
    if mistake == "no output":
        del fields["output"]
    return fields


def _rendered(tasks: list[Fields], request: str) -> str:
    """The tasks in the form that the request asks for."""
    if continued := _CONTINUED.search(request):
        # A base model goes on after "4. Instruction:", so the first label is in the prompt.
        return _as_text(tasks, int(continued[1])).removeprefix(continued[0])
    if '{"tasks":' not in request:
        return _as_text(tasks, 1)
    rows = ",\n".join(json.dumps(task, ensure_ascii=False) for task in tasks)
    return '{"tasks": [\n' + rows + "\n]}"


def _as_text(tasks: list[Fields], first: int) -> str:
    parts = []
    for number, task in enumerate(tasks, first):
        lines = [
            f"{number}. Instruction: {task['instruction']}",
            f"{number}. Input:\n{task['input'] or NO_INPUT}",
        ]
        if "output" in task:
            lines.append(f"{number}. Output:\n{task['output']}")
        parts.append("\n".join(lines))
    return f"\n{SEPARATOR}\n".join(parts)
