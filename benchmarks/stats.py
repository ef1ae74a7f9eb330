"""`alpaca stats` on 52K examples, end to end, on one core: seconds, memory, size of the page.

    python benchmarks/stats.py [--size 52002] [--rounds 3]

Runs the command as a process that may use one core, as a user would, with the HTML report, the
comparison to a tenth of the data and the shipped gates. Afterwards the CPU seconds of each measure
are taken in this process. Instructions are those of `dedup_corpus.py`; inputs and outputs are drawn
from the real files in ../shared/data where present, else from the built-in seeds, and outputs get
a few words of their own, so that compression and repeats are not those of copies. No other tool
measures the same things, so there is no peer; the goal is 60 s and 5 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from dedup_corpus import DATA, FILES, make_corpus

from alpaca_cli.core.records import Example
from alpaca_cli.data.diversity import measure_diversity
from alpaca_cli.data.formats import read_examples
from alpaca_cli.data.languages_found import count_languages
from alpaca_cli.data.lint import lint
from alpaca_cli.data.measures import lengths, read_words, repeated
from alpaca_cli.data.openings import measure_openings
from alpaca_cli.data.rouge_index import nearest_others
from alpaca_cli.data.seeds import load_seeds
from alpaca_cli.data.task_types import count_task_types

WITH_INPUT = 0.4  # the share in the published 52K
SECONDS, BYTES = 60, 5_000_000


def make_examples(size: int, seed: int = 42) -> Iterator[Example]:
    """Examples as many as wanted; the same for the same files."""
    present = [DATA / name for name in FILES if (DATA / name).is_file()]
    real = read_examples(present) if present else load_seeds("builtin")
    inputs = [example.input for example in real if example.input.strip()]
    outputs = [example.output for example in real if example.output.strip()]
    draw = random.Random(seed)
    corpus = make_corpus(size, 12)
    for number, words in enumerate(corpus):
        instruction = " ".join(words).capitalize() + "."
        input = draw.choice(inputs) if draw.random() < WITH_INPUT else ""
        own = " ".join(draw.choice(corpus))
        yield Example(instruction, input, f"{draw.choice(outputs)} {own}.", id=f"b-{number}")


def end_to_end(file: Path, other: Path, folder: Path) -> tuple[float, float, int]:
    """Wall seconds, CPU seconds and peak memory in bytes of the command on one core."""
    page = folder / "report.html"
    command = [sys.executable, "-m", "alpaca_cli", "stats", str(file), "-o", str(page), "-q"]
    command += ["--json", "--against", str(other), "--check", "default"]
    core = min(os.sched_getaffinity(0))
    one = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    began = time.monotonic()
    with open(folder / "report.json", "wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.DEVNULL,
            env=os.environ | one,
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode in (0, 5), f"exit {process.returncode}"
    return time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def parts(examples: list[Example]) -> dict[str, float]:
    """CPU seconds of each measure."""
    words = read_words(examples)
    measures: dict[str, Callable[[], object]] = {
        "words": lambda: read_words(examples),
        "lengths": lambda: lengths(examples, words),
        "lint": lambda: lint(examples),
        "nearest neighbours": lambda: nearest_others(words["instruction"], threads=1),
        "verbs and objects": lambda: measure_openings(examples, 20),
        "task types": lambda: count_task_types(examples),
        "languages": lambda: count_languages(examples),
        "diversity of outputs": lambda: measure_diversity(
            words["output"], [example.output for example in examples]
        ),
        "repeats": lambda: repeated(examples),
    }
    found = {}
    for name, measure in measures.items():
        began = time.process_time()
        measure()
        found[name] = time.process_time() - began
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=52_002)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    examples = list(make_examples(given.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, other = folder / "data.jsonl", folder / "other.jsonl"
        for path, chosen in ((file, examples), (other, examples[::10])):
            path.write_text("".join(json.dumps(one.to_row()) + "\n" for one in chosen))
        print(f"{given.size:,} examples, {file.stat().st_size / 1e6:.0f} MB, one core")
        slowest, size = 0.0, 0
        for _ in range(given.rounds):
            wall, cpu, memory = end_to_end(file, other, folder)
            slowest, size = max(slowest, wall), (folder / "report.html").stat().st_size
            print(
                f"  {wall:.1f} s, {cpu:.1f} s CPU, {memory / 2**20:,.0f} MiB, "
                f"page {size / 1e6:.2f} MB, load {os.getloadavg()[0]:.1f}"
            )
    for part, seconds in parts(examples).items():
        print(f"  {part:<22}{seconds:6.1f} s CPU")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  this process: {peak / 1024:,.0f} MiB")
    met = slowest <= SECONDS and size <= BYTES
    print(f"goal of {SECONDS} s and {BYTES / 1e6:.0f} MB: {'met' if met else 'missed'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
