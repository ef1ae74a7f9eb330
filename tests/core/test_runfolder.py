"""The run folder: up to date, changed, resumed, locked; and nothing deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_cli.core.errors import DataError, TryAgain, UsageError
from alpaca_cli.core.files import atomic_file, write_jsonl
from alpaca_cli.core.runfolder import RunFolder, StageFolder, newest_model

HOLDER = """
import sys
from pathlib import Path
from alpaca_cli.core.runfolder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def stage(tmp_path: Path) -> StageFolder:
    return RunFolder(tmp_path).stage("dedup")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    write_jsonl(path, [{"a": 1}])
    return path


def finish(stage: StageFolder, source: Path, threshold: float = 0.7) -> None:
    write_jsonl(stage / "kept.jsonl", [{"b": 2}])
    stage.finish({"kept": 1}, {"dedup": {"threshold": threshold}}, {"in": source}, ["kept.jsonl"])


def test_the_same_work_is_up_to_date(stage: StageFolder, source: Path) -> None:
    settings = {"dedup": {"threshold": 0.7}}
    assert stage.open(settings, {"in": source}) is None
    finish(stage, source)
    assert stage.open(settings, {"in": source}) == {"kept": 1}
    assert stage.report() == {"kept": 1}


def test_changed_work_is_refused_by_name_and_moved_aside_when_told(
    stage: StageFolder, source: Path
) -> None:
    finish(stage, source)
    write_jsonl(source, [{"a": 2}])
    with pytest.raises(UsageError) as caught:
        stage.open({"dedup": {"threshold": 0.6}}, {"in": source})
    assert "dedup.threshold: was 0.7, now 0.6" in str(caught.value)
    assert "in: the file's content changed" in str(caught.value)
    assert "dedup.old-1" in caught.value.hint
    assert stage.open({"dedup": {"threshold": 0.6}}, {"in": source}, fresh="changed") is None
    assert not stage.path.exists()
    assert (stage.path.with_name("dedup.old-1") / "kept.jsonl").read_bytes() == b'{"b":2}\n'
    finish(stage, source)
    assert stage.open({"dedup": {"threshold": 0.7}}, {"in": source}, fresh="always") is None
    assert stage.path.with_name("dedup.old-2").is_dir()


def test_a_changed_output_is_noticed(stage: StageFolder, source: Path) -> None:
    finish(stage, source)
    (stage / "kept.jsonl").write_bytes(b"")
    with pytest.raises(UsageError, match=r"kept\.jsonl: missing or changed"):
        stage.open({"dedup": {"threshold": 0.7}}, {"in": source})


def test_unfinished_work_is_resumed_only_with_its_settings(
    stage: StageFolder, source: Path
) -> None:
    stage.begin({"rate": 1}, {"in": source})
    assert stage.open({"rate": 1}, {"in": source}) is None
    with pytest.raises(UsageError, match="rate: was 1, now 2"):
        stage.open({"rate": 2}, {"in": source})


def test_a_second_process_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    with (
        pytest.raises(TryAgain, match=rf"pid {first.pid}\)") as caught,
        RunFolder(tmp_path).lock(),
    ):
        raise AssertionError("two processes hold one run")
    assert caught.value.exit_code == 75
    first.kill()  # a dead holder holds nothing
    first.communicate()
    with RunFolder(tmp_path).lock():
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()}\n"


def half_written(path: Path) -> None:
    with atomic_file(path) as file:
        file.write(b"half of the new")
        raise ZeroDivisionError


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        half_written(path)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_folder_that_cannot_be_written_is_one_message() -> None:
    with pytest.raises(UsageError, match="cannot write"), RunFolder(Path("/proc/runs/x")).lock():
        raise AssertionError


def test_the_newest_model_is_the_one_finished_last(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished training run"):
        newest_model(tmp_path)
    for age, name in ((30, "a"), (10, "b"), (20, "c")):
        done = tmp_path / name / "train" / "done.json"
        done.parent.mkdir(parents=True)
        done.write_text("{}")
        os.utime(done, (1_000_000 - age, 1_000_000 - age))
    assert newest_model(tmp_path) == tmp_path / "b" / "train" / "final"
