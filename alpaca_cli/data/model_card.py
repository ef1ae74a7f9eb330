"""The model card (README.md): what a model is made of, what was measured, how it is asked.

Facts come in, Markdown with a hub's YAML front matter goes out. What is not known is said to be
unknown, and no licence is named that a person did not name. Where facts come from is not known
here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from alpaca_cli.core.template import PromptTemplate

FILE_NAME = "README.md"
UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a model; None and empty where it is not.

    Attributes:
        base: what it was tuned from, as people call it; `base_id` when that is a hub id.
        scratch: it was trained from random weights.
        data: sentences on the training data.
        datasets: hub ids of it.
        languages: ISO 639-1 codes of the training data, most frequent first.
        recipe: hyper-parameter -> value.
        training: what came of it -> value.
        figures: rows of (what was measured, on what, value, 95 % interval).
        terms: sentences on whose terms may apply to the data.
    """

    base: str | None = None
    base_id: str | None = None
    scratch: bool = False
    parameters: int | None = None
    data: Sequence[str] = ()
    datasets: Sequence[str] = ()
    languages: Sequence[str] = ()
    recipe: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, str] = field(default_factory=dict)
    figures: Sequence[Sequence[str]] = ()
    terms: Sequence[str] = ()

    def to_json(self) -> dict[str, Any]:
        """A value for JSON; `facts_from_json` is the inverse."""
        return asdict(self)


def facts_from_json(value: Mapping[str, Any]) -> Facts:
    """Facts that were stored; TypeError when they are none."""
    return Facts(**value)


@dataclass(frozen=True, slots=True)
class Form:
    """How the model lies in its folder.

    Attributes:
        name: what to call it.
        kind: a whole model, an adapter for one, or a difference to one.
        dtype: of the weights.
        renders: the tokenizer's chat template makes the model's prompt.
        notes: what the export did to it.
        gguf: name of a GGUF file in the folder.
    """

    name: str
    kind: Literal["model", "adapter", "weight diff"]
    dtype: str
    template: PromptTemplate | None
    renders: bool = True
    notes: Sequence[str] = ()
    gguf: str | None = None
    ollama: bool = False


def model_card(facts: Facts, form: Form, license: str | None) -> str:
    """The text of README.md."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=facts.base_id,
        datasets=list(facts.datasets) or None,
        language=list(facts.languages) or None,
        library_name="peft" if form.kind == "adapter" else "transformers",
        license=license,
        pipeline_tag="text-generation",
        tags=["alpaca", "instruction-tuning"],
    )
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {form.name}\n",
        _what(facts, form),
        _data(facts),
        _table("Training", {**facts.recipe, **facts.training}, "How it was trained is unknown."),
        _figures(facts),
        _limits(facts),
        _use(facts, form),
        _licence(facts, license),
    ]
    return "\n".join(part for part in parts if part)


def _what(facts: Facts, form: Form) -> str:
    if facts.scratch:
        origin = "trained from random weights on instructions"
    else:
        origin = f"tuned on instructions from {_code(facts.base)}"
    size = f" with {facts.parameters:,} parameters" if facts.parameters else ""
    what = {
        "model": f"A language model{size}, {origin}.",
        "adapter": f"An adapter for {_code(facts.base)}, which is needed to use it.",
        "weight diff": f"The difference between {_code(facts.base)} and a model that was {origin}. "
        "It is no model by itself.",
    }[form.kind]
    notes = "".join(f"- {note}\n" for note in form.notes)
    return f"{what} Weights are stored in {form.dtype}.\n{notes and chr(10)}{notes}"


def _data(facts: Facts) -> str:
    lines = [f"- {line}" for line in facts.data] or ["What it was trained on is unknown."]
    languages = ", ".join(facts.languages) or UNKNOWN
    return "## Training data\n\n" + "\n".join(lines) + f"\n\nLanguages: {languages}.\n"


def _table(title: str, rows: Mapping[str, str], otherwise: str) -> str:
    if not rows:
        return f"## {title}\n\n{otherwise}\n"
    body = "".join(f"| {_cell(key)} | {_cell(value)} |\n" for key, value in rows.items())
    return f"## {title}\n\n| | |\n|---|---|\n{body}"


def _figures(facts: Facts) -> str:
    if not facts.figures:
        return "## Evaluation\n\nNo figures of this model are known.\n"
    head = "| what | on | value | 95 % interval |\n|---|---|---|---|\n"
    rows = "".join("| " + " | ".join(map(_cell, row)) + " |\n" for row in facts.figures)
    return (
        f"## Evaluation\n\n{head}{rows}\nMeasured before this export, with greedy answers. "
        "Exact match and ROUGE-L say whether an answer is the reference, not whether it is good.\n"
    )


def _limits(facts: Facts) -> str:
    return (
        "## Limits\n\nThe model may state what is false, repeat prejudices of its training data, "
        "and follow harmful instructions: it was not trained to refuse them, and nothing filters "
        "its answers. It was tuned on single exchanges of instruction and answer"
        + (", and beyond its training tasks it answers nonsense" if facts.scratch else "")
        + ". Its safety was not measured.\n"
    )


def _use(facts: Facts, form: Form) -> str:
    name = shlex.quote(form.name)
    if form.kind == "weight diff":
        base = facts.base_id or "BASE"
        return (
            "## How to use\n\nThe model comes back bit for bit from this folder and the very base "
            "that it was made from; every tensor is checked by its sha256:\n\n"
            f"```\nalpaca export {name} recovered --recover {base}\n```\n"
        )
    lines = [f"## How to use\n\n```\nalpaca chat {name}\n```\n"]
    if form.template is None:
        lines.append("Its prompt template is unknown.\n")
    else:
        lines += [_prompt_section(form.template, form.renders), _snippet(form)]
    if form.gguf:
        lines.append(f"llama.cpp: `llama-cli -m {form.gguf}`.\n")
    if form.ollama:
        lines.append(f"Ollama: `ollama create {name.lower()} -f Modelfile` in this folder.\n")
    return "\n".join(lines)


def _prompt_section(template: PromptTemplate, renders: bool) -> str:
    if template.chat_template:
        return "The prompt is the tokenizer's chat template.\n"
    return (
        f"The prompt is the {template.name} template; the answer follows it directly. Without and "
        f"with an input:\n\n````\n{template.without_input}\n````\n\n"
        f"````\n{template.with_input}\n````\n\n"
        + (
            "The tokenizer's chat template renders it, so that servers such as vLLM and "
            "`transformers serve` need no setting.\n"
            if renders
            else "The tokenizer's chat template is another one: do not use it.\n"
        )
    )


def _snippet(form: Form) -> str:
    auto = "AutoPeftModelForCausalLM" if form.kind == "adapter" else "AutoModelForCausalLM"
    library = "peft" if form.kind == "adapter" else "transformers"
    imports = {
        "peft": f"from peft import {auto}\nfrom transformers import AutoTokenizer",
        "transformers": f"from transformers import {auto}, AutoTokenizer",
    }[library]
    asked = "List three animals that live in the sea."
    if form.renders:
        inputs = f"""messages = [{{"role": "user", "content": "{asked}"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")"""
    else:
        assert form.template is not None
        inputs = f"""prompt = {form.template.prompt(asked)!r}
inputs = tokenizer(prompt, return_tensors="pt")"""
    return f"""```python
{imports}

tokenizer = AutoTokenizer.from_pretrained("{form.name}")
model = {auto}.from_pretrained("{form.name}")
{inputs}
output = model.generate(**inputs, max_new_tokens=256)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```
"""


def _licence(facts: Facts, license: str | None) -> str:
    said = f"Licence: {license}." if license else "No licence is stated for this model."
    terms = [
        *([f"The terms of its base model, {facts.base}, apply."] if facts.base else []),
        *facts.terms,
    ]
    return "## Licence\n\n" + " ".join([said, *terms]) + "\n"


def _code(name: str | None) -> str:
    return f"`{name}`" if name else "a model that is not known"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
