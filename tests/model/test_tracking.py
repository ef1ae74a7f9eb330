"""Figures for trackers: TensorBoard's files are read back with TensorBoard's own reader."""

from __future__ import annotations

import resource
import threading
from contextlib import suppress
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.model.tracking import Tracking, check_package, open_tracking

pytest.importorskip("tensorboard")

CONFIG = {"name": "test", "train": {"learning_rate": 2e-5, "report_to": ["tensorboard"]}}


def opened(folder: Path, start: int = 0, said: StringIO | None = None) -> Tracking:
    progress = Progress(Console(file=said or StringIO(), width=200))
    return open_tracking(["tensorboard"], folder, "test", CONFIG, start, progress)


def log(tracking: Tracking, first: int, last: int) -> None:
    for step in range(first, last + 1):
        tracking.log(step, {"loss": 1 / step, "learning_rate": 1e-5})


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {
        name: [(event.step, event.value) for event in read.Scalars(name)]
        for name in read.Tags()["scalars"]
    }


def test_tensorboard_gets_the_figures_with_their_steps(tmp_path: Path) -> None:
    with opened(tmp_path) as tracking:
        log(tracking, 1, 4)
        tracking.log(4, {"held_out_loss": 1.25})
    found = scalars(tmp_path)
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    assert [loss for _, loss in found["loss"]] == pytest.approx([1, 1 / 2, 1 / 3, 1 / 4])
    assert [rate for _, rate in found["learning_rate"]] == pytest.approx([1e-5] * 4)
    assert found["held_out_loss"] == [(4, 1.25)]


def test_the_recipe_is_kept_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for start in (0, 2):
        with opened(tmp_path, start) as tracking:
            log(tracking, start + 1, start + 2)
    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = read.Tensors("recipe/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "| train.learning_rate | 2e-05 |" in text
    assert '| train.report_to | ["tensorboard"] |' in text
    assert [path.name for path in (tmp_path / "tensorboard").iterdir() if path.is_dir()] == []


def test_a_resumed_training_leaves_no_step_twice(tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), opened(tmp_path) as tracking:
        log(tracking, 1, 7)
        raise KeyboardInterrupt
    with opened(tmp_path, start=4) as tracking:
        log(tracking, 5, 10)
    steps = [step for step, _ in scalars(tmp_path)["loss"]]
    assert steps == list(range(1, 11))


def test_without_trackers_nothing_happens(tmp_path: Path) -> None:
    with open_tracking([], tmp_path / "t", "test", CONFIG, 0, Progress(Console())) as tracking:
        log(tracking, 1, 2)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_before_anything_starts(name: str, tmp_path: Path) -> None:
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(UsageError, match=f"report_to: {name} is not installed") as caught:
        open_tracking(["tensorboard", name], tmp_path / "t", "test", CONFIG, 0, Progress(Console()))
    assert caught.value.hint.startswith(f'pip install "{name}>=')
    assert not (tmp_path / "t").exists()


def test_what_is_installed_is_new_enough() -> None:
    check_package("tensorboard")


def test_a_tracker_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("a file in the way")
    with pytest.raises(UsageError, match=r"tensorboard cannot be started: .*File exists"):
        opened(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        opened(tmp_path / "file")


# TensorBoard's own thread ends with the error, too.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_tracker_that_fails_on_the_way_is_dropped(tmp_path: Path) -> None:
    said, before = StringIO(), set(threading.enumerate())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(tmp_path, said=said) as tracking:
        log(tracking, 1, 2)
        try:  # a full disk, as the kernel says it: no file may grow
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
            log(tracking, 3, 20)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        log(tracking, 21, 22)
    for thread in set(threading.enumerate()) - before:
        thread.join()  # or its error would be laid at the next test's door
    assert said.getvalue().count("warning: tensorboard takes no more figures") == 1
    assert "log.jsonl has them all" in said.getvalue()
    steps = [step for step, _ in scalars(tmp_path)["loss"]]
    assert steps[:2] == [1, 2]
    assert 22 not in steps
