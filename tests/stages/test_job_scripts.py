"""What `train --print-launch` writes: read, parsed by bash, and run, with Slurm's and SkyPilot's
parts played by small programs.

The line for torchrun is run in tests/stages/test_launch.py.
"""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.files import write_jsonl
from alpaca_cli.core.recipe import load_recipe
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.job_scripts import job_script
from tests.processes import COMMAND, environment, free_port, lines, run, wait_until
from tests.training import ROWS, SMALL, sets

LIMIT = 240  # seconds in which what was asked to end has ended, on a busy machine, too

# As srun does: the task of every node, in parallel; ends when all have, with the highest code.
SRUN = """\
#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
declare -a tasks
for node in $(seq "$SLURM_JOB_NUM_NODES"); do
    "$@" & tasks+=($!)
done
echo "${tasks[@]}" > tasks
highest=0
for task in "${tasks[@]}"; do
    wait "$task"; code=$?
    (( code > highest )) && highest=$code
done
exit "$highest"
"""
SCONTROL = """\
#!/bin/bash
case "$1" in
    show) printf '127.0.0.1\\nother-node\\n' ;;
    requeue) echo "$2" >> requeued ;;
esac
"""


def recipe(*pairs: str) -> Recipe:
    return load_recipe(None, overrides=pairs, environment={})


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def parses(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def bash(script: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    """The script as a job: our small programs come first in its PATH."""
    path = f"{cwd / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "-c", script],
        cwd=cwd,
        env=environment(PYTHONPATH=os.getcwd(), PATH=path, **variables),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    here = tmp_path / "it's here"  # names that need quoting
    here.mkdir()
    write_jsonl(here / "my rows.jsonl", ROWS)
    return here


@pytest.mark.slow
def test_a_slurm_job_is_saved_requeued_and_goes_on(folder: Path) -> None:
    asked = ["train", "my rows.jsonl", *SMALL, *sets("train.epochs=40"), "--run", "a run"]
    script = run(
        *asked, "--gpus", "cpu:1", "--nodes", "2", "--print-launch", "slurm", cwd=folder
    ).stdout
    parses(script)
    assert not (folder / "a run").exists()  # nothing was started or written
    program(folder / "bin", "srun", SRUN)
    program(folder / "bin", "scontrol", SCONTROL)
    job = str(free_port())  # another one is made from it, which is as likely to be free
    slurm = {
        "SLURM_JOB_ID": job, "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_PER_TASK": "8",
    }  # fmt: skip

    first = bash(script, folder, **slurm)
    history = folder / "a run" / "train" / "log.jsonl"
    wait_until(first, lambda: lines(history) >= 6)
    for task in (folder / "tasks").read_text().split():
        os.kill(int(task), signal.SIGUSR1)  # as Slurm does before the time limit
    said = first.communicate(timeout=LIMIT)[1]
    assert first.returncode == 143, said
    assert (folder / "requeued").read_text() == f"{job}\n"
    saved = sorted((folder / "a run" / "train" / "checkpoints").iterdir())[-1].name
    assert saved == f"step-{lines(history):06}"

    second = bash(script, folder, SLURM_RESTART_COUNT="1", **slurm)
    out, said = second.communicate(timeout=LIMIT)
    assert second.returncode == 0, said
    assert f"resuming at step {int(saved.removeprefix('step-'))} of 280" in said
    assert out.count("tokens/s") == 1
    assert (folder / "a run" / "train" / "done.json").is_file()
    assert (folder / "requeued").read_text() == f"{job}\n"


@pytest.mark.slow
def test_a_skypilot_task_runs(folder: Path) -> None:
    asked = ["train", "my rows.jsonl", *SMALL, "--run", "a run"]
    text = run(
        *asked, "--gpus", "cpu:1", "--nodes", "2", "--print-launch", "sky", cwd=folder,
        ALPACA_TRAIN__SAVE_EVERY="7",
    ).stdout  # fmt: skip
    task = yaml.safe_load(text)
    assert task["num_nodes"] == 2
    assert task["resources"] == {"cpus": "8+"}
    assert task["envs"] == {"ALPACA_TRAIN__SAVE_EVERY": "7"}
    parses(task["setup"])
    parses(task["run"])
    program(folder / "bin", "alpaca", f'#!/bin/bash\nexec {shlex.join(COMMAND)} "$@"\n')
    # Others may use SkyPilot's fixed port here.
    block = task["run"].replace("29500", str(free_port()))
    nodes = [
        bash(
            block, folder, SKYPILOT_NODE_IPS="127.0.0.1\n127.0.0.2", SKYPILOT_NUM_NODES="2",
            SKYPILOT_NODE_RANK=str(rank), SKYPILOT_TASK_ID="sky-2026-01-01_task",
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [node.communicate(timeout=LIMIT) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    assert sum(out.count("tokens/s") for out, _ in ends) == 1
    assert "meeting at 127.0.0.1" in ends[0][0]
    assert (folder / "a run" / "train" / "done.json").is_file()


def test_gpus_of_a_slurm_job() -> None:
    settings = recipe("train.gpus=8", "train.nodes=2", "name=big")
    script = job_script("slurm", ["a b.jsonl", "--fresh"], settings)
    parses(script)
    asked = [line.removeprefix("#SBATCH ") for line in script.splitlines() if "#SBATCH" in line]
    assert {
        "--job-name=alpaca-big", "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=8",
        "--cpus-per-task=64", "--requeue", "--signal=USR1@300",
    } <= set(asked)  # fmt: skip
    assert f"{sys.executable} -m alpaca_cli train 'a b.jsonl' --fresh --gpus 8 --nodes" in script
    # One machine has nobody to meet.
    alone = job_script("slurm", [], recipe("train.gpus=0,1"))
    parses(alone)
    assert "--rendezvous" not in alone
    assert "--gpus-per-node=2" in alone


def test_cards_of_a_skypilot_task() -> None:
    def accelerators(settings: Recipe, machine: str) -> Any:
        task = yaml.safe_load(job_script("sky", ["x.jsonl"], settings, machine))
        return task["resources"]["accelerators"], task["run"].strip()

    auto = recipe("train.gpus=auto")
    assert accelerators(auto, "8xA100-80GB") == (
        "A100-80GB:8", "alpaca train x.jsonl --gpus 8"
    )  # fmt: skip
    assert accelerators(auto, "h100")[0] == "H100:1"
    assert accelerators(recipe("train.gpus=4"), "8xH100") == (
        "H100:8", "alpaca train x.jsonl --gpus 4"
    )  # fmt: skip


def test_torchrun_for_several_machines() -> None:
    met = recipe("train.nodes=2", "train.rendezvous=a:1", "train.gpus=0,1", "name=it")
    text = job_script("torchrun", ["it's.jsonl"], met)
    assert "On each of the 2 machines" in text
    command = shlex.split(text.splitlines()[-1])
    assert command[0] == "CUDA_VISIBLE_DEVICES=0,1"
    joined = " ".join(command)
    assert "--nnodes 2" in joined
    assert "--rdzv-endpoint a:1 --rdzv-id it" in joined
    assert joined.endswith("-m -- alpaca_cli train it's.jsonl")
    # As many as there are, where it is started.
    assert "--nproc-per-node gpu" in job_script("torchrun", [], recipe())


@pytest.mark.parametrize(
    ("launcher", "pairs", "machine", "said"),
    [
        ("slurm", [], None, "how many GPUs"),
        ("sky", ["train.gpus=8"], None, "which GPUs"),
        ("sky", [], "8xA1000", "no card"),
        ("torchrun", ["train.nodes=2"], None, "need a place to meet"),
        ("slurm", ["train.gpus=3", "train.global_batch=128"], None, "does not split over 3"),
    ],
)
def test_what_has_to_be_said(
    launcher: str, pairs: list[str], machine: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        job_script(launcher, [], recipe(*pairs), machine)
