"""An export cut short: the folder is there whole, or not at all."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_cli.core.errors import TryAgain
from alpaca_cli.stages.export_folder import new_folder
from tests.processes import environment, kill_when, start
from tests.stages.test_export import equal, exported
from tests.tiny import save_tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("crash") / "model")


def test_kill_9_leaves_nothing_that_looks_whole(model: Path, tmp_path: Path) -> None:
    target, partial = tmp_path / "out", tmp_path / ".out.partial"
    process = start("export", model, target, cwd=tmp_path)
    kill_when(process, lambda: (partial / "model.safetensors").is_file())
    assert not target.exists()
    assert partial.is_dir()
    (partial / "junk.bin").write_bytes(b"left by the killed one")
    exported(model, target)
    assert equal(target, model)
    assert not partial.exists()
    assert not (target / "junk.bin").exists()


ON_A_FULL_DISK = """
import os, sys
from dataclasses import replace
from pathlib import Path
from alpaca_cli.core.errors import AlpacaError
from tests.stages.test_export import PLAIN, exported
model, disk = map(Path, sys.argv[1:])
needed = exported(model, disk / "out", replace(PLAIN, dry_run=True)).bytes
for spare in (4096, -4096):  # room for the weights but not for all, and for less
    left = os.statvfs(disk)
    filler = disk / f"filler{spare}"
    filler.write_bytes(bytes(left.f_bavail * left.f_bsize - needed - spare))
    try:
        exported(model, disk / "out")
    except AlpacaError as error:
        print(error.exit_code, error)
    print(sorted(path.name for path in disk.iterdir() if not path.name.startswith("filler")))
"""


def test_a_full_disk_is_one_message_and_leaves_nothing(model: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    command = shlex.join([sys.executable, "-c", ON_A_FULL_DISK, str(model), str(disk)])
    mount = f'mount -t tmpfs -o size=2m tmpfs "{disk}" || exit 99\n'
    done = subprocess.run(
        [*namespace, mount + command], env=environment(), capture_output=True, text=True
    )
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("no user namespaces here: cannot make a small disk")
    assert done.returncode == 0, done.stderr
    full, listed, small, again = done.stdout.splitlines()
    assert full == f"7 {disk / 'out'}: no space left on the disk"
    assert small.startswith(f"7 {disk / 'out'}: 0.00 GB free on the disk, the export needs")
    assert listed == again == "[]"


def test_two_processes_do_not_write_one_folder(model: Path, tmp_path: Path) -> None:
    with new_folder(tmp_path / "out", fresh=False) as partial:
        (partial / "file").write_text("mine")
        with pytest.raises(TryAgain, match="another process"):
            exported(model, tmp_path / "out")
        assert (partial / "file").read_text() == "mine"
    assert (tmp_path / "out" / "file").read_text() == "mine"
