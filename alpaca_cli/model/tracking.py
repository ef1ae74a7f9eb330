"""The figures of a training for TensorBoard, Weights & Biases, MLflow and trackio.

accelerate's trackers do the talking. `log.jsonl` stays the record of a training: a tracker that
fails on the way is dropped with a warning, and the training goes on.

A resumed training goes on in the same place and leaves no step twice: TensorBoard is told to
forget what came after the checkpoint, and to the others nothing is sent that was sent before (it
would be the same). Where things go:

    tensorboard   <folder>/tensorboard
    wandb         project <run name>; offline, in <folder>/wandb, when no API key is configured
    mlflow        MLFLOW_TRACKING_URI, else <folder>/mlflow.db
    trackio       trackio's own folder, shown by `trackio show`

Which figures a step has, and when there is one, is known to the training loop only.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from pathlib import Path
from typing import Any

from packaging.version import Version

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.files import atomic_file, disk_error
from alpaca_cli.core.progress import Progress

# The oldest versions that this was tried with.
NEEDED = {"tensorboard": "2.21", "wandb": "0.31", "mlflow": "3.17", "trackio": "0.43"}
RUN_ID, SENT, MLFLOW_RUN = "run-id", "sent.json", "mlflow-run-id"


@dataclass(frozen=True, slots=True)
class _Tracker:
    """One of accelerate's trackers, started.

    Attributes:
        failures: what it raises when something is wrong outside of us: disk, network, server.
        again: whether it may be given steps that it was given before.
    """

    name: str
    tracker: Any
    close: Callable[[], None]
    failures: tuple[type[Exception], ...]
    again: bool


class Tracking:
    """Trackers that are open; a context that closes them however it ends."""

    def __init__(self, trackers: Iterable[_Tracker], folder: Path, progress: Progress) -> None:
        self._trackers, self._file, self._progress = list(trackers), folder / SENT, progress
        self._sent = _read_sent(self._file)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Send figures of a step to every tracker."""
        new = {name: value for name, value in figures.items() if step > self._sent.get(name, 0)}
        for each in list(self._trackers):
            values = dict(figures) if each.again else new
            if values:
                with self._dropping(each):
                    each.tracker.log(values, step=step)
        if new and self._trackers:
            self._sent |= dict.fromkeys(new, step)
            # Without fsync: after a power cut some points may be there twice, which is no harm.
            temporary = self._file.with_suffix(".tmp")
            with suppress(OSError):
                temporary.write_text(json.dumps(self._sent), encoding="utf-8")
                temporary.replace(self._file)

    def close(self) -> None:
        """Send what is left, and end."""
        for each in list(self._trackers):
            with self._dropping(each), redirect_stdout(StringIO()):
                each.close()
        self._trackers = []

    @contextmanager
    def _dropping(self, each: _Tracker) -> Iterator[None]:
        """Go on without this tracker when it fails."""
        try:
            yield
        except each.failures as error:
            self._trackers.remove(each)
            self._progress.warn(
                f"{each.name} takes no more figures: {_first_line(error)}; "
                "the training goes on, and log.jsonl has them all"
            )

    def __enter__(self) -> Tracking:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_tracking(
    report_to: Sequence[str],
    folder: Path,
    run_name: str,
    config: Mapping[str, Any],
    start: int,
    progress: Progress,
) -> Tracking:
    """Start the trackers of `train.report_to`, on the first process; the others get an empty one.

    Call it before the model is loaded: what is missing or wrong is said at once.

    Args:
        folder: for what trackers keep on disk; a resumed training names the same one.
        run_name: names the run, or the project where the tracker has projects.
        config: the recipe, JSON-able; stored with a new run.
        start: steps done before this process.

    Raises:
        UsageError: a package is missing or too old, or a tracker cannot be started.
    """
    for name in report_to:
        check_package(name)
    if not report_to:
        return Tracking([], folder, progress)
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return Tracking([], folder, progress)
    run_id, new = _run_id(folder)
    trackers = []
    for name in dict.fromkeys(report_to):
        # stdout belongs to results, and trackio and MLflow print to it.
        with redirect_stdout(StringIO()):
            trackers.append(_started(name, folder, run_name, run_id, start, progress))
            if new:
                _store(trackers[-1], config)
    return Tracking(trackers, folder, progress)


def check_package(name: str) -> None:
    """See to it that a tracker's package is there.

    Raises:
        UsageError: it is not, or is too old.
    """
    needed = NEEDED[name]
    try:
        found = version(name)
    except PackageNotFoundError as error:
        raise UsageError(
            f"train.report_to: {name} is not installed", hint=f'pip install "{name}>={needed}"'
        ) from error
    if Version(found) < Version(needed):
        raise UsageError(
            f"train.report_to: {name} {found} is installed, {needed} is needed",
            hint=f'pip install "{name}>={needed}"',
        )


def _started(
    name: str, folder: Path, run_name: str, run_id: str, start: int, progress: Progress
) -> _Tracker:
    """A tracker, ready for figures.

    Raises:
        UsageError: it cannot be started; says why.
    """
    if name == "tensorboard":
        return _tensorboard(folder, start)
    if name == "wandb":
        return _wandb(folder, run_name, run_id, progress)
    if name == "mlflow":
        return _mlflow(folder, run_name)
    return _trackio(run_name, run_id)


@contextmanager
def _starting(name: str, failures: tuple[type[Exception], ...]) -> Iterator[None]:
    """A tracker's own errors as one message."""
    try:
        yield
    except failures as error:
        raise UsageError(
            f"train.report_to: {name} cannot be started: {_first_line(error)}",
            hint="put it right, or take it out of train.report_to",
        ) from error


def _tensorboard(folder: Path, start: int) -> _Tracker:
    from accelerate.tracking import TensorBoardTracker

    failures = (OSError,)
    with _starting("tensorboard", failures):
        # TensorBoard leaves out earlier events from purge_step on.
        tracker = TensorBoardTracker("tensorboard", folder, purge_step=start + 1)
        tracker.start()
    return _Tracker("tensorboard", tracker, tracker.finish, failures, again=True)


def _wandb(folder: Path, run_name: str, run_id: str, progress: Progress) -> _Tracker:
    import wandb
    from accelerate.tracking import WandBTracker

    failures = (wandb.Error,)
    settings = wandb.Settings(silent=True, console="off")
    with _starting("wandb", failures):
        mode = os.environ.get("WANDB_MODE")
        # Never a question: a script has nobody to answer it.
        if mode is None and not wandb.login(prompt=False, verify=False):
            mode = "offline"
            progress.warn(
                f"wandb: no API key is configured, so figures are kept in {folder / 'wandb'}; "
                "`wandb sync` sends them later"
            )
        tracker = WandBTracker(
            run_name, dir=str(folder), id=run_id, resume="allow", mode=mode, settings=settings
        )
        tracker.start()
    return _Tracker("wandb", tracker, tracker.finish, failures, again=False)


def _mlflow(folder: Path, run_name: str) -> _Tracker:
    # Its own patience with a server that is gone is minutes, in which the GPUs would wait.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow
    from accelerate.tracking import MLflowTracker

    failures = (mlflow.exceptions.MlflowException, OSError)
    artifacts, known = None, folder / MLFLOW_RUN
    with _starting("mlflow", failures):
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{(folder / 'mlflow.db').absolute()}")
            artifacts = (folder / "mlflow").absolute().as_uri()
        tracker = MLflowTracker(
            run_name,
            logging_dir=artifacts,
            run_id=known.read_text(encoding="utf-8") if known.is_file() else None,
            run_name=run_name,
        )
        tracker.start()
    with atomic_file(known) as file:
        file.write(tracker.tracker.info.run_id.encode())
    return _Tracker("mlflow", tracker, tracker.finish, failures, again=False)


def _trackio(run_name: str, run_id: str) -> _Tracker:
    import trackio
    from accelerate.tracking import TrackioTracker

    failures = (ValueError, OSError)
    with _starting("trackio", failures):
        tracker = TrackioTracker(run_name, name=f"{run_name}-{run_id}", resume="allow", embed=False)
        tracker.start()
    # Not the tracker's own finish: trackio would finish, and print, once more at exit.
    return _Tracker("trackio", tracker, trackio.finish, failures, again=False)


def _store(opened: _Tracker, config: Mapping[str, Any]) -> None:
    """Store the recipe with a new run."""
    flat = dict(_flat(config))
    if opened.name == "tensorboard":
        # accelerate would write hyper-parameters as a run of their own, in a folder named by time.
        table = "\n".join(
            ["| key | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in flat.items())]
        )
        opened.tracker.tracker.add_text("recipe", table, 0)
    else:
        opened.tracker.store_init_configuration(flat)


def _flat(value: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and plain value of every leaf."""
    for key, each in value.items():
        name = f"{at}.{key}" if at else key
        if isinstance(each, Mapping):
            yield from _flat(each, name)
        elif each is None or isinstance(each, bool | int | float | str):
            yield name, each
        else:
            yield name, json.dumps(each, ensure_ascii=False)


def _run_id(folder: Path) -> tuple[str, bool]:
    """The name that trackers know this run by, made once, and whether it is new."""
    path = folder / RUN_ID
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            return path.read_text(encoding="utf-8").strip(), False
    except OSError as error:
        raise disk_error(error, path) from error
    made = secrets.token_hex(4)
    with atomic_file(path) as file:
        file.write(f"{made}\n".encode())
    return made, True


def _read_sent(path: Path) -> dict[str, int]:
    """The last step of each figure that was sent before."""
    try:
        found: dict[str, int] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
