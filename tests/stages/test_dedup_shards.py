"""Dedup of shards in processes: really several, killed at any moment, refused when wrong.

What the decisions are is the business of tests/data/test_shards.py. Nothing here needs Slurm or
Ray; that they are refused where they are missing does.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
import os
import re
import select
import signal
from io import StringIO
from pathlib import Path
from subprocess import Popen
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet
from rich.console import Console

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.files import digest, json_line, read_json, read_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.settings import Dedup
from alpaca_cli.data.shards import STAGES, Plan, run_task
from alpaca_cli.stages.dedup_shards import dedupe_shards
from tests.processes import run, start, wait_until

if importlib.util.find_spec("datatrove") is None:
    pytest.skip("datatrove is not installed", allow_module_level=True)

BIRDS = ["Name a large bird.", "Name a very large bird.", "Count to three.", "Name a small fish."]


def rows_of(texts: list[str]) -> list[dict[str, Any]]:
    return [{"instruction": text, "output": str(n), "n": n} for n, text in enumerate(texts)]


def write_shard(path: Path, texts: list[str]) -> None:
    path.write_bytes(b"".join(map(json_line, rows_of(texts))))


def alike(number: int) -> str:
    """Long, and like all others of its kind: a thousand of them keep a join busy for a second."""
    return " ".join([*(f"word{place % 40}" for place in range(300)), f"the {number}. time"])


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A folder with shards whose join takes a while, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("busy")
    for shard in range(3):
        texts = [alike(1000 * shard + number) for number in range(350)]
        write_shard(folder / f"s{shard}.jsonl", [*BIRDS[shard:], *texts])
    shards = tuple(str(folder / f"s{shard}.jsonl") for shard in range(3))
    digests = {name: digest(Path(name)) for name in shards}
    plan = Plan(folder / "alone/work/x", shards, (), digests, Dedup(), 2, folder / "alone")
    for stage in STAGES:
        for task in range(plan.tasks(stage)):
            run_task(plan, stage, task)
    return folder, results(plan.output)


def results(folder: Path) -> dict[str, bytes]:
    """The files of a finished dedup, but work and report."""
    files = [*folder.glob("*"), *(folder / "dropped").glob("*")]
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in files
        if file.is_file() and file.name != "report.json"
    }


def work(output: Path) -> Path:
    """The work folder of the only plan that was finished."""
    (folder,) = {file.parents[1] for file in (output / "work").glob("*/keep/rows.npz")}
    return folder


def markers(output: Path) -> dict[str, int]:
    """When each task was done."""
    found = (output / "work").glob("*/*/logs/completions/*")
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in found}


def family(mark: str) -> dict[int, int]:
    """pid -> parent of all processes that were started with MARK=mark, now."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"MARK={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
                found[int(folder.name)] = int(parent)
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def workers(command: Popen[str], mark: str) -> list[int]:
    """The processes that do tasks: children of a child (the fork server) of the command."""
    parents = family(mark)
    return [pid for pid, parent in parents.items() if parent != command.pid and parent in parents]


def all_gone(mark: str) -> bool:
    """Whether every process of the family ends within a minute."""
    for pid in family(mark):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended, _, _ = select.select([descriptor], [], [], 60)
        os.close(descriptor)
        if not ended:
            return False
    return not family(mark)


def start_busy(folder: Path, output: Path, mark: str) -> Popen[str]:
    """The command on the busy shards, when two workers are in the middle of the join."""
    shards = sorted(folder.glob("s*.jsonl"))
    command = start(
        "dedup", *shards, "--executor", "local", "--tasks", 2, "-o", output, cwd=folder, MARK=mark
    )

    def joining() -> bool:
        logs = output.glob("work/*/join/logs/logs/task_*.log")
        found = re.findall(r"process (\d+) on", "".join(log.read_text() for log in logs))
        return len(found) == 2 and set(map(int, found)) == set(workers(command, mark))

    wait_until(command, joining)
    assert not list(output.glob("work/*/join/logs/completions/*"))
    return command


def mixed_shards(folder: Path) -> list[str]:
    """Five shards of three forms, in a folder whose name has a space; named from above it."""
    source = folder / "my shards"
    source.mkdir()
    openings = ("Draw a small", "Describe that old", "Sell me the", "Paint every single")
    nouns = ("red house", "blue wooden boat", "tree by the lake", "cat") * 15
    texts = [f"{opening} {noun}" for opening in openings for noun in nouns]
    texts = [f"{text} number {n % 7}" for n, text in enumerate(texts)]
    for shard in range(3):
        write_shard(source / f"{shard}.jsonl", texts[40 * shard : 40 * shard + 40])
    lines = b"".join(map(json_line, rows_of(texts[120:180])))
    (source / "3.jsonl.gz").write_bytes(gzip.compress(lines))
    table = pyarrow.Table.from_pylist(rows_of(texts[180:]))
    parquet.write_table(table, source / "4.parquet", compression="zstd")
    return [f"my shards/{name}" for name in sorted(file.name for file in source.iterdir())]


def kept_texts(output: Path) -> list[str]:
    """Those of the shards made by `mixed_shards`, in order."""
    texts = [row["instruction"] for n in range(3) for _, row in read_jsonl(output / f"{n}.jsonl")]
    zipped = gzip.decompress((output / "3.jsonl.gz").read_bytes())
    texts += [json.loads(line)["instruction"] for line in zipped.splitlines()]
    rows: list[dict[str, Any]] = parquet.read_table(output / "4.parquet").to_pylist()
    return texts + [row["instruction"] for row in rows]


def test_shards_of_all_forms_in_two_processes(tmp_path: Path) -> None:
    names = mixed_shards(tmp_path)
    command = ["dedup", *names, "--executor", "local", "--tasks", 2, "-o", "out put", "--json"]
    source, output = tmp_path / "my shards", tmp_path / "out put"

    # A malformed row is named; mended, the same command does what it should.
    whole = (source / "1.jsonl").read_text()
    (source / "1.jsonl").write_text(whole.replace('"output"', "output", 1))
    done = run(*command, cwd=tmp_path, code=3)
    assert "my shards/1.jsonl:1: not a JSON line" in done.stderr
    assert results(output) == {}
    (source / "1.jsonl").write_text(whole)
    report = json.loads(run(*command, cwd=tmp_path).stdout)

    # The decisions are those of one machine, and the rows are as they were.
    one = json.loads(run("dedup", *names, "-o", "one.jsonl", "--json", cwd=tmp_path).stdout)
    for name in ("read", "kept", "dropped", "duplicates", "threshold", "without_words"):
        assert report[name] == one[name]
    assert report["dropped"] > 100
    kept = kept_texts(output)
    assert kept == [row["instruction"] for _, row in read_jsonl(tmp_path / "one.jsonl")]
    for n in range(3):
        before = set((source / f"{n}.jsonl").read_bytes().splitlines())
        assert set((output / f"{n}.jsonl").read_bytes().splitlines()) <= before
    schemas = [parquet.read_schema(folder / "4.parquet") for folder in (source, output)]
    assert schemas[0].equals(schemas[1], check_metadata=True)
    assert parquet.read_metadata(output / "4.parquet").row_group(0).column(0).compression == "ZSTD"
    dropped = [
        row["score"] for n in range(5) for _, row in read_jsonl(output / f"dropped/{n}.jsonl")
    ]
    assert dropped == [row["score"] for _, row in read_jsonl(tmp_path / "one.dropped.jsonl")]

    # Each task was in a process other than the command's, of some stages in two.
    pids: dict[str, set[str]] = {}
    logs = list(work(output).glob("*/logs/logs/task_*.log"))
    for log in logs:
        found = re.search(r"process (\d+) on", log.read_text())
        assert found is not None
        pids.setdefault(log.parents[2].name, set()).add(found[1])
    assert len(logs) == 5 + 1 + 5 + 2 + 1 + 5
    assert max(map(len, pids.values())) == 2

    # The same command again does what is missing, and nothing else.
    finished, files = markers(output), results(output)
    (output / "1.jsonl").unlink()
    (output / "dropped/4.jsonl").unlink()
    run(*command, cwd=tmp_path)
    assert results(output) == files
    again = {
        Path(name).parts[-4:] for name, when in markers(output).items() if when != finished[name]
    }
    assert again == {("write", "logs", "completions", f"0000{task}") for task in (1, 4)}

    # Other settings write their own results, and the first ones theirs again.
    run(*command, "--threshold", 1, cwd=tmp_path)
    assert (output / "1.jsonl").read_bytes() == (source / "1.jsonl").read_bytes()
    run(*command, cwd=tmp_path)
    assert results(output) == files


def test_a_killed_process_is_replaced(busy: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    folder, expected = busy
    command = start_busy(folder, tmp_path / "out", "killed worker")
    os.kill(workers(command, "killed worker")[0], signal.SIGKILL)
    stderr = command.communicate()[1]
    assert command.returncode == 0, stderr
    assert "a process of join was killed; its tasks are done again" in stderr
    assert results(tmp_path / "out") == expected
    assert all_gone("killed worker")


def test_a_killed_command_leaves_nothing_running_and_goes_on(
    busy: tuple[Path, dict[str, bytes]], tmp_path: Path
) -> None:
    folder, expected = busy
    output = tmp_path / "out"
    command = start_busy(folder, output, "stopped")
    command.terminate()
    _, stderr = command.communicate()
    assert command.returncode == 143
    assert "the same command goes on from here" in stderr
    assert all_gone("stopped")
    done = markers(output)
    assert len(done) == 3 + 1 + 3  # it did not wait for the join

    command = start_busy(folder, output, "killed")
    left = family("killed")
    assert len(left) >= 4  # command, fork server, two workers
    command.kill()
    command.communicate()
    assert all_gone("killed")
    assert markers(output) == done
    assert results(output) == {}

    shards = sorted(folder.glob("s*.jsonl"))
    run("dedup", *shards, "--executor", "local", "--tasks", 2, "-o", output, cwd=folder)
    assert results(output) == expected
    after = markers(output)
    assert {name: after[name] for name in done} == done
    assert read_json(output / "report.json")["kept"] == 4
    # What only unfinished work needs is gone, and no half-written file is left.
    assert not [*work(output).glob("count/*.*"), *work(output).glob("join/*.*")]
    assert not list(output.rglob("*.tmp"))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of files that are shards, and of some that are not."""
    for folder in ("there", "dropped"):
        (tmp_path / folder).mkdir()
    for name in ("a.jsonl", "there/a.jsonl", "dropped/a.jsonl", "a.parquet", "list.json"):
        write_shard(tmp_path / name, BIRDS)
    return tmp_path


@pytest.mark.parametrize(
    ("shards", "settings", "output", "message"),
    [
        ("a.jsonl list.json", {}, "out", "list.json: not a shard"),
        ("hub:some/set", {}, "out", "hub:some/set: not a shard"),
        ("a.jsonl there/a.jsonl", {}, "out", "two shards of one name"),
        ("a.jsonl a.parquet", {}, "out", "two shards of one name"),
        ("there/a.jsonl", {}, "there", "would overwrite there/a.jsonl"),
        ("a.jsonl", {"against": ["there/a.jsonl"]}, "there", "would overwrite there/a.jsonl"),
        ("dropped/a.jsonl", {}, ".", "would overwrite dropped/a.jsonl"),
        ("a.jsonl", {"against": ["./a.jsonl"]}, "out", "is one of the shards"),
        ("a.jsonl", {"against": ["hub:some/set"]}, "out", "tasks read files"),
        ("a.jsonl", {"keep": "longest"}, "out", "dedup.keep does not go"),
        ("a.jsonl", {"decontaminate": ["list.json"]}, "out", "dedup.decontaminate does"),
        ("a.jsonl", {"semantic": 0.9}, "out", "dedup.semantic does not go"),
    ],
)
def test_what_is_no_shard_is_refused(
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    shards: str,
    settings: dict[str, Any],
    output: str,
    message: str,
) -> None:
    monkeypatch.chdir(files)
    before = tree(files)
    with pytest.raises(UsageError, match=message):
        dedupe_shards(
            shards.split(),
            Dedup.model_validate(settings),
            Progress(Console(file=StringIO())),
            Path(output),
            executor="local",
            tasks=2,
            options={},
        )
    assert tree(files) == before


SLURM = "a.jsonl --executor slurm -o out --executor-option partition=x --executor-option time=1"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("a.jsonl --executor local", 2, "needs FILES, the shards, and -o FOLDER"),
        ("a.jsonl --executor local --executor-option partition -o out", 2, "write KEY=VALUE"),
        (
            "a.jsonl --executor local --executor-option partition=x -o out",
            2,
            "is for slurm and ray",
        ),
        ("a.jsonl no.jsonl --executor local -o out", 3, "no.jsonl: cannot read: No such file"),
        ("a.jsonl --executor ray -o out", 2, "--executor ray needs Ray"),
        ("a.jsonl --executor slurm -o out", 2, "--executor slurm needs a partition"),
        (f"{SLURM} --executor-option partiton=y", 2, 'did you mean "partition"?'),
        (f"{SLURM} --executor-option cpus_per_task=two", 2, "cpus_per_task=two: must be a number"),
        (SLURM, 2, "Slurm does not take the count job: [Errno 2] No such file or directory"),
    ],
)
def test_wrong_arguments(files: Path, arguments: str, code: int, message: str) -> None:
    if "needs Ray" in message and importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed")
    before = tree(files)
    # No Slurm on this path, whatever there is on this machine.
    done = run("dedup", *arguments.split(), cwd=files, code=code, PATH=str(files))
    assert message in done.stderr
    assert {name: data for name, data in tree(files).items() if "work" not in name} == before


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }
