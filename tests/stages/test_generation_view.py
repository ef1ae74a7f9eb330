"""What a person sees while tasks are generated: a panel on a terminal, lines in a log."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from alpaca_cli.core.errors import BudgetStop
from alpaca_cli.core.progress import Progress
from alpaca_cli.core.runfolder import RunFolder
from alpaca_cli.core.settings import Recipe
from alpaca_cli.stages.generate import run as generate
from tests.servers import TeacherServer


def recipe(server: TeacherServer, **settings: Any) -> Recipe:
    teacher = {
        "kind": "openai",
        "model": "m",
        "base_url": server.url,
        "price": {"input": 1.0, "output": 2.0},
    }
    section = {"target": 60, "tasks_per_request": 5, "concurrency": 8, "teacher": teacher}
    return Recipe.model_validate({"generate": section | settings})


def seen(folder: Path, what: Recipe, *, terminal: bool, width: int = 100) -> str:
    """All that is written to stderr, control sequences taken out."""
    file = StringIO()
    console = Console(file=file, force_terminal=terminal, width=width, color_system=None)
    generate(what, RunFolder(folder), Progress(console))
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


def test_a_terminal_shows_a_panel(tmp_path: Path) -> None:
    with TeacherServer(latency=0.2, slots=3, retry_after=0.05, mistakes=0.1) as server:
        text = seen(tmp_path, recipe(server, max_cost=1), terminal=True)
    frames = text.split("╭─ generate")[1:]
    assert len(frames) > 2
    last = frames[-1]
    assert "60 of 60 kept" in last
    assert re.search(r"kept per request\s+\d\.\d", last)
    assert re.search(r"cost\s+\$0\.\d{4}, at most \$1", last)
    assert re.search(r"near duplicate\s+\d", last)
    assert any(re.search(r"in flight\s+[1-8] of [1-8]", frame) for frame in frames)
    assert any("times too busy" in frame for frame in frames)
    assert any(re.search(r"tokens per second\s+\d", frame) for frame in frames)


def test_a_narrow_terminal_is_not_overrun(tmp_path: Path) -> None:
    with TeacherServer(mistakes=0.1) as server:
        text = seen(tmp_path, recipe(server), terminal=True, width=50)
    boxed = [line for line in text.splitlines() if line.startswith(("╭", "│", "╰"))]
    assert boxed
    assert max(map(len, boxed)) <= 50


def test_a_log_gets_lines(tmp_path: Path) -> None:
    with TeacherServer() as server:
        text = seen(tmp_path, recipe(server), terminal=False)
    assert "╭" not in text
    assert re.search(r"^generate: 60/60 · 0s · \d+ requests · \d+ rejected · ", text, re.M)


def test_the_end_is_told_when_a_budget_ends_it(tmp_path: Path) -> None:
    file = StringIO()
    progress = Progress(Console(file=file))
    with TeacherServer() as server:
        limited = recipe(server, max_requests=4)
        with pytest.raises(BudgetStop):
            generate(limited, RunFolder(tmp_path), progress)
    assert re.search(r"kept \d+ of 60 so far, from 4 requests", file.getvalue())
