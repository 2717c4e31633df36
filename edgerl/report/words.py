"""Pieces of HTML, and numbers as people read them. Arguments that are HTML must be escaped already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

SPACED_BELOW = 1e12
"""Numbers are written out up to here."""


def count(number: int, what: str) -> str:
    """1 run, 2 runs."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def choice(of: str, names: Sequence[tuple[str, str]], *, extra: str = "") -> str:
    """Buttons of which one is pressed: (value, text) each."""
    buttons = "".join(
        f'<button type="button" data-value="{value}" aria-pressed="{"true" if not at else "false"}">{text}</button>'
        for at, (value, text) in enumerate(names)
    )
    return f'<div class="choice {extra}" data-of="{of}" role="group" aria-label="Shown in the charts">{buttons}</div>'


def chart(element: str, label: str, *, title: str = "") -> str:
    """The placeholder of a chart that page.js draws."""
    heading = f"<h3>{title}</h3>" if title else ""
    return (
        f'<figure>{heading}<div class="chart" id="{element}" tabindex="0" role="img" '
        f'aria-label="{escape(label)}; the arrow keys walk along the points"></div></figure>'
    )


def note(text: str) -> str:
    """A remark; nothing for an empty text."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def pair(left: str, right: str) -> str:
    """Two figures side by side; on a narrow screen one below the other."""
    return f'<div class="pair">{left}{right}</div>'


def folded(summary: str, html: str) -> str:
    """What opens on demand; summary: text."""
    return f"<details><summary>{escape(summary)}</summary>{html}</details>"


def section(name: str, title: str, about: str, *html: str, is_always_there: bool = False) -> str:
    """A panel with a heading and a sentence, both text. A single run's is found by its name while the run is shown."""
    place = f'id="{name}"' if is_always_there else f'data-section="{name}"'
    sentence = f'<p class="about">{escape(about)}</p>' if about else ""
    return f'<section class="panel" {place}><h2>{escape(title)}</h2>{sentence}{"".join(html)}</section>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: Sequence[int] = ()) -> str:
    """Cells are HTML already."""
    head = "".join(
        f'<th scope="col"{" class=text" if at in text_columns else ""}>{name}</th>' for at, name in enumerate(columns)
    )
    marks = [' class="text"' if at in text_columns else "" for at in range(len(columns))]
    body = "".join(
        f"<tr>{''.join(f'<td{mark}>{cell}</td>' for mark, cell in zip(marks, row, strict=True))}</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def spaced(number: float) -> str:
    """Whole numbers from 10 on in groups of three, others with three digits, from 10¹² on with an exponent."""
    if abs(number) >= SPACED_BELOW:
        return f"{number:.2e}".replace("e+", "e").replace("-", "\u2212")
    text = f"{number:,.0f}" if abs(number) >= 10 or float(number).is_integer() else f"{number:.3g}"
    return text.replace(",", "\u202f").replace("-", "\u2212")
