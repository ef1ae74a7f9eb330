"""How `alpaca train --dry-run` shows a plan: what would be done, memory by part, time and disk.

Everything fits into 80 columns; bars are drawn of text, so that a pipe and NO_COLOR see the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from alpaca_cli.core.progress import duration

if TYPE_CHECKING:
    from alpaca_cli.stages.plan import MemoryPlan, Plan

BAR = 24  # characters for the whole memory
MEANING = {
    "weights": "as they are kept",
    "copies": "of weights, to compute with",
    "gradients": "",
    "optimizer": "its moments",
    "activations": "saved for the backward pass",
    "logits": "and their loss",
    "other": "buffers, libraries",
}


def show(plan: Plan) -> RenderableType:
    """The plan for people."""
    parts: list[RenderableType] = [_work(plan), "", _memory(plan), "", _verdict(plan)]
    if plan.fits_with:
        parts.append(_changes(plan))
    parts += ["", _costs(plan)]
    parts += [f"[dim]note: {escape(note)}[/]" for note in plan.notes]
    return Group(*parts)


def _work(plan: Plan) -> RenderableType:
    held_out = f", {plan.held_out:,} held out" if plan.held_out else ""
    lines = [
        f"[bold]{plan.steps:,} steps[/] ({plan.epochs:g} epochs of {plan.examples:,} "
        f"examples{held_out})",
        f"{plan.tokens:,} tokens, {plan.trained_tokens:,} of them trained; the longest example "
        f"has {plan.longest:,}",
        f"{plan.micro_batches:,.1f} micro-batches per step and process, {plan.padding:.1%} padding",
        f"{plan.parameters:,} parameters, {plan.trained_parameters:,} trained "
        f"({escape(plan.method)})",
    ]
    if plan.dropped or plan.truncated:
        lines.insert(
            1,
            f"[yellow]too long: {plan.dropped:,} examples dropped, "
            f"{plan.truncated:,} responses truncated[/]",
        )
    if plan.excluded:
        lines.insert(1, f"marked bad: {plan.excluded:,} examples left out")
    return Group(*lines)


def _memory(plan: Plan) -> RenderableType:
    memory = plan.memory
    where = "the CPU" if plan.device == "cpu" else plan.device
    several = f"each of {plan.processes} x " if plan.processes > 1 else ""
    table = Table(
        title=f"memory of {several}{escape(where)}, {plan.strategy}, {plan.dtype}",
        title_justify="left",
        show_header=False,
        box=None,
        pad_edge=False,
    )
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
    whole = max(memory.total, memory.available)
    before = 0
    for part, meaning in MEANING.items():
        size: int = getattr(memory, part)
        if size:
            table.add_row(part, _gib(size), _bar(before, size, whole), meaning)
            before += size
    style = "green" if memory.fits else "red"
    table.add_row("total", f"[{style}]{_gib(memory.total)}[/]", "", "at the worst moment")
    table.add_row("available", _gib(memory.available), "", "a tenth of it is kept free")
    return Group(table, f"[dim]worst moment: {memory.moment}[/]")


def _bar(before: int, size: int, whole: int) -> Text:
    """A part in its place among all of them."""
    start = round(BAR * before / whole)
    end = max(start + 1, round(BAR * (before + size) / whole))
    return Text.assemble(("·" * start, "dim"), "█" * (end - start), ("·" * (BAR - end), "dim"))


def _verdict(plan: Plan) -> str:
    memory = plan.memory
    used = memory.total / memory.available
    if memory.fits:
        room = f"{used:.0%} of the memory, with micro-batches of up to {plan.largest:,} tokens"
        return f"[green]fits[/]: {room}"
    return f"[bold red]does not fit[/]: {used:.0%} of the memory that there is"


def _changes(plan: Plan) -> RenderableType:
    lines = ["it would with one of these, what costs least first:"]
    lines += ["  " + " ".join(_flag(change, plan) for change in each) for each in plan.fits_with]
    if any("train.method=lora" in each for each in plan.fits_with):
        lines.append("adapters take about ten times the learning rate of full fine-tuning")
    return Text("\n".join(lines))


def _flag(change: str, plan: Plan) -> str:
    """A change as it is given on the command line; GPUs that are not there cannot be."""
    key, _, value = change.partition("=")
    return f"{value} x {plan.device}" if key == "train.gpus" else f"--set {change}"


def _costs(plan: Plan) -> RenderableType:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if plan.seconds is not None and plan.utilisation is not None:
        table.add_row(
            "time",
            f"[bold]{duration(plan.seconds)}[/], assuming {plan.utilisation:.0%} of the makers' "
            f"16-bit peak; loading and saving not counted",
        )
    else:
        table.add_row("time", "not known: no peak is known for this device")
    extra = f", {plan.recomputed / plan.flops:.0%} more recomputed" if plan.recomputed else ""
    table.add_row("work", f"{plan.flops:.2e} FLOPs of the model{extra}")
    short = plan.disk_needed > plan.disk_free
    table.add_row(
        "disk",
        f"{'[red]' if short else ''}{_gib(plan.disk_needed)} for checkpoints of "
        f"{_gib(plan.checkpoint)} and the final model; {_gib(plan.disk_free)} free"
        + (" here[/]" if short else " here"),
    )
    table.add_row("saving", _saving(plan.memory))
    return table


def _saving(memory: MemoryPlan) -> str:
    text = f"takes {_gib(memory.save_peak)} of RAM in the first process"
    if memory.host is not None and memory.save_peak > memory.host:
        return f"[red]{text}; this machine has {_gib(memory.host)}[/]"
    return text


def _gib(size: float) -> str:
    """Bytes in GiB, or in MiB when they are few."""
    if size < 2**30:
        return f"{size / 2**20:,.0f} MiB"
    return f"{size / 2**30:,.1f} GiB"
