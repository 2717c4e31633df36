"""A hook of mkdocs: what the site shows beside the pages of docs/, links that work in site and repository, and tabs.

Pages link to files as they lie in the repository, which is what a viewer of the repository needs. In the site such a
link leads to the page that shows the file: a document from elsewhere has one in the navigation, source code that is
linked to gets one with its text. Files of other kinds are copied.

A command in a `bash` block and, directly below it, the same in a `python` block become two tabs, each with the `text`
that it prints. A viewer of the repository shows one block after the other.
"""

from __future__ import annotations

import posixpath
import re
import textwrap
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ELSEWHERE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "device_profiles/README.md": "device_profiles.md",
}
"""Path in the repository → path in the site, of documents that don't lie in docs/."""

LINK = re.compile(r"(\]\()([^()\s#:]+)((?:#[^()\s]*)?\))")
FENCE = r"```{}\n(?:(?!```).*\n)*```\n"
OUTPUT = rf"(?:\n{FENCE.format('text')})?"
TABS = re.compile(
    rf"^(?P<shell>{FENCE.format('bash')}{OUTPUT})\n(?P<python>{FENCE.format('python')}{OUTPUT})", re.MULTILINE
)
"""A command and what it prints, and directly below it the same in Python."""

LANGUAGES = {".py": "python", ".h": "c", ".c": "c", ".toml": "toml"}


def in_site(path: str, root: Path) -> str:
    """Where the site shows a file of the repository; both paths are relative, to docs/ and to `root`."""
    if path in ELSEWHERE:
        return ELSEWHERE[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"source/{path}.md" if _is_source(root / path) else f"source/{path}"


def linked(markdown: str, place: str, root: Path) -> set[str]:
    """The files of the repository that a document at `place` (relative to `root`) links to."""
    return {path for _, target, _ in LINK.findall(markdown) if (root / (path := _resolve(place, target))).is_file()}


def with_links_of_the_site(markdown: str, place: str, root: Path) -> str:
    """The document with its links to files of the repository replaced. What leads nowhere stays: mkdocs complains."""
    here = posixpath.dirname(in_site(place, root))

    def replaced(link: re.Match[str]) -> str:
        path = _resolve(place, link[2])
        if not (root / path).is_file():
            return link[0]
        return link[1] + posixpath.relpath(in_site(path, root), here or ".") + link[3]

    return LINK.sub(replaced, markdown)


def with_tabs(markdown: str) -> str:
    """The document with its commands in tabs, as pymdownx.tabbed has them."""
    return TABS.sub(lambda found: _tab("Shell", found["shell"]) + _tab("Python", found["python"]), markdown)


def _tab(title: str, text: str) -> str:
    return f'=== "{title}"\n\n{textwrap.indent(text, "    ")}\n'


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents from elsewhere, and the files that any page links to."""
    root = _root(config)
    documents = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    documents |= {path: (root / path).read_text(encoding="utf-8") for path in ELSEWHERE}
    for path, page in ELSEWHERE.items():
        files.append(File.generated(config, page, content=documents[path]))
    sources = set().union(*(linked(text, place, root) for place, text in documents.items()))
    for path in sorted(sources - documents.keys()):
        if not path.startswith("docs/"):
            files.append(_source(path, root, config))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Called for every page, after its front matter was taken off."""
    places = {shown: path for path, shown in ELSEWHERE.items()}
    place = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return with_tabs(with_links_of_the_site(markdown, place, _root(config)))


def _root(config: MkDocsConfig) -> Path:
    assert config.config_file_path is not None
    return Path(config.config_file_path).parent


def _resolve(place: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(place), target))


def _is_source(path: Path) -> bool:
    return path.suffix in LANGUAGES


def _source(path: str, root: Path, config: MkDocsConfig) -> File:
    """A page with the text of a file, which the search leaves out; or the file itself."""
    uri = in_site(path, root)
    if not _is_source(root / path):
        return File.generated(config, uri, abs_src_path=str(root / path), inclusion=InclusionLevel.NOT_IN_NAV)
    text = (root / path).read_text(encoding="utf-8")
    language = LANGUAGES[Path(path).suffix]
    content = f"---\nsearch:\n  exclude: true\n---\n# {path}\n\n````{language}\n{text.rstrip()}\n````\n"
    return File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV)
