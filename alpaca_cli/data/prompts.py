"""The requests sent to a teacher: rules, demonstrations, and how many new tasks to write.

Request n is a pure function of (recipe, n, seeds): nothing that happened in a run, no clock and no
shared random state has a say, so a run can be cut anywhere and go on with the same requests. The
part that never changes comes first, where prompt caches of providers and servers find it.

How a request travels is the teacher's business, what comes back is `alpaca_cli.data.parsing`'s.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, sha256
from typing import Any, Literal

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher

Form = Literal["json", "text"]
SEPARATOR = "###"
NO_INPUT = "<noinput>"

RULES = """\
You write training tasks for an assistant that follows instructions in text.
A task has three parts:
- instruction: what a user asks for, in one or two sentences, as a command or a question.
- input: the concrete material that the instruction works on (a text, a list, a record, a \
snippet), realistic and complete, at most about 100 words. About two in three tasks need none, \
because the instruction says everything.
- output: the answer an expert would be content with: correct, complete, to the point, and seldom \
longer than 100 words unless the task asks for more.

Rules for the tasks:
1. Make them different from each other and from the examples: other verbs, other subjects, other \
kinds of text, other lengths.
2. Mix kinds: open questions, writing, rewriting, summaries, classification, extraction, \
brainstorming, planning, reasoning, arithmetic, code, formatting, advice, role play.
3. Mix imperative sentences and questions, plain wishes and precise specifications.
4. A task must be solvable in text alone: no images, sound, files, web pages, and nothing that \
needs today's date, live data or an action in the world.
5. No placeholders such as [insert text] or <your name>, and no reference to material that is \
not given.
6. Write in the language of the examples (English when there are none), unless a task is about \
another language.
7. Never refuse inside an output, and never mention that you are a model."""

JSON_FORM = (
    'Reply with one JSON object and nothing else: {"tasks": [{"instruction": "…", "input": "…", '
    '"output": "…"}, …]}. All three values are strings; "input" is "" when the task needs none.'
)
TEXT_FORM = f"""\
Write every task in this form, numbered, with a line {SEPARATOR} between tasks, and nothing else; \
write {NO_INPUT} where a task needs no input:
1. Instruction: …
1. Input:
…
1. Output:
…"""


@dataclass(frozen=True)
class Request:
    """What is asked of a teacher, as plain data.

    Attributes:
        n: position in the run, from 0.
        tasks: how many new tasks are asked for.
        demonstrations: ids of the seed tasks shown.
        body: protocol, model, messages or prompt, and sampling. It determines the reply's
            distribution; where it is sent and how often is not part of it.
        opening: what the end of the prompt has begun and the reply only continues.
    """

    n: int
    tasks: int
    demonstrations: tuple[str, ...]
    body: Mapping[str, Any]
    opening: str = ""

    @cached_property
    def hash(self) -> str:
        """sha256 of the body as canonical JSON: the same hash, the same request."""
        canonical = json.dumps(self.body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return sha256(canonical.encode()).hexdigest()

    @property
    def text(self) -> str:
        """Everything that the teacher reads."""
        if "prompt" in self.body:
            return str(self.body["prompt"])
        return "\n\n".join(message["content"] for message in self.body["messages"])


class RequestBuilder:
    """Builds request n of a run.

    Args:
        settings: the recipe's `generate` section.
        seed: the recipe's `seed`.
        seeds: the seed tasks, each with its own id.
    """

    def __init__(self, settings: Generate, seed: int, seeds: Sequence[Example]) -> None:
        self._settings, self._seed, self._seeds = settings, seed, seeds
        self._sampling = _sampling(settings)

    def __call__(self, n: int) -> Request:
        shown = self._demonstrations(n)
        tasks = self._settings.tasks_per_request
        protocol = self._sampling["protocol"]
        opening = ""
        if protocol == "completion":
            opening = f"{len(shown) + 1}. Instruction:"
            prompt = _document(shown, tasks) + opening
            last = len(shown) + tasks
            # Not "\n21." alone, which stands inside answers with numbered lists, too.
            stop = [f"\n{SEPARATOR}\n{last + 1}.", f"\n{last + 1}. Instruction"]
            body: dict[str, Any] = {"prompt": prompt, "stop": stop}
        else:
            form: Form = "text" if protocol == "chat-text" else "json"
            body = {"messages": _messages(shown, tasks, form)}
        identifiers = tuple(str(example.id) for example in shown)
        return Request(n, tasks, identifiers, self._sampling | body, opening)

    def _demonstrations(self, n: int) -> list[Example]:
        """The seeds that rank first by a hash of (seed, n, id).

        A hash, and not `random.sample`, because its order is the same in every Python version.
        """

        def rank(example: Example) -> bytes:
            return blake2b(f"{self._seed}:{n}:{example.id}".encode(), digest_size=8).digest()

        return heapq.nsmallest(self._settings.demonstrations.seed, self._seeds, key=rank)


def prompt_version() -> str:
    """A short digest of the wording: journals made with another one cannot be continued."""
    example = Example("instruction", "input", "output")
    forms = [_messages([example], 2, "json"), _messages([example], 2, "text")]
    return sha256(json.dumps([forms, _document([example], 2)]).encode()).hexdigest()[:12]


def _sampling(settings: Generate) -> dict[str, Any]:
    teacher = settings.teacher
    if not isinstance(teacher, OpenAITeacher):
        return {"protocol": "auto", "model": teacher.kind}
    return {
        "protocol": teacher.protocol,
        "model": teacher.model,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        "max_output_tokens": teacher.max_output_tokens,
        # A null takes back what an extended recipe has set.
        "extra_body": {name: v for name, v in teacher.extra_body.items() if v is not None},
    }


def _messages(shown: Sequence[Example], tasks: int, form: Form) -> list[dict[str, str]]:
    how = JSON_FORM if form == "json" else TEXT_FORM
    wish = f"Write {tasks} new tasks in the same form, different from all of the above."
    if shown:
        given = render_json(shown) if form == "json" else render_text(shown)
        wish = f"Examples:\n\n{given}\n\n{wish}"
    else:
        wish = wish.replace("in the same form, different from all of the above", "in that form")
    return [
        {"role": "system", "content": f"{RULES}\n\n{how}"},
        {"role": "user", "content": wish},
    ]


def _document(shown: Sequence[Example], tasks: int) -> str:
    """One text for a base model to go on with; ends where a new task begins."""
    given = f"{render_text(shown)}\n{SEPARATOR}\n" if shown else ""
    return (
        f"{RULES}\n\n{TEXT_FORM}\n\n"
        f"List of {len(shown) + tasks} tasks, the last {tasks} new tasks unlike those before:\n\n"
        f"{given}"
    )


def render_json(tasks: Sequence[Example]) -> str:
    """Tasks in the JSON form of a reply, one task a line."""
    rows = [
        json.dumps(
            {"instruction": task.instruction, "input": task.input, "output": task.output},
            ensure_ascii=False,
        )
        for task in tasks
    ]
    return '{"tasks": [\n' + ",\n".join(rows) + "\n]}"


def render_text(tasks: Sequence[Example], first: int = 1) -> str:
    """Tasks in the numbered text form of a reply, counted from `first`."""
    return f"\n{SEPARATOR}\n".join(
        f"{number}. Instruction: {task.instruction}\n"
        f"{number}. Input:\n{task.input or NO_INPUT}\n"
        f"{number}. Output:\n{task.output}"
        for number, task in enumerate(tasks, first)
    )
