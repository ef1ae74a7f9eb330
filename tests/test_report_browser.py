"""The report page in a real browser, opened from disk as a reader would."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_cli.core.stats_report import Report
from alpaca_cli.data.report_html import render
from alpaca_cli.data.report_shapes import LABEL, slices
from alpaca_cli.data.report_tags import clean
from tests.browser import open_browser, requested, said, show
from tests.data.reports import ATTACKS, attacked, make_report, read_rows

pytest.importorskip("plotly")
pytest.importorskip("selenium")
pytestmark = pytest.mark.xdist_group("browser")
WIDE, NARROW = 1280, 390  # a laptop and a telephone
SLICES = """
return [...document.querySelectorAll(".sunburstlayer g.slice")].map(
  (slice) => slice.querySelector("text").dataset.unformatted ?? "")
"""


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    with open_browser() as found:
        yield found


@pytest.fixture(scope="module")
def plain_driver() -> Iterator[Any]:
    with open_browser(script=False) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest) -> Report:
    """Of real examples where there are some."""
    data = Path(__file__).parents[2] / "shared" / "data" / "alpaca_en_demo.json"
    return make_report(read_rows(data) if data.is_file() else None)


@pytest.fixture(scope="module")
def page(folder: Path, report: Report) -> Path:
    file = folder / "report.html"
    file.write_text(render(report), "utf-8")
    return file


@pytest.fixture(scope="module")
def hostile(folder: Path, report: Report) -> Path:
    file = folder / "hostile.html"
    file.write_text(render(attacked(report)), "utf-8")
    return file


def wait(driver: Any, condition: str, seconds: float = 30) -> Any:
    """The value of a JavaScript expression as soon as it is true."""
    end = time.monotonic() + seconds
    while not (found := driver.execute_script(f"return {condition}")):
        assert time.monotonic() < end, f"never: {condition}"
    return found


def open_drawn(driver: Any, page: Path, width: int = WIDE, scheme: str = "light") -> None:
    said(driver)
    requested(driver)
    show(driver, page, width, scheme)
    wait(driver, "document.documentElement.dataset.drawn")


def picture(driver: Any) -> dict[Any, int]:
    """Colour -> pixels of what is to be seen now."""
    from PIL import Image

    shot = base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", {})["data"])
    found = Image.open(io.BytesIO(shot)).convert("RGB").getcolors(1 << 24)
    assert found is not None
    return dict(zip((colour for _, colour in found), (count for count, _ in found), strict=True))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_the_page_is_drawn_at_every_width_and_in_both_schemes(
    driver: Any, page: Path, width: int
) -> None:
    open_drawn(driver, page, width)
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    # On a telephone the funnel stays the table that it is.
    figures = driver.execute_script("return document.querySelectorAll('figure').length")
    live = driver.execute_script("return document.querySelectorAll('figure.live').length")
    assert live == figures - (width == NARROW) >= 10
    label = "getComputedStyle(document.querySelector('.sunburstlayer .slice text')).fill"
    shades = []
    for scheme in ("light", "dark"):  # followed while the page is open
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        wait(driver, f"document.documentElement.dataset.drawn === '{scheme}'")
        driver.execute_script("document.getElementById('openings').scrollIntoView()")
        colours = picture(driver)
        assert len(colours) > 100, "as good as blank"
        most = max(colours, key=lambda colour: colours[colour])
        shades.append((sum(most) / 3, driver.execute_script(f"return {label}")))
    assert shades[0][0] > 220
    assert shades[1][0] < 60
    assert shades[0][1] != shades[1][1]
    # Every fold open: still nothing is wider than the page.
    driver.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    assert said(driver) == []
    assert requested(driver) == [page.as_uri()]


def test_the_sunburst_has_the_verbs_and_opens_one_at_a_click(
    driver: Any, page: Path, report: Report
) -> None:
    open_drawn(driver, page)
    expected = slices(report.openings.verbs)
    shown = driver.execute_script(SLICES)
    assert len(shown) == len(expected) + 1  # and the whole
    verbs = [verb.verb for verb in report.openings.verbs]
    assert [name for name in shown if name in verbs][: len(verbs)] == verbs
    first = expected[0]
    click_on(driver, "document.querySelectorAll('.sunburstlayer .slice text')[1]")
    wait(driver, f"({SLICES.replace('return', '')}).length < {len(expected)}")
    drilled = driver.execute_script(SLICES)
    inside = [one.name for one in expected if one.parent == first.id and not one.rest]
    assert drilled[0] == first.name
    assert [name for name in drilled[1:] if name != "…"] == inside
    # The middle leads back.
    click_on(driver, "document.querySelectorAll('.sunburstlayer .slice text')[0]")
    wait(driver, f"({SLICES.replace('return', '')}).length === {len(expected) + 1}")
    # A bar opens the examples behind it.
    fold = "document.getElementById('type-1')"
    assert driver.execute_script(f"return !{fold}.open")
    click_on(driver, "document.querySelectorAll('#task-types .point path')[1]")
    wait(driver, f"{fold}.open && {fold}.parentElement.closest('details').open")
    assert said(driver) == []


def click_on(driver: Any, element: str) -> None:
    """A click of the mouse in the middle of an element."""
    driver.execute_script(f"{element}.scrollIntoView({{block: 'center'}})")
    box = driver.execute_script(f"return {element}.getBoundingClientRect().toJSON()")
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    at = {"x": x, "y": y, "button": "left", "clickCount": 1}
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})


def test_texts_of_the_data_do_nothing(driver: Any, hostile: Path) -> None:
    open_drawn(driver, hostile, NARROW)  # an alert would be an error here
    driver.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    # A policy that stopped something would say so: it had nothing to stop.
    assert said(driver) == []
    assert requested(driver) == [hostile.as_uri()]
    assert driver.execute_script("return document.documentElement.scrollWidth") == NARROW
    count = "return document.querySelectorAll(arguments[0]).length"
    for injected in ("img", "svg a", "main a", "[onerror]", "[onload]", "[onfocus]", "title b"):
        assert driver.execute_script(count, injected) == 0, injected
    scripts = driver.execute_script(
        "return [...document.scripts].filter((s) => s.type !== 'application/json').length"
    )
    assert scripts == 2  # report.js, and plotly that it unpacked
    shown = set(driver.execute_script(SLICES))
    # What plotly was given is what is written, letter by letter.
    escaped = {clean(attack, LABEL) for attack in ATTACKS}
    texts = "return [...document.querySelectorAll('.sunburstlayer text')].map((t) => t.textContent)"
    written = set(driver.execute_script(texts))
    assert len(shown) > 5
    assert len(escaped & written) > 5
    assert "<script>alert(1)</script>" in written


def test_nothing_but_the_two_scripts_may_run(driver: Any, page: Path) -> None:
    open_drawn(driver, page)
    driver.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
        "document.body.append(s); document.body.insertAdjacentHTML('beforeend',"
        "'<img src=x onerror=\"window.evil = 2\">');"
    )
    answer = driver.execute_async_script(
        "fetch('data:text/plain,x').then(() => arguments[0]('sent'), () => arguments[0]('no'))"
    )
    assert answer == "no"
    assert driver.execute_script("return window.evil") is None
    assert all("Content Security Policy" in line for line in said(driver))


@pytest.mark.parametrize("width", [WIDE, NARROW])
def test_without_scripts_everything_is_there(
    plain_driver: Any, page: Path, report: Report, width: int
) -> None:
    show(plain_driver, page, width)
    find = plain_driver.execute_script
    assert find("return document.documentElement.dataset.drawn ?? null") is None
    assert find("return document.documentElement.scrollWidth") == width
    assert find("return document.querySelectorAll('.plotly-figure').length") == 0
    text = find("return document.body.innerText")
    for verb in report.openings.verbs:
        assert verb.verb in text
    assert f"{report.examples:,}" in text
    # Every bar and slice has a size: an SVG that is not closed well draws only the first.
    drawn = find(
        "return [...document.querySelectorAll('.plot, .sunburst')].map((svg) =>"
        "[...svg.querySelectorAll('rect, path')].filter("
        "(part) => part.getBoundingClientRect().width > 0).length)"
    )
    assert len(drawn) == 8
    assert min(drawn) >= 2
    assert max(drawn) >= len(slices(report.openings.verbs))
    # Folds open without a script.
    fold = "document.querySelector('#lint details')"
    find(f"{fold}.querySelector('summary').click()")
    assert find(f"return {fold}.querySelector('table').getBoundingClientRect().height") > 20
    find("document.getElementById('openings').scrollIntoView()")
    assert len(picture(plain_driver)) > 100


def test_print_has_the_still_figures_on_white(driver: Any, page: Path) -> None:
    open_drawn(driver, page, WIDE, "dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    height = (
        "return Math.max(...[...document.querySelectorAll(arguments[0])].map(f => f.offsetHeight))"
    )
    assert driver.execute_script(height, ".plotly-figure") == 0
    assert driver.execute_script(height, ".drawn") > 100
    colours = picture(driver)
    assert max(colours, key=lambda colour: colours[colour]) == (255, 255, 255)
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    paper = driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": False})
    pages = base64.b64decode(paper["data"]).count(b"/Type /Page\n")
    assert 3 <= pages <= 15
