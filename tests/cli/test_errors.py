"""Wrong input ends in one clear message with its exit code, and loses nothing."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.processes import COMMAND, environment, lines, run, start, wait_until

ROW = json.dumps({"instruction": "Add one and one.", "input": "", "output": "2", "by": "me"})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text(f"{ROW}\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dedup", "none.json", "-o", "out.json"], 3, "none.json: cannot read: No such file"),
        (["stats", "broken.jsonl"], 3, "broken.jsonl:2: not a JSON line"),
        (["seed", "nameless.json"], 3, 'nameless.json#1: field "instruction" is missing'),
        (["dedup", "data.jsonl", "--set", "dedup.treshold=1"], 2, 'did you mean "threshold"?'),
        (["dedup", "data.jsonl", "--threshold", "7"], 2, "--threshold: dedup.threshold: "),
        (["run", "--recipe", "quickstrat"], 2, 'did you mean "quickstart"?'),
        (["generate", "--set", "generate.target=none"], 2, "--set generate.target: "),
        (["dedup", "data.jsonl", "-o", "out.csv"], 2, "out.csv: unknown output format"),
        (["dedup", "data.jsonl", "--against", "none.json"], 3, "none.json: cannot read: No such"),
        (["dedup", "data.jsonl", "--against", "broken.jsonl"], 3, "broken.jsonl:2: not a JSON"),
        (["dedup", "data.jsonl", "--against", "data.jsonl"], 2, "is one of the files to dedup"),
        (["dedup", "data.jsonl", "--decontaminate", "nameless.json"], 3, "nameless.json#1: field"),
        (["dedup", "data.jsonl", "--keep", "quality"], 3, 'no example has a field "quality"'),
        (["dedup", "data.jsonl", "--keep", "by"], 3, 'data.jsonl:1: field "by" must be a number'),
        (["dedup", "data.jsonl", "--keep", ""], 2, "--keep: dedup.keep: "),
        (["dedup", "data.jsonl", "--key", "input"], 2, "--key: dedup.key: "),
        (["dedup", "data.jsonl", "--threshold", "1.5"], 2, "--threshold: dedup.threshold: "),
        (["dedup", "data.jsonl", "--clusters", "data.jsonl"], 2, "is one of the inputs"),
        (["dedup", "-o", "out.json"], 2, "-o needs FILES"),
        (["dedup", "--clusters", "out.jsonl"], 2, "--clusters needs FILES"),
        (["seed", "--run", "/proc/runs/x"], 2, "/proc/runs/x: cannot write"),
        (["chat", "-p", "hi"], 3, "no finished training run"),
        (["recipes", "copy", "quickstart", "data.jsonl"], 2, "data.jsonl: exists already"),
        (["dedup"], 3, "generate/kept.jsonl"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_message_and_its_code(
    tmp_path: Path, data: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "broken.jsonl").write_text(f'{ROW}\n{{"instruction": "x"\n')
    (tmp_path / "nameless.json").write_text('[{"output": "x"}]')
    done = run(*arguments, cwd=tmp_path, code=code)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    assert data.read_text() == f"{ROW}\n"
    assert not list(tmp_path.glob("out*"))


def test_a_flag_of_no_use_is_refused(tmp_path: Path, data: Path) -> None:
    done = run("dedup", data, "--verify", -1, cwd=tmp_path, code=2)
    assert "Invalid value for '--verify'" in done.stderr


def test_a_second_process_on_the_same_run_is_refused(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from alpaca_cli.core.runfolder import RunFolder\n"
        "with RunFolder(Path('runs/run')).lock(): print('held', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [COMMAND[0], "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    done = run("seed", cwd=tmp_path, code=75)
    holder.communicate()
    assert f"in use by another alpaca process (pid {holder.pid})" in done.stderr


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    shell = f"{' '.join(COMMAND)} recipes schema | head -1"
    done = subprocess.run(
        ["bash", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_help_is_as_wide_as_the_terminal(tmp_path: Path) -> None:
    told = run("chat", "--help", cwd=tmp_path, COLUMNS="60").stdout
    about = told[told.index("At a terminal") : told.index("╭")].split("\n")
    assert all(len(line.rstrip()) > 45 for line in about if line.strip() and "`" not in line)


def test_closed_streams_are_no_error(tmp_path: Path, data: Path) -> None:
    for number, closed in enumerate((">&-", "2>&-", ">&- 2>&- <&-")):
        shell = f"{' '.join(COMMAND)} dedup {data} -o {number}.json {closed}"
        done = subprocess.run(
            ["bash", "-c", shell], cwd=tmp_path, env=environment(), capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert (tmp_path / f"{number}.json").is_file()


def test_a_stdout_without_other_scripts_is_no_error(tmp_path: Path) -> None:
    data = tmp_path / "zh.jsonl"
    data.write_text('{"instruction": "写 一首 诗", "output": "好"}\n' * 2, "utf-8")
    dedup = ("dedup", data, "--tokenizer", "unicode")
    shown = run(*dedup, cwd=tmp_path, PYTHONIOENCODING="ascii").stdout
    assert "\\u5199" in shown
    told = run(*dedup, "--json", cwd=tmp_path, PYTHONIOENCODING="ascii").stdout
    assert json.loads(told)["largest"][0]["text"] == "写 一首 诗"


def test_results_go_to_stdout_and_the_rest_to_stderr(tmp_path: Path, data: Path) -> None:
    done = run("stats", data, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)
    assert done.stderr == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_its_code_and_one_line(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start("generate", "--set", "generate.target=1000000", cwd=tmp_path)
    journal = tmp_path / "runs" / "run" / "generate" / "journal.jsonl"
    wait_until(process, lambda: lines(journal) > 0)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == code
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
