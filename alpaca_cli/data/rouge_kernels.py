"""Compiled loops of the ROUGE-L index: which stored texts exceed a threshold, without looking at
most of them.

Texts are arrays of token numbers; `alpaca_cli.data.rouge_index` owns them and explains the order
of the elements. Nothing here allocates more than a few words per token of one text, touches
Python objects or knows what a text means; every function runs without the interpreter's lock.
The machine code is kept on disk (numba's cache), so only the first run on a machine compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

Function = TypeVar("Function", bound=Callable[..., Any])

WORDS = 4  # 64-bit words of a text's wide signature
LONGEST = 0xFFFF  # longer texts count as this long where postings are scanned
_NEVER = 2**31 - 1  # more common tokens than any text has
_LARGEST_CHUNK = 8192  # posting entries that are allocated at once


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
        heads: int64, for each element its newest chunk of postings; -1 when it has none.
        entries, marks: the chunks. A chunk's first slot is its header: in `entries` the chunk
            before it (-1: none) in the upper half and its capacity in the lower, in `marks` the
            number of entries in use. An entry is position << 32 | length << 16 | rest, `rest`
            being the elements of the text from this one on, in index order; its mark is the
            text's signature in 64 bits.
        sizes: int64 [texts, slots of `entries` in use, tokens of the longest text].
    """

    tokens: Any
    starts: Any
    signatures: Any
    heads: Any
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
        counts: int64 [searches, postings scanned, pairs bounded by signature, pairs compared].
    """

    seen: Any
    slots: Any
    need: Any
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
def _sign(elements: Any, wide: Any) -> Any:
    """Set the bits of a text's wide signature; returns the narrow one."""
    narrow = np.uint64(0)
    wide[:] = 0
    for element in elements:
        mixed = np.uint64(element) * np.uint64(0x9E3779B97F4A7C15)
        narrow |= np.uint64(1) << (mixed >> np.uint64(58))
        bit = mixed >> np.uint64(56)
        wide[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))
    return narrow


@_compiled
def _set_masks(tokens: Any, words: int, slots: Any) -> Any:
    """For each token of a text the places where it stands, a bit each; row 0 is empty.

    `slots` of the tokens are set; the caller sets them back to 0.
    """
    distinct = 0
    for token in tokens:
        if slots[token] == 0:
            distinct += 1
            slots[token] = distinct
    masks = np.zeros((distinct + 1, words), np.uint64)
    for place in range(len(tokens)):
        masks[slots[tokens[place]], place >> 6] |= np.uint64(1) << np.uint64(place & 63)
    return masks


@_compiled
def _common(masks: Any, slots: Any, length: int, other: Any, column: Any) -> int:
    """Length of the longest common subsequence of the masked text and `other`.

    Hyyrö, "Bit-parallel LCS-length computation revisited" (2004): a column of the table as bits,
    64 cells at a time; the zero bits at the end are the length.
    """
    words = masks.shape[1]
    if words == 1:
        cells = ~np.uint64(0)
        for token in other:
            matches = cells & masks[slots[token], 0]
            cells = (cells + matches) | (cells - matches)
        return int(_bits(~cells & (~np.uint64(0) >> np.uint64(64 - length))))
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
    common = 0
    for word in range(words - 1):
        common += _bits(~column[word])
    last = np.uint64(64 * words - length)
    return common + int(_bits(~column[words - 1] & (~np.uint64(0) >> last)))


@_compiled
def _shared(masks: Any, slots: Any, left: Any, other: Any, need: int) -> bool:
    """Whether `other` shares at least `need` tokens with the masked text, order aside.

    `left` holds how often each slot's token occurs in the masked text, and holds it again after.
    """
    shared, read = 0, 0
    for token in other:
        if shared + len(other) - read < need:
            break
        row = slots[token]
        read += 1
        if row and left[row] > 0:
            shared += 1
        left[row] -= 1
    for token in other[:read]:
        left[slots[token]] += 1
    return shared >= need


@_compiled
def _find(
    store: Store,
    threshold: float,
    batch: Batch,
    query: int,
    since: int,
    besides: int,
    nearest: bool,
    start_position: int,
    start_score: float,
    scratch: Scratch,
    positions: Any,
    scores: Any,
) -> int:
    """Stored texts from position `since` on whose F1 with one text exceeds the threshold.

    All of them, in no order, or with `nearest` the most similar one, of equal ones the first;
    then a known one may be given as (start_position, start_score), else start_position is -1.
    The text at `besides` is left out. Written to `positions` and `scores`; returns how many, or
    -1 when there are more than fit.
    """
    first, last = batch.starts[query], batch.starts[query + 1]
    tokens, elements = batch.tokens[first:last], batch.elements[first:last]
    length, longest = len(tokens), store.sizes[2]
    found = 0
    bound, strict = threshold, True
    if nearest and start_position >= 0:
        positions[0], scores[0] = start_position, start_score
        found, bound, strict = 1, start_score, False
    need = scratch.need
    least = _set_needs(need, length, longest, bound, strict)
    if length < least:
        return found
    words = (length + 63) >> 6
    slots = scratch.slots
    masks = _set_masks(tokens, words, slots)
    column = np.empty(words, np.uint64)
    left = np.zeros(len(masks) if words > 1 else 0, np.int32)
    if words > 1:
        for token in tokens:
            left[slots[token]] += 1
    wide = np.empty(WORDS, np.uint64)
    narrow = _sign(elements, wide)
    counts, seen = scratch.counts, scratch.seen
    if counts[0] % (2**31 - 1) == 0:
        seen[:] = 0
    stamp = np.int32(counts[0] % (2**31 - 1) + 1)
    counts[0] += 1
    scanned, bounded, compared = 0, 0, 0
    full = False
    for place in range(length):
        rest_here = length - place
        if rest_here < least or full:
            break
        chunk = store.heads[elements[place]]
        done = False
        while chunk >= 0 and not done:
            begin = chunk + 1
            end = begin + np.int64(store.marks[chunk])
            if since > 0 and store.entries[begin] >> 32 < since:
                begin = begin + np.searchsorted(store.entries[begin:end], since << 32)
                done = True  # chunks before it are older
            scanned += end - begin
            # Slices, so that an index is seen not to be negative.
            entries, marks = store.entries[begin:end], store.marks[begin:end]
            for slot in range(len(entries)):
                # One comparison, for nearly all end here and it is well foretold.
                entry = entries[slot]
                enough = need[(entry >> 16) & 0xFFFF]
                at_most = length - _bits(narrow & ~marks[slot])
                if min(rest_here, entry & 0xFFFF, at_most) < enough:
                    continue
                position = entry >> 32
                if seen[position] == stamp:
                    continue
                seen[position] = stamp
                bounded += 1
                text = store.tokens[store.starts[position] : store.starts[position + 1]]
                other = len(text)
                if other > LONGEST:
                    enough = fewest_common(length, other, bound, strict)
                lacking, foreign = 0, 0
                for word in range(WORDS):
                    theirs = store.signatures[position, word]
                    lacking += _bits(wide[word] & ~theirs)
                    foreign += _bits(theirs & ~wide[word])
                if length - lacking < enough or other - foreign < enough or position == besides:
                    continue
                if words > 1 and not _shared(masks, slots, left, text, enough):
                    continue
                compared += 1
                common = _common(masks, slots, length, text, column)
                if common < enough:
                    continue
                score = _f_measure(common, length, other)
                if not nearest:
                    if found == len(positions):
                        full = done = True
                        break
                    positions[found], scores[found] = position, score
                    found += 1
                elif found == 0 or score > scores[0]:
                    positions[0], scores[0] = position, score
                    found, bound, strict = 1, score, False
                    least = _set_needs(need, length, longest, bound, strict)
                    done = rest_here < least
                    if done:
                        break
                elif position < positions[0]:
                    positions[0] = position
            chunk = store.entries[chunk] >> 32
    for token in tokens:
        slots[token] = 0
    counts[1] += scanned
    counts[2] += bounded
    counts[3] += compared
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
def _new_chunk(store: Store, element: int) -> int:
    """Entries of the chunk that the element's next posting begins; 0 when the newest has room."""
    chunk = np.int64(store.heads[element])
    if chunk < 0:
        return 2
    capacity = store.entries[chunk] & 0xFFFFFFFF
    return 0 if np.int64(store.marks[chunk]) < capacity else min(_LARGEST_CHUNK, 2 * capacity)


@_compiled
def insert(store: Store, threshold: float, batch: Batch, first: int, last: int, need: Any) -> int:
    """Store texts first..last-1 of the batch; returns the next one, earlier than last when the
    arrays are full.
    """
    for query in range(first, last):
        begin, end = batch.starts[query], batch.starts[query + 1]
        length = end - begin
        position, slots, longest = store.sizes
        start = store.starts[position]
        elements = batch.elements[begin:end]
        # With the shortest similar text it shares the fewest tokens.
        least = _set_needs(need, length, length, threshold, True)
        prefix = elements[: max(0, length - least + 1)]
        room = slots
        for element in prefix:
            capacity = _new_chunk(store, element)
            room += capacity + 1 if capacity else 0
        if (
            position == len(store.signatures)
            or start + length > len(store.tokens)
            or room > len(store.entries)
        ):
            return query
        narrow = _sign(elements, store.signatures[position])
        rest = length
        for element in prefix:
            capacity = _new_chunk(store, element)
            if capacity:
                store.entries[slots] = np.int64(store.heads[element]) << 32 | capacity
                store.marks[slots] = 0
                store.heads[element] = slots
                slots += capacity + 1
            chunk = np.int64(store.heads[element])
            store.marks[chunk] += np.uint64(1)
            slot = chunk + np.int64(store.marks[chunk])
            store.entries[slot] = position << 32 | min(length, LONGEST) << 16 | min(rest, LONGEST)
            store.marks[slot] = narrow
            rest -= 1
        store.tokens[start : start + length] = batch.tokens[begin:end]
        store.starts[position + 1] = start + length
        store.sizes[0], store.sizes[1] = position + 1, slots
        store.sizes[2] = max(longest, length)
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
