"""Reading and writing files of examples.

Read: Alpaca JSON (a list), JSONL, the self-instruct seed format (`instances`), single-turn chat
(`messages`), Parquet, gzip of each, and Hub datasets as `hub:<name>` or `hub:<name>:<split>`.
The form is told from the content, not from the suffix. Written: `.json` (Alpaca), `.jsonl`,
`.parquet`, each also with `.gz` but the last.

A malformed row is an error with its place; none is skipped. What makes an example good is not
known here (`alpaca_cli.data.lint`).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import atomic_file, json_line
from alpaca_cli.core.records import Example, example_from_row

HUB = "hub:"
SUFFIXES = (".json", ".jsonl", ".parquet")


def read_examples(sources: Sequence[str | Path]) -> list[Example]:
    """The examples of several files or Hub datasets, in order.

    Raises:
        DataError: a file is missing or holds no examples, or a row is malformed; names the place.
    """
    return [example for source in sources for _, example in read_placed(source)]


def read_placed(source: str | Path) -> list[tuple[str, Example]]:
    """The examples of one source, each with its place: `file:line` in JSONL, else `file#row`."""
    rows = _hub_rows(str(source)) if str(source).startswith(HUB) else _file_rows(Path(source))
    examples: list[tuple[str, Example]] = []
    for place, row in rows:
        try:
            found = _examples(row)
            for example in found:
                _refuse_what_cannot_be_written(example)
            examples += [(place, example) for example in found]
        except ValueError as error:
            raise DataError(f"{place}: {error}") from error
    if not examples:
        raise DataError(f"{source}: holds no examples")
    return examples


def output_format(path: Path) -> str:
    """The suffix that picks the format of an output file, without `.gz`; for an early refusal.

    Raises:
        UsageError: the suffix is none that we write.
    """
    zipped = path.suffix == ".gz"
    suffix = Path(path.stem).suffix if zipped else path.suffix
    if suffix not in SUFFIXES or (zipped and suffix == ".parquet"):
        raise UsageError(
            f"{path}: unknown output format", hint=f"use a name ending in {', '.join(SUFFIXES)}"
        )
    return suffix


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write a file of examples, whole or not at all; the suffix picks the format.

    Raises:
        UsageError: the suffix is none that we write.
    """
    suffix = output_format(path)
    rows = [example.to_row() for example in examples]
    if suffix == ".jsonl":
        data = b"".join(map(json_line, rows))
    elif suffix == ".json":
        data = (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode()
    else:
        data = _parquet(rows)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # no time stamp: equal examples, equal bytes
    with atomic_file(path) as file:
        file.write(data)


def _file_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Place and value of each row of a file."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot read: {reason}") from error
    if data[:4] == b"PAR1":
        return _parquet_rows(path, data)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 text") from error
    if text.lstrip()[:1] == "[":
        return _json_rows(path, text)
    return _jsonl_rows(path, text)


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise DataError(f"{path}:{line}: not JSON: {error}") from error
    for number, row in enumerate(rows, 1):
        yield f"{path}#{number}", row


def _jsonl_rows(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also splits at characters that JSON allows inside a string.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}:{number}: not a JSON line: {error}") from error


def _parquet_rows(path: Path, data: bytes) -> Iterator[tuple[str, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a whole Parquet file: {reason}") from error
    for number, row in enumerate(table.to_pylist(), 1):
        yield f"{path}#{number}", _without_nulls(row)


def _hub_rows(source: str) -> Iterator[tuple[str, Any]]:
    """Rows of a Hub dataset through `datasets`; the `train` split unless another is named."""
    import datasets

    name, _, split = source.removeprefix(HUB).partition(":")
    try:
        loaded = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{source}: cannot load: {first}") from error
    for number, row in enumerate(loaded, 1):
        yield f"{source}#{number}", _without_nulls(row)


def _without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A columnar row as a JSON row: absent fields are absent, `meta` is an object again."""
    kept = {key: value for key, value in row.items() if value is not None}
    if isinstance(kept.get("meta"), str):
        with suppress(ValueError):  # a text of somebody else's is refused with its place
            kept["meta"] = json.loads(kept["meta"])
    return kept


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    # Provenance differs from row to row; as JSON text it fits one column.
    flat = [
        row | {"meta": json.dumps(row["meta"], ensure_ascii=False)} if "meta" in row else row
        for row in rows
    ]
    buffer = io.BytesIO()
    try:
        parquet.write_table(pyarrow.Table.from_pylist(_same_columns(flat)), buffer)
    except (pyarrow.ArrowException, OverflowError) as error:
        raise DataError(
            f"these rows do not fit Parquet columns: {error}", hint="write .jsonl instead"
        ) from error
    return buffer.getvalue()


def _same_columns(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    columns = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in columns} for row in rows]


def _examples(row: Any) -> list[Example]:
    """One row in any of the known forms; ValueError says what is wrong with it."""
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object, not {type(row).__name__}")
    if "messages" in row:
        return [_from_messages(row)]
    if "instances" in row:
        return _from_instances(row)
    return [example_from_row(row)]


def _refuse_what_cannot_be_written(example: Example) -> None:
    """JSON can spell half of a surrogate pair (`"\\ud800"`), which no file of text can hold;
    Parquet has types that JSON has not."""
    try:
        f"{example.id}{example.instruction}{example.input}{example.output}".encode()
        json.dumps([dict(example.meta), dict(example.extra)], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("a string holds half of a surrogate pair") from error
    except TypeError:
        _refuse_other_types({**example.meta, **example.extra})
        raise


def _refuse_other_types(fields: Mapping[str, Any]) -> None:
    """Columns can hold dates, decimals and bytes, for which JSON has no form."""
    for name, value in fields.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise ValueError(f'field "{name}": {error}; store it as text') from error


def _from_instances(row: Mapping[str, Any]) -> list[Example]:
    """The self-instruct seed format: one instruction, one or more input/output instances."""
    instances = row["instances"]
    if not isinstance(instances, list) or not instances:
        raise ValueError('field "instances" must be a list with at least one entry')
    common = {key: value for key, value in row.items() if key != "instances"}
    examples = []
    for number, instance in enumerate(instances, 1):
        if not isinstance(instance, Mapping):
            raise ValueError(f'field "instances": entry {number} must be an object')
        example = dict(common) | dict(instance)
        if number > 1 and "id" in common:
            example["id"] = f"{common['id']}-{number}"
        examples.append(example_from_row(example))
    return examples


def _from_messages(row: Mapping[str, Any]) -> Example:
    """A chat of one exchange; a system message goes before the instruction."""
    messages = row["messages"]
    if not isinstance(messages, list):
        raise ValueError('field "messages" must be a list')
    for number, message in enumerate(messages, 1):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise ValueError(f'field "messages": entry {number} needs text in "content"')
    roles = [message.get("role") for message in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        raise ValueError(
            'field "messages": an example is one exchange (optional system, user, assistant), '
            f"this has the roles {', '.join(map(str, roles))}"
        )
    *before, answer = [message["content"] for message in messages]
    rest = {key: value for key, value in row.items() if key != "messages"}
    return example_from_row(rest | {"instruction": "\n\n".join(before), "output": answer})
