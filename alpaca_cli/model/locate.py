"""Finding a model's folder: a run, a checkpoint, an adapter, any model folder, or the hub.

Whatever a person names ends in one local folder in `save_pretrained` layout, so that everything
after it knows folders only. A name that looks like a path is never asked of the hub: a typo must
not become a download. Loading is the business of `alpaca_cli.model.sampling`; torch is not needed
here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from alpaca_cli.core.errors import DataError

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
SMALL_FILES = ("*.json", "*.jinja", "*.model", "*.tiktoken", "*.txt")


def find_model(name: str, *, weights: bool = True, code: bool = False) -> Path:
    """The local folder of a model: `runs/x` stands for `runs/x/train/final`.

    Args:
        weights: False leaves them on the hub: for a look at configuration or tokenizer.
        code: also take the Python files that come with a model. This does not run them.

    Raises:
        DataError: no such folder, no model in it, or the hub does not give it.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _inside(path)
    if not _may_be_hub_id(name):
        raise DataError(f"{name}: no such folder", hint=_hint(path))
    return _from_hub(name, weights, code)


def run_of(folder: Path) -> Path | None:
    """The run folder that a model folder belongs to, or None when it is not part of a run."""
    for parent in folder.absolute().parents:
        if parent.name == "train" and (parent.parent / "recipe.yaml").is_file():
            run, here = parent.parent, Path.cwd()
            return run.relative_to(here) if run.is_relative_to(here) else run
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's or an adapter's weights, sorted by name."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))


def checkpoint_folders(folder: Path) -> list[Path]:
    """A training's own checkpoints, by their step; copies that a person made are none of them."""
    found = {path.name.removeprefix("step-"): path for path in folder.glob("step-*")}
    return [found[step] for step in sorted(filter(str.isdecimal, found), key=int)]


_FORMS = "a run (runs/quickstart), a model, checkpoint or adapter folder, or a hub id (owner/name)"


def _inside(path: Path) -> Path:
    """The model folder that an existing path stands for."""
    for folder in (path / "train" / "final", path / "final", path):
        if (folder / CONFIG).is_file() or (folder / ADAPTER_CONFIG).is_file():
            return folder
    for train in (path / "train", path):
        checkpoints = checkpoint_folders(train / "checkpoints")
        if checkpoints:
            raise DataError(
                f"{path}: its training is not finished",
                hint=f"finish it with alpaca train, or name a checkpoint: {checkpoints[-1]}",
            )
    raise DataError(
        f"{path}: no model here: it has no {CONFIG} and no {ADAPTER_CONFIG}", hint=_FORMS
    )


def _may_be_hub_id(name: str) -> bool:
    """Whether a name that does not exist here can be meant for the hub."""
    owner, slash, _ = name.partition("/")
    # `runs/quikstart` beside a folder `runs` is a mistyped path.
    return bool(HUB_ID.fullmatch(name)) and not (slash and Path(owner).is_dir())


def _hint(path: Path) -> str:
    """The folder beside a missing one that was probably meant, else what can be named."""
    beside = path.parent.iterdir() if path.parent.is_dir() else ()
    close = get_close_matches(path.name, [each.name for each in beside if each.is_dir()], n=1)
    return f"did you mean {path.with_name(close[0])}?" if close else _FORMS


def _from_hub(name: str, weights: bool, code: bool) -> Path:
    """Download a model (or take it from the cache); its folder.

    Weights come as safetensors; pickled ones only where there are no others.
    """
    folder = _download(name, (*SMALL_FILES, "*.py") if code else SMALL_FILES)
    for pattern in ("*.safetensors", "*.bin"):
        if weights and lacks_weights(folder):
            _download(name, (pattern,))
    return _inside(folder)


def lacks_weights(folder: Path) -> bool:
    """Whether a model folder has no weights, or not all the files that its index names.

    A download that was cut short leaves some of a large model's files.
    """
    for index in sorted(folder.glob("*.index.json")):
        named = set(json.loads(index.read_bytes())["weight_map"].values())
        if all((folder / name).is_file() for name in named):
            return False
    return bool(list(folder.glob("*.index.json"))) or not weight_files(folder)


def _download(name: str, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except GatedRepoError as error:
        raise DataError(
            f"{name}: the hub wants its terms accepted first",
            hint=f"accept them at https://huggingface.co/{name}, then hf auth login",
        ) from error
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{name}: no such folder, and no such model on the hub", hint=_hint(Path(name))
        ) from error
    except LocalEntryNotFoundError as error:
        raise DataError(
            f"{name}: no such folder, and the hub cannot be reached", hint=_hint(Path(name))
        ) from error
    except (OSError, HFValidationError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{name}: the hub does not give this model: {first}") from error
