"""The figures for papers: every one in both formats, the same bytes each time, and legible."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from alpaca_cli.core.stats_report import Pair, Verb
from alpaca_cli.data.figures import write_figures
from tests import processes
from tests.data.reports import attacked, empty_report, make_report

pytest.importorskip("matplotlib")
NAMES = ["funnel", "lengths", "openings", "task_types", "languages", "similarity"]
ROOT = Path(__file__).parents[2]


def texts(path: Path) -> list[str]:
    """What an SVG says: it keeps its letters."""
    root = ElementTree.parse(path).getroot()
    return [text for element in root.iter() if (text := (element.text or "").strip())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "new"
    assert write_figures(make_report(), folder) == [
        folder / f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    ]
    return folder


def test_pictures_are_large_enough_to_print(folder: Path) -> None:
    from PIL import Image

    for name in NAMES:
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width >= 1200
            assert picture.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            colours = picture.convert("RGB").getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_vector_figures_say_what_the_report_says(folder: Path) -> None:
    report = make_report()
    said = {name: texts(folder / f"{name}.svg") for name in NAMES}
    assert {verb.verb for verb in report.openings.verbs} <= set(said["openings"])
    assert "max_length 256" in said["lengths"]
    assert "threshold 0.7" in said["similarity"]
    assert "Nearest seed task" in said["similarity"]
    assert set(report.task_types) - {"role play"} <= set(said["task_types"])
    assert report.provenance is not None
    assert report.provenance.funnel is not None
    assert any(text.startswith("−120 · ") for text in said["funnel"])
    assert "rejected: similar" in said["funnel"]


def test_the_same_report_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from alpaca_cli.data.figures import write_figures\n"
        "from tests.data.reports import make_report\n"
        "write_figures(make_report(), Path(sys.argv[1]))\n"
    )
    environment = processes.environment(PYTHONHASHSEED="7")
    subprocess.run([sys.executable, "-c", program, tmp_path], cwd=ROOT, env=environment, check=True)
    for file in folder.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name


def test_texts_of_the_data_are_drawn_as_they_are(tmp_path: Path) -> None:
    """No mathematics between dollar signs, no markup, nothing that ends an SVG."""
    write_figures(attacked(make_report()), tmp_path)
    shown = texts(tmp_path / "openings.svg") + texts(tmp_path / "task_types.svg")
    assert any(text.startswith("<img src=x") for text in shown)
    assert any("$" in text for text in shown)


def test_letters_that_no_font_has_are_numbers_in_a_picture(tmp_path: Path) -> None:
    """Warnings are errors here: matplotlib would warn of every letter drawn as a box."""
    report = make_report()
    # Of a script that is in no list of fonts, so that this holds on every machine.
    verbs = [Verb("\U0001b170\U0001b171", 9, [Pair("𛅲", 3)], []), Verb("go", 5, [], [])]
    write_figures(replace(report, openings=replace(report.openings, verbs=verbs)), tmp_path)
    assert "\U0001b170\U0001b171" in texts(tmp_path / "openings.svg")
    assert (tmp_path / "openings.png").stat().st_size > 10_000


def test_a_set_without_examples_has_no_figures(tmp_path: Path) -> None:
    assert write_figures(empty_report(), tmp_path) == []


def test_without_matplotlib_the_error_names_the_extra(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from alpaca_cli.core.errors import UsageError\n"
        "from alpaca_cli.data.figures import write_figures\n"
        "from tests.data.reports import make_report\n"
        "try:\n    write_figures(make_report(), Path(sys.argv[1]))\n"
        "except UsageError as error:\n    print(error, error.hint)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path],
        cwd=ROOT, env=processes.environment(), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "matplotlib" in done.stdout
    assert "[report]" in done.stdout
    assert list(tmp_path.iterdir()) == []
