"""Shards as files: what is one, and the same file without some of its rows.

A shard is JSONL, plain or gzipped, or Parquet, with one example in each row. Which rows stay is
not known here (`alpaca_cli.data.shards`).
"""

from __future__ import annotations

import gzip
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import atomic_file

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


def stem(name: str) -> str:
    """A shard's name without its suffix."""
    return next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), name)


def refuse_several_in_a_row(shard: Path, places: Sequence[str]) -> None:
    """DataError when the shard's rows are not its examples: such rows cannot stay or go."""
    # Nothing is above 1, so that all stay.
    one = shlex.quote(f"{stem(shard.name)}.one.jsonl")
    hint = f"alpaca dedup {shlex.quote(str(shard))} --threshold 1 -o {one} makes it a shard"
    if places[0] == f"{shard}#1" and not _is_parquet(shard):
        raise DataError(f"{shard}: is a JSON list, a shard has an example in each line", hint=hint)
    for place, following in pairwise(places):
        if place == following:
            raise DataError(f"{place}: holds several examples, a shard one in each row", hint=hint)


def _is_parquet(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


def write_kept(source: Path, target: Path, stay: Any) -> None:
    """The rows that stay, unchanged: the very lines, or the very columns of a Parquet file."""
    if _is_parquet(source):
        _write_kept_parquet(source, target, stay)
        return
    data = source.read_bytes()
    zipped = data[:2] == b"\x1f\x8b"
    if zipped:
        data = gzip.decompress(data)
    # As `read_placed` tells which lines are blank.
    lines = [line for line in data.split(b"\n") if line.decode("utf-8-sig").strip()]
    kept = b"".join(line + b"\n" for line, keep in zip(lines, stay, strict=True) if keep)
    with atomic_file(target) as file:
        file.write(gzip.compress(kept, mtime=0) if zipped else kept)


def _write_kept_parquet(source: Path, target: Path, stay: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    begin = 0
    with parquet.ParquetFile(source) as shard:
        group = shard.metadata.row_group(0)
        columns = [group.column(number) for number in range(group.num_columns)]
        codecs = {column.path_in_schema: column.compression.lower() for column in columns}
        codecs = {path: codec.replace("uncompressed", "none") for path, codec in codecs.items()}
        with (
            atomic_file(target) as file,
            parquet.ParquetWriter(file, shard.schema_arrow, compression=codecs) as writer,
        ):
            for number in range(shard.num_row_groups):
                rows = shard.read_row_group(number)
                writer.write_table(rows.filter(pyarrow.array(stay[begin : begin + len(rows)])))
                begin += len(rows)
