"""Dedup of a corpus in shards, cut into tasks that share nothing but files.

    count   a task per shard   texts in numbers of the shard's own; how many texts have each word
    order   one task           words by frequency; equal texts found; texts grouped into blocks
    encode  a task per shard   texts in the numbers of all shards, one block after another
    join    as many as wanted  similar pairs of two blocks at a time, by the index of one machine
    keep    one task           the decisions, from the pairs
    write   a task per shard   rows that stay, unchanged; rows that go, with why

Decisions are those of `alpaca_cli.data.duplicates` on one machine. Every pair of texts belongs to
exactly one pair of blocks, of texts of similar length, so no frequent word can make one task
large: the work of a word is spread over all tasks.

Memory beyond the program itself, measured with instructions of 23 words: `count` and `write`
eleven times their shard (unzipped), `order` 170 bytes for each row of the corpus and `keep` 80,
`join` up to 3 KB for each text of a block: 1.5 GB for the largest. All similar pairs are found and
stored, 16 bytes each, so n texts that are all alike and none equal take 8 n² bytes of disk.

Every file is written whole or not at all, and the same bytes whenever it is written again; who
runs the tasks, and where, is not known here (`alpaca_cli.stages.dedup_shards`).
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Any

import numpy as np

from alpaca_cli.core.errors import DataError
from alpaca_cli.core.files import atomic_file, digest, json_line, read_json, write_json, write_text
from alpaca_cli.core.records import Example
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.corpus import with_fields
from alpaca_cli.data.formats import read_placed
from alpaca_cli.data.rouge import tokenize
from alpaca_cli.data.rouge_index import PairIndex, Words, in_index_order, stays_by_pairs
from alpaca_cli.data.rouge_kernels import Batch, fewest_common
from alpaca_cli.data.shard_files import refuse_several_in_a_row, stem, write_kept
from alpaca_cli.data.texts import key_text

STAGES = ("count", "order", "encode", "join", "keep", "write")

BLOCK = 500_000  # most texts of a block
JOINED = 4  # pairs of blocks for each task of the join, about
PIECE = 1 << 20  # pairs that are read at once

# A similar pair as stored, rows of the corpus; 2**32 rows are more than `order` can hold.
PAIR = np.dtype([("earlier", np.uint32), ("later", np.uint32), ("score", np.float64)])


@dataclass(frozen=True, slots=True)
class Plan:
    """What is done with which files; the same plan gives the same result.

    Attributes:
        folder: where the tasks' files are; every task must see it under this name.
        shards: the files that are deduplicated, in order.
        against: files whose rows are compared with, and not written.
        digests: sha256 of each of these files.
        joins: tasks of the join.
        output: the folder of the results.
        excluded: `Example.review_key` of rows that go before any are compared.
    """

    folder: Path
    shards: tuple[str, ...]
    against: tuple[str, ...]
    digests: dict[str, str]
    settings: Dedup
    joins: int
    output: Path
    excluded: frozenset[str] = frozenset()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is compared; a row of an earlier one is an earlier row."""
        return (*self.against, *self.shards)

    def tasks(self, stage: str) -> int:
        """How many tasks a stage has."""
        counts = {"order": 1, "keep": 1, "join": self.joins, "write": len(self.shards)}
        return counts.get(stage, len(self.files))

    def results(self, task: int) -> tuple[Path, Path]:
        """The files of the rows of a shard that stay and that go."""
        name = Path(self.shards[task]).name
        return self.output / name, self.output / "dropped" / f"{stem(name)}.jsonl"


def run_task(plan: Plan, stage: str, task: int) -> None:
    """Do task number `task` of a stage; the stages before it are done.

    Raises:
        DataError: an input is malformed, is not the file that was planned for, or is a shard
            with several examples in a line.
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


def _read_file(plan: Plan, name: str) -> list[tuple[str, Example]]:
    if digest(Path(name)) != plan.digests[name]:
        raise DataError(f"{name}: changed while it was deduplicated", hint="run the command again")
    return read_placed(name)


def _count(plan: Plan, task: int) -> None:
    """The file's texts in numbers of its own, and how many texts have each word.

    An excluded row's text is taken for one without words, which is like no other.
    """
    settings = plan.settings
    placed = _read_file(plan, plan.files[task])
    excluded = np.zeros(len(placed), bool)
    if task >= len(plan.against):
        refuse_several_in_a_row(Path(plan.files[task]), [place for place, _ in placed])
        if plan.excluded:
            excluded[:] = [example.review_key() in plan.excluded for _, example in placed]
    words = Words()
    texts = (
        "" if out else key_text(example, settings.key)
        for (_, example), out in zip(placed, excluded.tolist(), strict=True)
    )
    batch = words.read(tokenize(text, settings.tokenizer) for text in texts)
    names = words.names()
    _save(
        _file(plan, "count", task, "npz"),
        tokens=batch.tokens,
        elements=batch.elements,
        starts=batch.starts,
        frequencies=np.bincount(batch.elements, minlength=len(names)),
        digests=_digests(batch, names),
        excluded=excluded,
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
    lengths, digests, excluded = [], [], []
    for task in range(len(plan.files)):
        with np.load(_file(plan, "count", task, "npz")) as counted:
            for name, texts in zip(
                _words(plan, task), counted["frequencies"].tolist(), strict=True
            ):
                frequencies[name] += texts
            lengths.append(np.diff(counted["starts"]))
            digests.append(counted["digests"])
            excluded.append(counted["excluded"])
    ordered = sorted(frequencies, key=lambda name: (-frequencies[name], name))
    ranks = {name: rank for rank, name in enumerate(ordered)}
    for task in range(len(plan.files)):
        numbers = np.array([ranks[name] for name in _words(plan, task)], np.int32)
        _save_one(_file(plan, "order", task, "npy"), numbers)
    begins, out = np.cumsum([0, *map(len, lengths)]), np.concatenate(excluded)
    length, first = np.concatenate(lengths), _first_equal(np.concatenate(digests))
    if plan.settings.threshold >= 1:  # equal texts are not above it
        first = np.arange(len(first))
    first[length == 0] = np.flatnonzero(length == 0)
    given = int(begins[len(plan.against)])
    compared = np.flatnonzero((first == np.arange(len(first))) & (length > 0))
    blocks = _cut(compared[compared < given], compared[compared >= given], length, plan.joins)
    block = np.full(len(length), -1, np.int32)
    for number, rows in enumerate(blocks):
        block[rows] = number
    _save(
        plan.folder / "order/rows.npz",
        begins=begins,
        first=first,
        block=block,
        without_words=((length == 0) & ~out)[given:].sum(),
        excluded=out,
    )
    write_json(
        plan.folder / "order/blocks.json",
        [
            [len(rows), int(length[rows[0]]), int(length[rows[-1]]), int(rows[0] < given)]
            for rows in blocks
        ],
    )


def _cut(given: Any, others: Any, length: Any, joins: int) -> list[Any]:
    """The rows of each block, by length, so that most pairs of blocks are too different in length
    to hold similar texts; those of the given rows first.

    Given rows are not compared with each other. Of a size that makes some pairs for each task.
    """
    pairs = JOINED * joins
    size = ceil(sqrt(len(others) * (len(others) / 2 + len(given)) / pairs))
    size = min(BLOCK, max(1, size, ceil(len(given) / pairs)))
    blocks = []
    for rows in (given, others):
        ordered = rows[np.argsort(length[rows], kind="stable")]
        blocks += [ordered[start : start + size] for start in range(0, len(ordered), size)]
    return blocks


def _words(plan: Plan, task: int) -> list[str]:
    text = _file(plan, "count", task, "words").read_text("utf-8")
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
    """The file's texts in the numbers of all files, in the order of their blocks."""
    rank = np.load(_file(plan, "order", task, "npy"))
    with (
        np.load(_file(plan, "count", task, "npz")) as counted,
        np.load(plan.folder / "order/rows.npz") as rows,
    ):
        begin, end = rows["begins"][task : task + 2]
        block = rows["block"][begin:end]
        order = np.argsort(block, kind="stable")
        order = order[block[order] >= 0]
        chosen, cuts = _gather(counted["starts"], order)
        tokens, elements = rank[counted["tokens"][chosen]], rank[counted["elements"][chosen]]
    batch = in_index_order(Batch(tokens, elements, cuts))
    blocks = len(read_json(plan.folder / "order/blocks.json"))
    for name, array in (
        ("tokens", batch.tokens),
        ("elements", batch.elements),
        ("starts", batch.starts),
        ("rows", begin + order),
        ("blocks", np.searchsorted(block[order], np.arange(blocks + 1))),
    ):
        _save_one(_file(plan, "encode", task, f"{name}.npy"), array)


def _gather(starts: Any, order: Any) -> tuple[Any, Any]:
    """Where the tokens of some texts stand, one text after another, and where each begins."""
    lengths = np.diff(starts)[order]
    cuts = np.concatenate(([0], np.cumsum(lengths)))
    return np.repeat(starts[order] - cuts[:-1], lengths) + np.arange(cuts[-1]), cuts


def _join(plan: Plan, task: int) -> None:
    """All similar pairs of the task's pairs of blocks."""
    blocks = read_json(plan.folder / "order/blocks.json")
    threshold = plan.settings.threshold
    loaded, index = -1, None
    with atomic_file(_pairs_file(plan, task)) as file:
        for one, other in _shares(blocks, threshold, plan.joins)[task]:
            if index is None or loaded != one:
                rows, batch = _load_block(plan, one)
                index, loaded = PairIndex(batch, threshold, threads=1), one
            if one == other:
                for (first, second), scores in index.within():
                    file.write(_as_pairs(rows[first], rows[second], scores))
            else:
                others, batch = _load_block(plan, other)
                for (first, second), scores in index.between(batch):
                    file.write(_as_pairs(others[first], rows[second], scores))


def _pairs_file(plan: Plan, task: int) -> Path:
    return _file(plan, "join", task, "pairs")


def _as_pairs(one: Any, other: Any, scores: Any) -> bytes:
    pairs = np.empty(len(scores), PAIR)
    pairs["earlier"], pairs["later"] = np.minimum(one, other), np.maximum(one, other)
    pairs["score"] = scores
    return pairs.tobytes()


def _shares(
    blocks: Sequence[Sequence[int]], threshold: float, joins: int
) -> list[list[tuple[int, int]]]:
    """The pairs of blocks of each task: those that can hold similar texts, evenly divided.

    Args:
        blocks: of each its size, its shortest and longest text, and whether its rows are given.
    """
    work = []
    for one, (size, shortest, longest, given) in enumerate(blocks):
        if not given:
            work.append((size * size // 2, one, one))
        for other in range(one + 1, len(blocks)):
            size_2, shortest_2, longest_2, given_2 = blocks[other]
            # The nearest lengths of the two are the likeliest to be similar.
            near, far = min(longest, longest_2), max(shortest, shortest_2)
            alike = far <= near or fewest_common(near, far, threshold, True) <= near
            if alike and not (given and given_2):
                work.append((size * size_2, one, other))
    shares: list[list[tuple[int, int]]] = [[] for _ in range(joins)]
    loads = [(0, task) for task in range(joins)]
    for load, one, other in sorted(work, reverse=True):
        least, task = loads[0]
        heapq.heapreplace(loads, (least + load, task))
        shares[task].append((one, other))
    return [sorted(share) for share in shares]


def _load_block(plan: Plan, block: int) -> tuple[Any, Batch]:
    """The rows of a block, and their texts."""
    parts: dict[str, list[Any]] = {"rows": [], "lengths": [], "tokens": [], "elements": []}
    for task in range(len(plan.files)):
        stored = {
            # Of a large file this reads a block's part.
            name: np.load(_file(plan, "encode", task, f"{name}.npy"), mmap_mode="r")
            for name in ("blocks", "rows", "starts", "tokens", "elements")
        }
        begin, end = stored["blocks"][block : block + 2]
        starts = stored["starts"][begin : end + 1]
        parts["rows"].append(stored["rows"][begin:end])
        parts["lengths"].append(np.diff(starts))
        for name in ("tokens", "elements"):
            parts[name].append(stored[name][starts[0] : starts[-1]])
    rows, lengths, tokens, elements = map(np.concatenate, parts.values())
    return rows, Batch(tokens, elements, np.concatenate(([0], np.cumsum(lengths))))


def _keep(plan: Plan) -> None:
    """The decision about every row, from all pairs."""
    with np.load(plan.folder / "order/rows.npz") as rows:
        first, begins = rows["first"], rows["begins"]
    given = int(begins[len(plan.against)])
    found, pairs = _needed_pairs(plan, len(first))
    ends = np.stack((pairs["earlier"], pairs["later"])).astype(np.int64)
    stays = stays_by_pairs(first, ends, pairs["score"], given)
    _save(
        plan.folder / "keep/rows.npz",
        survivors=stays.survivors,
        scores=stays.scores,
        pairs=found,
    )


def _needed_pairs(plan: Plan, rows: int) -> tuple[int, Any]:
    """How many pairs there are, and those that decide anything: not the many of large groups.

    A row with no earlier one like it stays, so that what is like it goes; of two that go neither
    is the other's survivor.
    """
    stays, goes = np.ones(rows, bool), np.zeros(rows, bool)
    found = 0
    for pairs in _all_pairs(plan):
        stays[pairs["later"]] = False
        found += len(pairs)
    for pairs in _all_pairs(plan):
        goes[pairs["later"][stays[pairs["earlier"]]]] = True
    needed = [pairs[~(goes[pairs["earlier"]] & goes[pairs["later"]])] for pairs in _all_pairs(plan)]
    return found, np.concatenate([np.empty(0, PAIR), *needed])


def _all_pairs(plan: Plan) -> Iterator[Any]:
    for task in range(plan.joins):
        with open(_pairs_file(plan, task), "rb") as file:
            while len(pairs := np.fromfile(file, PAIR, PIECE)):
                yield pairs


def _write(plan: Plan, task: int) -> None:
    """The shard's rows that stay, byte for byte, and those that go, with why."""
    place = len(plan.against) + task
    name = plan.shards[task]
    with np.load(plan.folder / "order/rows.npz") as rows:
        begins = rows["begins"]
        excluded = rows["excluded"][begins[place] : begins[place + 1]]
    with np.load(plan.folder / "keep/rows.npz") as decided:
        survivors = decided["survivors"][begins[place] : begins[place + 1]]
        scores = decided["scores"][begins[place] : begins[place + 1]]
    examples = [example for _, example in _read_file(plan, name)]
    stay = (survivors < 0) & ~excluded
    kept_file, dropped_file = plan.results(task)
    write_kept(Path(name), kept_file, stay)
    dropped = []
    for row in np.flatnonzero(~stay).tolist():
        here = f"{Path(name).name}#{row + 1}"
        if excluded[row]:
            example = with_fields(
                examples[row], reason="excluded", row=here, duplicate_of=None, score=None
            )
            dropped.append(example.to_row())
            continue
        file = int(np.searchsorted(begins, survivors[row], side="right")) - 1
        known = file < len(plan.against)
        other = plan.files[file] if known else Path(plan.files[file]).name
        example = with_fields(
            examples[row],
            reason="against" if known else "duplicate",
            row=here,
            duplicate_of=f"{other}#{survivors[row] - begins[file] + 1}",
            score=float(scores[row]),
        )
        dropped.append(example.to_row())
    with atomic_file(dropped_file) as out:
        out.writelines(map(json_line, dropped))
