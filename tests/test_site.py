"""The documents as a site: it builds without a warning, links lead somewhere, nothing is fetched from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
import yaml

import edgerl
import edgerl.edge
from tests.needs import find
from tests.pages import TABS, script

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
Run = Callable[..., tuple[int, str, str]]
ELEMENTS = set(
    re.findall(
        r"\w+",
        """html head meta title link style script body header nav main footer article aside section div span form
        a p h1 h2 h3 h4 h5 h6 ul ol li dl dt dd table thead tbody tr th td pre code em strong small del sup hr br img
        button details summary input label svg path""",
    )
)
"""What the theme and Markdown make."""


def build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`make docs`, into another folder."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]  # --quiet would hide warnings from --strict
    command += ["--config-file", str(source / "mkdocs.yml"), "--site-dir", str(site)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert all(line.startswith("INFO ") for line in done.stderr.splitlines()), done.stderr
    return folder


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at; and the text of its paragraphs."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors = {""}
        self.paragraphs: list[str] = []
        self.elements: set[str] = set()
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors.add(values.get("id", ""))
        self.elements.add(tag)
        if tag == "a":
            self.links.append(values.get("href", ""))
        elif tag == "link":
            self.loads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])
        if tag == "p":
            self.paragraphs.append("")
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "p" in self._open and "code" not in self._open:
            self.paragraphs[-1] += data


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def local(pages: dict[Path, Page], kind: str) -> Iterator[tuple[Path, Path, str]]:
    """(page, file, anchor) of every reference that stays in the site."""
    for path, page in pages.items():
        for reference in getattr(page, kind):
            target, anchor = urldefrag(reference)
            if "://" not in target and path.name != "404.html":
                file = (path.parent / unquote(target)).resolve() if target else path
                yield path, file / "index.html" if file.is_dir() else file, unquote(anchor)


def test_every_link_leads_to_a_page_and_its_anchor(pages: dict[Path, Page]) -> None:
    seen = 0
    for path, file, anchor in local(pages, "links"):
        assert file.exists(), f"{path.name} links to {file}"
        if file in pages and not anchor.startswith("__"):
            assert anchor in pages[file].anchors, f"{path.name} links to {file.name}#{anchor}"
        seen += 1
    assert seen > 1000


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        assert not [each for each in page.loads if "//" in each], path.name
    for path, file, _ in local(pages, "loads"):
        assert file.exists(), f"{path.name} loads {file}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text(encoding="utf-8")), style.name


def test_markdown_that_viewers_of_repositories_know_is_understood_here_too(pages: dict[Path, Page]) -> None:
    """No list, table or link has stayed text, and no <word> has become an element that HTML doesn't have."""
    left = re.compile(r"^\s*(?:[-*] |\d+\. |\||#+ |```)|\]\(|\*\*|:::", re.MULTILINE)
    for path, page in pages.items():
        assert not [text for text in page.paragraphs if left.search(text)], path.name
        assert page.elements <= ELEMENTS, f"{path.name}: {page.elements - ELEMENTS}"


def test_every_page_is_in_the_navigation_and_in_the_search(site: Path) -> None:
    index = (site / "search/search_index.json").read_text(encoding="utf-8")
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in (*DOCS.rglob("*.md"), "index", "device_profiles", "contributing", "changes"):
        name = page if isinstance(page, str) else str(page.relative_to(DOCS).with_suffix(""))
        assert f'href="{name}.html"' in home, name
        assert f'"location":"{name}.html"' in index, name
    assert '"location":"source/' not in index


@pytest.mark.needs("chromium")
def test_the_search_works_from_a_folder_and_asks_nobody(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox", "--disable-dev-shm-usage"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find("chromium"), args=arguments)
        for name in ("index.html", "tutorials/board.html"):
            page, said, asked = browser.new_page(), list[str](), list[str]()
            page.set_default_timeout(300_000)
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto((site / name).as_uri())
            page.focus("input[name=query]")
            page.locator(".md-search-result__meta", has_text="Type to start searching").wait_for(state="attached")
            page.locator("input[name=query]").press_sequentially("percentile bootstrap")
            found = page.locator(".md-search-result__link")
            found.first.wait_for(state="attached")
            assert any("studies.html" in link.get_attribute("href") for link in found.all())
            page.close()
            assert said == []
            assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
        browser.close()


def test_a_command_in_the_shell_and_in_python_is_in_tabs(site: Path) -> None:
    for page in DOCS.rglob("*.md"):
        shown = (site / page.relative_to(DOCS).with_suffix(".html")).read_text(encoding="utf-8")
        labels = re.findall(r"<label for=[^>]+>(Shell|Python)</label>", shown)
        assert labels == ["Shell", "Python"] * len(TABS.findall(page.read_text(encoding="utf-8"))), page.name


def test_files_that_documents_link_to_are_shown(site: Path) -> None:
    shown = (site / "source/edgerl/algorithms/topology.py.html").read_text(encoding="utf-8")
    assert "<title>edgerl/algorithms/topology.py - edgerl</title>" in shown
    golden = "tests/policy/golden/policy.safetensors"
    assert (site / "source" / golden).read_bytes() == (ROOT / golden).read_bytes()


def test_a_broken_link_breaks_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("edgerl", "export", "device_profiles", "README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in DOCS.iterdir():
        (tmp_path / "docs" / path.name).symlink_to(path)
    (tmp_path / "mkdocs.yml").write_text((ROOT / "mkdocs.yml").read_text())
    (tmp_path / "docs/quickstart.md").unlink()
    targets = "nowhere.md", "../edgerl/nowhere.py", "algorithm.md#nowhere"
    (tmp_path / "docs/quickstart.md").write_text("\n".join(f"[x]({target})" for target in targets))
    (tmp_path / "docs/forgotten.md").write_text("# In no navigation\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    for target in targets:
        assert f"Doc file 'quickstart.md' contains a link '{target}', but" in done.stderr
    assert 'not included in the "nav" configuration:\n  - forgotten.md\n' in done.stderr


# ------------------------------------------------------------------------------------------------- references


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    written = (DOCS / "cli.md").read_text(encoding="utf-8")
    assert written == script("command_line").reference(), "docs/cli.md is out of date; run: make docs"


def test_the_reference_has_what_help_says(edgerl: Run) -> None:
    """Every option of every command, from the text that `--help` prints."""
    page = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## edgerl ([a-z ]+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    assert len(sections) > 10
    for command, section in sections.items():
        _, out, _ = edgerl(*command.split(), "--help")
        _, _, options = out.partition("\nOptions:\n")
        named = re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", options, flags=re.MULTILINE)
        listed = re.findall(r"^\| `(?:-\w, )?(--[a-z0-9-]+)", section, flags=re.MULTILINE)
        assert sorted([*listed, "--help"]) == sorted(named), command
        assert f"edgerl {command}" in section


def test_the_reference_of_python_has_the_public_names_and_what_they_return() -> None:
    named = set(re.findall(r"^::: (\S+)$", (DOCS / "api.md").read_text(encoding="utf-8"), flags=re.MULTILINE))
    public = {getattr(edgerl, name) for name in edgerl.__all__ if name != "__version__"}
    public |= {getattr(edgerl.edge, name) for name in edgerl.edge.__all__}
    named = {name if name.startswith("edgerl.") else f"edgerl.{name}" for name in named}  # the folder export/
    assert {f"{each.__module__}.{each.__qualname__}" for each in public} <= named
    returned = " ".join(each.__annotations__["return"] for each in public if not isinstance(each, type))
    classes = set(re.findall(r"\b[A-Z]\w+", returned))
    assert classes - {"Any", "Description", "Iterator"} <= {name.rpartition(".")[2] for name in named}


def test_the_navigation_names_each_page_once() -> None:
    loader = type("Loader", (yaml.SafeLoader,), {})
    loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    text = str(yaml.load((ROOT / "mkdocs.yml").read_text(), loader)["nav"])
    named = re.findall(r"'([\w/]+\.md)'", text)
    assert len(named) == len(set(named))
