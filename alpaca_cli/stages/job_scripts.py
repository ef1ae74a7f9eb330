"""What starts a training elsewhere (`train --print-launch`): text to read, change and submit.

    torchrun   the command for each machine, without a parent process of ours
    slurm      a batch script: one `alpaca train` per machine, saved and requeued at the time limit
    sky        a SkyPilot task: one `alpaca train` per machine

Nothing is started or written here, and nobody is asked whether such machines exist.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.hardware import Gpu, parse_machine
from alpaca_cli.core.settings import Recipe
from alpaca_cli.model.launch import Meeting, check_batch, choose_gpus, torchrun, wants_cpu

ANY = 1 << 16  # GPUs that a machine we do not see may have
CORES = 8  # asked for per process: workers compute on the GPU and read ahead
RENDEZVOUS_PORT = 29500  # torch's own choice; a machine of SkyPilot's is ours alone
# SkyPilot names few cards by their size.
SKY_SIZED = {"A100-80GB", "V100-32GB"}


@dataclass(frozen=True, slots=True)
class _Machine:
    """One of the machines: `gpus` of it are used, none for a training on CPU."""

    gpus: int | None
    """None: as many as there are."""
    flag: str
    """What `--gpus` says there."""
    processes: int
    card: Gpu | None
    cards: int


def job_script(
    launcher: str, arguments: Sequence[str], recipe: Recipe, machine: str | None = None
) -> str:
    """The text for one launcher.

    Args:
        launcher: `torchrun`, `slurm` or `sky`.
        arguments: of `alpaca train`, without those that say where it runs.
        machine: GPUs of one machine, such as `8xA100-80GB`.

    Raises:
        UsageError: something has to be known that neither recipe nor arguments say.
    """
    here = _machine(recipe, machine)
    if here.gpus is not None:
        check_batch(recipe.train.global_batch, here.processes * recipe.train.nodes)
    write = {"torchrun": _torchrun, "slurm": _slurm, "sky": _sky}[launcher]
    return write(arguments, recipe, here)


def _machine(recipe: Recipe, machine: str | None) -> _Machine:
    settings = recipe.train
    cards, card = parse_machine(machine) if machine else (0, None)
    if wants_cpu(settings.gpus):
        processes = choose_gpus(settings.gpus, 0).processes
        return _Machine(0, f"cpu:{processes}", processes, None, 0)
    named = settings.gpus != "auto"
    count = len(choose_gpus(settings.gpus, ANY).gpus) if named else cards or None
    return _Machine(count, str(count or "auto"), count or 1, card, cards or count or 0)


def _torchrun(arguments: Sequence[str], recipe: Recipe, here: _Machine) -> str:
    settings = recipe.train
    meeting = None
    said = "# torchrun itself ends with 1 when it is stopped, also after a saved checkpoint."
    if settings.nodes > 1:
        if not settings.rendezvous:
            raise UsageError(
                f"train.nodes: {settings.nodes} machines need a place to meet",
                hint="add --rendezvous HOST:PORT, the name of one of them and a free port there",
            )
        meeting = Meeting(settings.nodes, settings.rendezvous, settings.run_id or recipe.name)
        said += (
            f"\n# On each of the {settings.nodes} machines, with the run folder on a shared disk:"
        )
    processes = "gpu" if here.gpus is None else here.processes
    device = [] if here.gpus != 0 else ["--gpus", here.flag]
    address = None if meeting else "localhost"
    command = torchrun(processes, meeting, address, ["train", *arguments, *device])
    chosen = str(settings.gpus)
    visible = f"CUDA_VISIBLE_DEVICES={chosen} " if "," in chosen else ""
    return f"{said}\n{visible}{shlex.join(command)}\n"


def _slurm(arguments: Sequence[str], recipe: Recipe, here: _Machine) -> str:
    if here.gpus is None:
        raise UsageError(
            "--print-launch slurm: how many GPUs does a machine have?", hint="add --gpus 8"
        )
    nodes = recipe.train.nodes
    gpus = f"#SBATCH --gpus-per-node={here.gpus}\n" if here.gpus else ""
    meeting, told = "", ""
    if nodes > 1:
        meeting = SLURM_MEETING
        told = (
            ' --nodes "$SLURM_JOB_NUM_NODES" --rendezvous "$head:$port" '
            '--run-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"'
        )
    command = [sys.executable, "-m", "alpaca_cli", "train", *arguments, "--gpus", here.flag]
    return SLURM.format(
        name=recipe.name,
        nodes=nodes,
        gpus=gpus,
        cores=CORES * here.processes,
        folder=shlex.quote(str(Path.cwd())),
        meeting=meeting,
        command=shlex.join(command) + told,
    )


# Literal braces are doubled: this is a format.
SLURM = """\
#!/bin/bash
#SBATCH --job-name=alpaca-{name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --cpus-per-task={cores}
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
# Before the time limit Slurm sends USR1 to the tasks that srun started, which are the `alpaca
# train` of every machine; each has its workers save a checkpoint and ends with 143. With `B:` only
# this script would get the signal, and would have to hand it on. The 300 s are for saving: large
# models on slow disks need more.
#SBATCH --signal=USR1@300
# Your cluster may also want --partition, --account, --mem=0 or --exclusive.

cd {folder} || exit 1
{meeting}# A machine that has ended must not take the others, which may still be saving, with it.
# Since Slurm 22.05 srun does not take the number of cores from sbatch.
srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \\
    {command}
code=$?
# 143: stopped with a checkpoint saved, so the job goes back to the queue and goes on from there.
# A plain `scancel` ends this script, too, before it comes to this line.
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""
SLURM_MEETING = """\
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000))  # jobs may share a machine
"""


def _sky(arguments: Sequence[str], recipe: Recipe, here: _Machine) -> str:
    if here.gpus is None or (here.gpus and here.card is None):
        raise UsageError(
            "--print-launch sky: which GPUs does a machine have?", hint="add --on 8xA100-80GB"
        )
    nodes = recipe.train.nodes
    resources = f"cpus: {CORES * here.processes}+"
    if here.card is not None:
        resources = f"accelerators: {_sky_name(here.card)}:{here.cards}"
    lines, told = [], ""
    if nodes > 1:
        lines.append('head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)')
        lines.append('echo "machine $SKYPILOT_NODE_RANK of $SKYPILOT_NUM_NODES, meeting at $head"')
        told = (
            f' --nodes "$SKYPILOT_NUM_NODES" --rendezvous "$head:{RENDEZVOUS_PORT}" '
            '--run-id "$SKYPILOT_TASK_ID"'
        )
    lines.append(shlex.join(["alpaca", "train", *arguments, "--gpus", here.flag]) + told)
    ours = {k: v for k, v in sorted(os.environ.items()) if k.startswith("ALPACA_")}
    environment = "".join(f"  {key}: {json.dumps(value)}\n" for key, value in ours.items())
    return SKY.format(
        name=json.dumps(f"alpaca-{recipe.name}"),
        resources=resources,
        nodes=nodes,
        environment=f"envs:\n{environment}" if environment else "",
        run=indent("\n".join(lines), "  "),
    )


def _sky_name(card: Gpu) -> str:
    return card.name if card.name in SKY_SIZED else re.sub(r"-\d+GB$", "", card.name)


SKY = """\
# sky launch this-file.yaml; `sky show-gpus` lists the names of accelerators.
name: {name}
resources:
  {resources}
num_nodes: {nodes}
# A checkout of alpaca-cli with the data in it. Paths below are relative to it.
workdir: .
# What must outlive the machines, and be shared by several of them, is the run folder: mount a
# volume and name a folder in it with `--run`. Buckets cannot append, rename or lock files.
# volumes:
#   /runs: your-volume
{environment}setup: |
  set -e
  pip install -c constraints.txt .
run: |
{run}
"""
