"""The flags of `alpaca train`: what excludes what, and what is asked of the modes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from alpaca_cli.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dry-run", "--selfcheck"], "--dry-run and --selfcheck exclude each other"),
        (["--inspect", "3", "--dry-run"], "--inspect and --dry-run exclude each other"),
        (["--on", "8xH100"], "--on goes with --dry-run or --print-launch"),
        (["--inspect", "3", "--on", "8xH100"], "--on goes with --dry-run or --print-launch"),
        (["--nodes", "0"], "train.nodes"),
    ],
)
def test_flags_that_do_not_go_together(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "rows.jsonl", *arguments])
    assert done.exit_code == 2
    assert said in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_printed_launch_is_the_same_training_elsewhere() -> None:
    asked = ["train", "rows.jsonl", "--model", "me/tiny", "--set", "train.epochs=1", "--run", "x y"]
    more = ["--gpus", "2", "--nodes", "2", "--fresh", "--print-launch", "slurm"]
    done = CliRunner().invoke(app, [*asked, *more])
    assert done.exit_code == 0, done.stderr
    again = "train rows.jsonl --run 'x y' --set train.epochs=1 --model me/tiny --fresh --gpus 2"
    assert again in done.stdout
    assert "#SBATCH --nodes=2\n" in done.stdout


def test_a_printed_launch_has_the_recipe_keys_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ALPACA_TRAIN__EPOCHS", "2")
    monkeypatch.setenv("ALPACA_RUNS", "elsewhere")
    asked = ["train", "rows.jsonl", "--set", "seed=1", "--gpus", "2", "--print-launch", "sky"]
    done = CliRunner().invoke(app, [*asked, "--on", "2xA100-80GB"])
    assert done.exit_code == 0, done.stderr
    assert "train rows.jsonl --set train.epochs=2 --set seed=1 --gpus 2" in done.stdout
