"""The page in a browser: it draws, it answers a pointer and the keyboard, it asks nobody, and names cannot break it."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl
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
        edgerl.fit(folder / "a-ds-td3-seed0", "stm32f405", max_loss=0.5, episodes=2)
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
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.resolve().as_uri())
        self.page.wait_for_selector("#curves-0 .scatterlayer .trace")

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
    # Light and dark, by the system and by the button.
    brightness = [opened.pixels("footer").mean()]
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    brightness.append(opened.pixels("footer").mean())
    assert (brightness[0] > 200) == (scheme == "light")
    assert brightness[1] < 60
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    page.emulate_media(media="print")
    page.wait_for_timeout(300)
    for part in ("footer", "#learning", "#devices", "h1"):
        assert opened.pixels(part).mean() > 200, "paper is white"
    assert opened.pixels("h1").min() < 60, "and ink dark"
    page.close()
    assert opened.said == []
    assert {url.partition(":")[0] for url in opened.asked if not url.startswith(page_file.resolve().as_uri())} <= {
        "data",
        "blob",
    }


@pytest.mark.needs("chromium")
def test_a_watched_page_loads_itself_anew_and_another_does_not(browser: Any, runs: Path, page_file: Path) -> None:
    watched = edgerl.write_report([runs / "b-td3-seed0"], runs.parent / "watched.html", reload_seconds=0.5).path
    for file, expected in ((watched, True), (page_file, False)):
        opened = Opened(browser, file, 800)
        opened.page.evaluate("window.isFirst = true")
        opened.page.wait_for_timeout(1500)
        opened.page.wait_for_selector("#curves-0 .scatterlayer .trace")
        assert opened.page.evaluate("window.isFirst === undefined") == expected
        opened.page.close()
        assert opened.said == []


def test_what_is_embedded_cannot_leave_its_element() -> None:
    """And is JSON all the same: six digits, and null for what is no number."""
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
    began = time.monotonic()
    result = edgerl.write_report([folder], tmp_path / "long.html")
    assert time.monotonic() - began < 10
    assert result.bytes < 8_000_000
