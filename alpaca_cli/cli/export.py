"""`alpaca export`: a model for others, as a folder, a difference, a GGUF, or on a hub."""

from __future__ import annotations

import re
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Group, RenderableType
from rich.markup import escape

from alpaca_cli.cli.options import (
    FreshOption,
    JsonOption,
    QuietOption,
    SafeConsole,
    print_json,
    runs_folder,
    stderr,
)

if TYPE_CHECKING:
    from alpaca_cli.stages.export import Report

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

WHAT = {
    "copy": "copy of",
    "adapter": "copy of the adapter",
    "merge": "merged from",
    "diff": "difference of",
    "recover": "recovered from",
}


def export(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] DIR",
            help="Run, model, checkpoint or adapter folder, or hub id (default: the newest run); "
            "and the folder to write.",
        ),
    ],
    merge: Annotated[bool, typer.Option("--merge", help="Merge an adapter into its base.")] = False,
    dtype: Annotated[
        Literal["keep", "bf16", "fp16", "fp32"], typer.Option(help="Precision of the weights.")
    ] = "keep",
    max_shard_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Largest file of weights.")
    ] = "5GB",
    diff: Annotated[
        str | None, typer.Option(metavar="BASE", help="Write the difference to this model.")
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(metavar="BASE", help="MODEL is a difference: write the model back."),
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(metavar="TYPE", help="A GGUF, too: auto, f16, bf16, q8_0, Q4_K_M, …"),
    ] = None,
    llama_cpp: Annotated[
        str | None,
        typer.Option("--llama-cpp", metavar="DIR", help="llama.cpp (else LLAMA_CPP, or PATH)."),
    ] = None,
    ollama: Annotated[bool, typer.Option("--ollama", help="Write a Modelfile, too.")] = False,
    card: Annotated[bool, typer.Option(help="Write a model card (README.md).")] = True,
    license: Annotated[
        str | None, typer.Option(metavar="ID", help="Licence to name in the card, e.g. apache-2.0.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Send it to the hub; private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everyone.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written and sent, and stop.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
    fresh: FreshOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a model folder that others can use, read it back, and prove that it is the model.

    Weights in safetensors shards, tokenizer with chat template, model card, SHA256SUMS. With
    --diff the bit-exact difference to a base model, with --recover the model back from it.
    """
    from alpaca_cli.core.errors import UsageError
    from alpaca_cli.core.progress import Progress
    from alpaca_cli.stages import export as stage

    if len(names) > 2:
        raise UsageError(f"expected [MODEL] DIR, not {len(names)} names")
    asked = sys.stdin is not None and sys.stdin.isatty() and not json
    if push is not None and not (yes or dry_run or asked):
        raise UsageError(
            "--push sends the model to the hub, and nobody is at a terminal to agree",
            hint="--dry-run shows what would be sent, --yes agrees",
        )
    report = stage.export(
        names[0] if len(names) == 2 else None,
        Path(names[-1]),
        stage.Settings(
            merge=merge,
            dtype=dtype,
            max_shard=parse_size(max_shard_size),
            diff=diff,
            recover=recover,
            gguf=gguf,
            llama_cpp=llama_cpp,
            ollama=ollama,
            card=card,
            license=license,
            push=push,
            public=public,
            dry_run=dry_run,
            fresh=fresh,
        ),
        runs=runs_folder(),
        progress=(progress := Progress(stderr(), quiet=quiet or json)),
        confirm=lambda question: yes or typer.confirm(question, err=True),
    )
    if json:
        print_json(asdict(report))
    else:
        SafeConsole(highlight=False).print(show(report))
    progress.info(f"next: {stage.next_command(report)}")


def parse_size(text: str) -> int:
    """`500MB`, `5GB`, `2GiB` as bytes.

    Raises:
        UsageError: it is no size.
    """
    from alpaca_cli.core.errors import UsageError

    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]I?B)?\s*", text.upper())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f'--max-shard-size: "{text}" is no size', hint="e.g. 500MB or 5GB")
    return max(1, int(float(match[1]) * UNITS[match[2] or ""]))


def show(report: Report) -> RenderableType:
    """The report for people."""
    target = escape(report.target)
    if report.dry_run:
        head = f"[bold]would write {target}[/]"
    else:
        head = f"[bold]{target}[/] · [green]{report.verified}[/]"
    lines = [
        head,
        f"[dim]{WHAT[report.kind]} {escape(report.source)} · {report.tensors:,} tensors, "
        f"{report.dtype} · {report.bytes:,} bytes in {len(report.files)} files[/]",
    ]
    if report.dry_run:
        lines += [f"{size:>15,}  {escape(name)}" for name, size in report.files.items()]
    if report.unchanged is not None and not report.dry_run:
        lines.append(f"{report.unchanged:,} of {report.tensors:,} tensors are the base's own")
    if report.largest_change is not None:
        where = f" in {escape(str(report.changed_in))}" if report.changed_in else ""
        zeroed = f", {report.zeroed:,} became 0" if report.zeroed else ""
        lines.append(f"largest change of a weight {report.largest_change:.3g}{where}{zeroed}")
    if report.logits is not None and report.logits["relative"]:
        logits = report.logits
        lines.append(
            f"largest difference of a logit {logits['largest']:.3g} · the same likeliest token at "
            f"{logits['argmax']:.1%} of {logits['positions']:,} positions"
        )
    if report.gguf is not None:
        lines.append(_gguf(report.gguf))
    lines += [f"[yellow]note:[/] {escape(note)}" for note in report.notes]
    if report.pushed:
        lines.append(f"sent to {escape(report.pushed)}")
    return Group(*lines)


def _gguf(found: object) -> str:
    assert isinstance(found, dict)
    name = escape(str(found["file"]))
    if not found["verified"]:
        return f"{name}: not read back"
    types = ", ".join(f"{count} {kind}" for kind, count in found["types"].items())
    apart = f", at most {found['largest']:.2g} apart" if found["largest"] else ""
    return f"{name}: {found['tensors']:,} tensors read back ({types}{apart})"
