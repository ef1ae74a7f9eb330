"""What an export will write, from the headers of its source's files; nothing is loaded."""

from __future__ import annotations

from alpaca_cli.core.errors import UsageError
from alpaca_cli.data.model_card import FILE_NAME as CARD
from alpaca_cli.data.modelfile import FILE_NAME as MODELFILE
from alpaca_cli.model import weight_diff
from alpaca_cli.model.chat_template import FILE_NAME as CHAT_TEMPLATE
from alpaca_cli.model.export_files import (
    GENERATION,
    base_of,
    pickled,
    refuse_quantised,
    small_files,
)
from alpaca_cli.model.locate import find_model
from alpaca_cli.model.tensor_files import (
    ADAPTER,
    FLOATS,
    MODEL,
    Form,
    cast_forms,
    header_of,
    shard_plan,
    weights_of,
)
from alpaca_cli.stages.export import Job, Report
from alpaca_cli.stages.export_folder import CHECKSUMS, check_space


def estimate(job: Job) -> Report:
    """What will be written; of pickled weights nothing is known before they are loaded.

    Raises:
        UsageError: the source is quantised, or cannot be subtracted.
        ResourceError: the disk is too small.
    """
    forms = _forms(job)
    written, stem, most = forms, MODEL, job.settings.max_shard
    if job.kind == "adapter":
        stem, most = ADAPTER, 1 << 62  # peft reads one file
    elif job.kind == "diff":
        written = {name: form.unsigned for name, form in forms.items()}
        stem = weight_diff.STEM
    files = {
        name: len(header_of(names, written)) + sum(written[each].size for each in names)
        for name, names in shard_plan(written, stem, most).items()
    }
    index = [f"{stem}.safetensors.index.json"] * (len(files) > 1)
    files |= {path.name: path.stat().st_size for path in small_files(job.source)}
    needed = sum(files.values())
    if job.settings.gguf is not None:
        needed *= 2  # a GGUF of 16 bits beside the weights
    if not job.settings.dry_run:
        check_space(job.target, needed)
    return Report(
        source=job.name,
        target=str(job.target),
        kind=job.kind,
        base=job.base_name or None,
        dry_run=True,
        dtype=dtypes(forms),
        files=dict(sorted(files.items())),
        bytes=sum(files.values()),
        tensors=len(forms),
        notes=[_besides(job, index)],
    )


def _besides(job: Job, index: list[str]) -> str:
    """The files whose sizes are known only when they are written."""
    names = [*index, CHECKSUMS, *[CARD] * job.settings.card, *[MODELFILE] * job.settings.ollama]
    names += ["a GGUF"] * (job.settings.gguf is not None)
    if job.kind == "diff":
        return f"besides: {', '.join([*names, weight_diff.MANIFEST])}"
    own = f"{CHAT_TEMPLATE} and {GENERATION} where the model brings none"
    return f"besides: {', '.join(names)}, {own}"


def dtypes(forms: dict[str, Form]) -> str:
    """The types of a model's tensors, as torch calls them."""
    return ", ".join(sorted({FLOATS.get(form.dtype, form.dtype) for form in forms.values()}))


def _forms(job: Job) -> dict[str, Form]:
    """What the model's tensors will look like."""
    if job.kind == "recover":
        manifest = weight_diff.read_manifest(job.source)
        return {name: entry.form for name, entry in manifest.tensors.items()}
    folder = find_model(base_of(job.source)) if job.kind == "merge" else job.source
    if job.kind != "adapter":
        refuse_quantised(folder)
    if pickled(folder):
        if job.kind == "diff":
            raise UsageError(
                f"{job.name}: pickled weights (.bin); a difference is taken of safetensors",
                hint="alpaca export MODEL DIR writes them",
            )
        return {}
    return cast_forms(weights_of(folder), job.settings.dtype)
