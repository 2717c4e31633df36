"""The page in a browser: it draws, it answers a pointer and the keyboard, it asks nobody, and names cannot break it."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.report import details
from edgerl.report.build import write_page
from edgerl.report.page import embed
from tests.needs import find

SMALL: dict[str, Any] = {
    "hidden": (16, 16),
    "batch_size": 8,
    "steps": 300,
    "start_steps": 50,
    "evaluation_interval": 50,
    "evaluation_episodes": 2,
    "evolution_interval": 20,
    "replay_capacity": 500,
}
HOSTILE = "<!--<script><img src=x onerror=document.title=666>[[data]]"
CHEETAH = "HalfCheetah-v5"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of five runs: two tasks, two methods, two seeds, one of them fitted to a device, one with a bad name."""
    folder = tmp_path_factory.mktemp("report") / "study"
    folder.mkdir()
    sys.path.insert(0, str(Path(__file__).parents[1]))
    try:
        for seed in (0, 1):
            options = SMALL | {"evaluation_episodes": 1, "seed": seed}
            edgerl.train("robots:robot", out=folder / f"a-ds-td3-seed{seed}", sparsity=0.5, **options)
        edgerl.train("robots:robot", out=folder / "b-td3-seed0", method="td3", **SMALL)
        cheetah = SMALL | {"evaluation_interval": 100, "evaluation_episodes": 1, "steps": 200}
        edgerl.train(CHEETAH, out=folder / HOSTILE, sparsity=0.5, **cheetah)
        edgerl.fit(folder / "a-ds-td3-seed0", "stm32f405", env="robots:robot", max_loss=0.5, episodes=2)
    finally:
        sys.path.remove(str(Path(__file__).parents[1]))
    return folder


@pytest.fixture(scope="module")
def page_file(runs: Path) -> Path:
    return edgerl.write_report([runs], runs.parent / "report.html").path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
        opened = playwright.chromium.launch(executable_path=find("chromium"), args=arguments)
        yield opened
        opened.close()


class Opened:
    """A page with everything it said and asked for."""

    def __init__(self, browser: Any, file: Path, width: int, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(300_000)
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.resolve().as_uri())
        self.page.wait_for_selector("#curves-0 .scatterlayer .trace", state="attached")  # a point of a band is unseen

    def pixels(self, selector: str) -> Any:
        """What is seen of an element, [height, width, 3]."""
        from PIL import Image

        shot = self.page.locator(selector).screenshot(animations="disabled")
        return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))

    def traces(self, element: str) -> int:
        return int(self.page.evaluate(f"document.getElementById('{element}').data.length"))


def colours(pixels: Any) -> int:
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


@pytest.mark.needs("chromium")
@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_the_page_in_a_browser(browser: Any, page_file: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, page_file, width, scheme)
    page = opened.page
    # Three traces per curve: both ends of the band, and the mean. HalfCheetah's curve comes first.
    assert [opened.traces(f"curves-{at}") for at in (0, 1)] == [3, 6]
    assert page.title() == "study", "no name in the page was run as code"
    assert page.locator("img").count() == 0
    shown = page.locator("#picker option").all_text_contents()
    assert shown == [HOSTILE, "a-ds-td3-seed0", "a-ds-td3-seed1", "b-td3-seed0"]
    page.select_option("#picker", "1")
    charts = {"connections-1": 3, "ever-1": 3, "sensors-1": 2, "sensors-over-time-1": 1, "fit-latency-1-0": 5}
    charts |= {"fit-bytes-1-0": 5, "devices-1": 4 if width > 720 else 1}
    for element, traces in charts.items():
        assert opened.traces(element) == traces, element
        assert colours(opened.pixels(f"#{element}")) > 20, element
    assert page.evaluate("document.getElementById('devices-1').data[0].x.length") == 31
    assert page.evaluate("document.getElementById('sensors-over-time-1').data[0].z.length") == 4
    for part in ("before", "after"):
        assert colours(opened.pixels(f"#detail-1 canvas[data-part={part}] >> nth=0")) >= 3, "kept, changed, absent"
    # A pointer, and the keyboard.
    page.locator("#curves-0").hover()
    page.wait_for_selector("#curves-0 .hoverlayer .legend")
    assert "ds-td3" in page.locator("#curves-0 .hoverlayer").text_content()
    page.mouse.move(0, 0)
    page.locator("#sensors-1").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#sensors-1 .hoverlayer .hovertext")
    assert "observation " in page.locator("#sensors-1 .hoverlayer").text_content()
    page.locator("#curves-1").focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    description = page.locator("#curves-1 + .description[aria-live=polite]")
    assert description.text_content().startswith("Step 100, ds-td3: ")
    page.keyboard.press("ArrowLeft")
    assert description.text_content().endswith("], before learning")
    (shaded,) = page.evaluate("document.getElementById('curves-1').layout.shapes")
    assert (shaded["x0"], shaded["x1"], shaded["layer"]) == (0, SMALL["start_steps"], "below")
    page.locator("#sensors-over-time-1").focus()
    for key in ("ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    assert page.locator("#sensors-over-time-1 + .description").text_content().startswith("Step ")
    page.locator("#theme").focus()
    assert description.text_content() == ""
    heat = page.evaluate("document.getElementById('sensors-over-time-1')._fullData[0]")
    assert (heat["zmin"], heat["showscale"]) == (0, True)
    # Light and dark, by the system and by the button.
    brightness = [opened.pixels("footer").mean()]
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    brightness.append(opened.pixels("footer").mean())
    assert (brightness[0] > 200) == (scheme == "light")
    assert brightness[1] < 60
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    folded = page.locator("details:visible")
    assert {page.evaluate("box => box.open", box) for box in folded.element_handles()} == {False}
    page.emulate_media(media="print")
    page.wait_for_timeout(300)
    assert {page.evaluate("box => box.open", box) for box in folded.element_handles()} == {True}
    swatch = "getComputedStyle(document.querySelector('.swatch')).printColorAdjust"
    assert page.evaluate(swatch) == "exact", "paper shows the colours of the curves"
    for part in ("footer", "#learning", "#devices", "h1"):
        assert opened.pixels(part).mean() > 200, "paper is white"
    assert opened.pixels("h1").min() < 60, "and ink dark"
    page.close()
    assert opened.said == []
    assert {url.partition(":")[0] for url in opened.asked if not url.startswith(page_file.resolve().as_uri())} <= {
        "data",
        "blob",
    }


def edited(file: Path, old: str, new: str) -> Path:
    """A copy of a page with something else in it, once at least."""
    text, count = re.subn(old, new, file.read_text())
    assert count
    copy = file.with_name("edited.html")
    copy.write_text(text)
    return copy


@pytest.mark.needs("chromium")
def test_a_chart_that_cannot_be_drawn_says_so_and_the_others_are_drawn(browser: Any, runs: Path) -> None:
    file = edgerl.write_report([runs / "b-td3-seed0"], runs.parent / "one.html", force=True).path
    opened = Opened(browser, edited(file, r'"sensors":\{"names":\[[^]]*\]', '"sensors":{"names":null'), 1440)
    shown = opened.page.locator(".note", has_text="This chart cannot be drawn: ")
    assert shown.count() == 2, "sensors now and over training"
    for element in ("connections-0", "devices-0"):
        assert colours(opened.pixels(f"#{element}")) > 20
    opened.page.close()
    assert opened.said == []


@pytest.mark.needs("chromium")
def test_counts_are_exact(browser: Any, runs: Path) -> None:
    file = edgerl.write_report([runs / "b-td3-seed0"], runs.parent / "one.html", force=True).path
    first = r'("kind":"connections","network":"actor","layer":0,"steps":\[[^]]*\],"values":)\[[^]]*\]'
    opened = Opened(browser, edited(file, first, r"\1[32768,32768,32768,32768,32768,32768]"), 1440)
    assert opened.page.evaluate("document.getElementById('connections-0').data[0].name") == "layer 1: 32\u202f768"
    opened.page.close()


@pytest.mark.needs("chromium")
@pytest.mark.parametrize("width", [390, 1440])
def test_long_names_and_large_numbers_break_no_page(browser: Any, runs: Path, tmp_path: Path, width: int) -> None:
    folder = shutil.copytree(runs / "a-ds-td3-seed0", tmp_path / ("x" * 200))
    record = json.loads((folder / "fit-stm32f405.json").read_text())
    record["device"] = "y" * 100
    for trial in record["measured"]:
        trial["architecture"], trial["returns"]["mean"], trial["returns"]["high"] = "z" * 100, 1e60, 1e61
    (folder / "fit-stm32f405.json").write_text(json.dumps(record))
    header, *rows = (folder / "metrics.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    for row in cells:
        row[header.split(",").index("return_mean")] = "1e90"
    (folder / "metrics.csv").write_text("\n".join([header, *map(",".join, cells)]) + "\n")
    opened = Opened(browser, edgerl.write_report([folder], tmp_path / "page.html", force=True).path, width)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.close()
    assert opened.said == []


@pytest.mark.needs("chromium")
def test_charts_of_a_fit_show_every_precision_in_binary_units(browser: Any, runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "a-ds-td3-seed0", tmp_path / "run")
    record = json.loads((folder / "fit-stm32f405.json").read_text())
    for at, trial in enumerate(record["measured"]):
        trial["precision"], trial["bytes"], trial["fits"] = ("int4" if at == 0 else "fp32"), 1024 << (at % 4), at > 0
    record["chosen"] = None
    (folder / "fit-stm32f405.json").write_text(json.dumps(record))
    page = edgerl.write_report([folder], tmp_path / "page.html", force=True).path
    opened = Opened(browser, page, 1440)
    chart = "document.getElementById('fit-bytes-0-0')"
    names = opened.page.evaluate(f"{chart}.data.map(trace => [trace.name ?? '', trace.x.length])")
    assert names[1:] == [["fp32", len(record["measured"]) - 1], ["int4", 1]]
    assert {"1 KiB", "2 KiB", "4 KiB"} <= set(opened.page.evaluate(f"{chart}.layout.xaxis.ticktext"))
    assert "</span>int4</li>" in page.read_text()
    shapes = opened.page.evaluate("document.getElementById('devices-0').data[3].marker.pattern.shape")
    data = json.loads(opened.page.locator("#data").text_content())
    fits = [device["verdicts"]["latency"]["fits"] for device in data["details"][0]["devices"]]
    assert [shape == "/" for shape in shapes] == [not each for each in fits]
    opened.page.close()


@pytest.mark.needs("chromium")
def test_a_single_evaluation_and_a_run_without_metrics(browser: Any, runs: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(runs / "a-ds-td3-seed0", tmp_path / "run")
    (folder / "metrics.csv").write_text("".join((folder / "metrics.csv").read_text().splitlines(keepends=True)[:2]))
    opened = Opened(browser, edgerl.write_report([folder], tmp_path / "page.html", force=True).path, 800)
    first, last = opened.page.evaluate("document.getElementById('curves-0')._fullLayout.xaxis.range")
    assert first <= 0 < 50 < last
    opened.page.close()
    (folder / "metrics.csv").unlink()
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert "How many connections each layer had is not known: the run holds no metrics.csv" in text
    assert 'id="connections-0"' not in text
    assert 'id="ever-0"' in text


def test_a_fit_of_thousands_of_trials_and_a_run_of_thousands_of_sessions_make_no_large_page(
    runs: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(runs / "a-ds-td3-seed0", tmp_path / "run")
    size = edgerl.write_report([folder], tmp_path / "page.html", force=True).bytes
    record = json.loads((folder / "fit-stm32f405.json").read_text())
    trial = record["measured"][0]
    best = trial | {"architecture": "the best one", "returns": dict.fromkeys(("mean", "low", "high"), 1e6)}
    record["measured"] = [trial | {"bytes": trial["bytes"] + at} for at in range(3000)]
    record["measured"].insert(1234, best)
    (folder / "fit-stm32f405.json").write_text(json.dumps(record))
    session = {"from_step": 0, "versions": {f"part{at}": "1" for at in range(60)}}
    (folder / "versions.json").write_text(json.dumps({"sessions": [session] * 5000}))
    result = edgerl.write_report([folder], tmp_path / "page.html", force=True)
    assert result.bytes < size + 700_000
    text = result.path.read_text()
    shown = re.search("(\\d+) of the 3\u202f001 measured are shown", text)
    assert shown is not None
    assert details.MOST_TRIALS - 10 < int(shown[1]) <= details.MOST_TRIALS
    assert "the best one" in text
    assert "20 of 5\u202f000 sessions are shown" in text
    assert text.count("And 10 more.") == 20


@pytest.mark.needs("chromium")
def test_a_watched_page_loads_itself_anew_and_another_does_not(browser: Any, runs: Path, page_file: Path) -> None:
    watched = write_page([runs / "b-td3-seed0"], runs.parent / "watched.html", reload_seconds=0.5).path
    opened = Opened(browser, watched, 800)
    with opened.page.expect_navigation():  # by itself
        pass
    opened.page.wait_for_selector("#curves-0 .scatterlayer .trace")
    opened.page.close()
    assert opened.said == []
    opened = Opened(browser, page_file, 800)
    opened.page.evaluate("window.isFirst = true")
    opened.page.wait_for_timeout(1500)
    assert opened.page.evaluate("window.isFirst")
    opened.page.close()
    assert opened.said == []


def test_what_is_embedded_cannot_leave_its_element() -> None:
    """And is JSON all the same: six digits, and null for what is not a number."""
    text = embed({"</script>": ["<!--<script>", "&", 1 / 3, float("nan"), np.float64(2.0), np.arange(2)]})
    assert not set("<>&").intersection(text)
    assert text.count("\\u003c/script\\u003e") == 1
    assert json.loads(text) == {"</script>": ["<!--<script>", "&", 0.333333, None, 2, [0, 1]]}


def test_a_page_names_no_place_to_load_from(page_file: Path) -> None:
    text = page_file.read_text()
    own = text.replace(_library(), "")
    assert "default-src 'none'" in own
    for sign in ("http:", "https:", "//cdn", "@import", "url("):
        assert sign not in own, sign


def _library() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def test_a_long_run_makes_a_page_in_seconds_and_a_few_megabytes(runs: Path, tmp_path: Path) -> None:
    """A million steps with an evaluation every fifty: a hundred times as many rows as the paper's."""
    shutil.copytree(runs / "a-ds-td3-seed0", folder := tmp_path / "long")
    for name in ("metrics.csv", "topology.csv"):
        header, *rows = list(csv.reader((folder / name).read_text().splitlines()))
        steps = range(50, 1_000_001, 50) if name == "metrics.csv" else range(0, 1_000_001, 5000)
        lines = [",".join([str(step), *rows[-1][1:]]) for step in steps]
        (folder / name).write_text("\n".join([",".join(header), *lines]) + "\n")
    began = time.process_time()
    result = edgerl.write_report([folder], tmp_path / "long.html")
    assert time.process_time() - began < 10
    assert result.bytes < 8_000_000
