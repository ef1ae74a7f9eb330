"""Carrying out an export: each kind written into a folder and proved there.

Importing this module loads torch. Which flags go together, and where the folder comes to lie, is
`alpaca_cli.stages.export`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

from alpaca_cli.core.errors import DataError, GateFailed, UsageError
from alpaca_cli.core.files import digest, read_json, write_text
from alpaca_cli.core.progress import Progress, Task
from alpaca_cli.core.template import PromptTemplate, stored_template
from alpaca_cli.data.model_card import FILE_NAME as CARD
from alpaca_cli.data.model_card import Facts, facts_from_json, model_card
from alpaca_cli.data.model_card import Form as CardForm
from alpaca_cli.model import export as making
from alpaca_cli.model import weight_diff
from alpaca_cli.model.casting import Losses
from alpaca_cli.model.export_files import (
    add_sentencepiece,
    base_of,
    copy_small_files,
    pickled,
    refuse_quantised,
    small_files,
)
from alpaca_cli.model.locate import ADAPTER_CONFIG, CONFIG, find_model
from alpaca_cli.model.logits import (
    LogitCheck,
    bound_for,
    check_logits,
    logits_of,
    prompt_texts,
    prompts,
)
from alpaca_cli.model.saving import full_disk
from alpaca_cli.model.tensor_files import Form, stored_tensors, weights_of
from alpaca_cli.stages.export import Job, Report
from alpaca_cli.stages.export_facts import base_name, facts_of, public_name, quantised_training
from alpaca_cli.stages.export_formats import write_gguf, write_modelfile
from alpaca_cli.stages.export_plan import dtypes


def write(job: Job, folder: Path, progress: Progress) -> Report:
    """Write one export into an empty folder and prove it.

    Raises:
        AlpacaError: see `alpaca_cli.stages.export.export`.
    """
    carry_out = {"diff": _write_diff, "recover": _write_recovered}.get(job.kind, _write_model)
    with full_disk(job.target):
        report, facts, template, note = carry_out(job, folder, progress)
        if note:
            report = replace(report, notes=[*report.notes, f"{job.title} {note}"])
        gguf = None
        if job.settings.gguf is not None:
            gguf = write_gguf(
                folder,
                job.target.name,
                job.settings.gguf,
                job.settings.llama_cpp,
                prompt_texts(folder, template),
                progress,
            )
        if job.settings.ollama:
            write_modelfile(folder, template, None if gguf is None else str(gguf["file"]))
        if job.settings.card:
            form = CardForm(
                name=job.title,
                kind=_CARD_KINDS[job.kind],
                dtype=report.dtype,
                template=template,
                renders=not note,
                notes=report.notes,
                gguf=None if gguf is None else str(gguf["file"]),
                ollama=job.settings.ollama,
            )
            write_text(folder / CARD, model_card(facts, form, job.settings.license))
    return replace(report, gguf=gguf)


_CARD_KINDS: dict[str, Literal["model", "adapter", "weight diff"]] = {
    "copy": "model",
    "merge": "model",
    "recover": "model",
    "adapter": "adapter",
    "diff": "weight diff",
}
# The last one says why servers will not find the prompt in the tokenizer; empty when they do.
Written = tuple[Report, Facts, PromptTemplate | None, str]


def _write_model(job: Job, folder: Path, progress: Progress) -> Written:
    """A copy, a conversion, a merge, or an adapter."""
    settings = job.settings
    if job.kind == "merge":
        progress.info("export: merging the adapter into its base")
        losses = making.merge(job.source, folder, settings.dtype, settings.max_shard)
    elif pickled(job.source):
        progress.info("export: reading pickled weights")
        losses = making.rewrite_weights(job.source, folder, settings.dtype, settings.max_shard)
    else:
        with _tensors(progress, "writing", len(weights_of(job.source))) as task:
            losses = making.copy_weights(
                job.source, folder, settings.dtype, settings.max_shard, task.advance
            )
    copy_small_files(job.source, folder, settings.dtype)
    making.write_generation_config(folder)
    base = base_name(job.source)
    if job.settings.gguf is not None and base is not None:
        add_sentencepiece(folder, base)
    template = stored_template(job.source)
    note = making.write_chat_template(job.source, folder, template)
    forms = {name: each.form for name, each in weights_of(folder).items()}
    check = _compare(job, folder, forms, template, progress)
    facts = facts_of(job.source)
    return _report(job, forms, losses, check, list(_notes(job))), facts, template, note


def _compare(
    job: Job,
    folder: Path,
    forms: dict[str, Form],
    template: PromptTemplate | None,
    progress: Progress,
) -> LogitCheck:
    """The logits of the source and of what was written."""
    progress.info("export: reading it back and comparing logits")
    asked = prompts(job.source, template)
    if prompts(folder, stored_template(folder)) != asked:
        raise GateFailed(f"{job.target}: its tokenizer or template is not the source's")
    same = job.kind != "merge" and _same_precision(job, forms)
    stored = {form.dtype for form in forms.values()}
    narrowest = "BF16" if "BF16" in stored else "F16" if "F16" in stored else "F32"
    bound = 0.0 if same else bound_for(narrowest, job.kind == "merge", _layers(job.source))
    source = logits_of(job.source, asked, as_stored=same)
    result = logits_of(folder, asked, as_stored=same)
    return check_logits(source, result, bound=bound, name=str(job.target))


def _same_precision(job: Job, forms: dict[str, Form]) -> bool:
    if pickled(job.source):
        return job.settings.dtype == "keep"
    return forms == {name: each.form for name, each in weights_of(job.source).items()}


def _write_diff(job: Job, folder: Path, progress: Progress) -> Written:
    assert job.base is not None
    tuned, base = stored_tensors(job.source), stored_tensors(job.base)
    _check_architecture(job.source, job.base, job.base_name)
    with _tensors(progress, "comparing", len(tuned)) as task:
        entries = weight_diff.compare(tuned, base, job.base_name, task.advance)
    changed = sum(entry.stored for entry in entries.values())
    with _tensors(progress, "writing", changed) as task:
        weight_diff.write_difference(
            tuned, base, entries, folder, job.settings.max_shard, task.advance
        )
    copy_small_files(job.source, folder, "keep")
    facts, known = facts_of(job.source), public_name(job.base_name)
    if facts.base is None:
        facts = replace(facts, base=known)
    files = {path.name: digest(path) for path in small_files(folder)}
    manifest = weight_diff.Manifest(known or job.base_name, entries, files, facts.to_json())
    weight_diff.write_manifest(folder, manifest)
    manifest = weight_diff.read_manifest(folder)
    with _tensors(progress, "reading back", len(entries)) as task:
        weight_diff.verify_difference(folder, base, manifest, task.advance)
    report = _report(job, {n: e.form for n, e in entries.items()}, None, None, _diff_notes(entries))
    report = replace(
        report,
        unchanged=len(entries) - changed,
        verified=f"all {len(entries):,} tensors come back from it with the right sha256",
    )
    return report, facts, stored_template(job.source), ""


def _write_recovered(job: Job, folder: Path, progress: Progress) -> Written:
    assert job.base is not None
    manifest = weight_diff.read_manifest(job.source)
    for name, sha in manifest.files.items():
        path = job.source / name
        if Path(name).name != name or not path.is_file() or digest(path) != sha:
            raise DataError(f"{path}: missing or damaged", hint="fetch this file again")
    progress.info(f"export: checking the base {job.base_name}")
    weight_diff.recover(
        job.source,
        stored_tensors(job.base),
        folder,
        manifest,
        job.settings.max_shard,
        job.base_name,
    )
    copy_small_files(job.source, folder, "keep")
    with _tensors(progress, "reading back", len(manifest.tensors)) as task:
        weight_diff.verify_tensors(folder, manifest, task.advance)
    making.write_generation_config(folder)
    template = stored_template(folder)
    note = making.write_chat_template(job.source, folder, template)
    # That it loads and answers with numbers; that they are the right ones, the digests proved.
    mine = logits_of(folder, prompts(folder, template), as_stored=True)
    check_logits(mine, mine, bound=0.0, name=str(job.target))
    forms = {name: entry.form for name, entry in manifest.tensors.items()}
    unchanged = manifest.count(lambda entry: not entry.stored)
    report = replace(
        _report(job, forms, None, None, []),
        unchanged=unchanged,
        verified=f"all {len(forms):,} tensors have the sha256 of the tuned model",
    )
    return report, _stored_facts(job, manifest), template, note


def _stored_facts(job: Job, manifest: weight_diff.Manifest) -> Facts:
    try:
        return facts_from_json(manifest.facts)
    except TypeError as error:
        raise DataError(f"{job.source / weight_diff.MANIFEST}: facts: {error}") from error


def _notes(job: Job) -> Iterator[str]:
    """What a person who uses an adapter or a merge should know."""
    adapter = job.source / ADAPTER_CONFIG
    if not adapter.is_file():
        return
    base = base_of(job.source)
    if job.kind == "merge":
        yield f"merged into {public_name(base)}"
        if quantised_training(job.source):
            yield (
                "trained on its base in 4 bits (QLoRA), and merged into the base as it is: the "
                "rounding of the 4 bits, which training saw, is not in it"
            )
    elif Path(base).exists():
        yield (
            f"names its base by a path on the machine that trained it ({public_name(base)}): "
            "others have to change base_model_name_or_path in adapter_config.json"
        )


def _diff_notes(entries: dict[str, weight_diff.Entry]) -> list[str]:
    whole = [name for name, entry in entries.items() if entry.base is None]
    grown = [
        name
        for name, entry in entries.items()
        if entry.base is not None and entry.base.rows is not None
    ]
    cast = sum(
        entry.base is not None and entry.base.dtype != entry.dtype for entry in entries.values()
    )
    return [
        *([f"not in the base, stored as they are: {', '.join(whole)}"] if whole else []),
        *(
            [f"rows that the base lacks are stored as they are: {', '.join(grown)}"]
            if grown
            else []
        ),
        *([f"the base is cast first, in {cast:,} tensors"] if cast else []),
    ]


def _check_architecture(tuned: Path, base: Path, base_name: str) -> None:
    kinds = [read_json(folder / CONFIG).get("model_type") for folder in (tuned, base)]
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"{base_name}: not of the same architecture: {kinds[1]}, the model is {kinds[0]}"
        )
    for folder in (tuned, base):
        refuse_quantised(folder)


def _layers(folder: Path) -> int:
    if (folder / ADAPTER_CONFIG).is_file():
        folder = find_model(base_of(folder))
    return int(read_json(folder / CONFIG).get("num_hidden_layers") or 1)


@contextmanager
def _tensors(progress: Progress, label: str, total: int) -> Iterator[Task]:
    with progress.task(f"{label} tensors", total=total) as task:
        yield task


def _report(
    job: Job,
    forms: dict[str, Form],
    losses: Losses | None,
    check: LogitCheck | None,
    notes: list[str],
) -> Report:
    cast = losses is not None and losses.numbers > 0
    verified = ""
    if check is not None:
        verified = (
            "logits equal bit for bit"
            if check.relative == 0
            else f"logits differ by {check.relative:.2g} of their size ({check.bound:.2g} allowed)"
        )
    return Report(
        source=job.name,
        target=str(job.target),
        kind=job.kind,
        base=job.base_name or None,
        dry_run=False,
        dtype=dtypes(forms),
        files={},
        bytes=0,
        tensors=len(forms),
        verified=verified,
        largest_change=losses.largest if losses is not None and cast else None,
        changed_in=losses.where if losses is not None and cast else None,
        zeroed=losses.zeroed if losses is not None and cast else None,
        logits=asdict(check) if check is not None else None,
        notes=notes,
    )
