"""The one record that crosses every stage: an example.

A seed task is an example that a person wrote. Which files hold examples, and in which format,
is the business of `alpaca_cli.data.formats`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """An instruction, its optional input, and the answer.

    `meta` is provenance (request, demonstrations, teacher, finish reason, nearest neighbour and
    its score). `extra` holds the fields of the source row that we do not know, so that they
    survive a round trip.
    """

    instruction: str
    input: str = ""
    output: str = ""
    id: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """The JSON object written to files: known fields first, `id` and `meta` when present."""
        row: dict[str, Any] = {} if self.id is None else {"id": self.id}
        row |= {"instruction": self.instruction, "input": self.input, "output": self.output}
        if self.meta:
            row["meta"] = dict(self.meta)
        return row | dict(self.extra)

    def review_key(self) -> str:
        """What a review knows the example by: equal for equal texts, whatever id, meta or place.

        The sha256, hexadecimal, of `{"input":…,"instruction":…,"output":…}` as compact UTF-8 JSON.
        """
        texts = {"input": self.input, "instruction": self.instruction, "output": self.output}
        canonical = json.dumps(texts, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def with_meta(self, **fields: Any) -> Example:
        """A copy with `fields` added to `meta`."""
        return replace(self, meta={**self.meta, **fields})


def example_from_row(row: Mapping[str, Any]) -> Example:
    """The inverse of `Example.to_row` for a row in Alpaca form.

    Raises:
        ValueError: `instruction` is missing or blank, or a field has the wrong type; the message
            names the field, the caller adds file and row.
    """
    for name in ("instruction", "output"):
        if name not in row:
            raise ValueError(f'field "{name}" is missing')
    for name in ("instruction", "input", "output"):
        value = row.get(name)
        if value is None and name == "input":
            continue
        if not isinstance(value, str):
            raise ValueError(f'field "{name}" must be a string, not {type(value).__name__}')
    if not row["instruction"].strip():
        raise ValueError('field "instruction" is empty')
    meta = row.get("meta") or {}
    if not isinstance(meta, Mapping):
        raise ValueError(f'field "meta" must be an object, not {type(meta).__name__}')
    identifier = row.get("id")
    known = {"id", "instruction", "input", "output", "meta"}
    return Example(
        instruction=row["instruction"],
        input=row.get("input") or "",
        output=row["output"],
        id=None if identifier is None else str(identifier),
        meta=dict(meta),
        extra={key: value for key, value in row.items() if key not in known},
    )
