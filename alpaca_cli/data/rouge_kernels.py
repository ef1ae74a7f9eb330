"""Compiled loops of the ROUGE-L index: which stored texts exceed a threshold, without looking at
most of them.

Texts are arrays of token numbers; `alpaca_cli.data.rouge_index` owns them and explains the order
of the elements. Nothing here allocates more than a few words per token of one text, touches
Python objects or knows what a text means; every function runs without the interpreter's lock.
The machine code is kept on disk (numba's cache), so only the first run on a machine compiles. All
is in one file: the cache of a function notices changes of its own file, not of those it calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

WORDS = 4  # of 64 bits, in a text's signature
LONGEST = 0xFFFF  # longer texts count as this long where postings are scanned
TEXTS, TOKENS, ENTRIES = 1, 2, 4
START, USED, ROOM, NEWEST = 0, 1, 2, 3
_NEVER = 2**31 - 1  # more common tokens than any text has


def _compiled(function: Function) -> Function:
    try:
        return cast(Function, numba.njit(cache=True, nogil=True)(function))
    except RuntimeError:  # no folder for the cache is writable: compile in every process
        return cast(Function, numba.njit(nogil=True)(function))


class Store(NamedTuple):
    """The texts of an index and, for each element, the texts that have it in their prefix.

    Attributes:
        tokens: int32, all texts' token numbers one after another.
        starts: int64, where each text starts in `tokens`; one more than there are texts.
        signatures: uint64 [texts, WORDS], a bit per element (hashed).
        lists: int64 [2 * elements, 4], the postings of each element: first of the texts in which
            it is early enough to be the first that is shared with a text as long, then of the
            others. START of the list's part of `entries`, slots USED there, ROOM for so many (0,
            or a power of two), NEWEST position in it.
        free: int64 [64], for each power of two the first part of that size that is free; -1: none.
            It begins with the next one.
        entries, marks: the postings, in the order of positions. An entry is position << 32 |
            length << 16 | rest, `rest` being the elements of the text from this one on, in index
            order; its mark, uint64 [2], is the text's signature folded to half its width.
        sizes: int64 [texts, slots of `entries` in use, tokens of the longest text, which arrays
            were too short for the next text: TEXTS | TOKENS | ENTRIES].
    """

    tokens: Any
    starts: Any
    signatures: Any
    lists: Any
    free: Any
    entries: Any
    marks: Any
    sizes: Any


class Batch(NamedTuple):
    """Texts to look for: token numbers, elements in index order, where each text starts."""

    tokens: Any
    elements: Any
    starts: Any


class Scratch(NamedTuple):
    """What one thread needs to search.

    Attributes:
        seen: int32, for each stored text the last search that came across it.
        slots: int32, for each token its row in the bit masks of the text searched for; 0 = none.
        need: int32 [LONGEST + 1], for each length the fewest tokens a similar text shares.
        hits: int64, room for postings.
        counts: int64 [searches, postings scanned, pairs bounded by signature, pairs compared].
    """

    seen: Any
    slots: Any
    need: Any
    hits: Any
    counts: Any


@intrinsic  # type: ignore[untyped-decorator]
def _bits(typing_context: Any, word: Any) -> Any:
    """How many bits of a 64-bit word are set (the processor's own instruction)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@_compiled
def occurrences(tokens: Any, starts: Any, times: Any) -> Any:
    """For each token how often it stands before in the same text.

    `times` holds a 0 for each token number, and holds it again after.
    """
    result = np.zeros(len(tokens), np.int32)
    for text in range(len(starts) - 1):
        for place in range(starts[text], starts[text + 1]):
            result[place] = times[tokens[place]]
            times[tokens[place]] += 1
        for place in range(starts[text], starts[text + 1]):
            times[tokens[place]] = 0
    return result


@_compiled
def _f_measure(common: int, length_a: int, length_b: int) -> float:
    """`alpaca_cli.data.rouge.f_measure`, in the same operations."""
    precision = common / length_b
    recall = common / length_a
    return 2 * precision * recall / (precision + recall)


@_compiled
def fewest_common(length_a: int, length_b: int, bound: float, strict: bool) -> int:
    """The fewest common tokens with which texts of these lengths exceed the bound.

    With `strict` the F1 must be greater, without it equal is enough. More than the shorter text
    has when none suffices. Exact: the floats themselves are compared, and one common token more
    raises them by far more than they round.
    """
    common = max(1, int(bound * (length_a + length_b) / 2) - 1)
    while common <= min(length_a, length_b):
        score = _f_measure(common, length_a, length_b)
        if score > bound or (score == bound and not strict):
            break
        common += 1
    return common


@_compiled
def _set_needs(need: Any, length: int, longest: int, bound: float, strict: bool) -> int:
    """Fill `need` for texts of up to `longest` tokens; returns the smallest, _NEVER if none.

    `need` is _NEVER where no text of that length can exceed the bound.
    """
    least = _NEVER
    top = min(longest, LONGEST)
    need[: top + 1] = _NEVER
    for other in range(min(length, longest), 0, -1):
        common = fewest_common(length, other, bound, strict)
        if common > other:
            break
        least = common
        if other <= LONGEST:
            need[other] = common
    for other in range(length + 1, longest + 1):
        common = fewest_common(length, other, bound, strict)
        if common > length:
            break
        least = min(least, common)
        if other <= LONGEST:
            need[other] = common
        elif need[LONGEST] == _NEVER:
            need[LONGEST] = LONGEST
    if length > LONGEST and least < _NEVER:
        need[LONGEST] = min(least, LONGEST)
    return least


@_compiled
def _sign(elements: Any, signature: Any) -> None:
    """Set the bits of a text's signature, one for each element (two may share one)."""
    signature[:] = 0
    for element in elements:
        bit = np.uint64(element) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(56)
        signature[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@_compiled
def _fold(signature: Any, mark: Any) -> None:
    """The mark of a text with this signature: a bit for each element again, of half as many."""
    mark[0] = signature[0] | signature[1]
    mark[1] = signature[2] | signature[3]


class Sought(NamedTuple):
    """A text that similar ones are sought for.

    Attributes:
        signature, mark: see `Store`.
        masks: uint64 [rows, words], for each of its tokens the places where it stands, a bit
            each; row 0 is empty.
        slots: for each token number its row in `masks`.
        left: int32, how often each row's token occurs; empty for texts of up to 64 tokens.
        column: uint64 [words], room for `_common`.
    """

    length: Any
    signature: Any
    mark: Any
    masks: Any
    slots: Any
    left: Any
    column: Any


@_compiled
def _prepare(tokens: Any, elements: Any, slots: Any) -> Sought:
    """`slots` of the tokens are set; the caller sets them back to 0."""
    distinct, words = 0, (len(tokens) + 63) >> 6
    for token in tokens:
        if slots[token] == 0:
            distinct += 1
            slots[token] = distinct
    masks = np.zeros((distinct + 1, words), np.uint64)
    left = np.zeros(distinct + 1 if words > 1 else 0, np.int32)
    for place in range(len(tokens)):
        row = slots[tokens[place]]
        masks[row, place >> 6] |= np.uint64(1) << np.uint64(place & 63)
        if words > 1:
            left[row] += 1
    signature, mark = np.empty(WORDS, np.uint64), np.empty(2, np.uint64)
    _sign(elements, signature)
    _fold(signature, mark)
    return Sought(len(tokens), signature, mark, masks, slots, left, np.empty(words, np.uint64))


@_compiled
def _common(sought: Sought, other: Any) -> int:
    """Length of the longest common subsequence of the text sought for and another.

    Hyyrö, "Bit-parallel LCS-length computation revisited" (2004): a column of the table as bits,
    64 cells at a time; the zero bits at the end are the length.
    """
    masks, slots, column = sought.masks, sought.slots, sought.column
    words = len(column)
    last = np.uint64(64 * words - sought.length)  # bits of the last word that stand for nothing
    if words == 1:
        cells = ~np.uint64(0)
        for token in other:
            matches = cells & masks[slots[token], 0]
            cells = (cells + matches) | (cells - matches)
        return int(_bits(~cells & (~np.uint64(0) >> last)))
    column[:] = ~np.uint64(0)
    for token in other:
        row = slots[token]
        if row == 0:
            continue
        carry = np.uint64(0)
        for word in range(words):
            cells = column[word]
            matches = cells & masks[row, word]
            partial = cells + matches
            total = partial + carry
            carry = np.uint64((partial < cells) | (total < partial))
            column[word] = total | (cells - matches)
    common = int(_bits(~column[words - 1] & (~np.uint64(0) >> last)))
    for word in range(words - 1):
        common += _bits(~column[word])
    return common


@_compiled
def _share(sought: Sought, other: Any, enough: int) -> bool:
    """Whether another text shares at least so many tokens, order aside."""
    slots, left = sought.slots, sought.left
    shared, read = 0, 0
    for token in other:
        if shared + len(other) - read < enough:
            break
        row = slots[token]
        read += 1
        if row and left[row] > 0:
            shared += 1
        left[row] -= 1
    for token in other[:read]:
        left[slots[token]] += 1
    return shared >= enough


@_compiled
def _compare(store: Store, sought: Sought, position: int, enough: int, counts: Any) -> int:
    """Tokens in common with a stored text, in order; 0 when it is soon clear: fewer than enough."""
    text = store.tokens[store.starts[position] : store.starts[position + 1]]
    lacking, foreign = 0, 0
    for word in range(WORDS):
        theirs = store.signatures[position, word]
        lacking += _bits(sought.signature[word] & ~theirs)
        foreign += _bits(theirs & ~sought.signature[word])
    if min(sought.length - lacking, len(text) - foreign) < enough:
        return 0
    if len(sought.left) and not _share(sought, text, enough):
        return 0
    counts[3] += 1
    return _common(sought, text)


@_compiled
def _sift(entries: Any, marks: Any, need: Any, mark: Any, length: int, rest: int, hits: Any) -> int:
    """Write to `hits` the postings of texts that may share enough; returns how many.

    Args:
        mark, length: of the text sought for; `rest` are its elements from this one on.
    """
    found, half, other_half = 0, mark[0], mark[1]
    for slot in range(len(entries)):
        # No branch: most postings are no hits, but which is hard to foretell.
        entry = entries[slot]
        hits[found] = entry
        lacking = _bits(half & ~marks[slot, 0]) + _bits(other_half & ~marks[slot, 1])
        at_most = min(rest, entry & 0xFFFF, length - lacking)
        found += at_most >= need[(entry >> 16) & 0xFFFF]
    return found


@_compiled
def _find(
    store: Store,
    threshold: float,
    batch: Batch,
    query: int,
    since: int,
    besides: int,
    nearest: bool,
    known: int,
    known_score: float,
    scratch: Scratch,
    positions: Any,
    scores: Any,
) -> int:
    """Stored texts from position `since` on whose F1 with one text exceeds the threshold.

    All of them, in no order, or with `nearest` the most similar one, of equal ones the first;
    then an earlier one may be given as (known, known_score), else `known` is -1. The text at
    `besides` is left out. Written to `positions` and `scores`; returns how many, or -1 when there
    are more than fit.
    """
    tokens = batch.tokens[batch.starts[query] : batch.starts[query + 1]]
    elements = batch.elements[batch.starts[query] : batch.starts[query + 1]]
    length, longest, need = len(tokens), store.sizes[2], scratch.need
    found, bound, strict = 0, threshold, True
    if known >= 0:
        positions[0], scores[0] = known, known_score
        found, bound, strict = 1, known_score, False
    least = _set_needs(need, length, longest, bound, strict)
    if length < least:
        return found
    sought = _prepare(tokens, elements, scratch.slots)
    counts, seen = scratch.counts, scratch.seen
    stamp = np.int32(counts[0] % (2**31 - 1) + 1)
    if stamp == 1:
        seen[:] = 0
    counts[0] += 1
    full = False
    for turn in range(2 * length):
        place, late = turn >> 1, turn & 1
        rest_here = length - place
        if rest_here < least or full:
            break
        # Of two texts the element is early in the shorter one; in the longer it may be late.
        if late and (length > longest or rest_here < need[min(length, LONGEST)]):
            continue
        postings = store.lists[2 * elements[place] + late]
        if postings[USED] == 0 or postings[NEWEST] < since:
            continue
        begin, end = postings[START], postings[START] + postings[USED]
        if since > 0:
            begin += np.searchsorted(store.entries[begin:end], since << 32)
        counts[1] += end - begin
        while begin < end and not full:
            stop = min(end, begin + len(scratch.hits))
            entries, marks = store.entries[begin:stop], store.marks[begin:stop]
            begin = stop
            hits = _sift(entries, marks, need, sought.mark, length, rest_here, scratch.hits)
            for hit in scratch.hits[:hits]:
                position, enough = hit >> 32, need[(hit >> 16) & 0xFFFF]
                if seen[position] == stamp or position == besides:
                    continue
                seen[position] = stamp
                counts[2] += 1
                other = store.starts[position + 1] - store.starts[position]
                if max(length, other) > LONGEST:
                    enough = fewest_common(length, other, bound, strict)
                common = _compare(store, sought, position, enough, counts)
                if common < enough:
                    continue
                score = _f_measure(common, length, other)
                if not nearest:
                    full = found == len(positions)
                    if full:
                        break
                    positions[found], scores[found] = position, score
                    found += 1
                elif found == 0 or score > scores[0]:
                    positions[0], scores[0] = position, score
                    found, bound, strict = 1, score, False
                    least = _set_needs(need, length, longest, bound, strict)
                elif position < positions[0]:
                    positions[0] = position
    for token in tokens:
        scratch.slots[token] = 0
    return -1 if full else found


@_compiled
def search_nearest(
    store: Store,
    threshold: float,
    batch: Batch,
    queries: Any,
    others: bool,
    scratch: Scratch,
    positions: Any,
    scores: Any,
) -> None:
    """For texts of the batch the nearest stored one above the threshold.

    Args:
        queries: which texts of the batch.
        others: text n of the batch is stored at position n, and not sought itself.
        positions, scores: results, for each text of the batch; -1 and untouched when none.
    """
    for query in queries:
        positions[query] = -1
        _find(
            store,
            threshold,
            batch,
            query,
            0,
            query if others else -1,
            True,
            -1,
            0.0,
            scratch,
            positions[query : query + 1],
            scores[query : query + 1],
        )


@_compiled
def search_all(
    store: Store,
    threshold: float,
    batch: Batch,
    first: int,
    last: int,
    later: bool,
    scratch: Scratch,
    pairs: Any,
    scores: Any,
) -> Any:
    """For texts first..last-1 of the batch every similar stored one.

    Args:
        later: text n of the batch is stored at position n, and only later ones are sought.
        pairs: int64 [2, size]; the number of the text, and the position of the stored one.

    Returns:
        Pairs found, and the next text: `last`, or the one whose pairs do not fit any more.
    """
    found = 0
    for query in range(first, last):
        more = _find(
            store,
            threshold,
            batch,
            query,
            query + 1 if later else 0,
            -1,
            False,
            -1,
            0.0,
            scratch,
            pairs[1, found:],
            scores[found:],
        )
        if more < 0:
            return found, query
        pairs[0, found : found + more] = query
        found += more
    return found, last


@_compiled
def _append(store: Store, number: int, entry: int, mark: Any) -> None:
    """Add a posting of the newest text; a list that is full moves to a part of twice the size."""
    postings = store.lists[number]
    used, room = postings[USED], postings[ROOM]
    if used == room:
        larger = max(2, 2 * room)
        start = _take(store, larger)
        if room > 0:
            old = postings[START]
            store.entries[start : start + used] = store.entries[old : old + used]
            store.marks[start : start + used] = store.marks[old : old + used]
            power = _power(room)
            store.entries[old] = store.free[power]
            store.free[power] = old
        postings[START], postings[ROOM] = start, larger
    slot = postings[START] + used
    store.entries[slot] = entry
    store.marks[slot] = mark
    postings[USED], postings[NEWEST] = used + 1, entry >> 32


@_compiled
def _power(size: int) -> int:
    """Of which power of two this is."""
    return int(_bits(np.uint64(size - 1)))


@_compiled
def _take(store: Store, size: int) -> int:
    """A part of `entries` of that size, a free one if there is one."""
    power = _power(size)
    start = store.free[power]
    if start >= 0:
        store.free[power] = store.entries[start]
    else:
        start = store.sizes[1]
        store.sizes[1] += size
    return int(start)


@_compiled
def _list_of(elements: Any, place: int, early: int) -> int:
    """Which list a text's posting for one of its elements belongs to."""
    return 2 * int(elements[place]) + (len(elements) - place < early)


@_compiled
def _too_short(store: Store, elements: Any, postings: int, early: int) -> int:
    """Which arrays are too short for one more text with so many postings."""
    position, slots = store.sizes[0], store.sizes[1]
    for place in range(postings):
        found = store.lists[_list_of(elements, place, early)]
        if found[USED] == found[ROOM]:
            slots += max(2, 2 * found[ROOM])
    short = 0
    if position == len(store.signatures):
        short |= TEXTS
    if store.starts[position] + len(elements) > len(store.tokens):
        short |= TOKENS
    if slots > len(store.entries):
        short |= ENTRIES
    return short


@_compiled
def insert(store: Store, threshold: float, batch: Batch, first: int, last: int, need: Any) -> int:
    """Store texts first..last-1 of the batch; returns the next one, earlier than last when arrays
    are too short (see `Store.sizes`).
    """
    mark = np.empty(2, np.uint64)
    for query in range(first, last):
        begin, end = batch.starts[query], batch.starts[query + 1]
        elements = batch.elements[begin:end]
        length = end - begin
        # With the shortest similar text it shares the fewest tokens.
        least = _set_needs(need, length, length, threshold, True)
        postings = max(0, length - least + 1)
        early = need[min(length, LONGEST)]  # what it shares with one as long
        store.sizes[3] = _too_short(store, elements, postings, early)
        if store.sizes[3]:
            return query
        position = store.sizes[0]
        _sign(elements, store.signatures[position])
        _fold(store.signatures[position], mark)
        for place in range(postings):
            rest = min(length - place, LONGEST)
            entry = position << 32 | min(length, LONGEST) << 16 | rest
            _append(store, _list_of(elements, place, early), entry, mark)
        start = store.starts[position]
        store.tokens[start : start + length] = batch.tokens[begin:end]
        store.starts[position + 1] = start + length
        store.sizes[0] = position + 1
        store.sizes[2] = max(store.sizes[2], length)
    return last


@_compiled
def settle(
    store: Store,
    threshold: float,
    batch: Batch,
    first: int,
    last: int,
    since: int,
    twins: Any,
    scratch: Scratch,
    positions: Any,
    scores: Any,
    stored: Any,
) -> int:
    """Decide texts first..last-1 in order: store those with nothing similar before them.

    Args:
        since: stored texts from here on were not searched yet.
        twins: for each text of the batch the first one with the same tokens, -1 when it is that.
        positions, scores: what `search_nearest` found among the texts before `since`, for texts
            without a twin; then what is nearest of all.
        stored: for each text of the batch its position in the store, -1 when it is not there.

    Returns:
        The next text, earlier than last when the arrays are full.
    """
    for query in range(first, last):
        twin, begin = twins[query], since
        if twin >= 0:
            positions[query] = stored[twin]
            if positions[query] >= 0:
                scores[query] = 1.0
                continue
            begin = 0
        if positions[query] >= 0 and scores[query] == 1.0:
            continue
        _find(
            store,
            threshold,
            batch,
            query,
            begin,
            -1,
            True,
            positions[query],
            scores[query],
            scratch,
            positions[query : query + 1],
            scores[query : query + 1],
        )
        if positions[query] < 0:
            position = store.sizes[0]
            if insert(store, threshold, batch, query, query + 1, scratch.need) == query:
                return query
            stored[query] = position
    return last


@_compiled
def keep_first(
    first: Any, starts: Any, neighbours: Any, scores: Any, given: int, survivors: Any, found: Any
) -> None:
    """Decide texts in order from their similar pairs; see `rouge_index.first_stays`.

    Args:
        first: for each text the first one with the same tokens, itself when it is that.
        starts, neighbours, scores: the texts similar to text n, if it is the first with its
            tokens, and their F1, from starts[n] to starts[n + 1].
        given: so many texts at the beginning stay.
        survivors, found: results: -1 when the text stays, else who does and the F1.
    """
    survivors[:] = -1
    for text in range(given, len(first)):
        twin = first[text]
        if twin != text and survivors[twin] < 0:
            survivors[text], found[text] = twin, 1.0
            continue
        for pair in range(starts[twin], starts[twin + 1]):
            other, score = neighbours[pair], scores[pair]
            if other >= text or survivors[other] >= 0:
                continue
            best = survivors[text]
            if best < 0 or score > found[text] or (score == found[text] and other < best):
                survivors[text], found[text] = other, score
