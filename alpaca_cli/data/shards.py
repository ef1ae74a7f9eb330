"""Dedup of a corpus in shards, cut into tasks that share nothing but files.

    count   a task per shard   how often each word occurs; lengths and digests of the texts
    order   one task           words by frequency; equal texts found; texts grouped into blocks
    encode  a task per shard   texts as numbers, a file per block
    join    as many as wanted  similar pairs of two blocks at a time, by the index of one machine
    keep    one task           the decisions, from the pairs
    write   a task per shard   rows that stay, unchanged; rows that go, with why

Decisions are those of `alpaca_cli.data.duplicates` on one machine. Every pair of texts belongs to
exactly one pair of blocks, of texts of similar length, so no frequent word can make one task
large: the work of a word is spread over all tasks. A block is what a task holds in memory.

Every file is written whole or not at all, and the same bytes whenever it is written again; who
runs the tasks, and where, is not known here (`alpaca_cli.stages.dedup_shards`).
"""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, isqrt
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import (
    atomic_file,
    digest,
    json_line,
    read_json,
    write_json,
    write_text,
)
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.formats import read_placed
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import PairIndex, Words, in_index_order, stays_by_pairs
from alpaca_cli.data.rouge_kernels import Batch, fewest_common
from alpaca_cli.data.texts import key_text

STAGES = ("count", "order", "encode", "join", "keep", "write")
BLOCK = 500_000  # most texts of a block


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with which files; the same plan gives the same result.

    Attributes:
        folder: where the tasks' files are; every task must see it under this name.
        shards: the files that are deduplicated, in order; .jsonl, .jsonl.gz or .parquet.
        against: files whose rows are compared with, and not written.
        digests: sha256 of each of these files.
        joins: tasks of the join.
        output: the folder of the results.
    """

    folder: Path
    shards: tuple[str, ...]
    against: tuple[str, ...]
    digests: dict[str, str]
    settings: Dedup
    joins: int
    output: Path

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is compared; a row of an earlier one is an earlier row."""
        return (*self.against, *self.shards)

    def tasks(self, stage: str) -> int:
        """How many tasks a stage has."""
        counts = {"order": 1, "keep": 1, "join": self.joins, "write": len(self.shards)}
        return counts.get(stage, len(self.files))


def run_task(plan: Plan, stage: str, task: int) -> None:
    """Do task number `task` of a stage; the stages before it are done.

    Raises:
        DataError: an input is malformed, or is not the file that was planned for.
    """
    if stage == "count":
        _count(plan, task)
    elif stage == "order":
        _order(plan)
    elif stage == "encode":
        _encode(plan, task)
    elif stage == "join":
        _join(plan, task)
    elif stage == "keep":
        _keep(plan)
    else:
        _write(plan, task)


def _save(path: Path, **arrays: Any) -> None:
    with atomic_file(path) as file:
        np.savez(file, **arrays)


def _save_one(path: Path, array: Any) -> None:
    with atomic_file(path) as file:
        np.save(file, array)


def _file(plan: Plan, stage: str, task: int, suffix: str) -> Path:
    return plan.folder / stage / f"{task:05}.{suffix}"


def _read_shard(plan: Plan, name: str) -> list[tuple[str, Example]]:
    if digest(Path(name)) != plan.digests[name]:
        raise DataError(f"{name}: changed while it was deduplicated", hint="run the command again")
    return read_placed(name)


def _count(plan: Plan, task: int) -> None:
    """The shard's texts in numbers of its own, and how many texts have each word."""
    settings = plan.settings
    words = Words()
    texts = (key_text(example, settings.key) for _, example in _read_shard(plan, plan.files[task]))
    batch = words.encode(tokenize(text, settings.tokenizer) for text in texts)
    names = words.names()
    _save(
        _file(plan, "count", task, "npz"),
        tokens=batch.tokens,
        elements=batch.elements,
        starts=batch.starts,
        frequencies=np.bincount(batch.elements, minlength=len(names)),
        digests=_digests(batch, names),
    )
    write_text(_file(plan, "count", task, "words"), "\n".join(names))


def _digests(batch: Batch, names: Sequence[str]) -> Any:
    """uint64 [texts, 2]: equal for texts of equal tokens, and for no others."""
    result = np.empty((len(batch.starts) - 1, 2), np.uint64)
    tokens = batch.tokens.tolist()
    for text, (begin, end) in enumerate(pairwise(batch.starts.tolist())):
        joined = "\n".join(names[token] for token in tokens[begin:end])
        digested = hashlib.blake2b(joined.encode(), digest_size=16).digest()
        result[text] = np.frombuffer(digested, np.uint64)
    return result


def _order(plan: Plan) -> None:
    """Number all words by frequency, find equal texts, and cut the texts into blocks."""
    frequencies: Counter[str] = Counter()
    lengths, digests = [], []
    for task in range(len(plan.files)):
        with np.load(_file(plan, "count", task, "npz")) as counted:
            for name, count in zip(
                _words(plan, task), counted["frequencies"].tolist(), strict=True
            ):
                frequencies[name] += count
            lengths.append(np.diff(counted["starts"]))
            digests.append(counted["digests"])
    ordered = sorted(frequencies, key=lambda name: (-frequencies[name], name))
    write_text(plan.folder / "order/words", "\n".join(ordered))
    begins = np.cumsum([0, *map(len, lengths)])
    length = np.concatenate(lengths)
    first = _first_equal(np.concatenate(digests))
    if plan.settings.threshold >= 1:  # equal texts are not above it
        first = np.arange(len(first))
    first[length == 0] = np.flatnonzero(length == 0)
    # Texts of one length are in one block or in neighbouring ones: most pairs of blocks hold
    # texts too different in length to be similar, and are left out.
    compared = np.flatnonzero((first == np.arange(len(first))) & (length > 0))
    compared = compared[np.argsort(length[compared], kind="stable")]
    # About four pairs of blocks for each task of the join.
    wanted = isqrt(8 * plan.joins) + 1
    size = max(1, min(BLOCK, ceil(len(compared) / wanted)))
    block = np.full(len(length), -1, np.int32)
    block[compared] = np.arange(len(compared)) // size
    _save(plan.folder / "order/rows.npz", begins=begins, first=first, block=block)
    blocks = [compared[start : start + size] for start in range(0, len(compared), size)]
    write_json(
        plan.folder / "order/blocks.json",
        [[len(rows), int(length[rows[0]]), int(length[rows[-1]])] for rows in blocks],
    )


def _words(plan: Plan, task: int) -> list[str]:
    text = _file(plan, "count", task, "words").read_text()
    return text.split("\n") if text else []


def _first_equal(digests: Any) -> Any:
    """For each row of the array the first row that is equal."""
    rows = np.arange(len(digests))
    order = np.lexsort((rows, digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), np.int64)
    first[order] = order[np.maximum.accumulate(np.where(begins, rows, 0))]
    return first


def _encode(plan: Plan, task: int) -> None:
    """The shard's texts in the numbers of all shards, in the order of their blocks."""
    ranks = {name: rank for rank, name in enumerate(_all_words(plan))}
    rank = np.array([ranks[name] for name in _words(plan, task)], np.int32)
    with (
        np.load(_file(plan, "count", task, "npz")) as counted,
        np.load(plan.folder / "order/rows.npz") as rows,
    ):
        begin, end = rows["begins"][task : task + 2]
        block = rows["block"][begin:end]
        order = np.argsort(block, kind="stable")
        order = order[block[order] >= 0]
        starts = counted["starts"]
        chosen, cuts = _gather(starts, order)
        tokens, elements = rank[counted["tokens"][chosen]], rank[counted["elements"][chosen]]
    batch = in_index_order(tokens, elements, cuts)
    blocks = len(read_json(plan.folder / "order/blocks.json"))
    _save_one(_file(plan, "encode", task, "tokens.npy"), batch.tokens)
    _save_one(_file(plan, "encode", task, "elements.npy"), batch.elements)
    _save(
        _file(plan, "encode", task, "npz"),
        rows=begin + order,
        starts=batch.starts,
        blocks=np.searchsorted(block[order], np.arange(blocks + 1)),
    )


def _all_words(plan: Plan) -> list[str]:
    return (plan.folder / "order/words").read_text().split("\n")


def _gather(starts: Any, order: Any) -> tuple[Any, Any]:
    """Where the tokens of some texts stand, one text after another, and where each begins."""
    lengths = np.diff(starts)[order]
    cuts = np.concatenate(([0], np.cumsum(lengths)))
    return np.repeat(starts[order] - cuts[:-1], lengths) + np.arange(cuts[-1]), cuts


def _join(plan: Plan, task: int) -> None:
    """All similar pairs of the task's pairs of blocks, as rows of the corpus."""
    blocks = read_json(plan.folder / "order/blocks.json")
    found: list[tuple[Any, Any]] = [(np.empty((2, 0), np.int64), np.empty(0))]
    shares = _shares(blocks, plan.settings.threshold, plan.joins)
    loaded, index = -1, None
    for one, other in shares[task]:
        if index is None or loaded != one:
            rows, batch = _load_block(plan, one)
            index, loaded = PairIndex(batch, plan.settings.threshold, threads=1), one
        if one == other:
            found += [(rows[pairs], scores) for pairs, scores in index.within()]
        else:
            others, batch = _load_block(plan, other)
            for pairs, scores in index.between(batch):
                found.append((np.stack((others[pairs[0]], rows[pairs[1]])), scores))
    pairs, scores = (np.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
    _save(_file(plan, "join", task, "npz"), pairs=pairs, scores=scores)


def _shares(
    blocks: Sequence[Sequence[int]], threshold: float, joins: int
) -> list[list[tuple[int, int]]]:
    """The pairs of blocks of each task: those that can hold similar texts, evenly divided.

    Args:
        blocks: size, shortest and longest text of each block, by length.
    """
    work = []
    for one, (size, _, longest) in enumerate(blocks):
        work.append((size * size // 2, one, one))
        for other in range(one + 1, len(blocks)):
            # The nearest lengths of the two are the likeliest to be similar.
            if fewest_common(longest, blocks[other][1], threshold, True) <= longest:
                work.append((size * blocks[other][0], one, other))
    shares: list[list[tuple[int, int]]] = [[] for _ in range(joins)]
    loads = [0] * joins
    for load, one, other in sorted(work, reverse=True):
        least = loads.index(min(loads))
        loads[least] += load
        shares[least].append((one, other))
    return [sorted(share) for share in shares]


def _load_block(plan: Plan, block: int) -> tuple[Any, Batch]:
    """The rows of a block, and their texts."""
    rows, lengths = [], []
    tokens: list[Any] = []
    elements: list[Any] = []
    for task in range(len(plan.files)):
        with np.load(_file(plan, "encode", task, "npz")) as encoded:
            begin, end = encoded["blocks"][block : block + 2]
            rows.append(encoded["rows"][begin:end])
            starts = encoded["starts"][begin : end + 1]
        lengths.append(np.diff(starts))
        for name, parts in (("tokens", tokens), ("elements", elements)):
            stored = np.load(_file(plan, "encode", task, f"{name}.npy"), mmap_mode="r")
            parts.append(stored[starts[0] : starts[-1]])
    cuts = np.concatenate(([0], np.cumsum(np.concatenate(lengths))))
    return np.concatenate(rows), Batch(np.concatenate(tokens), np.concatenate(elements), cuts)


def _keep(plan: Plan) -> None:
    """The decision about every row, from all pairs."""
    with np.load(plan.folder / "order/rows.npz") as rows:
        first, begins = rows["first"], rows["begins"]
    joined = [np.load(_file(plan, "join", task, "npz")) for task in range(plan.joins)]
    pairs = np.concatenate([part["pairs"] for part in joined], axis=1)
    scores = np.concatenate([part["scores"] for part in joined])
    given = int(begins[len(plan.against)])
    stays = stays_by_pairs(first, pairs, scores, given)
    _save(
        plan.folder / "keep/rows.npz",
        survivors=stays.survivors,
        scores=stays.scores,
        pairs=len(scores),
    )


def _write(plan: Plan, task: int) -> None:
    """The shard's rows that stay, byte for byte, and those that go, with why."""
    place = len(plan.against) + task
    name = plan.shards[task]
    with np.load(plan.folder / "order/rows.npz") as rows:
        begins = rows["begins"]
    with np.load(plan.folder / "keep/rows.npz") as decided:
        survivors = decided["survivors"][begins[place] : begins[place + 1]]
        scores = decided["scores"][begins[place] : begins[place + 1]]
    examples = [example for _, example in _read_shard(plan, name)]
    stay = survivors < 0
    _write_kept(Path(name), plan.output / Path(name).name, stay)
    dropped = []
    for row in np.flatnonzero(~stay).tolist():
        file = int(np.searchsorted(begins, survivors[row], side="right")) - 1
        known = file < len(plan.against)
        other = survivors[row] - begins[file] + 1
        dropped.append(
            examples[row].to_row()
            | {
                "reason": "against" if known else "duplicate",
                "row": f"{Path(name).name}#{row + 1}",
                "duplicate_of": f"{Path(plan.files[file]).name}#{other}",
                "score": float(scores[row]),
            }
        )
    with atomic_file(plan.output / "dropped" / f"{Path(name).name.split('.')[0]}.jsonl") as out:
        out.writelines(map(json_line, dropped))


def _write_kept(source: Path, target: Path, stay: Any) -> None:
    """The rows that stay, unchanged: the very lines, or the very columns of a Parquet file.

    Raises:
        DataError: the file's rows are not its examples (seed tasks with several instances).
    """
    if source.suffix == ".parquet":
        _write_kept_parquet(source, target, stay)
        return
    data = source.read_bytes()
    zipped = data[:2] == b"\x1f\x8b"
    if zipped:
        data = gzip.decompress(data)
    lines = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip()]
    if len(lines) != len(stay):
        raise DataError(
            f"{source}: {len(lines):,} lines hold {len(stay):,} examples",
            hint="a shard has an example in each line: alpaca seed FILE -o shard.jsonl makes it so",
        )
    kept = b"".join(line + b"\n" for line, keep in zip(lines, stay, strict=True) if keep)
    with atomic_file(target) as file:
        file.write(gzip.compress(kept, mtime=0) if zipped else kept)


def _write_kept_parquet(source: Path, target: Path, stay: Any) -> None:
    import pyarrow
    from pyarrow import parquet

    shard = parquet.ParquetFile(source)
    if shard.metadata.num_rows != len(stay):
        raise DataError(
            f"{source}: {shard.metadata.num_rows:,} rows hold {len(stay):,} examples",
            hint="a shard has an example in each row",
        )
    codec = "none"
    if shard.num_row_groups:
        codec = shard.metadata.row_group(0).column(0).compression.lower()
    begin = 0
    with (
        atomic_file(target) as file,
        parquet.ParquetWriter(
            file, shard.schema_arrow, compression="none" if codec == "uncompressed" else codec
        ) as writer,
    ):
        for group in range(shard.num_row_groups):
            rows = shard.read_row_group(group)
            writer.write_table(rows.filter(pyarrow.array(stay[begin : begin + len(rows)])))
            begin += len(rows)
