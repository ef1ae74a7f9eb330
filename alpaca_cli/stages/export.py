"""The export stage: a model folder for others, and proof that it is the model.

    MODEL -> DIR: weights, tokenizer, prompt and chat template, model card, SHA256SUMS
             with --diff: the difference to a base model; with --recover: the model back from it

Whatever is written is read back and compared before the folder gets its name: logits on fixed
tokens and real prompts, or the sha256 of every tensor. A folder that exists is whole and proved.
The text of a model card is `alpaca_cli.data.model_card`; sending is
`alpaca_cli.stages.export_push`.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from alpaca_cli.core.errors import UsageError
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import newest_model
from alpaca_cli.model.locate import ADAPTER_CONFIG, find_model
from alpaca_cli.stages import export_push
from alpaca_cli.stages.export_folder import CHECKSUMS, check_target, new_folder, write_checksums
from alpaca_cli.stages.export_push import Destination

Kind = Literal["copy", "merge", "adapter", "diff", "recover"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is exported, and how.

    Attributes:
        merge: an adapter becomes one model with its base.
        dtype: `keep`, `bf16`, `fp16` or `fp32`.
        max_shard: bytes in a file of weights.
        diff: write the difference to this base instead of the model.
        recover: the model is a difference to this base: write the tuned model.
        gguf: type of a GGUF file to write, too; None for none.
        llama_cpp: folder of llama.cpp; else the environment's or what is on PATH.
        ollama: write a Modelfile, too.
        card: write README.md.
        license: named in the card; none is invented.
        push: `owner/name` on the hub.
        dry_run: say what would be written and sent, and do neither.
    """

    merge: bool = False
    dtype: str = "keep"
    max_shard: int = 5 * 10**9
    diff: str | None = None
    recover: str | None = None
    gguf: str | None = None
    llama_cpp: str | None = None
    ollama: bool = False
    card: bool = True
    license: str | None = None
    push: str | None = None
    public: bool = False
    dry_run: bool = False
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """What was exported, and how it was proved.

    Attributes:
        base: of a difference.
        files: name -> bytes; of a dry run what would be written, model card and the like apart.
        manifest: path of the file with the sha256 of every other file.
        dtype: of the weights.
        tensors: in the model; `unchanged` of them are the base's own (diff and recover).
        largest_change: of a weight, by --dtype, in the tensor `changed_in`; `zeroed` became 0.
        logits: how the reloaded model compares with the source; None where every tensor's
            sha256 was compared instead.
        verified: how, in words.
        gguf: its file, types and largest relative difference of a tensor.
        pushed: address of the repository; None when nothing was sent.
        notes: what a person who uses it should know.
        seconds: of wall-clock time.
    """

    source: str
    target: str
    kind: Kind
    base: str | None
    dry_run: bool
    dtype: str
    files: Mapping[str, int]
    bytes: int
    tensors: int
    verified: str = ""
    manifest: str | None = None
    unchanged: int | None = None
    largest_change: float | None = None
    changed_in: str | None = None
    zeroed: int | None = None
    logits: Mapping[str, Any] | None = None
    gguf: Mapping[str, Any] | None = None
    pushed: str | None = None
    notes: Sequence[str] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Job:
    """An export that has been checked, ready to be carried out.

    Attributes:
        source: the model's folder; `name` is what the person calls it.
        base: of a difference; `base_name` is what the person calls it.
    """

    kind: Kind
    source: Path
    name: str
    target: Path
    settings: Settings
    base: Path | None = None
    base_name: str = ""

    @property
    def title(self) -> str:
        """What the exported model is called in its card."""
        return self.settings.push or self.target.name


def export(
    model: str | None,
    target: Path,
    settings: Settings,
    *,
    runs: Path,
    progress: Progress,
    confirm: Callable[[str], bool],
) -> Report:
    """Write a model to `target`, prove it, and send it when that is asked for.

    Args:
        model: a run, model, checkpoint or adapter folder, or a hub id; the newest finished run's
            when None.
        runs: where the newest run is looked for.
        confirm: asked before anything is sent.

    Raises:
        UsageError: settings that do not go together, a target that is not empty, or a tool that
            is missing.
        DataError: no such model, it cannot be read, or the base is another one.
        GateFailed: what was written is not the model; nothing is left in its place.
        ResourceError: disk or memory is too small.
    """
    started = time.monotonic()
    job = prepare(model, target, settings, runs, progress)
    destination = _destination(settings)
    from alpaca_cli.stages.export_plan import estimate

    report = estimate(job)
    if settings.dry_run:
        _show_destination(report, destination, progress)
        return report
    from alpaca_cli.stages.export_writing import write

    with new_folder(target, fresh=settings.fresh) as partial:
        report = write(job, partial, progress)
        write_checksums(partial)
    report = replace(
        report,
        files=_sizes(target),
        bytes=sum(_sizes(target).values()),
        manifest=str(target / CHECKSUMS),
        seconds=round(time.monotonic() - started, 1),
    )
    if destination is None:
        return report
    _show_destination(report, destination, progress)
    question = f"send {report.bytes:,} bytes to {destination.name} ({destination.visibility})?"
    if not confirm(question):
        progress.info("nothing was sent")
        return report
    return replace(report, pushed=export_push.push(target, destination))


def prepare(
    model: str | None, target: Path, settings: Settings, runs: Path, progress: Progress
) -> Job:
    """Find everything and refuse what cannot work, before torch is loaded or a byte written.

    Raises:
        UsageError, DataError: see `export`.
    """
    _check_settings(settings)
    if settings.push is not None:
        export_push.check_name(settings.push)
        if not settings.dry_run:
            export_push.check_token()
    name = model
    if name is None:
        if settings.recover is not None:
            raise UsageError(
                "--recover: name the folder of the difference",
                hint="alpaca export DIFF DIR --recover BASE",
            )
        name = str(newest_model(runs))
        progress.info(f"model: {name} (the newest finished run)")
    source = find_model(name)
    base_name = settings.diff or settings.recover
    base = find_model(base_name) if base_name is not None else None
    check_target(target, source, *([base] if base else []), fresh=settings.fresh)
    kind = _kind(source, settings)
    if settings.gguf is not None:
        from alpaca_cli.stages.export_formats import check_gguf

        check_gguf(settings.gguf, settings.llama_cpp)
    return Job(kind, source, name, target, settings, base, base_name or "")


def _check_settings(settings: Settings) -> None:
    if settings.diff is not None and settings.recover is not None:
        raise UsageError("--diff and --recover exclude each other")
    special = "--diff" if settings.diff is not None else "--recover"
    others = {
        "--merge": settings.merge,
        "--dtype": settings.dtype != "keep",
        "--gguf": settings.gguf is not None,
        "--ollama": settings.ollama,
    }
    if settings.diff is not None or settings.recover is not None:
        for flag, given in others.items():
            if given:
                raise UsageError(f"{flag} does not go with {special}", hint="export in two steps")
    if settings.license is not None and not settings.card:
        raise UsageError("--license is named in the model card: it does not go with --no-card")
    if settings.public and settings.push is None:
        raise UsageError("--public is for --push")
    if settings.max_shard < 1:
        raise UsageError("--max-shard-size: more than nothing")


def _kind(source: Path, settings: Settings) -> Kind:
    adapter = (source / ADAPTER_CONFIG).is_file()
    if settings.recover is not None:
        return "recover"
    if settings.merge:
        if not adapter:
            raise UsageError(f"--merge: {source} is no adapter: there is nothing to merge")
        return "merge"
    if not adapter:
        return "diff" if settings.diff is not None else "copy"
    for flag, given in (
        ("--diff", settings.diff is not None),
        ("--gguf", settings.gguf is not None),
        ("--ollama", settings.ollama),
    ):
        if given:
            hint = "alpaca export MODEL DIR --merge first" if flag == "--diff" else "add --merge"
            raise UsageError(f"{flag} needs a whole model, and {source} is an adapter", hint=hint)
    return "adapter"


def _destination(settings: Settings) -> Destination | None:
    if settings.push is None:
        return None
    return Destination(settings.push, private=not settings.public)


def _show_destination(report: Report, destination: Destination | None, progress: Progress) -> None:
    """What would be sent, file by file."""
    if destination is None:
        return
    progress.info(f"to {destination.name} ({destination.visibility}):")
    for name, size in report.files.items():
        progress.info(f"  {size:>15,}  {name}")
    progress.info(f"  {report.bytes:>15,}  in all")


def _sizes(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def next_command(report: Report) -> str:
    """What a person does next."""
    if report.dry_run:
        return "the same without --dry-run"
    target = shlex.quote(report.target)
    if report.kind == "diff":
        return f"alpaca export {target} DIR --recover {shlex.quote(str(report.base))}"
    from alpaca_cli.stages.export_formats import ollama_command

    return ollama_command(Path(report.target)) or f"alpaca chat {target}"
