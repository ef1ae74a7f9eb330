"""The train stage and its command: real processes, real kills, real data."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from alpaca_cli.cli import app
from alpaca_cli.core.errors import DataError, UsageError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages import train as stage
from alpaca_cli.stages.plan import plan
from alpaca_cli.stages.training_report import Report
from tests.processes import COMMAND, environment, kill_when, lines, run, start, wait_until
from tests.tiny import save_tiny_model
from tests.training import ROWS, SMALL, STEPS, log, quiet, same_trajectory, sets

# One worker: what the tests share takes long to make.
pytestmark = pytest.mark.xdist_group("train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the data, and a training that nobody interrupted in runs/straight."""
    here = tmp_path_factory.mktemp("train")
    write_jsonl(here / "rows.jsonl", ROWS)
    train(here, "straight")
    return here


def recipe(*sets: str) -> Recipe:
    return load_recipe(None, overrides=[*SMALL[1::2], *sets], environment={})


def train(folder: Path, name: str, *sets: str, progress: Progress | None = None) -> Report:
    """Train in this process, in runs/<name>, on the folder's rows."""
    data = str(folder / "rows.jsonl")
    here = RunFolder(folder / "runs" / name)
    return stage.run(recipe(*sets), here, progress or quiet(), data=data)


def test_what_a_training_leaves_behind(folder: Path) -> None:
    here = folder / "runs" / "straight" / "train"
    found = log(here.parent)
    assert [line["step"] for line in found] == list(range(1, STEPS + 1))
    assert found[-1]["epoch"] == 4
    assert found[-1]["loss"] < 0.5 * found[0]["loss"]
    assert (here / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert sorted(p.name for p in (here / "checkpoints").iterdir()) == [
        "step-000010",
        "step-000020",
    ]
    [key] = (here / "tokens").iterdir()
    assert {"ids.npy", "tokenizer", "about.json"} <= {path.name for path in key.iterdir()}
    done = json.loads((here / "done.json").read_text())
    assert "final/model.safetensors" in done["outputs"]
    report = done["report"]
    assert report["steps"] == STEPS
    assert report["examples"] == len(ROWS)
    assert (report["dropped"], report["truncated"]) == (0, 0)
    assert report["tokens"] == sum(line["tokens"] for line in found)
    assert report["device"] == "cpu"
    assert report["parameters"] == report["trained_parameters"] > 10_000


def test_a_second_call_costs_nothing_and_a_changed_one_is_refused(folder: Path) -> None:
    weights = folder / "runs" / "straight" / "train" / "final" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    said = StringIO()
    progress = Progress(Console(file=said))
    # How the work is done may change: the result is the same.
    again = train(folder, "straight", "train.micro_batch=4", progress=progress)
    assert "up to date" in said.getvalue()
    assert asdict(again) == RunFolder(folder / "runs" / "straight").stage("train").report()
    with pytest.raises(UsageError, match=r"epochs: was 4\.0, now 5\.0") as caught:
        train(folder, "straight", "train.epochs=5")
    assert "--fresh" in caught.value.hint
    (folder / "rows.jsonl").touch()
    assert weights.stat().st_mtime_ns == before


def test_a_template_file_that_changed_is_a_change(folder: Path) -> None:
    file = folder / "template.json"
    texts = {"with_input": "Q: {instruction} {input} A:", "without_input": "Q: {instruction} A:"}
    file.write_text(json.dumps({"name": "mine", **texts}))
    changes = (f"train.template={file}", "train.epochs=0.1")
    train(folder, "template", *changes)
    file.write_text(json.dumps({"name": "mine", **texts, "without_input": "{instruction} ="}))
    with pytest.raises(UsageError, match="template: the file's content changed"):
        train(folder, "template", *changes)


def test_another_model_in_the_folder_of_the_old_one_is_a_change(folder: Path) -> None:
    base = save_tiny_model(folder / "replaced")
    changes = (f"train.model={base}", "train.epochs=0.1")
    train(folder, "replaced", *changes)
    train(folder, "replaced", *changes)
    weights = base / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(UsageError, match="model_files: was"):
        train(folder, "replaced", *changes)


def test_killed_twice_it_ends_as_if_nothing_had_happened(folder: Path) -> None:
    cut = folder / "runs" / "cut"
    arguments = ["train", "rows.jsonl", *SMALL, "--run", "runs/cut"]

    def done(step: int) -> bool:
        return lines(cut / "train" / "log.jsonl") >= step

    for step in (3, 14):  # before the first checkpoint, and between two
        kill_when(start(*arguments, cwd=folder), partial(done, step))
        assert not (cut / "train" / "final").exists()
    said = StringIO()
    train(folder, "cut", progress=Progress(Console(file=said)))
    assert f"resuming at step 10 of {STEPS}" in said.getvalue()
    same_trajectory(cut, folder / "runs" / "straight")


def stop(folder: Path, name: str, number: signal.Signals, code: int, *more: object) -> int:
    """Start a training, send it a signal after four steps; the step it saved."""
    # Checkpoints far apart: the one found afterwards was saved because of the signal.
    arguments = ["train", "rows.jsonl", *SMALL, "--set", "train.save_every=1000", *more]
    process = start(*arguments, "--run", f"runs/{name}", cwd=folder)
    here = folder / "runs" / name / "train"
    wait_until(process, lambda: lines(here / "log.jsonl") >= 4)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == code, said
    assert "the same command goes on" in said
    # The early one, and the one that was asked for (the same when the signal came then).
    saved = sorted((here / "checkpoints").iterdir())[-1]
    step = int(saved.name.removeprefix("step-"))
    assert 4 <= step == lines(here / "log.jsonl")
    return step


def test_asked_to_stop_it_saves_first(folder: Path) -> None:
    step = stop(folder, "stopped", signal.SIGTERM, 143)
    said = StringIO()
    train(folder, "stopped", progress=Progress(Console(file=said)))
    assert f"resuming at step {step} of {STEPS}" in said.getvalue()
    same_trajectory(folder / "runs" / "stopped", folder / "runs" / "straight")


def test_an_adapter_is_trained_resumed_and_names_its_base(folder: Path) -> None:
    base = save_tiny_model(folder / "base")
    sets = [f"train.model={base}", "train.method=lora"]
    stop(folder, "lora", signal.SIGINT, 130, "--set", sets[0], "--set", sets[1])
    report = train(folder, "lora", *sets)
    assert 0 < report.trained_parameters < report.parameters
    assert len(log(folder / "runs" / "lora")) == STEPS
    final = folder / "runs" / "lora" / "train" / "final"
    config = json.loads((final / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == base.resolve()
    assert {"adapter_model.safetensors", "tokenizer.json", "prompt_template.json"} <= {
        path.name for path in final.iterdir()
    }


def test_an_adapter_of_a_hub_model_names_it_by_its_id(folder: Path) -> None:
    repository = folder / "hub" / "models--me--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    save_tiny_model(repository / "snapshots" / ("0" * 40))
    sets = [*SMALL[2:], "--set", "train.method=lora", "--set", "train.epochs=0.5"]
    arguments = ["train", "rows.jsonl", "--model", "me/tiny", *sets, "--run", "hub-lora"]
    run(*arguments, cwd=folder, HF_HOME=str(folder))
    config = json.loads(
        (folder / "hub-lora" / "train" / "final" / "adapter_config.json").read_text()
    )
    assert config["base_model_name_or_path"] == "me/tiny"


def test_a_plan_trains_nothing(folder: Path) -> None:
    here = RunFolder(folder / "runs" / "planned")
    planned = plan(recipe(), here, str(folder / "rows.jsonl"))
    report = RunFolder(folder / "runs" / "straight").stage("train").report()
    assert report is not None
    for key in ("steps", "examples", "tokens", "trained_tokens", "parameters"):
        assert getattr(planned, key) == report[key]
    assert planned.padding == 0
    assert not here.path.exists()


def test_held_out_examples_that_are_trained_on_are_told(folder: Path) -> None:
    held_out = folder / "held-out.jsonl"
    write_jsonl(held_out, [*ROWS[:3], {"instruction": "Say yes.", "output": "yes"}])
    here = RunFolder(folder / "runs" / "held-out")
    planned = plan(recipe(f"train.holdout_file={held_out}"), here, str(folder / "rows.jsonl"))
    assert any("3 of 4 held-out examples are trained on" in note for note in planned.notes)


def test_a_run_trains_on_what_dedup_kept_else_on_what_was_generated(tmp_path: Path) -> None:
    settings, here = recipe("train.epochs=0.2"), RunFolder(tmp_path)
    with pytest.raises(DataError, match="no examples to train on"):
        stage.run(settings, here, quiet())
    write_jsonl(tmp_path / "generate" / "kept.jsonl", ROWS[:20])
    assert plan(settings, here).examples == 20
    write_jsonl(tmp_path / "dedup" / "kept.jsonl", ROWS[:10])
    assert stage.run(settings, here, quiet()).examples == 10


def test_real_instructions_from_the_command_line(tmp_path: Path, real_data: Path) -> None:
    data = real_data / "alpaca_en_demo.json"
    arguments = ["train", data, *SMALL, "--set", "train.epochs=0.05"]
    done = run(*arguments, "--set", "train.max_length=256", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert report["model"] == "runs/alpaca_en_demo/train/final"
    assert report["examples"] + report["dropped"] == len(json.loads(data.read_text()))
    assert "longer than train.max_length (256 tokens): dropped" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["missing.jsonl"], 3, "missing.jsonl"),
        (["broken.jsonl"], 3, "broken.jsonl:2"),
        (["rows.jsonl", "--model", "./no/such/model"], 3, "no/such/model"),
        (["rows.jsonl", "--gpus", "700"], 2, "train.gpus: 700"),
        (["rows.jsonl", "--set", "train.epochs=0"], 2, "train.epochs"),
    ],
)
def test_wrong_input_is_one_message(
    folder: Path, arguments: list[str], code: int, said: str
) -> None:
    (folder / "broken.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruc\n')
    there = Path.cwd()
    os.chdir(folder)
    try:
        done = CliRunner().invoke(app, ["train", *arguments, "--run", "runs/wrong"])
    finally:
        os.chdir(there)
    assert done.exit_code == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "runs" / "wrong" / "train" / "final").exists()


@pytest.fixture
def on_disk(tmp_path: Path, folder: Path) -> Callable[[str, str], subprocess.CompletedProcess[str]]:
    """Runs a shell script in which `$TRAIN` trains in `full/run`, on a disk of the given size."""
    disk = tmp_path / "full"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]

    def script(size: str, text: str) -> subprocess.CompletedProcess[str]:
        mount = f'mount -t tmpfs -o size={size} tmpfs "{disk}" || exit 99\n'
        command = [*COMMAND, "train", "rows.jsonl", *SMALL, *sets("train.epochs=20")]
        train = shlex.join([*command, "--run", str(disk / "run")])
        return subprocess.run(
            [*namespace, f"{mount}cd {folder}\nfull={disk}\ntrain() {{ {train}; }}\n{text}"],
            env=environment(PYTHONPATH=os.getcwd()),
            capture_output=True,
            text=True,
            check=False,
        )

    if not shutil.which("unshare") or script("1m", "exit 0").returncode:
        pytest.skip("no user namespaces here: cannot make a small disk")
    return script


def test_a_disk_too_small_for_the_checkpoints_is_refused_before_the_first_step(
    on_disk: Callable[[str, str], subprocess.CompletedProcess[str]],
) -> None:
    done = on_disk("600k", "train; code=$?; ls $full/run/train; exit $code")
    assert done.returncode == 7, done.stderr
    assert "GB free on the disk, checkpoints and the final model need" in " ".join(
        done.stderr.split()
    )
    assert "log.jsonl" not in done.stdout


def test_a_disk_that_fills_up_ends_in_one_message_and_costs_nothing(
    on_disk: Callable[[str, str], subprocess.CompletedProcess[str]],
) -> None:
    done = on_disk(
        "8m",
        """
        train & child=$!
        until [ -d $full/run/train/checkpoints/step-000010 ]; do sleep 0.02; done
        cat /dev/zero > $full/filler 2>/dev/null
        wait $child; echo first $?
        rm $full/filler
        train; echo second $?
        wc -l < $full/run/train/log.jsonl
        """,
    )
    assert done.stdout.split()[:2] == ["first", "7"], done.stderr
    assert "no space left on the disk" in " ".join(done.stderr.split())
    assert "resuming at step" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split()[-3:] == ["second", "0", "140"]
