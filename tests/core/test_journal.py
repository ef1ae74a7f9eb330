"""The journal: what was appended is there after any crash; damage is refused."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import json_line
from alpaca_cli.core.journal import Journal

WRITER = """
import sys
from pathlib import Path
from alpaca_cli.core.journal import Journal
journal = Journal(Path(sys.argv[1]))
n = 0
while True:
    journal.append([{"n": n, "text": "x" * 500}, {"n": n + 1, "text": "y"}])
    n += 2
    print(n, flush=True)
"""


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    with Journal(tmp_path / "deep" / "journal.jsonl") as journal:
        journal.append([{"n": 0}, {"n": 1, "text": "zeile\n\u2028ü"}])
        journal.append([{"n": 2}])
        assert [row["n"] for row in journal] == [0, 1, 2]
    assert (tmp_path / "deep" / "journal.jsonl").stat().st_mode & 0o777 == 0o600


@given(cut=st.integers(0, 200))
def test_any_truncation_leaves_a_prefix(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "journal.jsonl"
    rows = [{"n": n, "text": "ab" * n} for n in range(8)]
    data = b"".join(map(json_line, rows))
    path.write_bytes(data[: min(cut, len(data))])
    with Journal(path) as journal:
        kept = list(journal)
        assert kept == rows[: len(kept)]
        assert journal.torn_bytes == len(data[:cut]) - len(b"".join(map(json_line, kept)))
        journal.append(rows[len(kept) :])
        assert list(journal) == rows


def test_a_killed_writer_loses_nothing_it_was_told_is_safe(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    confirmed = 0
    for line in writer.stdout:
        confirmed = int(line)
        if confirmed >= 40:
            break
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with Journal(path) as journal:
        numbers = [row["n"] for row in journal]
    assert len(numbers) >= confirmed
    assert numbers == list(range(len(numbers)))


def test_damage_in_the_middle_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n":0}\n{"n":\n{"n":2}\n')
    with Journal(path) as journal, pytest.raises(DataError, match=r"journal\.jsonl:2: not a JSON"):
        list(journal)


def test_a_place_that_cannot_be_written_is_one_message() -> None:
    with pytest.raises(UsageError, match="cannot write"):
        Journal(Path("/proc/no-such/journal.jsonl"))
