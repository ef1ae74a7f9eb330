"""The requests sent to a teacher: rules, demonstrations, and how many new tasks to write.

Request n is a pure function of (recipe, n, demonstrations, mode of asking): no clock and no shared
random state has a say, so a run can be cut anywhere and go on with the same requests. The part
that never changes comes first, where prompt caches of providers and servers find it.

How a request travels is the teacher's business, what comes back is `alpaca_cli.data.parsing`'s;
which demonstrations are shown, `alpaca_cli.data.demonstrations`'.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from alpaca_cli.core.records import Example
from alpaca_cli.core.settings_generate import Generate, OpenAITeacher
from alpaca_cli.data.prompt_file import PromptText, fill, load_prompt
from alpaca_cli.data.spending import Most

Mode = Literal["json_schema", "json_object", "json", "text", "completion"]
SEPARATOR = "###"
NO_INPUT = "<noinput>"

# What a protocol tries, best first. JSON costs fewer tokens a task than numbered text, and is the
# form in which a task cannot run into the next.
MODES: Mapping[str, tuple[Mode, ...]] = {
    "auto": ("json_schema", "json_object", "text"),
    "chat-json": ("json_schema", "json_object", "json"),
    "chat-text": ("text",),
    "completion": ("completion",),
}
SMALLEST = 4  # how often a request that does not fit the context is made smaller

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

_TASK = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("instruction", "input", "output")},
    "required": ["instruction", "input", "output"],
    "additionalProperties": False,
}
# The subset of JSON Schema that every provider takes: no bounds, everything required.
SCHEMA = {
    "type": "object",
    "properties": {"tasks": {"type": "array", "items": _TASK}},
    "required": ["tasks"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Request:
    """What is asked of a teacher, as plain data.

    Attributes:
        n: position in the run, from 0.
        tasks: how many new tasks are asked for.
        demonstrations: ids of the tasks shown.
        body: mode, model, messages or prompt, and sampling. It determines the reply's
            distribution; where it is sent and how often is not part of it.
        opening: what the end of the prompt has begun and the reply only continues.
        shrink: how often it was made smaller to fit the context.
        note: what the journal keeps of the request beside its hash.
    """

    n: int
    tasks: int
    demonstrations: tuple[str, ...]
    body: Mapping[str, Any]
    opening: str = ""
    shrink: int = 0
    note: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mode(self) -> Mode:
        mode: Mode = self.body["mode"]
        return mode

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

    @cached_property
    def most(self) -> Most:
        """The most that one attempt can be billed for.

        A token is at least one byte of the prompt; the few that a chat template adds are far
        fewer than the bytes that longer tokens save. Endpoints count the schema, too.
        """
        schema = len(json.dumps(SCHEMA)) if self.mode == "json_schema" else 0
        return Most(len(self.text.encode()) + schema, self.body.get("max_output_tokens", 0))

    @property
    def likely_prompt_tokens(self) -> int:
        """A guess for plans and quotas: four bytes are a token."""
        return self.most.prompt // 4


class RequestBuilder:
    """Builds the requests of a run.

    Args:
        settings: the recipe's `generate` section.

    Attributes:
        modes: the modes of asking that the protocol allows, best first.

    Raises:
        UsageError: the recipe's prompt file cannot be used.
    """

    def __init__(self, settings: Generate) -> None:
        self._tasks = settings.tasks_per_request
        self._sampling = _sampling(settings)
        teacher = settings.teacher
        self.modes: tuple[Mode, ...] = ("json",)
        if isinstance(teacher, OpenAITeacher):
            self.modes = MODES[teacher.protocol]
        self._own: PromptText | None = None
        if settings.prompt != "default":
            wanted = settings.demonstrations
            self._own = load_prompt(Path(settings.prompt), wanted.seed + wanted.pool > 0)

    def __call__(
        self, n: int, shown: Sequence[Example], mode: Mode | None = None, shrink: int = 0
    ) -> Request:
        """Request n.

        Args:
            shown: its demonstrations, each with an id.
            mode: how tasks are asked for; the best mode when not given.
            shrink: 0, or how often the request was too long for the context: half the tasks and
                half the room for the reply each time; see `fewer` for the demonstrations.
        """
        mode = mode or self.modes[0]
        tasks = max(1, self._tasks >> shrink)
        sampling = dict(self._sampling)
        if "max_output_tokens" in sampling:
            sampling["max_output_tokens"] = max(1, sampling["max_output_tokens"] >> shrink)
        opening = ""
        if mode == "completion":
            prompt = self._document(shown, tasks)
            last = len(shown) + tasks
            # Not "\n21." alone, which stands inside answers with numbered lists, too.
            stop = [f"\n{SEPARATOR}\n{last + 1}.", f"\n{last + 1}. Instruction"]
            body: dict[str, Any] = {"prompt": prompt, "stop": stop}
            begun = _BEGUN.search(prompt)
            opening = begun[0] if begun else ""
        else:
            body = {"messages": self._messages(shown, tasks, mode)}
        names = tuple(str(example.id) for example in shown)
        return Request(n, tasks, names, {"mode": mode} | sampling | body, opening, shrink)

    def wording(self) -> str:
        """A short digest of everything said: journals made with another one are not continued."""
        example = Example("instruction", "input", "output")
        said = [self._messages([example], 2, mode) for mode in ("json", "text")]
        text = json.dumps([said, self._document([example], 2), SCHEMA])
        return sha256(text.encode()).hexdigest()[:12]

    @property
    def rules(self) -> str:
        """What the teacher is told beside the demonstrations; no candidate may repeat it."""
        if self._own is not None:
            return f"{self._own.system}\n{self._own.user}"
        return f"{RULES}\n{JSON_FORM}\n{TEXT_FORM}"

    def _messages(self, shown: Sequence[Example], tasks: int, mode: Mode) -> list[dict[str, str]]:
        json_form = mode != "text"
        form = JSON_FORM if json_form else TEXT_FORM
        given = render_json(shown) if json_form else render_text(shown)
        if self._own is not None:
            system, user = self._filled(self._own, shown, tasks, given, form)
        else:
            system, user = f"{RULES}\n\n{form}", _wish(given if shown else "", tasks)
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": user}]

    def _document(self, shown: Sequence[Example], tasks: int) -> str:
        """One text for a base model to go on with; ends where a new task begins."""
        given = render_text(shown)
        if self._own is not None:
            parts = self._filled(self._own, shown, tasks, given, TEXT_FORM)
            return "\n\n".join(filter(None, parts))
        listed = f"{given}\n{SEPARATOR}\n" if shown else ""
        return (
            f"{RULES}\n\n{TEXT_FORM}\n\n"
            f"List of {len(shown) + tasks} tasks, the last {tasks} new tasks unlike those before:"
            f"\n\n{listed}{len(shown) + 1}. Instruction:"
        )

    def _filled(
        self, prompt: PromptText, shown: Sequence[Example], tasks: int, given: str, form: str
    ) -> tuple[str, str]:
        values = {
            "tasks": str(tasks),
            "demonstrations": given if shown else "",
            "form": form,
            "next": str(len(shown) + 1),
            "total": str(len(shown) + tasks),
        }
        return fill(prompt.system, values), fill(prompt.user, values)


def fewer(shown: Sequence[Example], shrink: int) -> Sequence[Example]:
    """The demonstrations of a request that was made smaller: one fewer each time."""
    return shown[: max(0, len(shown) - shrink)]


_BEGUN = re.compile(r"^\d+\. Instruction:\Z", re.MULTILINE)


def _sampling(settings: Generate) -> dict[str, Any]:
    teacher = settings.teacher
    if not isinstance(teacher, OpenAITeacher):
        return {"model": teacher.kind}
    return {
        "model": teacher.model,
        "temperature": teacher.temperature,
        "top_p": teacher.top_p,
        "max_output_tokens": teacher.max_output_tokens,
        # A null takes back what an extended recipe has set.
        "extra_body": {name: v for name, v in teacher.extra_body.items() if v is not None},
    }


def _wish(given: str, tasks: int) -> str:
    if not given:
        return f"Write {tasks} new tasks in that form."
    return (
        f"Examples:\n\n{given}\n\n"
        f"Write {tasks} new tasks in the same form, different from all of the above."
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
