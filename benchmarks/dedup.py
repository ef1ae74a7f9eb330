"""alpaca's exact near-duplicate index against brute force and approximate tools, in one run.

    python benchmarks/dedup.py [--size 52000] [--threshold 0.7] [--mean 12|23|both] [--threads 1]
    python benchmarks/dedup.py --growth
    python benchmarks/dedup.py --incremental

Every method gets the same token lists (`dedup_corpus.py`; tokenised beforehand) in one process
that may use `--threads` cores, and decides which texts to drop; the first of similar ones stays.
On the clock is all that a method does with the token lists, its own encoding of them included; not
on it are imports and, measured apart, the one-off compilation of alpaca's kernels. Recall and
precision are of dropped texts, against the exact answer. alpaca and brute force must agree in
every decision, survivor and score, or the script ends in 1; above 60,000 texts brute force does
and times a sample of them. What the other methods are and their parameters: `dedup_peers.py`.

`--growth`: alpaca alone at 13K to 832K texts, each in a process of its own, with peak memory.
`--incremental`: one text after another against an index that already holds 100K.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from dedup_corpus import Mean, make_corpus
from dedup_peers import PEERS, BruteForce, Flags, Texts, rouge_score_on_pairs

from alpaca_cli.data.rouge_index import RougeIndex, Stays, first_stays

Result = TypeVar("Result")

BRUTE_FORCE_UP_TO = 60_000  # texts; beyond, for a sample of them
SAMPLE = 1_000
ROUGE_PAIRS = 20_000  # that rouge-score compares; its time is extrapolated from them
GROWTH = (13_000, 52_000, 208_000, 832_000)
STORED, FRESH = 100_000, 2_000  # texts for --incremental
MEANS: dict[str, tuple[Mean, ...]] = {"12": (12,), "23": (23,), "both": (12, 23)}


class Clock(NamedTuple):
    """Seconds, and those of CPU on all cores: what others do on the machine adds to the first."""

    seconds: float
    cpu: float


def timed(work: Callable[[], Result]) -> tuple[Clock, Result]:
    gc.collect()
    started, cpu = time.perf_counter(), time.process_time()
    result = work()
    return Clock(time.perf_counter() - started, time.process_time() - cpu), result


def compare(size: int, mean: Mean, threshold: float, threads: int) -> bool:
    """Print the table of all methods; False when the exact ones differ."""
    texts = make_corpus(size, mean)
    gc.freeze()  # the corpus is no garbage: no method pays for looking through it
    first_stays(texts[:500], threshold, threads=threads)  # compiled kernels are loaded
    ours, stays = timed(lambda: first_stays(texts, threshold, threads=threads))
    dropped = stays.survivors >= 0
    pairs = int(np.cumsum(~dropped)[:-1].sum())  # each text with those that stay before it
    tokens = sum(map(len, texts)) / size
    print(
        f"\n{size:,} texts of {tokens:.1f} tokens, threshold {threshold:g}, threads {threads}: "
        f"{dropped.sum():,} dropped ({dropped.mean():.1%}), {pairs:,} pairs"
    )
    print(f"{'':42}{'seconds':>12}{'of CPU':>12}{'x ours':>11}{'recall':>9}{'precision':>11}")
    _row("alpaca", ours, ours, dropped, dropped)

    clock, differing = brute_force(texts, threshold, threads, stays, pairs)
    kind = "" if size <= BRUTE_FORCE_UP_TO else f", from {SAMPLE:,} texts"
    if differing:
        print(f"rapidfuzz cdist{kind}: {differing:,} texts decided otherwise")
    else:
        _row(f"rapidfuzz cdist{kind}", clock, ours, dropped, dropped)
    sample = partial(rouge_score_on_pairs, texts, ROUGE_PAIRS)
    clock = _scaled(timed(sample)[0], pairs / ROUGE_PAIRS)
    _row(f"rouge-score, from {ROUGE_PAIRS:,} pairs, 1 core", clock, ours, dropped, dropped)

    for peer in PEERS:
        if size > peer.up_to:
            print(f"{peer.name:42}  takes too long above {peer.up_to:,} texts")
            continue
        if peer.missing:
            print(f"{peer.name:42}  not installed: pip install {' '.join(peer.missing)}")
            continue
        prepared = peer.prepare(texts)
        peer.dropped(texts[:500], threshold, prepared)  # its imports
        clock, found = timed(partial(peer.dropped, texts, threshold, prepared))
        _row(peer.name, clock, ours, found, dropped)
    gc.unfreeze()
    return not differing


def brute_force(
    texts: Texts, threshold: float, threads: int, stays: Stays, pairs: int
) -> tuple[Clock, int]:
    """Its time for all texts, and how many it decides otherwise than `stays`."""
    if len(texts) <= BRUTE_FORCE_UP_TO:
        clock, (survivors, scores) = timed(
            lambda: BruteForce(texts, threshold, threads).first_stays()
        )
        same = survivors == stays.survivors
        same &= (survivors < 0) | (scores == stays.scores)
        return clock, int((~same).sum())
    method = BruteForce(texts, threshold, threads)
    sample = random.Random(0).sample(range(len(texts)), SAMPLE)
    clock, differing = timed(lambda: method.differing(sample, stays.survivors, stays.scores))
    return _scaled(clock, pairs / (SAMPLE * int((stays.survivors < 0).sum()))), differing


def _scaled(clock: Clock, factor: float) -> Clock:
    return Clock(clock.seconds * factor, clock.cpu * factor)


def _row(name: str, clock: Clock, ours: Clock, found: Flags, dropped: Flags) -> None:
    right = int((found & dropped).sum())
    recall = right / max(1, int(dropped.sum()))
    precision = right / max(1, int(found.sum()))
    print(
        f"{name:42}{clock.seconds:12,.2f}{clock.cpu:12,.2f}{clock.seconds / ours.seconds:11,.1f}"
        f"{recall:9.3f}{precision:11.3f}"
    )


def growth(mean: Mean, threshold: float, threads: int) -> bool:
    """Print alpaca's time and memory at each of `GROWTH`; False when a sample is wrong."""
    print(f"\nthreshold {threshold:g}, mean {mean} tokens, threads {threads}")
    heads = f"{'texts':>9}{'dropped':>9}{'seconds':>10}{'of CPU':>10}"
    print(f"{heads}{'token lists':>14}{'peak':>12}{'a text':>15}")
    taken, wrong = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for size in GROWTH:
            path = Path(folder, f"{size}.txt")
            in_process_of_its_own(write_corpus, path, size, mean)
            clock, before, peak, dropped, differing = in_process_of_its_own(
                measure, path, threshold, threads
            )
            path.unlink()
            taken.append(clock.cpu)
            wrong += differing
            print(
                f"{size:9,}{dropped:9.1%}{clock.seconds:10.2f}{clock.cpu:10.2f}"
                f"{before / 2**20:10,.0f} MiB{peak / 2**20:8,.0f} MiB"
                f"{(peak - before) / size:9,.0f} bytes",
                flush=True,
            )
    exponent = np.polyfit(np.log(GROWTH), np.log(taken), 1)[0]
    last = np.log(taken[-1] / taken[-2]) / np.log(GROWTH[-1] / GROWTH[-2])
    print(f"CPU seconds grow like texts to the {exponent:.2f}; in the last step to the {last:.2f}")
    print(f"of {SAMPLE:,} texts a size, brute force decides {wrong} otherwise")
    return not wrong


def in_process_of_its_own(work: Callable[..., Result], *arguments: object) -> Result:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        return processes.submit(work, *arguments).result()


def write_corpus(path: Path, size: int, mean: Mean) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(" ".join(tokens) + "\n" for tokens in make_corpus(size, mean))


def measure(path: Path, threshold: float, threads: int) -> tuple[Clock, int, int, float, int]:
    """Time, bytes before and at the peak, share dropped, and wrong ones of a sample."""
    with path.open(encoding="utf-8") as file:
        texts = [[sys.intern(token) for token in line.split()] for line in file]
    first_stays(texts[:500], threshold, threads=threads)
    gc.freeze()
    before = _peak()
    clock, stays = timed(lambda: first_stays(texts, threshold, threads=threads))
    peak = _peak()
    sample = random.Random(0).sample(range(len(texts)), SAMPLE)
    differing = BruteForce(texts, threshold, threads).differing(
        sample, stays.survivors, stays.scores
    )
    return clock, before, peak, float((stays.survivors >= 0).mean()), differing


def _peak() -> int:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes if sys.platform == "darwin" else kilobytes * 1024


def incremental(mean: Mean, threshold: float) -> None:
    """Print what it costs to check and to add one text."""
    texts = make_corpus(STORED + FRESH, mean)
    gc.freeze()
    index = RougeIndex(threshold)

    def build() -> None:
        for tokens in texts[:STORED]:
            index.add(tokens)

    clock, _ = timed(build)
    taken = []
    for tokens in texts[STORED:]:
        started = time.perf_counter()
        index.nearest(tokens)
        index.add(tokens)
        taken.append(1e3 * (time.perf_counter() - started))
    median, most = np.quantile(taken, (0.5, 0.99))
    print(
        f"\nmean {mean} tokens, threshold {threshold:g}\n"
        f"{STORED:,} texts added in {clock.seconds:.1f} s\n"
        f"nearest + add of {FRESH:,} more, one at a time: median {median:.3f} ms, "
        f"99 % below {most:.3f} ms, longest {max(taken):.3f} ms"
    )


def first_call() -> float:
    """Seconds of the first small search in a process."""
    texts = make_corpus(500, 12)
    return timed(lambda: first_stays(texts, 0.7, threads=1))[0].seconds


def compilation() -> None:
    """Print what the kernels cost before the first result, without and with numba's cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NUMBA_CACHE_DIR"] = folder
        seconds = [in_process_of_its_own(first_call) for _ in range(2)]
        del os.environ["NUMBA_CACHE_DIR"]
    print(f"kernels: {seconds[0]:.1f} s to compile, once; {seconds[1]:.2f} s to load, each process")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=52_000, metavar="TEXTS")
    parser.add_argument("--threshold", type=float, default=0.7)
    parser.add_argument("--mean", choices=list(MEANS), default="both", help="tokens a text")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--growth", action="store_true", help="alpaca alone, up to 832K texts")
    parser.add_argument("--incremental", action="store_true", help="one text at a time")
    return parser.parse_args(given)


def main() -> int:
    options = arguments()
    if hasattr(os, "sched_setaffinity"):  # what starts threads of its own gets no more cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    right = True
    if not options.incremental:
        compilation()
    for mean in MEANS[options.mean]:
        if options.growth:
            right &= growth(mean, options.threshold, options.threads)
        elif options.incremental:
            incremental(mean, options.threshold)
        else:
            right &= compare(options.size, mean, options.threshold, options.threads)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
