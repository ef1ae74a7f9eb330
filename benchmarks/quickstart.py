"""`alpaca run --recipe quickstart` in a fresh folder: seconds per stage, and the held-out score.

    python benchmarks/quickstart.py [key=value ...]

Runs the command as a process, as a user would, with `--set` for each argument. Exact match is
over tasks whose instruction and input are not in the training data; a third of them are worded
in ways that training data never uses. CPU seconds are told beside the wall time: on a shared
machine only they can be compared.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STAGES = ("seed", "generate", "dedup", "stats", "train", "eval")
WANTED = 0.9  # exact match of a family that counts as learned


def main(sets: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "quickstart"
        command = [sys.executable, "-m", "alpaca_cli", "run", "--recipe", "quickstart"]
        command += ["--run", str(run), "--json", *(part for key in sets for part in ("--set", key))]
        began, steal = time.time(), stolen()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            return done.returncode
        wall = time.time() - began
        cpu = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"whole road: {wall:.0f} s wall, {cpu.ru_utime + cpu.ru_stime:.0f} s CPU on "
            f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}, "
            f"{(stolen() - steal) / wall / (os.cpu_count() or 1):.0%} of the CPU time was stolen"
        )
        for name in STAGES:
            ended = (run / name / "done.json").stat().st_mtime
            print(f"{name:<9}{ended - began:7.0f} s")
            began = ended
        show(json.loads(done.stdout))
    return 0


def show(reports: dict[str, Any]) -> None:
    """The figures of training and evaluation, family by family."""
    train, score = reports["train"], reports["eval"]
    print(
        f"trained: {train['parameters']:,} parameters, {train['steps']:,} steps, "
        f"{train['tokens']:,} tokens, {train['tokens_per_second']:,.0f} tokens/s, "
        f"loss {train['loss']:.3f}"
    )
    low, high = score["exact_match_interval"]
    print(
        f"exact match: {score['exact_match']:.1%} of {score['questions']} unseen tasks "
        f"({low:.1%} to {high:.1%}), {score['in_training']} of them in the training data"
    )
    for name in ("seen_phrasings", "unseen_phrasings"):
        print(f"  {name.replace('_', ' ')}: {score[name]['exact_match']:.1%}")
    families = sorted(score["by_family"].items(), key=lambda item: -item[1]["exact_match"])
    learned = sum(figures["exact_match"] >= WANTED for _, figures in families)
    print(f"families with at least {WANTED:.0%}: {learned} of {len(families)}")
    for name, figures in families:
        print(f"  {figures['exact_match']:5.0%}  {name}")


def stolen() -> float:
    """CPU seconds that the machine's host gave to others since boot; 0 where that is not told."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return 0.0
    return int(first[8]) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
